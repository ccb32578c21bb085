"""Files that should not change unseen: their digest, time and owner, and an event when one of them changes.

    [samplers]
    enable = ["watched_files"]
    [samplers.watched_files]
    paths = ["/etc/passwd", "/etc/ssh/sshd_config", "/usr/local/bin/deploy"]

They are read by a child that is killed when it hangs, as on a mount whose server is gone; what is beyond 64 MiB is
judged by size and time. A file that the agent may not read is not watched, and said so.
"""

import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchbill_agent.errand import Errand
from watchbill_agent.names import WrongOption
from watchbill_agent.samplers import (
    Family,
    Happening,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)

PATHS_MAX = 100
PATH_CHARACTERS_MAX = 512
DEADLINE_S = 30.0
"""For all of them: 64 MiB take a fifth of a second."""
HUNG_RETRY_S = 600.0
"""How long a path at which the child hung is left alone."""
EVENT = "security.file"
FINGERPRINT_DIGITS = 12
"""Of the digest, in hexadecimal: as many as a float holds exactly."""
_PROGRAM = Path(__file__).parent.with_name("digest_child.py")
_PATHS_DEFAULT = ("/etc/passwd", "/etc/group", "/etc/ssh/sshd_config", "/etc/crontab", "/etc/ld.so.preload")

