"""`backup wrap JOB -- CMD...`: runs a backup's command and tells how it went.

1. What backups.d says of the job is read, as far as it is needed; the search for its patterns is forked.
2. The command starts (`passing`: as if nobody stood between).
3. In a thread (`telling`): a record that it began, one every minute while it goes on, one at its end. All have one run
   id. Heavy imports happen there, while the command works.
4. At the end `verdict` says how it went, and this process ends as the command did.

Nothing that goes wrong here keeps a backup from being made or changes how it ended; it is said on standard error, once,
at the end. Only `--require-record` turns that round. Killed by SIGKILL, this leaves a run that has begun and has no
end; what that means is the collector's to judge.
"""

import os
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from watchbill_agent.backups.jobfile import WRAP, JobFile, read_job
from watchbill_agent.backups.passing import (
    COUNT,
    STDERR,
    STDOUT,
    CannotStart,
    Ended,
    Last,
    Passing,
    end_like,
    environment_at_start,
)
from watchbill_agent.backups.patterns import KINDS, OK_IF, Found, Search, UnusablePattern, compiled
from watchbill_agent.backups.telling import CLOSE_S_MAX, Telling
from watchbill_agent.entry import OWN_FAILURE

if TYPE_CHECKING:
    from watchbill.homes import Homes
    from watchbill_agent.backups.adapter import Adapter, RunFacts
    from watchbill_agent.backups.drop import Document

BEAT_EVERY_S: Final = 60.0
MANIFEST_S_MAX: Final = 90.0
"""How much longer the end may be waited for where a manifest is made first; that has a shorter deadline of its own."""
TAIL_BYTES: Final = 32 * 1024
"""Kept of both outputs together for the tail: more than it holds, because what is taken out is taken out first."""
READ_RUN_BYTES: Final = 512 * 1024
"""Kept of each output for the tool's adapter: its summary is at the end."""
ID_BYTES: Final = 16
BLOCK_BYTES: Final = 512
"""What the kernel counts a process' reading and writing in."""


class Wrapping(NamedTuple):
    """What the command line says. Values here are no dataclasses: a backup would wait 15 ms for their import."""

    job: str
    argv: Sequence[str]
    patterns: Mapping[str, Sequence[str]] = MappingProxyType({})
    count_descriptor: int = 0
    """The descriptor on which the command says how many bytes it has written; 0: none."""
    require_record: bool = False
    manifest: Sequence[str] = ()
    """Paths to make a manifest of; without any the job's own are taken, where it asks for one."""
    excluded: Sequence[str] = ()


