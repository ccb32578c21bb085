"""A collector's house of backups in one process: a real store, hosts, ingest's hooks, and a clock moved by hand."""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from watchbill.backups.definition import Definition
from watchbill.backups.record import (
    BACKUP_DEFINED,
    BACKUP_JOBS,
    BACKUP_RECORD,
    Kind,
    Outcome,
    Record,
    Source,
    new_id,
)
from watchbill.clock import ManualClock
from watchbill.protocol.frames import Stream
from watchbill_collector.api.ports import Caller
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.ports import CritEvent, Mark, Reach
from watchbill_collector.series import SeriesTable, Ticks, is_stale
from watchbill_collector.servicebook import Belonging, Objectives, Service, ServiceBook
from watchbill_collector.services.backup_answers import BackupAnswers
from watchbill_collector.services.backup_requests import MemoryHosts
from watchbill_collector.services.backups import Backups
from watchbill_collector.services.registry import StoreCritSink
from watchbill_collector.services.scoping import RegistryBindings
from watchbill_collector.store import Store
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Host, HostState

WEB, DB = "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425", "0f9b5a52-3a3c-4a5b-8a53-8d0a90b1c9f2"
NAMES = {WEB: "web01", DB: "db01"}
ANN = Caller("ann")
ANSWER_WITHIN_S = 0.05
"""A host that does not answer keeps nobody waiting here."""
H_S = 3600.0


class Kept:
    """What lives in the store; `life` begins a process on it, as often as it is called."""

    @classmethod
    def beside(cls, template: Path, directory: Path) -> "Kept":
        """In a copy of a migrated SQLite file."""
        shutil.copy(template, directory)
        return cls(Store.open(directory, "main"))

    def __init__(self, store: Store) -> None:
        self.clock = ManualClock(1_780_315_200_000)
        self.store = store
        for agent_id, name in NAMES.items():
            host = Host(
                agent_id=agent_id,
                site="main",
                instance=name,
                state=HostState.ACTIVE,
                labels={"role": name[:-2]},
                ephemeral=False,
                public_key=b"k",
                envelope_key=b"",
                hostname=name,
                agent_version="0",
                address="::1",
                enrolled_ms=1,
                changed_ms=1,
            )
            self.store.write_blocking(lambda c, host=host: host_rows.add_host(c, host))
        self.seqs: dict[str, int] = {}
        self.lives: list[Life] = []

    def life(self) -> "Life":
        """A process of the collector. The one before is as good as killed: nothing of it is used any more."""
        self.lives.append(Life(self))
        return self.lives[-1]

    async def close(self) -> None:
        """End everything."""
        for life in self.lives:
            await life.backups.close()
        self.store.close()


