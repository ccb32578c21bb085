"""The short form of a threshold, and the PromQL that it means.

    - name: DiskFull
      metric: node_filesystem_used_ratio      # or expr: any PromQL
      where: fstype!="tmpfs"
      above: 0.9
      clear: 0.85
      for: 10m
      severity: major
      overrides:
        - { mount: /backup, above: 0.98, clear: 0.97 }
        - { host: scratch1, off: true }

A threshold becomes one alerting rule, and one more for each override that is not `off`. All of them have its name.

**Enter and clear.** With E for what is looked at, A for `above`, C for `clear` and N for the name:

    E > A or E > C and ignoring (alertname, alertstate, severity) ALERTS{alertname="N",alertstate="firing"}

The second part can only hold for a label set that fires already: `ALERTS` has the labels of the result, without the
metric's name and with the rule's own labels added, so ignoring just those pairs each result with its own alert,
whatever its labels are. A pending alert gets no help from it: to fire, the value has to stay beyond A for all of
`for`. Once it fires it is given for as long as the value is beyond C. After a restart the alerts that are taken up are
written to `ALERTS` before the first evaluation, so the memory outlives the process.

**Overrides.** The first one that matches a result decides; those before it, and every override for the threshold
itself, are taken out with `unless`. A matcher speaks of labels of the result. PromQL filters results only by joining
them, so each override is joined, on the labels that it names, with the series it is about:

    (...) and on (mountpoint) node_filesystem_size_bytes{mountpoint="/backup"}

Where a plain metric is looked at, and one matcher decides, it stands in the selector instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from watchbill_collector.promql import ast
from watchbill_collector.promql.text import label_text, quoted
from watchbill_collector.rules.needs import every
from watchbill_collector.series import Matcher, MatchOp

_OPPOSITE = {
    MatchOp.EQUAL: MatchOp.NOT_EQUAL,
    MatchOp.NOT_EQUAL: MatchOp.EQUAL,
    MatchOp.REGEX: MatchOp.NOT_REGEX,
    MatchOp.NOT_REGEX: MatchOp.REGEX,
}
ALERT_LABELS = ("alertname", "alertstate")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a threshold is crossed, and when it is over. At least one of `above` and `below` is a number; with both, the
    value has to leave the band between them. `clear` belongs to the one that is given; None is the same value."""

    above: float | None = None
    below: float | None = None
    clear: float | None = None

    def text(self) -> str:
        """In words."""
        parts = []
        if self.above is not None:
            parts.append(f"above {number_text(self.above)}")
        if self.below is not None:
            parts.append(f"below {number_text(self.below)}")
        words = " or ".join(parts)
        return words if self.clear is None else f"{words}, clears at {number_text(self.clear)}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at. `selector` is the series that matchers are about: the metric itself (`plain`), or the first
    metric of an expression; None where it has none."""

    text: str
    plain: bool
    selector: ast.Selector | None

    @staticmethod
    def of(expr: ast.Expr) -> "Subject":
        """What a metric or an expression looks at."""
        bare = ast.bare(expr)
        plain = isinstance(bare, ast.Selector) and not bare.offset_ms and bare.at is None
        found = next((part for part in every(expr) if isinstance(part, ast.Selector)), None)
        several = isinstance(bare, ast.Binary | ast.Negation)
        return Subject(f"({bare})" if several else str(bare), plain, found)


def compiled(
    subject: Subject,
    limits: Limits,
    name: str,
    labels: Sequence[tuple[str, str]],
    *,
    where: Sequence[Matcher] = (),
    only: Sequence[Matcher] = (),
    but: Sequence[Sequence[Matcher]] = (),
) -> str:
    """The PromQL of one rule.

    `labels` are those that the rule adds. `where` and `only` have to match, and none of `but`.
    """
    inside: list[Matcher] = []
    joins: list[str] = []
    if subject.plain:
        inside += [*where, *only]
        inside += [_opposite(matchers[0]) for matchers in but if len(matchers) == 1]
        but = [matchers for matchers in but if len(matchers) > 1]
    else:
        joins += [_join("and", subject, matchers) for matchers in (where, only) if matchers]
    joins += [_join("unless", subject, matchers) for matchers in but]
    looked_at = subject.text
    if inside:
        looked_at = _selected(subject, inside)
    condition = _condition(looked_at, limits, name, labels)
    return f"({condition}) {' '.join(joins)}" if joins else condition


def _condition(looked_at: str, limits: Limits, name: str, labels: Sequence[tuple[str, str]]) -> str:
    sides = []
    if limits.above is not None:
        sides.append((">", limits.above))
    if limits.below is not None:
        sides.append(("<", limits.below))
    parts = [f"{looked_at} {op} {number_text(limit)}" for op, limit in sides]
    if limits.clear is not None and limits.clear != sides[0][1]:
        ignored = ", ".join(label_text(each) for each in (*ALERT_LABELS, *(label for label, _ in labels)))
        constant = {label: text for label, text in labels if text and "{{" not in text}
        own = {"alertname": name, "alertstate": "firing", **constant}
        alerts = ",".join(f"{label_text(label)}={quoted(text)}" for label, text in own.items())
        clear = f"{looked_at} {sides[0][0]} {number_text(limits.clear)}"
        parts.append(f"{clear} and ignoring ({ignored}) ALERTS{{{alerts}}}")
    return " or ".join(parts)


def _join(word: str, subject: Subject, matchers: Sequence[Matcher]) -> str:
    assert subject.selector is not None, "the reader has refused matchers without a metric"
    on = ", ".join(label_text(name) for name in dict.fromkeys(matcher.name for matcher in matchers))
    return f"{word} on ({on}) {_selected(subject, matchers)}"


def _selected(subject: Subject, more: Sequence[Matcher]) -> str:
    selector = subject.selector
    assert selector is not None
    matchers = tuple(dict.fromkeys((*selector.matchers, *more)))
    return ast.Selector(selector.name, matchers).bare()


def _opposite(matcher: Matcher) -> Matcher:
    return Matcher(matcher.name, _OPPOSITE[matcher.op], matcher.value)


def number_text(value: float) -> str:
    """A number as PromQL has it."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def matchers_text(matchers: Sequence[Matcher]) -> str:
    """Matchers as people write them."""
    return ",".join(f"{label_text(each.name)}{each.op.value}{quoted(each.value)}" for each in matchers)
