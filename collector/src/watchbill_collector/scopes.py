"""Scopes: which part of the hosts somebody may see and change.

A scope is a selector on labels that were bound to a host when it was enrolled: those alone decide, because a host
says of itself what it likes. `View` is what one caller sees, the union of the scopes of his grants.

Three kinds of things are judged, each by `View`:

- a host, by its bound labels and its name (`host`);
- what is about a host - an alert, a gap, an event - by the host that its `instance` names, whatever else it carries;
  what names a host that is not known belongs to nobody's scope (`covers`);
- what is about no host - a sum over a team, an alert on it - by its own labels.

A scope has to demand something that must be there: `team!="b"` alone would take in every host that nobody has
thought of yet.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from watchbill.config import NotWanted, Selector
from watchbill.errors import UsageError
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp

INSTANCE: Final = "instance"
SCOPE_CHARACTERS_MAX: Final = 500
SCOPES_CACHED_MAX: Final = 1_024
_SHORT: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z0-9_.:@/-]+)\s*", re.ASCII)
_RESERVED: Final = frozenset({"__name__", "alertname", "alertstate"})
_QUOTED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


@dataclass(frozen=True, slots=True)
class Scope:
    """A selector, read. `text` is the one spelling of its meaning."""

    text: str
    matchers: tuple[Matcher, ...]

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is inside."""
        return all(matcher.matches(labels.get(matcher.name, "")) for matcher in self.matchers)


@lru_cache(SCOPES_CACHED_MAX)
def parse_scope(text: str) -> Scope:
    """Read `team="a",site=~"b.*"`, or short `team=a`. Raises UsageError."""
    if not text.strip() or len(text) > SCOPE_CHARACTERS_MAX:
        raise UsageError(f"a scope has 1 to {SCOPE_CHARACTERS_MAX} characters, such as team=a")
    parts = text.split(",")
    short = [_SHORT.fullmatch(part) for part in parts]
    if all(short):
        text = ",".join(f'{match[1]}="{match[2]}"' for match in short if match)
    try:
        conditions = Selector.from_config(text).conditions
    except NotWanted as exc:
        raise UsageError(f"the scope {text!r} cannot be read: wanted {exc}") from exc
    matchers = tuple(Matcher(one.name, MatchOp(one.op), one.value) for one in conditions)
    try:
        demands = any(not matcher.matches("") for matcher in matchers)
    except InvalidRegex as exc:
        raise UsageError(f"the scope {text!r} cannot be read: {exc}") from exc
    if not demands:
        raise UsageError(
            f'the scope {text!r} demands nothing that has to be there: add a matcher such as team="a"'
        )
    if any(matcher.name in _RESERVED for matcher in matchers):
        raise UsageError(f"the scope {text!r} names {', '.join(sorted(_RESERVED))}; wanted labels of hosts")
    return Scope(_spelled(matchers), matchers)


def _spelled(matchers: Iterable[Matcher]) -> str:
    return ",".join(f'{one.name}{one.op.value}"{one.value.translate(_QUOTED)}"' for one in matchers)


class Bindings(Protocol):
    """Which labels hosts were given at enrolment. Asked often: nothing here may block."""

    @property
    def generation(self) -> int:
        """Grows whenever anything here changes."""

    def bound(self, instance: str) -> Mapping[str, str] | None:
        """The bound labels of the host of that name, a live one before a past one; None when there is none."""

    def hosts(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Every host that is listed, by name, with its bound labels; a name may be there twice."""


class NoBindings:
    """Nobody is known, so whatever names a host is outside of every scope."""

    generation = 0

    def bound(self, instance: str) -> Mapping[str, str] | None:  # noqa: ARG002 - The protocol's.
        """Nobody."""
        return None

    def hosts(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Nobody."""
        return ()


@dataclass(frozen=True, slots=True)
class View:
    """What a caller sees: everything (`scopes` is None), or what any of the scopes takes in."""

    scopes: tuple[Scope, ...] | None

    @staticmethod
    def of(texts: Iterable[str]) -> "View":
        """From the scopes of grants; an empty text is everything. One that cannot be read takes in nothing."""
        found: dict[str, Scope] = {}
        for text in texts:
            if not text:
                return EVERYTHING
            try:
                scope = parse_scope(text)
            except UsageError:
                continue
            found[scope.text] = scope
        return View(tuple(found[text] for text in sorted(found)))

    @property
    def whole(self) -> bool:
        """Whether nothing is hidden."""
        return self.scopes is None

    @property
    def text(self) -> str:
        """For people."""
        if self.scopes is None:
            return "everything"
        return " or ".join("{" + scope.text + "}" for scope in self.scopes) or "nothing"

    def host(self, name: str, bound: Mapping[str, str]) -> bool:
        """Whether a host is inside, by its name and the labels it was bound to."""
        return self.scopes is None or self._holds({**bound, INSTANCE: name})

    def covers(self, labels: Mapping[str, str], bindings: Bindings) -> bool:
        """Whether something with these labels is inside: by the host that it names, or by itself when it names
        none.
        """
        if self.scopes is None:
            return True
        instance = labels.get(INSTANCE, "")
        if not instance:
            return self._holds(labels)
        bound = bindings.bound(instance)
        return bound is not None and self.host(instance, bound)

    def _holds(self, labels: Mapping[str, str]) -> bool:
        return any(scope.holds(labels) for scope in self.scopes or ())


EVERYTHING: Final = View(None)
NOTHING: Final = View(())
