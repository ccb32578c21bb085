"""Ingest as a whole: agents, their sessions, the group commit, `up`, and the one timer that all of them
share.

`grpc_server` opens a session per connection and feeds it; this object greets, and looks after the rest. It runs in the
event loop's thread and never blocks. `gate` says who may come in, `settings` what agents are asked, `gaps` makes the
rows of what is missing.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from watchbill.clock import Clock
from watchbill.leaving import POWEROFF, REBOOT, Leaving, taken
from watchbill.limits import (
    BATCH_RECORDS_MAX,
    BEAT_INTERVAL_MS_SLOWEST,
    MESSAGE_BYTES_MAX,
    SERIES_PER_AGENT_MAX,
    SESSIONS_PER_AGENT_MAX,
    SILENCE_MAX_MS,
)
from watchbill.protocol.frames import (
    AuditHead,
    EndReason,
    Hello,
    Request,
    Settings,
    Stream,
    StreamMark,
    Welcome,
    word_of,
)
from watchbill.protocol.server import Watermark, greet
from watchbill_collector.ingest.agents import Agent, AgentFacts, stale_groups
from watchbill_collector.ingest.commit import Covered, GroupCommit
from watchbill_collector.ingest.completeness import Completeness, Coverage
from watchbill_collector.ingest.counters import IngestCounters
from watchbill_collector.ingest.delivered import through_ms
from watchbill_collector.ingest.dictionaries import Dictionaries, good_labels
from watchbill_collector.ingest.gaps import closed_row, reboot_row
from watchbill_collector.ingest.gate import JOB_LABEL, Gate
from watchbill_collector.ingest.liveness import Liveness, return_grace_s, stale_values
from watchbill_collector.ingest.ports import Admission, CritSink, GapRow, Host, Mark, Reach, Sink, Standing
from watchbill_collector.ingest.session import Outlet, Session
from watchbill_collector.ingest.settings import AgentSettings, IngestOptions, spread_ms
from watchbill_collector.series import SeriesIds, SeriesTable, Ticks

log = logging.getLogger("watchbill.ingest")

LOOK_EVERY_S = 1.0
LOOK_SHARES = 5
"""Sessions are looked at in turn, a share of them each time: all of them every second cost 5 % of a quiet collector."""
HELLO_WITHIN_S = 15.0
INSTANCE_LABEL = "instance"


class Ingest:
    """Takes what agents send. Make it in a running event loop, `restore` it, `start` it, `close` it.

    `appended` gets every committed `Ticks` and what beats carry (the head); `ended` gets series that have
    ended, with the time, beside the stale markers that history gets.
    """

    def __init__(
        self,
        table: SeriesTable,
        sink: Sink,
        admission: Admission,
        clock: Clock,
        *,
        crit: CritSink | None = None,
        appended: Callable[[Sequence[Ticks]], None] = lambda _: None,
        options: IngestOptions | None = None,
    ) -> None:
        self.table = table
        self.clock = clock
        self.options = options or IngestOptions()
        self.counters = IngestCounters()
        self.dictionaries = Dictionaries(table)
        self.live = appended
        self.commits = GroupCommit(
            sink,
            self.counters,
            crit=crit,
            appended=appended,
            committed=self._committed,
            failed=self._failed,
            settled=self._settled,
        )
        self.liveness = Liveness(table, self.commits.add_own)
        self._completeness = Completeness(table, self.commits.add_own)
        self.now_ms = clock.wall_ms()
        """The collector's wall clock, read once a turn of the loop rather than once a message."""
        self._admission = admission
        self._agents: dict[str, Agent] = {}
        self._sessions: set[Session] = set()
        self._hurried: set[Session] = set()
        self._turn: list[list[Session]] = []
        self._gate = Gate(self.options.beat_interval_ms, clock.monotonic_s(), self.options.sessions_max)
        self._settings = AgentSettings(self.options)
        self._timer: asyncio.TimerHandle | None = None
        self.audit_head: Callable[[], AuditHead | None] = lambda: None
        """The newest row of the audit, told with acknowledgements. Asked for each of them: it must cost nothing."""
        self.witness: Callable[[str, Sequence[AuditHead]], None] = lambda *_: None
        """Takes what an agent shows of what it was told. Must not block."""
        self.read_event: Callable[[str, str, bytes, bytes], object | None] = lambda *_: None
        """Reads the payload of a critical event: of an agent, its kind, its id. What is returned goes with the event.
        Raises RecordRefused. Must not block."""
        self.left: Callable[[str, Leaving], None] = lambda *_: None
        """Told of every host that said goodbye. Must not block."""
        self.came: Callable[[str], None] = lambda _: None
        """Told of each session that begins, by its agent's id. Must not block."""
        self._surplus: dict[tuple[str, bytes, int], Mark] = {}
        self._waiting: dict[str, dict[Session, tuple[Hello, Host]]] = {}
        self.counters.watch(self._gauges, self._skews)

    # ------------------------------------------------------------ life

    def restore(self, marks: Iterable[Mark]) -> None:
        """Watermarks that were committed before this process began, of both streams."""
        for mark in marks:
            host = self._admission.host(mark.agent_id)
            if host is not None and host.standing is Standing.FORGOTTEN:
                self._surplus[mark.agent_id, mark.spool_id, mark.stream] = mark
                continue
            agent = self.agent(mark.agent_id)
            # What it had delivered by then, history has to tell.
            agent.coverage = agent.coverage or Coverage(self.now_ms)
            agent.ledger.restore(mark.spool_id, StreamMark(Stream(mark.stream), mark.seq, mark.digest))

    def start(self) -> None:
        """Begin to look after sessions and hosts."""
        expected = self._admission.expected()
        now_s = self.clock.monotonic_s()
        spread_s = spread_ms(len(expected)) / 1000
        wait_s = return_grace_s(spread_s)
        self.liveness.expect(
            [
                (host.agent_id, labels, return_grace_s(spread_s, beats_ms))
                for host, labels, beats_ms in expected
            ],
            now_s,
        )
        for host, labels, leaving in self._admission.promised():
            # Who should have been back while no collector ran gets the time that all others get.
            self.liveness.promised(host.agent_id, labels, leaving.back_by_ms, now_s + wait_s)
        self._look()

    async def close(self) -> None:
        """End all sessions, commit what was accepted, acknowledge it, stop."""
        self._gate.closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.commits.flush()
        for session in list(self._sessions):
            session.acknowledge(self.clock.monotonic_s())
            session.end(EndReason.SHUTDOWN, "the collector stops", 1.0)
        await self.commits.close()

    # ------------------------------------------------------------ what others ask

    @property
    def sessions(self) -> int:
        """Connections that are open."""
        return len(self._sessions)

    def connected(self, agent_id: str) -> bool:
        """Whether an agent has a session now."""
        agent = self._agents.get(agent_id)
        return agent is not None and agent.session is not None

    def name_of(self, agent_id: str) -> str:
        """What an agent is called in counters: its instance, or its id before that is known."""
        agent = self._agents.get(agent_id)
        return agent_id if agent is None else agent.instance or agent_id

    def reach(self, agent_id: str, word: str) -> Reach:
        """Whether a host could be asked now: it is connected, and said that it takes what goes by this word."""
        agent = self._agents.get(agent_id)
        session = None if agent is None else agent.session
        if session is None or session.ended or session.bye is not None:
            return Reach.AWAY
        return Reach.ASKED if word in session.takes else Reach.TOO_OLD

    def ask(self, agent_id: str, request: Request) -> Reach:
        """Ask a host to do something, if it can be asked; nothing waits for one that cannot."""
        reach = self.reach(agent_id, word_of(request))
        if reach is Reach.ASKED:
            session = self._agents[agent_id].session
            assert session is not None, "it was reached"
            session.ask(request)
            self.counters.requests += 1
        return reach

    def through_ms(self) -> dict[str, int]:
        """Through when hosts are known, by agent id; see `delivered.py`."""
        return through_ms(self._sessions, self.clock.monotonic_s(), self.clock.wall_ms())

    def delivered(self, agent_id: str) -> bool:
        """Whether an agent has ever had something committed."""
        agent = self._agents.get(agent_id)
        return agent is not None and agent.ledger.delivered()

    def take_surplus(self) -> list[Mark]:
        """Watermarks that nobody will ask for again, of both streams, to be removed where they are stored; each is
        given once, but for a restart before it was removed.
        """
        surplus, self._surplus = self._surplus, {}
        self.counters.marks_forgotten += len(surplus)
        return list(surplus.values())

    def facts(self, agent_id: str) -> AgentFacts | None:
        """What is known of an agent now; None when this process has nothing of it."""
        agent, pulse = self._agents.get(agent_id), self.liveness.pulse(agent_id)
        if agent is None and pulse is None:
            return None
        silent_ms = round((self.clock.monotonic_s() - pulse.heard_s) * 1000) if pulse is not None else 0
        return AgentFacts(
            connected=agent is not None and agent.session is not None,
            up=pulse.up if pulse is not None else None,
            since_ms=pulse.since_ms if pulse is not None else 0,
            # Before anything was heard by this process, `heard_s` is only when it began to wait.
            heard_ms=self.clock.wall_ms() - silent_ms
            if pulse is not None and agent is not None and agent.instance
            else 0,
            agent_version=agent.agent_version if agent is not None else "",
            interval_ms=agent.interval_ms if agent is not None else 0,
            series=agent.series_count() if agent is not None else 0,
            skew_s=agent.skew_s if agent is not None else 0.0,
            last_tick_ms=agent.last_tick_ms if agent is not None else 0,
            transport=agent.transport if agent is not None else "",
            lost_ms=agent.lost_ms if agent is not None else 0,
        )

    def revoke(self, agent_id: str) -> None:
        """End an agent's session at once: it may not speak any more."""
        self._end_host(agent_id, EndReason.REVOKED, "this host was revoked or retired")

    def retire(self, agent_id: str) -> None:
        """A host was taken out of service: end its session and its series, say nothing more of it."""
        self._end_host(agent_id, EndReason.REVOKED, "this host was retired")
        self._end_series(agent_id)

    def forget(self, agent_id: str) -> None:
        """A host was forgotten: its id never comes back, and nothing is remembered of its deliveries."""
        self.retire(agent_id)
        agent = self._agents.pop(agent_id, None)
        if agent is not None:
            self._give_up(agent_id, agent.ledger.watermarks())

    def _give_up(self, agent_id: str, watermarks: Iterable[Watermark]) -> None:
        for watermark in watermarks:
            mark = watermark.mark()
            key = (agent_id, watermark.spool_id, int(mark.stream))
            self._surplus[key] = Mark(*key, mark.committed, mark.digest)

    def renamed(self, agent_id: str) -> None:
        """A host's bound labels changed: its next session has to greet anew."""
        agent = self._agents.get(agent_id)
        if agent is not None and agent.session is not None:
            agent.session.end(EndReason.SHUTDOWN, "this host's labels changed; connect again", 0.0)

    def rules_read(self, metrics: Iterable[str], period_ms: int, phase_ms: int) -> None:
        """What rules read, and when they look: t with t mod period = phase, in ms of the collector's
        clock."""
        if self._settings.rules_read(metrics, period_ms, phase_ms, len(self.liveness)):
            self._say_settings()

    def _say_settings(self) -> None:
        """Tell the sessions that are open."""
        for session in self._sessions:
            if session.pulse is not None:
                session.say(self._settings_of(session))

    # ------------------------------------------------------------ sessions

    def agent(self, agent_id: str) -> Agent:
        """What is remembered of an agent, made on first sight."""
        agent = self._agents.get(agent_id)
        if agent is None:
            agent = self._agents[agent_id] = Agent(agent_id, self.clock.monotonic_s())
        return agent

    def connect(
        self, agent_id: str, outlet: Outlet, *, transport: str = "grpc", ack_interval_ms: int | None = None
    ) -> Session | None:
        """A connection with this identity, proved by its certificate or its signature. None: it is refused, and was
        told. `ack_interval_ms` is this transport's own, where an acknowledgement is also the sign that it works.
        """
        now_s = self.clock.monotonic_s()
        host = self._admission.host(agent_id)
        if host is None:
            self.counters.sessions_refused += 1
            self.counters.refused(agent_id, "unknown_agent")
            return None
        agent = self.agent(agent_id)
        if agent.connections >= SESSIONS_PER_AGENT_MAX:
            self.counters.sessions_refused += 1
            self.counters.refused(host.instance, "connections")
            return None
        agent.connections += 1
        session = Session(
            self, agent, outlet, now_s, transport, ack_interval_ms or self.options.ack_interval_ms
        )
        self._sessions.add(session)
        return session

    def greet(self, session: Session, hello: Hello) -> None:
        """Judge a Hello, and answer it; while something of its spool is being committed, when that is done."""
        self.now_ms = self.clock.wall_ms()
        agent = session.agent
        host = self._admission.host(agent.agent_id)
        refusal = self._gate.refusal(session, hello, host, len(self._sessions), self.reconnect_spread_ms())
        if refusal is not None:
            self._refuse(session, host.instance if host is not None else agent.agent_id, *refusal)
            return
        assert host is not None
        self._replace(agent)
        if agent.ledger.unsettled(hello.spool_id):
            self._waiting.setdefault(agent.agent_id, {})[session] = (hello, host)
        else:
            self._welcome(session, hello, host)

    def _welcome_waiting(self, agent: Agent) -> None:
        """A commit is done, or failed: those who said Hello meanwhile are answered, unless there is another one."""
        for session, (hello, host) in self._waiting.pop(agent.agent_id, {}).items():
            if session.ended:
                continue
            if agent.ledger.unsettled(hello.spool_id):
                self._waiting.setdefault(agent.agent_id, {})[session] = (hello, host)
            else:
                self._welcome(session, hello, host)

    def _welcome(self, session: Session, hello: Hello, host: Host) -> None:
        """Begin a session whose Hello was found good."""
        now_s = session.heard_s
        self.now_ms = self.clock.wall_ms()
        agent = session.agent
        labels, fault = good_labels(hello.labels)
        labels = {**labels, JOB_LABEL: hello.job, **host.labels, INSTANCE_LABEL: host.instance}
        agent.labels, agent.lost_ms = labels, 0
        if agent.coverage is None:
            agent.coverage = Coverage(self.now_ms, self.now_ms)
        agent.coverage.expects(hello.interval_ms, hello.ticks_per_message)
        agent.instance, agent.job = host.instance, labels[JOB_LABEL]
        agent.agent_version, agent.interval_ms = hello.agent_version[:64], hello.interval_ms
        agent.transport = session.transport
        self._end_groups(agent.relabel(self.table.source(labels), frozenset(labels)))
        offset_ms = agent.offset(hello.boot_id, hello.wall_ms, hello.boottime_ms, self.now_ms)
        greeting = greet(agent.ledger, hello, self.now_ms)
        for closed in greeting.closed:
            self.commits.add_gap(closed_row(agent, closed, self.now_ms))
        for watermark in greeting.touched:
            self.commits.touch(watermark, agent)
        named = {hello.spool_id, *(retired.spool_id for retired in hello.retired)}
        self._give_up(agent.agent_id, agent.ledger.forget_closed(named))
        beat_interval_ms = min(
            max(self.options.beat_interval_ms, hello.beat_interval_ms), BEAT_INTERVAL_MS_SLOWEST
        )
        session.beat_interval_ms = beat_interval_ms
        pulse = self.liveness.begin(agent.agent_id, labels, beat_interval_ms, now_s, self.now_ms)
        watermarks = [agent.ledger.watermark(hello.spool_id, state.stream) for state in hello.streams]
        session.open(hello, pulse, offset_ms, watermarks)
        agent.session = session
        agent.run_id = hello.run_id
        self._note_reboot(agent, hello)
        self._admission.seen(agent.agent_id, labels, beat_interval_ms)
        self.counters.sessions_begun += 1
        session.say(
            Welcome(
                session=secrets.randbits(64) or 1,
                server_time_ms=self.now_ms,
                marks=greeting.marks,
                settings=self._settings_of(session),
                message_bytes_max=MESSAGE_BYTES_MAX,
                batch_records_max=BATCH_RECORDS_MAX,
                series_max=SERIES_PER_AGENT_MAX,
                instance=host.instance,
                audit=self._audit_head_for(session),
            )
        )
        if hello.audit:
            self.witness(agent.agent_id, hello.audit)
        self.came(agent.agent_id)
        if fault is not None:
            session.tell(fault, 1, "a label of this host, in agent.toml, is left out")

    def _audit_head_for(self, session: Session) -> AuditHead | None:
        head = self.audit_head()
        session.audit_told = head.seq if head is not None else 0
        return head

    def _refuse(
        self, session: Session, name: str, reason: EndReason, detail: str, retry_after_s: float
    ) -> None:
        self.counters.sessions_refused += 1
        self.counters.refused(name, reason.name.lower())
        session.end(reason, detail, retry_after_s)

    def _replace(self, agent: Agent) -> None:
        """A new session takes the place of one that is dead, or of an earlier connection of the same
        process."""
        if agent.session is not None:
            agent.session.end(EndReason.SHUTDOWN, "a newer connection of this agent took over", 0.0)

    def _note_reboot(self, agent: Agent, hello: Hello) -> None:
        """The time that a machine was down, as it had announced: its agent cannot tell, in another boot."""
        leaving = self._admission.leaving(agent.agent_id)
        if leaving is None or leaving.reason not in (REBOOT, POWEROFF):
            return
        self.commits.add_gap(reboot_row(agent, hello.spool_id, leaving, self.now_ms))

    def knocked(self, session: Session) -> None:
        """A goodbye without a Hello: somebody asks whether this host may come in, and changes nothing."""
        host = self._admission.host(session.agent.agent_id)
        refusal = self._gate.standing(host)
        if refusal is not None:
            self._refuse(session, session.agent.agent_id if host is None else host.instance, *refusal)
        else:
            session.end(EndReason.SHUTDOWN, "this host may come in", 0.0)

    def goodbye(self, session: Session) -> None:
        """An announced stop: the host's series end once everything it sent is committed."""
        if session.settled():
            self._leave(session)

    def _leave(self, session: Session) -> None:
        agent, farewell = session.agent, session.bye
        assert farewell is not None, "only who says goodbye leaves"
        session.acknowledge(self.clock.monotonic_s())
        self._end_series(agent.agent_id)
        leaving = taken(farewell, self.now_ms)
        self._admission.left(agent.agent_id, leaving)
        if leaving.back_by_ms:
            self.liveness.promised(agent.agent_id, agent.labels, leaving.back_by_ms)
        session.end(EndReason.SHUTDOWN, "goodbye", 0.0)
        self.counters.left(leaving.reason)
        self.left(agent.agent_id, leaving)

    def gone(self, session: Session) -> None:
        """A session is over, from either side."""
        session.ended = True
        self._hurried.discard(session)
        if session in self._sessions:
            self._sessions.discard(session)
            session.agent.connections -= 1
        if session.agent.session is session:
            session.agent.session = None
            if session.bye is None:
                session.agent.lost_ms = self.clock.wall_ms()

    def _end_host(self, agent_id: str, reason: EndReason, detail: str) -> None:
        for session in [one for one in self._sessions if one.agent.agent_id == agent_id]:
            session.end(reason, detail, 60.0)

    def _end_series(self, agent_id: str) -> None:
        """Stale markers for everything a host has, and nothing more said of it."""
        self.now_ms = self.clock.wall_ms()
        agent = self._agents.get(agent_id)
        if agent is not None:
            self._end_groups(agent.series_in_use())
        self.liveness.end(agent_id, self.now_ms)

    def _end_groups(self, groups: Sequence[SeriesIds]) -> None:
        for ids in stale_groups(groups):
            times = np.array([self.now_ms], np.int64)
            self.commits.add_own([Ticks(ids, times, stale_values(len(ids)))])

    # ------------------------------------------------------------ after commits

    def _committed(self, agents: Sequence[Agent]) -> None:
        now_s = self.clock.monotonic_s()
        for agent in agents:
            self._welcome_waiting(agent)
            session = agent.session
            if session is None:
                continue
            if session.bye is not None and session.settled():
                self._leave(session)
            else:
                session.acknowledge(now_s)

    def _settled(self, covered: Covered, gaps: Sequence[GapRow]) -> None:
        for agent, times in covered:
            if agent.coverage is not None:
                agent.coverage.mark(times)
        for row in gaps:
            self.counters.gap(self.name_of(row.agent_id), row)

    def _coverages(self) -> list[tuple[int, Coverage]]:
        found = [(up, self._agents.get(agent_id)) for agent_id, up in self.liveness.shown()]
        return [
            (up, agent.coverage) for up, agent in found if agent is not None and agent.coverage is not None
        ]

    def unread(self) -> dict[str, Coverage]:
        """Hosts that were there before this process, whose last hour has to be read from history."""
        return {
            agent_id: agent.coverage
            for agent_id, agent in self._agents.items()
            if agent.coverage is not None and agent.coverage.since_ms is None
        }

    def _failed(self, agents: Sequence[Agent], seconds: float) -> None:
        for agent in agents:
            self._welcome_waiting(agent)
            if agent.session is not None:
                agent.session.busy(seconds)

    # ------------------------------------------------------------ the shared timer

    def _look(self) -> None:
        """Once a second: acknowledgements that are due, sessions that are silent, hosts that are up or
        down."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
        now_s = self.clock.monotonic_s()
        self.now_ms = self.clock.wall_ms()
        for session in [*self._hurried, *self._next_share()]:
            self._look_at(session, now_s)
        if self.liveness.look(now_s, self.now_ms):
            self._completeness.say(self.now_ms, self._coverages())
        if round(now_s) % 10 == 0 and self._settings.renew(len(self.liveness)):
            self._say_settings()

    def _next_share(self) -> list[Session]:
        """The sessions whose turn it is."""
        if not self._turn:
            everybody = list(self._sessions)
            self._turn = [everybody[share::LOOK_SHARES] for share in range(LOOK_SHARES)]
        return self._turn.pop()

    def _look_at(self, session: Session, now_s: float) -> None:
        if session.ended:
            return
        if session.pulse is None:
            if now_s - session.began_s > HELLO_WITHIN_S:
                self.counters.refused(session.agent.agent_id, "no_hello")
                session.end(EndReason.PROTOCOL, "no Hello came")
        elif now_s - session.heard_s > SILENCE_MAX_MS / 1000:
            session.end(EndReason.SHUTDOWN, "nothing was heard for too long", 0.0)
        elif now_s >= session.ack_at_s:
            session.acknowledge(now_s)

    def hurry(self, session: Session, *, on: bool) -> None:
        """Whether to look at a session every second: one with little credit may be waiting for more."""
        if on:
            self._hurried.add(session)
        else:
            self._hurried.discard(session)

    def reconnect_spread_ms(self) -> int:
        """Over how long agents should spread their next connections."""
        return spread_ms(len(self.liveness))

    def _settings_of(self, session: Session) -> Settings:
        return self._settings.told(session.beat_interval_ms, session.ack_interval_ms)

    def _gauges(self) -> dict[str, float]:
        return {
            "sessions": float(len(self._sessions)),
            "agents": float(len(self._agents)),
            "agents_up": float(self.liveness.count_up()),
            "pending_bytes": float(self.commits.pending_bytes),
        }

    def _skews(self) -> list[tuple[str, float]]:
        return [
            (agent.instance, agent.skew_s) for agent in self._agents.values() if agent.session is not None
        ]
