"""`/api/watchbill/v1/rules/test` and `/rules/backtest`: rules judged before anybody depends on them.

Both run in the query threads, under their deadline and their budget of samples, and can be cancelled: they delay no
evaluation of the rules that are loaded.
"""

from typing import Any

from starlette.responses import Response

from watchbill.errors import UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.ours import BASE, decoded
from watchbill_collector.api.routes import Call, Need, Route, Within
from watchbill_collector.api.trial_orders import BacktestOrder, TestOrder
from watchbill_collector.promql.budget import Budget
from watchbill_collector.rules import Source
from watchbill_collector.rulestest import Limits, given, judge_source
from watchbill_collector.rulestest.telling import judged_document

NAME_CHARACTERS_MAX = 1_024
SINCE_S_MAX = 366 * 86_400
STEP_S_MIN = 1.0
PATTERNS_MAX = 1_000


async def _test(call: Call) -> Response:
    order = decoded(call.body, TestOrder)
    if len(order.rule_files) > PATTERNS_MAX:
        raise UsageError(f"{len(order.rule_files)} patterns of rule files, at most {PATTERNS_MAX}")
    source = Source(order.name[:NAME_CHARACTERS_MAX], order.text.encode())
    files = {
        pattern: [(each.name[:NAME_CHARACTERS_MAX], each.text) for each in matching]
        for pattern, matching in order.rule_files.items()
    }

    def work(budget: Budget) -> dict[str, Any]:
        return judged_document(judge_source(source, given(files), Limits(check=budget.check)))

    return json_answer(await call.house.pool.run(work))


async def _backtest(call: Call) -> Response:
    order = decoded(call.body, BacktestOrder)
    if bool(order.text) == bool(order.expr):
        raise UsageError("give either `text`, a rule file, or `expr`")
    if not 0 < order.since_s <= SINCE_S_MAX:
        raise UsageError(f"got since_s {order.since_s:g}, wanted more than 0 and at most {SINCE_S_MAX}")
    if order.step_s is not None and not STEP_S_MIN <= order.step_s <= SINCE_S_MAX:
        raise UsageError(f"got step_s {order.step_s:g}, wanted {STEP_S_MIN:g} to {SINCE_S_MAX}")
    if (
        min(order.for_s, order.keep_firing_for_s) < 0
        or max(order.for_s, order.keep_firing_for_s) > SINCE_S_MAX
    ):
        raise UsageError(f"wanted for_s and keep_firing_for_s of 0 to {SINCE_S_MAX}")
    trials = call.house.services.trials
    return json_answer(await call.house.pool.run(lambda budget: trials.backtest(order, budget, call.view)))


TRIAL_ROUTES: tuple[Route, ...] = (
    Route(
        ("POST",),
        f"{BASE}/rules/test",
        Need.KNOWN,
        _test,
        "Judge a unit-test file, in promtool's format, with the rule files it names.",
        takes=TestOrder,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("POST",),
        f"{BASE}/rules/backtest",
        Need.KNOWN,
        _backtest,
        "Try rules on the history: when each would have been pending and firing.",
        takes=BacktestOrder,
        within=Within.FILTERED,
    ),
)
