"""A request over HTTP: the status, headers and body that are wanted, how long each phase took, and until when the
certificate holds.

    [[check]]
    name = "shop"
    kind = "http"
    url = "https://shop.example/health"
    json = ['$.status == "ok"', "$.queue.depth < 100"]
    warn_after = "1s"
    fail_after = "3s"

Names of options and series are blackbox_exporter's where it has them. Each look opens a connection of its own: the
handshake is part of what is checked. Numbers:

1. Phases are summed over redirects; the bytes of all answers of one look share `body_size_limit`.
2. Only the place that was configured is told secrets (headers, passwords, tokens and bodies from files) and is shown a
   client certificate.
   A redirect elsewhere goes on without them, and one from https to http is refused unless `redirect_to_http` is set.
3. A body is kept only where something asks for it, and what comes compressed counts as what it becomes.

Reasons: those of `connection` and `trust`, `timeout`, `slow`, `name-unknown`, `status-unexpected`,
`version-unexpected`, `body-unexpected`, `body-too-long`, `body-incomplete`, `body-encoding`, `json-invalid`,
`json-unexpected`, `header-unexpected`, `headers-too-long`, `protocol`, `redirects-too-many`, `redirect-refused`,
`redirect-invalid`, `tls-missing`, `tls-unwanted`, `proxy-refused`; UNKNOWN `resolve-timeout`, `resolve-failed`,
`resolver-busy`, `credential`, `body-file`, `not-installed`.
"""

import asyncio
import base64
import calendar
import re
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal

from watchbill import __version__
from watchbill.config import ByteSize, Wrong, option
from watchbill.config.convert import show_value
from watchbill.files import UnreadableFile, read_bounded
from watchbill_agent.checks import httpwire, regex, trust
from watchbill_agent.checks.addresses import RESOLVER
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.compression import decompressed
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.httprules import (
    RULES_MAX,
    SUCCESS,
    HeaderRule,
    Rules,
    Statuses,
    conditions,
    header_rules,
)
from watchbill_agent.checks.httpwire import Answer, Headers, Request
from watchbill_agent.checks.probing import Findings, Form, Phases, bounded, missing, shown, with_samples
from watchbill_agent.checks.secret import secret_of, secret_wanted
from watchbill_agent.checks.target import Target, read_url
from watchbill_agent.names import WrongOption

REDIRECTS_MAX: Final = 20
REDIRECTS_DEFAULT: Final = 10
HEADERS_MAX: Final = 64
"""That a check may send."""
BODY_FILE_BYTES_MAX: Final = 1024 * 1024
BODY_BYTES_DEFAULT: Final = ByteSize(1024 * 1024)
BODY_BYTES_MAX: Final = ByteSize(16 * 1024 * 1024)
"""The unit has 128 MiB for everything."""
URL_CHARACTERS_MAX: Final = 8_000
LOCATION_CHARACTERS_MAX: Final = 8_000
DATES_MAX: Final = 256
"""Read ones kept."""

_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")
_ALPN: Final[dict[str, tuple[str, ...]]] = {"1.1": ("http/1.1",), "2": ("h2",), "auto": ("h2", "http/1.1")}
_PHASES: Final = ("resolve", "connect", "tls", "processing", "transfer")
_FORM: Final = Form(
    ("probe_http_duration_seconds", "Duration of each phase, summed over all redirects.", *_PHASES),
    ("probe_dns_lookup_time_seconds", "How long finding the address took."),
    ("probe_ip_protocol", "Whether it was IPv4 or IPv6."),
    ("probe_http_status_code", "The status of the answer."),
    ("probe_http_version", "The HTTP of the answer."),
    ("probe_http_ssl", "Whether the answer came over TLS."),
    ("probe_http_redirects", "How often an answer pointed elsewhere."),
    ("probe_http_content_length", "Content-Length of the answer, -1 where it had none."),
    ("probe_http_uncompressed_body_length", "Bytes of the body as it is meant."),
    ("probe_failed_due_to_regex", "Whether a regular expression decided."),
)


