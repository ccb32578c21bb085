"""How checks and applications of hosts are: the newest verdicts in the head, with what was told of them; and a host's
timeline.

The head keeps these series because `WATCHES` asks for them, whatever rules are loaded. What their labels say is worked
out once, until there are other series; then a reading is two arrays. A reading is kept for a second: lists and runbooks
ask for many hosts at once.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric

from watchbill.clock import Clock
from watchbill.errors import UsageError
from watchbill.verdict import Verdict
from watchbill_collector.api.health import AppStanding, CheckStanding, HostEvent, HostEvents
from watchbill_collector.api.ports import at
from watchbill_collector.applications import VERDICTS, App, Change, SeenCheck, apps_of
from watchbill_collector.head import Head, Watch
from watchbill_collector.hosts import ChangeKind, HostChange, HostRegistry
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.series import Matcher, MatchOp, SeriesIds
from watchbill_collector.services.backup_intake import BACKUP_KINDS
from watchbill_collector.services.run_intake import COMMAND_KINDS
from watchbill_collector.store import Store, checks, crit
from watchbill_collector.store.checks import CheckChange
from watchbill_collector.store.hosts import HostState

FRESH_MS: Final = 120_000
"""A verdict that is older says nothing of now; what is looked at more seldom is sent again every minute."""
KEPT_MS: Final = 1_000
STATUS: Final = (Matcher(METRIC_NAME, MatchOp.EQUAL, "watchbill_check_status"),)
INFO: Final = (Matcher(METRIC_NAME, MatchOp.EQUAL, "watchbill_check_info"),)
WATCHES: Final = (Watch(STATUS, 0), Watch(INFO, 0))
DETAIL_BYTES_MAX: Final = 4_096
"""Of an event's payload in the timeline; of a longer one its length is shown."""
MACHINES: Final = BACKUP_KINDS | COMMAND_KINDS
"""Events that are shown where backups and runs are, and not in a host's timeline."""

Up = Callable[[str], bool | None]
"""Whether an agent is heard now; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Health:
    """The checks of a host by name, and its applications."""

    checks: tuple[SeenCheck, ...] = ()
    apps: tuple[App, ...] = ()


@dataclass(slots=True)
class _Labels:
    """What the labels of a selection say, for as long as it is the same."""

    ids: SeriesIds | None = None
    rows: tuple[Mapping[str, str], ...] = ()


@dataclass(slots=True)
class _Reading:
    at_ms: int = -KEPT_MS
    by_host: dict[str, list[SeenCheck]] = field(default_factory=dict)


class HealthService:
    """`api.health.HealthService`, and more for those beside it. Asked from any thread."""

    def __init__(self, head: Head, registry: HostRegistry, store: Store, clock: Clock, up: Up) -> None:
        self._head = head
        self._registry = registry
        self._store = store
        self._clock = clock
        self._up = up
        self._reads = threading.Lock()
        self._lock = threading.Lock()
        """Never held while the head is waited for: who commits waits for it."""
        self._status, self._info = _Labels(), _Labels()
        self._reading = _Reading()
        self._known: dict[str, list[SeenCheck]] = {}
        """What each host had when it was heard last."""
        self.forgotten = 0
        """Checks whose last word made room for another's, since the start."""
        self._told = store.read(lambda connection: checks.all_of(connection, store.site))

    # What comes.

    def told(self, changes: Sequence[tuple[str, CheckChange]]) -> None:
        """Hosts told this of their checks. From the committing thread."""
        with self._lock:
            for agent_id, change in changes:
                mine = self._told.setdefault(agent_id, {})
                mine[change.check_name] = change
                if len(mine) > checks.CHECKS_PER_HOST_MAX:
                    self.forgotten += 1
                    del mine[min(mine, key=lambda name: mine[name].at_ms)]

    def host_changed(self, change: HostChange) -> None:
        """A forgotten host's checks go with it."""
        agent_id = change.after.agent_id
        if change.kind in (ChangeKind.FORGOTTEN, ChangeKind.REPLACED):
            with self._lock:
                self._told.pop(agent_id, None)
                self._known.pop(agent_id, None)
            self._store.submit(lambda connection: checks.remove(connection, agent_id))

    # What is asked.

    def of(self, agent_id: str) -> Health:
        """A host's checks and applications now."""
        host = self._registry.get(agent_id)
        if host is None:
            return Health()
        heard = bool(self._up(agent_id))
        seen = self.read().get(host.instance, []) if heard else None
        with self._lock:
            told = dict(self._told.get(agent_id, {}))
            if seen is not None:
                self._known[agent_id] = seen
            else:
                seen = self._known.get(agent_id) or [_of_old(one) for one in told.values()]
        now = [
            replace(one, verdict=one.verdict if heard else None, change=_change(told.get(one.name)))
            for one in seen
        ]
        return Health(tuple(sorted(now, key=lambda one: one.name)), apps_of(now, heard=heard))

    def apps(self, agent_id: str) -> tuple[AppStanding, ...]:
        """A host's applications."""
        return tuple(
            AppStanding(one.name, one.state.value, at(one.since_ms) if one.since_ms else None, one.checks)
            for one in self.of(agent_id).apps
        )

    def app_names(self) -> dict[str, frozenset[str]]:
        """The applications that each active host has told of, by its name."""
        return {
            host.instance: frozenset(one.name for one in self.of(host.agent_id).apps)
            for host in self._registry.hosts()
            if host.state is HostState.ACTIVE
        }

    async def checks(self, agent_id: str) -> Sequence[CheckStanding]:
        """A host's checks."""
        await asyncio.to_thread(self.read)
        return [_standing(one) for one in self.of(agent_id).checks]

    async def timeline(self, agent_id: str, limit: int, before: str) -> HostEvents:
        """A host's newest events. Raises UsageError for a `before` that is none of ours."""
        place = _place(before) if before else None
        found = await asyncio.to_thread(
            self._store.read,
            lambda connection: crit.timeline(
                connection, self._store.site, agent_id, MACHINES, limit + 1, place
            ),
        )
        shown = found[:limit]
        more = f"{shown[-1][0]}-{shown[-1][1].seq}" if len(found) > limit else ""
        return HostEvents([_event(received_ms, record) for received_ms, record in shown], more)

    def read(self) -> dict[str, list[SeenCheck]]:
        """What every host says now, or said within KEPT_MS. May wait for an evaluation of rules."""
        with self._reads:
            now_ms = self._clock.wall_ms()
            if not 0 <= now_ms - self._reading.at_ms < KEPT_MS:
                self._reading = _Reading(now_ms, self._seen(now_ms))
            return self._reading.by_host

    def _seen(self, now_ms: int) -> dict[str, list[SeenCheck]]:
        with self._head.lock:
            self._head.fold(now_ms)
            info = self._head.select(INFO)
            is_there = info.newest(now_ms, FRESH_MS).present.tolist()
            status = self._head.select(STATUS)
            newest = status.newest(now_ms, FRESH_MS)
            values, present = newest.values.tolist(), newest.present.tolist()
            _learn(self._info, info.ids, info.frame.dicts)
            _learn(self._status, status.ids, status.frame.dicts)
        kinds = {
            (row.get("instance", ""), row.get("check", "")): row
            for row, there in zip(self._info.rows, is_there, strict=True)
            if there
        }
        by_host: dict[str, list[SeenCheck]] = {}
        for row, value, there in zip(self._status.rows, values, present, strict=True):
            if there:
                name, host = row.get("check", ""), row.get("instance", "")
                about = kinds.get((host, name), {})
                essential = about.get("essential") != "false"
                seen = SeenCheck(name, row.get("app", ""), about.get("kind", ""), essential, _verdict(value))
                by_host.setdefault(host, []).append(seen)
        return by_host