_READABLE = Family("watchbill_security_file_readable", MetricType.GAUGE, "1 if the file could be read.")
_FINGERPRINT = Family(
    "watchbill_security_file_fingerprint",
    MetricType.GAUGE,
    "Changes when the file, its owner or its mode does, also while the agent did not run; 0 without a file.",
)
_MTIME = Family("watchbill_security_file_mtime_seconds", MetricType.GAUGE, "When it was written last.")
_CHANGES = Family("watchbill_security_file_changes_total", MetricType.COUNTER, "Changes that were seen.")
_FAMILIES = (_READABLE, _FINGERPRINT, _MTIME, _CHANGES)
_NOTHING_YET = Layout((), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`paths` are absolute, without patterns."""

    paths: list[str] = field(default_factory=lambda: list(_PATHS_DEFAULT))


@dataclass(frozen=True, slots=True)
class Look:
    """What a file was. `why` is empty when it could be read; `absent` says that there was none."""

    why: str = ""
    absent: bool = False
    mtime_s: float = 0.0
    owner: str = ""
    digest: str = ""
    size: int = 0

    @property
    def fingerprint(self) -> float:
        """Of everything that counts: content and owner, and where the content is too much, size and time."""
        if self.why:
            return 0.0
        own = zlib.crc32(f"{self.owner} {self.size if self.digest == '-' else ''}".encode())
        first = self.digest[:FINGERPRINT_DIGITS] if self.digest != "-" else f"{int(self.mtime_s * 1000):x}"
        return float(int(first, 16) ^ own)


class WatchedFiles(Sampler):
    """Sends a child through the paths once a minute and takes what it found at the next reading."""

    name = "watched_files"
    default_on = False
    interval_s = 60.0
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        for path in options.paths:
            if not path.startswith("/") or "\0" in path or "\n" in path or len(path) > PATH_CHARACTERS_MAX:
                raise WrongOption(self.name, "paths", repr(path), "absolute paths of at most 512 characters")
        if not 1 <= len(set(options.paths)) <= PATHS_MAX:
            raise WrongOption(self.name, "paths", f"{len(options.paths)} paths", f"1 to {PATHS_MAX}")
        self._paths = sorted(set(options.paths))
        self._root = "" if str(host.root) == "/" else str(host.root)
        self._clock = host.clock
        self._errand: Errand | None = None
        self._asked: list[str] = []
        self._said = b""
        self._looks: dict[str, Look] = {}
        self._hung_until_s: dict[str, float] = {}
        self._changes = dict.fromkeys(self._paths, 0)
        self._fingerprints = dict.fromkeys(self._paths, 0.0)
        """Of what was read last: a file that cannot be read for once has not changed."""
        self._layout = Layout(
            _FAMILIES,
            [Series(family.name, labels(path=path)) for family in _FAMILIES for path in self._paths],
        )

    def sample(self) -> Reading:
        """What is known of each; what the child has not come to is as it was."""
        if self._errand is not None:
            self._said += self._errand.take()
            if self._errand.ended:
                self._take()
        if self._errand is None:
            self._send()
        self.unfinished = not self._looks
        if not self._looks:
            return Reading(_NOTHING_YET, [])  # A fingerprint of nothing would be a change at every start.
        looks = [self._looks.get(path, Look(why="not read yet")) for path in self._paths]
        self._note(looks)
        return Reading(
            self._layout,
            [
                *(float(not look.why) for look in looks),
                *self._fingerprints.values(),
                *(look.mtime_s for look in looks),
                *map(float, self._changes.values()),
            ],
        )

    def _send(self) -> None:
        now_s = self._clock.monotonic_s()
        self._hung_until_s = {path: at_s for path, at_s in self._hung_until_s.items() if at_s > now_s}
        self._asked = [path for path in self._paths if path not in self._hung_until_s]
        self._said = b""
        if not self._asked:
            return
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), *(self._root + path for path in self._asked)]
        try:
            self._errand = Errand(argv, self._clock, DEADLINE_S)
        except OSError as exc:
            raise SamplerFailed("the child that reads", (exc.strerror or str(exc)).lower()) from exc

    def _take(self) -> None:
        assert self._errand is not None
        lines = self._said.split(b"\n")[:-1]
        happenings: list[Happening] = []
        for path, line in zip(self._asked, lines, strict=False):
            look = parse(line)
            before = self._looks.get(path)
            if before is not None and (change := _change(before, look)):
                self._changes[path] += 1
                happenings.append(Happening(EVENT, _payload(path, change, before, look)))
            if not look.why or look.absent:
                self._fingerprints[path] = look.fingerprint
            if before is None or not look.why or look.absent:
                self._looks[path] = look
            else:
                # Unreadable for once: what it was is compared with when it can be read again.
                self._looks[path] = before if not before.why else look
        if self._errand.timed_out and len(lines) < len(self._asked):
            hung = self._asked[len(lines)]
            self._hung_until_s[hung] = self._clock.monotonic_s() + HUNG_RETRY_S
            self._looks[hung] = Look(why="does not answer")
        self._errand.close()
        self._errand = None
        self.happenings = tuple(happenings)

    def _note(self, looks: Sequence[Look]) -> None:
        bad = [
            f"{path}: {look.why}"
            for path, look in zip(self._paths, looks, strict=True)
            if look.why and not look.absent and look.why != "not read yet"
        ]
        self.notice = "; ".join(bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")

    def close(self) -> None:
        """End the child."""
        if self._errand is not None:
            self._errand.close()
            self._errand = None


def parse(line: bytes) -> Look:
    """A line of the child."""
    words = line.decode("ascii", "replace").split()
    try:
        if words[0] == "error":
            code = int(words[1])
            return Look(why=os.strerror(code).lower(), absent=code in (2, 20))
        kind, size, mtime_ns, uid, gid, mode, digest = words
        if kind not in ("ok", "large"):
            raise ValueError(kind)
        if digest != "-":
            int(digest, 16)
        return Look("", False, int(mtime_ns) / 1e9, f"{uid}:{gid} {mode}", digest, int(size))
    except (ValueError, IndexError):
        return Look(why="the child that reads said something else")


def _change(before: Look, after: Look) -> str:
    if before.absent != after.absent:
        return "" if (before.why and not before.absent) else "vanished" if after.absent else "appeared"
    if before.why or after.why:
        return ""
    if before.digest != after.digest or before.size != after.size:
        return "content"
    if before.owner != after.owner:
        return "owner"
    return "content" if after.digest == "-" and before.mtime_s != after.mtime_s else ""


def _payload(path: str, change: str, before: Look, after: Look) -> dict[str, Any]:
    return {"path": path, "change": change, "before": dict(_said(before)), "after": dict(_said(after))}


def _said(look: Look) -> Iterator[tuple[str, Any]]:
    if not look.why:
        yield from (("sha256", look.digest), ("owner", look.owner), ("size", look.size))
        yield "mtime", round(look.mtime_s, 3)
