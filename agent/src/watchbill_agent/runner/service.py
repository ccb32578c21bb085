"""The runner's socket: who may speak, how long, how much; and the loop that looks after what runs.

systemd hands the socket over and starts us at the first connection; without systemd, and under --home, it is ours.
Speak may root and the agent's user, as the kernel names them; everybody else is closed at once. Every wait of a peer
has an end, and one that sends nonsense is closed, so that nobody can keep root's attention.
"""

import asyncio
import base64
import binascii
import contextlib
import grp
import logging
import os
import pwd
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from watchbill.clock import Clock, SystemClock
from watchbill.daemon import Daemon
from watchbill.errors import ProtocolError, Refused, StorageError, Transient
from watchbill.files import Lock, make_directory
from watchbill.homes import Homes
from watchbill.limits import EVENT_ID_BYTES
from watchbill.logs import fields
from watchbill_agent.runner import bounds
from watchbill_agent.runner.acting import read_act
from watchbill_agent.runner.core import Runner
from watchbill_agent.runner.frames import PIECE_BYTES, SOCKET_NAME, read_frame, that_fit, write_frame
from watchbill_agent.runner.launching import Launcher, launcher
from watchbill_agent.runner.observing import Observing

log = logging.getLogger(__name__)

AGENT_USER: Final = "watchbill-agent"
LOCK_NAME: Final = "runner.lock"
FIRST_HANDED: Final = 3
"""The descriptor of the first socket that systemd hands over; see sd_listen_fds(3)."""
PEER: Final = struct.Struct("3i")
BACKLOG: Final = 16
SHOWN_CHARACTERS: Final = 80
CLOSE_S: Final = 2.0
CONFIRMED_MAX: Final = 1_000


