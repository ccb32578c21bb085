"""Sends mail over SMTP: plain text and HTML in one message, encrypted unless the server is on this machine.

The Message-ID is made of the notice's key, so that a repeat after a crash is recognised as the same mail; all
mails of a group refer to one thread. What hosts write cannot start a header, and the HTML part shows it as
text: no picture, script or style is fetched from anywhere.
"""

import asyncio
import contextlib
import hashlib
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address as MailAddress
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from pathlib import Path
from platform import node
from typing import Any, Final, Literal

from watchbill.config import Address, Wrong, option
from watchbill_collector.notifiers.channel import (
    TEXT_HELP,
    TITLE_HELP,
    Channel,
    Common,
    Surroundings,
    read_secret,
    template_wanted,
)
from watchbill_collector.notifiers.filling import Words, words
from watchbill_collector.notifiers.hostile import line
from watchbill_collector.notifiers.notice import DETAIL_CHARS_MAX, Delivered, Notice, SendFailed
from watchbill_collector.notifiers.peer import trust
from watchbill_collector.notifiers.secret import Secret, SecretFile
from watchbill_collector.notifiers.story import AlertStory, Story, facts

RECIPIENTS_MAX: Final = 100
THREADS_MAX: Final = 2
"""Mails of one channel in flight; a third waits, so a hanging server holds two threads and no more."""
AFTER_DEADLINE_S: Final = 1.0
"""How much longer than the whole a single answer may take: so the deadline ends it, and its words are told."""
LOGIN_WANTED: Final = 530
TOO_LARGE: Final = 552
"""RFC 4954 and RFC 5321; the second is said of the mail, already when its sender is told."""
ANSWER_BYTES_MAX: Final = 64 << 10
"""What a server may say in one session: it could go on for ever otherwise."""
_MAILBOX: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}", re.ASCII)

_HOST_NAME: Final = node() if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}", node()) else "localhost"

Tls = Literal["starttls", "tls", "none"]


def _mailbox(value: str) -> str | None:
    if _MAILBOX.fullmatch(value) and ".." not in value and not value.startswith("."):
        return None
    return 'an address such as "ops@example.org"'


def _mailboxes(values: list[str]) -> Iterator[Wrong]:
    if not values:
        yield Wrong("", "an empty array", "at least one address")
    for number, value in enumerate(values):
        wanted = _mailbox(value)
        if wanted:
            yield Wrong(str(number), f'"{line(value, 80)}"', wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Common):
    """Mail over SMTP."""

    to: list[str] = option(
        check=_mailboxes, length_max=RECIPIENTS_MAX, help="Who gets it.", example='["ops@example.org"]'
    )
    sender: str = option(
        "",
        name="from",
        check=lambda value: _mailbox(value) if value else None,
        help="The sender; watchbill@ this machine's name without it.",
    )
    server: Address = option(Address("127.0.0.1", 25), help="The mail server: 587 for starttls, 465 for tls.")
    tls: Tls | None = option(
        None,
        help="How the connection is encrypted; without it tls on port 465, none on loopback, else starttls.",
    )
    insecure: bool = option(default=False, help="Allow tls = none beyond this machine.")
    ca_file: Path | None = option(
        None, help="PEM file with the authorities that sign the server; the system's without it."
    )
    user: str = option("", length_max=256, help="Whom to log in as; without it nobody logs in.")
    password_file: SecretFile | None = option(None, help="File with that user's password.")
    title: str = option("", check=template_wanted, help=TITLE_HELP)
    text: str = option("", check=template_wanted, help=TEXT_HELP)

    def check(self) -> Iterator[Wrong]:
        """Passwords and alerts do not travel in the clear by accident."""
        if bool(self.user) != (self.password_file is not None):
            missing = "password_file" if self.user else "user"
            yield Wrong(missing, "nothing", "both user and password_file, or neither")
        if self.encryption == "none" and not self.server.loopback and not self.insecure:
            yield Wrong("tls", '"none"', '"starttls" or "tls", a server on loopback, or insecure = true')
        if self.server.port == 0:
            yield Wrong("server", "port 0", "the server's port: 25, 465 or 587")

    @property
    def encryption(self) -> Tls:
        """What `tls` says, or what fits the server."""
        if self.tls is not None:
            return self.tls
        if self.server.port == smtplib.SMTP_SSL_PORT:
            return "tls"
        return "none" if self.server.loopback else "starttls"

    @property
    def from_address(self) -> str:
        """The sender's address."""
        return self.sender or f"watchbill@{_HOST_NAME}"


