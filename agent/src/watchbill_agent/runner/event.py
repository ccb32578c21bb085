"""What a runner tells: each event has a name made from what it says, so that one that is told again is the same one.

Apart from everything else: the agent, which only carries them, imports nothing more.
"""

import hashlib
from dataclasses import dataclass

from watchbill.limits import EVENT_ID_BYTES


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to be told."""

    kind: str
    payload: bytes

    @property
    def id(self) -> bytes:
        """Its name."""
        said = b"watchbill/runner-event/v1\0" + self.kind.encode() + b"\0" + self.payload
        return hashlib.sha256(said).digest()[:EVENT_ID_BYTES]