class Life:
    """One process."""

    def __init__(self, kept: Kept) -> None:
        self.kept, self.clock, self.store = kept, kept.clock, kept.store
        self.registry = HostRegistry(self.store, self.clock)
        self.table = SeriesTable()
        self.through: dict[str, int] = {}
        self.ticks: list[Ticks] = []
        self.events: list[tuple[str, Any]] = []
        self.book = ServiceBook.of_services([Service(name="shop", backups=["nightly"])])
        belonging = Belonging(lambda: self.book, RegistryBindings(self.registry))
        self.backups = Backups(
            self.store,
            self.clock,
            self.registry,
            belonging,
            self.table,
            through_ms=lambda: dict(self.through),
            emit=self.ticks.extend,
            publish=lambda kind, document: self.events.append((kind, document)),
        )
        self.sink = StoreCritSink(self.store, self.clock)
        self.sink.backups_told = self.backups.told
        self.hosts = MemoryHosts(dict.fromkeys(NAMES, Reach.ASKED))
        self.answers = BackupAnswers(
            self.backups, self.store, self.clock, self.hosts, answer_within_s=ANSWER_WITHIN_S
        )

    async def begin(self) -> "Life":
        """As `Backups.run` does before its loop."""
        await self.backups.work(self.backups.desk.load)
        await self.backups.turn()
        return self

    # ------------------------------------------------------------ what hosts say

    def say(self, kind: str, payload: bytes, agent_id: str = WEB, event_id: bytes | None = None) -> None:
        """An event arrives and is committed."""
        event_id = event_id or bytes.fromhex(new_id())
        content = self.backups.door.read(agent_id, kind, event_id, payload)
        seq = self.kept.seqs[agent_id] = self.kept.seqs.get(agent_id, 0) + 1
        event = CritEvent(seq, event_id, kind, 1, self.clock.wall_ms(), payload, 0, content)
        spool = (agent_id, b"s" * 16)
        self.sink.commit([Mark(*spool, int(Stream.CRIT), seq, 1)], {spool: [event]})

    def define(self, *definitions: Definition, agent_id: str = WEB) -> None:
        """All jobs of a host, and what each is judged by."""
        digests = {each.name: each.digest() for each in definitions}
        self.say(BACKUP_JOBS, msgspec.json.encode({"jobs": digests}), agent_id)
        for each in definitions:
            document = b'{"definition":%s,"digest":"%s"}' % (each.to_json(), each.digest().encode())
            self.say(BACKUP_DEFINED, document, agent_id)

    def ran(self, job: str = "nightly", agent_id: str = WEB, **more: Any) -> Record:
        """A run of ten minutes ends now."""
        now_ms = self.clock.wall_ms()
        record = Record(
            **{
                "record_id": new_id(),
                "job": job,
                "kind": Kind.RUN,
                "source": Source.REPORT,
                "outcome": Outcome.OK,
                "observed_ms": now_ms,
                "run_id": new_id(),
                "started_ms": now_ms - 600_000,
                "finished_ms": now_ms,
                "point_ms": now_ms - 600_000,
                "bytes_source": 1_000_000,
            }
            | more
        )
        self.say(BACKUP_RECORD, record.to_json(), agent_id, bytes.fromhex(record.record_id))
        return record

    async def heard(self, seconds: float = 0.0, *agent_ids: str) -> None:
        """Time goes by, hosts are heard all the while, and it is looked."""
        self.clock.advance(seconds)
        self.through |= dict.fromkeys(agent_ids or (WEB,), self.clock.wall_ms())
        await self.turn()

    async def turn(self) -> None:
        """What is told goes through the loop first."""
        import asyncio

        await asyncio.sleep(0)
        await self.backups.turn()

    # ------------------------------------------------------------ what comes of it

    async def words(self) -> dict[str, str]:
        """By host and job."""
        return {f"{job.host}/{job.name}": job.word for job in await self.answers.jobs()}

    def told(self) -> list[tuple[str, str]]:
        """Changes that were published, as before and after."""
        return [(one["before"], one["after"]) for kind, one in self.events if kind == "backup"]

    def series(self, **wanted: str) -> dict[str, float]:
        """The last value of each series of ours that has these labels; series that ended have none."""
        last: dict[int, float] = {}
        for tick in self.ticks:
            stale = is_stale(tick.values)
            for place, series in enumerate(tick.series.tolist()):
                if stale[-1, place]:
                    last.pop(series, None)
                else:
                    last[series] = float(tick.values[-1, place])
        found = {}
        for series, value in last.items():
            labels = dict(self.table.labels(series))
            if wanted.items() <= labels.items():
                rest = {name: labels[name] for name in sorted(labels.keys() - wanted.keys())}
                name = rest.pop("__name__").removeprefix("watchbill_backup_")
                found[" ".join([name, *(f"{key}={value}" for key, value in rest.items())])] = value
        return found


def promised(rpo: Any) -> ServiceBook:
    """The shop, with an RPO."""
    return ServiceBook.of_services(
        [Service(name="shop", backups=["nightly"], objectives=Objectives(rpo=rpo))]
    )
