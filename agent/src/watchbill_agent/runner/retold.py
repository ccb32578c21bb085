"""How a command ended, told from the ledger alone: what it printed is damaged, or was fetched before."""

from watchbill.actions import outcomes
from watchbill_agent.runner.ledger import Progress


def from_ledger(
    key: str, run: str, step: str, ledger: str, progress: Progress, why: str
) -> outcomes.Finished:
    """The end without what was printed, and why without."""
    return outcomes.Finished(
        key=key,
        run=run,
        step=step,
        ledger=ledger,
        outcome=outcomes.Outcome(progress.outcome),
        started_ms=progress.started_ms,
        ended_ms=progress.ended_ms,
        exit_code=progress.exit_code,
        signal=progress.signal,
        whole=False,
        output_bytes=progress.output_bytes,
        output_digest=progress.output_digest,
        detail=why,
    )
