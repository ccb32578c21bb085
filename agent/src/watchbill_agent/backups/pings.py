"""Pings of jobs on this host, as healthchecks takes them: a URL that a script or borgmatic asks for. A name is that of
a backup job or of a heartbeat check.

    curl -fsS http://127.0.0.1:7481/ping/nightly/start
    restic backup ...; curl -fsS --data-binary @log http://127.0.0.1:7481/ping/nightly/$?

`/ping/JOB` says that a run ended well, `/start` that it begins, `/fail` that it failed, `/0` to `/255` with which code
it ended, `/log` that it still goes on; what is posted is kept as the end of its output. `?rid=` names the run of a
backup; without it an end belongs to the last start. Only names that this host defines are taken. A page in a browser
that makes one ask is refused: browsers say where a request comes from.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote

from watchbill.backups.record import Kind, Outcome, Record, Source, new_id
from watchbill.clock import Clock
from watchbill.config import Address
from watchbill.errors import UsageError
from watchbill_agent.backups.redact import Redactor
from watchbill_agent.backups.report import run_id_of
from watchbill_agent.backups.words import tail_of
from watchbill_agent.small_http import Answer, Request, SmallServer

log = logging.getLogger(__name__)

PINGS_PER_MINUTE_MAX: Final = 60
"""Of one job; more are refused and counted. Records stay: a loop that pings must not fill the collector."""
MINUTE_S: Final = 60.0
METHODS: Final = ("GET", "HEAD", "POST")
EXIT_CODE_MAX: Final = 255
_PATH = re.compile(r"/ping/([^/]+)(?:/([^/]*))?")
_CODE = re.compile(r"\d{1,3}", re.ASCII)
_BROWSER: Final = ("origin", "sec-fetch-site")
"""Headers that only a browser sends."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Of a heartbeat check: `what` is start, success, fail or log, `text` the end of what was posted."""

    name: str
    what: str
    code: int | None
    text: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Beats:
    """The heartbeat checks of this host: their names now, and who takes a ping and says whether it was kept."""

    names: Callable[[], Collection[str]] = frozenset
    tell: Callable[[Ping], Awaitable[bool]] | None = None


@dataclass(slots=True)
class _Heard:
    """Of one job: its run that goes on, and how often it was heard this minute."""

    run_id: str = ""
    started_ms: int = 0
    minute: int = -1
    pings: int = 0


class Pings(SmallServer):
    """Takes pings. `jobs` are the names of those there are now, `keep` takes a record and says whether it was kept."""

    def __init__(
        self,
        address: Address,
        jobs: Callable[[], Collection[str]],
        keep: Callable[[Record], Awaitable[bool]],
        clock: Clock,
        beats: Beats = Beats(),
    ) -> None:
        super().__init__(address, "heartbeat.listen", self._ping, METHODS)
        self._beats = beats
        self._jobs = jobs
        self._keep = keep
        self._clock = clock
        self._redact = Redactor()
        self._heard: dict[str, _Heard] = {}
        self.taken = 0
        self.turned_away = 0
        """Pings that were none, of jobs that there are not, or too many."""

    async def _ping(self, request: Request) -> Answer:
        answer = await self._judged(request)
        if answer.status.startswith("200"):
            self.taken += 1
        else:
            self.turned_away += 1
        return answer

    async def _judged(self, request: Request) -> Answer:
        if any(header in request.headers for header in _BROWSER):
            return Answer("403 Forbidden", b"a browser does not run backups\n")
        named = _PATH.fullmatch(request.path)
        if named is None:
            return Answer(
                "404 Not Found", b"wanted /ping/NAME, and /start, /fail, /log or an exit code behind it\n"
            )
        job, verb = unquote(named[1]), unquote(named[2] or "")
        jobs, beats = self._jobs(), self._beats.names()
        if job not in jobs and job not in beats:
            return Answer("404 Not Found", b"backups.d has no such job, and checks.d no such heartbeat\n")
        # Jobs come and go with reloads; only those that there are take room.
        self._heard = {name: heard for name, heard in self._heard.items() if name in jobs or name in beats}
        heard = self._heard.setdefault(job, _Heard())
        if not self._has_room(heard):
            return Answer("429 Too Many Requests", f"{PINGS_PER_MINUTE_MAX} a minute at most\n".encode())
        try:
            if job not in jobs:
                return await self._beat(job, verb, request)
            record = self._record(job, verb, request, heard)
        except UsageError as exc:
            return Answer("400 Bad Request", f"{exc}\n".encode())
        if record is None:
            return Answer("200 OK", b"OK, but no run goes on\n")
        if not await self._keep(record):
            return Answer("503 Service Unavailable", b"it could not be kept; the agent's log says why\n")
        going_on = record.outcome is Outcome.RUNNING
        heard.run_id, heard.started_ms = (record.run_id, record.started_ms) if going_on else ("", 0)
        return Answer("200 OK", b"OK\n")

    async def _beat(self, name: str, verb: str, request: Request) -> Answer:
        """A ping of a heartbeat check: answered when it is kept. Raises UsageError."""
        outcome, code = _outcome(verb)
        what = {Outcome.OK: "success", Outcome.FAILED: "fail"}.get(outcome, verb)
        text = tail_of(self._redact(request.body.decode("utf-8", "replace")))
        tell = self._beats.tell
        if tell is None or not await tell(Ping(name, what, code, text, self._clock.wall_ms())):
            return Answer("503 Service Unavailable", b"it could not be kept; the agent's log says why\n")
        return Answer("200 OK", b"OK\n")

    def _has_room(self, heard: _Heard) -> bool:
        minute = int(self._clock.monotonic_s() // MINUTE_S)
        if heard.minute != minute:
            heard.minute, heard.pings = minute, 0
        heard.pings += 1
        return heard.pings <= PINGS_PER_MINUTE_MAX

    def _record(self, job: str, verb: str, request: Request, heard: _Heard) -> Record | None:
        """What it says; None when it is a word about a run, and none goes on. Raises UsageError."""
        outcome, exit_code = _outcome(verb)
        rid = (parse_qs(request.query).get("rid") or [""])[0]
        now_ms = self._clock.wall_ms()
        run_id = run_id_of(job, rid) if rid else ""
        begins = verb == "start"
        same = bool(heard.run_id) and run_id in ("", heard.run_id) and not begins
        if verb == "log" and not same:
            return None
        started_ms = heard.started_ms if same else now_ms if begins else 0
        return Record(
            record_id=new_id(),
            job=job,
            kind=Kind.RUN,
            source=Source.PING,
            outcome=outcome,
            observed_ms=now_ms,
            run_id=heard.run_id if same else run_id or new_id(),
            started_ms=started_ms,
            finished_ms=0 if outcome is Outcome.RUNNING else now_ms,
            exit_code=exit_code,
            point_ms=started_ms,
            tail=tail_of(self._redact(request.body.decode("utf-8", "replace"))),
        )


def _outcome(verb: str) -> tuple[Outcome, int | None]:
    """What the last part of the path says, and the exit code that it may be. Raises UsageError."""
    if verb in ("start", "log"):
        return Outcome.RUNNING, None
    if not verb:
        return Outcome.OK, None
    if verb == "fail":
        return Outcome.FAILED, None
    if _CODE.fullmatch(verb) and int(verb) <= EXIT_CODE_MAX:
        return Outcome.FAILED if int(verb) else Outcome.OK, int(verb)
    raise UsageError(f"got {verb[:40]!r}, wanted start, fail, log or an exit code of 0 to {EXIT_CODE_MAX}")
