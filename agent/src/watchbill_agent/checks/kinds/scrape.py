"""Metrics that an application serves: a page in Prometheus' text format or in OpenMetrics, over HTTP or HTTPS, whose
series become this host's.

    [[check]]
    name = "shop-metrics"
    kind = "scrape"
    url = "http://127.0.0.1:9090/metrics"
    metric_relabel_configs = [{ source_labels = ["__name__"], regex = "go_.*", action = "drop" }]

Names and labels stay as the page has them; a label that the agent puts on itself (`check`, `app`, `instance`, `job`)
becomes `exported_...`, and names that need quotes get underscores. A sample counts as of when it was read, whatever its
timestamp. A series that is no longer on the page ends.

Reasons: `bad-metrics` (the line and what was wanted there), `sample-limit`, `status-unexpected`, `content-type`,
`body-encoding`, `body-too-long`, `body-incomplete`, `tls-expires-soon`, those of `connection`, `trust` and `probing`.
"""

import asyncio
import base64
import re
import time
from dataclasses import dataclass, field
from typing import Final

from watchbill import __version__
from watchbill.config import ByteSize, option
from watchbill.config.convert import show_value
from watchbill.limits import (
    HELP_BYTES_MAX,
    LABEL_NAME_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX,
    METRIC_NAME_BYTES_MAX,
)
from watchbill_agent.checks import httpwire, relabel, trust
from watchbill_agent.checks.addresses import RESOLVER
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.compression import decompressed
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.httpwire import Answer, Request
from watchbill_agent.checks.probing import Findings, Phases, bounded, missing, shown, with_samples
from watchbill_agent.checks.secret import secret_of, secret_wanted
from watchbill_agent.checks.target import Target, read_url
from watchbill_agent.metrics_line import BadMetrics
from watchbill_agent.metrics_text import Found, Reader, Shape, TooMany, plain_labels, plain_name, type_of
from watchbill_agent.names import WrongOption
from watchbill_agent.reading import Family, Series

URL_CHARACTERS_MAX: Final = 8_000
BODY_BYTES_DEFAULT: Final = ByteSize(16 << 20)
BODY_BYTES_MAX: Final = ByteSize(64 << 20)
SERIES_MAX: Final = 10_000
SERIES_READ_MAX: Final = 50_000
"""Of one page, before any is dropped."""
LABELS_DEFAULT: Final = 20
LABELS_MAX: Final = 20
"""Those that the agent and the file put on come on top; a host's series may have 32."""
STEP_SERIES: Final = 500
TAKEN: Final = ("check", "app", "instance", "job")
PAGE_HELP: Final = "Scraped from an application."
OPENMETRICS: Final = "application/openmetrics-text"
ACCEPT: Final = f"{OPENMETRICS};version=1.0.0,text/plain;version=0.0.4;q=0.6,*/*;q=0.1"
DROPPED: Final = ("relabel", "duplicate", "limits")

_TOKEN = re.compile(r"[!-~]{1,4096}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(trust.TlsOptions):
    """What to ask for, and what of it to keep."""

    url: str = option(
        help="What to ask for.", length_max=URL_CHARACTERS_MAX, example='"http://127.0.0.1:9090/metrics"'
    )
    username: str = option("", length_max=256, help="For basic authentication.")
    password_file: str = option("", check=secret_wanted, help="The password of `username`.")
    bearer_token_file: str = option("", check=secret_wanted, help="A token to send as Authorization: Bearer.")
    metric_relabel_configs: list[relabel.RelabelTable] = option(
        [], length_max=relabel.RULES_MAX, help="Which series to keep, and how to call them."
    )
    sample_limit: int = option(
        SERIES_MAX, at_least=1, at_most=SERIES_MAX, help="Series that are kept at most; more have failed."
    )
    label_limit: int = option(
        LABELS_DEFAULT, at_least=1, at_most=LABELS_MAX, help="A series with more labels is left out."
    )
    body_size_limit: ByteSize = option(
        BODY_BYTES_DEFAULT, at_least=1, at_most=BODY_BYTES_MAX, help="A longer page has failed."
    )


@dataclass(slots=True)
class _Plan:
    """What becomes of a shape: which of its values are kept, and under which names."""

    shape: Shape
    series: list[Series] = field(default_factory=list)
    families: dict[str, Family] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPPED, 0))
    named: dict[int, Series | str] = field(default_factory=dict)
    """What became of each series of the shape, by its identity: its name here, or why it was dropped."""

    @property
    def all(self) -> bool:
        """Whether nothing is left out."""
        return len(self.kept) == len(self.shape.series)


