"""The facts of `runbook_contract.py`, of every runbook service there is."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions.roster import Roster
from watchbill.clock import SystemClock
from watchbill_collector.api.runbook_twin import RunbooksTwin, TwinBook, TwinStep, blank

NAME = "watchbill_runbook_contract"


def _contract() -> Any:
    """The list: test folders are no packages, so it cannot be imported by name."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("runbook_contract.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]


contract = _contract()


class Bound:
    generation = 0

    def bound(self, instance: str) -> dict[str, str] | None:
        return {"web1": {"team": "a"}, "db1": {"team": "b"}}.get(instance)

    def hosts(self) -> list[tuple[str, dict[str, str]]]:
        return [("web1", {"team": "a"}), ("db1", {"team": "b"})]


def books() -> list[TwinBook]:
    restart = TwinStep(id="restart", host="web1", action="svc.restart", argv=("/bin/systemctl", "restart"))
    steps = {
        "restart": (restart,),
        "broken": (TwinStep(id="restart", host="web1", action="svc.restart", ends=("failed",)),),
        "guarded": (TwinStep(id="consent", kind="approve", role="ops", needed=1), restart),
        "promote": (
            TwinStep(id="consent", kind="approve", role="dba", needed=2),
            TwinStep(
                id="promote",
                host="db1",
                action="pg.promote",
                argv=("/usr/bin/pg_ctl", "promote"),
                effect="once",
                protected=True,
                commit=True,
            ),
        ),
    }
    return [
        TwinBook(
            text=f"runbook: {name}\n",
            author="ann",
            steps=those,
            view=blank(name),
            lock="pg/db1" if name == "promote" else "",
        )
        for name, those in steps.items()
    ]


def twin() -> Any:
    clock = SystemClock()
    made = RunbooksTwin(clock, Bound())
    now_ms = clock.wall_ms()
    made.roster = Roster(
        site="main", serial=1, issued_ms=now_ms, expires_ms=now_ms + 86_400_000, people=contract.PEOPLE
    )
    for book in books():
        made.put(book)
    published: list[Any] = []
    made.publish = lambda _kind, document: published.append(document)

    async def settle() -> None:
        pass

    async def change_text(name: str) -> None:
        (book,) = [one for one in books() if one.view.name == name]
        made.put(TwinBook(text=book.text + "# changed\n", author="ann", steps=book.steps, view=book.view))

    def done(host: str) -> int:
        return sum(
            attempt.outcome == "ok"
            for run in made._runs.values()
            for step in run.view.steps
            for attempt in step.attempts
            if attempt.host == host
        )

    return contract.Stage(made, settle, change_text, done, clock.wall_ms, published)


STAGES = {"twin": twin}


@pytest.mark.parametrize("fact", contract.FACTS, ids=lambda fact: fact.__name__)
@pytest.mark.parametrize("which", list(STAGES))
async def test_a_runbook_service_keeps_the_contract(which: str, fact: Any) -> None:
    await fact(STAGES[which]())


def test_no_fact_is_left_out() -> None:
    assert len(contract.FACTS) == 19
