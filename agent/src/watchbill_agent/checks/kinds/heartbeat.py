"""A job that says itself that it went well, as healthchecks takes it: when its ping does not come in time, something is
wrong.

    [[check]]
    name = "reindex"
    kind = "heartbeat"
    cron = "15 2 * * *"
    tz = "Europe/Berlin"
    grace = "30m"

    curl -fsS -m 10 --retry 5 http://127.0.0.1:7481/ping/reindex

The agent's `[heartbeat] listen` takes `/ping/NAME`, `/start` before it, `/fail`, an exit code `/0` to `/255`, and
`/log`. Each ping is a critical event (`heartbeat.ping`) that is kept before it is answered.

Reasons: `late` (WARNING, within `grace`), `missed`, `failed`, `too-long`, and UNKNOWN `never-heard` until the first is
due, `not-listening` where the agent did not listen when it may have come.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.backups.schedule import ZONE_DEFAULT, Schedule
from watchbill.config import Duration, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks import beats
from watchbill_agent.checks.check import About, Happening, Outcome, Pinged, Samples, Verdict

GRACE_DEFAULT: Final = Duration(300)
DURATION_MIN: Final = Duration(1)
DURATION_MAX: Final = Duration(366 * 86_400)
GAP_S_MIN: Final = 60.0
REMEMBERED_EVERY_MS: Final = 300_000
"""How exactly it is known when somebody listened last: a write of a small file each time."""
FUTURE_MS_MAX: Final = 1_000

_VERDICTS: Final = {
    beats.ON_TIME: Verdict.OK,
    beats.NEW: Verdict.UNKNOWN,
    beats.UNHEARD: Verdict.UNKNOWN,
    beats.LATE: Verdict.WARNING,
    beats.MISSED: Verdict.CRITICAL,
    beats.FAILED: Verdict.CRITICAL,
    beats.TOO_LONG: Verdict.CRITICAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """When a ping is due: one of cron, calendar and every."""

    cron: str = option("", help="Five fields, as cron has them.", example='"15 2 * * *"')
    calendar: str = option("", help="As OnCalendar= of systemd's timers.", example='"Mon..Fri 08:00"')
    every: Duration | None = option(
        None,
        help="So long after the last one.",
        at_least=DURATION_MIN,
        at_most=DURATION_MAX,
        example='"1h"',
    )
    tz: str = option(ZONE_DEFAULT, help="The time zone of cron and calendar.", example='"Europe/Berlin"')
    grace: Duration = option(
        GRACE_DEFAULT,
        help="How late it may be; so long it is a warning.",
        at_least=Duration(0),
        at_most=DURATION_MAX,
    )
    max_duration: Duration | None = option(
        None,
        help="How long a run may take that said /start; without it as long as grace.",
        at_least=DURATION_MIN,
        at_most=DURATION_MAX,
    )

    def check(self) -> Iterator[Wrong]:
        """One schedule, that can be read and that comes round."""
        given = [key for key in ("cron", "calendar", "every") if getattr(self, key)]
        if len(given) != 1:
            yield Wrong("", ", ".join(given) or "no schedule", "one of cron, calendar and every")
            return
        if fault := Schedule(cron="0 0 * * *", zone=self.tz).fault():
            yield Wrong("tz", show_value(self.tz), f"a time zone, such as Europe/Berlin ({fault})")
            return
        if given != ["every"]:
            schedule = Schedule(cron=self.cron, calendar=self.calendar, zone=self.tz)
            fault = schedule.fault() or (
                "" if schedule.next(time.time_ns() // 1_000_000) else "it never comes"
            )
            if fault:
                wanted = f"a schedule that comes round ({fault})"
                yield Wrong(given[0], show_value(getattr(self, given[0])), wanted)


class Heartbeat(Pinged):
    """Judges what was heard."""

    kind = "heartbeat"
    options_type = Options
    options: Options
    interval_s = 30.0
    timeout_s = 5.0
    retries = 0

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        every_s = 0.0 if options.every is None else float(options.every)
        schedule = Schedule(cron=options.cron, calendar=options.calendar, every_s=every_s, zone=options.tz)
        runs = options.max_duration or max(options.grace, DURATION_MIN)
        self._terms = beats.Terms(schedule, options.grace.ms, runs.ms)
        self._heart = beats.Heart()
        self._gap_ms = round(max(GAP_S_MIN, 3 * about.interval_s) * 1000)

    def recall(self, memory: Mapping[str, Any]) -> None:
        """What was heard before."""
        self._heart = beats.Heart.of(dict(memory))

    def memory(self) -> Mapping[str, Any]:
        """What was heard; when somebody listened last only roughly, so that it need not be written at every look."""
        document = self._heart.document()
        document["listened_ms"] -= document["listened_ms"] % REMEMBERED_EVERY_MS
        return document

    def heard(self, what: str, code: int | None, text: str, at_ms: int) -> tuple[Happening, ...]:  # noqa: ARG002
        """A ping, which is in the timeline already."""
        now_ms = _now_ms()
        self._heart.listen(now_ms, self._gap_ms)
        if what in beats.WORDS:
            # The clock may have been set back since; a ping of the future would silence this check.
            self._heart.hear(what, code, min(at_ms, now_ms + FUTURE_MS_MAX))
        return ()

    async def look(self, within_s: float) -> Outcome:  # noqa: ARG002 - It waits for nobody.
        """Judge."""
        now_ms = _now_ms()
        self._heart.listen(now_ms, self._gap_ms)
        judged = beats.judge(self._heart, self._terms, now_ms)
        detail = _detail(self._heart, judged, now_ms)
        return Outcome(_VERDICTS[judged.reason], judged.reason, detail, self._samples(judged))

    def _samples(self, judged: beats.Judgement) -> Samples:
        heart, samples = self._heart, Samples()
        prefix = "watchbill_heartbeat"
        running = float(heart.started_ms > 0)
        samples.gauge(
            f"{prefix}_running", "Whether the job said that it began, and not that it ended.", running
        )
        for word in beats.WORDS:
            count = float(heart.pings[word])
            samples.counter(f"{prefix}_pings_total", "Pings by what they said.", count, what=word)
        for name, help_, at_ms in (
            ("last_ping", "When it was heard last", heart.ping_ms),
            ("last_success", "When it said last that it went well", heart.ok_ms),
            ("next_due", "When the ping is due that counts now", judged.due_ms),
        ):
            if at_ms:
                samples.gauge(f"{prefix}_{name}_timestamp_seconds", f"{help_}, unix time.", at_ms / 1000)
        if heart.duration_ms is not None:
            took_s = heart.duration_ms / 1000
            samples.gauge(f"{prefix}_last_duration_seconds", "Seconds from its start to its end.", took_s)
        return samples


def _detail(heart: beats.Heart, judged: beats.Judgement, now_ms: int) -> str:
    last = f"last went well {_when(heart.ok_ms)}" if heart.ok_ms else "never went well"
    due = _when(judged.due_ms) if judged.due_ms else "never"
    match judged.reason:
        case beats.FAILED:
            code = "" if heart.code is None else f" with exit code {heart.code}"
            return f"failed {_when(heart.failed_ms)}{code}; {last}"
        case beats.TOO_LONG:
            return f"began {_when(heart.started_ms)}, and should have ended {judged.late_ms // 1000} s ago; {last}"
        case beats.MISSED | beats.LATE:
            return f"{last}; was due {due}, {judged.late_ms // 1000} s ago"
        case beats.UNHEARD:
            return f"{last}; the agent did not listen when it was due; known again after {due}"
        case _:
            going_on = f"; began {(now_ms - heart.started_ms) // 1000} s ago" if heart.started_ms else ""
            return f"{last}; due {due}{going_on}"


def _when(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
