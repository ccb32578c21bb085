"""The runs that are open: driven on the loop, written before anything follows.

    told()    what hosts said is sorted to the runs it is about
    turn()    1. each run that has news, or whose time has come, decides (`runbooks/run/decide.py`)
              2. all rows of all of them are committed in one transaction
              3. only then commands are sent, messages handed over, followers told
    load()    at the start every open run is folded from its rows; hosts are asked what became of what was sent

A run whose rows could not be written is thrown away in memory and folded again from the store: what it had decided
never happened. So whoever kills us between any two steps finds each run where its rows say.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import sqlalchemy as sa

from watchbill.actions.order import ASKED_KEYS_MAX, Ask
from watchbill.actions.order import Cancel as CancelOrder
from watchbill.actions.outcomes import Accepted, Finished, States
from watchbill.actions.outcomes import Refused as HostRefused
from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.runbooks.run import fold as folding
from watchbill_collector.runbooks.run import restraint
from watchbill_collector.runbooks.run.commands import command_of
from watchbill_collector.runbooks.run.decide import settle
from watchbill_collector.runbooks.run.flow import Flow
from watchbill_collector.runbooks.run.heard import TAKEN_UP, answered, heard
from watchbill_collector.runbooks.run.progress import Attempt, Run
from watchbill_collector.runbooks.run.rows import (
    AnyRow,
    Resumed,
    Row,
    Unasked,
    Unsent,
    body_of,
    kind_of,
    read_row,
)
from watchbill_collector.runbooks.run.words import ENDED, HOLDS_LOCK, AttemptState, RunState
from watchbill_collector.runbooks.run.world import Cancel, Effect, Send, Tell, World
from watchbill_collector.services.run_book import RunBook
from watchbill_collector.services.run_open import Event, Live, OpenRuns
from watchbill_collector.services.run_orders import OrderDesk
from watchbill_collector.services.run_summaries import new_run_id, past, past_of, summary_of
from watchbill_collector.store import Store, audit, commands, runs
from watchbill_collector.store.audit import Entry
from watchbill_collector.store.runs import JournalHead, NewRow, RunSummary

log = logging.getLogger("watchbill.runs")

ASK_EVERY_MS: Final = 30_000
"""How often hosts are asked about commands that they have not answered."""
ASK_AFTER_MS: Final = 10_000
"""A command is asked about once it is so old: most answers come at once."""
OPEN_RUNS_MAX: Final = 20_000
"""Runs at a time; one more is refused."""
RUNS_PER_TURN_MAX: Final = 500
"""Runs that are written together; the others follow in the next turn."""
INBOX_MAX: Final = 200_000
"""What hosts said and nobody has looked at; beyond it the oldest goes, counted, and is read back from the store."""
LOADED_AT_ONCE: Final = 500
IDLE_S: Final = 30.0
"""Between turns without news."""
RETRY_S: Final = 1.0
"""After the store could not be written."""
SYSTEM: Final = "system"
HOST: Final = "host"


class Telling(Protocol):
    """Who hands messages of runs over to people."""

    def __call__(self, run: Run, channel: str, text: str) -> None:
        """Must not raise; whether it arrives changes nothing."""


@dataclass(slots=True)
class Written:
    """What a turn is about to write of one run, and do afterwards."""

    live: Live
    rows: list[tuple[int, Row]]
    effects: list[Effect]
    entries: list[Entry] = field(default_factory=list)
    before: RunState | None = None


@dataclass(slots=True)
class Counters:
    """Of what the driver does."""

    rows: int = 0
    turns: int = 0
    commands: int = 0
    asked: int = 0
    inbox_lost: int = 0
    thrown_away: int = 0
    unreadable: int = 0


class Runs:
    """See the module. `world` reads the world once a turn; `tell` hands messages over, `publish` says that a run's
    state changed."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        book: RunBook,
        orders: OrderDesk,
        *,
        world: Callable[[], World],
        tell: Telling = lambda run, channel, text: None,  # noqa: ARG005 - Nobody to tell.
        publish: Callable[[RunSummary], None] = lambda _: None,
    ) -> None:
        self.counters = Counters()
        self.book = book
        self.orders = orders
        self.writing: Callable[[], None] = lambda: None
        self.written: Callable[[int], None] = lambda _: None
        """Called before each commit, and with the number of rows after it, before anything follows: where tests kill
        us."""
        self._store = store
        self._clock = clock
        self._world = world
        self._tell = tell
        self._publish = publish
        self._open = OpenRuns()
        self._inbox: deque[tuple[str, Event]] = deque()
        self._looks: dict[str, asyncio.Future[Finished | HostRefused]] = {}
        self._broken: dict[str, None] = {}
        self._behind = True
        """Something was committed that the inbox does not have."""
        self._news = asyncio.Event()
        self._turning = asyncio.Lock()
        self.ready = asyncio.Event()

    # ------------------------------------------------------------ what others ask

    def get(self, run_id: str) -> Live | None:
        """An open run."""
        return self._open.live.get(run_id)

    def open(self) -> Iterable[Live]:
        """All open runs."""
        return list(self._open.live.values())

    @property
    def count(self) -> int:
        """Open runs."""
        return len(self._open.live)

    async def past(self, since_ms: int = 0) -> list[restraint.Past]:
        """Runs as others are bound by them: all that are open, and those that ended since."""
        site = self._store.site
        stored = await asyncio.to_thread(
            self._store.read, lambda connection: runs.outlines(connection, site, since_ms)
        )
        found = [past_of(one) for one in stored if one.run_id not in self._open.live]
        return found + [past(live.run) for live in self._open.live.values()]

    # ------------------------------------------------------------ what happens

    def told(self, agent_id: str, events: Sequence[Event]) -> None:
        """A host said this, and it is committed. On the loop."""
        for event in events:
            if len(self._inbox) >= INBOX_MAX:
                self._inbox.popleft()
                self.counters.inbox_lost += 1
                self._behind = True
            self._inbox.append((agent_id, event))
        self._news.set()

    def connected(self, agent_id: str) -> None:
        """A host is there again: what waits for it goes on, and it is asked about what it has."""
        for run_id in self._open.by_agent.get(agent_id, {}):
            live = self._open.live[run_id]
            live.asked_ms = 0
            self._open.mark(live)
            self._news.set()

    def changed(self) -> None:
        """Something that all runs depend on is another now: a pause, a roster."""
        for live in self._open.live.values():
            self._open.mark(live)
        self._news.set()

    # ------------------------------------------------------------ beginning and people

    async def create(
        self,
        rows: Sequence[Row],
        flow: Flow,
        entry: Entry,
        run_id: str = "",
        *extra: Callable[[sa.Connection], None],
    ) -> Live:
        """Begin a run with its first rows. Raises Busy, StorageError: then there is none."""
        if self.count >= OPEN_RUNS_MAX:
            raise Busy(f"{OPEN_RUNS_MAX} runs are open", RETRY_S)
        now_ms = self._clock.wall_ms()
        run_id = run_id or new_run_id()
        run = folding.fold(run_id, [(now_ms, _any(one)) for one in rows])
        assert run is not None, "a run begins with a row"
        live = Live(run, flow, runs.genesis(self._store.site, run_id))
        async with self._turning:
            made = Written(live, [(now_ms, one) for one in rows], [], [entry])
            await self._write([made], extra, new=True)
            self._open.put(live)
        self._publish(summary_of(run))
        self._news.set()
        return live

    async def add(
        self,
        live: Live,
        decide: Callable[[], Sequence[Row]],
        entry: Entry,
        *extra: Callable[[sa.Connection], None],
    ) -> None:
        """Rows that a person's word makes, decided when nothing else happens to the run. Raises what `decide` raises,
        Busy, StorageError: then nothing was done."""
        async with self._turning:
            rows = decide()
            now_ms = self._clock.wall_ms()
            before = live.run.state
            for one in rows:
                folding.apply(live.run, now_ms, _any(one))
            try:
                await self._write(
                    [Written(live, [(now_ms, one) for one in rows], [], [entry], before)], extra
                )
            except BaseException:
                self._throw_away([live])
                raise
            self._after(live, before)
            self._open.mark(live)
        self._news.set()

    # ------------------------------------------------------------ looks that belong to no run

    def expect(self, key: str) -> "asyncio.Future[Finished | HostRefused]":
        """What will come of a command that belongs to no run; `forget` it when nobody waits any more."""
        future: asyncio.Future[Finished | HostRefused] = asyncio.get_running_loop().create_future()
        self._looks[key] = future
        return future

    def forget(self, key: str) -> None:
        """Nobody waits for it."""
        self._looks.pop(key, None)

    # ------------------------------------------------------------ the life of the driver

    async def load(self) -> int:
        """Fold every open run from its rows; how many there are. Raises StorageError."""
        site = self._store.site
        await asyncio.to_thread(self.orders.begin)
        found = await asyncio.to_thread(
            self._store.read, lambda connection: runs.summaries(connection, site, open_only=True)
        )
        for start in range(0, len(found), LOADED_AT_ONCE):
            part = [one.run_id for one in found[start : start + LOADED_AT_ONCE]]
            await self._fold(part)
        self.ready.set()
        self._news.set()
        return len(self._open.live)

    async def _fold(self, run_ids: Sequence[str]) -> None:
        folded = await asyncio.to_thread(self._read_back, run_ids)
        for live in folded:
            self._open.put(live)

    def _read_back(self, run_ids: Sequence[str]) -> list[Live]:
        """Runs from their rows. One whose text or rows cannot be read any more is left alone, and said."""
        site = self._store.site
        journals = self._store.read(lambda connection: runs.journals(connection, run_ids))
        folded: list[tuple[Run, JournalHead]] = []
        for run_id, rows in journals.items():
            try:
                run = folding.fold(run_id, ((row.at_ms, read_row(row.body)) for row in rows))
            except (ValueError, KeyError, AssertionError) as exc:
                self._unreadable(run_id, exc)
                continue
            if run is not None and run.is_open:
                folded.append((run, JournalHead(rows[-1].n, rows[-1].hash)))
        digests = [one for run, _ in folded for one in (run.created.digest, *run.created.called.values())]
        self.book.load(digests)
        found: list[Live] = []
        for run, head in folded:
            flow = self.book.flow(run.created.digest, run.created.called, run.created.drill)
            if flow is None:
                self._unreadable(run.run_id, f"{site}: the text of {run.created.runbook} is not kept")
                continue
            found.append(Live(run, flow, head))
        return found

    def _unreadable(self, run_id: str, why: object) -> None:
        self.counters.unreadable += 1
        log.error("a run cannot be read back, nothing of it goes on", extra=fields(run=run_id, why=why))

    async def resume(self) -> None:
        """After `load`: each run that was under way notes that somebody goes on with it."""
        for live in self._open.live.values():
            if live.run.state in HOLDS_LOCK and live.run.state is not RunState.HELD:
                live.resumed = True

    async def run(self, made: Callable[[], None] = lambda: None) -> None:
        """Turn after turn, for ever. `made` is called after each."""
        while True:
            made()
            try:
                await self.turn()
                wake_s = self._wake_s()
            except (Busy, StorageError) as exc:
                log.error("runs cannot be read: nothing of them goes on", extra=fields(why=exc))
                wake_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                # Not wait_for: up to 3.11 it loses a cancellation that comes together with news.
                async with asyncio.timeout(wake_s):
                    await self._news.wait()
            self._news.clear()

    def _wake_s(self) -> float:
        now_ms = self._clock.wall_ms()
        if self._open.due or self._inbox:
            return 0.0
        moments = [self._open.wakes[0][0]] if self._open.wakes else []
        if self._open.busy:
            moments.append(now_ms + ASK_AFTER_MS)
        wake_s = (min(moments) - now_ms) / 1000 if moments else IDLE_S
        return min(max(0.0, wake_s), IDLE_S)

    async def turn(self) -> int:
        """Decide, write, do, until nothing is left without news; how many rows were written."""
        total = 0
        while True:
            async with self._turning:
                made = await self._turn()
            total += made
            if not made and not self._open.due and not self._inbox:
                return total

    async def _turn(self) -> int:
        """One turn."""
        self.counters.turns += 1
        await self._mend()
        if self.orders.scarce:
            await self.orders.refill(2 * RUNS_PER_TURN_MAX)
        await self._catch_up()
        self._sort_inbox()
        now_ms = self._clock.wall_ms()
        self._open.wake_due(now_ms)
        world = self._world()
        written: list[Written] = []
        for run_id in list(self._open.due)[:RUNS_PER_TURN_MAX]:
            self._open.due.pop(run_id, None)
            due = self._open.live.get(run_id)
            if due is not None:
                self._try_to_decide(due, world, now_ms, written)
        await self._commit(written)
        self._ask(now_ms)
        return sum(len(one.rows) for one in written)

    def _try_to_decide(self, live: Live, world: World, now_ms: int, written: list[Written]) -> None:
        try:
            written.append(self._decide(live, world, now_ms))
        except Exception as exc:
            # One run that this code cannot go on with must not keep all others from being recovered.
            log.exception("a run cannot go on: it is set aside until the next start")
            self._unreadable(live.run.run_id, exc)
            self._open.drop(live)

    def _decide(self, live: Live, world: World, now_ms: int) -> Written:
        run = live.run
        made = Written(live, [], [], [], run.state)
        for one, effects in self._news_of(live, now_ms):
            for row in one:
                folding.apply(run, now_ms, _any(row))
                made.rows.append((now_ms, row))
                if isinstance(row, Unasked) and row.reason == TAKEN_UP:
                    made.entries.append(_unasked(row))
            made.effects += effects
        mine = replace(
            world,
            why_not=self._why_not(run) if run.state is RunState.QUEUED else "",
            rows_max=runs.ROWS_PER_RUN_MAX,
        )
        move = settle(run, live.flow, mine, now_ms)
        made.rows += [(now_ms, row) for row in move.rows]
        made.effects += move.effects
        live.wake_ms = move.wake_ms
        if run.state in ENDED:
            made.entries.append(self._ending(live))
        return made

    def _news_of(self, live: Live, now_ms: int) -> Iterable[tuple[list[Row], list[Effect]]]:
        """What was said about a run since the last turn."""
        unsent, live.unsent = live.unsent, []
        if live.resumed:
            live.resumed = False
            yield [Resumed(epoch=self.orders.epoch)], []
        for key in unsent:
            attempt = live.run.keys.get(key)
            if attempt is not None and attempt.state is AttemptState.SENT:
                yield [Unsent(key=key)], []
        told, live.told = live.told, []
        for agent, event in told:
            if isinstance(event, States):
                move = answered(live.run, agent, event, now_ms)
                yield move.rows, move.effects
            else:
                yield heard(live.run, agent, event), []

    def _ending(self, live: Live) -> Entry:
        run = live.run
        detail: dict[str, object] = {
            "runbook": run.created.runbook,
            "digest": run.created.digest,
            "state": run.state.value,
            "why": run.detail,
            "rows": run.n,
        }
        return Entry(actor=SYSTEM, action="run.end", target=run.run_id, detail=detail)

    def _why_not(self, run: Run) -> str:
        lock = run.created.lock
        if not lock:
            return ""
        others = (self._open.live[one] for one in self._open.locks.get(lock, {}) if one in self._open.live)
        return restraint.why_queued(past(run), (past(live.run) for live in others))

    # ------------------------------------------------------------ writing and doing

    async def _commit(self, written: Sequence[Written]) -> None:
        to_write = [one for one in written if one.rows]
        if to_write:
            try:
                await self._write(to_write, ())
            except (Busy, StorageError) as exc:
                log.error("runs cannot be written: nothing of them goes on", extra=fields(why=exc))
                self._throw_away([one.live for one in to_write])
                await asyncio.sleep(0)
                return
        for one in written:
            self._do(one)

    async def _write(
        self,
        written: Sequence[Written],
        extra: Sequence[Callable[[sa.Connection], None]],
        *,
        new: bool = False,
    ) -> None:
        """All rows in one transaction; the heads that follow are ours once it is committed."""
        site, clock = self._store.site, self._clock
        summaries = [summary_of(one.live.run) for one in written]

        def work(connection: sa.Connection) -> list[JournalHead]:
            added = [
                (
                    one.live.run.run_id,
                    one.live.head,
                    [NewRow(at_ms, kind_of(row), body_of(row)) for at_ms, row in one.rows],
                )
                for one in written
            ]
            heads = runs.append_all(connection, site, added)
            runs.save_summaries(connection, site, summaries, new=new)
            for one, head in zip(written, heads, strict=True):
                for entry in one.entries:
                    told = {"run": one.live.run.run_id, "journal_n": head.n, "journal_hash": head.hash.hex()}
                    known = {**entry.detail, **told}
                    audit.append(connection, site, clock, replace(entry, detail=known))
            for call in extra:
                call(connection)
            return heads

        self.writing()
        heads = await self._store.write(work)
        for one, head in zip(written, heads, strict=True):
            one.live.head = head
            self.counters.rows += len(one.rows)
        self.written(sum(len(one.rows) for one in written))

    def _throw_away(self, lives: Iterable[Live]) -> None:
        """What was decided did not happen: fold them again before anything else, with what hosts said meanwhile."""
        self._behind = True
        for live in lives:
            self.counters.thrown_away += 1
            self._open.drop(live)
            self._broken[live.run.run_id] = None

    async def _mend(self) -> None:
        if self._broken:
            broken, self._broken = list(self._broken), {}
            try:
                await self._fold(broken)
            except StorageError:
                self._broken.update(dict.fromkeys(broken))
                raise
            for run_id in broken:
                live = self._open.live.get(run_id)
                if live is not None:
                    live.resumed = live.run.state in HOLDS_LOCK and live.run.state is not RunState.HELD

    async def _catch_up(self) -> None:
        """Read back what hosts said since the oldest command that is not over. Raises StorageError."""
        if not self._behind:
            return
        waiting = [
            attempt.at_ms
            for live in self._open.live.values()
            for attempt in (*live.run.open_attempts(), *live.run.unknown_attempts())
        ]
        if waiting:
            site, since_ms = self._store.site, min(waiting)
            found = await asyncio.to_thread(
                self._store.read, lambda connection: list(commands.since(connection, site, since_ms))
            )
            for agent, event in found:
                live = self._open.live.get(event.run)
                if live is not None:
                    live.told.append((agent, event))
                    self._open.mark(live)
        self._behind = False

    def _do(self, one: Written) -> None:
        live = one.live
        for effect in one.effects:
            match effect:
                case Send(key=key):
                    self._send(live, live.run.keys[key])
                case Cancel(key=key):
                    self.orders.send(live.run.keys[key].agent, CancelOrder(key))
                case Tell(channel=channel, text=text):
                    self._tell(live.run, channel, text)
        self._after(live, one.before)

    def _send(self, live: Live, attempt: Attempt) -> None:
        self.counters.commands += 1
        command = command_of(live.run, live.flow, attempt)
        if not self.orders.send(attempt.agent, command, attempt.not_after_ms):
            live.unsent.append(attempt.key)
            self._open.mark(live)

    def _after(self, live: Live, before: RunState | None) -> None:
        run = live.run
        if run.state is not before:
            self._publish(summary_of(run))
            self._release(live, before)
        if run.state in ENDED:
            self._open.drop(live)
        else:
            self._open.note(live)

    def _release(self, live: Live, before: RunState | None) -> None:
        """Others may have waited for what this run holds no more."""
        if before not in {None, RunState.PROPOSED}:
            for run_id in self._open.locks.get(live.run.created.lock, {}):
                if run_id != live.run.run_id:
                    self._open.due[run_id] = None

    def _sort_inbox(self) -> None:
        while self._inbox:
            agent, event = self._inbox.popleft()
            if isinstance(event, States):
                for asked in self._asked_by(agent, event):
                    asked.told.append((agent, event))
                    self._open.mark(asked)
                continue
            live = self._open.live.get(event.run)
            if live is not None:
                live.told.append((agent, event))
                self._open.mark(live)
            elif not isinstance(event, Accepted) and event.key in self._looks:
                future = self._looks.pop(event.key)
                if not future.done():
                    future.set_result(event)

    def _asked_by(self, agent: str, event: States) -> list[Live]:
        waiting = (self._open.live[run_id] for run_id in self._open.by_agent.get(agent, {}))
        return [live for live in waiting if any(key in live.run.open_keys for key in event.states)]

    # ------------------------------------------------------------ asking hosts

    def _ask(self, now_ms: int) -> None:
        """Ask hosts about commands that were sent and are not over."""
        wanted: dict[str, list[str]] = {}
        for run_id in self._open.busy:
            live = self._open.live[run_id]
            if now_ms < live.asked_ms + ASK_EVERY_MS:
                continue
            asked = False
            for attempt in live.run.open_attempts():
                old = now_ms >= attempt.sent_ms + ASK_AFTER_MS or not live.asked_ms
                if attempt.state is not AttemptState.INTENDED and old:
                    wanted.setdefault(attempt.agent, []).append(attempt.key)
                    asked = True
            if asked:
                live.asked_ms = now_ms
        for agent, keys in wanted.items():
            for start in range(0, len(keys), ASKED_KEYS_MAX):
                self.counters.asked += 1
                self.orders.send(agent, Ask(uuid.uuid4().hex, tuple(keys[start : start + ASKED_KEYS_MAX])))


def _unasked(row: Unasked) -> Entry:
    """What a host refuses is in the audit as it comes; what it begins and nobody here ordered has to be as well."""
    log.critical(
        "a host has begun what this collector did not order",
        extra=fields(agent=row.agent, step=row.step, key=row.key),
    )
    detail: dict[str, object] = {"step": row.step, "key": row.key, "told": row.detail, "at_ms": row.host_ms}
    return Entry(actor=HOST, action="command.unasked", target=row.agent, detail=detail)


def _any(row: Row) -> AnyRow:
    return row  # type: ignore[return-value] # Every kind of row is one of them.
