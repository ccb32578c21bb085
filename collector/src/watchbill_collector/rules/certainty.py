"""How far a verdict can be trusted: which alerts must wait for data, and what to say of those that do not.

Three doubts, and what each does:

- A rule is **warming** for a host while less than nine tenths of its longest window have been heard of that host: just
  after a start, for a new host, after a gap. Its alerts neither fire nor resolve; they may be pending. What counts is
  the host, not the series: a series that is young on a host that was heard all the time is as old as it is in truth.
  Windows of a rule are those of what it reads; a recorded series has those of the rule that records it. Rules without
  a window never warm.
- An alert is judged **blind** while its host is silent (`up` is 0), or is up and sends what is not of now, a backlog.
  It neither begins, fires nor resolves, and the time does not count for `for`. Old values never page.
- After a **restart** an alert waits until its host has been heard again; one whose rule looks at many hosts together
  waits for all those that it reads and that were there when the former life ended (`locality.py` tells the two apart).
  Nobody waits for longer than `SETTLE_MS`.

An alert whose expression asks for absence (`absent`, `unless`, `timestamp`), or reads only what the collector itself
says (`up`), knows neither of the first two: there, silence is the answer. An alert without `instance` speaks of many
hosts; it is warming while most of those it reads are.

`remark` is for people: what is missing under an alert that is shown or told, empty when nothing is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from watchbill.config import Duration
from watchbill.limits import RECONNECT_SPREAD_MS_MAX
from watchbill_collector.head import Head, Hearing
from watchbill_collector.head.pool import NEVER, Ints, Mask
from watchbill_collector.rules.alerts import Doubt, Hold, Labels, nothing_held
from watchbill_collector.rules.locality import judges_each_alone, reads_nothing
from watchbill_collector.rules.model import AlertingRule, RecordingRule, Rule
from watchbill_collector.rules.needs import made_here, metric_names, watches
from watchbill_collector.series import Matcher, SeriesIds

SETTLE_MS = RECONNECT_SPREAD_MS_MAX + 30_000
"""After a start, how long hosts may take to be heard again."""
ENDED_MS = 60_000
"""A host that was silent for so long when the former life ended, or for as long as it may be, is not waited for."""
MISSING_PART = 10
"""A window is covered when at most this part of it (a tenth) was not heard, or one tick."""
RECORDED_DEPTH_MAX = 16
"""Rules that record from what others record: how long such a chain may be."""


@dataclass(frozen=True, slots=True)
class Warming:
    """`hosts` of `of` hosts have windows that are not covered; `until_ms` is when the last of them will be."""

    hosts: int
    of: int
    until_ms: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a rule reads of hosts: its selectors, and the longest window."""

    selectors: tuple[tuple[Matcher, ...], ...]
    window_ms: int
    alone: bool = False
    """Whether every host is judged by its own data alone."""
    of_nobody: bool = False
    """Whether no series is read at all."""
    own: tuple[tuple[Matcher, ...], ...] = ()
    """Selectors of what the collector itself says: `up`, `ALERTS`."""


@dataclass(slots=True)
class _Start:
    """What a start has not heard of yet. `ended_ms` is when the former life ended, `expected` the numbers of the hosts
    that were there then, found out by the first look. `back_ms`, by number, is when each was first heard again: a
    moment before that cannot be judged of it."""

    since_ms: int
    until_ms: int
    ended_ms: int
    expected: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    looked: bool = False
    back_ms: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    awaited: dict[tuple[int, int], bool] = field(default_factory=dict)
    """By the `id` of a rule and the moment: whether a host that it reads has still to come back. As of the latest
    look."""

    def hear(self, last_ms: Ints) -> None:
        """Take note of when each host was heard last."""
        fresh = np.full(len(last_ms), NEVER)
        fresh[: len(self.back_ms)] = self.back_ms
        back = (fresh == NEVER) & (last_ms > self.since_ms)
        fresh[back] = last_ms[back]
        self.back_ms = fresh


