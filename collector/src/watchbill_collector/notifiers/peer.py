"""Posting to another system over HTTP, bounded in every direction.

One attempt has one deadline for everything: name, connection, TLS, request, answer. Of the answer 16 KiB are
read and the rest is left on the wire, uncompressed, so that neither a gigabyte nor a bomb arrives here. TLS is
verified, against the system's authorities or `ca_file`; redirects are not followed, because where a notice
goes is the administrator's decision; a proxy is used when it is configured, never because of the environment.

The addresses come from the configuration alone. Nothing that a host sends can name one, so a host cannot
make the collector call somewhere; an administrator may well name a service on loopback.

Whether trying again helps: nobody answered, 5xx, 408, 425, 429: yes. TLS that cannot be verified: yes, for a
person will renew the certificate. 401, 402, 403, 404, 405, 407, 410 and redirects speak of us or of the address and
not of the notice: it waits until somebody has mended the channel. Other answers that are no 2xx, and JSON that says no
with 200: no, the same notice would be refused again.
"""

import asyncio
import importlib
import logging
import os
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

import orjson

from watchbill.config import Wrong, option
from watchbill_collector.notifiers.channel import (
    TEXT_HELP,
    TITLE_HELP,
    Common,
    Surroundings,
    read_secret,
    template_wanted,
)
from watchbill_collector.notifiers.hostile import line
from watchbill_collector.notifiers.notice import DETAIL_CHARS_MAX, SendFailed
from watchbill_collector.notifiers.secret import Secret, SecretFile

if TYPE_CHECKING:
    import httpx2

ANSWER_BYTES_MAX: Final = 16 << 10
CONNECTIONS_MAX: Final = 8
LAST_WORDS_S: Final = 0.1
"""Of the timeout, what is kept for saying what became of an answer whose body does not end."""
KEEP_ALIVE_S: Final = 30.0
RETRY_AFTER_S_MAX: Final = 3_600.0
"""A peer may ask for an hour of patience; whoever asks for more is asked again after one."""
URL_CHARS_MAX: Final = 2_000
_TRY_AGAIN: Final = frozenset({408, 425, 429})
_UNWELCOME: Final = frozenset({401, 402, 403, 404, 405, 407, 410})
_YES_KEYS: Final = ("ok", "success", "accepted")
_ERROR_KEYS: Final = ("error", "errors", "errorMessage")
_NO_WORDS: Final = frozenset({"error", "fail", "failed", "failure"})
"""How the JSON of an answer says that the peer did not take what it was sent."""


def url_fault(text: str) -> str | None:
    """What is wanted instead of this address; None when it will do."""
    wanted = 'an address such as "https://host.example/path"'
    if len(text) > URL_CHARS_MAX or not text.isascii() or not text.isprintable() or " " in text:
        return wanted
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return wanted
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.fragment:
        return wanted
    if parts.username is not None:
        return f"{wanted}, without a user or password in it: secrets stand in files of their own"
    return None


