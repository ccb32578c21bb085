"""How long certificates last, and for how long after its end an agent's may still be renewed.

`[certificates]` in collector.toml says it for everybody. A token may say otherwise for the hosts that it lets in: a box
that is switched off for months comes back by itself, while a rack next door is held to a week. What the token said is
bound to the host, holds at every renewal, and is not changed by collector.toml. Revocation asks for neither.
"""

from dataclasses import dataclass, replace
from typing import Final

DAY_S: Final = 86_400

CERTIFICATE_LIFETIME_S_MIN: Final = 3_600
"""What a token may ask for; shorter ones would be renewed all the time."""
CERTIFICATE_LIFETIME_S_MAX: Final = 365 * DAY_S
EXPIRED_GRACE_S_MAX: Final = 2 * 365 * DAY_S
"""Whoever finds a box in a drawer after this enrols it again."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates last, in seconds. After `expired_grace_s` beyond its end an agent's certificate cannot be
    renewed any more; 0 switches renewal of expired certificates off.
    """

    agent_s: float = 7 * DAY_S
    server_s: float = 90 * DAY_S
    expired_grace_s: float = 30 * DAY_S

    def bound(self, certificate_lifetime_ms: int | None, expired_grace_ms: int | None) -> "Lifetimes":
        """Those of one host: what its token said, and these where it said nothing."""
        return replace(
            self,
            agent_s=self.agent_s if certificate_lifetime_ms is None else certificate_lifetime_ms / 1000,
            expired_grace_s=self.expired_grace_s if expired_grace_ms is None else expired_grace_ms / 1000,
        )
