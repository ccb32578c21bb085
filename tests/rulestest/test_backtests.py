"""A rule tried on history fires exactly when it would have fired while it was loaded."""
# Tables read best with a line for each case.

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.errors import Cancelled
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.rules import Source
from watchbill_collector.rules.alerts import Alert, AlertState, Terms, decide
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import RuleSet
from watchbill_collector.rulestest import Backtest, TooCostly, backtest
from watchbill_collector.rulestest.episodes import Episodes, Firing, episodes

STEP_MS = 15_000
BEGIN_MS = 1_700_000_010_000  # On the grid of 15 s.
LABELS = (("alertname", "A"),)


def stretches_of(held: Sequence[bool]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number, holds in enumerate(held):
        at_ms = BEGIN_MS + number * STEP_MS
        if holds and found and found[-1][1] == at_ms - STEP_MS:
            found[-1] = found[-1][0], at_ms
        elif holds:
            found.append((at_ms, at_ms))
    return found


def decided(held: Sequence[bool], for_ms: int, keep_ms: int) -> Episodes:
    """What the rules say when they are asked step by step."""
    terms = Terms(for_ms, keep_ms)
    alerts: dict[int, Alert] = {}
    values: dict[int, float] = {}
    firings: list[Firing] = []
    pending_ms = 0
    for number, holds in enumerate(held):
        at_ms = BEGIN_MS + number * STEP_MS
        was = alerts.get(0)
        given_now = {0: 1.0} if holds else {}
        verdict = decide(alerts, values, given_now, lambda _: (LABELS, ()), terms, at_ms)
        alerts, values = dict(verdict.alerts), dict(verdict.values)
        if was is not None and was.state is AlertState.PENDING:
            pending_ms += STEP_MS
        for change in verdict.changes:
            if change.alert.state is AlertState.FIRING:
                firings.append(Firing(at_ms, None))
            elif change.alert.state is AlertState.RESOLVED and change.before is AlertState.FIRING:
                firings[-1] = Firing(firings[-1].from_ms, at_ms)
    return Episodes(pending_ms, tuple(firings))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.sampled_from([0, 1_000, 15_000, 20_000, 60_000, 300_000]),
    st.sampled_from([0, 1_000, 15_000, 31_000, 90_000]),
)
def test_episodes_are_what_the_rules_decide_step_by_step(held: list[bool], for_ms: int, keep_ms: int) -> None:
    end_ms = BEGIN_MS + (len(held) - 1) * STEP_MS
    assert episodes(stretches_of(held), for_ms, keep_ms, STEP_MS, end_ms) == decided(held, for_ms, keep_ms)


def rules(text: str) -> RuleSet:
    made, problems = load([Source("t.yml", text.encode())])
    assert problems == [], [str(problem) for problem in problems]
    return made


def past(values: Iterable[float], **labels: str) -> tuple[MemoryStorage, int]:
    """One value every 15 s, and when the last one was."""
    storage = MemoryStorage()
    samples = [(BEGIN_MS + number * STEP_MS, value) for number, value in enumerate(values)]
    storage.add({"__name__": "x", **labels}, samples)
    return storage, samples[-1][0]


def tried(text: str, storage: MemoryStorage, end_ms: int, step_ms: int | None = None) -> Backtest:
    return backtest(rules(text), Engine(), storage, BEGIN_MS, end_ms, Budget(), step_ms)


PLAIN = "groups: [{name: g, rules: [{alert: A, expr: x > 5, for: 1m, labels: {severity: major}}]}]"


def test_a_rule_says_when_it_would_have_fired() -> None:
    storage, end_ms = past([1] * 10 + [9] * 20 + [1] * 10 + [9] * 3 + [1] * 10, host="a")
    (rule,) = tried(PLAIN, storage, end_ms).rules
    (series,) = rule.series
    assert series.labels == {"alertname": "A", "host": "a", "severity": "major"}
    assert series.firings == (Firing(BEGIN_MS + 14 * STEP_MS, BEGIN_MS + 30 * STEP_MS),)
    assert (rule.notices, rule.longest_ms, rule.firing_ms) == (1, 16 * STEP_MS, 16 * STEP_MS)
    assert series.pending_ms == 4 * STEP_MS + 3 * STEP_MS
    assert (rule.short, rule.flaps, rule.still_firing, rule.error) == (1, 0, 0, "")


def test_flapping_is_counted_and_a_remedy_is_tried() -> None:
    text = "groups: [{name: g, rules: [{alert: A, expr: x > 5}]}]"
    storage, end_ms = past(([9] * 4 + [1] * 12) * 6)
    (rule,) = tried(text, storage, end_ms).rules
    assert (rule.notices, rule.flaps, rule.short) == (6, 5, 6)
    assert rule.kept == {300_000: 1, 900_000: 1, 3_600_000: 1}


