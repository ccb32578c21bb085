"""Who may begin a session, and why not. Asked with every Hello; what it refuses is said and counted by others."""

import logging

from watchbill.limits import SESSIONS_MAX
from watchbill.protocol.frames import EndReason, Hello
from watchbill.protocol.server import fault_of
from watchbill_collector.ingest.agents import Bucket
from watchbill_collector.ingest.dictionaries import good_labels
from watchbill_collector.ingest.liveness import grace_s
from watchbill_collector.ingest.ports import Host, Standing
from watchbill_collector.ingest.session import Session

log = logging.getLogger("watchbill.ingest")

HELLOS_PER_SECOND = 200.0
HELLOS_BURST = 400.0
JOB_LABEL = "job"

_REFUSALS = {
    Standing.REVOKED: EndReason.REVOKED,
    Standing.RETIRED: EndReason.REVOKED,
    Standing.FORGOTTEN: EndReason.REVOKED,
    Standing.PENDING: EndReason.UNKNOWN_AGENT,
}

Refusal = tuple[EndReason, str, float]
"""The reason, words, and seconds until trying again makes sense."""


class Gate:
    """`beat_interval_ms`: how often agents are asked to beat. Once `closed`, nobody comes in."""

    def __init__(self, beat_interval_ms: int, now_s: float, sessions_max: int = SESSIONS_MAX) -> None:
        self.closed = False
        self._beat_interval_ms = beat_interval_ms
        self._sessions_max = sessions_max
        self._hellos = Bucket(HELLOS_PER_SECOND, HELLOS_BURST, now_s)

    def standing(self, host: Host | None) -> Refusal | None:
        """Why an agent may not come in whatever it says."""
        if host is None:
            return EndReason.UNKNOWN_AGENT, "no such host here; enrol it again", 60.0
        if host.standing is not Standing.ACTIVE:
            return _REFUSALS[host.standing], f"this host is {host.standing.value}", 60.0
        return None

    def refusal(
        self, session: Session, hello: Hello, host: Host | None, sessions: int, spread_ms: int
    ) -> Refusal | None:
        """Why a session cannot begin, if it cannot. `sessions` are open; agents that come back spread over
        `spread_ms`."""
        now_s, agent = session.heard_s, session.agent
        refused = self.standing(host)
        if refused is not None:
            return refused
        if self.closed:
            return EndReason.SHUTDOWN, "the collector stops", 5.0
        if agent.hellos.level(now_s) < 1:
            return EndReason.BUSY, "this host connects too often", 60.0
        agent.hellos.take(1, now_s)
        fault = fault_of(hello)
        if fault is not None:
            return (*fault, 60.0)
        if not hello.job or good_labels({JOB_LABEL: hello.job})[1] is not None:
            return EndReason.PROTOCOL, "the job label cannot be used", 60.0
        twin = self._twin(session, hello, host)
        if twin is not None:
            return twin
        if sessions > self._sessions_max:
            return EndReason.BUSY, "too many sessions", 30.0
        if self._hellos.take(1, now_s) < 0:
            self._hellos.take(-1, now_s)
            return EndReason.BUSY, "too many agents connect at once", spread_ms / 1000
        return None

    def _twin(self, session: Session, hello: Hello, host: Host | None) -> Refusal | None:
        """Another process with this identity that still speaks."""
        other = session.agent.session
        if other is None or other is session or other.run_id == hello.run_id:
            return None
        patience_s = grace_s(self._beat_interval_ms)
        if session.heard_s - other.heard_s > patience_s:
            return None
        # A process that was killed leaves a session that ends with its connection, at the latest after this long; two
        # that both speak are two hosts with one identity.
        name = host.instance if host is not None else session.agent.agent_id
        log.warning("%s connects twice at once: two hosts have one identity?", name)
        return EndReason.DUPLICATE_IDENTITY, "another process with this identity is connected", patience_s
