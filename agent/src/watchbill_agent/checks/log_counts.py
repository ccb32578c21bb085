"""What access logs add up to: requests, durations, bytes and clients, as families under the names that web servers'
exporters give them.

Whole columns are counted before anything is looked at one by one: of a chunk's thousand lines there are few different
statuses and few different durations.
"""

import math
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.log_format import BYTES, CLIENT, DURATION, METHOD, PATH, STATUS, Columns

METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND")
)
REQUEST_SERIES_MAX: Final = 600
"""Of http_requests_total. What is beyond is counted with the code's class (`5xx`) and the method `other`."""
CLIENT_BITS: Final = 1 << 17
"""Of the bitmap that clients are counted by: within two in a hundred up to 300,000 clients."""
CLIENTS_MAX: Final = 1_000_000
WAITING_MAX: Final = 20_000
"""Different values that are gathered before they are looked at one by one: once a look, mostly."""
PATHS_KEPT_MAX: Final = 16_384
"""Paths whose group is remembered; more are looked up again."""
DURATION_S_MAX: Final = 86_400.0 * 365
OTHER: Final = "other"

_Key = tuple[str, str, str]


class Clients:
    """About how many different ones were seen: linear counting, a bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray(CLIENT_BITS // 8)
        self._set = 0
        self._waiting: set[bytes] = set()

    def add(self, values: Sequence[bytes]) -> None:
        """See some."""
        self._waiting.update(values)
        if len(self._waiting) > WAITING_MAX:
            self._mark()

    def _mark(self) -> None:
        for value in self._waiting:
            place = zlib.crc32(value) % CLIENT_BITS
            bit = 1 << (place & 7)
            if not self._bits[place >> 3] & bit:
                self._bits[place >> 3] |= bit
                self._set += 1
        self._waiting.clear()

    def estimate(self) -> int:
        """How many there were."""
        self._mark()
        free = CLIENT_BITS - self._set
        return min(CLIENTS_MAX, round(-CLIENT_BITS * math.log(free / CLIENT_BITS))) if free else CLIENTS_MAX


class Counts:
    """Everything since the first look. `group` says which groups paths belong to; None: there are no groups."""

    def __init__(
        self,
        bounds: Sequence[float],
        unit_s: float,
        group: Callable[[Sequence[bytes]], list[str]] | None = None,
    ) -> None:
        self._bounds = tuple(bounds)
        self._unit_s = unit_s
        self._group = group
        self._groups: dict[bytes, str] = {}
        self._requests: Counter[_Key] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._waiting: Counter[Any] = Counter()
        self.bytes = 0
        self.clients = Clients()
        self.lines = 0
        self.unparsed = 0

    def begin(self) -> None:
        """A new look: clients are of one look alone."""
        self.clients = Clients()

    # ------------------------------------------------------------ counting

    def add(self, found: Columns) -> None:
        """Count the lines of a chunk."""
        self.lines += found.lines
        self.unparsed += found.unparsed
        columns = found.of
        statuses = columns[STATUS]
        groups = self._groups_of(columns.get(PATH))
        if METHOD not in columns and groups is None:
            for code, count in Counter(statuses).items():
                self._request("", code, b"", count)
        else:
            several = zip(
                groups or [""] * len(statuses),
                statuses,
                columns.get(METHOD) or [b""] * len(statuses),
                strict=True,
            )
            for (group, code, method), count in Counter(several).items():
                self._request(group, code, method, count)
        if DURATION in columns:
            texts = columns[DURATION]
            self._waiting.update(texts if groups is None else zip(groups, texts, strict=True))
            if len(self._waiting) > WAITING_MAX:
                self._take_durations()
        if BYTES in columns:
            self.bytes += _sum(columns[BYTES])
        if CLIENT in columns:
            self.clients.add(columns[CLIENT])

    def _groups_of(self, paths: Sequence[bytes] | None) -> list[str] | None:
        if self._group is None or paths is None:
            return None
        known = self._groups
        if len(known) > PATHS_KEPT_MAX:
            known.clear()
        fresh = list(set(paths).difference(known))
        if fresh:
            known.update(zip(fresh, self._group(fresh), strict=True))
        return [known[path] for path in paths]

    def _request(self, group: str, code: bytes, method: bytes, count: int) -> None:
        text = code.decode("ascii")
        word = method.decode("ascii") if method in METHODS else OTHER if method else ""
        key = group, text, word
        if key not in self._requests and len(self._requests) >= REQUEST_SERIES_MAX:
            key = group, f"{text[0]}xx", OTHER if word else ""
        self._requests[key] += count

    def _take_durations(self) -> None:
        for key, count in self._waiting.items():
            group, text = key if isinstance(key, tuple) else ("", key)
            try:
                seconds = float(text) * self._unit_s
            except ValueError:
                continue  # A dash: nobody took the time.
            if not 0 <= seconds <= DURATION_S_MAX:
                continue
            buckets = self._buckets.setdefault(group, [0] * (len(self._bounds) + 1))
            buckets[bisect_left(self._bounds, seconds)] += count
            self._sums[group] = self._sums.get(group, 0.0) + seconds * count
        self._waiting.clear()

    # ------------------------------------------------------------ saying

    def put(self, samples: Samples, fields: Sequence[str]) -> None:
        """Everything as families; of a field that is not read, none."""
        for (group, code, method), count in sorted(self._requests.items()):
            pairs = {"code": code, "method": method, "path": group}
            samples.counter("http_requests_total", "Requests, by what was answered.", count, **pairs)
        if DURATION in fields:
            self._take_durations()
            for group in sorted(self._buckets):
                total = 0
                counts = [total := total + count for count in self._buckets[group]]
                samples.histogram(
                    "http_request_duration_seconds",
                    "How long requests took, as the server logged it.",
                    self._bounds,
                    counts,
                    round(self._sums[group], 6),
                    path=group,
                )
        if BYTES in fields:
            samples.counter(
                "http_response_bytes_total", "Bytes of the answers, as the server logged it.", self.bytes
            )
        if CLIENT in fields:
            help_ = "About how many different clients the lines of the last look name."
            samples.gauge("http_clients_estimate", help_, self.clients.estimate())

    # ------------------------------------------------------------ memory

    def memory(self) -> Mapping[str, Any]:
        """Everything, as JSON."""
        self._take_durations()
        return {
            "bounds": list(self._bounds),
            "requests": [[*key, count] for key, count in self._requests.items()],
            "buckets": self._buckets,
            "sums": self._sums,
            "numbers": [self.bytes, self.lines, self.unparsed],
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there; with other bounds, durations begin anew. Raises ValueError, TypeError or KeyError for what
        is none, nothing changed."""
        requests = Counter({(str(g), str(c), str(m)): int(n) for g, c, m, n in memory["requests"]})
        buckets, sums = self._buckets, self._sums
        if memory["bounds"] == list(self._bounds):
            buckets = {str(group): [int(n) for n in counts] for group, counts in memory["buckets"].items()}
            sums = {str(group): float(total) for group, total in memory["sums"].items()}
            if (
                any(len(counts) != len(self._bounds) + 1 for counts in buckets.values())
                or buckets.keys() != sums.keys()
            ):
                raise ValueError("buckets that do not fit their bounds")
        numbers = [int(number) for number in memory["numbers"]]
        self.bytes, self.lines, self.unparsed = numbers
        self._requests, self._buckets, self._sums = requests, buckets, sums


def _sum(texts: Sequence[bytes]) -> int:
    try:
        return sum(map(int, texts))
    except ValueError:  # A dash: nothing was sent.
        return sum(int(text) for text in texts if text.isdigit() and len(text) < 20)
