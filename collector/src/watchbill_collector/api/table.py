"""All routes there are, in the order in which they are tried."""

from watchbill_collector.api.alert_detail import ALERT_ROUTES
from watchbill_collector.api.alert_list import ALERT_LIST_ROUTES
from watchbill_collector.api.audit import AUDIT_ROUTES
from watchbill_collector.api.backups import BACKUP_ROUTES
from watchbill_collector.api.bundles import BUNDLE_ROUTES
from watchbill_collector.api.drills import DRILL_ROUTES
from watchbill_collector.api.evidence import EVIDENCE_ROUTES
from watchbill_collector.api.front import FRONT_ROUTES
from watchbill_collector.api.notifications import NOTIFICATION_ROUTES
from watchbill_collector.api.ours import OUR_ROUTES
from watchbill_collector.api.people import PEOPLE_ROUTES
from watchbill_collector.api.prometheus import PROMETHEUS_ROUTES
from watchbill_collector.api.roster import ROSTER_ROUTES
from watchbill_collector.api.routes import Route
from watchbill_collector.api.runbooks import RUNBOOK_ROUTES
from watchbill_collector.api.services import SERVICE_ROUTES
from watchbill_collector.api.silences import SILENCE_ROUTES
from watchbill_collector.api.trials import TRIAL_ROUTES

ROUTES: tuple[Route, ...] = (
    *PROMETHEUS_ROUTES,
    *NOTIFICATION_ROUTES,
    *SERVICE_ROUTES,
    *TRIAL_ROUTES,
    *SILENCE_ROUTES,
    *BACKUP_ROUTES,
    *BUNDLE_ROUTES,
    *EVIDENCE_ROUTES,  # Before the runs, whose verbs would take its place.
    *RUNBOOK_ROUTES,
    *DRILL_ROUTES,
    *ROSTER_ROUTES,
    *ALERT_LIST_ROUTES,
    *ALERT_ROUTES,
    *OUR_ROUTES,
    *AUDIT_ROUTES,
    *PEOPLE_ROUTES,
    *FRONT_ROUTES,
)
