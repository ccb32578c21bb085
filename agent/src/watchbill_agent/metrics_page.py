"""`/metrics` as node_exporter serves it, for whoever scrapes this host beside or instead of the collector.

Each scrape reads the host anew, as node_exporter does, but at most once a second whoever asks how often.
"""

from collections.abc import Callable

from watchbill.clock import Clock
from watchbill.config import Address
from watchbill_agent.small_http import Answer, Request, SmallServer

FRESH_S = 1.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_INDEX = b"Watchbill agent. The metrics are at /metrics.\n"


class MetricsPage(SmallServer):
    """Serves what `render` makes."""

    def __init__(self, address: Address, render: Callable[[], bytes], clock: Clock) -> None:
        super().__init__(address, "prometheus.listen", self._page)
        self._render = render
        self._clock = clock
        self._made: tuple[float, bytes] | None = None

    async def _page(self, request: Request) -> Answer:
        if request.path == "/metrics":
            return Answer("200 OK", self._metrics(), CONTENT_TYPE)
        if request.path == "/":
            return Answer("200 OK", _INDEX, CONTENT_TYPE)
        return Answer("404 Not Found", b"the metrics are at /metrics\n", CONTENT_TYPE)

    def _metrics(self) -> bytes:
        now_s = self._clock.monotonic_s()
        if self._made is None or now_s - self._made[0] >= FRESH_S:
            self._made = now_s, self._render()
        return self._made[1]
