"""All routes there are, in the order in which they are tried."""

from watchbill_collector.api.front import FRONT_ROUTES
from watchbill_collector.api.ours import OUR_ROUTES
from watchbill_collector.api.prometheus import PROMETHEUS_ROUTES
from watchbill_collector.api.routes import Route

ROUTES: tuple[Route, ...] = (*PROMETHEUS_ROUTES, *OUR_ROUTES, *FRONT_ROUTES)
