"""Whether the job ran when it was due, and how its last run went."""

from typing import Final

from watchbill.backups.record import Outcome, Source
from watchbill_collector.backups.due import NEVER_MS
from watchbill_collector.backups.facet_fresh import heard
from watchbill_collector.backups.points import Points
from watchbill_collector.backups.runs import Run
from watchbill_collector.backups.sight import Passed, Sight
from watchbill_collector.backups.texts import moment, said, span
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, Facet

LATE_AFTER_MS: Final = 60_000
"""A run that has not begun so long after it was due is late. Until then the one before is spoken of."""
EARLY_MS_MAX: Final = 5 * 60_000
"""How much earlier than due a run may have begun, by clocks that differ; never more than a tenth of the time between
two of them."""
HEARTBEAT_LOST_MS: Final = 5 * 60_000
"""A wrapped run says every minute that it goes on. After so long without a word from it, though its host was heard, it
is not there any more: killed, or its machine was."""
ASSUMED_RUN_MS: Final = 86_400_000
"""How long a run may take that says nothing while it goes on, where no max_duration is asked for."""


def run(sight: Sight, points: Points) -> Facet:
    """Of the last run that was due; of one that is going on, if there is one."""
    runs = sight.evidence.runs
    last = runs[-1] if runs else None
    ended = Facet(UNKNOWN, "no-run", "it has not run yet")
    if last is not None:
        if last.running:
            going = _going(sight, last)
            if going.reason != "no-end":
                return going
            ended = going
        else:
            ended = _ended(sight, last)
    made_ms = points.made_ms
    if made_ms and (last is None or made_ms > max(last.finished_ms, last.at_ms)):
        ended = Facet(OK, "seen-in-repository", f"no run was told, the repository has {moment(made_ms)}")
    if last is None:
        busy = next((c.seen for c in sight.evidence.copies.values() if c.seen and c.seen.running), None)
        if busy is not None and sight.later(busy.at_ms + sight.patience_ms):
            return Facet(WARN, "running", f"running when the repository was read, {moment(busy.at_ms)}")
    return _when_due(
        sight, max(last.began_ms if last else 0, made_ms), last.finished_ms if last else 0, ended
    )


def _going(sight: Sight, last: Run) -> Facet:
    """A run whose end was not told. `no-end` when there will be none."""
    since = f"running since {moment(last.began_ms)}"
    limit_s = sight.definition.max_duration_s
    if last.source is Source.WRAP:
        gone = sight.passed(last.at_ms + HEARTBEAT_LOST_MS)
        if gone is Passed.YES:
            return Facet(
                BAD,
                "no-end",
                f"began {moment(last.began_ms)}, last heard of {moment(last.at_ms)}, never ended",
            )
        if gone is Passed.SILENT:
            return Facet(UNKNOWN, "silent", f"{since}; its host was heard through {heard(sight)}")
    elif not limit_s and sight.passed(last.began_ms + ASSUMED_RUN_MS) is Passed.YES:
        return Facet(BAD, "no-end", f"began {moment(last.began_ms)}, and its end was never told")
    if limit_s:
        over_ms = last.began_ms + round(limit_s * 1000)
        over = sight.passed(over_ms)
        if over is Passed.YES:
            return Facet(
                BAD,
                "over-max-duration",
                f"{since}, {span(limit_s)} at most: over since {moment(over_ms)}",
            )
        if over is Passed.SILENT:
            return Facet(UNKNOWN, "silent", f"{since}; its host was heard through {heard(sight)}")
    return Facet(WARN, "running", since)


