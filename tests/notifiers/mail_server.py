# ruff: noqa: N802 - The library calls its hooks so.
"""A real SMTP server for the tests: Debian's aiosmtpd, under the system's own Python.

    /usr/bin/python3 mail_server.py DIRECTORY [--tls starttls|tls CERT KEY] [--login USER PASSWORD] [--say VERB ANSWER]

Prints its port, writes each accepted mail to DIRECTORY/N.eml, and ends when its input ends. `--say` answers a
command with a fixed line instead: MAIL, RCPT, DATA, or QUIT.
"""

import argparse
import asyncio
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult


class Handler:
    def __init__(self, directory, says):
        self._directory, self._says, self._count = directory, says, 0

    async def handle_MAIL(self, server, session, envelope, address, options):
        if "MAIL" in self._says:
            return self._says["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if "RCPT" in self._says and ("@" not in self._says["RCPT"] or address in self._says["RCPT"]):
            return self._says["RCPT"].split(" @")[0]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if "DATA" in self._says:
            return self._says["DATA"]
        self._count += 1
        part = self._directory / f"{self._count}.part"
        encrypted = b"yes" if session.ssl else b"no"
        to = ",".join(envelope.rcpt_tos).encode()
        part.write_bytes(
            b"X-Seen-Tls: %s\r\nX-Seen-To: %s\r\n%s" % (encrypted, to, envelope.original_content)
        )
        part.rename(self._directory / f"{self._count}.eml")
        return f"250 taken as number {self._count}"

    async def handle_QUIT(self, server, session, envelope):
        return self._says.get("QUIT", "221 Bye")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tls", nargs=3)
    parser.add_argument("--login", nargs=2)
    parser.add_argument("--say", nargs=2, action="append", default=[])
    given = parser.parse_args()
    context = None
    if given.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls[1], given.tls[2])
    starttls = context if given.tls and given.tls[0] == "starttls" else None

    def judge(server, session, envelope, mechanism, data):
        right = [data.login.decode(), data.password.decode()] == given.login
        if right:
            return AuthResult(success=True)
        server_says = (
            f"535 5.7.8 no: {data.password.decode()}"  # Impolite servers repeat what they were told.
        )
        return AuthResult(success=False, handled=False, message=server_says)

    options = {"tls_context": starttls, "require_starttls": starttls is not None}
    if given.login:
        options |= {"authenticator": judge, "auth_required": True, "auth_require_tls": False}
    handler = Handler(given.directory, dict(given.say))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="mail.test", loop=loop, **options),
        "127.0.0.1",
        0,
        ssl=context if given.tls and given.tls[0] == "tls" else None,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