class Wrap:
    """One run."""

    def __init__(self, wrapping: Wrapping, homes: "Homes") -> None:
        self._wrapping = wrapping
        self._homes = homes
        self._job: JobFile = read_job(homes.etc, wrapping.job)
        self.faults: list[str] = list(self._job.faults)
        """What went wrong here."""
        self._run_id = _new_id()
        self._started_ms = 0
        self._search = self._start_search()
        self._tail = Last(TAIL_BYTES)
        self._out = {STDOUT: Last(READ_RUN_BYTES), STDERR: Last(READ_RUN_BYTES), COUNT: Last(READ_RUN_BYTES)}
        self._adapter: Adapter | None = None

    def run(self) -> int:
        """The exit code to end with; may end by the signal that ended the command."""
        passing = Passing(
            self._wrapping.argv, environment_at_start(), self._kept, self._wrapping.count_descriptor
        )
        self._started_ms = _now_ms()
        telling = Telling(self._drop)
        telling.keep(self._begun)
        if self._wrapping.require_record and not telling.wait(1):
            self._finish_search()
            self._say_all([*self.faults, *telling.faults], "the command was not started")
            return OWN_FAILURE
        telling.do(self._make_ready)
        how = self._pass(passing, telling)
        found, finished_ms = self._finish_search(), _now_ms()
        telling.keep(lambda: self._ended(how, found, finished_ms))
        telling.close(CLOSE_S_MAX + (MANIFEST_S_MAX if self._roots else 0))
        self._say_all([*self.faults, *telling.faults], "the command was not held up by it")
        stranger = self._job.stranger(self._wrapping.job)
        if stranger and os.isatty(
            STDERR
        ):  # Somebody tries it out; elsewhere nothing is added to what is printed.
            self._say(stranger)
        if isinstance(how, CannotStart):
            self._say(str(how))
            return how.code
        if self._wrapping.require_record and telling.faults and how.exit_code == 0:
            return OWN_FAILURE
        return end_like(how)

    def _pass(self, passing: Passing, telling: Telling) -> Ended | CannotStart:
        try:
            passing.start()
        except CannotStart as exc:
            return exc
        return passing.wait(BEAT_EVERY_S, lambda: telling.beat(self._goes_on))

    # ------------------------------------------------------------ what is printed

    def _start_search(self) -> Search | None:
        patterns = {
            kind: [*self._wrapping.patterns.get(kind, ()), *self._job.patterns.get(kind, ())]
            for kind in KINDS
        }
        self._ok_wanted = bool(patterns[OK_IF])
        try:
            usable = compiled(patterns)
            return Search(usable) if usable else None
        except (UnusablePattern, OSError) as exc:
            self._ok_wanted = False
            self.faults.append(f"nothing is looked for in the output: {exc}")
            return None

    def _finish_search(self) -> Found:
        return Found() if self._search is None else self._search.finish()

    def _kept(self, which: int, data: bytes) -> None:
        self._out[which].add(data)
        if which != COUNT:
            self._tail.add(data)
            if self._search is not None:
                self._search.feed(which - STDOUT, data)

    # ------------------------------------------------------------ in the thread that tells

    def _drop(self) -> Any:
        from watchbill_agent.backups.drop import Drop

        return Drop(self._homes)

    def _make_ready(self) -> None:
        """What reads the output of this job's tool, if there is such a thing; imported while the command runs."""
        if self._job.tool in ("", WRAP):
            return
        from watchbill.errors import WatchbillError
        from watchbill_agent.backups.reading_runs import reader_of

        try:
            self._adapter = reader_of(self._homes.etc, self._wrapping.job)
        except WatchbillError as exc:
            self.faults.append(f"the output is not read: {str(exc).splitlines()[0]}")

    def _begun(self) -> "Document":
        return self._record("running", self._started_ms)

    def _goes_on(self) -> "Document":
        return self._record("running", _now_ms())

    def _record(self, outcome: str, observed_ms: int, **more: Any) -> "Document":
        from watchbill.errors import UsageError
        from watchbill_agent.backups.words import job_name_fault

        if fault := job_name_fault(self._wrapping.job):
            raise UsageError(f"JOB: {fault}")
        return {
            "record_id": _new_id(),
            "job": self._wrapping.job,
            "kind": "run",
            "source": "wrap",
            "outcome": outcome,
            "observed_ms": observed_ms,
            "run_id": self._run_id,
            "started_ms": self._started_ms,
            "point_ms": self._started_ms,
            "tool": self._job.tool or WRAP,
            **more,
        }

    def _ended(self, how: Ended | CannotStart, found: Found, finished_ms: int) -> "Document":
        from watchbill_agent.backups.verdict import FAILED, NOT_STARTED, Verdict, judge, read_count

        if isinstance(how, CannotStart):
            verdict = Verdict(FAILED, NOT_STARTED, (str(how),))
            more: dict[str, Any] = {"exit_code": how.code}
        else:
            facts = self._facts(how)
            count = read_count(self._out[COUNT].content()) if self._wrapping.count_descriptor else None
            verdict = judge(how.exit_code, how.signal, facts, found, ok_wanted=self._ok_wanted, count=count)
            more = {**_used(how), **_numbers(facts), **(count or {})}
        return self._record(
            verdict.outcome,
            finished_ms,
            finished_ms=finished_ms,
            reason=verdict.reason,
            manifest_digest=self._manifest() if verdict.outcome != FAILED else "",
            **self._texts((*verdict.errors, *self.faults)),
            **more,
        )

    @property
    def _roots(self) -> Sequence[str]:
        return self._wrapping.manifest or (self._job.paths if self._job.manifest else ())

    def _manifest(self) -> str:
        """The digest of what the source looks like now; "" where that is not asked for, or cannot be told."""
        if not self._roots:
            return ""
        from watchbill.errors import WatchbillError
        from watchbill_agent.backups.manifest import Shelf, digest_of
        from watchbill_agent.backups.manifest_make import made

        try:
            manifest, content = made(
                self._wrapping.job, self._roots, self._wrapping.excluded, self._started_ms
            )
            Shelf(self._homes.var).put(manifest, content)
        except WatchbillError as exc:
            self.faults.append(str(exc))
            return ""
        return digest_of(content)

    def _texts(self, errors: Sequence[str]) -> dict[str, Any]:
        """What may hold secrets, without them."""
        printed = self._printed()
        if not printed and not errors:
            return {}
        from watchbill.backups.bounds import ERROR_CHARACTERS_MAX, ERRORS_MAX
        from watchbill_agent.backups.redact import Redactor, known_secrets
        from watchbill_agent.backups.words import shown, tail_of

        redact = Redactor(known_secrets(os.environ, self._wrapping.argv))
        said = (redact(error[: ERROR_CHARACTERS_MAX * 4]) for error in errors[:ERRORS_MAX])
        return {
            "errors": [shown(error, ERROR_CHARACTERS_MAX) for error in said],
            "tail": tail_of(redact(printed)),
        }

    def _facts(self, ended: Ended) -> "RunFacts | None":
        if self._adapter is None or ended.exit_code is None:
            return None
        out, err = self._out[STDOUT].content(), self._out[STDERR].content()
        try:
            return self._adapter.read_run(ended.exit_code, out, err)
        except Exception as exc:  # noqa: BLE001 - A mistake in an adapter costs what it would have read, no record.
            self.faults.append(f"the output is not read: {type(exc).__name__}: {exc}")
            return None

    def _printed(self) -> str:
        content = self._tail.content()
        if self._tail.cut:  # The first line is not whole, nor would a secret in it be known as one.
            content = content.partition(b"\n")[2] or content
        return content.decode("utf-8", "replace")

    # ------------------------------------------------------------ what it says of itself

    def _say_all(self, faults: Sequence[str], then: str) -> None:
        if faults:
            first = dict.fromkeys(fault.replace("\n", "; ") for fault in faults)
            self._say(f"backup {self._wrapping.job}: {'; '.join(first)}; {then}")

    @staticmethod
    def _say(line: str) -> None:
        from watchbill.commandline import say

        try:
            say("watchbill-agent", line)
        except OSError:
            return  # Nobody listens.


def _used(ended: Ended) -> dict[str, Any]:
    usage = ended.usage
    return {
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "usage": {
            "cpu_user_s": round(usage.ru_utime, 6),
            "cpu_system_s": round(usage.ru_stime, 6),
            "rss_bytes_max": usage.ru_maxrss * 1024,
            "read_bytes": usage.ru_inblock * BLOCK_BYTES,
            "written_bytes": usage.ru_oublock * BLOCK_BYTES,
        },
    }


def _numbers(facts: "RunFacts | None") -> dict[str, Any]:
    """What the tool says of its run, as a record has it."""
    if facts is None:
        return {}
    names = (
        *("snapshot_id", "bytes_source", "bytes_added", "bytes_stored", "files", "files_failed"),
        *("log_from", "log_to", "tool_version"),
    )
    return {name: value for name in names if (value := getattr(facts, name)) not in (None, "")}


def _new_id() -> str:
    return os.urandom(ID_BYTES).hex()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
