"""What the authentication log of a host says of logins and of sudo, a line at a time: pure. Only a host that looks at
its logins imports it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

METHODS = (
    "password",
    "publickey",
    "keyboard-interactive",
    "gssapi",
    "hostbased",
    "invalid-user",
    "console",
    "su",
    "other",
)

LINE = re.compile(
    rb"^(?:[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S{8,32}) \S{1,255} "
    rb"(?P<program>[A-Za-z0-9_./-]{1,64})(?:\[\d{1,10}\])?: (?P<message>[^\n]*)$",
    re.MULTILINE,
)
# The name of a user is anybody's to choose: what comes last in the line is what sshd wrote.
_SSHD = re.compile(
    rb"(?P<what>Accepted|Failed) (?P<method>[a-z-]{1,32})\S* for (?P<user>.*) "
    rb"from (?P<address>\S{1,64}) port \d{1,5}(?: ssh2)?(?:: .*)?"
)
_INVALID = re.compile(rb"Invalid user (?P<user>.*) from (?P<address>\S{1,64})")
_REPEATED = re.compile(rb"message repeated (?P<times>\d{1,6}) times: \[ (?P<message>.*)\]$")
_SUDO = re.compile(rb" *(?P<user>[^ :]{1,256}) : (?P<rest>.*)")
_SUDO_REFUSED = re.compile(
    rb"(?:\d+ incorrect password attempts?|user NOT in sudoers|command not allowed|a password is required)"
)
_PAM = re.compile(rb"pam_unix\((?P<service>[a-z0-9_-]{1,32}):(?P<stage>auth|session)\): (?P<what>.*)")
_CONSOLES = frozenset((b"login", b"gdm-password", b"lightdm", b"sddm", b"xdm", b"xrdp-sesman", b"cockpit"))


@dataclass(frozen=True, slots=True)
class Login:
    """One of the log's. `address` is empty where there is none."""

    success: bool
    method: str
    user: bytes = b""
    address: bytes = b""
    times: int = 1


@dataclass(frozen=True, slots=True)
class Sudo:
    """A use of sudo."""

    success: bool


def parse(program: bytes, message: bytes) -> Iterator[Login | Sudo]:
    """What a line of the authentication log says; most say nothing of a login."""
    name = program.rpartition(b"/")[2]
    if name in (b"sshd", b"sshd-session"):
        yield from _ssh(message)
    elif name == b"sudo":
        found = _SUDO.fullmatch(message)
        if found is not None and b"COMMAND=" in found["rest"]:
            yield Sudo(_SUDO_REFUSED.match(found["rest"]) is None)
    elif (found := _PAM.match(message)) is not None:
        yield from _pam(found["service"], found["stage"], found["what"])


def _ssh(message: bytes) -> Iterator[Login]:
    times = 1
    if (repeated := _REPEATED.match(message)) is not None:
        times, message = int(repeated["times"]), repeated["message"]
    if (found := _SSHD.fullmatch(message)) is None:
        if (invalid := _INVALID.match(message)) is not None:
            yield Login(False, "invalid-user", invalid["user"], invalid["address"], times)
        return
    word = found["method"].decode("ascii")
    method = next((one for one in METHODS if word.startswith(one)), "other")
    yield Login(found["what"] == b"Accepted", method, found["user"], found["address"], times)


def _pam(service: bytes, stage: bytes, what: bytes) -> Iterator[Login]:
    """What others than sshd and sudo let pam_unix write."""
    method = "console" if service in _CONSOLES else "su" if service in (b"su", b"su-l") else ""
    if not method:
        return
    if stage == b"auth" and what.startswith(b"authentication failure"):
        yield Login(False, method)
    elif stage == b"session" and what.startswith(b"session opened for user "):
        yield Login(True, method)