@dataclass(slots=True)
class _Hosts:
    """The hosts that a rule reads, as of the selections that they were found in."""

    ids: list[SeriesIds] = field(default_factory=list)
    known: int = -1
    numbers: Ints = field(default_factory=lambda: np.empty(0, np.int64))


class Certainty:
    """Asked by the rulebook, under the head's lock; `remark` from any thread."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._hearing = Hearing(head)
        self._reach: dict[int, Reach] = {}
        self._hosts: dict[int, _Hosts] = {}
        self._start: _Start | None = None
        self._uncovered_by: dict[int, Mask] = {}
        self._unfilled: dict[tuple[object, ...], int] = {}
        self._now_ms = 0
        self._anew = True

    # What happens.

    def rules_loaded(self, rules: Iterable[Rule]) -> None:
        """These rules are judged from now on, and the windows have been filled for them."""
        known = list(rules)
        self._reach = reaches(known)
        self._hosts = {number: _Hosts() for number in self._reach}
        wanted = {rule.identity for rule in known}
        self._unfilled = {each: until for each, until in self._unfilled.items() if each in wanted}
        self._anew = True

    def not_filled(self, rule: Rule, until_ms: int) -> None:
        """History could not be read for the windows of a rule; they fill by themselves until then."""
        self._unfilled[rule.identity] = until_ms

    def restarted(self, now_ms: int, ended_ms: int) -> None:
        """Alerts of a former life, which ended at `ended_ms`, were taken up; hosts come back one after the other."""
        self._start = _Start(now_ms, now_ms + SETTLE_MS, ended_ms)

    def look(self, now_ms: int) -> None:
        """Take note of what was heard: before each evaluation."""
        self._now_ms = now_ms
        self._hearing.look(now_ms, anew=self._anew)
        self._uncovered_by = {}
        self._anew = False
        if self._start is not None and now_ms >= self._start.until_ms:
            self._start = None
        start = self._start
        if start is not None:
            start.awaited.clear()
            start.hear(self._hearing.last_ms())
            if not start.looked:
                start.expected, start.looked = self._hearing.there(start.ended_ms, ENDED_MS), True
        for identity in [each for each, until in self._unfilled.items() if now_ms >= until]:
            del self._unfilled[identity]

    # What follows.

    def hold(self, rule: Rule, judged_ms: int) -> Hold:
        """Which alerts of a rule cannot be judged at a moment, which is now or shortly before."""
        if rule.identity in self._unfilled:
            return lambda _: Doubt.WARMING
        reach, start, hearing = self._reach[id(rule)], self._start, self._hearing
        silence_is_an_answer = _asks_absence(rule) or not reach.selectors
        if start is not None and (
            reach.of_nobody or (not reach.alone and not self._awaited(rule, start, judged_ms))
        ):
            start = None
        if start is None and (silence_is_an_answer or not (reach.window_ms or hearing.blind.any())):
            return nothing_held
        uncovered = self._uncovered(reach) if reach.window_ms else None
        together = start is not None and self._awaited(rule, start, judged_ms)

        def hold(labels: Labels) -> Doubt:
            numbers = hearing.numbers(labels)
            named = any(name == "instance" for name, _ in labels)
            if start is not None:
                alone = named and reach.alone
                if not self._heard_again(numbers, start, judged_ms) if alone else together:
                    return Doubt.WARMING
            if silence_is_an_answer:
                return Doubt.NONE
            if not numbers:
                return Doubt.WARMING if not named and self._many(rule, uncovered) else Doubt.NONE
            if hearing.blind[numbers].any():
                return Doubt.BLIND
            return Doubt.WARMING if uncovered is not None and uncovered[numbers].any() else Doubt.NONE

        return hold

    def warming(self, rule: Rule) -> Warming | None:
        """Whether a rule is warming, for how many of its hosts."""
        until_ms = self._unfilled.get(rule.identity)
        if until_ms is not None:
            return Warming(0, 0, until_ms, "its windows could not be filled from history")
        reach, start = self._reach[id(rule)], self._start
        numbers = self._numbers(rule, reach)
        lacking = np.zeros(len(numbers), np.bool_)
        until = why = None
        if reach.window_ms and not _asks_absence(rule):
            lacking |= self._uncovered(reach)[numbers]
            if lacking.any():
                missing = self._hearing.missing(reach.window_ms)[numbers][lacking]
                until = self._now_ms + int(missing.max()) - reach.window_ms // MISSING_PART
                why = f"windows of {_duration(reach.window_ms)} are not covered"
        if start is not None and not reach.of_nobody and self._awaited(rule, start, self._now_ms):
            lacking |= self._unheard(numbers, start, self._now_ms)
            until = max(until or 0, start.until_ms)
            why = why or "hosts have not come back after a restart"
        if until is None:
            return None
        return Warming(int(lacking.sum()), len(numbers), max(until, self._now_ms), why or "")

    def remark(self, rule: AlertingRule, labels: Labels) -> str:
        """What is missing under an alert; empty when nothing is."""
        if rule.identity in self._unfilled:
            return "the windows of the rule could not be filled from history"
        reach, now_ms, hearing = self._reach.get(id(rule)), self._now_ms, self._hearing
        if reach is None or _asks_absence(rule) or not reach.selectors:
            return ""
        numbers = hearing.numbers(labels)
        if not numbers:
            return "" if any(name == "instance" for name, _ in labels) else self._remark_on_many(rule, reach)
        start = self._start
        if start is not None and not self._heard_again(numbers, start, now_ms):
            return "the host has not been heard since the collector started"
        span_ms = reach.window_ms + rule.for_ms
        for number in numbers:
            heard = hearing.heard(number)
            if heard.up is not None and (silent := heard.silent_ms(now_ms)):
                return f"nothing from the host for {_duration(silent)}"
            missing = heard.missing_ms(now_ms, span_ms) if span_ms else 0
            if missing > heard.interval_ms:
                return f"{_duration(missing)} of the last {_duration(span_ms)} are missing"
        return ""

    # Below: how.

    def _remark_on_many(self, rule: AlertingRule, reach: Reach) -> str:
        hosts = self._hosts.get(id(rule))
        numbers = hosts.numbers if hosts is not None else np.empty(0, np.int64)
        blind = self._hearing.blind
        silent = int(blind[numbers[numbers < len(blind)]].sum())
        if silent:
            return f"{silent} of {len(numbers)} hosts are silent"
        if not reach.window_ms or not len(numbers):
            return ""
        uncovered = int(self._uncovered(reach)[numbers].sum())
        span = _duration(reach.window_ms)
        return (
            f"of {uncovered} of {len(numbers)} hosts parts of the last {span} are missing"
            if uncovered
            else ""
        )

    def _uncovered(self, reach: Reach) -> Mask:
        """Which hosts' windows are not covered: worked out once for all rules with a window of this length."""
        uncovered = self._uncovered_by.get(reach.window_ms)
        if uncovered is None:
            missing = self._hearing.missing(reach.window_ms)
            uncovered = missing > np.maximum(reach.window_ms // MISSING_PART, self._hearing.one_tick_ms())
            self._uncovered_by[reach.window_ms] = uncovered
        return uncovered

    def _many(self, rule: Rule, uncovered: Mask | None) -> bool:
        """Whether most of the hosts that a rule reads are not covered."""
        if uncovered is None:
            return False
        numbers = self._numbers(rule, self._reach[id(rule)])
        return bool(len(numbers)) and int(uncovered[numbers].sum()) * 2 > len(numbers)

    def _heard_again(self, numbers: list[int], start: _Start, judged_ms: int) -> bool:
        back_ms = (
            start.back_ms
        )  # Who asks from another thread may know of a host a moment before it is in here.
        return any(number < len(back_ms) and back_ms[number] <= judged_ms for number in numbers)

    def _awaited(self, rule: Rule, start: _Start, judged_ms: int) -> bool:
        """Whether any host that a rule reads has still to come back. Where history tells of none, any host may."""
        known = start.awaited.get((id(rule), judged_ms))
        if known is None:
            numbers = self._numbers(rule, self._reach[id(rule)])
            expected = np.isin(numbers, start.expected)
            known = not expected.any() or bool(self._unheard(numbers, start, judged_ms).any())
            start.awaited[id(rule), judged_ms] = known
        return known

    def _unheard(self, numbers: Ints, start: _Start, judged_ms: int) -> Mask:
        """Which hosts were there when the former life ended, and have not been heard in this one."""
        unheard: Mask = (start.back_ms[numbers] > judged_ms) & np.isin(numbers, start.expected)
        return unheard

    def _numbers(self, rule: Rule, reach: Reach) -> Ints:
        hosts = self._hosts[id(rule)]
        ids = [self._head.select(matchers).ids for matchers in (*reach.selectors, *reach.own)]
        same = len(ids) == len(hosts.ids) and all(a is b for a, b in zip(ids, hosts.ids, strict=True))
        if not same or hosts.known != len(self._hearing):
            hosts.ids, hosts.known = ids, len(self._hearing)
            found = [self._hearing.numbers_of(each) for each in ids]
            hosts.numbers = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        return hosts.numbers


def reaches(rules: Iterable[Rule]) -> dict[int, Reach]:
    """What each rule reads of hosts, by the `id` of the rule. Recorded series have the windows of their rules."""
    known = list(rules)
    direct = {id(rule): _reach(rule) for rule in known}
    recorded: dict[str, int] = {}
    for _ in range(RECORDED_DEPTH_MAX):
        before = dict(recorded)
        for rule in known:
            if isinstance(rule, RecordingRule):
                window = _with_recorded(rule, direct[id(rule)], recorded)
                recorded[rule.name] = max(recorded.get(rule.name, 0), window)
        if recorded == before:
            break
    together = _recorded_together(known)
    return {
        id(rule): replace(
            direct[id(rule)],
            window_ms=_with_recorded(rule, direct[id(rule)], recorded),
            alone=direct[id(rule)].alone and together.isdisjoint(metric_names(rule.plan.expr)),
        )
        for rule in known
    }


def _recorded_together(rules: Iterable[Rule]) -> set[str]:
    """The names under which values of many hosts together are recorded."""
    found: set[str] = set()
    recording = [rule for rule in rules if isinstance(rule, RecordingRule)]
    for _ in range(RECORDED_DEPTH_MAX):
        before = len(found)
        found.update(
            rule.name
            for rule in recording
            if not judges_each_alone(rule.plan.expr) or not found.isdisjoint(metric_names(rule.plan.expr))
        )
        if len(found) == before:
            break
    return found


def _reach(rule: Rule) -> Reach:
    every, expr = watches(rule.plan.expr), rule.plan.expr
    theirs = [watch for watch in every if not made_here(watch.matchers)]
    selectors = tuple(dict.fromkeys(watch.matchers for watch in theirs))
    own = tuple(dict.fromkeys(watch.matchers for watch in every if made_here(watch.matchers)))
    window_ms = max((watch.window_ms for watch in theirs), default=0)
    return Reach(selectors, window_ms, judges_each_alone(expr), reads_nothing(expr), own)


def _with_recorded(rule: Rule, reach: Reach, recorded: Mapping[str, int]) -> int:
    names = metric_names(rule.plan.expr)
    return max([reach.window_ms, *(recorded[name] for name in names if name in recorded)])


def _asks_absence(rule: Rule) -> bool:
    return isinstance(rule, AlertingRule) and rule.asks_absence


def _duration(ms: int) -> str:
    return Duration(max(1, round(ms / 1000))).to_config()
