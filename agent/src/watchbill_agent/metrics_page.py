"""`/metrics` as node_exporter serves it, for whoever scrapes this host beside or instead of the collector: as text of
Prometheus, or as OpenMetrics for who asks for it; compressed for who can read that.

Each scrape reads the host anew, as node_exporter does, but at most once a second whoever asks how often.
"""

import zlib
from collections.abc import Callable
from typing import Final

from watchbill.clock import Clock
from watchbill.config import Address
from watchbill_agent.exposition import CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS
from watchbill_agent.small_http import Answer, Request, SmallServer

FRESH_S = 1.0
GZIP_LEVEL: Final = 1
"""A page of 100 KiB shrinks to a tenth in 1 ms; the best level takes eight times as long for a fifth less."""
GZIP_BYTES_MIN: Final = 1_024
ACCEPTED_MAX: Final = 32
"""Of what a header lists."""
_INDEX = b"Watchbill agent. The metrics are at /metrics.\n"
_OPEN_VERSIONS: Final = ("", "1.0.0", "0.0.1")


class MetricsPage(SmallServer):
    """Serves what `render` makes, which is told whether OpenMetrics is wanted."""

    def __init__(self, address: Address, render: Callable[[bool], bytes], clock: Clock) -> None:
        super().__init__(address, "prometheus.listen", self._page)
        self._render = render
        self._clock = clock
        self._made: dict[bool, tuple[float, bytes]] = {}

    async def _page(self, request: Request) -> Answer:
        if request.path == "/":
            return Answer("200 OK", _INDEX, CONTENT_TYPE)
        if request.path != "/metrics":
            return Answer("404 Not Found", b"the metrics are at /metrics\n", CONTENT_TYPE)
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        body = self._metrics(openmetrics)
        kind = CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE
        headers = [("Vary", "Accept, Accept-Encoding")]
        if len(body) >= GZIP_BYTES_MIN and wants_gzip(request.headers.get("accept-encoding", "")):
            body = gzipped(body)
            headers.append(("Content-Encoding", "gzip"))
        return Answer("200 OK", body, kind, tuple(headers))

    def _metrics(self, openmetrics: bool) -> bytes:
        now_s = self._clock.monotonic_s()
        made = self._made.get(openmetrics)
        if made is None or now_s - made[0] >= FRESH_S:
            made = self._made[openmetrics] = now_s, self._render(openmetrics)
        return made[1]


def wants_openmetrics(accept: str) -> bool:
    """Whether it is named, and nothing is liked better that is served here, too."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for kind, parameters, quality in _listed(accept):
        if kind in best and (kind == "text/plain" or parameters.get("version", "") in _OPEN_VERSIONS):
            best[kind] = max(best[kind], quality)
    return 0 < best["application/openmetrics-text"] >= best["text/plain"]


def wants_gzip(accept: str) -> bool:
    """Whether it can be read there."""
    said = {kind: quality for kind, _, quality in _listed(accept)}
    return said.get("gzip", said.get("*", 0.0)) > 0


def _listed(header: str) -> list[tuple[str, dict[str, str], float]]:
    """What is accepted, with its parameters and how much it is liked."""
    found = []
    for one in header.split(",")[:ACCEPTED_MAX]:
        kind, *rest = (part.strip() for part in one.split(";"))
        parameters = {
            name.strip().lower(): value.strip(' "') for name, _, value in (p.partition("=") for p in rest)
        }
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if kind:
            found.append((kind.lower(), parameters, quality))
    return found


def gzipped(body: bytes) -> bytes:
    """Compressed, without a date in it."""
    machine = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return machine.compress(body) + machine.flush()
