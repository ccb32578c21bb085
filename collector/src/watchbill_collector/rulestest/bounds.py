"""What judging rules may cost: samples, evaluations and time, counted over a whole file or request."""

from collections.abc import Callable
from dataclasses import dataclass

from watchbill.errors import UsageError

SAMPLES_MAX = 10_000_000
"""Samples that all series of one test group may have."""
EVALUATIONS_MAX = 2_000_000
"""Evaluations of rules in one test file: a day of 1,000 rules once a minute."""


class TooCostly(UsageError):
    """A test or a backtest needs more than it may have. The message says what, and what would help."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be used. `check` is asked between evaluations, and raises when time is up or nobody waits."""

    samples_max: int = SAMPLES_MAX
    evaluations_max: int = EVALUATIONS_MAX
    check: Callable[[], None] | None = None


@dataclass(slots=True)
class Spent:
    """What has been used so far."""

    limits: Limits
    samples: int = 0
    evaluations: int = 0

    def evaluate(self, rules: int) -> None:
        """Count one round over so many rules; raises TooCostly, and what `check` raises."""
        self.evaluations += rules
        if self.evaluations > self.limits.evaluations_max:
            raise TooCostly(
                f"more than {self.limits.evaluations_max:,} evaluations: "
                "fewer rules, a shorter time or a longer evaluation_interval"
            )
        if self.limits.check is not None:
            self.limits.check()

    def load(self, samples: int) -> None:
        """Count samples that are loaded; raises TooCostly."""
        self.samples += samples
        if self.samples > self.limits.samples_max:
            raise TooCostly(f"more than {self.limits.samples_max:,} samples in the series of one file")
