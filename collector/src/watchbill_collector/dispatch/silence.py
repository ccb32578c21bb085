"""A silence: somebody wants to hear nothing of some alerts for a while, says why, and it ends by itself."""

from dataclasses import dataclass

from watchbill_collector.dispatch.matchers import Match

SILENCE_S_MAX = 366 * 86_400
"""The longest silence. What is to be quiet for ever is a rule to be changed."""
SILENCES_MAX = 10_000
"""Silences that have not ended; one more is refused."""
REASON_CHARACTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Silence:
    """`ends_ms` is moved to the moment of expiry when somebody ends it early, and `expired_by` says who."""

    silence_id: str
    match: Match
    reason: str
    author: str
    created_ms: int
    starts_ms: int
    ends_ms: int
    expired_by: str = ""

    def active(self, now_ms: int) -> bool:
        """Whether it silences now."""
        return self.starts_ms <= now_ms < self.ends_ms

    def state(self, now_ms: int) -> str:
        """In Alertmanager's words: pending, active or expired."""
        return "pending" if now_ms < self.starts_ms else "active" if now_ms < self.ends_ms else "expired"
