"""Posts to an incoming webhook of Slack, Mattermost or Rocket.Chat, or what understands the same.

The address is the secret, so it stands in `url_file`. Text from hosts is made harmless: no mention of
everybody, no link whose text is another than its address. Slack answers `ok` with status 200, and some
mistakes with status 200, too, so the body is judged as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from watchbill.config import Wrong, option
from watchbill_collector.notifiers.channel import Channel, Surroundings
from watchbill_collector.notifiers.document import encode
from watchbill_collector.notifiers.filling import Words, words
from watchbill_collector.notifiers.notice import Delivered, Notice, NoticeKind, SendFailed
from watchbill_collector.notifiers.peer import (
    Answer,
    Peer,
    ReachedInWords,
    address,
    origin,
    plain_url_wrongs,
    refuse_unless_ok,
    url_wrongs,
)
from watchbill_collector.notifiers.secret import SecretFile
from watchbill_collector.notifiers.story import AlertStory, facts

TEXT_CHARS_MAX: Final = 3_500
"""Slack cuts at 4,000, Mattermost splits at 4,000: what is longer ends with how much is missing."""
_INVISIBLE: Final = "\u200b"
_COLOURS: Final = {"critical": "#c62828", "major": "#ef6c00", "minor": "#f9a825"}
_CALM: Final = "#546e7a"
_OVER: Final = "#2e7d32"

Style = Literal["slack", "mattermost", "rocketchat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ReachedInWords):
    """Slack, Mattermost, Rocket.Chat."""

    url_file: SecretFile | None = option(
        None, help="File with the webhook's address: whoever has it can write to the channel."
    )
    url: str = option(
        "",
        check=url_wrongs,
        help="The address, where it is no secret.",
    )
    style: Style = option("slack", help="Whose webhook it is.")
    channel: str = option("", length_max=100, help="Another channel than the webhook's own, where it may.")
    username: str = option("", length_max=80, help="The name it speaks under, where the webhook may choose.")

    def check(self) -> Iterator[Wrong]:
        """One address, and not in the clear by accident."""
        if bool(self.url) == (self.url_file is not None):
            yield Wrong("url_file", "both" if self.url else "nothing", "either url_file or url")
        yield from plain_url_wrongs("url", self.url, insecure=self.insecure)


class Slack(Channel):
    """One message a notice."""

    kind = "slack"
    options_type = Options

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._peer = Peer(options, surroundings)

    async def send(self, notice: Notice) -> Delivered:
        """Post it; accepted when status and body both say so."""
        url, secrets = address(self._options.url, self._options.url_file)
        said = words(notice, self._options.title, self._options.text)
        body = encode(message(notice, said, self._options))
        answer = await self._peer.post(url, body, {}, secrets)
        refuse_unless_ok(answer, origin(url))
        return accepted(answer, origin(url), self._options.style)

    def ready(self) -> None:
        """The address is there."""
        self._peer.ready()
        address(self._options.url, self._options.url_file)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.close()


def accepted(answer: Answer, where: str, style: Style) -> Delivered:
    """Judge the body of a 2xx. Raises SendFailed."""
    if answer.trouble:
        raise SendFailed(f"{where}: the answer broke off: {answer.trouble}", transient=True)
    text = answer.body.decode("utf-8", "replace").strip()
    if text == "ok" or (style == "rocketchat" and _succeeded(text)):
        return Delivered(answer.text())
    raise SendFailed(f"{where}: {answer.status}, but it says: {answer.text() or 'nothing'}", transient=False)


def _succeeded(text: str) -> bool:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and found.get("success") is True


def message(notice: Notice, said: Words, options: Options) -> dict[str, Any]:
    """The webhook's JSON."""
    style = options.style
    title = harmless(said.title, style)
    attachment: dict[str, Any] = {
        "fallback": title,
        "color": _colour(notice),
        "title": title,
        "text": _text(said, style),
        "mrkdwn_in": ["text"],
        "footer": harmless(said.story.footer, style),
    }
    if said.story.link:
        attachment["title_link"] = said.story.link
    document: dict[str, Any] = {"text": "", "attachments": [attachment]}
    if options.channel:
        document["channel"] = options.channel
    if options.username:
        document["username"] = options.username
    return document


def _colour(notice: Notice) -> str:
    return _OVER if notice.kind is NoticeKind.RESOLVED else _COLOURS.get(notice.severity, _CALM)


def _text(said: Words, style: Style) -> str:
    if said.own_text:
        return _bounded([harmless(said.text, style)])
    story = said.story
    parts = [f"*NOTE: {harmless(story.remark, style)}*"] if story.remark else []
    if story.lead:
        parts.append(harmless(story.lead, style))
    parts += [_alert(alert, style) for alert in story.alerts]
    return _bounded(parts, harmless(f"... {story.more}" if story.more else "", style))


def _alert(alert: AlertStory, style: Style) -> str:
    rows = [f"{'' if alert.firing else 'RESOLVED: '}{harmless(alert.headline, style)}"]
    rows.append(harmless(alert.since, style))
    rows += [f"{name}: {harmless(text, style)}" for name, text in facts(alert)]
    rows += [harmless(part, style) for part in alert.detail.split("\n") if part]
    rows += [f"{link.name}: {_link(link.url, link.text, style)}" for link in alert.links]
    return "\n".join(rows)


def _link(url: str, text: str, style: Style) -> str:
    """The address as it is: what is shown is where it leads."""
    if not url:
        return harmless(text, style)
    return f"<{escaped(url)}>" if style == "slack" else escaped(url)


def _bounded(parts: list[str], more: str = "") -> str:
    """Whole parts up to the bound, and how many are missing."""
    kept: list[str] = []
    size = 0
    for part in parts:
        piece = part if len(part) <= TEXT_CHARS_MAX else _cut(part)
        if size + len(piece) + 2 > TEXT_CHARS_MAX and kept:
            break
        kept.append(piece)
        size += len(piece) + 2
    missing = len(parts) - len(kept)
    if missing:
        kept.append(f"... {missing} more here do not fit" + (f", {more[4:]}" if more else ""))
    elif more:
        kept.append(more)
    return "\n\n".join(kept)


def _cut(part: str) -> str:
    """Not in the middle of an entity."""
    head = part[: TEXT_CHARS_MAX - 1]
    start = head.rfind("&")
    if start >= 0 and ";" not in head[start:]:
        head = head[:start]
    return head + "…"


def escaped(text: str) -> str:
    """The three characters that Slack wants escaped; `<!channel>` and `<url|text>` are gone with them."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def harmless(text: str, style: Style) -> str:
    """Text that notifies nobody and links nowhere but where it says.

    Mattermost and Rocket.Chat read Markdown and plain @mentions: an invisible space takes both apart.
    """
    text = escaped(text)
    if style == "slack":
        return text
    return text.replace("](", f"]{_INVISIBLE}(").replace("@", f"@{_INVISIBLE}")
