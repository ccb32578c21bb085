"""Whether this host could carry out what its files allow: asked by `watchbill-agent doctor`."""

from dataclasses import dataclass
from typing import Final

from watchbill.actions.enrolled import read_enrolled
from watchbill.actions.files import load_allowed
from watchbill.errors import Unreadable
from watchbill.homes import Homes
from watchbill_agent.actions.door import runner_socket
from watchbill_agent.actions.spoken import ask, connected

ASK_S: Final = 10.0
ENROL: Final = "watchbill-agent enroll --token-file FILE, as root"


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, and what to type next; "" for nothing. `text` says how it is."""

    text: str
    next: str = ""


def look(homes: Homes, owner: int) -> Health | None:
    """None for a host that allows nothing. `homes` are the agent's; `owner` is whose files count beside root's."""
    allowed = load_allowed(homes.etc, owner)
    if not (allowed.actions or allowed.observes or allowed.faults):
        return None
    if allowed.faults:
        more = f", and {len(allowed.faults) - 1} more" if len(allowed.faults) > 1 else ""
        return Health(f"not used: {allowed.faults[0]}{more}", "watchbill-agent actions check")
    try:
        if read_enrolled(homes.etc, owner) is None:
            return Health("there are actions, and root was not told whose orders are taken", ENROL)
    except Unreadable as exc:
        return Health(str(exc), ENROL)
    return _asked(homes, f"{len(allowed.actions)} actions and {len(allowed.observes)} readings")


def _asked(homes: Homes, what: str) -> Health:
    path = runner_socket(homes.run)
    try:
        with connected(path, ASK_S) as connection:
            found = ask(connection, do="status")
    except FileNotFoundError:
        return Health(
            f"{what}, and no runner: {path} is not there", "systemctl enable --now watchbill-runner.socket"
        )
    except PermissionError:
        return Health(f"{what}; {path} is for the agent's user and root", "sudo watchbill-agent doctor")
    except (OSError, Unreadable) as exc:
        return Health(f"{what}, and no runner answers at {path}: {exc}", "systemctl status watchbill-runner")
    if found["fault"]:
        return Health(f"nothing is run: {found['fault']}", "df /var/lib/watchbill/runner")
    return Health(
        f"{what}; {found['running']} commands run, {found['waiting']} events wait, "
        f"{found['remembered']} of {found['remembered_max']} commands are remembered"
    )
