"""Prometheus' own API, `/api/v1/...`: its paths, parameters, shapes and errors, over our engine.

Written after Prometheus' `docs/querying/api.md`, and compared in the tests with a real Prometheus, request by
request.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from starlette.responses import Response

from watchbill_collector.api.answers import (
    Document,
    prometheus_answer,
    query_envelope,
)
from watchbill_collector.api.events import disconnected
from watchbill_collector.api.params import (
    Fields,
    bad_parameter,
    duration_field,
    limit_field,
    needed_time_field,
    parse_duration_ms,
    quoted,
    read_fields,
    steps_between,
    time_field,
)
from watchbill_collector.api.ports import Alert, Rule, RuleGroup, RuleWarming, Span
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.errors import BadQuery

T = TypeVar("T")

PROMETHEUS_VERSION = "3.5.0"
"""Whose semantics these are. Clients choose by it: from 2.24 on label values are asked for with selectors."""

MATCHES_MAX = 1_000
"""Selectors in one request."""

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How Go writes a moment that has not been."""

_READ_BOTH = ("GET", "POST")


async def _query(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"], call.body)
    limit = limit_field(fields)
    time_ms = time_field(fields, "time", time.time_ns() // 1_000_000)
    assert time_ms is not None
    lookback_ms = duration_field(fields, "lookback_delta", None)
    query = fields.one("query")

    def work(budget: Budget) -> bytes:
        begun_s = time.monotonic()
        answer = call.query.instant(query, time_ms, budget, limit=limit, lookback_ms=lookback_ms)
        return query_envelope(answer, _stats(fields, budget, begun_s))

    try:
        return await _computed(call, fields, work)
    except BadQuery as exc:
        raise _about_query(exc) from exc


async def _query_range(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"], call.body)
    limit = limit_field(fields)
    start_ms = needed_time_field(fields, "start")
    end_ms = needed_time_field(fields, "end")
    if end_ms < start_ms:
        raise bad_parameter("end", "end timestamp must not be before start time")
    try:
        step_ms = parse_duration_ms(fields.one("step"))
    except ValueError as exc:
        raise bad_parameter("step", str(exc)) from exc
    steps_between(start_ms, end_ms, step_ms)
    lookback_ms = duration_field(fields, "lookback_delta", None)
    query = fields.one("query")

    def work(budget: Budget) -> bytes:
        begun_s = time.monotonic()
        answer = call.query.range_(
            query, start_ms, end_ms, step_ms, budget, limit=limit, lookback_ms=lookback_ms
        )
        return query_envelope(answer, _stats(fields, budget, begun_s))

    try:
        return await _computed(call, fields, work)
    except BadQuery as exc:
        raise _about_query(exc) from exc


def _about_query(error: BadQuery) -> BadQuery:
    text = str(error)
    return error if text.startswith("invalid parameter") else bad_parameter("query", text)


def _stats(fields: Fields, budget: Budget, begun_s: float) -> Document | None:
    if not fields.one("stats"):
        return None
    spent_s = time.monotonic() - begun_s
    return {
        "timings": {"evalTotalTime": spent_s, "execTotalTime": spent_s},
        "samples": {"totalQueryableSamples": budget.samples, "peakSamples": budget.samples},
    }


async def _series(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"], call.body)
    limit = limit_field(fields)
    if not fields.all("match[]"):
        raise BadQuery("no match[] parameter provided")
    span, matches = _span(fields), _matches(fields)
    service = call.query
    return await _looked_up(
        call, fields, limit, lambda more, budget: list(service.series(matches, span, more, budget))
    )


async def _labels(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"], call.body)
    limit = limit_field(fields)
    span, matches = _span(fields), _matches(fields)
    service = call.query
    return await _looked_up(
        call, fields, limit, lambda more, budget: list(service.label_names(matches, span, more, budget))
    )


async def _label_values(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"], call.body)
    name = _unescaped(call.request.path_params["name"])
    limit = limit_field(fields)
    span, matches = _span(fields), _matches(fields)
    service = call.query
    return await _looked_up(
        call,
        fields,
        limit,
        lambda more, budget: list(service.label_values(name, matches, span, more, budget)),
    )


def _unescaped(name: str) -> str:
    """Label names beyond the classic alphabet come as `U__` with `_HEX_` for each odd character; see UTF-8
    names in Prometheus' documentation. Raises BadQuery.
    """
    if not name or "\x00" in name:
        raise BadQuery(f"invalid label name: {quoted(name)}")
    if not name.startswith("U__"):
        return name
    pieces = name[3:].replace("__", "\x00").split("_")
    out = []
    for position, piece in enumerate(pieces):
        if position % 2 == 0:
            out.append(piece)
            continue
        try:
            out.append(chr(int(piece, 16)))
        except (ValueError, OverflowError):
            return name
    return "".join(out).replace("\x00", "_")


def _span(fields: Fields) -> Span:
    start_ms, end_ms = time_field(fields, "start", None), time_field(fields, "end", None)
    if start_ms is not None and end_ms is not None and end_ms < start_ms:
        raise BadQuery("end timestamp must not be before start timestamp")
    return Span(start_ms, end_ms)


def _matches(fields: Fields) -> Sequence[str]:
    matches = fields.all("match[]")
    if len(matches) > MATCHES_MAX:
        raise bad_parameter("match[]", f"{len(matches)} selectors, more than {MATCHES_MAX}")
    return matches


async def _looked_up(
    call: Call, fields: Fields, limit: int, look: Callable[[int, Budget], list[Document]]
) -> Response:
    """A list, cut at `limit` with a warning, as Prometheus does."""

    def work(budget: Budget) -> bytes:
        found = look(limit + 1 if limit else 0, budget)
        if limit and len(found) > limit:
            return prometheus_answer(found[:limit], ("results truncated due to limit",))
        return prometheus_answer(found)

    try:
        return await _computed(call, fields, work)
    except BadQuery as exc:
        text = str(exc)
        raise exc if text.startswith("invalid") else bad_parameter("match[]", text) from exc


async def _metadata(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    limit = _whole(fields, "limit")
    per_metric = _whole(fields, "limit_per_metric")
    metric = fields.one("metric")

    def work(_: Budget) -> bytes:
        found = call.query.metadata(metric, max(limit, 0)) if limit else {}
        return prometheus_answer(
            {name: list(rows)[: per_metric if per_metric > 0 else None] for name, rows in found.items()}
        )

    return await _computed(call, fields, work)


def _whole(fields: Fields, name: str) -> int:
    """A number, -1 where there is none."""
    text = fields.one(name)
    try:
        return int(text) if text else -1
    except ValueError as exc:
        raise BadQuery(f"{name} must be a number") from exc


async def _format_query(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"], call.body)
    query = fields.one("query")
    try:
        return await _computed(call, fields, lambda _: prometheus_answer(call.query.format(query)))
    except BadQuery as exc:
        raise _about_query(exc) from exc


async def _computed(call: Call, fields: Fields, work: Callable[[Budget], bytes]) -> Response:
    """The bytes of `work`, computed in a query thread, within the request's `timeout`."""
    timeout_ms = duration_field(fields, "timeout", None)
    body = await call.house.pool.run(
        work,
        None if timeout_ms is None else timeout_ms / 1000,
        lambda: disconnected(call.request),
    )
    return Response(body, media_type="application/json")


async def _exemplars(_: Call) -> Response:
    return Response(prometheus_answer([]), media_type="application/json")


async def _rules(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    kind = fields.one("type").lower()
    if kind not in ("", "alert", "record"):
        raise bad_parameter("type", f"not supported value {quoted(kind)}")
    without_alerts = fields.one("exclude_alerts").lower() in ("1", "true", "t")
    wanted = {"alert": "alerting", "record": "recording"}.get(kind, "")
    names, groups, files = (
        set(fields.all("rule_name[]")),
        set(fields.all("rule_group[]")),
        set(fields.all("file[]")),
    )
    answer = []
    for group in await call.house.services.rules.groups():
        group = within(group, call)  # noqa: PLW2901 - What the caller may not see is not there from here on.
        if (groups and group.name not in groups) or (files and group.file not in files):
            continue
        rules = [
            rule
            for rule in group.rules
            if (not wanted or rule.type == wanted) and (not names or rule.name in names)
        ]
        if rules or not names:
            answer.append(_group_document(group, rules, without_alerts))
    return Response(prometheus_answer({"groups": answer}), media_type="application/json")


def within(group: RuleGroup, call: Call) -> RuleGroup:
    """A group as the caller may see it: rules are everybody's to read, their alerts are not, and an error may name
    series of others.
    """
    if call.view.whole:
        return group
    return replace(group, rules=tuple(_rule_within(rule, call) for rule in group.rules))


def _rule_within(rule: Rule, call: Call) -> Rule:
    alerts = tuple(alert for alert in rule.alerts if call.covers(alert.labels))
    states = {alert.state for alert in alerts}
    state = "firing" if "firing" in states else "pending" if "pending" in states else "inactive"
    return replace(
        rule,
        alerts=alerts,
        state=state if rule.state else "",
        last_error="it failed; who sees everything can read how" if rule.last_error else "",
    )


def _group_document(group: RuleGroup, rules: Sequence[Rule], without_alerts: bool) -> Document:
    return {
        "name": group.name,
        "file": group.file,
        "rules": [_rule_document(rule, without_alerts) for rule in rules],
        "interval": group.interval_s,
        "limit": group.limit,
        "evaluationTime": group.evaluation_time_s,
        "lastEvaluation": _moment(group.last_evaluation),
    }


def _rule_document(rule: Rule, without_alerts: bool) -> Document:
    common = {
        "name": rule.name,
        "query": rule.query,
        "labels": rule.labels,
        "health": rule.health,
        "evaluationTime": rule.evaluation_time_s,
        "lastEvaluation": _moment(rule.last_evaluation),
        "type": rule.type,
    }
    if rule.last_error:
        common["lastError"] = rule.last_error
    if rule.short:
        common["shortForm"] = rule.short
    warming = rule.warming
    common["warming"] = None if warming is None else _warming_document(warming)
    common["series"] = rule.series
    if rule.type != "alerting":
        return common
    alerts = [] if without_alerts else [_alert_document(alert) for alert in rule.alerts]
    return {
        "state": rule.state,
        "duration": rule.duration_s,
        "keepFiringFor": rule.keep_firing_for_s,
        "annotations": rule.annotations,
        "alerts": alerts,
    } | common


def _warming_document(warming: RuleWarming) -> Document:
    return {
        "hosts": warming.hosts,
        "of": warming.of,
        "until": _moment(warming.until),
        "why": warming.why,
    }


async def _alerts(call: Call) -> Response:
    alerts = [
        _alert_document(alert)
        for alert in await call.house.services.rules.alerts()
        if call.covers(alert.labels)
    ]
    return Response(prometheus_answer({"alerts": alerts}), media_type="application/json")


def _alert_document(alert: Alert) -> Document:
    document: dict[str, object] = {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "state": alert.state,
        "activeAt": alert.active_at,
        "value": exponent_text(alert.value),
    }
    if alert.incomplete:
        document["incomplete"] = alert.incomplete
    return document


def _moment(moment: datetime | None) -> Document:
    return ZERO_TIME if moment is None else moment


def exponent_text(value: float) -> str:
    """A float as Go's 'e' format writes it with the fewest digits: 12.5 is `1.25e+01`."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    for precision in range(17):
        text = f"{value:.{precision}e}"
        if float(text) == value:
            return text
    return f"{value:.16e}"


async def _buildinfo(call: Call) -> Response:
    version = call.house.options.version
    return Response(
        prometheus_answer(
            {
                "version": PROMETHEUS_VERSION,
                "revision": f"watchbill {version}",
                "branch": "watchbill",
                "buildUser": "",
                "buildDate": "",
                "goVersion": "",
                # Empty means Prometheus to Grafana; anything in it would mean another product's rules API.
                "features": {},
            }
        ),
        media_type="application/json",
    )


_QUERY = Parameter("query", "PromQL expression.", required=True)
_TIME = "Unix seconds with a fraction, or RFC 3339."
_TIMEOUT = Parameter("timeout", "Shortens the collector's own limit; a duration such as 5s.")
_LIMIT = Parameter("limit", "How many series at most; 0 is all.")
_MATCH = Parameter("match[]", "Selector of series; repeated, any may match.", many=True)
_START, _END = Parameter("start", _TIME), Parameter("end", _TIME)
_LOOKBACK = Parameter("lookback_delta", "How old an instant value may be; a duration.")
_STATS = Parameter("stats", "Anything: add timings and samples to the answer.")

PROMETHEUS_ROUTES: tuple[Route, ...] = (
    Route(
        _READ_BOTH,
        "/api/v1/query",
        Need.READ,
        _query,
        "Evaluate an expression at one moment.",
        (_QUERY, Parameter("time", _TIME), _TIMEOUT, _LIMIT, _LOOKBACK, _STATS),
        form=True,
        within=Within.FILTERED,
    ),
    Route(
        _READ_BOTH,
        "/api/v1/query_range",
        Need.READ,
        _query_range,
        "Evaluate an expression at every step of a range.",
        (
            _QUERY,
            Parameter("start", _TIME, required=True),
            Parameter("end", _TIME, required=True),
            Parameter("step", "Seconds, or a duration such as 15s.", required=True),
            _TIMEOUT,
            _LIMIT,
            _LOOKBACK,
            _STATS,
        ),
        form=True,
        within=Within.FILTERED,
    ),
    Route(
        _READ_BOTH,
        "/api/v1/series",
        Need.READ,
        _series,
        "Label sets of matching series.",
        (
            Parameter("match[]", "Selector of series; repeated.", required=True, many=True),
            _START,
            _END,
            _LIMIT,
        ),
        form=True,
        within=Within.FILTERED,
    ),
    Route(
        _READ_BOTH,
        "/api/v1/labels",
        Need.READ,
        _labels,
        "Label names.",
        (_MATCH, _START, _END, _LIMIT),
        form=True,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        "/api/v1/label/{name}/values",
        Need.READ,
        _label_values,
        "Values of one label.",
        (_MATCH, _START, _END, _LIMIT),
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        "/api/v1/metadata",
        Need.READ,
        _metadata,
        "Type and help by metric name.",
        (
            Parameter("metric", "One metric; empty is all."),
            _LIMIT,
            Parameter("limit_per_metric", "Entries a metric."),
        ),
        within=Within.FILTERED,
    ),
    Route(
        _READ_BOTH,
        "/api/v1/format_query",
        Need.READ,
        _format_query,
        "An expression, printed prettily.",
        (_QUERY,),
        form=True,
        within=Within.NO_HOSTS,
    ),
    Route(
        _READ_BOTH,
        "/api/v1/query_exemplars",
        Need.READ,
        _exemplars,
        "Exemplars: there are none, and this says so.",
        (_QUERY,),
        form=True,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("GET",),
        "/api/v1/rules",
        Need.READ,
        _rules,
        "Rule groups with their rules, their health and their alerts.",
        (
            Parameter("type", "alert or record."),
            Parameter("rule_name[]", "Only these rules.", many=True),
            Parameter("rule_group[]", "Only these groups.", many=True),
            Parameter("file[]", "Only these files.", many=True),
            Parameter("exclude_alerts", "true: leave the alerts out."),
        ),
        within=Within.FILTERED,
    ),
    Route(
        ("GET",), "/api/v1/alerts", Need.READ, _alerts, "What is pending or firing.", within=Within.FILTERED
    ),
    Route(
        ("GET",),
        "/api/v1/status/buildinfo",
        Need.READ,
        _buildinfo,
        "Which Prometheus' semantics these are; `revision` names Watchbill's version.",
        within=Within.NO_HOSTS,
    ),
)
