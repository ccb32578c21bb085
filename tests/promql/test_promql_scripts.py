"""Prometheus' own acceptance scripts, put to the engine by the peers' harness, which judges the answers."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from watchbill_collector.promql.jsonlines import Session

PEERS = Path(
    os.environ.get("WATCHBILL_PEERS", Path(__file__).parents[2] / ".." / "shared" / "peers")
).resolve()
SCRIPTS = PEERS / "promqltest-scripts"

pytestmark = pytest.mark.skipif(
    not SCRIPTS.is_dir(), reason=f"the peers' scripts are not at {SCRIPTS} (WATCHBILL_PEERS)"
)


@pytest.fixture(scope="module")
def harness():
    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(PEERS))
    try:
        yield {name: importlib.import_module(f"promqltest.{name}") for name in ("cases", "compare")}
    finally:
        sys.path.remove(str(PEERS))
        sys.dont_write_bytecode = written


class Engine:
    """A session that has the loads of one case after the other."""

    def __init__(self) -> None:
        self._session = Session()
        self._loads: list[object] = []

    def prepare(self, case) -> None:
        if case.loads[: len(self._loads)] != self._loads:
            self._session.request({"op": "reset"})
            self._loads = []
        for load in case.loads[len(self._loads) :]:
            answer = self._session.request({"op": "load", "series": load.to_json()})
            assert answer == {"status": "success"}
        self._loads = list(case.loads)

    def ask(self, case) -> dict[str, object]:
        self.prepare(case)
        if case.is_range:
            return self.range(case.expr, case.start_ms, case.end_ms, case.step_ms)
        return self._session.request({"op": "instant", "expr": case.expr, "time_ms": case.time_ms})

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> dict[str, object]:
        return self._session.request(
            {"op": "range", "expr": expr, "start_ms": start_ms, "end_ms": end_ms, "step_ms": step_ms}
        )


def _cases(harness: dict[str, ModuleType]):
    return harness["cases"].read_directory(SCRIPTS)


def _is_float(case) -> bool:
    return not case.needs_native_histograms


def _is_stable(case) -> bool:
    return not case.features & {"experimental", "start_timestamps"}


def test_every_float_and_stable_case_is_right(harness) -> None:
    engine, wrong = Engine(), []
    cases = [case for case in _cases(harness) if _is_float(case) and _is_stable(case)]
    for case in cases:
        try:
            harness["compare"].judge(case, engine.ask(case))
        except harness["compare"].Mismatch as mismatch:
            wrong.append(f"{case.id} {case.expr}: {mismatch}")
    assert wrong == []
    assert len(cases) > 400


def test_every_instant_case_is_right_in_the_middle_of_a_range(harness) -> None:
    engine, wrong, asked = Engine(), [], 0
    context = {"fn:start", "fn:end", "fn:range", "fn:step"}
    for case in _cases(harness):
        if case.is_range or case.must_fail or case.ordered or case.range_vector or case.string is not None:
            continue
        if not _is_float(case) or not _is_stable(case) or context & case.features:
            continue
        engine.prepare(case)
        asked += 1
        answer = engine.range(case.expr, case.time_ms - 60_000, case.time_ms + 60_000, 60_000)
        try:
            harness["compare"].judge_middle(case, answer)
        except harness["compare"].Mismatch as mismatch:
            wrong.append(f"{case.id} {case.expr}: {mismatch}")
    assert wrong == []
    assert asked > 200


def test_annotations_and_error_texts_are_right_but_for_positions(harness) -> None:
    engine, wrong = Engine(), []
    for case in _cases(harness):
        if not _is_float(case) or not _is_stable(case):
            continue
        try:
            harness["compare"].judge(case, engine.ask(case), strict=True)
        except harness["compare"].Mismatch as mismatch:
            wrong.append(f"{case.id} {case.expr}: {mismatch}")
    # "(1:15)" behind an annotation is a position in the text, which the parser does not give.
    assert [line for line in wrong if "[0-9]+:[0-9]+" not in line] == []


def test_what_is_experimental_is_right_or_refused_and_never_wrong(harness) -> None:
    engine, wrong = Engine(), []
    for case in _cases(harness):
        if not _is_float(case) or _is_stable(case):
            continue
        answer = engine.ask(case)
        if answer["status"] == "error":
            continue
        try:
            harness["compare"].judge(case, answer)
        except harness["compare"].Mismatch as mismatch:
            wrong.append(f"{case.id} {case.expr}: {mismatch}")
    assert wrong == []
