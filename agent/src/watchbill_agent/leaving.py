"""`watchbill-agent leaving`: tells the running agent why it is about to be stopped.

A short process of its own, for `ExecStop=`, for package scripts and for people. Without a reason it asks systemd,
and what cannot be found out within FIND_S is a plain stop: nothing that goes down may wait for this.
"""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from watchbill.errors import Permanent
from watchbill.leaving import POWEROFF, REBOOT, RESTART, STOP, Farewell
from watchbill_agent.question import ask

SYSTEMCTL: Final = "/usr/bin/systemctl"
UNIT: Final = "watchbill-agent.service"
FIND_S: Final = 2.0
"""How long all questions to systemd may take together."""
JOBS_BYTES_MAX: Final = 256 * 1024
_TARGETS: Final = {
    "reboot.target": REBOOT,
    "soft-reboot.target": REBOOT,
    "kexec.target": REBOOT,
    "poweroff.target": POWEROFF,
    "halt.target": POWEROFF,
}
"""What the machine does when one of these is to be started."""


def find_reason(unit: str = UNIT, jobs: Callable[[], str] | None = None) -> str:
    """Why this unit is being stopped, as far as systemd's jobs say it."""
    listed = [line.split() for line in (jobs or list_jobs)().splitlines()]
    rows = {row[1]: row[2] for row in listed if len(row) >= 4}
    for target, reason in _TARGETS.items():
        if rows.get(target) == "start":
            return reason
    return RESTART if rows.get(unit) == "restart" else STOP


def list_jobs() -> str:
    """What systemd is about to do, a job a line: number, unit, kind, state. Empty when it cannot be asked."""
    argv = (SYSTEMCTL, "list-jobs", "--no-legend", "--no-pager", "--full", "--plain")
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FIND_S,
            check=False,
            env={"LC_ALL": "C", "SYSTEMD_COLORS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout[:JOBS_BYTES_MAX].decode("utf-8", "replace") if done.returncode == 0 else ""


def tell(socket: Path, farewell: Farewell) -> bool:
    """Leave word with the running agent; whether it has said goodbye already, as it does before a suspend.

    Raises Unreachable when no agent runs.
    """
    answer = ask(socket, f"leaving {farewell.reason} {farewell.back_within_ms}")
    if answer.get("reason") != farewell.reason:
        raise Permanent(f"{socket}: the agent understood {answer}")
    return answer.get("said") is True


def sentence(farewell: Farewell, shown_within: str, *, said: bool) -> Sequence[str]:
    """What was done, for people."""
    back = f", back within {shown_within}" if shown_within else ""
    when = "the collector was told" if said else "the agent will say so when it is stopped"
    return (f"{farewell.reason}{back}: {when}",)
