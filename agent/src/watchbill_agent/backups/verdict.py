"""How a wrapped run went: from its exit code, what its tool's adapter reads in its output, lines that were looked for,
and how many bytes it says it has written. Pure.

The last one that applies holds:

1. The exit code, as the adapter of the job's tool reads it together with the output; for all else 0 is ok.
2. `ok_if`: with it a run is ok when a line was found, whatever its exit code; and failed when none was.
3. `partial_if`: a line was found, so it is partial, whatever its exit code.
4. `fail_if`: a line was found, so it failed.
5. A count of bytes that was asked for: none, or 0, is a backup of nothing and failed.
6. Who was killed by a signal has failed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from watchbill.backups.bounds import NUMBER_MAX
from watchbill_agent.backups.patterns import FAIL_IF, OK_IF, PARTIAL_IF, Found

if TYPE_CHECKING:
    from watchbill_agent.backups.adapter import RunFacts

OK: Final = "ok"
PARTIAL: Final = "partial"
FAILED: Final = "failed"
"""As `Outcome` has them, which takes too long to import."""

EXIT_CODE: Final = "exit-code"
KILLED: Final = "killed"
NOT_STARTED: Final = "not-started"
OK_MISSING: Final = "ok-line-missing"
PARTIAL_LINE: Final = "partial-line"
FAIL_LINE: Final = "fail-line"
NO_COUNT: Final = "no-byte-count"
NO_BYTES: Final = "no-bytes"

COUNT_DIGITS_MAX: Final = 19
COUNTED: Final = ("bytes_source", "bytes_added", "bytes_stored", "files", "files_failed")


class Verdict(NamedTuple):
    """`reason` is a short word, `errors` say it to a person."""

    outcome: str
    reason: str = ""
    errors: tuple[str, ...] = ()


def judge(
    exit_code: int | None,
    signal: int | None,
    facts: "RunFacts | None",
    found: Found,
    *,
    ok_wanted: bool,
    count: Mapping[str, int] | None,
) -> Verdict:
    """`ok_wanted`: there is an ok_if. `count` is None when none was asked for."""
    if signal is not None:
        return Verdict(FAILED, KILLED, (f"the command was killed by signal {signal}",))
    assert exit_code is not None
    verdict = _by_exit(exit_code, facts)
    lines = found.lines
    if not found.whole:
        note = "the search for fail_if, partial_if and ok_if did not keep up with the output and is not whole"
        verdict = Verdict(verdict.outcome, verdict.reason, (*verdict.errors, note))
    if OK_IF in lines:
        verdict = Verdict(OK)
    elif ok_wanted and found.whole and verdict.outcome is not FAILED:
        verdict = Verdict(FAILED, OK_MISSING, ("it printed no line that ok_if asks for",))
    if PARTIAL_IF in lines:
        verdict = Verdict(PARTIAL, PARTIAL_LINE, (lines[PARTIAL_IF],))
    if FAIL_IF in lines:
        verdict = Verdict(FAILED, FAIL_LINE, (lines[FAIL_IF],))
    if count is not None and verdict.outcome is not FAILED:
        return _by_count(count, verdict)
    return verdict


def _by_exit(exit_code: int, facts: "RunFacts | None") -> Verdict:
    if facts is not None:
        return Verdict(facts.outcome, facts.reason, facts.errors)
    if exit_code == 0:
        return Verdict(OK)
    return Verdict(FAILED, EXIT_CODE, (f"the command ended with {exit_code}",))


def _by_count(count: Mapping[str, int], verdict: Verdict) -> Verdict:
    sizes = [count[name] for name in ("bytes_source", "bytes_added", "bytes_stored") if name in count]
    if not sizes:
        return Verdict(FAILED, NO_COUNT, ("it did not say how many bytes it has written",))
    if max(sizes) == 0:
        return Verdict(FAILED, NO_BYTES, ("it says that it has written 0 bytes",))
    return verdict


def read_count(content: bytes) -> dict[str, int]:
    """Numbers that a command says: `bytes_stored=N` a line, or a number alone, which is the bytes it backed up."""
    counts: dict[str, int] = {}
    for word in content.decode("ascii", "replace").split():
        name, _, number = word.rpartition("=")
        name = name or COUNTED[0]
        if name in COUNTED and number.isascii() and number.isdigit() and len(number) <= COUNT_DIGITS_MAX:
            counts[name] = min(int(number), NUMBER_MAX)
    return counts
