"""Commands of a tool that are the same each time, whoever makes them: root can let the runner make them, word for word.

What a tool is otherwise told by its environment stands in the command itself, by `env`: the runner hands nothing on. So
it may be nothing but where things are, never a secret: everybody on the host reads a command. Nothing of the agent's is
named in it, neither a cache nor a directory: who runs it may be root, and writes where it is told to.
"""

import re
import shutil
from collections.abc import Mapping
from typing import Final

from watchbill_agent.backups.adapter import Reason
from watchbill_agent.backups.command import PATH_DEFAULT
from watchbill_agent.backups.tool_answers import Unusable

ENV: Final = "/usr/bin/env"
PASSWORD_IN_ADDRESS: Final = re.compile(r"://[^/\s@]*:[^/\s@]*@")
NO_COMMAND: Final = "a file of root's: a command that prints it would stand in observe.d"
PLAIN_ADDRESS: Final = "an address without a password: what the runner makes stands in observe.d"


def fixed(program: str, settings: Mapping[str, str]) -> tuple[str, ...]:
    """The beginning of a command: its settings, and the program by its path."""
    found = shutil.which(program, path=PATH_DEFAULT) or program
    told = {"LC_ALL": "C", "TZ": "UTC", **settings}
    return (ENV, *(f"{name}={value}" for name, value in sorted(told.items())), found)


def not_fixed(what: str) -> Unusable:
    """What the runner is never asked: it would be another command each time."""
    said = (
        f"the runner makes commands that are the same each time, and {what} is not: "
        "have it done by who may read the repository, and report it (watchbill-agent backup report --kind verify)"
    )
    return Unusable(Reason.NOT_THROUGH_RUNNER, (said,))
