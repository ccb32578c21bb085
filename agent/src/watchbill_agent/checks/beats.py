"""When a heartbeat is due and what its silence means. Pure.

A heartbeat is heard when a job pings that it ended well. From its last one, or from when the check was first seen, the
next is due by the schedule, and has `grace` from then on. In between:

1. a job that began and goes on is not late, for as long as it may take;
2. silence counts only while somebody listened. Where this host heard nothing (the agent was stopped, the machine
   slept) before the last moment, the answer is that nobody knows, until the job has had another chance.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from watchbill.backups.schedule import Schedule

NEW: Final = "never-heard"
ON_TIME: Final = ""
LATE: Final = "late"
MISSED: Final = "missed"
FAILED: Final = "failed"
TOO_LONG: Final = "too-long"
UNHEARD: Final = "not-listening"
WORDS: Final = ("start", "success", "fail", "log")
GAPS_MAX: Final = 8
"""Times without anybody listening that are remembered; with more, the two oldest become one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """When a heartbeat is wanted. `runs_ms_max`: how long a run may take."""

    schedule: Schedule
    grace_ms: int
    runs_ms_max: int

    def due(self, after_ms: int) -> int:
        """The next due time after this one; 0 if it never comes."""
        if self.schedule.every_s:
            return after_ms + round(self.schedule.every_s * 1000)
        return self.schedule.next(after_ms)


@dataclass(slots=True)
class Heart:
    """What is known. Times are UTC ms, 0 for never."""

    since_ms: int = 0
    """When this check was first there."""
    ok_ms: int = 0
    ping_ms: int = 0
    started_ms: int = 0
    """Of the run that goes on."""
    failed_ms: int = 0
    """Of the failure after which nothing ended well."""
    code: int | None = None
    duration_ms: int | None = None
    listened_ms: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """When nobody listened, oldest first."""
    pings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORDS, 0))

    def hear(self, what: str, code: int | None, at_ms: int) -> None:
        """A ping."""
        self.ping_ms = at_ms
        self.pings[what] += 1
        if what == "start":
            self.started_ms = at_ms
        elif what in ("success", "fail"):
            if self.started_ms:
                self.duration_ms = max(0, at_ms - self.started_ms)
            self.started_ms = 0
            self.code = code
            if what == "success":
                self.ok_ms, self.failed_ms = at_ms, 0
            else:
                self.failed_ms = at_ms

    def listen(self, now_ms: int, gap_ms: int) -> None:
        """Somebody listens now; if that was not so for longer than `gap_ms`, that is remembered."""
        self.since_ms = self.since_ms or now_ms
        if self.listened_ms and now_ms - self.listened_ms > gap_ms:
            self.gaps.append((self.listened_ms, now_ms))
            if len(self.gaps) > GAPS_MAX:
                first, second, *rest = self.gaps
                self.gaps = [(first[0], second[1]), *rest]
        self.listened_ms = max(self.listened_ms, now_ms)
        # What was before the last good end has been answered by it.
        self.gaps = [gap for gap in self.gaps if gap[1] > self.ok_ms]

    def document(self) -> dict[str, Any]:
        """As it is remembered."""
        return {
            name: getattr(self, name) if name != "gaps" else [list(gap) for gap in self.gaps]
            for name in self.__dataclass_fields__
        }

    @classmethod
    def of(cls, memory: "dict[str, Any]") -> "Heart":
        """The other way round; what does not fit is left."""
        heart = cls()
        for name in ("since_ms", "ok_ms", "ping_ms", "started_ms", "failed_ms", "listened_ms"):
            value = memory.get(name)
            if isinstance(value, int) and value >= 0:
                setattr(heart, name, value)
        for name in ("code", "duration_ms"):
            value = memory.get(name)
            if isinstance(value, int):
                setattr(heart, name, value)
        pings = memory.get("pings")
        if isinstance(pings, dict):
            heart.pings |= {
                word: count for word, count in pings.items() if word in WORDS and isinstance(count, int)
            }
        gaps = memory.get("gaps")
        if isinstance(gaps, list):
            heart.gaps = [
                (gap[0], gap[1])
                for gap in gaps[-GAPS_MAX:]
                if isinstance(gap, list) and len(gap) == 2 and all(isinstance(one, int) for one in gap)
            ]
        return heart


@dataclass(frozen=True, slots=True)
class Judgement:
    """`reason` is one of the words of this module; `due_ms` is the time that counts, 0 for none."""

    reason: str
    due_ms: int
    late_ms: int = 0


def judge(heart: Heart, terms: Terms, now_ms: int) -> Judgement:
    """How it stands."""
    due_ms = terms.due(heart.ok_ms or heart.since_ms)
    if heart.started_ms and now_ms - heart.started_ms > terms.runs_ms_max:
        return Judgement(TOO_LONG, due_ms, now_ms - heart.started_ms - terms.runs_ms_max)
    if heart.failed_ms:
        return Judgement(FAILED, due_ms)
    running = heart.started_ms > 0
    if not due_ms or now_ms <= due_ms or running:
        return Judgement(ON_TIME if heart.ok_ms or running else NEW, due_ms)
    if now_ms <= due_ms + terms.grace_ms:
        return Judgement(LATE if heart.ok_ms else NEW, due_ms, now_ms - due_ms)
    again_ms = _another_chance(heart, terms, due_ms)
    if again_ms and now_ms <= again_ms + terms.grace_ms:
        return Judgement(UNHEARD, again_ms)
    late_ms = now_ms - (again_ms or due_ms)
    return Judgement(MISSED, again_ms or due_ms, late_ms)


def _another_chance(heart: Heart, terms: Terms, due_ms: int) -> int:
    """When it is due again, if nobody listened at a time when it may have been heard; otherwise 0."""
    again_ms = 0
    for from_ms, to_ms in heart.gaps:
        if from_ms <= (again_ms or due_ms) + terms.grace_ms:
            again_ms = max(again_ms, terms.due(to_ms))
    return again_ms
