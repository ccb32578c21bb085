"""Watching a run from here: what changes, until it stands where a person or nobody can move it."""

import time
from collections.abc import Iterator
from typing import Any, Final

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import CommandFailed, Unreachable
from watchbill_collector.cli.options import Session
from watchbill_collector.cli.runbook_text import next_lines, prose, recovery, step_words, width_of
from watchbill_collector.cli.screen import clean

ENDED: Final = frozenset({"succeeded", "failed", "undone", "cancelled", "expired"})
INTERRUPTED: Final = 130
SETTLE_S: Final = 10.0
"""How long `run` looks on before it leaves a run to itself: most gates and refusals come in the first seconds."""
POLL_S: Final = 0.5
POLL_S_MAX: Final = 2.0
AWAY_S_MAX: Final = 300.0
"""How long the collector may be away while it is watched: it begins again, and the run with it."""


def stands(run: dict[str, Any]) -> bool:
    """Whether it goes no further without a person."""
    return run["state"] in ENDED or run["state"] == "held" or run["exit_code"] == 4


def settled(session: Session, run: dict[str, Any]) -> dict[str, Any]:
    """The run after its first moments."""
    deadline = time.monotonic() + SETTLE_S
    for seen in _looks(session, run):
        run = seen
        if stands(run) or time.monotonic() > deadline:
            break
    return run


def follow(session: Session, run: dict[str, Any], *, told: bool) -> dict[str, Any]:
    """The run when it has ended or is held. Gates are waited for. `told`: each change is a line."""
    before: dict[str, Any] = {"state": "", "state_detail": "", "steps": []}
    try:
        for seen in _looks(session, run):
            run = seen
            if told:
                for line in changes(session, before, run):
                    session.screen.line(line)
                session.screen.out.flush()  # Whoever reads a pipe wants to see it when it happens.
            if run["state"] in ENDED or run["state"] == "held":
                break
            before = run
    except KeyboardInterrupt as exc:
        raise CommandFailed(
            "no longer watching; the run goes on", f"watchbill runs follow {clean(run['id'])}", INTERRUPTED
        ) from exc
    return run


def _looks(session: Session, run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The run again and again, slower and slower. Raises CommandFailed."""
    pause_s = POLL_S
    away_since: float | None = None
    yield run
    while True:
        time.sleep(pause_s)
        pause_s = min(POLL_S_MAX, pause_s * 1.2)
        try:
            found = session.client.get(f"/runs/{segment(run['id'])}")
        except Unreachable as exc:
            if away_since is None:
                away_since = time.monotonic()
                session.note("the collector does not answer; the hosts go on with what they have begun")
            if time.monotonic() - away_since > AWAY_S_MAX:
                raise Unreachable(str(exc), f"watchbill runs follow {clean(run['id'])}") from exc
            continue
        if away_since is not None:
            session.note("the collector is back")
            away_since = None
        yield found


def changes(session: Session, before: dict[str, Any], run: dict[str, Any]) -> Iterator[str]:
    """What is new since it was last looked at."""
    screen, width = session.screen, width_of(session.screen)
    now = time.strftime("%H:%M:%S")
    known = {step["id"]: (step["state"], step_words(step)) for step in before["steps"]}
    longest = min(24, max([8, *(len(clean(step["id"])) for step in run["steps"])]))
    for step in run["steps"]:
        standing = (step["state"], step_words(step))
        if step["state"] == "pending" or known.get(step["id"]) == standing:
            continue
        state = screen.state(step["state"]) + " " * max(0, 8 - len(step["state"]))
        yield from prose(standing[1], f"{now}  {clean(step['id']):{longest}}  {state} ", 10, width)
    if (run["state"], run["state_detail"]) != (before["state"], before["state_detail"]):
        yield from prose(
            run["state_detail"],
            f"{now}  the run is {screen.state(run['state'])}{':' if run['state_detail'] else ''}",
            10,
            width,
        )
        if stands(run) and run["state"] not in ENDED:
            yield from (f"          {line}" for line in next_lines(run))
        if run["state"] in ENDED and (text := recovery(run)):
            yield f"          recovery {text}"
