"""What a notice says, before any format: the default words, chosen for somebody who was asleep a minute ago.

What is wrong comes first, then where, since when, the value, whose it is, and what to do about it. Pure: a
notice goes in, a `Story` of clean, bounded text comes out; text, HTML and the formats of other systems are
made from it and escape it for themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from watchbill_collector.notifiers.hostile import line, lines, web_link
from watchbill_collector.notifiers.notice import Notice, NoticeAlert, NoticeKind
from watchbill_collector.rules.golang import four_digits, humanize_duration

ALERTS_SHOWN_MAX: Final = 20
"""Alerts that a message for people lists; the rest is a number."""
TITLE_CHARS_MAX: Final = 160
HEADLINE_CHARS_MAX: Final = 300
DETAIL_CHARS_MAX: Final = 1_500
VALUE_CHARS_MAX: Final = 200
LABELS_SHOWN_MAX: Final = 16

_SUMMARIES: Final = ("summary", "title", "message")
_DESCRIPTIONS: Final = ("description", "message")
_LINKS: Final = (
    ("runbook_url", "runbook"),
    ("runbook", "runbook"),
    ("article", "article"),
    ("dashboard_url", "dashboard"),
    ("dashboard", "dashboard"),
)
"""Annotations that lead somewhere, and what they are called."""
_TOLD_ELSEWHERE: Final = frozenset({"alertname", "severity", "__name__"})
_WHERE: Final = ("instance", "host", "backup", "check", "device", "mountpoint", "unit", "name")
"""Labels that say where, in the order of how much they say."""


@dataclass(frozen=True, slots=True)
class Link:
    """Something to open or to look up: `url` is "" where the text names a runbook or an article of ours."""

    name: str
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class AlertStory:
    """One alert in words."""

    headline: str
    firing: bool
    since: str
    value: str
    service: str
    owner: str
    detail: str
    where: tuple[tuple[str, str], ...]
    links: tuple[Link, ...]
    marks: tuple[str, ...]
    """What to know about the verdict itself, such as that it was judged on incomplete data."""


@dataclass(frozen=True, slots=True)
class Story:
    """A notice in words."""

    title: str
    lead: str
    """One sentence under the title; "" where the title says it all."""
    alerts: tuple[AlertStory, ...]
    more: str
    """How many alerts are not listed; "" when all are."""
    remark: str
    link: str
    """The collector's page; "" where its address is not known."""
    footer: str


def tell(notice: Notice) -> Story:
    """The story of a notice."""
    order = sorted(notice.alerts, key=lambda alert: (alert.status != "firing", alert.starts_ms))
    shown = order[:ALERTS_SHOWN_MAX]
    left = len(order) - len(shown) + notice.alerts_left_out
    return Story(
        title=title(notice),
        lead=_lead(notice),
        alerts=tuple(_alert(alert, notice.created_ms) for alert in shown),
        more=f"and {left} more" if left and shown else (f"{left} alerts" if left else ""),
        remark=lines(notice.remark, DETAIL_CHARS_MAX),
        link=web_link(notice.external_url),
        footer=_footer(notice),
    )


def title(notice: Notice) -> str:
    """The one line that has to say it all: a mail's subject, an incident's name."""
    if notice.kind is NoticeKind.PLAIN:
        return line(f"[WATCHBILL] {notice.remark}", TITLE_CHARS_MAX)
    what = _what(notice)
    return line(f"[{_badge(notice)}] {what}", TITLE_CHARS_MAX)


def _badge(notice: Notice) -> str:
    if notice.kind is NoticeKind.RESOLVED:
        return "RESOLVED"
    if notice.kind in (NoticeKind.TEST, NoticeKind.DIGEST):
        return notice.kind.name
    return line(notice.severity, 20).upper() or "ALERT"


def _what(notice: Notice) -> str:
    count = len(notice.alerts) + notice.alerts_left_out
    if notice.kind is NoticeKind.DIGEST:
        return f"{count} {'thing' if count == 1 else 'things'} to look at"
    if not notice.alerts:
        name = notice.common_labels.get("alertname") or notice.group_labels.get("alertname") or "alerts"
        return f"{name} ({count})" if count else name
    counted = [alert for alert in notice.alerts if notice.resolved or alert.status == "firing"]
    first = min(counted or notice.alerts, key=lambda alert: alert.starts_ms)
    if count == 1:
        return f"{_name(first)}: {_headline(first)}" if _summary(first) else _headline(first)
    firing = sum(alert.status == "firing" for alert in notice.alerts)
    if notice.resolved or not firing:
        number = f"{count} alerts"
    elif firing < len(notice.alerts):
        number = f"{firing} firing, {len(notice.alerts) - firing} resolved"
        number += f", {notice.alerts_left_out} more" if notice.alerts_left_out else ""
    else:
        number = f"{count} firing"
    names = sorted({_name(alert) for alert in notice.alerts})
    what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other rules"
    where = ", ".join(f"{key}={value}" for key, value in sorted(notice.group_labels.items()) if _tells(key))
    return f"{what} ({number})" + (f" {where}" if where else f", first: {_place(first)}")


def _tells(key: str) -> bool:
    return key not in _TOLD_ELSEWHERE


