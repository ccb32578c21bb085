"""Rules and alerts, for the HTTP side."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from watchbill.errors import Problem
from watchbill_collector.api.ports import Alert, Rule, RuleGroup, RuleProblem, RuleVerdict, RuleWarming, at
from watchbill_collector.dispatch.plan import Hush
from watchbill_collector.dispatch.values import fingerprint_of
from watchbill_collector.rules import (
    ActiveAlert,
    AlertingRun,
    AlertState,
    GroupRun,
    RecordingRun,
    Rulebook,
    Source,
)
from watchbill_collector.rules.certainty import Warming
from watchbill_collector.rules.files import load
from watchbill_collector.rules.lint import warnings
from watchbill_collector.rules.model import AlertingRule, Group
from watchbill_collector.servicebook import Belonging, Service

_WORDS = {AlertState.PENDING: "pending", AlertState.FIRING: "firing", AlertState.RESOLVED: "resolved"}


class JudgingService:
    """`api.ports.RulesService` over `rules.Rulebook`."""

    def __init__(
        self,
        book: Rulebook,
        belonging: Belonging | None = None,
        hush_of: Callable[[Mapping[str, str]], Hush | None] = lambda _: None,
    ) -> None:
        """`belonging` tells which service an alert belongs to, `hush_of` why one that fires tells nobody anew."""
        self._book = book
        self._belonging = belonging
        self._hush_of = hush_of

    async def groups(self) -> Sequence[RuleGroup]:
        """Every group with its rules' state."""
        # In a thread: fifty thousand alerts take a second, in which the loop has other things to do.
        return await asyncio.to_thread(lambda: [self._group(run) for run in self._book.groups()])

    async def alerts(self) -> Sequence[Alert]:
        """What is pending or firing."""
        return await asyncio.to_thread(lambda: [self._alert(each) for each in self._book.alerts()])

    async def resolved(self) -> Sequence[Alert]:
        """What resolved lately, newest first."""
        return await asyncio.to_thread(self._resolved)

    def _resolved(self) -> list[Alert]:
        found = [each for each in self._book.alerts(resolved=True) if each.state is AlertState.RESOLVED]
        return [self._alert(each) for each in sorted(found, key=lambda each: -each.resolved_ms)]

    async def check(self, name: str, text: str) -> RuleVerdict:
        """Judge a rule file without loading it."""
        rules, problems = await asyncio.to_thread(load, [Source(name, text.encode())])
        if problems:
            return RuleVerdict((), tuple(_problem(one) for one in problems))
        odd = tuple(_problem(one) for one in warnings(rules))
        return RuleVerdict(tuple(_written(group) for group in rules.groups), (), odd)

    def _alert(self, alert: ActiveAlert) -> Alert:
        shown = alert_of(alert, None if self._belonging is None else self._belonging.of(alert.labels))
        hush = self._hush_of(alert.labels) if alert.state is AlertState.FIRING else None
        if hush is None:
            return shown
        return replace(shown, silences=hush.silences, windows=hush.windows, inhibited=hush.inhibited)

    def _group(self, run: GroupRun) -> RuleGroup:
        return RuleGroup(
            name=run.group.name,
            file=run.group.file,
            interval_s=run.group.interval_ms / 1000,
            rules=tuple(self._rule(run, each) for each in run.runs),
            evaluation_time_s=run.took_s,
            last_evaluation=at(run.evaluated_ms) if run.evaluated_ms else None,
            limit=run.group.limit,
        )

    def _rule(self, group: GroupRun, run: AlertingRun | RecordingRun) -> Rule:
        health = run.health
        common = {
            "name": run.rule.name,
            "query": run.rule.expr,
            "health": health.health,
            "last_error": health.last_error,
            "evaluation_time_s": health.took_s,
            "last_evaluation": at(health.evaluated_ms) if health.evaluated_ms else None,
            "warming": _warming(health.warming),
            "series": run.series,
        }
        if isinstance(run, RecordingRun):
            return Rule(type="recording", labels=dict(run.rule.labels), **common)  # type: ignore[arg-type]
        alerts = tuple(self._alert(each) for each in self._book.alerts_of(group.group.name, run))
        states = {alert.state for alert in alerts}
        return Rule(
            type="alerting",
            labels={name: template.text for name, template in run.rule.labels},
            state="firing" if "firing" in states else "pending" if "pending" in states else "inactive",
            duration_s=run.rule.for_ms / 1000,
            keep_firing_for_s=run.rule.keep_firing_for_ms / 1000,
            annotations={name: template.text for name, template in run.rule.annotations},
            alerts=alerts,
            short=run.rule.short,
            **common,  # type: ignore[arg-type]
        )


def alert_of(alert: ActiveAlert, service: Service | None = None) -> Alert:
    """An alert as the API shows it, with the service that it belongs to."""
    since_ms = {
        AlertState.PENDING: alert.active_ms,
        AlertState.FIRING: alert.fired_ms,
        AlertState.RESOLVED: alert.resolved_ms,
    }[alert.state]
    return Alert(
        name=alert.rule,
        state=_WORDS[alert.state],
        since=at(since_ms or alert.active_ms),
        active_at=at(alert.active_ms),
        value=alert.value,
        labels=alert.labels,
        annotations=alert.annotations,
        resolved_at=at(alert.resolved_ms) if alert.state is AlertState.RESOLVED else None,
        incomplete=alert.incomplete,
        service=service.name if service is not None else "",
        owner=service.owner if service is not None else "",
        fingerprint=fingerprint_of(tuple(sorted(alert.labels.items()))),
    )


def _warming(warming: Warming | None) -> RuleWarming | None:
    if warming is None:
        return None
    return RuleWarming(warming.hosts, warming.of, at(warming.until_ms), warming.why)


def _problem(one: Problem) -> RuleProblem:
    return RuleProblem(one.line, one.key, f"got {one.got}, wanted {one.wanted}")


def _written(group: Group) -> RuleGroup:
    rules = [
        Rule(
            type=rule.kind.value,
            name=rule.name,
            query=rule.expr,
            labels={},
            health="unknown",
            last_error="",
            evaluation_time_s=0.0,
            last_evaluation=None,
            duration_s=rule.for_ms / 1000 if isinstance(rule, AlertingRule) else 0.0,
            short=rule.short if isinstance(rule, AlertingRule) else "",
        )
        for rule in group.rules
    ]
    return RuleGroup(group.name, group.file, group.interval_ms / 1000, tuple(rules), 0.0, None, group.limit)
