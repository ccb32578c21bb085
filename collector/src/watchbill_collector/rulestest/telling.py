"""What came of tests and backtests, for people and as JSON documents with stable keys."""

from typing import Any

from watchbill.errors import Problem
from watchbill_collector.promql.text import duration_text
from watchbill_collector.rulestest.backtest import Backtest, Tried, TriedSeries
from watchbill_collector.rulestest.model import Failure
from watchbill_collector.rulestest.offline import Judged

Document = dict[str, Any]


def failure_text(failure: Failure) -> str:
    """One failure on a few lines: where, what, and what differs."""
    group = f" ({failure.group})" if failure.group else ""
    at = duration_text(failure.time_ms) if failure.time_ms else "0s"
    lines = [f"{failure.file}:{failure.line}: {failure.what} at {at}{group}"]
    if failure.why:
        lines.append(f"    {failure.why}")
    lines += [f"    missing: {text}" for text in failure.missing]
    lines += [f"    surplus: {text}" for text in failure.surplus]
    return "\n".join(lines)


def judged_document(judged: Judged) -> Document:
    """One unit-test file."""
    return {
        "file": judged.file,
        "passed": judged.passed,
        "tests": judged.tests,
        "expectations": judged.expectations,
        "problems": [_problem(problem) for problem in judged.problems],
        "failures": [_failure(failure) for failure in judged.failures],
        "warnings": list(judged.warnings),
    }


def _problem(problem: Problem) -> Document:
    return {
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "got": problem.got,
        "wanted": problem.wanted,
        "text": str(problem),
    }


def _failure(failure: Failure) -> Document:
    return {
        "line": failure.line,
        "group": failure.group,
        "what": failure.what,
        "time_s": failure.time_ms / 1000,
        "why": failure.why,
        "missing": list(failure.missing),
        "surplus": list(failure.surplus),
        "text": failure_text(failure),
    }


def backtest_document(done: Backtest) -> Document:
    """A backtest. Times are unix seconds, durations seconds."""
    return {
        "start": done.start_ms / 1000,
        "end": done.end_ms / 1000,
        "rules": [_tried(tried) for tried in done.rules],
    }


def _tried(tried: Tried) -> Document:
    return {
        "rule": tried.rule,
        "group": tried.group,
        "expr": tried.expr,
        "for_s": tried.for_ms / 1000,
        "keep_firing_for_s": tried.keep_firing_for_ms / 1000,
        "step_s": tried.step_ms / 1000,
        "alerts": tried.alerts,
        "notices": tried.notices,
        "firing_s": tried.firing_ms / 1000,
        "longest_s": tried.longest_ms / 1000,
        "short": tried.short,
        "flaps": tried.flaps,
        "still_firing": tried.still_firing,
        "notices_by_keep_firing_for": [
            {"keep_firing_for_s": keep_ms / 1000, "notices": notices}
            for keep_ms, notices in sorted(tried.kept.items())
        ],
        "series": [_series(series) for series in tried.series],
        "notes": list(tried.notes),
        "error": tried.error,
    }


def _series(series: TriedSeries) -> Document:
    return {
        "labels": dict(series.labels),
        "pending_s": series.pending_ms / 1000,
        "firing_s": series.firing_ms / 1000,
        "longest_s": series.longest_ms / 1000,
        "notices": series.notices,
        "flaps": series.flaps,
        "firings": [
            {"from": each.from_ms / 1000, "to": None if each.to_ms is None else each.to_ms / 1000}
            for each in series.firings
        ],
    }
