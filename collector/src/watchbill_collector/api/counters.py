"""What the HTTP side counts about itself, in the collector's registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

SECONDS_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)


class HttpCounters:
    """Counters by route template, never by path: a client must not be able to make series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # A second series for each counter, with the time of its birth, which nothing here asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self.requests = Counter(
            "watchbill_collector_http_requests",
            "HTTP requests answered.",
            ("route", "code"),
            registry=registry,
        )
        self.seconds = Histogram(
            "watchbill_collector_http_request_duration_seconds",
            "Time to answer HTTP requests, streams excepted.",
            ("route",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.refused = Counter(
            "watchbill_collector_http_refused",
            "HTTP requests and connections refused, by reason.",
            ("reason",),
            registry=registry,
        )
        self.connections = Gauge(
            "watchbill_collector_http_connections", "HTTP connections open.", registry=registry
        )
        self.streams = Gauge(
            "watchbill_collector_http_event_streams",
            "Clients that follow the event stream.",
            registry=registry,
        )
        self.resyncs = Counter(
            "watchbill_collector_http_event_resyncs",
            "Followers told to read everything again: they were too slow or away too long.",
            registry=registry,
        )
        self.queries = Gauge(
            "watchbill_collector_http_queries", "Queries that run or wait for a thread.", registry=registry
        )
        self.query_memory = Gauge(
            "watchbill_collector_query_memory_bytes",
            "What running queries hold, by their own estimate.",
            registry=registry,
        )
        self.query_memory_max = Gauge(
            "watchbill_collector_query_memory_max_bytes", "What they may hold together.", registry=registry
        )
        self.query_memory_waits = Gauge(
            "watchbill_collector_query_memory_waits",
            "How often since the start a query waited for the memory of another.",
            registry=registry,
        )
        self.query_memory_refusals = Gauge(
            "watchbill_collector_query_memory_refusals",
            "How often since the start a query was refused for want of memory.",
            registry=registry,
        )
