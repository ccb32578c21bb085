"""The demo's own backup: its configuration, archived the way any host's command is, and looked at by its agent.

The run is told of by `watchbill-agent backup wrap`; the archive is read by the agent. So both sides of a job are there:
what the command said, and what the repository holds.
"""

import json
import time
from pathlib import Path
from typing import Any

from watchbill_collector.cli.client import Client, segment
from watchbill_collector.cli.errors import CommandFailed

JOB = "demo-config"
EVERY_S = 300.0
TIMEOUT_S = 30.0
"""One run takes a fifth of a second."""
KNOWN_S = 10.0
"""How long the demo waits for the collector's word on its first run; without it, it goes on."""
POLL_S = 0.1
DIRECTORY = "backups"

BACKUPS_TOML = """\
# Written by `watchbill demo`: its own configuration, archived every five minutes.
[[backup]]
name = "{job}"
tool = "files"
schedule = {{ every = "5m" }}
start_grace = "2m"
rpo = "15m"
observe_every = "1m"
verify = {{ data = "1h" }}

[backup.files]
paths = [{pattern}]
settle = "0s"
"""


def configuration(home: Path) -> str:
    """What the agent reads."""
    return BACKUPS_TOML.format(job=JOB, pattern=json.dumps(str(home / DIRECTORY / "config-*.tar.gz")))


def argv(agent_program: str, home: Path, now_s: float) -> list[str]:
    """One run of it."""
    archive = home / DIRECTORY / f"config-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now_s))}.tar.gz"
    wrap = [agent_program, "backup", "wrap", "--home", str(home), JOB, "--"]
    return [*wrap, "tar", "-czf", str(archive), "-C", str(home), "etc"]


def known(client: Client, host: str) -> dict[str, Any] | None:
    """The job as the collector has it; None while it has not heard of a run that ended."""
    try:
        found: dict[str, Any] = client.get(f"/backups/{segment(f'{host}/{JOB}')}", {"limit": "1"})["backup"]
    except CommandFailed:
        return None
    run = found["last_run"]
    return found if run is not None and run["outcome"] != "running" else None


def awaited(client: Client, host: str) -> dict[str, Any] | None:
    """The same, once there is one."""
    deadline_s = time.monotonic() + KNOWN_S
    while True:
        found = known(client, host)
        if found is not None or time.monotonic() > deadline_s:
            return found
        time.sleep(POLL_S)
