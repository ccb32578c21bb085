"""What a check is. One file in `kinds/` is one kind: a docstring whose first paragraph is the help text, a frozen
`Options`, pure parsers, and one class of three sorts:

- a `Probe` waits for others without blocking and shares one event loop with all probes;
- a `Task` may block (files, libraries that block): it runs in a process of its own that is killed at its deadline;
- a `Listener` is told things all the time and has a process for itself alone.

What a check finds is an `Outcome`: a verdict, a word for the reason, a line for people, and numbers. A check that
stumbles raises: whatever it raises becomes the verdict UNKNOWN, and no other check notices.

    class Http(Probe):
        kind = "http"
        options_type = Options

        async def look(self, within_s): ...
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from watchbill.errors import Transient
from watchbill.verdict import Verdict
from watchbill_agent.reading import Family, Happening, MetricType, Series, labels

__all__ = [
    "DETAIL_CHARACTERS_MAX",
    "MEMORY_BYTES_MAX",
    "REASON_CHARACTERS_MAX",
    "SAMPLES_MAX",
    "About",
    "Check",
    "Failed",
    "Happening",
    "Listener",
    "Outcome",
    "Pinged",
    "Probe",
    "Samples",
    "Task",
    "Verdict",
]

REASON_CHARACTERS_MAX: Final = 64
DETAIL_CHARACTERS_MAX: Final = 300
SAMPLES_MAX: Final = 10_100
"""Of one outcome: a page of 10,000 series, and what is said of it. The rest is left out and counted by who made it."""
MEMORY_BYTES_MAX: Final = 256 * 1024
"""What a check may remember from look to look, as JSON."""


class Samples:
    """Numbers with their names, in the order they were put in. Families are put in once, by their first sample.

    found = Samples()
    found.gauge("probe_http_duration_seconds", "Seconds that each phase took.", 0.012, phase="connect")
    """

    __slots__ = ("families", "series", "values")

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self.series: list[Series] = []
        self.values: list[float] = []

    def gauge(self, name: str, help_: str, value: float, /, **pairs: str) -> None:
        """A value that goes up and down."""
        self.put(Family(name, MetricType.GAUGE, help_), value, labels(**pairs))

    def counter(self, name: str, help_: str, value: float, /, **pairs: str) -> None:
        """A value that only grows; its name ends with _total, or it is of a histogram."""
        self.put(Family(name, MetricType.COUNTER, help_), value, labels(**pairs))

    def put(self, family: Family, value: float, pairs: tuple[tuple[str, str], ...] = ()) -> None:
        """A sample of any family. `pairs` as `labels` makes them."""
        self.families.setdefault(family.name, family)
        self.series.append(Series(family.name, pairs))
        self.values.append(value)

    def histogram(
        self,
        name: str,
        help_: str,
        bounds: Iterable[float],
        counts: Iterable[float],
        total: float,
        /,
        **pairs: str,
    ) -> None:
        """A classic histogram: `counts` are cumulative and one more than `bounds` (the last is of +Inf), `total` is the
        sum of what was observed."""
        *below, every = counts
        for bound, count in zip((*(f"{bound:g}" for bound in bounds), "+Inf"), (*below, every), strict=True):
            self.counter(f"{name}_bucket", help_, count, **pairs, le=bound)
        self.counter(f"{name}_sum", help_, total, **pairs)
        self.counter(f"{name}_count", help_, every, **pairs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one look found.

    `reason` is empty for OK, otherwise one word of a small fixed set, lower case and hyphens (`timeout`, `refused`,
    `status-unexpected`): rules and people group by it. `detail` is one line for people and names what was got and what
    was wanted; no secret and no body of an answer in it. `samples` lack the labels `check` and `app`: those are put on
    for all.
    """

    verdict: Verdict
    reason: str = ""
    detail: str = ""
    samples: Samples = field(default_factory=Samples)
    happenings: tuple[Happening, ...] = ()


class Failed(Transient):
    """What was looked at is not well: raised inside a kind where that is shorter than handing an Outcome up. The
    verdict is CRITICAL unless another is given; `samples` are kept."""

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        verdict: Verdict = Verdict.CRITICAL,
        samples: Samples | None = None,
    ) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
        self.verdict = verdict
        self.samples = samples or Samples()

    def outcome(self) -> Outcome:
        """The same as an outcome."""
        return Outcome(self.verdict, self.reason, self.detail, self.samples)


@dataclass(frozen=True, slots=True)
class About:
    """What every check is told of itself beside its own options. Trees are those of the agent's configuration."""

    name: str
    interval_s: float
    timeout_s: float
    procfs: Path = Path("/proc")
    sysfs: Path = Path("/sys")
    rootfs: Path = Path("/")
    etc: Path = Path("/etc/watchbill")


class Check(ABC):
    """One thing to look at, again and again. Making one opens nothing: it judges its options, and raises WrongOption
    (`names`) or UsageError for what types cannot judge.

    `interval_s` and `timeout_s` are what a kind takes where the file says nothing.
    """

    kind: ClassVar[str]
    options_type: ClassVar[type[Any]]
    interval_s: ClassVar[float] = 30.0
    timeout_s: ClassVar[float] = 10.0
    retries: ClassVar[int] = 2
    """Looks in quick succession before something that was well is called failed."""
    many: ClassVar[bool] = False
    """Whether its series are many, or come and go: then they travel apart from those of other checks."""

    def __init__(self, options: Any, about: About) -> None:
        self.options = options
        self.about = about

    def recall(self, memory: Mapping[str, Any]) -> None:  # noqa: B027 - Most checks remember nothing.
        """What `memory` said at the end of an earlier look, perhaps of an earlier process. May be of an older version
        or of other options: what does not fit is left."""

    def memory(self) -> Mapping[str, Any] | None:
        """What the next process has to know, as JSON; None: nothing."""
        return None

    async def close(self) -> None:  # noqa: B027 - Most checks hold nothing.
        """End what it holds."""

    @classmethod
    def help(cls) -> str:
        """The first paragraph of its file's docstring."""
        return " ".join((sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0].split())


class Probe(Check):
    """A check that waits without blocking."""

    @abstractmethod
    async def look(self, within_s: float) -> Outcome:
        """Look once. Cancelled at the deadline, which becomes `timeout`: it gives back what it holds, whatever
        happens. Raises Failed, or anything for what it did not expect."""


class Task(Check):
    """A check that may block. Its process is killed at the deadline, with its whole process group."""

    @abstractmethod
    def look(self, within_s: float) -> Outcome:
        """Look once. Raises Failed, or anything for what it did not expect."""


class Listener(Check):
    """A check that listens all the time, in a process of its own."""

    @abstractmethod
    def run(self, report: Callable[[Outcome], None]) -> None:
        """Listen for ever, and report every `about.interval_s` how it stands. Raises OSError where it cannot."""


class Pinged(Probe):
    """A probe that others tell things to, through the agent's loopback door: `look` judges what was told."""

    @abstractmethod
    def heard(self, what: str, code: int | None, text: str, at_ms: int) -> tuple[Happening, ...]:
        """A ping: `what` is success, start, fail or log; `code` the exit code where one was given, `text` what came
        with it, `at_ms` UTC. What it answers goes into the timeline."""
