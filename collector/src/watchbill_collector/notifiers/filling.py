"""The `title` and `text` that a channel's owner writes himself, filled in with the notice.

They are the templates of rule annotations, with the notice's words as variables: `$title` and `$text` (what
would be said without a template), `$list`, `$status`, `$kind`, `$severity`, `$labels`, `$annotations`,
`$groupLabels`, `$value`, `$count`, `$since`, `$service`, `$owner`, `$channel`, `$route`, `$url`.
A template that fails costs nothing but itself: the default words go out, and say what failed.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from watchbill_collector.notifiers.hostile import line, lines
from watchbill_collector.notifiers.notice import Notice
from watchbill_collector.notifiers.story import TITLE_CHARS_MAX, Story, as_text, moment, tell
from watchbill_collector.notifiers.trial import trial_notice
from watchbill_collector.rules.template import Template
from watchbill_collector.rules.template_expressions import BadTemplate, Scope
from watchbill_collector.rules.template_functions import Failed

TEXT_CHARS_MAX: Final = 30_000
"""What the text of one message may have; the default words of twenty alerts stay far below."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a message says: `text` has no title in it. `story` is what both were made of."""

    title: str
    text: str
    story: Story
    own_text: bool
    """Whether the text is the owner's template, and not the story's."""


def template_fault(text: str) -> str:
    """What is wrong with a template, in words for its owner; "" when nothing is."""
    try:
        template = Template.parse(text)
        template.fill(_scope(_EXAMPLE, tell(_EXAMPLE)))
    except BadTemplate as error:
        return str(error)
    except Failed as error:
        # These are mistakes in any notice; the rest may depend on what the labels are.
        always = ("undefined variable", "can't iterate over")
        return str(error) if any(words in str(error) for words in always) else ""
    return ""


def words(notice: Notice, title: str = "", text: str = "") -> Words:
    """The words of a notice, by the owner's templates where there are some. Never fails."""
    story = tell(notice)
    failures: list[str] = []
    scope = _scope(notice, story)
    own_title = _filled("title", title, scope, failures)
    own_text = _filled("text", text, scope, failures)
    if failures:
        remark = "; ".join([notice.remark, *failures] if notice.remark else failures)
        story = tell(replace(notice, remark=remark))
    return Words(
        line(own_title, TITLE_CHARS_MAX) or story.title,
        lines(own_text, TEXT_CHARS_MAX) or lines(as_text(story), TEXT_CHARS_MAX),
        story,
        bool(own_text),
    )


def _filled(name: str, source: str, scope: Scope, failures: list[str]) -> str:
    if not source:
        return ""
    try:
        return Template.parse(source).fill(scope)
    except (BadTemplate, Failed) as error:
        failures.append(f"the channel's template `{name}` failed: {line(str(error), 200)}")
        return ""


def _scope(notice: Notice, story: Story) -> Scope:
    first = min(notice.alerts, key=lambda alert: alert.starts_ms, default=None)
    labels = dict(notice.common_labels)
    value = first.value if first is not None and first.value is not None else math.nan
    scope = Scope(labels, value, {}, notice.external_url, notice.created_ms / 1000)
    scope.variables = {
        "title": story.title,
        "text": as_text(story),
        "list": "\n".join(alert.headline for alert in story.alerts),
        "status": "resolved" if notice.resolved else "firing",
        "kind": notice.kind.value,
        "severity": notice.severity,
        "labels": labels,
        "annotations": dict(notice.common_annotations),
        "groupLabels": dict(notice.group_labels),
        "value": value,
        "count": len(notice.alerts) + notice.alerts_left_out,
        "since": moment(first.starts_ms) if first is not None else "",
        "service": first.service if first is not None else "",
        "owner": first.owner if first is not None else "",
        "channel": notice.channel,
        "route": notice.route,
        "url": notice.external_url,
        "externalLabels": {},
        "externalURL": notice.external_url,
    }
    scope.dot = scope.root() | {"Annotations": dict(notice.common_annotations), "Status": "firing"}
    return scope


_EXAMPLE: Final = trial_notice("example", 0, "http://127.0.0.1:7480", "somebody", "example")
