"""When windows open, over changes of the clock too."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.cron import BadCron, read_cron
from watchbill_collector.dispatch.windows import Window

BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def starts(line: str, begin: str, end: str, zone: ZoneInfo = BERLIN) -> list[str]:
    found = read_cron(line).starts(zone, ms(begin), ms(end))
    return [datetime.fromtimestamp(at / 1000, UTC).strftime("%d %H:%M") for at in sorted(found)]


@pytest.mark.parametrize(
    ("line", "begin", "end", "wanted"),
    [
        ("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00", ["25 00:30", "26 01:30"]),
        ("30 * * * *", "2026-10-25T00:00", "2026-10-25T03:00", ["25 00:30", "25 01:30", "25 02:30"]),
        ("30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00", ["29 01:30", "30 00:30"]),
        ("30 * * * *", "2026-03-29T00:00", "2026-03-29T03:00", ["29 00:30", "29 01:30", "29 02:30"]),
        ("0 3 * * sun", "2026-11-16T00:00", "2026-11-30T00:00", ["22 02:00", "29 02:00"]),
        ("0 0 1 * fri", "2026-05-01T12:00", "2026-05-16T00:00", ["07 22:00", "14 22:00"]),
        (
            "*/20 4-5 15 nov *",
            "2026-11-14T00:00",
            "2026-11-16T00:00",
            [f"15 0{h}:{m}" for h in (3, 4) for m in ("00", "20", "40")],
        ),
        ("0 12 29 2 *", "2027-01-01T00:00", "2028-03-02T00:00", ["29 11:00"]),
        ("0 12 L 2 *", "2026-01-01T00:00", "2028-03-01T00:00", ["28 11:00", "28 11:00", "29 11:00"]),
        ("0 12 * 11 sun#1,5L", "2026-11-01T00:00", "2026-12-01T00:00", ["01 11:00", "27 11:00"]),
    ],
)
def test_a_line_comes_round(line: str, begin: str, end: str, wanted: list[str]) -> None:
    assert starts(line, begin, end) == wanted


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("* * * *", "4 fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of month"),
        ("* * * foo *", "month"),
        ("* * * * 5-1", "backwards"),
        ("*/0 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("\u0663 * * * *", "minute"),
        ("0 " * 300, "characters"),
        ("0 0 31 feb,apr *", "none of these months has"),
        ("0 0 * * * *", "6 fields"),
    ],
)
def test_a_line_that_is_none_is_refused_by_its_field(line: str, says: str) -> None:
    with pytest.raises(BadCron, match=says):
        read_cron(line)


@given(st.text("0123456789*/-,#LWasunjmo \u0663", max_size=30))
def test_whatever_is_typed_is_a_line_or_refused_by_name(text: str) -> None:
    try:
        cron = read_cron(text)
    except BadCron:
        return
    cron.next(BERLIN, ms("2026-01-01T00:00"), 86_400_000)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia", "UTC"]
)
@pytest.mark.parametrize("line", ["30 2 * * *", "*/7 * * * *", "15 1-3 * * *", "0 */6 * * *", "59 23 * * *"])
@pytest.mark.parametrize(
    "around", ["2026-03-29T00:00", "2026-10-25T00:00", "2026-04-04T12:00", "2011-12-30T00:00"]
)
def test_the_newest_and_the_next_are_those_of_the_whole_list(zone: str, line: str, around: str) -> None:
    cron, place = read_cron(line), ZoneInfo(zone)
    for step in range(-30, 30, 15):
        now, within = ms(around) + step * 37 * 60_000, 30 * 3_600_000
        assert cron.latest(place, now, within) == max(cron.starts(place, now - within, now), default=0)
        assert cron.next(place, now, within) == min(cron.starts(place, now, now + within), default=0)


def test_a_window_is_open_for_its_duration_of_real_time() -> None:
    window = Window("night", read_cron("30 2 * * *"), BERLIN, 2 * 3_600_000)
    # The autumn night has 02:30 twice; the window opens at the first and stays open for two real hours.
    for at, is_open in (
        ("00:29", False),
        ("00:30", True),
        ("01:31", True),
        ("02:29", True),
        ("02:30", False),
    ):
        now = ms(f"2026-10-25T{at}")
        assert (window.until_ms(now) > now) is is_open, at
    assert window.opens_ms(ms("2026-10-25T03:00"), 86_400_000) == ms("2026-10-26T01:30")


def test_a_window_that_opens_again_while_open_goes_on() -> None:
    window = Window("often", read_cron("0 * * * *"), BERLIN, 90 * 60_000)
    now = ms("2026-06-01T10:20")
    assert window.until_ms(now) == ms("2026-06-01T11:30")
