"""Runs in short: a new one's name, what lists show of one, and what others are bound by."""

import uuid
from typing import Any

from watchbill_collector.runbooks.run import restraint
from watchbill_collector.runbooks.run.progress import Run
from watchbill_collector.runbooks.run.words import RunState
from watchbill_collector.store.runs import RunSummary


def new_run_id() -> str:
    """A run's name: nobody can guess the next one."""
    return uuid.uuid4().hex[:16]


def past(run: Run) -> restraint.Past:
    """A run as others are bound by it."""
    return restraint.Past(
        run_id=run.run_id,
        runbook=run.created.runbook,
        lock=run.created.lock,
        state=run.state,
        drill=run.created.drill,
        created_ms=run.created_ms,
        queued_ms=run.queued_ms,
        started_ms=run.started_ms,
        ended_ms=run.ended_ms,
    )


def past_of(row: Any) -> restraint.Past:
    """The same, from its line in the store."""
    return restraint.Past(
        run_id=row.run_id,
        runbook=row.runbook,
        lock=row.lock_name,
        state=RunState(row.state),
        drill=bool(row.drill),
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
    )


def summary_of(run: Run) -> RunSummary:
    """What lists show of a run."""
    touched = {target.agent for step in run.steps.values() for target in step.targets}
    created = run.created
    return RunSummary(
        run_id=run.run_id,
        runbook=created.runbook,
        digest=created.digest,
        state=run.state.value,
        state_detail=run.detail,
        drill=created.drill,
        requester=run.requester,
        reason=created.reason,
        trigger=created.trigger,
        parameters=created.parameters,
        lock_name=created.lock,
        hosts=tuple(sorted(touched | set(created.hosts))),
        created_ms=run.created_ms,
        started_ms=run.started_ms,
        ended_ms=run.ended_ms,
        recovered_ms=run.recovered_ms,
        changed_ms=run.changed_ms,
        rows_written=run.n,
    )
