"""A host that sends nonsense about backups is refused under its own name; others go on as if it were not there."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from watchbill.backups.record import BACKUP_DEFINED, BACKUP_JOBS, BACKUP_RECORD, Kind, Outcome, Record, Source
from watchbill.codec import encode_batch, encode_event, encode_hello, number
from watchbill.protocol.frames import EndReason, GapReason, Hello, Stream, StreamState
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.ports import MemorySink
from watchbill_collector.ingest.session import Session
from watchbill_collector.services import backup_intake
from watchbill_collector.services.registry import RegistryAdmission
from watchbill_collector.store import Store
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Certificate

from .kept import DB, WEB, Kept, Life

OF_ONE_BATCH = 50


class Nobody:
    """An outlet that nobody listens at."""

    def send(self, message: bytes, within_s: int = 0) -> None: ...

    def end(self, message: bytes, reason: EndReason) -> None: ...


class House:
    """Ingest before a real store, with a session of each host."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.sink = MemorySink()
        self.ingest = Ingest(
            life.table, self.sink, RegistryAdmission(life.registry), life.clock, crit=life.sink
        )
        self.ingest.read_event = life.backups.door.read
        self._sessions = {agent_id: self._greet(agent_id) for agent_id in (WEB, DB)}
        self._seqs = dict.fromkeys(self._sessions, 0)

    def _greet(self, agent_id: str) -> Session:
        session = self.ingest.connect(agent_id, Nobody())
        assert session is not None
        hello = Hello(
            agent_version="1",
            spool_id=agent_id.encode()[:16],
            run_id=os.urandom(16),
            boot_id="boot",
            streams=(StreamState(Stream.CRIT), StreamState(Stream.BULK)),
            wall_ms=self.life.clock.wall_ms(),
            boottime_ms=self.life.clock.boottime_ms(),
        )
        session.receive(encode_hello(hello), self.life.clock.monotonic_s())
        assert not session.ended
        return session

    def say(self, agent_id: str, *events: tuple[str, bytes, bytes]) -> None:
        """Kind, id and payload of each."""
        clock, records = self.life.clock, []
        for kind, event_id, payload in events:
            self._seqs[agent_id] += 1
            body = encode_event(event_id, kind, clock.boottime_ms(), clock.wall_ms(), payload)
            records.append(number(self._seqs[agent_id], body))
        for first in range(0, len(records), OF_ONE_BATCH):
            batch = encode_batch(Stream.CRIT, records[first : first + OF_ONE_BATCH])
            self._sessions[agent_id].receive(batch, clock.monotonic_s())

    async def looked(self) -> dict[str, str]:
        """What is said once everything is committed."""
        await self.ingest.commits.flush()
        self.life.through = self.ingest.through_ms()
        await self.life.turn()
        return await self.life.words()


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    (tmp_path / "template").mkdir()
    Store.open(tmp_path / "template", "main").close()
    kept = Kept.beside(tmp_path / "template" / "control.db", tmp_path)
    for agent_id in (WEB, DB):
        kept.store.write_blocking(
            lambda c, agent_id=agent_id: host_rows.add_certificate(c, "main", _good(agent_id))
        )
    made = House(await kept.life().begin())
    yield made
    await made.ingest.close()
    await kept.close()


def _good(agent_id: str) -> Certificate:
    return Certificate(
        serial=agent_id[:8],
        agent_id=agent_id,
        public_key=b"k",
        key_sha256=agent_id.encode()[:32],
        csr_sha256=b"c" * 32,
        how="enrol",
        issued_ms=0,
        not_before_ms=0,
        not_after_ms=2**53,
        der=b"\x30\x00",
    )


def run(job: str, at_ms: int) -> tuple[str, bytes, bytes]:
    event_id = os.urandom(16)
    record = Record(
        record_id=event_id.hex(),
        job=job,
        kind=Kind.RUN,
        source=Source.REPORT,
        outcome=Outcome.OK,
        observed_ms=at_ms,
        finished_ms=at_ms,
    )
    return BACKUP_RECORD, event_id, record.to_json()


async def test_nonsense_is_a_gap_of_its_host_and_stops_nothing(house: House) -> None:
    now_ms = house.life.clock.wall_ms()
    nonsense = [
        (BACKUP_RECORD, os.urandom(16), b"{"),
        (BACKUP_JOBS, os.urandom(16), b'{"jobs":7}'),
        (BACKUP_DEFINED, os.urandom(16), b"\xff" * 60_000),
        (BACKUP_RECORD, os.urandom(16), run("forged", now_ms)[2]),
    ]
    house.say(WEB, *nonsense, run("own", now_ms))
    house.say(DB, run("own", now_ms))
    assert await house.looked() == {"web01/own": "OK", "db01/own": "OK"}
    assert house.ingest.counters.refusals == {("web01", "backup_event"): 4}
    assert [(row.agent_id, row.reason) for row in house.sink.gaps] == [(WEB, GapReason.REFUSED)] * 4
    assert WEB not in house.life.through, "what it wanted to say nobody knows"
    assert DB in house.life.through


async def test_jobs_without_end_are_cut_where_the_bound_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_intake, "NAMES_PER_HOST_MAX", 60)
    now_ms = house.life.clock.wall_ms()
    house.say(WEB, *(run(f"j{place}", now_ms) for place in range(160)))
    house.say(DB, run("own", now_ms))
    words = await house.looked()
    assert len(words) == 61
    assert words["db01/own"] == "OK"
    assert house.ingest.counters.refusals == {("web01", "backup_jobs"): 100}
