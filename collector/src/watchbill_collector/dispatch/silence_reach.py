"""Which silences somebody with a scope sees, and which of them are his to end.

- He ends what reaches nothing outside of his scope: what was made within it, or names hosts of his alone.
- He sees that, and what could hush something of his: a silence whose matchers on the name and the bound labels of one
  of his hosts hold for it. What else a matcher asks for - an alert's name, a device - any alert may have.

Reading is asked for rarely and may take long with many hosts: not on the loop.
"""

from collections.abc import Mapping, Sequence

from watchbill_collector.dispatch.silence import Silence
from watchbill_collector.matching import Matcher, MatchOp, alternatives
from watchbill_collector.scopes import INSTANCE, Bindings, Scope, View


class Reach:
    """What one caller has, as it stands now."""

    def __init__(self, view: View, bindings: Bindings) -> None:
        self._view = view
        self._hosts: dict[str, Mapping[str, str]] = {}
        if not view.whole:
            self._hosts = {name: bound for name, bound in bindings.hosts() if view.host(name, bound)}
        # Many hosts are bound to the same few label sets.
        self._kinds = [dict(kind) for kind in {tuple(sorted(one.items())) for one in self._hosts.values()}]

    def holds(self, silence: Silence) -> bool:
        """Whether the silence reaches nothing outside."""
        if self._view.scopes is None:
            return True
        made_in = silence.scope.scopes
        if made_in and all(any(_implies(one, mine) for mine in self._view.scopes) for one in made_in):
            return True
        names = _named(silence.match.matchers)
        return bool(names) and names is not None and names <= self._hosts.keys()

    def touches(self, silence: Silence) -> bool:
        """Whether the silence could hush something of a host inside."""
        if self._view.scopes is None:
            return True
        about = [one for one in silence.match.matchers if one.name == INSTANCE]
        if not about and silence.scope.whole:
            return any(_possible(silence, kind) for kind in self._kinds)
        names = _named(about)
        near = self._hosts
        if names is not None:
            near = {name: self._hosts[name] for name in names & near.keys()}
        return any(
            silence.scope.host(name, bound) and _possible(silence, {**bound, INSTANCE: name})
            for name, bound in near.items()
        )


def _possible(silence: Silence, known: Mapping[str, str]) -> bool:
    """Whether an alert with these labels, and others besides, could be meant."""
    return all(one.name not in known or one.matches(known[one.name]) for one in silence.match.matchers)


def _named(matchers: Sequence[Matcher]) -> frozenset[str] | None:
    """The hosts that matchers name one by one; None when they do not."""
    for one in matchers:
        if one.name == INSTANCE:
            values = _values(one)
            if values is not None:
                return values
    return None


def _values(matcher: Matcher) -> frozenset[str] | None:
    """The values that a matcher lets pass, where it names them."""
    if matcher.op is MatchOp.EQUAL:
        return frozenset({matcher.value})
    return alternatives(matcher.value) if matcher.op is MatchOp.REGEX else None


def _implies(inner: Scope, outer: Scope) -> bool:
    """Whether everything in the one scope is in the other, as far as that can be told from the words."""
    return all(wanted in inner.matchers or _assured(inner, wanted) for wanted in outer.matchers)


def _assured(inner: Scope, wanted: Matcher) -> bool:
    for one in inner.matchers:
        values = _values(one) if one.name == wanted.name else None
        if values is not None and all(map(wanted.matches, values)):
            return True
    return False
