"""Logins that succeeded and failed, and uses of sudo, from the authentication log or the journal.

    [samplers]
    enable = ["logins"]

The agent's user has to be in the group that may read the log (`adm` on Debian), or in `systemd-journal`. Counting
begins when the agent does. A login that succeeds after many failures from the same address is counted by itself and
told as an event: somebody may have guessed a password. A log file is as true as who may write to it: on most hosts
everybody may, through syslog; of the journal root's own entries alone are believed.
"""

import json
import re
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from watchbill_agent.errand import Errand
from watchbill_agent.journal import message_of
from watchbill_agent.samplers import (
    Family,
    Happening,
    HostPaths,
    Layout,
    MetricType,
    NothingHere,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)
from watchbill_agent.tail import Tail

FILES = ("var/log/auth.log", "var/log/secure")
BYTES_PER_READING_MAX = 4 * 1024 * 1024
"""A flood is read over several readings."""
ENTRY_BYTES_MAX = 1024 * 1024
BURST = 10
"""Failures from one address that make a success after them worth telling."""
BURST_S = 900.0
ADDRESSES_MAX = 4_096
"""Addresses whose failures are remembered; the oldest goes first."""
EVENTS_MAX = 10
RESTART_S = 60.0
"""Between two attempts to follow the journal."""
EVENT = "security.login"
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

_LOGINS = Family(
    "watchbill_security_logins_total", MetricType.COUNTER, "Logins, by how they went and how it was tried."
)
_SUDO = Family("watchbill_security_sudo_total", MetricType.COUNTER, "Uses of sudo.")
_GUESSED = Family(
    "watchbill_security_logins_after_burst_total",
    MetricType.COUNTER,
    f"Logins that succeeded after {BURST} failures from the same address within {BURST_S / 60:g} minutes.",
)
_RESULTS = ("success", "failure")
_LAYOUT = Layout(
    (_LOGINS, _SUDO, _GUESSED),
    [
        *(Series(_LOGINS.name, labels(method=m, result=r)) for m in METHODS for r in _RESULTS),
        *(Series(_SUDO.name, labels(result=result)) for result in _RESULTS),
        Series(_GUESSED.name),
    ],
)

