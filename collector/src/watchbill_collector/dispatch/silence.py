"""A silence: somebody wants to hear nothing of some alerts for a while, says why, and it ends by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from watchbill_collector.dispatch.matchers import Match
from watchbill_collector.scopes import EVERYTHING, Bindings, NoBindings, View

SILENCE_S_MAX = 366 * 86_400
"""The longest silence. What is to be quiet for ever is a rule to be changed."""
SILENCES_MAX = 10_000
"""Silences that have not ended; one more is refused."""
REASON_CHARACTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Silence:
    """`ends_ms` is moved to the moment of expiry when somebody ends it early, and `expired_by` says who.

    `scope` is what its author could see when he made it: whatever the matchers say, it silences nothing else. Labels
    alone could not keep it there, because a host says of itself what it likes; so the host that an alert names has to
    be one that was enrolled into the scope, by the `bindings` as they are of `generation`.
    """

    silence_id: str
    match: Match
    reason: str
    author: str
    created_ms: int
    starts_ms: int
    ends_ms: int
    expired_by: str = ""
    scope: View = EVERYTHING
    bindings: Bindings = field(default_factory=NoBindings, compare=False, repr=False)
    generation: int = 0

    def silences(self, labels: Mapping[str, str]) -> bool:
        """Whether it means an alert with these labels, at whatever time."""
        return self.match.matches(labels) and self.scope.covers(labels, self.bindings)

    def active(self, now_ms: int) -> bool:
        """Whether it silences now."""
        return self.starts_ms <= now_ms < self.ends_ms

    def state(self, now_ms: int) -> str:
        """In Alertmanager's words: pending, active or expired."""
        return "pending" if now_ms < self.starts_ms else "active" if now_ms < self.ends_ms else "expired"
