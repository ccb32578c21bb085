"""Asks how full filesystems are that may never answer, without ever waiting for one that does not.

`os.statvfs` on a network or FUSE mount whose server is gone sleeps in the kernel for as long as it takes. A
thread that sleeps there keeps the interpreter from ending; a process does not. So the question goes to child
processes (`statvfs_child.py`), and these rules hold:

1. One child asks for all mounts, one after the other. Only when it has been silent for SILENT_S does a second
   one go on with the rest, so that one hung mount delays the others by a second at most, once.
2. A child that hangs stays with its mount: at most one child per hung mount. Its answer, however late, is the
   recovery. After RETRY_S it is killed and, once it is really gone, replaced, for a server that has lost the
   question.
3. A mount that has not answered for DEADLINE_S is hung. Until then its last answer stands.
4. Children are never waited for. One that cannot be killed (state D) is left behind at exit; init inherits
   it.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from watchbill.clock import Clock

DEADLINE_S = 5.0
SILENT_S = 1.0
RETRY_S = 60.0
CHILDREN_MAX = 32
"""With the killed that have not died. Mounts beyond are reported as not asked."""
ANSWER_BYTES_MAX = 4096

_PROGRAM = Path(__file__).with_name("statvfs_child.py")


@dataclass(frozen=True, slots=True)
class Space:
    """What statvfs says. Sizes are in blocks of `block_bytes`."""

    block_bytes: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no Space: the system's words in lower case, or `mountpoint timeout` as node_exporter
    says."""

    why: str


TIMEOUT = Failure("mountpoint timeout")
NOT_ASKED = Failure("too many hung mounts")

Answer = Space | Failure


class _Child:
    """One process that answers questions, and the mount that it is asked about just now."""

    def __init__(self) -> None:
        # vfork and exec, no code of ours in between; a session of its own, so that Ctrl-C does not reach it.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in = self.process.stdin
        self._out = self.process.stdout
        os.set_blocking(self._out.fileno(), False)
        self.mount: int | None = None
        self.asked_at_s = 0.0
        self._received = b""

    def fileno(self) -> int:
        """Where the answer comes."""
        return self._out.fileno()

    def ask(self, mount: int, path: bytes, now_s: float) -> bool:
        """Send one path; False when the child is dead. A path is shorter than a pipe's buffer, so this
        returns."""
        self.mount = mount
        self.asked_at_s = now_s
        try:
            self._in.write(path + b"\0")
        except OSError:
            return False
        return True

    def answer(self) -> Answer | None:
        """The answer if it has come. Raises EOFError when the child is dead or talks nonsense."""
        try:
            data = os.read(self._out.fileno(), ANSWER_BYTES_MAX)
        except BlockingIOError:
            return None
        self._received += data
        if not data or len(self._received) > ANSWER_BYTES_MAX:
            raise EOFError
        if not self._received.endswith(b"\n"):
            return None
        line, self._received = self._received, b""
        return parse_answer(line)

    def kill(self) -> None:
        """Let it go; whether it goes is not waited for."""
        self.process.kill()
        self._in.close()
        self._out.close()

    def gone(self) -> bool:
        """Whether the kernel has buried it."""
        return self.process.poll() is not None


