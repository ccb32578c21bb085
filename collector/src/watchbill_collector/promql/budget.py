"""What one query may use: samples in memory, steps, time; and the way to stop it.

The engine asks between operators, storage while it reads. A query that runs into its budget fails with an
error that says which part of it; it never stalls the rules or another query, which have budgets of their own.

Queries from outside share their memory (`querymemory`). What they hold of it comes in two kinds: samples, label values
and the answer stay until the query's end; matrices go as operators are done with them. An operator notes with `mark`
where it began and says with `settle` what is left of it: its result.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from watchbill_collector.labels import STRINGS, PassingStrings
from watchbill_collector.promql.errors import Cancelled, TimedOut, TooMany
from watchbill_collector.promql.querymemory import (
    LARGE_READ_SHARE,
    READ_BYTES,
    SAMPLE_BYTES,
    SMALL_READ_SAMPLES,
    STRING_BYTES,
    WORK_BYTES,
    NoMemory,
    QueryMemory,
)

T = TypeVar("T")

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
        memory: QueryMemory | None = None,
    ) -> None:
        assert deadline_s is None or monotonic is not None, "a deadline needs a clock"
        self.samples_max = samples_max
        self.samples = 0
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._cancelled = cancelled
        self._give_way = give_way
        self._memory = memory
        self._kept = 0
        self._live = 0
        self._reserved = 0
        self._passing: PassingStrings | None = None
        if memory is not None:
            memory.enter()

    @property
    def shares_memory(self) -> bool:
        """Whether this is one of many queries that have to get along with each other."""
        return self._memory is not None

    def close(self) -> None:
        """The query is over, its answer included: give back what it held."""
        if self._memory is not None:
            self._memory.leave(self._kept + self._live + self._reserved)
            self._memory = None
            self._kept = self._live = self._reserved = 0
        if self._passing is not None:
            self._passing.close()
            self._passing = None

    def spend(self, samples: int, expression: str = "") -> None:
        """Count samples that have been loaded; raises TooMany over the limit."""
        self.keep(samples * SAMPLE_BYTES, expression)
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
        if self._memory is not None:
            self._take(points * WORK_BYTES, expression)
            self._live += points * WORK_BYTES

    def keep(self, size: int, expression: str = "") -> None:
        """Hold so many bytes until the query's end. Raises TooMany."""
        if self._memory is not None:
            self._take(size, expression)
            self._kept += size

    def mark(self) -> int:
        """Where an operator begins, for `settle`."""
        return self._live

    def settle(self, mark: int, size: int) -> None:
        """An operator is done: what is left of all since `mark` is a result of so many bytes."""
        if self._memory is None:
            return
        more = mark + size - self._live
        if more > 0:
            self._take(more, "")
        elif more < 0:
            self._memory.give(-more)
        self._live += more

    def read(self, load: Callable[[int], T], too_many: type[Exception], expression: str = "") -> T:
        """What `load` reads; it is told how many samples it may, and raises `too_many` for more.

        Most reads are small and have room beside each other. Large ones take turns, each with most of what is free.
        """
        left = max(0, self.samples_max - self.samples)
        if self._memory is None:
            return load(left)
        few = min(left, SMALL_READ_SAMPLES)
        with contextlib.suppress(too_many), self._reserve(few * READ_BYTES, expression):
            return load(few)
        turn = self._memory.large_read(lambda: self.check(expression))
        try:
            free = int(self._memory.maximum * LARGE_READ_SHARE) - self._kept - self._live
            most = max(0, min(left, free // READ_BYTES))
            with self._reserve(most * READ_BYTES, expression):
                return load(most)
        finally:
            turn.release()

    def code(self, text: str) -> int:
        """The code of a label value that the query made. Outside texts are forgotten with the query: otherwise
        whoever counts values would fill the process' table of strings."""
        if self._memory is None:
            return STRINGS.code(text)
        known = STRINGS.find(text) if self._passing is None else self._passing.find(text)
        if known is None:
            if self._passing is None:
                self._passing = PassingStrings(STRINGS)
            self.keep(STRING_BYTES + len(text))
            known = self._passing.add(text)
        return known

    @property
    def strings_made(self) -> int:
        """Label values that no series has and this query made."""
        return 0 if self._passing is None else len(self._passing)

    @contextlib.contextmanager
    def _reserve(self, size: int, expression: str) -> Iterator[None]:
        """Hold so many bytes for a while."""
        assert self._memory is not None
        self._take(size, expression)
        self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size
            self._memory.give(size)

    def _take(self, size: int, expression: str) -> None:
        assert self._memory is not None
        own = self._kept + self._live + self._reserved
        try:
            self._memory.take(size, own, lambda: self.check(expression))
        except NoMemory as error:
            mebibytes = error.maximum >> 20
            why = (
                f"the query would need more than the {mebibytes} MiB of memory that queries may have"
                if error.alone
                else f"all queries together would need more than {mebibytes} MiB of memory: try again"
            )
            raise TooMany(
                f"query processing would load too many samples into memory: {why}", expression
            ) from None

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
