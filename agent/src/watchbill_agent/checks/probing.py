"""What the kinds share that ask another machine over a network: phases and their times, a deadline that can still say
where it was met, thresholds, and words for what was found.

A probe is cancelled at its timeout by whoever runs it, and then has nothing to say. So each ends itself a little
earlier, and its verdict names the phase that did not end: `timeout`, or UNKNOWN `resolve-timeout` where no address was
found yet, since that says nothing of whom was to be asked.
"""

import asyncio
import math
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from watchbill.config import Duration, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.check import Failed, Outcome, Samples, Verdict
from watchbill_agent.reading import Family, MetricType, Series, labels

OWN_SHARE: Final = 0.95
"""Of its time, after which a look ends itself."""
OWN_MARGIN_S_MAX: Final = 0.25
SHOWN_CHARACTERS_MAX: Final = 80
"""Of what somebody else said, in a detail."""
EXTRA: Final = "watchbill-agent[checks]"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """What every check of another machine may say."""

    preferred_ip_protocol: Literal["", "ip4", "ip6"] = option(
        "", help="Which addresses of a name to try: as the name has them, or those of IPv4 or IPv6 first."
    )
    ip_protocol_fallback: bool = option(
        True, help="Whether the other addresses do where there are none of that protocol."
    )
    warn_after: Duration | None = option(None, help="A look that takes longer is a warning.", example='"1s"')
    fail_after: Duration | None = option(None, help="A look that takes longer has failed.", example='"3s"')

    def check(self) -> Iterator[Wrong]:
        """A warning comes before a failure."""
        if self.warn_after is not None and self.fail_after is not None and self.warn_after >= self.fail_after:
            yield Wrong(
                "warn_after",
                show_value(self.warn_after.to_config()),
                f"less than fail_after, {self.fail_after.to_config()}",
            )


class Phases:
    """How long each phase took, summed over all times it was entered; all are told always, in one order."""

    __slots__ = ("_since_s", "began_s", "now", "seconds", "until_s")

    def __init__(self, *names: str) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        self.now = ""
        self.began_s = self._since_s = time.monotonic()
        self.until_s = math.inf
        """When the look ends itself, by the loop's clock."""

    def begin(self, name: str) -> None:
        """The one before ends, and `name` begins; "" is none."""
        now_s = time.monotonic()
        if self.now:
            self.seconds[self.now] += now_s - self._since_s
        self.now, self._since_s = name, now_s

    def end(self) -> float:
        """The last one ends; how long all took, what was between them included."""
        self.begin("")
        return self._since_s - self.began_s


class Form:
    """Gauges that a kind tells at every look: their names are made once, and a look puts values beside them (80 us
    less than naming 14 gauges each time).

    _FORM = Form(("probe_ip_protocol", "IPv4 or IPv6."), ("probe_x_seconds", "Phases.", "connect", "rtt"))
    """

    def __init__(self, *gauges: tuple[str, ...]) -> None:
        self._families: dict[str, Family] = {}
        self._series: list[Series] = []
        for name, help_, *phases in gauges:
            self._families[name] = Family(name, MetricType.GAUGE, help_)
            self._series += (Series(name, labels(phase=phase)) for phase in phases or [""])

    def fill(self, values: Iterable[float]) -> Samples:
        """The samples, in the order of the names."""
        samples = Samples()
        samples.families.update(self._families)
        samples.series += self._series
        samples.values += values
        assert len(samples.values) == len(samples.series), "a value for each"
        return samples


async def bounded(looking: Coroutine[Any, Any, T], within_s: float, phases: Phases) -> T:
    """What `looking` gives, a little before `within_s` have passed. Raises Failed."""
    own_s = max(within_s * OWN_SHARE, within_s - OWN_MARGIN_S_MAX)
    phases.until_s = asyncio.get_running_loop().time() + own_s
    try:
        async with asyncio.timeout_at(phases.until_s):
            return await looking
    except TimeoutError:
        if phases.now == "resolve":
            raise Failed(
                "resolve-timeout", f"no address within {own_s:.3g} s", verdict=Verdict.UNKNOWN
            ) from None
        raise Failed("timeout", f"{phases.now or 'look'}: no end within {own_s:.3g} s") from None


@dataclass(slots=True)
class Findings:
    """What is not well; the worst is the verdict, of equals the first."""

    all: list[tuple[Verdict, str, str]] = field(default_factory=list)

    def add(self, verdict: Verdict, reason: str, detail: str) -> None:
        """One more."""
        self.all.append((verdict, reason, detail))

    def fail(self, reason: str, detail: str) -> None:
        """One more that is CRITICAL."""
        self.add(Verdict.CRITICAL, reason, detail)

    def judge_duration(self, options: NetOptions, took_s: float) -> None:
        """By `warn_after` and `fail_after`."""
        for verdict, limit_s in (
            (Verdict.CRITICAL, options.fail_after),
            (Verdict.WARNING, options.warn_after),
        ):
            if limit_s is not None and took_s > limit_s:
                self.add(verdict, "slow", f"took {took_s:.3f} s, wanted at most {float(limit_s):g} s")
                return

    def outcome(self, samples: Samples, well: str) -> Outcome:
        """The verdict; `well` is the detail when nothing was found."""
        if not self.all:
            return Outcome(Verdict.OK, "", well, samples)
        order = (Verdict.OK, Verdict.WARNING, Verdict.UNKNOWN, Verdict.CRITICAL)
        verdict, reason, detail = max(self.all, key=lambda one: order.index(one[0]))
        return Outcome(verdict, reason, detail, samples)


def missing(library: str) -> Failed:
    """A library that is not there."""
    return Failed("not-installed", f"{library} is missing: install {EXTRA}", verdict=Verdict.UNKNOWN)


def shown(said: bytes | bytearray | str) -> str:
    """A short piece of what somebody else said, in quotes, nothing in it but printable ASCII."""
    text = bytes(said[: SHOWN_CHARACTERS_MAX + 1]).decode("latin-1") if not isinstance(said, str) else said
    short = text[:SHOWN_CHARACTERS_MAX].encode("unicode_escape").decode("ascii").replace('"', '\\"')
    more = "..." if len(short) > SHOWN_CHARACTERS_MAX or len(text) > SHOWN_CHARACTERS_MAX else ""
    return f'"{short[:SHOWN_CHARACTERS_MAX]}{more}"'


def with_samples(failed: Failed, samples: Samples) -> Outcome:
    """The outcome of what failed, with the numbers that there are."""
    outcome = failed.outcome()
    return Outcome(outcome.verdict, outcome.reason, outcome.detail, samples)


def label_text(said: str, bytes_max: int) -> str:
    """A label's value out of what somebody else said: no control characters, and bounded."""
    text = "".join(c if c.isprintable() else "?" for c in said[:bytes_max])
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")