class Email(Channel):
    """One mail a notice, one session a mail."""

    kind = "email"
    options_type = Options

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix=f"mail-{options.name}")

    async def send(self, notice: Notice) -> Delivered:
        """Hand it to the server. The library blocks, so it runs in a thread that the deadline cuts off."""
        said = words(notice, self._options.title, self._options.text)
        message = render(notice, said, self._options)
        password = read_secret(self._options.password_file) if self._options.password_file else None
        session = _Session(self._options, password)
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, session.deliver, message)
        try:
            async with asyncio.timeout(float(self._options.timeout)):
                return await asyncio.shield(work)
        except TimeoutError as exc:
            limit = self._options.timeout.to_config()
            raise SendFailed(f"{self._options.server}: no end within {limit}", transient=True) from exc
        finally:
            if not work.done():
                session.cut()
                work.cancel()
                work.add_done_callback(_forget)

    def ready(self) -> None:
        """Password and authorities are there."""
        if self._options.password_file is not None:
            read_secret(self._options.password_file)
        if self._options.encryption != "none":
            trust(self._options.ca_file)

    async def close(self) -> None:
        """Let the threads go; what they wait for has been cut."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _forget(work: "asyncio.Future[Delivered]") -> None:
    """What came of a session that was cut is known already."""
    if not work.cancelled():
        work.exception()


class _Session:
    """One SMTP session, in a thread of its own. `cut` ends it from outside."""

    def __init__(self, options: Options, password: Secret | None) -> None:
        self._options = options
        self._password = password
        self._lock = threading.Lock()
        self._cut = False
        self._socket: socket.socket | None = None

    def cut(self) -> None:
        """Whatever it waits for, it waits no more."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def connected(self, connection: socket.socket) -> None:
        """Remember what `cut` has to end."""
        with self._lock:
            self._socket = connection
            if self._cut:
                raise TimeoutError("too late")

    def deliver(self, message: EmailMessage) -> Delivered:
        """Connect, encrypt, log in, send. Raises SendFailed."""
        options = self._options
        where = str(options.server)
        try:
            server = _open(options, self)
            try:
                if options.encryption == "starttls":
                    server.starttls(context=trust(options.ca_file))
                if self._password is not None:
                    server.login(options.user, self._password.reveal())
                refused = server.send_message(message, options.from_address, options.to)
                said = server.said
                server.take_leave()
            finally:
                server.close()
        except (smtplib.SMTPException, OSError, ValueError) as exc:
            raise self._failed(where, exc) from exc
        notes = "".join(f"; refused for {to}: {_words(*why)}" for to, why in refused.items())
        return Delivered(line(self._hide(f"{said}{notes}"), DETAIL_CHARS_MAX))

    def _hide(self, text: str) -> str:
        if self._password is None:
            return text
        # AUTH PLAIN sends both together, and the line that a server quotes is base64 of that.
        both = Secret(f"\0{self._options.user}\0{self._password.reveal()}")
        return self._password.hide_in(both.hide_in(text))

    def _failed(self, where: str, error: Exception) -> SendFailed:
        why, transient = judge(error)
        return SendFailed(self._hide(f"{where}: {why}"), transient=transient, unwelcome=unwelcome(error))


