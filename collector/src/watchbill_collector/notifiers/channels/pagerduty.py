"""Opens, keeps and resolves incidents through PagerDuty's Events API v2, or what speaks it.

A group of alerts is one incident: its `dedup_key` is made of the group's key, so that a repeat changes nothing
and the end resolves what the beginning opened. A test opens an incident of severity info and resolves it at once.
A digest is no incident and is refused: send it by mail.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from watchbill.config import Wrong, option
from watchbill_collector.notifiers.channel import Channel, Surroundings, read_secret
from watchbill_collector.notifiers.document import encode, rfc3339
from watchbill_collector.notifiers.filling import Words, words
from watchbill_collector.notifiers.hostile import line
from watchbill_collector.notifiers.notice import Delivered, Notice, NoticeKind, SendFailed
from watchbill_collector.notifiers.peer import (
    Answer,
    Peer,
    ReachedInWords,
    origin,
    plain_url_wrongs,
    refuse_unless_ok,
    url_wrongs,
)
from watchbill_collector.notifiers.secret import SecretFile

URL: Final = "https://events.pagerduty.com/v2/enqueue"
BAD_REQUEST: Final = 400
"""What a wrong routing key is answered with, and says so."""
SUMMARY_CHARS_MAX: Final = 1_024
TEXT_CHARS_MAX: Final = 20_000
"""An event may have 512 KB; nobody reads more than this on a telephone."""
SEVERITIES: Final[Mapping[str, str]] = {
    "critical": "critical",
    "page": "critical",
    "major": "error",
    "minor": "warning",
    "warning": "warning",
    "info": "info",
}
UNSAID: Final = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ReachedInWords):
    """PagerDuty's Events API v2."""

    routing_key_file: SecretFile = option(help="File with the integration's routing key.")
    url: str = option(URL, check=url_wrongs, help="Where to post, for what speaks the same.")

    def check(self) -> Iterator[Wrong]:
        """Not in the clear by accident."""
        yield from plain_url_wrongs("url", self.url, insecure=self.insecure)


class PagerDuty(Channel):
    """One incident a group."""

    kind = "pagerduty"
    options_type = Options
    instead_of_digest = "none"  # What is not worth a page must not become an incident.

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._peer = Peer(options, surroundings)

    async def send(self, notice: Notice) -> Delivered:
        """Trigger or resolve."""
        if notice.kind is NoticeKind.DIGEST:
            raise SendFailed(
                "pagerduty: a digest is no incident; route it to another channel", transient=False
            )
        action = "resolve" if notice.kind is NoticeKind.RESOLVED else "trigger"
        delivered = await self._enqueue(notice, action)
        if notice.kind is NoticeKind.TEST:
            await self._enqueue(notice, "resolve")
        return delivered

    async def _enqueue(self, notice: Notice, action: str) -> Delivered:
        key = read_secret(self._options.routing_key_file)
        said = words(notice, self._options.title, self._options.text)
        body = encode(event(notice, said, action, key.reveal()))
        answer = await self._peer.post(self._options.url, body, {}, [key])
        where = origin(self._options.url)
        if answer.status == BAD_REQUEST and b"routing" in answer.body.lower():
            raise SendFailed(f"{where}: {answer.status}, {answer.text()}", transient=True, unwelcome=True)
        refuse_unless_ok(answer, where)
        return accepted(answer, where)

    def ready(self) -> None:
        """The routing key is there."""
        self._peer.ready()
        read_secret(self._options.routing_key_file)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.close()


def accepted(answer: Answer, where: str) -> Delivered:
    """Judge the body of a 2xx. Raises SendFailed."""
    if answer.trouble:
        raise SendFailed(f"{where}: the answer broke off: {answer.trouble}", transient=True)
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict) and found.get("status") == "success":
        return Delivered(answer.text())
    raise SendFailed(f"{where}: {answer.status}, but it says: {answer.text() or 'nothing'}", transient=False)


def dedup_key(group_key: str) -> str:
    """At most 255 characters, whatever the group's labels are."""
    return hashlib.sha256(group_key.encode("utf-8", "replace")).hexdigest()


def event(notice: Notice, said: Words, action: str, routing_key: str) -> dict[str, Any]:
    """The event's JSON."""
    found: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": dedup_key(notice.group_key),
        "client": "Watchbill",
    }
    if action == "resolve":
        return found
    if said.story.link:
        found["client_url"] = said.story.link
    links = [
        {"href": link.url, "text": link.name}
        for alert in said.story.alerts
        for link in alert.links
        if link.url
    ]
    if links:
        found["links"] = links[:10]
    found["payload"] = _payload(notice, said)
    return found


def _payload(notice: Notice, said: Words) -> dict[str, Any]:
    first = min(notice.alerts, key=lambda alert: alert.starts_ms, default=None)
    labels = notice.common_labels
    payload: dict[str, Any] = {
        "summary": line(said.title, SUMMARY_CHARS_MAX),
        "source": line(labels.get("instance", ""), 200) or "watchbill",
        "severity": "info" if notice.kind is NoticeKind.TEST else SEVERITIES.get(notice.severity, UNSAID),
        "timestamp": rfc3339(first.starts_ms if first is not None else notice.created_ms),
        "class": line(labels.get("alertname", ""), 200),
        "component": line(first.service if first is not None else "", 200),
        "group": line(notice.route, 200),
        "custom_details": {
            "text": said.text[:TEXT_CHARS_MAX],
            "firing": sum(alert.status == "firing" for alert in notice.alerts) + notice.alerts_left_out,
            "labels": {line(name, 64): line(text, 300) for name, text in list(labels.items())[:32]},
        },
    }
    if notice.remark:
        payload["custom_details"]["note"] = line(notice.remark, 500)
    return {key: value for key, value in payload.items() if value != ""}
