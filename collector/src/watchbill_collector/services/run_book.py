"""Runbooks by their text: every text that was ever in force is read from its own bytes, so that a run goes on with the
one it began with, whatever its file says by now."""

from collections.abc import Iterable, Mapping
from typing import Final

from watchbill.errors import Refused
from watchbill_collector.runbooks.model import Call, Runbook
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.run.flow import UNITS_MAX, Flow
from watchbill_collector.store import Store, runbooks

FLOWS_KEPT_MAX: Final = 2_000
"""Flows kept in memory; the oldest are made again when they are needed."""


class RunBook:
    """Texts and flows by digest. Reading what is not in memory asks the store, and blocks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, Runbook] = {}
        self._flows: dict[tuple[str, tuple[str, ...], bool], Flow] = {}

    def know(self, runbook: Runbook) -> None:
        """It was read from its file."""
        self._read[runbook.digest] = runbook

    def load(self, digests: Iterable[str]) -> None:
        """Read texts back that open runs follow. Blocks. A text that cannot be read any more is left out."""
        missing = [digest for digest in dict.fromkeys(digests) if digest not in self._read]
        for start in range(0, len(missing), 500):
            part = missing[start : start + 500]
            for row in self._store.read(lambda connection, part=part: runbooks.texts(connection, part)):  # type: ignore[misc]
                found, _ = read_runbook(row.name, row.content.encode("utf-8"))
                if found is not None:
                    self._read[found.digest] = found

    def by_digest(self, digest: str) -> Runbook | None:
        """One that is in memory."""
        return self._read.get(digest)

    def flow(self, digest: str, called: Mapping[str, str], drill: bool) -> Flow | None:
        """A runbook with those it calls, by name and digest; None when one of them is not in memory."""
        key = (digest, tuple(sorted(called.values())), drill)
        found = self._flows.get(key)
        if found is None:
            runbook = self._read.get(digest)
            children = {name: self._read.get(one) for name, one in called.items()}
            if runbook is None or None in children.values():
                return None
            found = Flow(
                runbook, {name: one for name, one in children.items() if one is not None}, drill=drill
            )
            while len(self._flows) >= FLOWS_KEPT_MAX:
                del self._flows[next(iter(self._flows))]
            self._flows[key] = found
        return found


def called_by(runbook: Runbook, in_force: Mapping[str, Runbook]) -> dict[str, str]:
    """The digests of the runbooks that one calls, by name. Raises Refused when one is not there, or calls itself."""
    found: dict[str, str] = {}
    for step in runbook.walk():
        if isinstance(step.what, Call):
            child = in_force.get(step.what.runbook)
            if child is None:
                raise Refused(f"{runbook.name}: step {step.id} calls {step.what.runbook}, which is not there")
            if any(isinstance(one.what, Call) for one in child.walk()):
                raise Refused(
                    f"{runbook.name}: {child.name} calls others: runbooks are called one level deep"
                )
            found[child.name] = child.digest
    return found


def judge_length(flow: Flow) -> None:
    """Raises Refused for a run of more steps than one may have."""
    if len(flow.units) > UNITS_MAX:
        raise Refused(
            f"{flow.runbook.name}: {len(flow.units)} steps with those it calls, at most {UNITS_MAX}"
        )
