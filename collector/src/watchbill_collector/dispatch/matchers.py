"""Matchers on an alert's labels: what routes, silences and maintenance windows are made of.

The spelling is PromQL's, `alertname="HostSilent",instance=~"web.*"`, in braces or not. Regular expressions are
RE2 and match the whole value; a label that is missing has the value "".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from watchbill.config import NotWanted, Selector
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp

MATCHERS_TEXT_MAX = 4_096
"""Characters of one selector."""
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


class BadMatchers(ValueError):
    """A selector that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Match:
    """Matchers that all have to hold; none at all hold for every alert."""

    matchers: tuple[Matcher, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels is meant."""
        return all(matcher.matches(labels.get(matcher.name, "")) for matcher in self.matchers)

    @property
    def text(self) -> str:
        """One spelling for one meaning, which reads back as this."""
        inner = (f'{one.name}{one.op.value}"{one.value.translate(_QUOTED)}"' for one in self.matchers)
        return "{" + ",".join(inner) + "}"


def compiled(selector: Selector) -> Match:
    """The matchers of a selector from a file. Raises BadMatchers for a regular expression RE2 does not take."""
    matchers = []
    for one in selector.conditions:
        matcher = Matcher(one.name, MatchOp(one.op), one.value)
        try:
            matcher.check()
        except InvalidRegex as exc:
            raise BadMatchers(f"{one.name}{one.op}: {exc.reason}") from None
        matchers.append(matcher)
    return Match(tuple(matchers))


def read_match(text: str) -> Match:
    """The matchers that a person typed. Raises BadMatchers."""
    if len(text) > MATCHERS_TEXT_MAX:
        raise BadMatchers(f"{len(text)} characters, at most {MATCHERS_TEXT_MAX} are taken")
    if "\x00" in text:
        raise BadMatchers("a NUL character")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadMatchers("half of a character (a lone surrogate)")
    try:
        return compiled(Selector.from_config(text))
    except NotWanted as exc:
        raise BadMatchers(f"wanted {exc}") from None


def any_matches(matches: Iterable[Match], labels: Mapping[str, str]) -> bool:
    """Whether one of several means these labels."""
    return any(match.matches(labels) for match in matches)
