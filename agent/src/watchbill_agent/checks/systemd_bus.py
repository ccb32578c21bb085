"""Asks systemd what its units are like, over D-Bus: one connection for all checks of a process, and no process a look.

Properties are asked for one by one, all at once: all that a service has is 30 KB, of which a check wants a dozen.
Nothing is changed, and nothing needs rights: everybody may read units.
"""

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from watchbill_agent.checks.check import Failed, Verdict

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.asyncio import DBusConnection

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
REQUESTS_MAX: Final = 10_000
SERIAL: Final = struct.Struct("<I")
SERIAL_AT: Final = 8
"""Where the number of a message is in it."""
SERIAL_MAX: Final = 2**32 - 1


class SystemdBus:
    """A connection, opened when somebody asks, and anew when it broke."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._opening = asyncio.Lock()
        self._connection: DBusConnection | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        """Who waits for the answer to which request."""
        self._requests: dict[tuple[str, str, str], bytes] = {}
        """As they are sent, but for their number: making one takes 0.1 ms."""
        self._serial = 0
        self.users = 0

    async def properties(
        self, unit: str, wanted: Sequence[tuple[str, str]], within_s: float
    ) -> dict[str, Any]:
        """Properties of a unit by their names; `wanted` are names with the interface (`Unit`, `Service`, `Timer`). One
        that this systemd does not have is left out. Raises Failed."""
        try:
            async with asyncio.timeout(within_s - min(EARLY_S, within_s / 10)):
                await self._opened()
                replies = await self._ask([self._request(unit, *one) for one in wanted])
        except TimeoutError:
            await self.close()
            detail = f"systemd did not answer within {within_s:g} s"
            raise Failed("bus-silent", detail, verdict=Verdict.UNKNOWN) from None
        except (OSError, EOFError, ValueError) as exc:
            await self.close()
            said = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc) or "it hung up"
            raise Failed("bus", f"{self._address}: {said.lower()}", verdict=Verdict.UNKNOWN) from exc
        values = [self._value(unit, reply) for reply in replies]
        pairs = zip(wanted, values, strict=True)
        return {name: value for (_, name), value in pairs if value is not None}

    async def close(self) -> None:
        """Hang up."""
        receiving, self._receiving = self._receiving, None
        connection, self._connection = self._connection, None
        if receiving is not None:
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await receiving
        if connection is not None:
            with contextlib.suppress(OSError):
                await connection.close()

    async def _opened(self) -> None:
        try:
            from jeepney.io.asyncio import DBusConnection
        except ImportError as exc:
            detail = "jeepney is missing: install watchbill-agent[checks]"
            raise Failed("not-installed", detail, verdict=Verdict.UNKNOWN) from exc
        async with self._opening:
            if self._receiving is not None and not self._receiving.done():
                return
            await self.close()
            reader, writer = await asyncio.open_unix_connection(self._address)
            self._connection = DBusConnection(reader, writer)
            await _introduce(reader, writer)
            self._receiving = asyncio.create_task(self._receive(self._connection), name="systemd's bus")
            await self._ask([_hello()])

    async def _ask(self, requests: Sequence[bytes]) -> list["Message"]:
        """Send them all at once, and wait for their answers. Raises EOFError when the connection ends."""
        if self._connection is None:
            raise EOFError
        loop, numbers, content = asyncio.get_running_loop(), [], bytearray()
        for request in requests:
            self._serial = self._serial % SERIAL_MAX + 1
            numbers.append(self._serial)
            at = len(content) + SERIAL_AT
            content += request
            SERIAL.pack_into(content, at, self._serial)
        answers = [self._waiting.setdefault(number, loop.create_future()) for number in numbers]
        try:
            self._connection.writer.write(bytes(content))
            return await asyncio.gather(*answers)
        finally:
            for number in numbers:
                self._waiting.pop(number, None)

    async def _receive(self, connection: "DBusConnection") -> None:
        from jeepney import HeaderFields

        try:
            while True:
                message = await connection.receive()
                waiting = self._waiting.get(message.header.fields.get(HeaderFields.reply_serial, 0))
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(EOFError())

    def _request(self, unit: str, interface: str, name: str) -> bytes:
        key = (unit, interface, name)
        found = self._requests.get(key)
        if found is None:
            from jeepney import DBusAddress, new_method_call

            target = DBusAddress(UNITS + escaped(unit), bus_name=NAME, interface=PROPERTIES)
            call = new_method_call(target, "Get", "ss", (f"{NAME}.{interface}", name))
            if len(self._requests) >= REQUESTS_MAX:
                self._requests.clear()
            found = self._requests[key] = call.serialise(1)
        return found

    def _value(self, unit: str, reply: "Message") -> Any:
        from jeepney import HeaderFields, MessageType

        if reply.header.message_type is not MessageType.error:
            return reply.body[0][1]
        error = str(reply.header.fields.get(HeaderFields.error_name, ""))
        if error in NOT_THERE:
            return None
        if error == NOBODY:
            raise Failed("no-systemd", f"{self._address}: no systemd is there", verdict=Verdict.UNKNOWN)
        said = str(reply.body[0]) if reply.body else error
        raise Failed("bus", f"{unit}: {said}", verdict=Verdict.UNKNOWN)


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


def _hello() -> bytes:
    from jeepney.bus_messages import message_bus

    return bytes(message_bus.Hello().serialise(1))


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
