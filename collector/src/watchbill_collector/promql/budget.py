"""What one query may use: samples in memory, steps, time; and the way to stop it.

The engine asks between operators, storage while it reads. A query that runs into its budget fails with an
error that says which part of it; it never stalls the rules or another query, which have budgets of their own.
"""

from collections.abc import Callable

from watchbill_collector.promql.errors import Cancelled, TimedOut, TooMany

SAMPLES_MAX = 20_000_000
"""Samples that one query may load, and points that one matrix of it may have: 160 MB each.

Prometheus allows 50 million, and counts only points that are there.
"""

STEPS_MAX = 11_000
"""Points a series in one answer, as in Prometheus."""


class Budget:
    """The limits of one evaluation, used up as it goes.

    `deadline_s` is a reading of `monotonic` after which the query ends; None is never. `cancelled` is asked
    wherever the deadline is, and `give_way`, which may sleep for a moment. Samples are counted when they are read
    from storage, and again as points of the matrices in memory; `spend` and `check` raise TooMany, TimedOut or
    Cancelled.
    """

    def __init__(
        self,
        samples_max: int = SAMPLES_MAX,
        deadline_s: float | None = None,
        monotonic: Callable[[], float] | None = None,
        cancelled: Callable[[], bool] | None = None,
        give_way: Callable[[], None] | None = None,
    ) -> None:
        assert deadline_s is None or monotonic is not None, "a deadline needs a clock"
        self.samples_max = samples_max
        self.samples = 0
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._cancelled = cancelled
        self._give_way = give_way

    def spend(self, samples: int, expression: str = "") -> None:
        """Count samples that have been loaded; raises TooMany over the limit."""
        self.samples += samples
        if self.samples > self.samples_max:
            raise TooMany(
                "query processing would load too many samples into memory in query execution "
                f"(more than {self.samples_max})",
                expression,
            )

    def room(self, points: int, expression: str = "") -> None:
        """Ask whether a matrix of so many points may exist at all; raises TooMany."""
        if points > self.samples_max:
            raise TooMany(
                "query processing would load too many samples into memory in query execution "
                f"({points} points at once, more than {self.samples_max})",
                expression,
            )

    def check(self, expression: str = "") -> None:
        """Raise TimedOut or Cancelled when it is so; and give way to what is more urgent."""
        if self._give_way is not None:
            self._give_way()
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("query was canceled in expression evaluation", expression)
        if self._deadline_s is None or self._monotonic is None:
            return
        if self._monotonic() > self._deadline_s:
            raise TimedOut("query timed out in expression evaluation", expression)
