"""Rules put to the test: promtool's unit-test files, and rules tried on the collector's own history."""

from watchbill_collector.rulestest.backtest import Backtest, Tried, TriedSeries, backtest
from watchbill_collector.rulestest.bounds import Limits, Spent, TooCostly
from watchbill_collector.rulestest.files import RuleFiles, read_tests
from watchbill_collector.rulestest.judge import judge
from watchbill_collector.rulestest.model import Failure, TestFile, TestGroup
from watchbill_collector.rulestest.offline import Judged, beside, given, judge_file, judge_source

__all__ = [
    "Backtest",
    "Failure",
    "Judged",
    "Limits",
    "RuleFiles",
    "Spent",
    "TestFile",
    "TestGroup",
    "TooCostly",
    "Tried",
    "TriedSeries",
    "backtest",
    "beside",
    "given",
    "judge",
    "judge_file",
    "judge_source",
    "read_tests",
]
