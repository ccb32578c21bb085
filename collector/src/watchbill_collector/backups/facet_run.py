"""Whether the job ran when it was due, and how its last run went.

What was bad stays bad until a run ended well: that somebody tries again mends nothing yet. So while a run goes on the
job is still failed, missed or not whole if it was so when that run began, and who was told of it is told once.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from watchbill.backups.definition import Definition
from watchbill.backups.record import Outcome, Source
from watchbill_collector.backups.due import NEVER_MS, Around
from watchbill_collector.backups.evidence import RUNS_KEPT, Evidence
from watchbill_collector.backups.facet_fresh import heard
from watchbill_collector.backups.points import Points, points_of
from watchbill_collector.backups.runs import Run
from watchbill_collector.backups.sight import Passed, Sight
from watchbill_collector.backups.texts import MINUTE_MS, moment, said, span
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, Facet, Standing

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
ENDED_REMEMBERED: Final = 16_384
"""Most runs end well, and many began in the same minute: they have one facet."""
NO_RUN: Final = Facet(UNKNOWN, "no-run", "it has not run yet")
_OK: Final = Outcome.OK
_RUNNING: Final = Outcome.RUNNING


def run(sight: Sight, points: Points) -> Facet:
    """Of the last run that was due; of one that is going on, if there is one."""
    runs = sight.evidence.runs
    last = runs[-1] if runs else None
    ended = NO_RUN
    if last is not None:
        if last.outcome is _RUNNING:
            going = _going(sight, last)
            if going.reason != "no-end":
                return _still(sight, going, points.made_ms)
            ended = going
        else:
            ended = _ended(sight, last)
    made_ms = points.made_ms
    if made_ms and (last is None or made_ms > max(last.finished_ms, last.at_ms)):
        ended = Facet(OK, "seen-in-repository", f"no run was told, the repository has {moment(made_ms)}")
    if last is None:
        busy = next((c.seen for c in sight.evidence.copies.values() if c.seen and c.seen.running), None)
        if busy is not None and sight.later(busy.at_ms + sight.patience_ms):
            going = Facet(WARN, "running", f"running when the repository was read, {moment(busy.at_ms)}")
            return _both(_missed_before(sight, made_ms, 0, busy.running_since_ms, by_looking=True), going)
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


def _still(sight: Sight, going: Facet, made_ms: int) -> Facet:
    """A run that goes on, with what was bad when it began. `made_ms`: the newest snapshot of a repository."""
    if going.level is BAD:
        return going
    runs = sight.evidence.runs
    return _both(_bad_before(sight, runs[:-1], runs[-1].began_ms, made_ms), going)


def _bad_before(sight: Sight, runs: Sequence[Run], until_ms: int, made_ms: int) -> Facet | None:
    """What was bad after these runs when the next one began."""
    for place in range(len(runs) - 1, -1, -1):
        run = runs[place]
        seen_ms = _seen_before(sight, made_ms, until_ms)
        missed = _missed_before(sight, max(run.began_ms, seen_ms), run.finished_ms, until_ms)
        if missed is not None:
            return missed
        if run.running and _lost_ms(sight, run) > until_ms:
            # It still went on when the next one began: what was bad before it still was.
            until_ms = run.began_ms
            continue
        if seen_ms > max(run.finished_ms, run.at_ms):
            return None  # One that nobody told of ended well since.
        if run.running:
            return Facet(BAD, "no-end", f"the run of {moment(run.began_ms)} never ended")
        ended = _ended(sight, run)
        return ended if ended.level is BAD or ended.reason == "partial" else None
    if len(runs) >= RUNS_KEPT - 1:
        return None  # There were runs before these, and nobody knows any more how they went.
    seen_ms = _seen_before(sight, made_ms, until_ms)
    return _missed_before(sight, seen_ms, 0, until_ms, by_looking=sight.definition.observed)


def _seen_before(sight: Sight, made_ms: int, until_ms: int) -> int:
    """The newest snapshot of those that were made before a run began: the others may be its own."""
    if made_ms < until_ms:
        return made_ms
    ledgers = (copy.ledger for copy in sight.evidence.copies.values())
    return max((one.newest_not_after(until_ms - 1) for one in ledgers if one is not None), default=0)


def _lost_ms(sight: Sight, run: Run) -> int:
    """When it is certain of a run that did not tell its end that it went wrong."""
    limit_s = sight.definition.max_duration_s
    over_ms = run.began_ms + (round(limit_s * 1000) if limit_s else ASSUMED_RUN_MS)
    return min(over_ms, run.at_ms + HEARTBEAT_LOST_MS) if run.source is Source.WRAP else over_ms


def _both(bad: Facet | None, going: Facet) -> Facet:
    return going if bad is None else Facet(bad.level, bad.reason, f"{bad.text}; {going.text}")


def _ended(sight: Sight, last: Run) -> Facet:
    """How the last run went, by its own word."""
    if last.outcome is _OK:
        limit_s = sight.definition.max_duration_s
        if limit_s and last.duration_ms > limit_s * 1000:
            took = f"took {span(last.duration_ms / 1000)}, {span(limit_s)} at most"
            return Facet(WARN, "took-too-long", f"the run of {moment(last.began_ms)} ended well and {took}")
        return _ended_well(last.began_ms // MINUTE_MS)
    began = f"the run of {moment(last.began_ms)}"
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


@lru_cache(ENDED_REMEMBERED)
def _ended_well(minute: int) -> Facet:
    return Facet(OK, "ok", f"the run of {moment(minute * MINUTE_MS)} ended well")


def _when_due(sight: Sight, began_ms: int, ended_ms: int, ended: Facet) -> Facet:
    """What is to be said when something was due since the last one began; else `ended`. What was due while it still ran
    was not missed: tools do not run twice at once."""
    schedule, standing = sight.definition.schedule, sight.standing
    if schedule.every_s:
        due_ms = max(began_ms, _asked_from_ms(standing)) + round(schedule.every_s * 1000)
        if sight.later(due_ms):
            return ended
        return _not_begun(sight, due_ms, ended)
    if not schedule.by_the_clock:
        return ended
    around = sight.dues.around(sight.now_ms)
    if around.next_ms != NEVER_MS:
        sight.later(around.next_ms + LATE_AFTER_MS)
    if began_ms >= around.due_ms or ended_ms >= around.due_ms:
        return ended
    early_ms, asked_from_ms = _early_ms(around), _asked_from_ms(standing)
    if around.due_ms <= asked_from_ms or began_ms >= around.due_ms - early_ms:
        return ended
    if around.before_ms > asked_from_ms and max(began_ms + early_ms, ended_ms) < around.before_ms:
        # The one before did not come either: it is not late again, it is still missing.
        before = _not_begun(sight, around.before_ms, ended)
        if before is not ended and before.reason != "late":
            now = _not_begun(sight, around.due_ms, ended)
            return before if now is ended or now.reason == "late" else now
    return _not_begun(sight, around.due_ms, ended)


def _missed_before(
    sight: Sight, began_ms: int, ended_ms: int, until_ms: int, *, by_looking: bool = False
) -> Facet | None:
    """What was missed between one run and the beginning of the next one."""
    schedule, standing = sight.definition.schedule, sight.standing
    asked_from_ms = _asked_from_ms(standing)
    if schedule.every_s:
        dues = [max(began_ms, asked_from_ms) + round(schedule.every_s * 1000)]
    elif schedule.by_the_clock:
        around = sight.dues.around(sight.now_ms)
        if not around.due_ms <= until_ms < around.next_ms:
            # By hand, and rarely: the due times that are remembered go on with the clock.
            due_ms = schedule.latest(until_ms)
            before_ms = schedule.latest(due_ms - 1) if due_ms else 0
            around = Around(before_ms, due_ms, schedule.next(until_ms) or NEVER_MS)
        early_ms = _early_ms(around)
        dues = [
            due_ms
            for due_ms in (around.before_ms, around.due_ms)
            if due_ms > asked_from_ms and max(began_ms + early_ms, ended_ms) < due_ms
        ]
    else:
        return None
    for due_ms in reversed(dues):
        missed_ms = _missed_ms(sight, due_ms, by_looking=by_looking)
        if by_looking and _read_ms(sight) < missed_ms:
            continue
        if missed_ms <= until_ms and sight.passed(missed_ms) is Passed.YES:
            return _missed(due_ms, missed_ms)
    return None


def _asked_from_ms(standing: Standing) -> int:
    """What was due until then is not asked for."""
    return max(standing.asked_from_ms, standing.paused_until_ms)


def _early_ms(around: Around) -> int:
    return min(EARLY_MS_MAX, (around.next_ms - around.due_ms) // 10)


def _missed_ms(sight: Sight, due_ms: int, *, by_looking: bool) -> int:
    """When what was due then is missed, if nothing began until then. `by_looking`: no run was told, and a repository
    shows one when it is over and the repository is read."""
    definition = sight.definition
    missed_ms = due_ms + max(round(definition.start_grace_s * 1000), LATE_AFTER_MS)
    if by_looking:
        missed_ms += round((definition.max_duration_s + definition.observe_every_s) * 1000)
    return missed_ms


def _read_ms(sight: Sight) -> int:
    """When a repository was read last."""
    return max((copy.seen_ms for copy in sight.evidence.copies.values()), default=0)


def _missed(due_ms: int, missed_ms: int) -> Facet:
    return Facet(BAD, "missed", f"due {moment(due_ms)}, and did not begin until {moment(missed_ms)}")


def _not_begun(sight: Sight, due_ms: int, ended: Facet) -> Facet:
    """Of a due time that no run is known of."""
    by_looking = sight.definition.observed and not sight.evidence.runs
    missed_ms = _missed_ms(sight, due_ms, by_looking=by_looking)
    late_ms = due_ms + (
        max(round(sight.definition.start_grace_s * 1000), LATE_AFTER_MS) if by_looking else LATE_AFTER_MS
    )
    missed, late = sight.passed(missed_ms), sight.passed(late_ms)
    if missed is Passed.YES and by_looking:
        missed = sight.seen_after(missed_ms, _read_ms(sight))
        if missed is Passed.SILENT:
            return Facet(UNKNOWN, "unreadable", f"due {moment(due_ms)}; the repository was not read since")
    if missed is Passed.YES:
        return _missed(due_ms, missed_ms)
    if Passed.SILENT in (missed, late):
        return Facet(UNKNOWN, "silent", f"due {moment(due_ms)}; its host was heard through {heard(sight)}")
    if late is Passed.NO or ended.level is BAD:
        return ended
    return Facet(WARN, "late", f"due {moment(due_ms)}, not begun yet; missed at {moment(missed_ms)}")


def due_ms_of(definition: Definition, evidence: Evidence, standing: Standing, now_ms: int) -> int:
    """When it is to run next; 0 where it has no schedule. In the past where a run is awaited that has not begun:
    `every` counts from the beginning of the last run, or from when the job was first heard of."""
    schedule = definition.schedule
    if not schedule.every_s:
        return schedule.next(now_ms)
    evidence = evidence.about(definition.copies)
    began_ms = max(
        evidence.runs[-1].began_ms if evidence.runs else 0, points_of(definition, evidence).made_ms
    )
    asked_from_ms = max(standing.asked_from_ms, standing.paused_until_ms)
    return max(began_ms, asked_from_ms) + round(schedule.every_s * 1000)