def _headers(pairs: dict[str, str]) -> Iterator[Wrong]:
    for name, value in pairs.items():
        if not _TOKEN.fullmatch(name):
            yield Wrong((name,), show_value(name), "the name of a header")
        elif name.lower() in _SECRET_HEADERS:
            yield Wrong((name,), "a secret in this file", f"header_files = {{ {name} = FILE }}")
        elif not _VALUE.fullmatch(value):
            yield Wrong((name,), show_value(value), "one line of at most 4096 characters")


def _header_files(pairs: dict[str, str]) -> Iterator[Wrong]:
    for name, value in pairs.items():
        wanted = "the name of a header" if not _TOKEN.fullmatch(name) else secret_wanted(value)
        if wanted:
            yield Wrong((name,), show_value(value), wanted)


def _method(value: str) -> str | None:
    return None if _TOKEN.fullmatch(value) and value.isupper() else "a method, such as GET or POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(trust.TlsOptions):
    """What to ask, and what is wanted."""

    url: str = option(
        help="What to ask for.", length_max=URL_CHARACTERS_MAX, example='"https://shop.example/health"'
    )
    method: str = option("GET", check=_method, help="How to ask.")
    headers: dict[str, str] = option(
        {}, length_max=HEADERS_MAX, check=_headers, help="Headers to send; Host is one of them."
    )
    header_files: dict[str, str] = option(
        {},
        length_max=HEADERS_MAX,
        check=_header_files,
        help="Headers whose values are secrets, out of files.",
    )
    body: str = option("", length_max=BODY_FILE_BYTES_MAX, help="What to send.")
    body_file: Path | None = option(None, help="A file with what to send.")
    username: str = option("", length_max=256, help="For basic authentication.")
    password_file: str = option("", check=secret_wanted, help="The password of `username`.")
    bearer_token_file: str = option("", check=secret_wanted, help="A token to send as Authorization: Bearer.")
    http: Literal["1.1", "2", "auto"] = option(
        "1.1", help="The HTTP to speak; auto lets the server choose, where there is TLS."
    )
    compression: Literal["", "gzip", "deflate"] = option("", help="The compression to ask for.")
    valid_status_codes: list[Statuses] = option(
        [SUCCESS], length_max=RULES_MAX, help="Statuses that are well.", example='["2xx", 301, "401-403"]'
    )
    valid_http_versions: list[Literal["1.0", "1.1", "2"]] = option(
        [], help="Versions that are well; none: all."
    )
    body_size_limit: ByteSize = option(
        BODY_BYTES_DEFAULT, at_least=1, at_most=BODY_BYTES_MAX, help="A longer body has failed."
    )
    follow_redirects: bool = option(True, help="Whether to go where an answer points.")
    redirects_max: int = option(REDIRECTS_DEFAULT, at_least=0, at_most=REDIRECTS_MAX, help="How often.")
    redirect_to_http: bool = option(False, help="Whether https may point to http.")
    fail_if_ssl: bool = option(False, help="TLS at the end is a failure.")
    fail_if_not_ssl: bool = option(False, help="No TLS at the end is a failure.")
    fail_if_body_matches_regexp: list[str] = option([], length_max=RULES_MAX, help="What no body may match.")
    fail_if_body_not_matches_regexp: list[str] = option(
        [], length_max=RULES_MAX, help="What the body must match."
    )
    fail_if_header_matches: list[HeaderRule] = option(
        [], length_max=RULES_MAX, help="Headers that may not be."
    )
    fail_if_header_not_matches: list[HeaderRule] = option(
        [], length_max=RULES_MAX, help="Headers that must be."
    )
    json: list[str] = option(
        [], length_max=RULES_MAX, help="Conditions on a JSON body.", example="['$.status == \"ok\"']"
    )
    unix_socket: Path | None = option(None, help="A Unix socket to connect to; the URL's host is said alone.")
    proxy_url: str = option(
        "", length_max=512, help="A proxy to ask through.", example='"http://proxy.example:3128"'
    )

    def check(self) -> Iterator[Wrong]:
        """What does not go together."""
        yield from trust.TlsOptions.check(self)
        if self.body and self.body_file is not None:
            yield Wrong("body_file", show_value(str(self.body_file)), "body or body_file")
        if self.password_file and not self.username:
            yield Wrong("username", "nothing", "whose password password_file is")
        if self.username and not self.password_file:
            yield Wrong("password_file", "nothing", "the password of username")
        if self.bearer_token_file and self.username:
            yield Wrong(
                "bearer_token_file", show_value(self.bearer_token_file), "username or bearer_token_file"
            )
        if self.unix_socket is not None and self.proxy_url:
            yield Wrong("proxy_url", show_value(self.proxy_url), "unix_socket or proxy_url")
        if self.fail_if_ssl and self.fail_if_not_ssl:
            yield Wrong("fail_if_ssl", "true", "fail_if_ssl or fail_if_not_ssl")


