"""How times, spans and sizes are said to a person, and what to do about each reason."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

CALENDAR_MINUTES: Final = 4_223_371_679
"""The last minute of the year 9999."""
MINUTES_REMEMBERED: Final = 16_384
"""Most jobs of a site begin in the same few minutes."""
SPANS_REMEMBERED: Final = 1_024
"""Jobs are asked for the same few."""
FOREIGN_CHARACTERS_MAX: Final = 300
"""Of what a host or a tool says, in a sentence of ours."""
MINUTE_MS: Final = 60_000
_LENGTH: Final = len("2026-11-29 02:15")
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP: Final = 1024
_EXACT_FROM: Final = 2
"""A span is said in the largest unit of which it has at least so many."""


def moment(at_ms: int) -> str:
    """`2026-11-29 02:15 UTC`. Told of a clock far out of order, a time may be none that a calendar has."""
    return _minute(at_ms // MINUTE_MS)


@lru_cache(MINUTES_REMEMBERED)
def _minute(minute: int) -> str:
    if not 0 <= minute <= CALENDAR_MINUTES:
        return "a time that no calendar has"
    return datetime.fromtimestamp(minute * 60, UTC).isoformat(" ", "minutes")[:_LENGTH] + " UTC"


@lru_cache(SPANS_REMEMBERED)
def span(seconds: float) -> str:
    """`26 h`, `30 d`, `90 s`."""
    for unit, name in _UNITS:
        if seconds >= _EXACT_FROM * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def size(count: float) -> str:
    """`10.2 GiB`."""
    if count < _STEP:
        return f"{count:.0f} B"
    number = min((int(count).bit_length() - 1) // 10, len(_BINARY) - 1)
    return f"{count / _STEP**number:.1f} {_BINARY[number]}"


def said(reason: str, error: str) -> str:
    """What a host said went wrong: ` (repository-locked: unable to create lock)`; "" for nothing."""
    words = ": ".join(word for word in (reason, error) if word)
    return f" ({plain(words)})" if words else ""


def plain(text: str) -> str:
    """What a host sent, as a terminal may show it: nothing in it moves a cursor, and it has an end."""
    if len(text) > FOREIGN_CHARACTERS_MAX:
        text = text[:FOREIGN_CHARACTERS_MAX] + "..."
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


ADVICE: Final[Mapping[str, str]] = {
    "late": "Nothing yet: it may still begin within its grace.",
    "running": "Nothing: it is running.",
    "partial": "Read the run's errors with `watchbill backups show {job}`: what could not be read is not saved.",
    "failed": "Read the run's errors with `watchbill backups show {job}`, mend the cause, and run it again.",
    "no-end": "See on the host whether it was killed (out of memory, a reboot), whether something is left locked, and "
    "run it again.",
    "missed": "See on the host why it did not start: its timer, its cron line; then run it.",
    "over-max-duration": "See on the host what it waits for; a hung run holds its repository's lock. If it only grew, "
    "raise max_duration.",
    "took-too-long": "See what made it slow, a larger source or a slower place; raise max_duration if it only grew.",
    "near-rpo": "Nothing if its next run comes before the RPO is over; else run it now, or let it run more often.",
    "over-rpo": "Run it now. If runs end well, look at why the repository does not show them.",
    "no-point": "Run it: nothing of it can be restored yet.",
    "not-restorable": "What the repository holds cannot be restored: take a full backup to another place at once.",
    "below-min": "See whether a source was not mounted or is empty; lower size.min if it is right.",
    "dropped": "See whether a source was not mounted, emptied or encrypted; the next runs settle it if it is right.",
    "too-fast": "See whether its sources were there: it ended sooner than it can have read them.",
    "overdue": "Have it verified: `watchbill backups verify {job}`.",
    "never-proven": "Have it verified: `watchbill backups verify {job}`.",
    "proof-failed": "Take a new full backup to another place before anything else, then find what is damaged: "
    "`watchbill backups show {job}`.",
    "copies-missing": "Bring the copies that are missing up to date, or lower what is required.",
    "copy-stale": "See why the copy is not brought up to date.",
    "copy-unreadable": "Make the copy readable to its host, or see why it is not.",
    "not-whole": "Look at the copy: `watchbill backups show {job}`.",
    "vanished": "Treat it as an attack until you know who removed them: keep other copies from being changed. "
    "If it was meant, say so with `watchbill backups review {job}`.",
    "repository-replaced": "Find out who replaced the repository. If it was meant, say so with "
    "`watchbill backups review {job}`.",
    "unconfirmed": "Look into the repository yourself: the run said it saved, and nothing of it is there.",
    "future": "Set the clock of the host that made it and make a new one: such times hide that nothing is new.",
    "locked": "See whether something holds the lock, and else remove it with the tool's own command: nothing is pruned "
    "while it is there.",
    "few": "Nothing while it is young; else see why so few are kept.",
    "silent": "See why the host is silent: `watchbill hosts show`. What it did meanwhile comes when it does.",
    "unreadable": "Make the repository readable to its host: `watchbill backups show {job}` says what is in the way.",
    "outcome-unknown": "Look at the run on its host; its word does not say how it ended.",
}
"""By a facet's reason; `{job}` stands for the job's name."""
