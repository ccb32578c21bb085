"""Who was told of one alert, and what waits: read from what the dispatcher knows. Pure.

`notices_about` picks the notices that speak of an alert, `waits` says for each place where it belongs what is still to
come and what it waits for.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from watchbill_collector.dispatch.outbox import Waiting
from watchbill_collector.dispatch.routing import Destination
from watchbill_collector.dispatch.sender import ChannelHealth
from watchbill_collector.dispatch.thread import Thread
from watchbill_collector.dispatch.values import Way
from watchbill_collector.store.outbox import NoticeRow

NOTICE_BYTES_MAX: Final = 64 * 1024 * 1024


class WaitsFor(Enum):
    """What a notice that is still to come waits for."""

    TURN = "turn"
    """Its channel, which has others to send before."""
    RETRY = "retry"
    """Another attempt: the last one failed."""
    MENDING = "mending"
    """Somebody who mends the channel: its peer refuses us."""
    GROUP = "group"
    """More of its group, or the time between two notices of it."""
    REPEAT = "repeat"
    """Nothing: it was told, and will be told again while it fires."""
    DIGEST = "digest"
    """The time of day of the collected news."""
    CHANNEL = "channel"
    """A channel that is no longer configured."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is to come at one place. `due_ms` 0: nobody can say. `why` is what failed last."""

    channel: str
    route: str
    waits_for: WaitsFor
    due_ms: int
    attempts: int
    why: str


@dataclass(frozen=True, slots=True)
class About:
    """A notice that speaks of an alert. `status` is how the alert stands in it, empty where it is one of those that
    the notice counts and does not list.
    """

    row: NoticeRow
    route: str
    status: str


def threads_of(
    fingerprint: str,
    threads: Mapping[str, Thread],
    places: Mapping[str, tuple[Destination, Mapping[str, object]]],
) -> list[str]:
    """The threads that an alert belongs to, or that know of it."""
    knowing = [
        key
        for key, thread in threads.items()
        if fingerprint in thread.told
        or (
            thread.queued is not None
            and (fingerprint in thread.queued.after or fingerprint in thread.queued.ended)
        )
    ]
    return list(
        dict.fromkeys([*knowing, *(key for key, (_, alerts) in places.items() if fingerprint in alerts)])
    )


def waits(
    fingerprint: str,
    threads: Mapping[str, Thread],
    places: Mapping[str, tuple[Destination, Mapping[str, object]]],
    waiting: Mapping[str, Waiting],
    due: Mapping[str, int],
    health: Mapping[str, ChannelHealth],
    digest_ms: int,
) -> list[Wait]:
    """What is to come, by place."""
    found = []
    for key in threads_of(fingerprint, threads, places):
        thread = threads.get(key)
        destination, alerts = places.get(key, (None, {}))
        channel = thread.channel if thread is not None else destination.channel if destination else ""
        route = thread.route if thread is not None else destination.route.name if destination else ""
        way = thread.way if thread is not None else destination.way if destination else Way.PAGE
        queued = thread.queued if thread is not None else None
        one = waiting.get(queued.key) if queued is not None else None
        told = thread is not None and fingerprint in thread.told and thread.told[fingerprint].sure
        if channel not in health:
            found.append(Wait(channel, route, WaitsFor.CHANNEL, 0, 0, ""))
        elif one is not None:
            held, failed = health[channel].held, bool(health[channel].failing_since_ms)
            what = WaitsFor.MENDING if held else WaitsFor.RETRY if failed else WaitsFor.TURN
            why = one.detail or (health[channel].last_error if failed else "")
            found.append(Wait(channel, route, what, 0, one.attempts, why))
        elif way is Way.DIGEST:
            if thread is None or fingerprint in thread.told:
                found.append(Wait(channel, route, WaitsFor.DIGEST, digest_ms, 0, ""))
        elif fingerprint in alerts or told:
            found.append(
                Wait(channel, route, WaitsFor.REPEAT if told else WaitsFor.GROUP, due.get(key, 0), 0, "")
            )
    return found


def notices_about(fingerprint: str, rows: Iterable[NoticeRow], knowing: frozenset[str]) -> list[About]:
    """Those of the notices that speak of an alert, newest first; of the threads in `knowing` also those that count
    alerts which they do not list.
    """
    found: dict[str, About] = {}
    for row in rows:
        about = None if row.notice_key in found else _about(fingerprint, row, row.thread_key in knowing)
        if about is not None:
            found[row.notice_key] = about
    return sorted(found.values(), key=lambda one: (-one.row.created_ms, one.row.notice_key))


def _about(fingerprint: str, row: NoticeRow, knows: bool) -> About | None:
    try:
        text = zlib.decompressobj().decompress(row.body, NOTICE_BYTES_MAX)
        # Most notices speak of others: they are not worth being parsed.
        if fingerprint.encode() not in text and not knows:
            return None
        document = json.loads(text)
        listed = [one for one in document["alerts"] if one["fingerprint"] == fingerprint]
        if not listed and not (knows and document["alerts_left_out"]):
            return None
        return About(row, str(document["route"]), str(listed[0]["status"]) if listed else "")
    except (zlib.error, ValueError, KeyError, TypeError):
        return None  # It cannot be read: the outbox counts it.
