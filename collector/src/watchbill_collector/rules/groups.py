"""One group at work: its rules in order, each seeing what those before it recorded; and when it is due.

All groups are evaluated on one grid: a group with an interval of 15 s at the full quarter minutes, one of 1
m at the full minutes. So agents know when their newest values are wanted, and groups that go together see
the same moment.
"""

from collections.abc import Callable
from dataclasses import dataclass

from watchbill_collector.promql.storage import Storage
from watchbill_collector.rules.alerts import Change, Hold
from watchbill_collector.rules.model import Group
from watchbill_collector.rules.run import AlertingRun, RuleRun, Surroundings, evaluated, run_of
from watchbill_collector.series import Ticks


@dataclass(frozen=True, slots=True)
class RuleChange:
    """An alert of a rule that has entered a state at `at_ms`."""

    group: str
    run: AlertingRun
    change: Change
    value: float
    at_ms: int


class GroupRun:
    """A group at work."""

    def __init__(self, group: Group, around: Surroundings) -> None:
        self.group = group
        self.runs: tuple[RuleRun, ...] = tuple(run_of(rule, around) for rule in group.rules)
        self.evaluated_ms = 0
        self.took_s = 0.0
        self.iterations = 0
        self.missed = 0

    def slot_ms(self, now_ms: int) -> int:
        """The moment on the grid that is to be judged at `now_ms`."""
        return now_ms - now_ms % self.group.interval_ms

    def due(self, now_ms: int) -> bool:
        """Whether a moment has come that has not been judged."""
        return self.slot_ms(now_ms) > self.evaluated_ms

    def next_ms(self, now_ms: int) -> int:
        """When it is due again."""
        return self.slot_ms(now_ms) + self.group.interval_ms

    def evaluate(
        self,
        now_ms: int,
        storage: Storage,
        holds: Callable[[RuleRun], Hold],
        write: Callable[[list[Ticks]], None],
        monotonic: Callable[[], float],
    ) -> list[RuleChange]:
        """Judge the newest moment on the grid; moments that were passed over are counted as missed."""
        began = monotonic()
        slot = self.slot_ms(now_ms)
        if self.evaluated_ms:
            self.missed += max(0, (slot - self.evaluated_ms) // self.group.interval_ms - 1)
        self.evaluated_ms = slot
        self.iterations += 1
        changes: list[RuleChange] = []
        for run in self.runs:
            query_ms = slot - self.group.query_offset_ms
            ticks = evaluated(run, query_ms, slot, storage, self.group.limit, holds(run), monotonic)
            if ticks:
                write(ticks)
            if isinstance(run, AlertingRun):
                changes += [
                    RuleChange(self.group.name, run, change, run.value_of(change.alert), slot)
                    for change in run.take_changes()
                ]
        self.took_s = monotonic() - began
        return changes