class Http(Probe):
    """Asks, and judges the answer."""

    kind = "http"
    options_type = Options
    options: Options

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._target = self._read("url", options.url)
        self._proxy = self._read("proxy_url", options.proxy_url) if options.proxy_url else None
        if self._proxy is not None and self._proxy.scheme != "http":
            raise WrongOption(about.name, "proxy_url", show_value(options.proxy_url), "http://HOST:PORT")
        self._kept = httpwire.Kept()
        self._rules = Rules(
            tuple(options.valid_status_codes),
            regex.all_compiled(
                options.fail_if_body_matches_regexp, about.name, "fail_if_body_matches_regexp"
            ),
            regex.all_compiled(
                options.fail_if_body_not_matches_regexp, about.name, "fail_if_body_not_matches_regexp"
            ),
            header_rules(options.fail_if_header_matches, about.name, "fail_if_header_matches"),
            header_rules(options.fail_if_header_not_matches, about.name, "fail_if_header_not_matches"),
            conditions(options.json, about.name, "json"),
        )

    def _read(self, key: str, url: str) -> Target:
        target = read_url(url)
        if isinstance(target, str):
            raise WrongOption(self.about.name, key, show_value(url), target)
        return target

    async def look(self, within_s: float) -> Outcome:
        """Ask once, redirects included."""
        look = _Look(self.options, self._rules, self._target, self._proxy, self._kept, within_s)
        try:
            await bounded(look.go(), within_s, look.phases)
        except Failed as exc:
            look.phases.end()
            return with_samples(exc, look.samples())
        return await look.judge()


# ---------------------------------------------------------------- one look