def _lead(notice: Notice) -> str:
    if notice.kind is NoticeKind.TEST:
        return f"A test of the channel {line(notice.channel, 64)}. Nothing is wrong, nobody needs to act."
    if notice.kind is NoticeKind.DIGEST:
        return "What was not worth waking anybody, collected."
    if notice.resolved and notice.alerts:
        began = min(alert.starts_ms for alert in notice.alerts)
        ended = max(alert.ends_ms or notice.created_ms for alert in notice.alerts)
        return f"All is over. It lasted {span(ended - began)}, until {moment(ended)}."
    return ""


def _alert(alert: NoticeAlert, now_ms: int) -> AlertStory:
    headline = _headline(alert)
    detail = next((alert.annotations[key] for key in _DESCRIPTIONS if alert.annotations.get(key)), "")
    detail = lines(detail, DETAIL_CHARS_MAX)
    if alert.status == "firing":
        since = f"since {moment(alert.starts_ms)}, {span(now_ms - alert.starts_ms)} ago"
    else:
        ended = alert.ends_ms if alert.ends_ms is not None else now_ms
        lasted = span(ended - alert.starts_ms)
        since = f"resolved {moment(ended)}, lasted {lasted} from {moment(alert.starts_ms)}"
    marks = []
    if alert.incomplete:
        marks.append("judged on incomplete data")
    if alert.silenced:
        marks.append("silenced")
    return AlertStory(
        headline=headline,
        firing=alert.status == "firing",
        since=since,
        value="" if alert.value is None else four_digits(alert.value),
        service=line(alert.service, VALUE_CHARS_MAX),
        owner=line(alert.owner, VALUE_CHARS_MAX),
        detail="" if detail == headline else detail,
        where=_where(alert.labels),
        links=_links(alert),
        marks=tuple(marks),
    )


def _name(alert: NoticeAlert) -> str:
    return line(alert.labels.get("alertname", ""), VALUE_CHARS_MAX) or "alert"


def _summary(alert: NoticeAlert) -> str:
    found = next((alert.annotations[key] for key in _SUMMARIES if alert.annotations.get(key)), "")
    return line(found, HEADLINE_CHARS_MAX)


def _headline(alert: NoticeAlert) -> str:
    """The summary, and the place where the summary does not name it: "Disk is full" helps nobody."""
    place = _place(alert)
    summary = _summary(alert) or _name(alert)
    if not place or any(part in summary for part in _places(alert)[:1]):
        return summary
    return line(f"{summary} on {place}", HEADLINE_CHARS_MAX)


def _places(alert: NoticeAlert) -> list[str]:
    return [line(alert.labels[key], VALUE_CHARS_MAX) for key in _WHERE if alert.labels.get(key)]


def _place(alert: NoticeAlert) -> str:
    return " ".join(_places(alert)[:2])


def _where(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    rank = {name: number for number, name in enumerate(_WHERE)}
    names = sorted((name for name in labels if _tells(name)), key=lambda name: (rank.get(name, 99), name))
    shown = [(line(name, 64), line(labels[name], VALUE_CHARS_MAX)) for name in names[:LABELS_SHOWN_MAX]]
    left = len(names) - len(shown)
    return (*shown, ("", f"and {left} more labels")) if left else tuple(shown)


def _links(alert: NoticeAlert) -> tuple[Link, ...]:
    found = []
    for key, name in _LINKS:
        text = alert.annotations.get(key, "")
        if text:
            found.append(Link(name, line(text, 500), web_link(text)))
    if web_link(alert.generator_url):
        found.append(Link("rule", web_link(alert.generator_url), web_link(alert.generator_url)))
    return tuple(found)


def _footer(notice: Notice) -> str:
    name = line(notice.route, 64)
    route = f", {name if name.startswith('route ') else f'route {name}'}" if name else ""
    return f"Watchbill, channel {line(notice.channel, 64)}{route}, {moment(notice.created_ms)}"


def moment(wall_ms: int) -> str:
    """A time for people; the zone is said because the reader's is another."""
    try:
        return f"{datetime.fromtimestamp(wall_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{wall_ms} ms"


def span(milliseconds: int) -> str:
    """How long, in the two largest units that matter: nobody needs the seconds of three days."""
    seconds = max(0, milliseconds // 1000)
    words = humanize_duration(float(seconds)).split(" ")
    return " ".join(words[:2])


# ---------------------------------------------------------------- as plain text


def as_text(story: Story) -> str:
    """The story as plain text, without its title."""
    parts: list[str] = []
    if story.remark:
        parts.append(f"NOTE: {story.remark}")
    if story.lead:
        parts.append(story.lead)
    parts += [_alert_text(alert) for alert in story.alerts]
    if story.more:
        parts.append(f"... {story.more}.")
    if story.link:
        parts.append(f"Everything that fires: {story.link}")
    return "\n\n".join(parts)


def _alert_text(alert: AlertStory) -> str:
    rows = [f"{'' if alert.firing else 'RESOLVED: '}{alert.headline}", f"  {alert.since}"]
    for name, text in facts(alert):
        rows.append(f"  {name}: {text}")
    rows += [f"  {part}" for part in alert.detail.split("\n") if part]
    rows += [f"  {link.name}: {link.text}" for link in alert.links]
    return "\n".join(rows)


def facts(alert: AlertStory) -> Sequence[tuple[str, str]]:
    """What is known about an alert besides its sentence, in the order in which one asks."""
    rows = [("value", alert.value), ("service", alert.service), ("owner", alert.owner)]
    where = " ".join(f"{name}={text}" if name else f"({text})" for name, text in alert.where)
    rows += [("where", where), ("note", ", ".join(alert.marks))]
    return [(name, text) for name, text in rows if text]
