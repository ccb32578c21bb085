"""Asks systemd what its units are like, over D-Bus: one connection for all checks of a process, and no process a look.

Properties are asked for one by one, all at once: all that a service has is 30 KB, of which a check wants a dozen.
Nothing is changed, and nothing needs rights: everybody may read units.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from watchbill_agent.checks.check import Failed, Verdict

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.asyncio import DBusConnection, DBusRouter

SYSTEM_BUS: Final = Path("/run/dbus/system_bus_socket")
BOOTED: Final = Path("/run/systemd/system")
"""There where systemd runs the host."""
NAME: Final = "org.freedesktop.systemd1"
UNITS: Final = "/org/freedesktop/systemd1/unit/"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
NOBODY: Final = "org.freedesktop.DBus.Error.ServiceUnknown"
NOT_THERE: Final = frozenset(
    f"org.freedesktop.DBus.Error.{what}" for what in ("UnknownInterface", "UnknownProperty", "UnknownObject")
)
"""What an older systemd, or a unit that was never loaded, does not have."""
EARLY_S: Final = 0.1


class SystemdBus:
    """A connection, opened when somebody asks, and anew when it broke."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._opening = asyncio.Lock()
        self._connection: DBusConnection | None = None
        self._router: DBusRouter | None = None
        self._broken: tuple[type[Exception], ...] = (OSError,)
        """What comes of a connection that broke; the library has an error of its own for it."""
        self.users = 0

    async def properties(
        self, unit: str, wanted: Sequence[tuple[str, str]], within_s: float
    ) -> dict[str, Any]:
        """Properties of a unit by their names; `wanted` are names with the interface (`Unit`, `Service`, `Timer`). One
        that this systemd does not have is left out. Raises Failed."""
        try:
            async with asyncio.timeout(within_s - min(EARLY_S, within_s / 10)):
                router = await self._opened()
                values = await asyncio.gather(*(self._get(router, unit, *one) for one in wanted))
        except TimeoutError:
            await self.close()
            raise Failed(
                "bus-silent", f"systemd did not answer within {within_s:g} s", verdict=Verdict.UNKNOWN
            ) from None
        except self._broken as exc:
            await self.close()
            said = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc) or "it hung up"
            raise Failed("bus", f"{self._address}: {said.lower()}", verdict=Verdict.UNKNOWN) from exc
        pairs = zip(wanted, values, strict=True)
        return {name: value for (_, name), value in pairs if value is not None}

    async def close(self) -> None:
        """Hang up."""
        router, self._router = self._router, None
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            if router is not None:
                await router.__aexit__(None, None, None)
        with contextlib.suppress(OSError):
            if connection is not None:
                await connection.close()

    async def _opened(self) -> "DBusRouter":
        try:
            from jeepney.io.asyncio import DBusConnection, DBusRouter
            from jeepney.io.common import RouterClosed
        except ImportError as exc:
            detail = "jeepney is missing: install watchbill-agent[checks]"
            raise Failed("not-installed", detail, verdict=Verdict.UNKNOWN) from exc
        self._broken = (OSError, EOFError, ValueError, RouterClosed)
        async with self._opening:
            if self._router is None:
                reader, writer = await asyncio.open_unix_connection(self._address)
                self._connection = DBusConnection(reader, writer)
                await _introduce(reader, writer)
                self._router = DBusRouter(self._connection)
                await self._router.send_and_get_reply(_hello())
            return self._router

    async def _get(self, router: "DBusRouter", unit: str, interface: str, name: str) -> Any:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        target = DBusAddress(UNITS + escaped(unit), bus_name=NAME, interface=PROPERTIES)
        reply = await router.send_and_get_reply(
            new_method_call(target, "Get", "ss", (f"{NAME}.{interface}", name))
        )
        if reply.header.message_type is MessageType.error:
            error = str(reply.header.fields.get(HeaderFields.error_name, ""))
            if error in NOT_THERE:
                return None
            if error == NOBODY:
                raise Failed("no-systemd", f"{self._address}: no systemd is there", verdict=Verdict.UNKNOWN)
            said = str(reply.body[0]) if reply.body else error
            raise Failed("bus", f"{unit}: {said}", verdict=Verdict.UNKNOWN)
        return reply.body[0][1]


async def _introduce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As our user, which the bus reads from the socket. Raises EOFError, ValueError, OSError."""
    from jeepney.auth import BEGIN, Authenticator

    introduction = Authenticator()
    for said in introduction:
        writer.write(said)
        answer = await reader.read(1024)
        if not answer:
            raise EOFError
        introduction.feed(answer)
    writer.write(BEGIN)


def _hello() -> "Message":
    from jeepney.bus_messages import message_bus

    return message_bus.Hello()


def escaped(unit: str) -> str:
    """A unit's name as the last element of its path."""
    return (
        "".join(
            char
            if char.isalnum() and char.isascii() and not (at == 0 and char.isdigit())
            else "".join(f"_{byte:02x}" for byte in char.encode())
            for at, char in enumerate(unit)
        )
        or "_"
    )


_buses: dict[tuple[Path, int], SystemdBus] = {}


def bus_of(address: Path) -> SystemdBus:
    """The one of this process; whoever has it gives it back."""
    key = (address, id(asyncio.get_running_loop()))
    bus = _buses.setdefault(key, SystemdBus(address))
    bus.users += 1
    return bus


async def give_back(bus: SystemdBus) -> None:
    """The last one hangs up."""
    bus.users -= 1
    if bus.users == 0:
        for key in [key for key, one in _buses.items() if one is bus]:
            del _buses[key]
        await bus.close()