class Scrape(Probe):
    """Asks for a page, and reads it."""

    kind = "scrape"
    options_type = Options
    many = True
    options: Options

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        target = read_url(options.url)
        if isinstance(target, str):
            raise WrongOption(about.name, "url", show_value(options.url), target)
        if bool(options.username) != bool(options.password_file):
            key = "password_file" if options.username else "username"
            raise WrongOption(about.name, key, "nothing", "username and password_file, or neither")
        if options.username and options.bearer_token_file:
            got = show_value(options.bearer_token_file)
            raise WrongOption(about.name, "bearer_token_file", got, "username or bearer_token_file")
        self._target: Target = target
        self._relabel = relabel.compiled(options.metric_relabel_configs, about.name)
        self._reader = Reader()
        self._plan: _Plan | None = None

    async def look(self, within_s: float) -> Outcome:
        """Ask once, and read what is answered."""
        look = _Look(Phases("resolve", "connect", "tls", "processing", "transfer", "parse"))
        try:
            await bounded(self._go(look, within_s), within_s, look.phases)
        except Failed as exc:
            look.phases.end()
            return with_samples(exc, self._samples(look, None))
        findings = Findings()
        if look.presented is not None:
            trust.judge_expiry(self.options, look.presented, time.time(), findings)
        findings.judge_duration(self.options, look.phases.end())
        plan = self._plan
        assert plan is not None, "there is one when nothing failed"
        well = f"{len(plan.kept)} series in {look.body_bytes} bytes"
        return findings.outcome(self._samples(look, plan), well)

    async def _go(self, look: "_Look", within_s: float) -> None:
        if self._relabel.missing:
            raise missing("google-re2")
        answer = await self._ask(look, within_s)
        if answer.status != 200:
            raise Failed("status-unexpected", f"got {answer.status}, wanted 200")
        openmetrics = _is_openmetrics(_header(answer, b"content-type"))
        body = self._unpacked(answer)
        look.body_bytes = len(body)
        look.phases.begin("parse")
        try:
            for _ in self._reader.read(body, openmetrics=openmetrics, series_max=SERIES_READ_MAX):
                await asyncio.sleep(0)
        except BadMetrics as exc:
            raise Failed("bad-metrics", str(exc)) from exc
        except TooMany:
            raise Failed("sample-limit", f"got more than {SERIES_READ_MAX} series on the page") from None
        shape = self._reader.shape
        assert shape is not None, "it was read"
        if self._plan is None or self._plan.shape is not shape:
            self._plan = await self._planned(shape)

    async def _ask(self, look: "_Look", within_s: float) -> Answer:
        target, phases = self._target, look.phases
        phases.begin("resolve")
        places = await RESOLVER.places(target.host, self.options)
        phases.begin("connect")
        until_s = asyncio.get_running_loop().time() + within_s
        connection = await Connection.open(places, target.port, until_s)
        try:
            if target.scheme == "https":
                look.presented, failed = await trust.secure(connection, self.options, target.host, phases)
                if failed is not None:
                    raise failed
            phases.begin("")
            headers = await self._headers(phases.until_s)
            request = Request("GET", target.scheme, target.authority, target.path, headers, b"")
            limit = int(self.options.body_size_limit)
            return await httpwire.ask_1(connection, request, limit, phases, keep=True)
        finally:
            connection.close()

    async def _headers(self, until_s: float) -> httpwire.Headers:
        options = self.options
        said = [
            ("user-agent", f"watchbill/{__version__}"),
            ("accept", ACCEPT),
            ("accept-encoding", "gzip"),
            ("x-prometheus-scrape-timeout-seconds", f"{self.about.timeout_s:g}"),
        ]
        if options.username:
            pair = f"{options.username}:{await secret_of(options.password_file, until_s)}"
            said.append(("authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
        elif options.bearer_token_file:
            token = await secret_of(options.bearer_token_file, until_s)
            if not _TOKEN.fullmatch(token):
                detail = f"{options.bearer_token_file}: it is no token of one line"
                raise Failed("credential", detail, verdict=Verdict.UNKNOWN)
            said.append(("authorization", f"Bearer {token}"))
        return said

    def _unpacked(self, answer: Answer) -> bytes:
        encoding = _header(answer, b"content-encoding").lower()
        if encoding in (b"", b"identity"):
            return answer.body
        if encoding not in (b"gzip", b"x-gzip"):
            raise Failed("body-encoding", f"got {shown(encoding)}, wanted gzip or none")
        return decompressed(answer.body, int(self.options.body_size_limit), gzip=True)

    # ------------------------------------------------------------ series

    async def _planned(self, shape: Shape) -> _Plan:
        """Made once for a shape; what the last one had as well is as it was. Raises Failed for more series than are
        taken."""
        plan = _Plan(shape)
        known = {} if self._plan is None else self._plan.named
        changed = False
        for number, found in enumerate(shape.series):
            named = known.get(id(found)) or self._named(found)
            plan.named[id(found)] = named
            if isinstance(named, str):
                plan.dropped[named] += 1
            else:
                changed = changed or named.labels is not found.labels or named.name is not found.name
                plan.kept.append(number)
                plan.series.append(named)
                if named.name not in plan.families:
                    help_ = found.help.encode()[:HELP_BYTES_MAX].decode("utf-8", "ignore") or PAGE_HELP
                    plan.families[named.name] = Family(named.name, type_of(found), help_)
            if number % STEP_SERIES == STEP_SERIES - 1:
                await asyncio.sleep(0)
        if changed:
            _drop_twins(plan)
        plan.dropped["duplicate"] += shape.duplicates
        if len(plan.kept) > self.options.sample_limit:
            got = f"got {len(plan.kept)} series, wanted at most sample_limit = {self.options.sample_limit}"
            raise Failed("sample-limit", got)
        return plan

    def _named(self, found: Found) -> Series | str:
        """The series as it is kept; why it is dropped, otherwise."""
        name, pairs = found.name, found.labels
        if self._relabel.steps:
            labels = {relabel.NAME: name, **dict(pairs)}
            if not self._relabel.keeps(labels):
                return "relabel"
            name = labels.pop(relabel.NAME, "")
            pairs = tuple(sorted(labels.items()))
        name, pairs = plain_name(name), plain_labels(pairs, TAKEN)
        fits = (
            0 < len(name) <= METRIC_NAME_BYTES_MAX
            and len(pairs) <= self.options.label_limit
            and all(
                len(label) <= LABEL_NAME_BYTES_MAX and len(value.encode()) <= LABEL_VALUE_BYTES_MAX
                for label, value in pairs
            )
        )
        return Series(name, pairs) if fits else "limits"

    def _samples(self, look: "_Look", plan: _Plan | None) -> Samples:
        samples = Samples()
        kept = 0 if plan is None else len(plan.kept)
        samples.gauge("watchbill_scrape_samples", "Series that were kept of the page.", float(kept))
        for reason in DROPPED:
            count = 0 if plan is None else plan.dropped[reason]
            help_ = "Series of the page that were left out."
            samples.gauge("watchbill_scrape_samples_dropped", help_, float(count), reason=reason)
        took_s = round(sum(look.phases.seconds.values()), 6)
        samples.gauge("watchbill_scrape_duration_seconds", "Seconds from asking to having read it.", took_s)
        samples.gauge(
            "watchbill_scrape_body_bytes", "Bytes of the page as it is meant.", float(look.body_bytes)
        )
        if look.presented is not None:
            trust.tell(samples, self.options, look.presented)
        if plan is not None:
            values = self._reader.values
            # A page cannot be told from us by such a name; ours were first.
            samples.families = {**plan.families, **samples.families}
            samples.series += plan.series
            samples.values += values if plan.all else [values[number] for number in plan.kept]
        return samples


@dataclass(slots=True)
class _Look:
    phases: Phases
    presented: trust.Presented | None = None
    body_bytes: int = 0


def _drop_twins(plan: _Plan) -> None:
    """Of two series that have become one by their new names, the first counts."""
    seen: set[Series] = set()
    kept = []
    for number, series in zip(plan.kept, plan.series, strict=True):
        if series in seen:
            plan.dropped["duplicate"] += 1
        else:
            seen.add(series)
            kept.append((number, series))
    plan.kept, plan.series = [number for number, _ in kept], [series for _, series in kept]


def _header(answer: Answer, name: bytes) -> bytes:
    return next((value.strip() for key, value in answer.headers if key == name), b"")


def _is_openmetrics(said: bytes) -> bool:
    """By the content type; one that is neither format has failed."""
    kind = said.partition(b";")[0].strip().lower().decode("latin-1")
    if kind == OPENMETRICS:
        return True
    if kind in ("", "text/plain"):
        return False
    raise Failed("content-type", f"got {shown(said)}, wanted text/plain or {OPENMETRICS}")