def _ended(sight: Sight, last: Run) -> Facet:
    """How the last run went, by its own word."""
    began = f"the run of {moment(last.began_ms)}"
    if last.outcome is Outcome.OK:
        limit_s = sight.definition.max_duration_s
        if limit_s and last.duration_ms > limit_s * 1000:
            took = f"took {span(last.duration_ms / 1000)}, {span(limit_s)} at most"
            return Facet(WARN, "took-too-long", f"{began} ended well and {took}")
        return Facet(OK, "ok", f"{began} ended well")
    if last.outcome is Outcome.PARTIAL:
        lacking = f", {last.files_failed} files failed" if last.files_failed else ""
        return Facet(WARN, "partial", f"{began} is not whole{lacking}{said(last.reason, last.error)}")
    if last.outcome is Outcome.FAILED:
        code = f" with exit code {last.exit_code}" if last.exit_code is not None else ""
        code = f" by signal {last.signal}" if last.signal else code
        return Facet(BAD, "failed", f"{began} failed{code}{said(last.reason, last.error)}")
    return Facet(
        UNKNOWN, "outcome-unknown", f"{began} does not say how it ended{said(last.reason, last.error)}"
    )


def _when_due(sight: Sight, began_ms: int, ended_ms: int, ended: Facet) -> Facet:
    """What is to be said when something was due since the last one began; else `ended`. What was due while it still ran
    was not missed: tools do not run twice at once."""
    schedule, standing = sight.definition.schedule, sight.standing
    asked_from_ms = max(standing.asked_from_ms, standing.paused_until_ms)
    if schedule.every_s:
        due_ms = max(began_ms, asked_from_ms) + round(schedule.every_s * 1000)
        if sight.later(due_ms):
            return ended
        return _not_begun(sight, due_ms, ended)
    if not schedule.by_the_clock:
        return ended
    around = sight.dues.around(sight.now_ms)
    if around.next_ms != NEVER_MS:
        sight.later(around.next_ms + LATE_AFTER_MS)
    early_ms = min(EARLY_MS_MAX, (around.next_ms - around.due_ms) // 10)
    if around.due_ms <= asked_from_ms or began_ms >= around.due_ms - early_ms or ended_ms >= around.due_ms:
        return ended
    if around.before_ms > asked_from_ms and max(began_ms + early_ms, ended_ms) < around.before_ms:
        # The one before did not come either: it is not late again, it is still missing.
        before = _not_begun(sight, around.before_ms, ended)
        if before is not ended and before.reason != "late":
            now = _not_begun(sight, around.due_ms, ended)
            return before if now is ended or now.reason == "late" else now
    return _not_begun(sight, around.due_ms, ended)


def _not_begun(sight: Sight, due_ms: int, ended: Facet) -> Facet:
    """Of a due time that no run is known of."""
    definition = sight.definition
    late_ms = due_ms + LATE_AFTER_MS
    missed_ms = due_ms + max(round(definition.start_grace_s * 1000), LATE_AFTER_MS)
    by_looking = definition.observed and not sight.evidence.runs
    if by_looking:
        # A repository shows a run when it is over and the repository is read.
        late_ms = missed_ms
        missed_ms += round((definition.max_duration_s + definition.observe_every_s) * 1000)
    missed, late = sight.passed(missed_ms), sight.passed(late_ms)
    if missed is Passed.YES and by_looking:
        seen_ms = max((copy.seen.at_ms for copy in sight.evidence.copies.values() if copy.seen), default=0)
        missed = sight.seen_after(missed_ms, seen_ms)
        if missed is Passed.SILENT:
            return Facet(UNKNOWN, "unreadable", f"due {moment(due_ms)}; the repository was not read since")
    if missed is Passed.YES:
        return Facet(BAD, "missed", f"due {moment(due_ms)}, and did not begin until {moment(missed_ms)}")
    if Passed.SILENT in (missed, late):
        return Facet(UNKNOWN, "silent", f"due {moment(due_ms)}; its host was heard through {heard(sight)}")
    if late is Passed.NO or ended.level is BAD:
        return ended
    return Facet(WARN, "late", f"due {moment(due_ms)}, not begun yet; missed at {moment(missed_ms)}")
