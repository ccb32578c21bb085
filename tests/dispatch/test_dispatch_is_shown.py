"""What the API shows of dispatch: channels, windows, notices; what doctor makes of it; and the digest at its time."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from watchbill.clock import ManualClock
from watchbill.cron import read_cron
from watchbill_collector.api.doctor import judge
from watchbill_collector.api.twins import RulesTwin, StatusTwin
from watchbill_collector.dispatch.given import labelled
from watchbill_collector.dispatch.matchers import read_match
from watchbill_collector.dispatch.metrics import DispatchMetrics
from watchbill_collector.dispatch.routing import Routing
from watchbill_collector.dispatch.windows import Window
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.notice import SendFailed
from watchbill_collector.scopes import NoBindings
from watchbill_collector.services.silencing import SilencingService

BERLIN = ZoneInfo("Europe/Berlin")
HOUR_MS = 3_600_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp() * 1000)


def service(one: Any) -> SilencingService:
    return SilencingService(
        one.silences,
        one.dispatcher,
        ChannelSet(one.channels),
        RulesTwin(),
        one.store,
        one.clock,
        lambda: one.routing.windows,
        NoBindings(),
    )


async def test_windows_are_shown_open_and_shut_with_their_times(desk: Any, a_route: Any) -> None:
    windows = (
        Window("patch", read_cron("0 3 * * sun"), BERLIN, 2 * HOUR_MS, read_match('role="db"')),
        Window("named", read_cron("0 4 1 jan *"), BERLIN, HOUR_MS),
    )
    one = desk(routing=Routing((a_route(),), windows))
    await one.open()
    one.clock = ManualClock(wall_ms=ms("2026-10-25T04:30"))  # The night in which clocks go back.
    patch, named = (await service(one).dispatch()).windows
    assert (patch.name, patch.matchers, patch.cron, patch.zone) == (
        "patch",
        '{role="db"}',
        "0 3 * * sun",
        "Europe/Berlin",
    )
    assert patch.duration_s == 7_200
    assert patch.until == datetime(2026, 10, 25, 4, 0, tzinfo=UTC)
    assert patch.opens == datetime(2026, 11, 1, 2, 0, tzinfo=UTC)
    assert (named.matchers, named.until, named.opens) == (None, None, None), "not within a week"
    one.clock.advance(HOUR_MS / 1000)
    assert (await service(one).dispatch()).windows[0].until is None


async def test_channels_and_notices_are_shown_as_they_are(desk: Any) -> None:
    one = desk()
    await one.open()
    one.alerts.fire(one.clock.wall_ms(), **labelled("A"))
    await one.turn()
    view = await service(one).dispatch()
    (channel,) = view.channels
    assert (channel.name, channel.ok, channel.held, channel.queued) == ("ops", True, False, 0)
    assert channel.last_delivered is not None
    assert [(row.kind, row.outcome, row.attempts) for row in view.notices] == [("firing", "delivered", 1)]
    one.channels["ops"].fail_next(SendFailed("535 who?", transient=True, unwelcome=True), 9)
    one.alerts.fire(one.clock.wall_ms(), **labelled("B"))
    await one.turn()
    one.clock.advance(30)
    view = await service(one).dispatch()
    (channel,) = view.channels
    assert (channel.ok, channel.held, channel.queued, channel.last_error) == (False, True, 1, "535 who?")
    assert channel.oldest_s == 30
    assert (view.notices[0].outcome, view.hushed, view.unwritten) == ("queued", 0, "")
    await one.silences.add('alertname="A"', 3_600, "work", "anna")
    await one.turn()
    assert (await service(one).dispatch()).hushed == 1


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, []),
        (
            {"channels_failing": {"ops": "535 who?"}},
            [("channel", "fail", "ops: 535 who?", "watchbill notify test ops")],
        ),
        (
            {"outbox_unwritten": "disk full"},
            [
                (
                    "outbox",
                    "fail",
                    "notices go out, and cannot be written down: disk full",
                    "df -h; journalctl -u watchbill-collector",
                )
            ],
        ),
    ],
)
async def test_doctor_names_what_keeps_notices_from_getting_out(more: Any, wanted: Any) -> None:
    status = replace(StatusTwin(ManualClock()).present, **more)
    found = [(one.check, one.state, one.what, one.fix) for one in judge(status)]
    assert [one for one in found if one[0] in ("channel", "outbox")] == wanted


async def test_every_outcome_of_a_channel_is_counted_from_zero_on(desk: Any) -> None:
    one = desk(channels=("ops", "mail"))
    await one.open()
    one.channels["ops"].fail_next(SendFailed("400 no", transient=False))

    def counted() -> dict[tuple[str, str], float]:
        families = DispatchMetrics(one.dispatcher, None, one.clock).collect()
        (notices,) = [each for each in families if each.name == "watchbill_collector_notices"]
        return {
            (sample.labels["channel"], sample.labels["outcome"]): sample.value for sample in notices.samples
        }

    before = counted()
    assert set(before.values()) == {0.0}
    assert {(channel, "given_up") for channel in ("ops", "mail")} <= before.keys()
    one.alerts.fire(one.clock.wall_ms(), **labelled("A"))
    await one.turn()
    assert counted()["ops", "refused"] == before["ops", "refused"] + 1


async def test_the_digest_comes_at_its_time_of_day_over_a_change_of_the_clock(
    desk: Any, a_route: Any
) -> None:
    one = desk(routing=Routing((a_route(),), (), read_cron("0 8 * * *"), BERLIN))
    one.clock = ManualClock(wall_ms=ms("2026-10-24T12:00"))
    await one.open()
    one.alerts.fire(one.clock.wall_ms(), **labelled("A", "minor"))
    came = []
    for _ in range(3 * 24 * 4):
        before = len(one.told())
        await one.turn(900)
        if len(one.told()) > before:
            local = datetime.fromtimestamp(one.clock.wall_ms() / 1000, BERLIN)
            came.append(f"{local:%d %H:%M}")
    assert one.told() == ["digest"] * 3
    assert came == ["25 08:00", "26 08:00", "27 08:00"]


async def test_a_digest_that_a_dead_collector_missed_comes_when_it_lives_again_once(desk: Any) -> None:
    one = desk(routing=None)
    one.clock = ManualClock(wall_ms=ms("2026-06-01T12:00"))
    await one.open()
    one.alerts.fire(one.clock.wall_ms(), **labelled("A", "minor"))
    await one.turn()
    one.clock.advance(22 * 3_600)
    await one.restart()
    await one.turn(1)
    assert one.told() == ["digest"]
    await one.restart()
    await one.turn(60)
    assert one.told() == ["digest"]