class _Server(smtplib.SMTP):
    """The library's client with a bound on what the server may say, and its last words kept."""

    said: str = ""

    def __init__(self, session: _Session, *args: Any, **kwargs: Any) -> None:
        self._session = session
        super().__init__(*args, **kwargs)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = super()._get_socket(host, port, timeout)  # type: ignore[misc]  # The library's own seam.
        self._session.connected(connection)
        return connection  # type: ignore[no-any-return]

    def starttls(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        """Encrypt from here on. The library makes another socket for it, which `cut` has to know."""
        answer = super().starttls(*args, **kwargs)
        if self.sock is not None:
            self._session.connected(self.sock)
        return answer

    def take_leave(self) -> None:
        """Say QUIT without waiting for the answer: the mail is accepted, whatever the server says now."""
        with contextlib.suppress(OSError, smtplib.SMTPException):
            self.putcmd("quit")

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply, of bounded length."""
        if self.file is None and self.sock is not None:
            self.file = _Bounded(self.sock.makefile("rb"))
        code, text = super().getreply()
        self.said = _words(code, text)
        return code, text


class _EncryptedServer(_Server, smtplib.SMTP_SSL):
    """The same, encrypted from the first byte."""


class _Bounded:
    """A server's answers, as the library reads them, up to a bound."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = ANSWER_BYTES_MAX

    def readline(self, size: int) -> bytes:
        """One line. Raises OSError beyond the bound."""
        text: bytes = self._file.readline(size)
        self._left -= len(text)
        if self._left < 0:
            raise OSError(f"the server answered with more than {ANSWER_BYTES_MAX} bytes")
        return text

    def close(self) -> None:
        """As files are closed."""
        self._file.close()


def _open(options: Options, session: _Session) -> _Server:
    host, port = options.server.host, options.server.port
    timeout = float(options.timeout) + AFTER_DEADLINE_S
    local = "localhost" if options.server.loopback else None
    if options.encryption == "tls":
        return _EncryptedServer(
            session, host, port, local_hostname=local, timeout=timeout, context=trust(options.ca_file)
        )
    return _Server(session, host, port, local_hostname=local, timeout=timeout)


def judge(error: Exception) -> tuple[str, bool]:
    """Why it failed, in words, and whether trying again can help: 4xx yes, 5xx no, no answer yes."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        whys = list(error.recipients.values())
        shown = "; ".join(f"{to}: {_words(*why)}" for to, why in list(error.recipients.items())[:3])
        return f"all recipients refused: {shown}", any(code < 500 for code, _ in whys)
    if isinstance(error, smtplib.SMTPResponseException):
        what = "login refused: " if isinstance(error, smtplib.SMTPAuthenticationError) else ""
        return what + _words(error.smtp_code, error.smtp_error), not 500 <= error.smtp_code < 600
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return f"{line(str(error), 200)} (the server does not offer it)", False
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return f"the server hung up: {line(str(error), 200)}", True
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {line(error.verify_message, 200)}", True
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {line(error.reason or str(error), 200)}", True
    if isinstance(error, OSError):
        return line((error.strerror or str(error)).lower(), 200), True
    return line(str(error), 200), False


def unwelcome(error: Exception) -> bool:
    """Whether the server refuses us rather than this mail: the login, the sender, every recipient, or to speak with us
    at all. Somebody has to mend the channel, or the server.
    """
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPDataError):
        return error.smtp_code == LOGIN_WANTED
    if isinstance(error, smtplib.SMTPResponseException):
        return 500 <= error.smtp_code < 600 and error.smtp_code != TOO_LARGE
    return isinstance(error, smtplib.SMTPNotSupportedError)


def _words(code: int, text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return line(f"{code} {said}", 300)


# ---------------------------------------------------------------- the message


def render(notice: Notice, said: Words, options: Options) -> EmailMessage:
    """The mail, the same for the same notice: a repeat is the same message."""
    sender = options.from_address
    domain = sender.rpartition("@")[2]
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = MailAddress("Watchbill", addr_spec=sender)
    message["To"] = [MailAddress("", addr_spec=address) for address in options.to]
    message["Subject"] = said.title
    message["Date"] = format_datetime(datetime.fromtimestamp(notice.created_ms / 1000, UTC))
    message["Message-ID"] = f"<{_digest(notice.key)}@{domain}>"
    thread = f"<{_digest(notice.group_key)}.group@{domain}>"
    message["In-Reply-To"] = thread
    message["References"] = thread
    # So that absence notes and other machines do not answer.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    if notice.severity == "critical" and not notice.resolved:
        message["Importance"] = "high"
    message.set_content(f"{_encodable(said.text)}\n\n-- \n{said.story.footer}\n")
    message.add_alternative(as_html(said), subtype="html")
    # The boundary is random by default; the same notice has to be the same bytes.
    message.set_boundary(f"=_{_digest('boundary ' + notice.key)}")
    return message


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:40]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def as_html(said: Words) -> str:
    """The HTML part: every text escaped, nothing fetched, readable on a telephone in the dark."""
    body = _paragraphs(said.text) if said.own_text else _story_html(said.story)
    footer = f'<p style="color:#777;font-size:12px">{escape(said.story.footer)}</p>'
    head = '<meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    style = "font-family:sans-serif;font-size:15px;line-height:1.4;max-width:44em"
    title = f'<h2 style="font-size:18px">{escape(said.title)}</h2>'
    top = f'<!doctype html><html><head>{head}</head><body style="{style}">'
    return _encodable(f"{top}\n{title}\n{body}\n{footer}\n</body></html>\n")


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{'<br>'.join(map(escape, part.split(chr(10))))}</p>" for part in text.split("\n\n"))


def _story_html(story: Story) -> str:
    parts: list[str] = []
    if story.remark:
        parts.append(f"<p><b>NOTE: {escape(story.remark)}</b></p>")
    if story.lead:
        parts.append(f"<p>{escape(story.lead)}</p>")
    parts += [_alert_html(alert) for alert in story.alerts]
    if story.more:
        parts.append(f"<p>... {escape(story.more)}.</p>")
    if story.link:
        parts.append(f"<p>{_anchor(story.link, 'Everything that fires')}</p>")
    return "\n".join(parts)


def _alert_html(alert: AlertStory) -> str:
    colour = "#c62828" if alert.firing else "#2e7d32"
    rows = [f"<b>{'' if alert.firing else 'RESOLVED: '}{escape(alert.headline)}</b>", escape(alert.since)]
    rows += [f"{escape(name)}: {escape(text)}" for name, text in facts(alert)]
    rows += [escape(part) for part in alert.detail.split("\n") if part]
    rows += [
        f"{escape(link.name)}: {_anchor(link.url, link.text) if link.url else escape(link.text)}"
        for link in alert.links
    ]
    style = f"border-left:4px solid {colour};padding-left:10px;margin:14px 0"
    return f'<div style="{style}">{"<br>".join(rows)}</div>'


def _anchor(url: str, text: str) -> str:
    return f'<a href="{escape(url, quote=True)}" rel="noreferrer">{escape(text)}</a>'