def test_what_fires_at_the_end_says_so() -> None:
    storage, end_ms = past([1] * 5 + [9] * 20)
    (rule,) = tried(PLAIN, storage, end_ms).rules
    assert rule.still_firing == 1
    assert rule.series[0].firings[-1].to_ms is None
    assert rule.longest_ms == end_ms - (BEGIN_MS + 9 * STEP_MS)


def test_an_alert_that_fires_at_the_beginning_has_its_for_behind_it() -> None:
    storage, end_ms = past([9] * 40)
    begin_ms = BEGIN_MS + 20 * STEP_MS
    (rule,) = backtest(rules(PLAIN), Engine(), storage, begin_ms, end_ms, Budget()).rules
    assert rule.series[0].firings == (Firing(begin_ms, None),)


def test_a_threshold_with_an_exit_value_remembers_that_it_fires() -> None:
    text = "thresholds: [{name: A, metric: x, above: 90, clear: 80, for: 30s}]"
    storage, end_ms = past([50] * 4 + [95] * 4 + [85] * 8 + [95] * 2 + [85] * 4 + [75] * 4 + [85] * 8)
    # What really fired at the time, under another rule of that name, must not be taken for what would have.
    storage.add(
        {"__name__": "ALERTS", "alertname": "A", "alertstate": "firing"},
        [(BEGIN_MS + n * STEP_MS, 1) for n in range(34)],
    )
    (rule,) = tried(text, storage, end_ms).rules
    assert rule.error == ""
    assert rule.series[0].firings == (Firing(BEGIN_MS + 6 * STEP_MS, BEGIN_MS + 22 * STEP_MS),)
    assert rule.notices == 1


def test_stretches_of_time_are_joined_without_a_seam() -> None:
    storage, end_ms = past([9] * 2_000)
    (rule,) = tried(PLAIN, storage, end_ms).rules
    assert (rule.notices, len(rule.series[0].firings)) == (1, 1)


def test_labels_that_depend_on_the_value_make_alerts_of_their_own() -> None:
    text = "groups: [{name: g, rules: [{alert: A, expr: x > 5, labels: {at: '{{ $value }}'}}]}]"
    storage, end_ms = past([6, 6, 7, 7, 1])
    (rule,) = tried(text, storage, end_ms).rules
    assert sorted((each.labels["at"], each.firing_ms) for each in rule.series) == [
        ("6", 2 * STEP_MS),
        ("7", 2 * STEP_MS),
    ]


def test_recording_rules_are_not_tried_and_are_said_to_be_read_as_recorded() -> None:
    text = "groups: [{name: g, rules: [{record: r, expr: x}, {alert: A, expr: r > 5}]}]"
    storage, end_ms = past([9] * 10)
    (rule,) = tried(text, storage, end_ms).rules
    assert rule.alerts == 0
    assert rule.notes == ("r is read as it was recorded: nothing is there for the time before its rule",)


def test_a_coarser_step_is_said() -> None:
    storage, end_ms = past([9] * 100)
    (rule,) = tried(PLAIN, storage, end_ms, 60_000).rules
    assert rule.step_ms == 60_000
    assert rule.notes == ("judged every 60 s, the group every 15 s",)


def test_a_month_is_judged_in_bearable_steps_that_miss_no_sample() -> None:
    storage, _ = past([9])
    (rule,) = tried(PLAIN, storage, BEGIN_MS + 30 * 86_400_000).rules
    assert rule.step_ms == 240_000


def test_too_many_steps_are_refused() -> None:
    storage, _ = past([9])
    with pytest.raises(TooCostly, match="a longer step"):
        tried(PLAIN, storage, BEGIN_MS + 30 * 86_400_000, 1_000)


def test_a_rule_over_its_budget_says_so_and_the_others_are_tried() -> None:
    storage, end_ms = past([9] * 400)
    text = "groups: [{name: g, rules: [{alert: A, expr: 'sum_over_time(x[1h]) > 5'}, {alert: B, expr: 'vector(1)'}]}]"
    done = backtest(rules(text), Engine(), storage, BEGIN_MS, end_ms, Budget(samples_max=300))
    assert "a shorter time, or a longer step" in done.rules[0].error
    assert done.rules[1].error or done.rules[1].notices == 1


def test_a_backtest_can_be_cancelled() -> None:
    storage, end_ms = past([9] * 10)
    for text in (PLAIN, "thresholds: [{name: A, metric: x, above: 90, clear: 80}]"):
        with pytest.raises(Cancelled):
            backtest(rules(text), Engine(), storage, BEGIN_MS, end_ms, Budget(cancelled=lambda: True))
