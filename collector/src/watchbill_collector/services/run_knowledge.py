"""Where runbooks' facts come from: the history's newest values, the rules, the backups, the hosts."""

from collections.abc import Iterable, Mapping
from typing import Final

from watchbill.clock import Clock
from watchbill_collector.applications import App, AppState
from watchbill_collector.backups.words import JobKey
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.promql.engine import Engine, InstantVector
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.storage import Storage
from watchbill_collector.rules import AlertingRun, Rulebook
from watchbill_collector.rules.alerts import AlertState
from watchbill_collector.runbooks.expression import Known
from watchbill_collector.services.backup_desk import BackupDesk
from watchbill_collector.services.health import HealthService
from watchbill_collector.services.run_facts import RunFacts
from watchbill_collector.store.hosts import HostState

FRESH_MS: Final = 120_000
"""A value that is older says nothing of now; what is sampled more seldom is sent again every minute."""
INSTANCE: Final = "instance"
_QUOTED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Knowledge:
    """Makes the facts of one moment."""

    def __init__(
        self,
        clock: Clock,
        registry: HostRegistry,
        ingest: Ingest,
        engine: Engine,
        rules: Rulebook,
        storage: Storage,
        backups: BackupDesk,
        health: HealthService,
    ) -> None:
        self._health = health
        self._clock = clock
        self._registry = registry
        self._ingest = ingest
        self._engine = engine
        self._rules = rules
        self._storage = storage
        self._backups = backups

    def facts(self) -> RunFacts:
        """As things are now."""
        return RunFacts(self._up, self._sample, self._firing, self._backup, self._host)

    def _up(self, name: str) -> bool | None:
        host = self._registry.live(name)
        facts = None if host is None else self._ingest.facts(host.agent_id)
        return None if facts is None else facts.up

    def _sample(self, host: str, metric: str) -> float | None:
        matchers = (f'__name__="{_quoted(metric)}"', f'{INSTANCE}="{_quoted(host)}"')
        try:
            found = self._engine.instant(
                "{" + ",".join(matchers) + "}", self._clock.wall_ms(), self._storage, lookback_ms=FRESH_MS
            ).data
        except PromqlError:
            return None
        if not isinstance(found, InstantVector) or len(found) != 1:
            return None
        return next(value for _, value in found)

    def _firing(self, name: str, host: str) -> bool | None:
        runs = [
            (group.group.name, run)
            for group in self._rules.groups()
            for run in group.runs
            if isinstance(run, AlertingRun) and run.rule.name == name
        ]
        if not runs or any(run.health.health != "ok" for _, run in runs):
            return None
        alerts = [one for group, run in runs for one in self._rules.alerts_of(group, run)]
        mine = [one for one in alerts if one.labels.get(INSTANCE, host) == host]
        if any(one.incomplete for one in mine):
            return None
        return any(one.state is AlertState.FIRING for one in mine)

    def _backup(self, job: str) -> Mapping[str, Known] | None:
        found = [key for key, row, _ in self._backups.jobs() if row.job == job]
        return self._of(found[0]) if len(found) == 1 else None

    def _of(self, key: JobKey) -> Mapping[str, Known] | None:
        state = self._backups.book.state(key)
        if state is None:
            return None
        now_ms = self._clock.wall_ms()
        known: dict[str, Known] = {
            "word": state.word.value,
            "level": state.level.value,
            "ok": state.level.value == "ok",
        }
        if state.point_ms:
            known["age"] = max(0.0, (now_ms - state.point_ms) / 1000)
        if state.verified_point_ms:
            known["verified_age"] = max(0.0, (now_ms - state.verified_point_ms) / 1000)
        return known

    def _host(self, name: str) -> Mapping[str, Known] | None:
        host = self._registry.live(name)
        if host is None:
            return None
        up = self._up(name)
        known: dict[str, Known] = {
            "name": name,
            "labels": dict(host.labels),
            "app": known_apps(self._health.of(host.agent_id).apps),
        }
        if up is not None:
            known["up"] = up
        if host.state is HostState.ACTIVE:
            known["connected"] = self._ingest.connected(host.agent_id)
        return known


def known_apps(apps: Iterable[App]) -> dict[str, Known]:
    """Applications by name. What is not known of one is left out, so that it is UNKNOWN to whoever asks."""
    known: dict[str, Known] = {}
    for one in apps:
        sure = one.state is not AppState.UNKNOWN
        known[one.name] = {"state": one.state.value, "healthy": one.state is AppState.HEALTHY} if sure else {}
    return known


def _quoted(text: str) -> str:
    return text.translate(_QUOTED)
