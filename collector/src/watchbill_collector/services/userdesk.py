"""Users, managed on the collector's own machine: `watchbill-collector user`, while the collector runs and while not.

A running collector listens on a socket in its run directory and does what root, or its own user, asks of it; the
kernel says who asks (SO_PEERCRED). Where nobody listens the command opens the store itself and does the same with the
same code. One line of JSON each way.
"""

import asyncio
import contextlib
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from watchbill.errors import ConfigError, Permanent, StorageError, Unreachable, UsageError, WatchbillError
from watchbill.files import make_directory
from watchbill.logs import fields
from watchbill_collector.api.people_port import GrantView
from watchbill_collector.api.ports import Caller
from watchbill_collector.services.people import ManagingService, read_grants
from watchbill_collector.services.staffing import Staffing
from watchbill_collector.users import Users

log = logging.getLogger("watchbill.users")

SOCKET_NAME: Final = "users.sock"
REQUEST_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 16 << 20
CONNECTIONS_MAX: Final = 8
TIMEOUT_S: Final = 30.0
DIRECTORY_MODE: Final = 0o750
SOCKET_MODE: Final = 0o600
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid; see unix(7).


async def answer(
    users: Users, request: Mapping[str, Any], actor: str, staffing: Staffing | None = None
) -> dict[str, Any]:
    """Do what is asked: `do` says what, the rest is what it takes. Raises UsageError, StorageError, Busy."""
    service, by = ManagingService(users), Caller(actor, via="token")
    name = _text(request, "name")
    match request.get("do"):
        case "list":
            return {"users": [asdict(user) for user in await service.people()]}
        case "add":
            grants = read_grants(_grants(request))
            life_s = _seconds(request)
            if request.get("without_token"):
                await users.add(name, grants, actor=actor)
                return {"user": _shown(service, users, name)}
            label = _text(request, "token_name")
            _, token = await users.add_with_token(name, grants, actor=actor, life_s=life_s, token_name=label)
            return {"user": _shown(service, users, name), "token": token}
        case "grant":
            return {"user": asdict(await service.grant(name, _grants(request), by))}
        case "disable":
            user = await service.disable(name, by)
            return {"user": asdict(user), **await _leaving(users, user.name, staffing)}
        case "enable":
            return {"user": asdict(await service.enable(name, by))}
        case "token":
            made = await service.new_token(name, _text(request, "token_name"), _seconds(request), by)
            return {"user": asdict(made.user), "token": made.token}
        case "revoke":
            return {"user": asdict(await service.revoke_token(name, _text(request, "token_id"), by))}
        case other:
            raise UsageError(f"nobody here does {str(other)[:40]!r}")


async def _leaving(users: Users, name: str, staffing: Staffing | None) -> dict[str, Any]:
    """What is missing now. He is out already: what cannot be read then undoes nothing."""
    if staffing is None:
        return {}
    try:
        found = await asyncio.to_thread(staffing.leaving, name, users.disabled_names())
    except (StorageError, OSError, ConfigError) as exc:
        return {"leaving": None, "leaving_unknown": str(exc)}
    return {"leaving": found.document()}


def _shown(service: ManagingService, users: Users, name: str) -> dict[str, Any]:
    return asdict(service.shown(users.find(name)))


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key, "")
    if not isinstance(value, str):
        raise UsageError(f"{key} has to be text")
    return value


def _seconds(request: Mapping[str, Any]) -> float | None:
    value = request.get("life_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise UsageError("life_s has to be a number of seconds")
    return float(value)


def _grants(request: Mapping[str, Any]) -> list[GrantView]:
    found = request.get("grants")
    if not isinstance(found, list):
        raise UsageError("grants has to be a list")
    grants = []
    for one in found:
        if not isinstance(one, dict):
            raise UsageError("a grant has a role and a scope")
        grants.append(GrantView(_text(one, "role"), _text(one, "scope")))
    return grants


def local_actor(uid: int) -> str:
    """Who somebody on this machine is, for the audit."""
    try:
        return f"local:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"local:{uid}"


class UserSocket:
    """The running collector's end."""

    def __init__(self, directory: Path, users: Users, staffing: Staffing | None = None) -> None:
        self.path = directory / SOCKET_NAME
        self._users = users
        self._staffing = staffing
        self._open = 0
        self._server: asyncio.Server | None = None
        self.refused = 0
        """Connections that were closed unheard: too many, or somebody else's."""

    async def start(self) -> None:
        """Listen. Raises StorageError when the socket cannot be made."""
        make_directory(self.path.parent, DIRECTORY_MODE)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()  # Left by a process that was killed; the store's lock is ours.
            with _short(self.path) as address:
                listening.bind(address)
            self.path.chmod(SOCKET_MODE)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listening, limit=REQUEST_BYTES_MAX
            )
        except OSError as exc:
            listening.close()
            raise StorageError(f"{self.path}: the socket could not be made: {exc}") from exc

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
        with contextlib.suppress(OSError):
            self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        _, uid, _ = _CREDENTIALS.unpack(peer)
        if self._open >= CONNECTIONS_MAX or uid not in (0, os.geteuid()):
            self.refused += 1
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                said = await self._answer(await reader.readline(), local_actor(uid))
                writer.write(json.dumps(said, default=str).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, ValueError) as exc:
            log.debug("a request about users was not answered", extra=fields(reason=exc))
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, line: bytes, actor: str) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise UsageError("a request is a table")
            return await answer(self._users, request, actor, self._staffing)
        except UsageError as exc:
            return {"error": str(exc), "kind": "usage"}
        except (WatchbillError, ValueError, RecursionError) as exc:
            return {"error": str(exc), "kind": "failed"}


def ask(directory: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Ask the running collector; None when none runs. Raises UsageError, Permanent, Unreachable."""
    path = directory / SOCKET_NAME
    said = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(path) as address:
            connection.settimeout(TIMEOUT_S)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            while piece := connection.recv(65_536):
                said += piece
                if len(said) > ANSWER_BYTES_MAX:
                    raise Permanent(f"{path}: the answer is larger than {ANSWER_BYTES_MAX} bytes")
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except OSError as exc:
        raise Unreachable(f"{path}: {exc}; only root and the collector's own user may ask: try sudo") from exc
    if not said:
        raise Unreachable(f"{path}: only root and the collector's own user may ask: try sudo")
    document: dict[str, Any] = json.loads(said)
    if "error" in document:
        if document.get("kind") == "usage":
            raise UsageError(str(document["error"]))
        raise Permanent(str(document["error"]))
    return document


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a socket that fits into 108 bytes, however deep its directory is. Raises OSError."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
