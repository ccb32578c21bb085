"""Random rules over random hosts: what the head's windows answer is what the engine says of all samples."""

import json
import math
import random
from typing import Any

import pytest

from watchbill_collector.promql.engine import Engine, InstantVector
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.rules.head_storage import HeadStorage

COUNTERS = ("req_total", 'req_total{code="500"}', 'req_total{code!="500"}')
GAUGES = ("temp", 'temp{zone=~"a|b"}', "limit")
WINDOWS = ("30s", "1m", "2m30s", "5m")
OVER = ("avg", "min", "max", "sum", "count", "stddev", "stdvar", "last", "present")
SEEDS = range(3)
RULES, STEPS = 20, 30


def _expression(rng: random.Random, depth: int = 2) -> str:
    kind = rng.random() if depth else 0.0
    if kind < 0.45:
        return _leaf(rng)
    inner = _expression(rng, depth - 1)
    if kind < 0.65:
        how = rng.choice(("by (instance)", "without (code, zone)", "by (job)", ""))
        return f"{rng.choice(('sum', 'avg', 'max', 'min', 'count', 'stddev'))} {how} ({inner})"
    if kind < 0.75:
        return f"({inner}) {rng.choice(('>', '<=', '* 2 >', '- 1 !='))} {rng.choice(('0', '1', '20'))}"
    if kind < 0.85:
        return (
            f"({inner}) {rng.choice(('and', 'unless', 'or'))} on (instance) ({_expression(rng, depth - 1)})"
        )
    if kind < 0.92:
        matching = "on (instance) group_left ()"
        return f"({inner}) {rng.choice('+-/')} {matching} max by (instance) ({_expression(rng, depth - 1)})"
    return f"max_over_time(({_expression(rng, 0)})[{rng.choice(WINDOWS)}:{rng.choice(('', '15s', '20s'))}])"


def _leaf(rng: random.Random) -> str:
    kind, window, back = rng.random(), rng.choice(WINDOWS), rng.choice(("", "", "", " offset 30s"))
    if kind < 0.35:
        function = rng.choice(("rate", "increase", "irate", "resets", "changes"))
        return f"{function}({rng.choice(COUNTERS)}[{window}]{back})"
    if kind < 0.65:
        return f"{rng.choice(OVER)}_over_time({rng.choice(GAUGES)}[{window}]{back})"
    if kind < 0.75:
        return f"{rng.choice(('deriv', 'delta', 'idelta'))}({rng.choice(GAUGES)}[{window}]{back})"
    if kind < 0.85:
        return f"predict_linear({rng.choice(GAUGES)}[{window}]{back}, 60)"
    if kind < 0.9:
        return f"quantile_over_time(0.7, {rng.choice(GAUGES)}[{window}]{back})"
    return rng.choice((*GAUGES, *COUNTERS)) + back


def _move(rng: random.Random, hosts: dict[str, dict[Any, float]]) -> None:
    for host, values in hosts.items():
        for code in ("200", "500"):
            key = ("req_total", (("code", code),))
            before = values.get(key, 0.0)
            values[key] = (
                0.0 if rng.random() < 0.05 or math.isnan(before) else before + rng.choice((0, 1, 17.5))
            )
        for zone in ("a", "b", "c"):
            key = ("temp", (("zone", zone),))
            # NaN is sent as a stale marker: the series ends for a while.
            values[key] = math.nan if rng.random() < 0.05 else rng.gauss(20, 10)
        if host == "h0":
            values["limit", ()] = 20.0


def _answers(engine: Engine, text: str, now_ms: int, storage: Any) -> dict[str, float]:
    vector = engine.instant(text, now_ms, storage).vector()
    assert isinstance(vector, InstantVector)
    return {json.dumps(labels, sort_keys=True): value for labels, value in vector}


@pytest.mark.parametrize("seed", SEEDS)
def test_random_rules_are_judged_as_the_engine_judges_all_samples(house: Any, seed: int) -> None:
    rng = random.Random(seed)
    texts = [_expression(rng) for _ in range(RULES)]
    rules = [{"record": f"r:{number}", "expr": text} for number, text in enumerate(texts)]
    it, engine, memory = house(), Engine(), MemoryStorage()
    it.load(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    it.hosts = {f"h{number}": {} for number in range(3)}
    sent = answered = 0
    for step in range(STEPS):
        quiet = f"h{rng.randrange(6)}"
        silent = it.hosts.pop(quiet, None)
        _move(rng, it.hosts)
        it.run(1)
        if silent is not None:
            it.hosts[quiet] = silent
        for ticks in it.sent[sent:]:
            for column, series in enumerate(ticks.series.tolist()):
                memory.add(
                    it.table.labels(series), [(int(ticks.times_ms[0]), float(ticks.values[0, column]))]
                )
        sent = len(it.sent)
        for text in texts:
            with it.head.lock:
                ours = _answers(engine, text, it.now_ms, HeadStorage(it.head))
            wanted = _answers(engine, text, it.now_ms, memory)
            assert ours.keys() == wanted.keys(), f"seed {seed}, step {step}: {text}"
            for key, value in wanted.items():
                same = pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True)
                assert ours[key] == same, f"seed {seed}, step {step}: {text}"
            answered += bool(wanted)
    assert answered > RULES * STEPS // 2
