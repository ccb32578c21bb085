"""Rules: Prometheus' rule files, read strictly, evaluated over the head, with alerts that outlive a
restart."""

from watchbill_collector.rules.alerts import AlertState
from watchbill_collector.rules.files import Source, check, read
from watchbill_collector.rules.groups import GroupRun
from watchbill_collector.rules.metrics import RuleMetrics
from watchbill_collector.rules.rulebook import ActiveAlert, AlertChange, Rulebook, RuleStats
from watchbill_collector.rules.run import AlertingRun, Health, RecordingRun, Surroundings
from watchbill_collector.rules.state import AlertStateStore, FileAlertState, MemoryAlertState
from watchbill_collector.rules.stock import stock_sources
from watchbill_collector.rules.thread import RuleThread

__all__ = [
    "ActiveAlert",
    "AlertChange",
    "AlertState",
    "AlertStateStore",
    "AlertingRun",
    "FileAlertState",
    "GroupRun",
    "Health",
    "MemoryAlertState",
    "RecordingRun",
    "RuleMetrics",
    "RuleStats",
    "RuleThread",
    "Rulebook",
    "Source",
    "Surroundings",
    "check",
    "read",
    "stock_sources",
]
