"""Alerts and their changes, as others see them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from watchbill_collector.rules.alerts import AlertState
from watchbill_collector.rules.groups import RuleChange


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An alert as it stands, annotations filled in. Times are UTC milliseconds."""

    rule: str
    group: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    state: AlertState
    active_ms: int
    value: float
    fired_ms: int = 0
    resolved_ms: int = 0
    incomplete: str = ""
    """What is missing of the data that it was judged on; empty when nothing is."""

    @property
    def since_ms(self) -> int:
        """When its present state began."""
        return {AlertState.FIRING: self.fired_ms, AlertState.RESOLVED: self.resolved_ms}.get(
            self.state, self.active_ms
        )


@dataclass(frozen=True, slots=True, eq=False)
class AlertChange:
    """An alert that entered a state: for server-sent events and notifiers. Its annotations are filled in only for who
    asks for the `alert`: in a storm fifty thousand change at once, and hardly anybody reads them."""

    _change: RuleChange
    _fill: Callable[[RuleChange], ActiveAlert]

    @property
    def rule(self) -> str:
        """The name of the rule."""
        return self._change.run.rule.name

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the alert."""
        return dict(self._change.change.alert.labels)

    @property
    def state(self) -> AlertState:
        """The state that it entered."""
        return self._change.change.alert.state

    @property
    def before(self) -> AlertState | None:
        """The state that it left; None for a new alert."""
        return self._change.change.before

    @property
    def at_ms(self) -> int:
        """The moment that was judged, UTC milliseconds."""
        return self._change.at_ms

    @property
    def alert(self) -> ActiveAlert:
        """The alert as it entered the state, annotations filled in now."""
        return self._fill(self._change)
