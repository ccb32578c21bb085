"""The words after which a plain connection becomes TLS, for the protocols that have some.

Each says as little as its server allows, and nothing of ours but a name in EHLO. MySQL counts a connection that ends
without a login as an error of this host, and refuses it after `max_connect_errors` of them in a row (100 by default):
a check that logs in now and then keeps that from happening.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal

from watchbill_agent.checks.check import Failed
from watchbill_agent.checks.probing import shown
from watchbill_agent.checks.talk import Talk

Protocol = Literal["", "smtp", "imap", "pop3", "ftp", "postgres", "mysql", "ldap"]

GREETING_LINES_MAX: Final = 100
PACKET_BYTES_MAX: Final = 4096
OURSELVES: Final = b"watchbill.invalid"

_POSTGRES: Final = bytes.fromhex("00000008 04d2162f")
_MYSQL_SSL: Final = 0x0800
_MYSQL_ASKED: Final = (
    (0x0800 | 0x0200 | 0x8000).to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + b"\x2d"
)
_LDAP: Final = bytes.fromhex("301d 020101 7718 8016") + b"1.3.6.1.4.1.1466.20037"


async def smtp(talk: Talk) -> None:
    """RFC 3207."""
    await _numbered(talk, b"220", "a greeting")
    await talk.say(b"EHLO " + OURSELVES + b"\r\n")
    offered = await _numbered(talk, b"250", "an answer to EHLO")
    if not any(line[4:].strip().upper() == b"STARTTLS" for line in offered):
        raise _missing("EHLO's answer", b"".join(offered[-1:]))
    await talk.say(b"STARTTLS\r\n")
    await _numbered(talk, b"220", "an answer to STARTTLS")


async def ftp(talk: Talk) -> None:
    """RFC 4217."""
    await _numbered(talk, b"220", "a greeting")
    await talk.say(b"AUTH TLS\r\n")
    await _numbered(talk, b"234", "an answer to AUTH TLS")


async def pop3(talk: Talk) -> None:
    """RFC 2595."""
    await _begins(talk, b"+OK", "a greeting")
    await talk.say(b"STLS\r\n")
    await _begins(talk, b"+OK", "an answer to STLS")


async def imap(talk: Talk) -> None:
    """RFC 3501."""
    await _begins(talk, b"* OK", "a greeting")
    await talk.say(b"w1 STARTTLS\r\n")
    for _ in range(GREETING_LINES_MAX):
        line = await talk.line()
        if line.upper().startswith(b"W1 "):
            if not line[3:].upper().startswith(b"OK"):
                raise _missing("an answer to STARTTLS", line)
            return
    raise Failed("protocol", f"more than {GREETING_LINES_MAX} lines before an answer to STARTTLS")


async def postgres(talk: Talk) -> None:
    """SSLRequest of the frontend protocol."""
    await talk.say(_POSTGRES)
    answer = await talk.exactly(1)
    if answer != b"S":
        raise _missing("an answer to SSLRequest", answer)


async def mysql(talk: Talk) -> None:
    """The server's greeting, and a request of which the login is left out."""
    head = await talk.exactly(4)
    size = int.from_bytes(head[:3], "little")
    if not 0 < size <= PACKET_BYTES_MAX:
        raise Failed("protocol", f"got {shown(head)}, wanted MySQL's greeting")
    greeting = await talk.exactly(size)
    if greeting[0] == 0xFF:
        raise Failed("starttls-missing", f"the server says {shown(greeting[3:])}")
    version, _, rest = greeting[1:].partition(b"\0")
    if greeting[0] != 10 or len(rest) < 15:
        raise Failed("protocol", f"got {shown(greeting)}, wanted MySQL's greeting")
    if not int.from_bytes(rest[13:15], "little") & _MYSQL_SSL:
        raise _missing("the greeting", version)
    request = _MYSQL_ASKED + bytes(23)
    await talk.say(len(request).to_bytes(3, "little") + bytes([(head[3] + 1) & 0xFF]) + request)


async def ldap(talk: Talk) -> None:
    """RFC 4511, 4.14."""
    await talk.say(_LDAP)
    head = await talk.exactly(2)
    size = head[1]
    if size == 0x81:
        size = (await talk.exactly(1))[0]
    elif size == 0x82:
        size = int.from_bytes(await talk.exactly(2), "big")
    if head[0] != 0x30 or not 0 < size <= PACKET_BYTES_MAX:
        raise Failed("protocol", f"got {shown(head)}, wanted an answer of LDAP")
    answer = await talk.exactly(size)
    # Its number, then the response (0x78) with its length, then the code as the first thing in it.
    response, _, code = answer.partition(b"\x0a\x01")
    if b"\x78" not in response or not code:
        raise Failed("protocol", f"got {shown(answer)}, wanted an answer to StartTLS")
    if code[0] != 0:
        raise Failed("starttls-missing", f"LDAP's code for StartTLS is {code[0]}")


WAYS: Final[dict[str, Callable[[Talk], Awaitable[None]]]] = {
    "smtp": smtp,
    "imap": imap,
    "pop3": pop3,
    "ftp": ftp,
    "postgres": postgres,
    "mysql": mysql,
    "ldap": ldap,
}


async def begin(talk: Talk, protocol: str) -> None:
    """Up to where TLS begins. Raises Failed."""
    await WAYS[protocol](talk)
    talk.nothing_left()


async def _numbered(talk: Talk, code: bytes, what: str) -> list[bytes]:
    """An answer of SMTP or FTP, which may have several lines."""
    lines: list[bytes] = []
    while len(lines) < GREETING_LINES_MAX:
        line = await talk.line()
        lines.append(line)
        if len(line) >= 3 and line[:3].isdigit() and line[3:4] != b"-":
            if line[:3] != code:
                raise _missing(what, line)
            return lines
        if not lines[0][:3].isdigit():
            raise Failed("protocol", f"got {shown(line)}, wanted {what}")
    raise Failed("protocol", f"more than {GREETING_LINES_MAX} lines of {what}")


async def _begins(talk: Talk, wanted: bytes, what: str) -> None:
    line = await talk.line()
    if not line.upper().startswith(wanted):
        raise _missing(what, line)


def _missing(what: str, got: bytes) -> Failed:
    return Failed("starttls-missing", f"{what}: got {shown(got)}, and no way to TLS")