def url_wrongs(url: str, key: str = "") -> Iterator[Wrong]:
    """For the `check` of an address, "" allowed. What may be a secret in it is not repeated."""
    fault = url_fault(url) if url else None
    if fault:
        shown = "an address with a secret in it" if "@" in url else f'"{line(url, 80)}"'
        yield Wrong(key, shown, fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached(Common):
    """What every channel that speaks HTTP may say."""

    ca_file: Path | None = option(
        None, help="PEM file with the authorities that sign the peer; the system's without it."
    )
    proxy: str = option(
        "",
        check=url_wrongs,
        help="HTTP proxy, such as http://proxy.example:3128.",
    )
    insecure: bool = option(
        default=False, help="Allow http:// beyond this machine: everybody on the way can read and change it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachedInWords(Reached):
    """What channels over HTTP to people may say besides."""

    title: str = option("", check=template_wanted, help=TITLE_HELP)
    text: str = option("", check=template_wanted, help=TEXT_HELP)


def plain_url_wrongs(key: str, url: str, *, insecure: bool) -> Iterator[Wrong]:
    """For the `check` of options: http:// is for this machine, or explicit."""
    if url and clear_text_abroad(url) and not insecure:
        shown = origin(url)
        yield Wrong(key, f'"{shown}/..."', "https://, an address on loopback, or insecure = true")


def clear_text_abroad(url: str) -> bool:
    """Whether what is sent there leaves this machine readable."""
    parts = urlsplit(url)
    return parts.scheme != "https" and not _loopback(parts)


def _loopback(parts: SplitResult) -> bool:
    host = (parts.hostname or "").lower()
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> str:
    """The address without path and query, which may be secrets: what messages and logs show."""
    parts = urlsplit(url)
    return line(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", 300)


def address(url: str, url_file: SecretFile | None) -> tuple[str, Sequence[Secret]]:
    """The address, from the file where one is named, and what of it is a secret. Raises SendFailed."""
    if url_file is None:
        return url, ()
    secret = read_secret(url_file)
    fault = url_fault(secret.reveal())
    if fault:
        raise SendFailed(f"{url_file.place}: wanted {fault}", transient=True)
    url = secret.reveal()
    parts = urlsplit(url)
    # A peer may repeat only the part that is the secret: the path, or its last piece.
    pieces = {url, parts.path.rpartition("/")[2], parts.path.strip("/"), parts.query}
    longest_first = sorted((piece for piece in pieces if piece), key=len, reverse=True)
    return url, tuple(Secret(piece) for piece in longest_first)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answered. `trouble` says why the body ends early, "" when it was read."""

    status: int
    body: bytes
    retry_after_s: float | None
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """Whether the status says that the peer took it."""
        return 200 <= self.status < 300

    def text(self) -> str:
        """The body for people: one bounded line."""
        return line(self.body.decode("utf-8", "replace"), DETAIL_CHARS_MAX)


class Peer:
    """The HTTP side of one channel: a connection or two, kept for the next notice."""

    def __init__(self, options: Reached, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def post(
        self, url: str, content: bytes, headers: Mapping[str, str], secrets: Sequence[Secret] = ()
    ) -> Answer:
        """Post once. Raises SendFailed when there was no answer; `secrets` appear in no message."""
        import httpx2

        where = origin(url)
        if clear_text_abroad(url) and not self._options.insecure:
            raise SendFailed(f"{where}: not sent in the clear; it has to be https://", transient=True)
        try:
            async with asyncio.timeout(float(self._options.timeout)) as deadline:
                ends_s = deadline.when()
                assert ends_s is not None, "it was set a line ago"
                return await self._post(url, content, headers, secrets, ends_s - LAST_WORDS_S)
        except TimeoutError as exc:
            after = f"no answer within {self._options.timeout.to_config()}"
            raise SendFailed(f"{where}: {after}", transient=True) from exc
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as exc:
            raise SendFailed(f"{where}: the address cannot be used", transient=True, unwelcome=True) from exc
        except (httpx2.HTTPError, OSError) as exc:
            raise SendFailed(hidden(f"{where}: {_reason(exc)}", secrets), transient=True) from exc

    async def _post(
        self,
        url: str,
        content: bytes,
        headers: Mapping[str, str],
        secrets: Sequence[Secret],
        body_ends_s: float,
    ) -> Answer:
        import httpx2

        client = await self._opened()
        agent = f"watchbill/{self._surroundings.version}"
        said = {"user-agent": agent, "accept-encoding": "identity", "content-type": "application/json"}
        body = bytearray()
        trouble = ""
        async with client.stream("POST", url, content=content, headers=said | dict(headers)) as response:
            wait_s = retry_after_s(response.headers.get("retry-after", ""), self._now())
            try:
                # The status is known: a body that does not end must not make a failure of an acceptance.
                async with asyncio.timeout_at(body_ends_s):
                    # Raw: what a peer compresses in spite of what we asked for stays compressed.
                    async for piece in response.aiter_raw():
                        body += piece
                        if len(body) >= ANSWER_BYTES_MAX:
                            break
            except TimeoutError:
                trouble = f"no end within {self._options.timeout.to_config()}"
            except (httpx2.HTTPError, OSError) as exc:
                trouble = _reason(exc)
        shown = hidden(bytes(body[:ANSWER_BYTES_MAX]).decode("utf-8", "replace"), secrets)
        return Answer(response.status_code, shown.encode(), wait_s, trouble)

    def _now(self) -> float:
        return self._surroundings.clock.wall_ms() / 1000

    async def _opened(self) -> "httpx2.AsyncClient":
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)
            return self._client

    def _open(self) -> "httpx2.AsyncClient":
        """In a thread: reading the authorities and importing the library take tens of milliseconds."""
        import httpx2

        for library in ("httpx2", "httpcore2"):
            # They log whole addresses, at INFO; ours may be secrets.
            logging.getLogger(library).setLevel(logging.WARNING)
        timeout = float(self._options.timeout)
        return httpx2.AsyncClient(
            verify=trust(self._options.ca_file),
            trust_env=False,
            follow_redirects=False,
            proxy=self._options.proxy or None,
            timeout=httpx2.Timeout(timeout),
            limits=httpx2.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=CONNECTIONS_MAX,
                keepalive_expiry=KEEP_ALIVE_S,
            ),
        )

    def ready(self) -> None:
        """Look whether the authorities can be read, and load the library, so that the first notice does not
        wait for it. Blocks for tens of milliseconds. Raises SendFailed.
        """
        importlib.import_module("httpx2")
        trust(self._options.ca_file)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """TLS as a client, verified. Raises SendFailed: transient, for somebody will put the file right."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # Of which a file without a certificate in it is one, too.
        why = (
            os.strerror(exc.errno).lower()
            if exc.errno and not isinstance(exc, ssl.SSLError)
            else "no certificate"
        )
        raise SendFailed(f"ca_file {ca_file}: {why}", transient=True) from exc


def refuse_unless_ok(answer: Answer, where: str) -> None:
    """Raise SendFailed for an answer that is no 2xx, or one whose body says no in so many words."""
    if answer.ok:
        if _says_no(answer.body):
            raise SendFailed(f"{where}: {answer.status}, but it says: {answer.text()}", transient=False)
        return
    said = answer.text()
    if 300 <= answer.status < 400:
        said = "a redirect, which is not followed: configure the address it leads to"
    why = f"{where}: {answer.status}" + (f", {said}" if said else "")
    transient = answer.status >= 500 or answer.status in _TRY_AGAIN
    unwelcome = answer.status < 400 or answer.status in _UNWELCOME
    wait_s = answer.retry_after_s if transient else None
    raise SendFailed(why, transient=transient, retry_after_s=wait_s, unwelcome=unwelcome)


def _says_no(body: bytes) -> bool:
    """Whether a body is the JSON of a failure. Many a gateway and chat answers every request with 200."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(found, dict):
        return False
    word = found.get("status")
    return (
        any(found.get(key) is False for key in _YES_KEYS)
        or any(found.get(key) for key in _ERROR_KEYS)
        or (isinstance(word, str) and word.lower() in _NO_WORDS)
    )


def retry_after_s(text: str, now_s: float) -> float | None:
    """A Retry-After header as seconds from now, bounded; both forms, seconds and a date. None without one."""
    text = text.strip()[:64]
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_S_MAX)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    wait_s = (when - datetime.fromtimestamp(now_s, UTC)).total_seconds()
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def hidden(text: str, secrets: Sequence[Secret]) -> str:
    """The text without the secrets, should a peer or a library repeat one."""
    for secret in secrets:
        text = secret.hide_in(text)
    return text


def _reason(error: BaseException) -> str:
    """Why a connection failed, in words that lead to what to do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {line(cause.verify_message, 200)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {line(cause.reason or str(cause), 200)}"
        if isinstance(cause, socket.gaierror):
            return line((cause.strerror or "the name is not known").lower(), 200)
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return line(str(error) or type(error).__name__, 200)