class Service:
    """One runner behind its socket. `home` is --home."""

    def __init__(
        self, homes: Homes, home: Path | None, clock: Clock | None = None, starts: Launcher | None = None
    ) -> None:
        self.homes = homes
        self.counts: Counter[str] = Counter()
        """Connections by what came of them."""
        owner = 0 if home is None else os.geteuid()
        self._speakers = _speakers(home)
        self._home = home
        self._clock = clock or SystemClock()
        make_directory(homes.var)
        self._lock = Lock(homes.var / LOCK_NAME)
        launch = starts or launcher(homes.etc, home)
        self.runner = Runner(homes, owner, self._clock, launch)
        self._observing = Observing(homes, owner, launch)
        self._open: Counter[bool] = Counter()
        """Connections, root's and the agent's."""
        self._peers: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._news = asyncio.Event()
        self._begun = asyncio.Event()
        self._used_s = self._clock.monotonic_s()

    async def run(self, house: Daemon) -> None:
        """Serve until a stop is asked for, or nobody needs us any more."""
        handed = handed_over()
        listening = handed or own_socket(self.homes.run / SOCKET_NAME, self._home)
        server = await asyncio.start_unix_server(self._serve, sock=listening, limit=bounds.FRAME_BYTES_MAX)
        try:
            house.ready(f"{self.runner.running} commands run")
            house.spawn("looking", self._look_for_ever())
            if handed is not None:
                house.spawn("idle", self._end_when_idle(house))
            await house.stopping.wait()
        finally:
            server.close()
            if handed is None:
                with contextlib.suppress(OSError):
                    (self.homes.run / SOCKET_NAME).unlink()
            await self.close()

    async def close(self) -> None:
        """End every connection and give the files back; what runs goes on."""
        for writer in self._peers.values():
            writer.transport.abort()
        if self._peers:
            await asyncio.wait(self._peers, timeout=CLOSE_S)
        self.runner.close()
        self._lock.release()

    async def _look_for_ever(self) -> None:
        """Often while something has just begun, seldom when it takes long."""
        since_s = self._clock.monotonic_s()
        told = self._told()
        while True:
            await self._pause(since_s)
            self.runner.look()
            now_s = self._clock.monotonic_s()
            if self.runner.running:
                self._used_s = now_s
            if told != (told := self._told()):
                self._tell()
                since_s = now_s

    async def _pause(self, since_s: float) -> None:
        """Until it is time to look again: at once when something has begun."""
        if not self.runner.running:
            self._begun.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(bounds.POLL_IDLE_S):
                    await self._begun.wait()
            return
        short = self._clock.monotonic_s() - since_s < bounds.POLL_SHORT_FOR_S
        await asyncio.sleep(bounds.POLL_S if short else bounds.POLL_LONG_S)

    def _told(self) -> tuple[int, int]:
        return self.runner.running, len(self.runner.waiting())

    def _tell(self) -> None:
        if self.runner.running:
            self._begun.set()
        self._news.set()
        self._news = asyncio.Event()

    async def _end_when_idle(self, house: Daemon) -> None:
        """systemd keeps the socket and starts us again; what was not fetched is on the disk."""
        while True:
            quiet_s = self._clock.monotonic_s() - self._used_s
            if quiet_s >= bounds.IDLE_S and not self._busy():
                log.info("nothing to do", extra=fields(quiet_s=round(quiet_s)))
                house.ask_stop()
                return
            await asyncio.sleep(max(1.0, bounds.IDLE_S - quiet_s))

    def _busy(self) -> bool:
        return bool(self._open.total() or self.runner.running or self._observing.going)

    # ------------------------------------------------------------ connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        root = uid == 0
        if uid not in self._speakers or self._open[root] >= bounds.CONNECTIONS_MAX:
            self.counts["strangers" if uid not in self._speakers else "too_many"] += 1
            log.warning("a connection was closed", extra=fields(uid=uid, open=self._open[root]))
            writer.close()
            return
        self.counts["taken"] += 1
        me = asyncio.current_task()
        assert me is not None, "a connection is a task"
        self._peers[me] = writer
        self._open[root] += 1
        try:
            while (asked := await read_frame(reader, bounds.IDLE_CONNECTION_S)) is not None:
                self._used_s = self._clock.monotonic_s()
                await self._answer(asked, writer, uid)
        except ProtocolError as exc:
            self.counts["nonsense"] += 1
            log.warning("a connection was closed", extra=fields(uid=uid, reason=exc))
        except TimeoutError:
            self.counts["slow"] += 1
        except OSError:
            self.counts["broken"] += 1
        finally:
            self._open[root] -= 1
            del self._peers[me]
            self._used_s = self._clock.monotonic_s()
            writer.close()

    async def _answer(self, asked: Mapping[str, Any], writer: asyncio.StreamWriter, uid: int) -> None:
        try:
            match asked.get("do"):
                case "order":
                    answer = self._order(asked)
                case "act":
                    answer = self._act(asked, uid)
                case "acted":
                    events, _ = that_fit(self.runner.acted(str(asked["key"])))
                    answer = {"events": events, "running": self.runner.running}
                case "events":
                    answer = await self._events(asked)
                case "confirm":
                    answer = self._confirm(asked)
                case "inventory":
                    answer = self._inventory(asked)
                case "observe":
                    answer = await self._observe(asked, writer)
                case "status":
                    answer = {**self.runner.status(), "connections": dict(self.counts)}
                case other:
                    raise ProtocolError(f"asked to do {str(other)[:SHOWN_CHARACTERS]!a}")
        except (KeyError, ValueError, TypeError) as exc:
            raise ProtocolError(f"a request without what it needs: {exc!r}") from exc
        except (Refused, Transient) as exc:
            answer = {"error": str(exc)}
        await write_frame(writer, answer)

    def _order(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        try:
            signed = base64.b64decode(asked["order"], validate=True)
        except binascii.Error as exc:
            raise ProtocolError("an order that is no base64") from exc
        answer = self.runner.order(signed)
        self._tell()
        # What does not fit is fetched with the others.
        events, _ = that_fit(answer.events)
        return {"events": events, "changed": answer.changed, "running": self.runner.running}

    def _act(self, asked: Mapping[str, Any], uid: int) -> dict[str, Any]:
        """A step without the collector: for root alone, or under --home for whose runner this is."""
        if uid not in {0, self.runner.owner}:
            raise Refused("acting without the collector is for root alone")
        answer = self.runner.act(read_act(asked, uid))
        self._tell()
        events, _ = that_fit(answer.events)
        return {"events": events, "changed": True, "running": self.runner.running}

    async def _events(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        until_s = self._clock.monotonic_s() + min(int(asked.get("wait_ms", 0)) / 1000, bounds.WAIT_S_MAX)
        while not (waiting := self.runner.waiting()):
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            news = self._news
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await news.wait()
        events, more = that_fit(waiting)
        return {"events": events, "more": more, "running": self.runner.running}

    def _confirm(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        ids = [bytes.fromhex(one) for one in asked["ids"]]
        if len(ids) > CONFIRMED_MAX or any(len(one) != EVENT_ID_BYTES for one in ids):
            raise ProtocolError(f"{len(ids)} names of events")
        self.runner.confirm(ids)
        return {"running": self.runner.running, "waiting": len(self.runner.waiting())}

    def _inventory(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        parts = self.runner.inventory()
        part = parts[int(asked["part"]) % len(parts)]
        payload = base64.b64encode(part.to_json()).decode("ascii")
        return {"version": part.version, "part": part.part, "parts": part.parts, "payload": payload}

    async def _observe(self, asked: Mapping[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        read = await self._observing.read(str(asked["name"])[: 2 * SHOWN_CHARACTERS])
        for place in range(0, len(read.output), PIECE_BYTES):
            piece = base64.b64encode(read.output[place : place + PIECE_BYTES]).decode("ascii")
            await write_frame(writer, {"piece": piece})
        return {
            "outcome": read.outcome,
            "exit_code": read.exit_code,
            "errors": read.errors,
            "whole": read.whole,
            "detail": read.detail,
        }


def _speakers(home: Path | None) -> frozenset[int]:
    """Whose connections are taken."""
    speakers = {0, os.geteuid()}
    if home is None:
        with contextlib.suppress(KeyError):
            speakers.add(pwd.getpwnam(AGENT_USER).pw_uid)
    return frozenset(speakers)


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end, as the kernel says."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    return int(PEER.unpack(found)[1])


def handed_over() -> socket.socket | None:
    """The socket that systemd started us for, None when it did not. Raises StorageError for something else."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return None
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if count != "1":
        raise StorageError(f"systemd handed over {count!a} sockets, wanted one (watchbill-runner.socket)")
    os.set_inheritable(FIRST_HANDED, False)
    found = socket.socket(fileno=FIRST_HANDED)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
        raise StorageError("systemd handed over a socket of another kind, wanted a stream at a path")
    found.setblocking(False)
    return found


def own_socket(path: Path, home: Path | None) -> socket.socket:
    """A socket of our own, for the agent's group, or under --home for ourselves. Raises StorageError."""
    make_directory(path.parent, 0o700 if home is not None else 0o755)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path.unlink(missing_ok=True)  # Left by one that was killed; ours is the lock.
        old = os.umask(0o177)
        try:
            # By the open directory: an address has 107 bytes at most.
            listening.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.umask(old)
        if home is None:
            os.chown(path, 0, grp.getgrnam(AGENT_USER).gr_gid)
            path.chmod(0o660)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except (OSError, KeyError) as exc:
        listening.close()
        raise StorageError(f"{path}: the runner's socket could not be made: {exc}") from exc
    finally:
        os.close(directory)
    return listening
