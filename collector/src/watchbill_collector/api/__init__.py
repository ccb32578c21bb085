"""The HTTP side: Prometheus' API, Watchbill's own, the page, events, health.

`build(services, options, registry, run)` makes the house; `HttpServer(create_application(house), house, ...)`
serves it. `ports.py` says what it needs from the rest of the collector, `twins.py` holds in-memory ones.
"""

import asyncio

from prometheus_client import CollectorRegistry

from watchbill_collector.api.counters import HttpCounters
from watchbill_collector.api.events import EventBus
from watchbill_collector.api.house import House, HttpOptions, Services
from watchbill_collector.api.pool import TIMEOUT_S, QueryPool
from watchbill_collector.promql.budget import SAMPLES_MAX


def build(
    services: Services,
    options: HttpOptions,
    registry: CollectorRegistry,
    run: str,
    *,
    timeout_s: float = TIMEOUT_S,
    samples_max: int = SAMPLES_MAX,
) -> House:
    """Everything handlers use. `run` names this process in event ids: alphanumeric, new at every start."""
    return House(
        services=services,
        options=options,
        pool=QueryPool(timeout_s=timeout_s, samples_max=samples_max),
        bus=EventBus(run),
        counters=HttpCounters(registry),
        stopping=asyncio.Event(),
    )
