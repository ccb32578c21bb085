"""`/api/watchbill/v1/alerts/FINGERPRINT`: one alert, the rule that it is of, and what to draw of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.ports import Alert, NoSuch, Rule, RuleGroup
from watchbill_collector.api.prometheus import within
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.api.told_port import Told
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.parse import parse
from watchbill_collector.rules.compared import Compared, compared, narrowed
from watchbill_collector.scopes import INSTANCE

BASE = "/api/watchbill/v1"
FINGERPRINT_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class ChartLimit:
    """A number that the value is compared with; `clears`: what fires already ends only here."""

    op: str
    value: float
    clears: bool


@dataclass(frozen=True, slots=True)
class AlertChart:
    """What a rule looks at, as PromQL. `for_host` is the value for the alert's host alone, empty where that would be
    another number; of `value` the series with the alert's labels are meant. `against` is what it is compared with where
    that is no number.
    """

    value: str
    for_host: str
    against: str
    against_for_host: str
    limits: Sequence[ChartLimit]


@dataclass(frozen=True, slots=True)
class AlertDetail:
    """One alert, and who was told of it. `rule`, without its alerts, and `chart` are None when the rule is no longer
    loaded.
    """

    alert: Alert
    rule: Rule | None
    group: str
    file: str
    interval_s: float
    chart: AlertChart | None
    told: Told


async def _alert(call: Call) -> Response:
    wanted: str = call.request.path_params["fingerprint"]
    rules = call.house.services.rules
    alert = _named(await rules.alerts(), wanted) or _named(await rules.resolved(), wanted)
    if alert is None or not call.covers(alert.labels):
        raise NoSuch("no such alert: it ended some time ago, or never was; watchbill alerts lists them")
    group, rule = _rule_of(alert, await rules.groups())
    told = await call.house.services.telling.told(alert)
    if group is None or rule is None:
        return json_answer(AlertDetail(alert, None, "", "", 0.0, None, told))
    shown = within(replace(group, rules=(rule,)), call).rules[0]
    chart = _chart(rule, alert)
    return json_answer(
        AlertDetail(alert, replace(shown, alerts=()), group.name, group.file, group.interval_s, chart, told)
    )


def _named(alerts: Sequence[Alert], fingerprint: str) -> Alert | None:
    if len(fingerprint) != FINGERPRINT_CHARACTERS:
        return None
    return next((alert for alert in alerts if alert.fingerprint == fingerprint), None)


def _rule_of(alert: Alert, groups: Sequence[RuleGroup]) -> tuple[RuleGroup | None, Rule | None]:
    """The rule whose alert it is; of an ended one a rule of its name and labels."""
    called = [
        (group, rule)
        for group in groups
        for rule in group.rules
        if rule.type == "alerting" and rule.name == alert.name
    ]
    for group, rule in called:
        if any(each.labels == alert.labels for each in rule.alerts):
            return group, rule
    for group, rule in called:
        if rule.labels.get("severity") == alert.labels.get("severity"):
            return group, rule
    return None, None


def _chart(rule: Rule, alert: Alert) -> AlertChart | None:
    try:
        found = compared(parse(rule.query))
    except PromqlError:  # It was loaded, so it can be read; a chart is not worth an error.
        return None
    # A rule may write `instance` itself: then it says nothing about the series underneath.
    host = alert.labels.get(INSTANCE, "") if INSTANCE not in rule.labels else ""
    value, against = _for_host(found, host)
    return AlertChart(
        value=str(found.value),
        for_host=value,
        against="" if found.against is None else str(found.against),
        against_for_host=against,
        limits=[ChartLimit(limit.op, limit.value, limit.clears) for limit in found.limits],
    )


def _for_host(found: Compared, host: str) -> tuple[str, str]:
    if not host:
        return "", ""
    value = narrowed(found.value, INSTANCE, host)
    against = None if found.against is None else narrowed(found.against, INSTANCE, host)
    return "" if value is None else str(value), "" if against is None else str(against)


ALERT_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/alerts/{{fingerprint}}",
        Need.READ,
        _alert,
        "One alert with its rule, what to draw of it, and who was told.",
        (Parameter("fingerprint", "The alert's 16 hexadecimal digits.", required=True),),
        gives=AlertDetail,
        within=Within.OBJECT,
    ),
)
