"""Whether snapshots leave their repository by retention alone.

Retention never takes the newest snapshot, never one younger than it keeps, and never leaves fewer than it must. What
vanished otherwise stays an alarm until a person has looked at it, or until retention would have taken it too.
"""

from typing import Final

from watchbill.backups.definition import Retention
from watchbill_collector.backups.evidence import CopySeen
from watchbill_collector.backups.facet_fresh import heard
from watchbill_collector.backups.ledger import Ledger, Vanishing
from watchbill_collector.backups.points import Points
from watchbill_collector.backups.sight import Passed, Sight
from watchbill_collector.backups.texts import moment, plain, said, span
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, WORSE, Facet

SLACK: Final = 0.05
"""Of what retention keeps, that a snapshot may leave early: tools count in days of the calendar, from the newest
one."""
SLACK_MS_MAX: Final = 86_400_000
LOCKED_MS: Final = 86_400_000
"""A lock that is found at every look for so long was left behind: backups may go on, and retention never runs again."""
REMEMBERED_MS: Final = 30 * 86_400_000
"""How long a snapshot that vanished is an alarm where nothing says how long it would have been kept."""

NOT_ASKED: Final = Facet(OK, "not-asked", "its repository is not looked at")


def ledger(sight: Sight, points: Points) -> Facet:
    """The worst of all copies."""
    evidence = sight.evidence
    if evidence.runs and evidence.runs[-1].ahead:
        text = f"the run told {moment(evidence.runs[-1].at_ms)} claims a time that had not come yet"
        return Facet(BAD, "future", text)
    watched = [(name, copy) for name, copy in evidence.copies.items() if copy.seen or copy.unread]
    if not watched:
        if sight.definition.observed:
            return Facet(UNKNOWN, "not-seen", "its repository was not looked at yet")
        return NOT_ASKED
    found = max((_of_copy(sight, name, copy) for name, copy in watched), key=lambda facet: WORSE[facet.level])
    lie = points.unconfirmed
    if lie is not None and found.level is not BAD:
        text = f"the run of {moment(lie.began_ms)} ended well, and the repository shows nothing of it"
        return Facet(BAD if points.contradicted else WARN, "unconfirmed", text)
    return found


def _of_copy(sight: Sight, name: str, copy: CopySeen) -> Facet:
    book, seen = copy.ledger, copy.seen
    of = f"{name}: " if name else ""
    future_ms = max(seen.future_ms if seen is not None else 0, book.future_ms if book is not None else 0)
    if future_ms:
        return Facet(
            BAD,
            "future",
            f"{of}a snapshot of {moment(future_ms)}, which had not come yet when it was seen",
        )
    gone = _unexpected(sight, book) if book is not None else None
    if book is not None and gone is not None:
        named = plain(", ".join(gone.ids))
        text = (
            f"{of}{gone.count} vanished, missed {moment(gone.at_ms)}; the youngest of {moment(gone.youngest_ms)}, "
            f"{_promise(_retention(sight, gone))}; {gone.left} left: {named}"
        )
        return Facet(BAD, "repository-replaced" if gone.replaced else "vanished", text)
    unwatched = _unwatched(sight, copy, of)
    if unwatched is not None:
        return unwatched
    if seen is not None and seen.locked_since_ms and seen.at_ms - seen.locked_since_ms >= LOCKED_MS:
        return Facet(
            WARN, "locked", f"{of}locked whenever it was looked at since {moment(seen.locked_since_ms)}"
        )
    if book is None:
        return Facet(OK, "not-listed", f"{of}its tool lists no snapshots")
    if book.unlisted or not book.listed:
        return Facet(
            UNKNOWN, "list-not-told", f"{of}{book.count} snapshots, of which the list has not come yet"
        )
    retention = sight.definition.retention
    if book.count < retention.min_copies:
        return Facet(WARN, "few", f"{of}{book.count} snapshots, {retention.min_copies} at least")
    soon = _few_soon(sight, book, retention)
    if soon:
        return Facet(WARN, "few", f"{of}{soon}")
    if book.seen < _SEEN_MIN:
        return Facet(UNKNOWN, "first-observation", f"{of}{book.count} snapshots, seen for the first time")
    return Facet(OK, "ok", f"{of}{book.count} snapshots, the oldest of {moment(book.oldest_ms)}")


def _unwatched(sight: Sight, copy: CopySeen, of: str) -> Facet | None:
    """Of a repository that nobody could read for longer than two looks take."""
    if not sight.definition.observe_every_s:
        return None
    passed = sight.passed(copy.seen_ms + sight.patience_ms)
    if passed is Passed.NO:
        return None
    since = f"{of}not read since {moment(copy.seen_ms)}" if copy.seen_ms else f"{of}never read"
    if passed is Passed.SILENT:
        return Facet(UNKNOWN, "silent", f"{since}; its host was heard through {heard(sight)}")
    unread = copy.unreadable
    why = said(unread.reason, unread.error) if unread is not None else ""
    return Facet(UNKNOWN, "unreadable", f"{since}{why}")


def _few_soon(sight: Sight, book: Ledger, retention: Retention) -> str:
    """To say when age alone would leave fewer than there must be: nothing new came, and retention goes on."""
    least, keep_ms = retention.min_copies, round(retention.keep_s * 1000)
    if not least or not keep_ms or len(book.times) < least:
        return ""
    last_ms = sorted(book.times.values(), reverse=True)[least - 1] + keep_ms
    if sight.later(last_ms):
        return ""
    return f"fewer than {least} of {book.count} snapshots are younger than {span(retention.keep_s)}"


def _unexpected(sight: Sight, book: Ledger) -> Vanishing | None:
    """The newest vanishing that retention does not explain."""
    for gone in reversed(book.vanishings):
        if gone.at_ms <= sight.standing.reviewed_ms:
            continue
        retention = _retention(sight, gone)
        keep_ms = round(retention.keep_s * 1000)
        slack_ms = min(round(SLACK * keep_ms), SLACK_MS_MAX)
        young = gone.age_ms < keep_ms - slack_ms
        if (gone.newest or young or gone.left < retention.min_copies) and sight.later(
            max(gone.youngest_ms + keep_ms, gone.at_ms + REMEMBERED_MS)
        ):
            return gone
    return None


def _retention(sight: Sight, gone: Vanishing) -> Retention:
    """What held when it vanished: the stricter one while a loosened retention is new."""
    now, standing = sight.definition.retention, sight.standing
    if gone.at_ms >= standing.retention_before_until_ms:
        return now
    before = standing.retention_before
    return Retention(keep_s=max(now.keep_s, before.keep_s), min_copies=max(now.min_copies, before.min_copies))


def _promise(retention: Retention) -> str:
    kept = f"kept {span(retention.keep_s)}" if retention.keep_s else "the newest is always kept"
    return f"{kept}, {retention.min_copies} at least" if retention.min_copies else kept


_SEEN_MIN: Final = 2