_LINE = re.compile(
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
_SUDO_LINE = re.compile(rb" *(?P<user>[^ :]{1,256}) : (?P<rest>.*)")
_SUDO_REFUSED = re.compile(
    rb"(?:\d+ incorrect password attempts?|user NOT in sudoers|command not allowed|a password is required)"
)
_PAM = re.compile(rb"pam_unix\((?P<service>[a-z0-9_-]{1,32}):(?P<stage>auth|session)\): (?P<what>.*)")
_CONSOLES = frozenset((b"login", b"gdm-password", b"lightdm", b"sddm", b"xdm", b"xrdp-sesman", b"cockpit"))
_SHOWN_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`source`: `auto` reads the log file where there is one and follows the journal otherwise."""

    source: Literal["auto", "file", "journal"] = "auto"


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


class Logins(Sampler):
    """Reads what came since the last reading: from a file as `log` checks do, or from a journalctl that follows."""

    name = "logins"
    default_on = False
    interval_s = 10.0
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._source = options.source
        self._paths = [str(host.root / name) for name in FILES]
        self._clock = host.clock
        self._tail: Tail | None = None
        self._errand: Errand | None = None
        self._rest = b""
        self._started_s = -RESTART_S
        self._cursor = ""
        self._logins: Counter[tuple[str, str]] = Counter()
        self._sudo: Counter[str] = Counter()
        self._guessed = 0
        self._failures: dict[bytes, deque[tuple[float, int]]] = {}
        self._told: list[Happening] = []

    def sample(self) -> Reading:
        """What was counted since the agent started."""
        if self._source == "journal" or (self._source == "auto" and not self._from_file()):
            self._read_journal()
        else:
            self._read_file()
        self.happenings, self._told = tuple(self._told[:EVENTS_MAX]), []
        values = [float(self._logins[method, result]) for method in METHODS for result in _RESULTS]
        values += [float(self._sudo[result]) for result in _RESULTS]
        return Reading(_LAYOUT, [*values, float(self._guessed)])

    # ------------------------------------------------------------ reading

    def _from_file(self) -> bool:
        if self._tail is not None:
            return True
        tail = Tail(self._paths)
        tail.find()
        return bool(tail.files or tail.unreadable)

    def _read_file(self) -> None:
        tail = self._tail = self._tail or Tail(self._paths)
        tail.find()
        begun = tail.counts.bytes
        while (chunk := tail.read()) is not None and tail.counts.bytes - begun < BYTES_PER_READING_MAX:
            for match in _LINE.finditer(chunk.data):
                self._count(match["program"], match["message"])
            tail.advance(chunk)
        tail.settle()
        if tail.unreadable and not tail.files:
            path, why = next(iter(tail.unreadable.items()))
            raise SamplerFailed(path, why)
        if not tail.files:
            raise NothingHere(" and ".join(self._paths), "do not exist")

    def _read_journal(self) -> None:
        if self._errand is None or self._errand.ended:
            self._follow()
        assert self._errand is not None
        taken = 0
        while taken < BYTES_PER_READING_MAX and (data := self._errand.take()):
            taken += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._entry(line)
            if len(self._rest) > ENTRY_BYTES_MAX:
                self._rest = b""
        if self._errand.ended and self._errand.code not in (0, None):
            raise SamplerFailed(
                "the journal", "cannot be followed: is the agent in the group systemd-journal?"
            )

    def _follow(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._started_s < RESTART_S:
            raise SamplerFailed(
                "the journal", "cannot be followed: is the agent in the group systemd-journal?"
            )
        if shutil.which("journalctl") is None:
            raise NothingHere("logins", "there is neither a log of authentication nor journalctl")
        self.close()
        self._started_s = now_s
        since = [f"--after-cursor={self._cursor}"] if self._cursor else ["--lines=0"]
        # Facilities of authentication alone, and of root: anybody may write the words of sshd into the journal.
        matches = ["SYSLOG_FACILITY=4", "SYSLOG_FACILITY=10", "_UID=0"]
        outputs = "--output-fields=MESSAGE,SYSLOG_IDENTIFIER"
        try:
            argv = ["journalctl", "--follow", "--output=json", outputs, "--no-pager", *since, *matches]
            self._errand = Errand(argv, self._clock, None)
        except OSError as exc:
            raise SamplerFailed("journalctl", (exc.strerror or str(exc)).lower()) from exc

    def _entry(self, line: bytes) -> None:
        try:
            entry: Any = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(entry, dict):
            self._cursor = str(entry.get("__CURSOR", ""))[:1024]
            self._count(str(entry.get("SYSLOG_IDENTIFIER", "")).encode("utf-8", "replace"), message_of(entry))

    # ------------------------------------------------------------ counting

    def _count(self, program: bytes, message: bytes) -> None:
        for found in parse(program, message):
            result = "success" if found.success else "failure"
            if isinstance(found, Sudo):
                self._sudo[result] += 1
                continue
            self._logins[found.method, result] += found.times
            if found.address:
                self._weigh(found)

    def _weigh(self, login: Login) -> None:
        """Whether it ends a burst of failures from its address."""
        now_s = self._clock.monotonic_s()
        if not login.success:
            if login.address not in self._failures and len(self._failures) >= ADDRESSES_MAX:
                del self._failures[next(iter(self._failures))]
            row = self._failures.setdefault(login.address, deque(maxlen=BURST))
            row.append((now_s, login.times))
            return
        row = self._failures.pop(login.address, deque())
        failures = sum(times for at_s, times in row if now_s - at_s <= BURST_S)
        if failures >= BURST:
            self._guessed += 1
            payload = {"user": _shown(login.user), "address": _shown(login.address), "method": login.method}
            self._told.append(Happening(EVENT, {**payload, "failures_at_least": failures}))

    def close(self) -> None:
        """End the child."""
        if self._errand is not None:
            self._errand.close()
            self._errand = None
        self._rest = b""


def parse(program: bytes, message: bytes) -> Iterator[Login | Sudo]:
    """What a line of the authentication log says; most say nothing of a login."""
    name = program.rpartition(b"/")[2]
    if name in (b"sshd", b"sshd-session"):
        yield from _ssh(message)
    elif name == b"sudo":
        found = _SUDO_LINE.fullmatch(message)
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


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")[:_SHOWN_CHARACTERS_MAX]
