"""The book of backups beside the store, in a thread of its own: reads what was committed, has it judged, keeps what
came of it.

`load` reads everything back: what a job is judged by is never stored judged. `turn` goes on from there:

1. the jobs of hosts where they are others now, and all records that arrived since;
2. how far hosts are known, which was asked before what is read here was committed;
3. the book looks; what changed is noted, told and said as series.

Whoever kills us between two steps finds the same words at the next start, and each change of a word noted once: what a
look finds then is compared with what was noted last.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Final

import sqlalchemy as sa

from watchbill.backups.definition import Definition
from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.backups import (
    BackupBook,
    Change,
    Evidence,
    FacetName,
    JobKey,
    Standing,
    State,
    severity_of,
)
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.series import Ticks
from watchbill_collector.servicebook import Belonging
from watchbill_collector.services.backup_series import SAY_EVERY_S, BackupSeries, Budget, Job
from watchbill_collector.store import Store, backup_notes
from watchbill_collector.store import backups as rows
from watchbill_collector.store.backup_notes import ChangeRow, PauseRow, ReviewRow
from watchbill_collector.store.backups import JobRow, RecordRow
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.text import harmless

log = logging.getLogger("watchbill.backups")

READ_AT_ONCE: Final = 2_000
"""Records read from the store together."""
SAVE_EVERY_S: Final = 60.0
"""How often it is written down how far hosts are known: after a kill they are known a minute less."""
UNSAVED_MAX: Final = 10_000
"""Changes of words that wait for a store that cannot be written; the oldest go, counted."""
SERVICE_CHARACTERS_MAX: Final = 128
SERVICES_PER_HOST_MAX: Final = 500
"""Names of services that a host's jobs have used: each makes series that are known until the end. One that uses more
has jobs of no service, counted."""
WHY_CHARACTERS_MAX: Final = 500
_GONE: Final = frozenset({HostState.RETIRED, HostState.REVOKED})


@dataclass(slots=True)
class Turn:
    """What came of a turn: words that changed, and samples."""

    changes: list[ChangeRow] = field(default_factory=list)
    ticks: list[Ticks] = field(default_factory=list)


@dataclass(slots=True)
class Counters:
    """Of what the desk does."""

    records: int = 0
    changes: int = 0
    changes_lost: int = 0
    services_refused: int = 0
    undefined: int = 0
    """Jobs that are listed and whose definition has not come: they are not judged."""


class BackupDesk:
    """See the module. Made anywhere; everything else happens in one thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        registry: HostRegistry,
        belonging: Belonging,
        series: BackupSeries,
    ) -> None:
        self.book = BackupBook(clock.wall_ms())
        self.counters = Counters()
        self.words: dict[JobKey, ChangeRow] = {}
        """The newest change of each job's word."""
        self.pauses: dict[JobKey, PauseRow] = {}
        self.reviews: dict[JobKey, ReviewRow] = {}
        self.arrived: dict[JobKey, tuple[str, int]] = {}
        """The newest record of a run of each job, and when it arrived."""
        self.budgets: Mapping[str, Budget] = {}
        """How services' RPOs were kept; replaced as a whole by who works that out."""
        self.revision = 0
        """Grows with every turn that changed something."""
        self.revised: dict[JobKey, int] = {}
        self._store = store
        self._clock = clock
        self._registry = registry
        self._belonging = belonging
        self._series = series
        self._jobs: dict[str, dict[str, JobRow]] = {}
        self._to_say: dict[JobKey, None] = {}
        self._services: dict[str, dict[str, str]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._through: dict[str, int] = {}
        self._unsaved: list[ChangeRow] = []
        self._unsaved_through: dict[str, int] = {}
        self._place = 0
        self._say_s = 0.0
        self._save_s = clock.monotonic_s() + SAVE_EVERY_S

    # ------------------------------------------------------------ what others ask

    def jobs(self) -> Iterable[tuple[JobKey, JobRow, Host]]:
        """All of them, with their hosts."""
        for agent_id, jobs in self._jobs.items():
            host = self._registry.get(agent_id)
            if host is None:
                continue
            for row in jobs.values():
                yield JobKey(agent_id, row.job), row, host

    def through_ms(self, agent_id: str) -> int:
        """Until then everything is known that a host had to tell; 0 for nothing."""
        return self._through.get(agent_id, 0)

    def hosts(self) -> list[str]:
        """Those that have any, by agent id."""
        return list(self._jobs)

    def row(self, key: JobKey) -> JobRow | None:
        """A job as it is listed."""
        return self._jobs.get(key.agent_id, {}).get(key.job)

    @property
    def count(self) -> int:
        """Jobs that are known."""
        return sum(len(jobs) for jobs in list(self._jobs.values()))

    def service_of(self, key: JobKey, definition: Definition, host: Host) -> str:
        """What it belongs to: as its host says, else as the services' descriptions do."""
        if definition.service:
            return self._services.get(key.agent_id, {}).get(definition.service, "")
        found = self._belonging.of({"backup": key.job, "instance": host.instance})
        return "" if found is None else found.name

    # ------------------------------------------------------------ reading

    def load(self) -> None:
        """Everything that is stored. Raises StorageError."""
        read, site = self._store.read, self._store.site
        self.words = {_key(row): row for row in read(lambda c: backup_notes.last_changes(c, site))}
        self.reviews = {_key(row): row for row in read(lambda c: backup_notes.last_reviews(c, site))}
        self.pauses = {_key(row): row for row in read(lambda c: backup_notes.pauses(c, site))}
        self._through = read(lambda c: rows.through(c, site))
        jobs = read(lambda c: rows.jobs(c, site))
        versions: dict[JobKey, list[rows.Version]] = {}
        for version in read(lambda c: rows.versions(c, site)):
            versions.setdefault(JobKey(version.agent_id, version.definition.name), []).append(version)
        for row in jobs:
            self._take_job(row, versions.get(_key(row), ()))
        for agent_id in self._jobs:
            self.book.watermark(agent_id, self._through.get(agent_id, 0), heard=False)
        self._read_stored_records()
        self._read_records()

    def _take_job(self, row: JobRow, versions: Sequence[rows.Version]) -> None:
        """A job as it is read back. Its former definitions are gone through again: what they asked for may still
        hold."""
        key = _key(row)
        host = self._registry.get(row.agent_id)
        if host is None or host.state is HostState.FORGOTTEN:
            return
        self._jobs.setdefault(row.agent_id, {})[row.job] = row
        self.book.stand(key, self._standing(key, Standing(defined_ms=row.defined_ms), row, host))
        for version in versions:
            if version.digest != row.digest:
                self.book.define(key, version.definition, version.received_ms)
        for version in versions:
            if version.digest == row.digest:
                self._define(key, version.definition, row.changed_ms)
        if not row.digest:
            self._define(key, _bare(row), row.changed_ms)

    def _take_host(self, agent_id: str, now_ms: int) -> list[Ticks]:
        """Read a host's jobs again."""
        host = self._registry.get(agent_id)
        found: dict[str, JobRow] = {}
        definitions: dict[tuple[str, str], Definition] = {}
        if host is not None and host.state is not HostState.FORGOTTEN:
            site = self._store.site
            listed = self._store.read(lambda c: rows.jobs(c, site, agent_id))
            definitions = self._store.read(lambda c: rows.definitions(c, site, agent_id))
            found = {row.job: row for row in listed}
        known = self._jobs.pop(agent_id, {})
        if found:
            self._jobs[agent_id] = found
        ticks: list[Ticks] = []
        for job in known.keys() - found.keys():
            ticks += self._forget(JobKey(agent_id, job), now_ms)
        for row in found.values():
            assert host is not None
            key = _key(row)
            before = self.book.standing(key)
            standing = self._standing(key, before or Standing(defined_ms=row.defined_ms), row, host)
            if standing != before:
                self.book.stand(key, standing)
            definition = definitions.get((agent_id, row.job)) if row.digest else _bare(row)
            if definition is not None and definition != self.book.definition(key):
                self._define(key, definition, row.changed_ms)
            self._to_say[key] = None  # Its labels may be others now.
            self._touch(key)
        return ticks

    def _define(self, key: JobKey, definition: Definition, now_ms: int) -> None:
        """The definition that holds."""
        self._know_service(key.agent_id, definition.service)
        self.book.define(key, definition, now_ms)

    def _forget(self, key: JobKey, now_ms: int) -> list[Ticks]:
        self.book.forget(key)
        for kept in (self.words, self.pauses, self.reviews, self.arrived, self.revised):
            kept.pop(key, None)
        self.revision += 1
        return self._series.end(key, now_ms)

    def _standing(self, key: JobKey, before: Standing, row: JobRow, host: Host) -> Standing:
        pause, review = self.pauses.get(key), self.reviews.get(key)
        return replace(
            before,
            defined_ms=row.defined_ms,
            retired=bool(row.gone_ms) or host.state in _GONE,
            paused_until_ms=pause.until_ms if pause else 0,
            paused_by=pause.author if pause else "",
            paused_why=pause.reason if pause else "",
            reviewed_ms=review.at_ms if review else 0,
        )

    def _read_stored_records(self) -> None:
        """Those that are stored at a start, job by job: many of one job are folded in a third of the time that each
        alone takes."""
        site = self._store.site
        place_max = self._store.read(lambda c: rows.last_place(c, site))
        after: RecordRow | None = None
        while True:
            found = self._store.read(partial(_records_by_job, site=site, after=after, place_max=place_max))
            for key, some in groupby(found, lambda row: JobKey(row.agent_id, row.record.job)):
                told = list(some)
                self.book.record_all(key, [(row.record, row.received_ms, row.shift_ms) for row in told])
                self.arrived[key] = (told[-1].record.record_id, told[-1].received_ms)
            self.counters.records += len(found)
            if len(found) < READ_AT_ONCE:
                break
            after = found[-1]
        self._place = place_max

    def _read_records(self) -> None:
        site = self._store.site
        while True:
            place = self._place
            found = self._store.read(partial(_records_after, site=site, place=place))
            for row in found:
                record = row.record
                key = JobKey(row.agent_id, record.job)
                self.book.record(key, record, row.received_ms, row.shift_ms)
                self.arrived[key] = (record.record_id, row.received_ms)
                self._place = row.place
            self.counters.records += len(found)
            if len(found) < READ_AT_ONCE:
                return

    # ------------------------------------------------------------ turning

    def turn(self, told: Collection[str], arrived: bool, through_ms: Mapping[str, int]) -> Turn:
        """One turn. `told` are hosts that changed, or whose jobs did; `arrived`: there may be new records; `through_ms`
        is how far hosts are known. Raises StorageError: then it is taken again.
        """
        now_ms, now_s = self._clock.wall_ms(), self._clock.monotonic_s()
        made = Turn()
        for agent_id in told:
            made.ticks += self._take_host(agent_id, now_ms)
        if arrived:
            self._read_records()
        for agent_id, at_ms in through_ms.items():
            if agent_id in self._jobs:
                self.book.watermark(agent_id, at_ms)
                if at_ms > self._through.get(agent_id, 0):
                    self._through[agent_id] = self._unsaved_through[agent_id] = at_ms
        for change in self.book.look(now_ms):
            self._take_change(change, now_ms, made)
        self._save(now_s)
        say_all = now_s >= self._say_s
        if say_all:
            self._say_s = now_s + SAY_EVERY_S
            for agent_id in self._relabelled():
                made.ticks += self._take_host(agent_id, now_ms)
            self.counters.undefined = self.count - len(list(self.book.keys()))
        made.ticks += self._stand_as_they_do(now_ms)
        if say_all:
            made.ticks += self._series.say_all(now_ms, self.promised_rpos(), self.budgets)
        else:
            made.ticks += self._series.say_changed(now_ms)
        return made

    def stand(self, key: JobKey) -> None:
        """Somebody paused or reviewed it: take that into account at the next turn."""
        before = self.book.standing(key)
        row, host = self.row(key), self._registry.get(key.agent_id)
        if before is not None and row is not None and host is not None:
            self.book.stand(key, self._standing(key, before, row, host))
            self._touch(key)

    def _take_change(self, change: Change, now_ms: int, made: Turn) -> None:
        key, word = change.key, change.after.word.value
        self._touch(key)
        last = self.words.get(key)
        if last is None or last.after != word:
            row = ChangeRow(
                agent_id=key.agent_id,
                job=key.job,
                at_ms=now_ms,
                before=last.after if last is not None else "",
                after=word,
                why=harmless(change.after.why, WHY_CHARACTERS_MAX),
            )
            self.words[key] = row
            self._unsaved.append(row)
            self.counters.changes += 1
            made.changes.append(row)
        self._to_say[key] = None

    def _touch(self, key: JobKey) -> None:
        self.revision += 1
        self.revised[key] = self.revision

    def _stand_as_they_do(self, now_ms: int) -> list[Ticks]:
        """Have those that changed said, each once, as it stands now; what ends by it."""
        keys, self._to_say = self._to_say, {}
        ticks: list[Ticks] = []
        for key in keys:
            state = self.book.state(key)
            if state is not None:
                ticks += self._say(key, state, now_ms)
        return ticks

    def _know_service(self, agent_id: str, service: str) -> None:
        known = self._services.setdefault(agent_id, {})
        if service and service not in known:
            if len(known) < SERVICES_PER_HOST_MAX:
                known[service] = harmless(service, SERVICE_CHARACTERS_MAX)
            else:
                self.counters.services_refused += 1

    def _say(self, key: JobKey, state: State, now_ms: int) -> list[Ticks]:
        definition, evidence = self.book.definition(key), self.book.evidence(key)
        host = self._registry.get(key.agent_id)
        if definition is None or evidence is None or host is None or host.state is not HostState.ACTIVE:
            return self._series.end(key, now_ms)
        row = self.row(key)
        if row is None or row.gone_ms:
            return self._series.end(key, now_ms)
        labels = self._registry.labels_of_series(key.agent_id) or {"instance": host.instance, **host.labels}
        job = Job(
            host=labels,
            service=self.service_of(key, definition, host),
            state=state,
            severities={name: severity_of(definition, name) for name in FacetName},
            rpo_s=definition.rpo_s,
            size_bytes=size_of(evidence),
        )
        return self._series.say(key, job, now_ms)

    def _relabelled(self) -> list[str]:
        """Hosts whose series carry other labels than when it was looked last."""
        labels = {agent_id: self._registry.labels_of_series(agent_id) for agent_id in self._jobs}
        before, self._labels = self._labels, labels
        return [key for key, carried in labels.items() if key in before and before[key] != carried]

    def jobs_of(self, services: Collection[str]) -> dict[str, list[tuple[JobKey, JobRow, Host]]]:
        """The jobs of these services that hosts have."""
        found: dict[str, list[tuple[JobKey, JobRow, Host]]] = {}
        for service, keys in self._series.jobs_of(services).items():
            known = ((key, self.row(key), self._registry.get(key.agent_id)) for key in keys)
            found[service] = [
                (key, row, host) for key, row, host in known if row is not None and host is not None
            ]
        return found

    def promised_rpos(self) -> dict[str, float]:
        """What services' descriptions promise, in seconds."""
        services = self._belonging.book().services
        return {one.name: float(one.objectives.rpo) for one in services if one.objectives.rpo is not None}

    # ------------------------------------------------------------ keeping

    def _save(self, now_s: float, *, ending: bool = False) -> None:
        """Note changes of words, and now and then how far hosts are known. A store that cannot be written gets them
        later."""
        through = self._unsaved_through if ending or now_s >= self._save_s else {}
        if not self._unsaved and not through:
            return
        site, changes = self._store.site, list(self._unsaved)

        def work(connection: sa.Connection) -> None:
            backup_notes.add_changes(connection, site, changes)
            rows.save_through(connection, site, through)

        try:
            self._store.write_blocking(work)
        except (Busy, StorageError) as exc:
            log.warning("changes of backups are noted later", extra=fields(why=exc))
            lost = len(self._unsaved) - UNSAVED_MAX
            if lost > 0:
                del self._unsaved[:lost]
                self.counters.changes_lost += lost
            return
        self._unsaved.clear()
        if through:
            self._unsaved_through = {}
            self._save_s = now_s + SAVE_EVERY_S

    def save(self) -> None:
        """Before the end."""
        self._save(self._clock.monotonic_s(), ending=True)

    def tidy(self) -> list[JobKey]:
        """Let go of what nobody needs any more; the jobs that went with it. Raises StorageError."""
        site, now_ms = self._store.site, self._clock.wall_ms()
        found = self._store.read(lambda c: rows.surplus(c, site, now_ms))

        def work(connection: sa.Connection) -> None:
            rows.remove(connection, found)
            backup_notes.trim_changes(connection, site, now_ms)

        self._store.write_blocking(work)
        left = {_key(row) for row in self._store.read(lambda c: rows.jobs(c, site))}
        return [key for key, _, _ in self.jobs() if key not in left]


def _bare(row: JobRow) -> Definition:
    """What a job is judged by that its host told of and never defined: by how its runs end."""
    return Definition(name=row.job, tool="")


def _records_after(connection: sa.Connection, site: str, place: int) -> list[RecordRow]:
    return rows.records_after(connection, site, place, READ_AT_ONCE)


def _records_by_job(
    connection: sa.Connection, site: str, after: RecordRow | None, place_max: int
) -> list[RecordRow]:
    return rows.records_by_job(connection, site, after, place_max, READ_AT_ONCE)


def size_of(evidence: Evidence) -> int | None:
    """Of the newest good backup, in bytes: as its run said, else as its repository does."""
    told = evidence.good_sizes(1)
    if told:
        return told[-1]
    seen = [copy.seen for copy in evidence.copies.values() if copy.seen is not None]
    sizes = [(one.point_ms, one.size) for one in seen if one.size is not None]
    return max(sizes)[1] if sizes else None


def _key(row: "JobRow | ChangeRow | PauseRow | ReviewRow") -> JobKey:
    return JobKey(row.agent_id, row.job)
