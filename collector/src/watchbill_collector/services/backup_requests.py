"""What hosts were asked to verify, and what they answered; on the loop.

A request is sent to a host that is connected now, or not at all: nothing waits here for one that comes back. That
somebody asked is in the audit, what the host answered among its critical events, and what a verification found among
the backup's records, under the request's id. What is here are the newest requests, for whoever asked and waits.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from watchbill.clock import Clock
from watchbill.errors import Refused, Unreachable
from watchbill.limits import REQUEST_ID_BYTES, REQUEST_WITHIN_S
from watchbill.protocol.frames import VERIFY, VerifyBackup
from watchbill_collector.api.backup_port import VerifyRequest, shown
from watchbill_collector.api.ports import at
from watchbill_collector.backups import JobKey
from watchbill_collector.ingest.ports import Reach

KEPT_PER_JOB: Final = 5
KEPT_JOBS_MAX: Final = 1_000
"""Jobs whose newest requests are kept; the one that was asked about first goes."""
UNANSWERED_MAX: Final = 4
"""Requests that one host has not answered, of the last REQUEST_WITHIN_S; the next is refused."""
ANSWER_WITHIN_S: Final = 5.0
"""How long whoever asks is kept waiting for the host's answer. It is an event, synced there and committed here."""


class Hosts(Protocol):
    """The way down to hosts: `Ingest`."""

    def reach(self, agent_id: str, word: str) -> Reach:
        """Whether a host could be asked now for what goes by this word."""

    def ask(self, agent_id: str, request: VerifyBackup) -> Reach:
        """Ask it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a host says to a request: `answer` is a word of `watchbill.backups.requests`."""

    request_id: str
    job: str
    answer: str
    level: str = ""
    copy: str = ""
    reason: str = ""
    why: str = ""


@dataclass(slots=True)
class _Kept:
    """A request, of which host it was asked, and who waits for the answer."""

    agent_id: str
    asked: VerifyRequest
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class VerifyRequests:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of_jobs: dict[JobKey, deque[_Kept]] = {}

    def make(self, key: JobKey, host: str, level: str, by: str) -> VerifyRequest:
        """A request that is about to be sent. Raises Refused when its host does not answer those before."""
        since = at(self._clock.wall_ms() - REQUEST_WITHIN_S * 1000)
        waiting = [
            one
            for kept in self._of_jobs.values()
            for one in kept
            if one.agent_id == key.agent_id and not one.asked.answer and one.asked.at > since
        ]
        if len(waiting) >= UNANSWERED_MAX:
            raise Refused(
                f"{shown(host)} has not answered {len(waiting)} requests of the last minute: try again later"
            )
        made = VerifyRequest(
            id=secrets.token_hex(REQUEST_ID_BYTES),
            name=key.job,
            host=host,
            level=level,
            by=by,
            at=at(self._clock.wall_ms()),
        )
        kept = self._of_jobs.pop(key, None) or deque(maxlen=KEPT_PER_JOB)
        kept.append(_Kept(key.agent_id, made))
        self._of_jobs[key] = kept  # Now the newest.
        if len(self._of_jobs) > KEPT_JOBS_MAX:
            del self._of_jobs[next(iter(self._of_jobs))]
        return made

    def withdraw(self, key: JobKey, request_id: str) -> None:
        """It was not sent after all."""
        kept = self._of_jobs.get(key, deque())
        for one in [one for one in kept if one.asked.id == request_id]:
            kept.remove(one)

    def answered(self, agent_id: str, answer: Answered) -> None:
        """A host answers. It speaks for itself alone, and once."""
        one = self._find(JobKey(agent_id, answer.job), answer.request_id)
        if one is None or one.asked.answer:
            return
        one.asked = replace(
            one.asked,
            answer=answer.answer,
            answered=at(self._clock.wall_ms()),
            level=answer.level or one.asked.level,
            copy=answer.copy,
            reason=answer.reason,
            why=answer.why,
        )
        one.answered.set()

    async def wait(self, key: JobKey, request: VerifyRequest, within_s: float) -> VerifyRequest:
        """The request as it stands when its host has answered, or when the time is over."""
        one = self._find(key, request.id)
        if one is None:
            return request
        try:
            async with asyncio.timeout(within_s):
                await one.answered.wait()
        except TimeoutError:
            pass
        return one.asked

    def of(self, key: JobKey) -> Sequence[VerifyRequest]:
        """Of a job, the newest first."""
        return [one.asked for one in reversed(self._of_jobs.get(key, ()))]

    def _find(self, key: JobKey, request_id: str) -> _Kept | None:
        return next((one for one in self._of_jobs.get(key, ()) if one.asked.id == request_id), None)


def unreached(reach: Reach, host: str) -> Refused | Unreachable:
    """Why a host is not asked."""
    name = shown(host)
    if reach is Reach.TOO_OLD:
        return Refused(f"the agent of {name} is too old to be asked: watchbill hosts --outdated")
    return Unreachable(
        f"{name} is not connected, and a request does not wait for it: ask again when it is back "
        f"(watchbill hosts show {name})"
    )


class MemoryHosts:
    """The twin of the way down: hosts by agent id, and what they were asked. `answers` is told of every request."""

    def __init__(
        self,
        hosts: Mapping[str, Reach] | None = None,
        answers: Callable[[str, VerifyBackup], None] = lambda *_: None,
    ) -> None:
        self.hosts = dict(hosts or {})
        self.answers = answers
        self.asked: list[tuple[str, VerifyBackup]] = []

    def reach(self, agent_id: str, word: str = VERIFY) -> Reach:  # noqa: ARG002 - As it was set, whatever is asked.
        """As it was set."""
        return self.hosts.get(agent_id, Reach.AWAY)

    def ask(self, agent_id: str, request: VerifyBackup) -> Reach:
        """Note it."""
        reach = self.reach(agent_id)
        if reach is Reach.ASKED:
            self.asked.append((agent_id, request))
            self.answers(agent_id, request)
        return reach
