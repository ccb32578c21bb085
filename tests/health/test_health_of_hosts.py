"""What a host's checks say now comes from the head, what was told of them from the store; silence is no health."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from watchbill.clock import ManualClock
from watchbill.errors import UsageError
from watchbill.protocol.frames import Stream
from watchbill_collector.head import Head
from watchbill_collector.hosts import ChangeKind, HostChange, HostRegistry
from watchbill_collector.ingest.ports import CritEvent, Mark
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.series import STALE, SeriesTable, Ticks
from watchbill_collector.services import check_intake
from watchbill_collector.services.health import WATCHES, HealthMetrics, HealthService
from watchbill_collector.services.registry import StoreCritSink
from watchbill_collector.store import Store, checks
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Host, HostState

AGENT = "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"


def _host(agent_id: str, name: str) -> Host:
    return Host(
        agent_id=agent_id,
        site="main",
        instance=name,
        state=HostState.ACTIVE,
        labels={},
        ephemeral=False,
        public_key=b"k",
        envelope_key=b"",
        hostname="h",
        agent_version="0",
        address="::1",
        enrolled_ms=1,
        changed_ms=1,
    )


@dataclass
class House:
    store: Store
    clock: ManualClock = field(default_factory=ManualClock)
    up: bool | None = True
    table: SeriesTable = field(default_factory=SeriesTable)
    seq: int = 0
    spool: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        self.head = Head(self.table, WATCHES)
        self.sink = StoreCritSink(self.store, self.clock)
        self.registry = HostRegistry(self.store, self.clock)
        self.begin()

    def begin(self) -> None:
        """A collector's start: what was in memory is gone."""
        self.health = HealthService(self.head, self.registry, self.store, self.clock, lambda _: self.up)
        self.sink.checks_told = self.health.told

    def say(
        self, name: str, verdict: float, *, app: str = "shop", essential: bool = True, host: str = "web1"
    ) -> None:
        """A reading of one check, a second later."""
        self.clock.advance(1.001)
        common = {"check": name} | ({"app": app} if app else {})
        keys = [
            self.table.key("watchbill_check_status", common),
            self.table.key(
                "watchbill_check_info", common | {"kind": "http", "essential": str(essential).lower()}
            ),
        ]
        ids = self.table.series(self.table.source({"instance": host, "job": "node"}), keys)
        values = np.array([[verdict, STALE if verdict == STALE else 1.0]])
        self.head.append([Ticks(ids, np.array([self.clock.wall_ms()]), values)])

    def tell(self, event: str, /, **payload: object) -> None:
        """A critical event of the host."""
        self.seq += 1
        content = check_intake.read(AGENT, event, b"", body := json.dumps(payload).encode())
        record = CritEvent(self.seq, os.urandom(16), event, 1, self.clock.wall_ms(), body, content=content)
        self.sink.commit(
            [Mark(AGENT, self.spool, int(Stream.CRIT), self.seq, 1)], {(AGENT, self.spool): [record]}
        )

    @property
    def apps(self) -> dict[str, str]:
        return {one.name: one.state.value for one in self.health.of(AGENT).apps}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("health"), "main")
    store.write_blocking(lambda c: host_rows.add_host(c, _host(AGENT, "web1")))
    yield store
    store.close()


@pytest.fixture
def it(stored: Store) -> House:
    stored.write_blocking(lambda c: checks.remove(c, AGENT))
    return House(stored)


async def test_a_host_shows_its_checks_with_what_was_told_of_the_verdicts_that_they_have(it: House) -> None:
    it.say("front", 2)
    then_ms = it.clock.wall_ms()
    it.tell(
        "check.changed",
        **{"check": "front", "app": "shop", "kind": "http", "from": "ok", "to": "critical"},
        reason="refused",
        detail="no \x1b answer",
    )
    it.say("extra", 0, essential=False)
    it.tell("check.changed", check="extra", to="critical", reason="old")
    it.say("ntp", 3, app="")
    extra, front, ntp = await it.health.checks(AGENT)
    assert (front.verdict, front.reason, front.detail) == ("critical", "refused", "no ? answer")
    assert front.since is not None
    assert round(front.since.timestamp() * 1000) == then_ms
    assert (front.app, front.kind, front.essential) == ("shop", "http", True)
    assert (extra.verdict, extra.since, extra.reason, extra.essential) == ("ok", None, "", False)
    assert (ntp.verdict, ntp.app) == ("unknown", "")
    (shop,) = it.health.apps(AGENT)
    assert (shop.name, shop.state, shop.checks) == ("shop", "down", ("extra", "front"))
    assert shop.since == front.since


