"""One look at one check, whatever it does: an outcome always comes of it."""

import asyncio
from typing import Final

from watchbill_agent.checks import wire
from watchbill_agent.checks.answering import mistake
from watchbill_agent.checks.check import Failed, Outcome, Probe, Task, Verdict
from watchbill_agent.checks.config import Spec
from watchbill_agent.checks.workers import Workers

TIMEOUT: Final = "timeout"
"""The reason of every look that did not end in time; no kind uses it for anything else."""


async def look(spec: Spec, workers: Workers, memory: dict[str, object] | None) -> wire.Answer | Outcome:
    """What was found: with what is to be remembered, where a worker looked. Raises nothing but CancelledError."""
    check, within_s = spec.check, spec.timeout_s
    try:
        if isinstance(check, Task):
            return await workers.look(question(spec, memory))
        assert isinstance(check, Probe), "what listens is not looked at"
        async with asyncio.timeout(within_s):
            return await check.look(within_s)
    except TimeoutError:
        return Outcome(Verdict.CRITICAL, TIMEOUT, f"got no answer within {within_s:g} s")
    except Failed as exc:
        return exc.outcome()
    except Exception as exc:  # noqa: BLE001 - A kind's mistake is told as one, and no other check notices.
        return mistake(exc)


def question(spec: Spec, memory: dict[str, object] | None) -> wire.Question:
    """For the process that looks, or listens."""
    about = spec.check.about
    trees = (str(about.etc), str(about.procfs), str(about.sysfs), str(about.rootfs))
    return wire.Question(
        spec.name,
        spec.kind,
        dict(spec.values),
        spec.interval_s,
        spec.timeout_s,
        trees,
        spec.timeout_s,
        memory,
    )
