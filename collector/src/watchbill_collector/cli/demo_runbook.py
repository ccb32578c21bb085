"""The demo's own runbook: it looks at this machine and changes nothing, so that a run can be begun without a thought.

It goes the way of every runbook: actions that a file allows, read by a runner of its own; a text that somebody accepts.
Whoever looks at the demo may run and approve, which no administrator of a real collector may by being one.
"""

import time
from collections.abc import Callable

from watchbill_collector.cli.client import Client, segment
from watchbill_collector.cli.errors import CommandFailed

NAME = "look-around"
KNOWN_S = 30.0
"""How long the demo waits for the host to say what it allows; without it, it goes on."""
POLL_S = 0.2
ROLES = ("admin", "operator", "approver")

ACTIONS_TOML = """\
# Written by `watchbill demo`: what may be run here. No file, and nothing can be.
[[action]]
name = "demo.load"
about = "How busy this machine is"
argv = ["/bin/cat", "/proc/loadavg"]
effect = "read"

[[action]]
name = "demo.disks"
about = "How full its disks are"
argv = ["/bin/df", "-hP"]
effect = "read"
"""

RUNBOOK_YAML = """\
# Written by `watchbill demo`: a runbook that looks and changes nothing.
runbook: look-around
about: How busy this machine is, and how full its disks are
params:
  host: {{type: host, default: "{host}"}}
steps:
  - id: load
    do: demo.load
    on: "{{{{host}}}}"
  - id: disks
    do: demo.disks
    on: "{{{{host}}}}"
  - id: looked
    check: load.ok and disks.ok
"""


def may_run(client: Client) -> None:
    """Who looks at the demo may run what is in it."""
    name = client.get("/me")["name"]
    client.post(f"/users/{segment(name)}/grant", {"grants": [{"role": role, "scope": ""} for role in ROLES]})


def accepted(client: Client, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Accept the runbook once the host has said that it allows what is in it; whether it can be run."""
    deadline_s = time.monotonic() + KNOWN_S
    while True:
        try:
            found = client.get(f"/runbooks/{segment(NAME)}")["runbook"]
            errors = [one for one in found["findings"] if one["severity"] == "error"]
            if not errors:
                client.post(f"/runbooks/{segment(NAME)}/accept", {"digest": found["digest"]})
                return True
        except CommandFailed:
            return False
        if time.monotonic() > deadline_s:
            return False
        sleep(POLL_S)
