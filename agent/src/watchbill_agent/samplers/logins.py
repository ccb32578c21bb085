"""Logins that succeeded and failed, and uses of sudo, from the authentication log or the journal.

    [samplers]
    enable = ["logins"]

The agent's user has to be in the group that may read the log (`adm` on Debian), or in `systemd-journal`. Counting
begins when the agent does. A login that succeeds after many failures from the same address is counted by itself and
told as an event: somebody may have guessed a password. A log file is as true as who may write to it: on most hosts
everybody may, through syslog; of the journal root's own entries alone are believed.
"""

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from watchbill_agent.errand import Errand
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

if TYPE_CHECKING:
    from watchbill_agent.authlog import Login
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
_SHOWN_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`source`: `auto` reads the log file where there is one and follows the journal otherwise."""

    source: Literal["auto", "file", "journal"] = "auto"


class Logins(Sampler):
    """Reads what came since the last reading: from a file as `log` checks do, or from a journalctl that follows."""

    name = "logins"
    default_on = False
    interval_s = 10.0
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        # What is off costs no memory: these are imported by hosts that look at their logins.
        from watchbill_agent import authlog, journal, tail

        self._authlog, self._journal, self._make_tail = authlog, journal, tail.Tail
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
        self._layout = _layout(authlog.METHODS)

    def sample(self) -> Reading:
        """What was counted since the agent started."""
        if self._source == "journal" or (self._source == "auto" and not self._from_file()):
            self._read_journal()
        else:
            self._read_file()
        self.happenings, self._told = tuple(self._told[:EVENTS_MAX]), []
        values = [
            float(self._logins[method, result]) for method in self._authlog.METHODS for result in _RESULTS
        ]
        values += [float(self._sudo[result]) for result in _RESULTS]
        return Reading(self._layout, [*values, float(self._guessed)])

    # ------------------------------------------------------------ reading

    def _from_file(self) -> bool:
        if self._tail is not None:
            return True
        tail = self._make_tail(self._paths)
        tail.find()
        return bool(tail.files or tail.unreadable)

    def _read_file(self) -> None:
        tail = self._tail = self._tail or self._make_tail(self._paths)
        tail.find()
        begun = tail.counts.bytes
        while (chunk := tail.read()) is not None and tail.counts.bytes - begun < BYTES_PER_READING_MAX:
            for match in self._authlog.LINE.finditer(chunk.data):
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
        import shutil

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
            self._count(
                str(entry.get("SYSLOG_IDENTIFIER", "")).encode("utf-8", "replace"),
                self._journal.message_of(entry),
            )

    # ------------------------------------------------------------ counting

    def _count(self, program: bytes, message: bytes) -> None:
        for found in self._authlog.parse(program, message):
            result = "success" if found.success else "failure"
            if isinstance(found, self._authlog.Sudo):
                self._sudo[result] += 1
                continue
            self._logins[found.method, result] += found.times
            if found.address:
                self._weigh(found)

    def _weigh(self, login: "Login") -> None:
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


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")[:_SHOWN_CHARACTERS_MAX]


def _layout(methods: Sequence[str]) -> Layout:
    return Layout(
        (_LOGINS, _SUDO, _GUESSED),
        [
            *(Series(_LOGINS.name, labels(method=m, result=r)) for m in methods for r in _RESULTS),
            *(Series(_SUDO.name, labels(result=result)) for result in _RESULTS),
            Series(_GUESSED.name),
        ],
    )