def test_what_says_nothing_any_more_is_unknown_and_what_ended_is_gone(it: House) -> None:
    it.say("front", 0)
    it.say("ended", 2, app="old")
    it.say("other", 2, app="foreign", host="web2")
    assert it.apps == {"shop": "healthy", "old": "down"}
    it.say("ended", STALE, app="old")
    assert it.apps == {"shop": "healthy"}
    it.up = False
    assert it.apps == {"shop": "unknown"}
    it.up = True
    it.clock.advance(119)
    it.say("late", 0, app="late")
    assert it.apps == {"late": "healthy"}


async def test_a_silent_hosts_applications_are_known_after_a_restart_and_unknown(it: House) -> None:
    it.tell("check.changed", check="front", app="shop", kind="http", to="ok")
    it.up = None
    it.begin()
    assert it.apps == {"shop": "unknown"}
    (front,) = await it.health.checks(AGENT)
    assert (front.verdict, front.since) == ("unknown", None)
    host = _host(AGENT, "web1")
    it.health.host_changed(HostChange(ChangeKind.FORGOTTEN, host, host))
    assert it.apps == {}
    assert it.store.write_blocking(lambda c: checks.all_of(c, "main")) == {}


async def test_of_more_checks_than_are_kept_the_one_told_of_longest_ago_goes_and_is_counted(
    it: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "CHECKS_PER_HOST_MAX", 2)
    for name in ("a", "b", "c"):
        it.clock.advance(1)
        it.tell("check.changed", check=name, to="ok")
    it.up = None
    assert [one.name for one in await it.health.checks(AGENT)] == ["b", "c"]
    (counted,) = HealthMetrics(it.health).collect()
    assert counted.samples[0].value == 1
    it.begin()
    assert [one.name for one in await it.health.checks(AGENT)] == ["b", "c"]


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xff", b"[]", b'{"check": 1, "to": "ok"}', b'{"to": "ok"}', b'{"check": "", "to": "ok"}',
        b'{"check": "a\\u0000", "to": "ok"}', b'{"check": "web", "to": "fine"}', b"[" * 100_000,
        b'{"check": "web", "to": "ok", "from": "well"}', json.dumps({"check": "w" * 65, "to": "ok"}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_change_of_a_check_is_refused_at_the_door(payload: bytes) -> None:
    with pytest.raises(RecordRefused):
        check_intake.read(AGENT, "check.changed", b"", payload)
    assert check_intake.read(AGENT, "agent.started", b"", payload) is None


async def test_a_timeline_is_read_on_where_it_ended_and_leaves_out_what_is_long(it: House) -> None:
    it.clock.advance(1_000)
    first = len((await it.health.timeline(AGENT, 1_000, "")).events)
    for number in range(3):
        it.clock.advance(0.001)
        it.tell("security.login", user="root", number=number)
    it.tell("statsd.event", text="x" * 5_000)
    page: Any = await it.health.timeline(AGENT, 3, "")
    assert [(one.kind, one.detail.get("number")) for one in page.events] == [
        ("statsd.event", None), ("security.login", 2), ("security.login", 1),
    ]  # fmt: skip
    assert page.events[0].detail == {"left_out_bytes": 5_012}
    rest = await it.health.timeline(AGENT, 1_000, page.more)
    assert (rest.events[0].detail["number"], len(rest.events), rest.more) == (0, first + 1, "")
    with pytest.raises(UsageError, match="before"):
        await it.health.timeline(AGENT, 3, "yesterday")