@dataclass(slots=True)
class _Look:
    options: Options
    rules: Rules
    target: Target
    proxy: Target | None
    kept: httpwire.Kept
    within_s: float
    phases: Phases = field(default_factory=lambda: Phases(*_PHASES))
    began_s: float = field(default_factory=time.monotonic)
    answer: Answer | None = None
    presented: trust.Presented | None = None
    redirects: int = 0
    bytes_left: int = 0
    resolved_s: float = 0.0
    protocol: int = 0
    body: bytes = b""
    uncompressed: int = 0
    regex_failed: bool = False

    async def go(self) -> None:
        """Ask, and where the answer points elsewhere, there."""
        if not self.rules.complete:
            raise missing("google-re2")
        self.bytes_left = self.options.body_size_limit
        home = self.target.origin
        method, body = self.options.method, await self._body()
        while True:
            self.answer = await self._ask(method, body, at_home=self.target.origin == home)
            to = self._redirected(self.answer)
            if to is None:
                break
            self.redirects += 1
            if self.answer.status == 303 or (self.answer.status in (301, 302) and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), b""
            elif body and self.options.body_file is not None and to.origin != home:
                raise Failed(
                    "redirect-refused", f"to {shown(to.host)}, which is not told what body_file says"
                )
            self.target = to
        self.phases.end()
        self._decompress(self.answer)

    async def _body(self) -> bytes:
        file = self.options.body_file
        if file is None:
            return self.options.body.encode()
        reading = partial(read_bounded, file, BODY_FILE_BYTES_MAX)
        try:
            return await READER.read((file,), reading, "body-file", self.phases.until_s)
        except UnreadableFile as exc:
            raise Failed("body-file", str(exc), verdict=Verdict.UNKNOWN) from exc

    async def _ask(self, method: str, body: bytes, *, at_home: bool) -> Answer:
        target = self.target
        headers = await self._headers(body, at_home=at_home)
        connection = await self._connect()
        try:
            version = "1.1"
            if target.scheme == "https":
                version = await self._secure(connection, at_home=at_home)
            elif self.options.http == "2":
                version = "2"  # Without TLS by agreement alone.
            path = target.url if self.proxy is not None and target.scheme == "http" else target.path
            request = self.kept.same(Request(method, target.scheme, headers[0][1], path, headers[1:], body))
            speak = httpwire.ask_2 if version == "2" else httpwire.ask_1
            keep = self.rules.wants_body
            answer = await speak(connection, request, self.bytes_left, self.phases, keep=keep)
            self.bytes_left -= answer.body_bytes
            return answer
        finally:
            connection.close()

    async def _connect(self) -> Connection:
        if self.options.unix_socket is not None:
            self.phases.begin("connect")
            return await Connection.open_unix(str(self.options.unix_socket))
        there = self.proxy or self.target
        self.phases.begin("resolve")
        places = await RESOLVER.places(there.host, self.options)
        self.phases.begin("connect")
        until_s = asyncio.get_running_loop().time() + self.within_s - (time.monotonic() - self.began_s)
        connection = await Connection.open(places, there.port, until_s)
        self.protocol = connection.place.protocol if connection.place is not None else 0
        if self.proxy is not None and self.target.scheme == "https":
            try:
                await httpwire.tunnel(connection, f"{self.target.host}:{self.target.port}")
            except BaseException:
                connection.close()
                raise
        return connection

    async def _secure(self, connection: Connection, *, at_home: bool) -> str:
        """TLS, and the HTTP that was agreed upon."""
        alpn, options = _ALPN[self.options.http], self.options
        if not at_home:
            # Who answers elsewhere is told no certificate of ours, and has a name of his own.
            options = replace(options, cert_file=None, key_file="", server_name="")
        self.presented, failed = await trust.secure(connection, options, self.target.host, self.phases, alpn)
        if failed is not None:
            raise failed
        agreed = connection.secured.selected_alpn_protocol() if connection.secured is not None else None
        if agreed == "h2":
            return "2"
        if self.options.http == "2":
            raise Failed("version-unexpected", f"{connection.where}: the server speaks no HTTP/2")
        return "1.1"

    async def _headers(self, body: bytes, *, at_home: bool) -> Headers:
        """Host first. Secrets only for whom they are meant."""
        options, until_s = self.options, self.phases.until_s
        said = {
            "host": self.target.authority,
            "user-agent": f"watchbill/{__version__}",
            "accept": "*/*",
            "accept-encoding": options.compression or "identity",
        }
        for name, value in options.headers.items():
            if name.lower() != "host" or at_home:
                said[name.lower()] = value
        if at_home:
            for name, where in options.header_files.items():
                said[name.lower()] = _one_line(await secret_of(where, until_s), where)
            if options.username:
                pair = f"{options.username}:{await secret_of(options.password_file, until_s)}"
                said["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            elif options.bearer_token_file:
                where = options.bearer_token_file
                said["authorization"] = f"Bearer {_one_line(await secret_of(where, until_s), where)}"
        if body:
            said["content-length"] = str(len(body))
        return list(said.items())

    def _redirected(self, answer: Answer) -> Target | None:
        """Where to go on; None when this is the end. Raises Failed."""
        if answer.status not in (301, 302, 303, 307, 308) or not self.options.follow_redirects:
            return None
        location = next((value for name, value in answer.headers if name == b"location"), None)
        if location is None:
            return None
        if self.redirects >= self.options.redirects_max:
            raise Failed("redirects-too-many", f"got one more than {self.options.redirects_max} redirects")
        text = location.decode("utf-8", "replace")
        try:
            to = read_url(urllib.parse.urljoin(self.target.url, text).partition("#")[0])
        except ValueError:
            to = ""
        if isinstance(to, str) or len(text) > LOCATION_CHARACTERS_MAX:
            raise Failed("redirect-invalid", f"to {shown(location)}")
        if self.target.scheme == "https" and to.scheme == "http" and not self.options.redirect_to_http:
            raise Failed("redirect-refused", f"from https to {shown(to.url)}: redirect_to_http is not set")
        if self.options.unix_socket is not None and to.origin != self.target.origin:
            raise Failed("redirect-refused", f"from a Unix socket to {shown(to.url)}")
        return to

    def _decompress(self, answer: Answer) -> None:
        self.body, self.uncompressed = answer.body, answer.body_bytes
        encoding = next((value for name, value in answer.headers if name == b"content-encoding"), b"")
        encoding = encoding.strip().lower()
        if not self.rules.wants_body or not answer.body or encoding in (b"", b"identity"):
            return
        if encoding not in (b"gzip", b"x-gzip", b"deflate"):
            raise Failed("body-encoding", f"got {shown(encoding)}, wanted gzip, deflate or none")
        self.body = decompressed(answer.body, self.options.body_size_limit, gzip=encoding != b"deflate")
        self.uncompressed = len(self.body)

    # ------------------------------------------------------------ what was found

    async def judge(self) -> Outcome:
        """The verdict on the answer."""
        assert self.answer is not None, "there is one when nothing failed"
        answer, options, findings = self.answer, self.options, Findings()
        took_s = self.phases.end()
        self.regex_failed = await regex.judged(
            self.body, lambda: self.rules.judge(answer, self.body, findings)
        )
        if options.valid_http_versions and answer.version not in options.valid_http_versions:
            wanted = ", ".join(options.valid_http_versions)
            findings.fail("version-unexpected", f"got HTTP/{answer.version}, wanted {wanted}")
        secured = self.target.scheme == "https"
        if options.fail_if_ssl and secured:
            findings.fail("tls-unwanted", "got https at the end, wanted none")
        if options.fail_if_not_ssl and not secured:
            findings.fail("tls-missing", "got http at the end, wanted https")
        if self.presented is not None:
            trust.judge_expiry(options, self.presented, time.time(), findings)
        findings.judge_duration(options, took_s)
        well = f"{answer.status} in {took_s:.3f} s"
        if options.insecure_skip_verify and secured:
            well += "; the certificate was NOT verified (insecure_skip_verify)"
        return findings.outcome(self.samples(), well)

    def samples(self) -> Samples:
        """All of the series, also of a look that failed."""
        answer = self.answer
        seconds = self.phases.seconds
        samples = _FORM.fill(
            (
                *seconds.values(),
                seconds["resolve"],
                self.protocol,
                answer.status if answer is not None else 0,
                float(answer.version) if answer is not None else 0,
                float(self.target.scheme == "https"),
                self.redirects,
                answer.content_length if answer is not None else 0,
                self.uncompressed,
                float(self.regex_failed),
            )
        )
        if answer is not None and (modified := last_modified(answer.headers)) is not None:
            help_ = "Last-Modified of the answer, unix time."
            samples.gauge("probe_http_last_modified_timestamp_seconds", help_, modified)
        if self.presented is not None:
            trust.tell(samples, self.options, self.presented)
        return samples


def _one_line(secret: str, where: str) -> str:
    if not _VALUE.fullmatch(secret):
        detail = f"{where}: it is more than one line, or holds what no header may"
        raise Failed("credential", detail, verdict=Verdict.UNKNOWN)
    return secret


def last_modified(headers: "list[tuple[bytes, bytes]]") -> float | None:
    """The time that Last-Modified says; None where it says none."""
    said = next((value for name, value in headers if name == b"last-modified"), b"")
    return _date(said) if said else None


@lru_cache(DATES_MAX)
def _date(said: bytes) -> float | None:
    try:
        parsed = time.strptime(said.decode("ascii"), "%a, %d %b %Y %H:%M:%S GMT")
    except ValueError:
        return None
    return float(calendar.timegm(parsed))