class Prober:
    """Holds the children and what they said; used by one thread. `deadline_s` is when a mount counts as
    hung."""

    def __init__(self, clock: Clock, deadline_s: float = DEADLINE_S) -> None:
        self._clock = clock
        self._deadline_s = deadline_s
        self._children: list[_Child] = []
        self._dying: list[_Child] = []
        self._answers: dict[int, Answer] = {}
        self._hung: set[int] = set()
        self._waiting_since_s: dict[int, float] = {}

    @property
    def children(self) -> int:
        """How many processes there are, with those that were killed and have not died."""
        return len(self._children) + len(self._dying)

    def probe(self, paths: Mapping[int, bytes], wait_s: float) -> dict[int, Answer]:
        """What is known about each mount (by its id) after at most `wait_s`; one not answered yet is left
        out.

        An answer that comes later than that is found by the next call.
        """
        self._forget(paths)
        self._receive(0)
        now_s = self._clock.monotonic_s()
        for mount in paths:
            self._waiting_since_s.setdefault(mount, now_s)
        self._ask(paths, now_s + wait_s)
        return self._known(paths)

    def close(self) -> None:
        """Kill every child and wait for none."""
        for child in self._children:
            child.kill()
        for child in self._children + self._dying:
            if not child.gone():
                # Else Popen complains that nobody waited, and waiting is what must not happen.
                child.process.returncode = -signal.SIGKILL
        self._children, self._dying = [], []

    def _forget(self, paths: Mapping[int, bytes]) -> None:
        """Drop what is about mounts that are gone, bury the dead, and let go of a child that hung for too
        long."""
        now_s = self._clock.monotonic_s()
        for child in list(self._children):
            unwanted = not paths if child.mount is None else child.mount not in paths
            if unwanted or (child.mount is not None and now_s - child.asked_at_s >= RETRY_S):
                self._kill(child)
        self._dying = [child for child in self._dying if not child.gone()]
        self._answers = {mount: answer for mount, answer in self._answers.items() if mount in paths}
        self._waiting_since_s = {mount: at for mount, at in self._waiting_since_s.items() if mount in paths}
        self._hung &= paths.keys()

    def _kill(self, child: _Child) -> None:
        self._children.remove(child)
        child.kill()
        self._dying.append(child)

    def _ask(self, paths: Mapping[int, bytes], until_s: float) -> None:
        """Ask for every mount that no child is asking for, until all have answered or it is `until_s`."""
        busy = {child.mount for child in self._children + self._dying}
        queue = [mount for mount in paths if mount not in busy]
        # Whoever has waited longest comes first, so that with too few children each mount gets its turn.
        queue.sort(key=self._waiting_since_s.__getitem__, reverse=True)
        while True:
            now_s = self._clock.monotonic_s()
            while queue and (child := self._free_child(now_s)) is not None:
                mount = queue.pop()
                if not child.ask(mount, paths[mount], now_s):
                    self._kill(child)  # It died while it had nothing to do; the next tick tries again.
            working = any(
                child.mount is not None and now_s - child.asked_at_s < SILENT_S for child in self._children
            )
            if not working or now_s >= until_s or not self._receive(until_s - now_s):
                break
        for idle in [child for child in self._children if child.mount is None][1:]:
            self._kill(idle)

    def _free_child(self, now_s: float) -> _Child | None:
        """A child with nothing to do; a new one if all others are silent; None while one is still at it."""
        for child in self._children:
            if child.mount is None:
                return child
        still_at_it = any(now_s - child.asked_at_s < SILENT_S for child in self._children)
        if still_at_it or self.children >= CHILDREN_MAX:
            return None
        try:
            child = _Child()
        except OSError:
            return None  # No memory or no process numbers left: the mounts stay unanswered.
        self._children.append(child)
        return child

    def _receive(self, wait_s: float) -> bool:
        """Take the answers that are there, waiting for the first; False when there was none."""
        asked = {child.fileno(): child for child in self._children if child.mount is not None}
        if not asked:
            return False
        poll = select.poll()
        for descriptor in asked:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(wait_s * 1000)
        for descriptor, _ in ready:
            child = asked[descriptor]
            try:
                answer = child.answer()
            except EOFError:
                self._kill(child)
                continue
            if answer is not None and child.mount is not None:
                self._answers[child.mount] = answer
                self._waiting_since_s.pop(child.mount, None)
                self._hung.discard(child.mount)
                child.mount = None
        return bool(ready)

    def _known(self, paths: Mapping[int, bytes]) -> dict[int, Answer]:
        now_s = self._clock.monotonic_s()
        for child in self._children:
            if child.mount is not None and now_s - child.asked_at_s >= self._deadline_s:
                self._hung.add(child.mount)
        known: dict[int, Answer] = {}
        for mount in paths:
            unanswered_s = now_s - self._waiting_since_s.get(mount, now_s)
            if mount in self._hung:
                known[mount] = TIMEOUT
            elif unanswered_s >= self._deadline_s and self.children >= CHILDREN_MAX:
                known[mount] = NOT_ASKED
            elif mount in self._answers:
                known[mount] = self._answers[mount]
        return known


def parse_answer(line: bytes) -> Answer:
    """What a child's line means. Raises EOFError when it is none of its lines."""
    try:
        word, *numbers = line.split()
        counts = [int(number) for number in numbers]
        if word == b"error":
            (code,) = counts
            return Failure(os.strerror(code).lower())
        frsize, blocks, bfree, bavail, files, ffree, flag = counts
    except ValueError:
        raise EOFError from None
    return Space(frsize, blocks, bfree, bavail, files, ffree, bool(flag & os.ST_RDONLY))
