"""The hosts that a runbook may be about: who they are, and what each allows to be run on it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from watchbill.actions.definition import Action
from watchbill.config import Selector
from watchbill_collector.matching import Matcher, MatchOp

INSTANCE: Final = "instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHost:
    """A host by its name. `labels` are those that were bound at its enrolment; `actions` are what it allows, by name;
    None: it has not said."""

    name: str
    agent: str
    labels: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, Action] | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts by their names."""

    hosts: Mapping[str, KnownHost]

    def host(self, name: str) -> KnownHost | None:
        """One."""
        return self.hosts.get(name)

    def selected(self, selector: str) -> tuple[KnownHost, ...]:
        """Those that a selector takes in, by name. It was read before."""
        matchers = _matchers(selector)
        return tuple(
            host
            for _, host in sorted(self.hosts.items())
            if all(
                one.matches(host.name if one.name == INSTANCE else host.labels.get(one.name, ""))
                for one in matchers
            )
        )

    def allowing(self, action: str) -> Iterator[KnownHost]:
        """Hosts that allow an action."""
        return (host for _, host in sorted(self.hosts.items()) if action in (host.actions or {}))


@lru_cache(1_024)
def _matchers(selector: str) -> tuple[Matcher, ...]:
    conditions = Selector.from_config(selector).conditions
    return tuple(Matcher(one.name, MatchOp(one.op), one.value) for one in conditions)
