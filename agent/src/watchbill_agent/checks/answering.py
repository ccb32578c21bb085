"""The other end of a pipe from the child: a process that looks at what may block, or listens. Questions come on
standard input; answers go to what was standard output, which nobody else here can write to.

    python -m watchbill_agent.checks.answering look      a question after the other
    python -m watchbill_agent.checks.answering listen    one question, and answers for ever

It ends with who started it. What it starts itself is of its process group, and is killed with it.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from watchbill.config.convert import Table
from watchbill_agent.checks import kinds, wire
from watchbill_agent.checks.check import About, Check, Failed, Listener, Outcome, Task, Verdict
from watchbill_agent.checks.config import make
from watchbill_agent.checks.processes import die_with_parent

MADE_MAX: Final = 256
"""Checks that one process keeps made."""


class Answering:
    """Makes checks, and keeps them as long as their options stay."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[wire.Question, Check]] = {}

    def check(self, question: wire.Question) -> Check:
        """The check of this question, with what it remembers."""
        before = self._made.get(question.name)
        if before is not None and _same(before[0], question):
            check = before[1]
        else:
            check = made(question)
            if len(self._made) >= MADE_MAX:
                del self._made[next(iter(self._made))]
            self._made[question.name] = (question, check)
        if question.memory is not None:
            check.recall(question.memory)
        return check

    def look(self, question: wire.Question) -> wire.Answer:
        """Look once. Raises nothing."""
        memory: Mapping[str, Any] | None = question.memory
        began_s = time.monotonic()
        try:
            check = self.check(question)
            assert isinstance(check, Task), "a probe is looked through by the child itself"
            outcome = check.look(question.within_s)
            memory = check.memory()
        except Failed as exc:
            outcome = exc.outcome()
            memory = _kept(self._made.get(question.name), memory)
        except Exception as exc:  # noqa: BLE001 - A kind's mistake is told as one, and no other check notices.
            outcome = mistake(exc)
        took_s = time.monotonic() - began_s
        return wire.Answer(wire.result_of(outcome), None if memory is None else dict(memory), took_s)


def _same(a: wire.Question, b: wire.Question) -> bool:
    return (a.kind, a.values, a.interval_s, a.timeout_s, a.trees) == (
        b.kind,
        b.values,
        b.interval_s,
        b.timeout_s,
        b.trees,
    )


def _kept(
    made_: tuple[wire.Question, Check] | None, before: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """What a check that failed remembers: it may have come some way."""
    return before if made_ is None else made_[1].memory()


def made(question: wire.Question) -> Check:
    """The check of a question. The child has judged its options."""
    kind = kinds.find(question.kind)
    assert kind is not None, "the child knows the kind"
    etc, procfs, sysfs, rootfs = (Path(one) for one in question.trees)
    about = About(question.name, question.interval_s, question.timeout_s, procfs, sysfs, rootfs, etc)
    check = make(kind, Table(question.values), about)
    assert isinstance(check, Check), "the child has judged the options"
    return check


def mistake(exc: BaseException) -> Outcome:
    """What a kind that stumbled found out: nothing."""
    traceback.print_exc()
    if isinstance(exc, MemoryError):
        return Outcome(Verdict.UNKNOWN, "out-of-memory", "there was not enough memory for the answer")
    return Outcome(Verdict.UNKNOWN, "check-failed", f"the check itself failed: {type(exc).__name__}: {exc}")


def listen(question: wire.Question, send: Callable[[wire.Answer], None]) -> None:
    """Listen for ever, or as long as it can."""

    def report(outcome: Outcome) -> None:
        send(wire.Answer(wire.result_of(outcome), None))

    try:
        check = made(question)
        assert isinstance(check, Listener), "who does not listen is not asked to"
        check.run(report)
        report(Outcome(Verdict.UNKNOWN, "check-failed", "it stopped listening"))
    except Failed as exc:
        report(exc.outcome())
    except OSError as exc:
        words = (exc.strerror or str(exc)).lower()
        report(Outcome(Verdict.CRITICAL, "cannot-listen", words))
    except Exception as exc:  # noqa: BLE001 - As above.
        report(mistake(exc))


def main(argv: list[str]) -> int:
    """Answer until nobody asks."""
    die_with_parent()
    answers = _own_output()

    def send(answer: wire.Answer) -> None:
        answers.write(wire.frame(answer))
        answers.flush()

    try:
        if argv == ["listen"]:
            listen(wire.receive_here(sys.stdin.buffer, wire.QUESTIONS), send)
            return 0
        answering = Answering()
        answers.write(wire.READY)
        answers.flush()
        while True:
            send(answering.look(wire.receive_here(sys.stdin.buffer, wire.QUESTIONS)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return 0


def _own_output() -> IO[bytes]:
    """Standard output for answers alone: what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