class HealthMetrics:
    """What it says of itself; registered once."""

    def __init__(self, health: HealthService) -> None:
        self._health = health

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """For a prometheus_client registry."""
        yield CounterMetricFamily(
            "watchbill_collector_checks_forgotten",
            f"Checks beyond {checks.CHECKS_PER_HOST_MAX} of a host whose last word made room for another's.",
            self._health.forgotten,
        )


def _learn(labels: _Labels, ids: SeriesIds, dicts: Callable[[], Sequence[Mapping[str, str]]]) -> None:
    if labels.ids is not ids:
        labels.ids, labels.rows = ids, tuple(dicts())


def _verdict(value: float) -> Verdict:
    return Verdict(int(value)) if value in (0.0, 1.0, 2.0, 3.0) else Verdict.UNKNOWN


def _of_old(row: CheckChange) -> SeenCheck:
    """A check of a host that was not heard since the start. Whether it is essential, nobody has told."""
    return SeenCheck(row.check_name, row.app, row.kind, essential=True, verdict=None)


def _standing(one: SeenCheck) -> CheckStanding:
    verdict = Verdict.UNKNOWN if one.verdict is None else one.verdict
    told = one.explained
    if told is None:
        return CheckStanding(one.name, one.app, one.kind, one.essential, verdict.word)
    since = at(told.since_ms) if told.since_ms else None
    return CheckStanding(
        one.name, one.app, one.kind, one.essential, verdict.word, since, told.reason, told.detail
    )


def _change(row: CheckChange | None) -> Change | None:
    if row is None:
        return None
    return Change(VERDICTS[row.after], row.since_ms, VERDICTS.get(row.before), row.reason, row.detail)


def _place(text: str) -> tuple[int, int]:
    received_ms, _, seq = text.partition("-")
    if not (received_ms.isdecimal() and seq.isdecimal() and len(text) <= 40):
        raise UsageError("`before` has to be the `more` of an earlier answer")
    return int(received_ms), int(seq)


def _event(received_ms: int, record: crit.CritRecord) -> HostEvent:
    payload: object = {"left_out_bytes": len(record.payload)}
    if len(record.payload) <= DETAIL_BYTES_MAX:
        try:
            payload = json.loads(record.payload)
        except (ValueError, RecursionError):
            payload = None
    return HostEvent(
        at=at(record.wall_ms),
        received=at(received_ms),
        kind=record.kind,
        detail=payload if isinstance(payload, dict) else {},
    )
