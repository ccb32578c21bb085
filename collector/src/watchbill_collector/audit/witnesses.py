"""What agents say they were told of the chain, held against what the chain says.

Every acknowledgement carries the head; an agent keeps some of those it saw and shows them when it connects. A head
that the chain does not contain means that rows which were once acknowledged to the fleet are gone or different: the
store was brought back from a backup, or somebody wrote it anew. That is said aloud, and never forgotten by itself.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from watchbill_collector.store.audit import HASH_BYTES, Head

HEADS_MAX: Final = 64
"""Heads believed of one agent at a time."""
AGENTS_MAX: Final = 100_000
SEQ_MAX: Final = 2**62


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one agent says. `seq` is the newest head it holds that is judged; `agreed` whether the chain contains all
    of them; where not, `disputed` is the first that it does not contain. `told_ms` is when it said so.
    """

    agent_id: str
    seq: int
    told_ms: int
    agreed: bool
    heads: int
    disputed: Head | None = None


class Witnesses:
    """All testimonies, the newest of each agent; a disagreement stays until the process ends."""

    def __init__(self, hashes: Callable[[Sequence[int]], Mapping[int, bytes]]) -> None:
        self._hashes = hashes
        self._lock = threading.Lock()
        self._said: dict[str, tuple[Head, ...]] = {}
        self._found: dict[str, Testimony] = {}
        self.malformed = 0
        """Testimonies that could not be read."""
        self.disagreeing = 0
        """Agents that hold a head which the chain does not contain."""

    def hear(self, agent_id: str, heads: Sequence[Head]) -> bool:
        """An agent shows its heads. Returns at once; True when there is something to `judge`."""
        good = tuple(
            head for head in heads[:HEADS_MAX] if 0 < head.seq < SEQ_MAX and len(head.hash) == HASH_BYTES
        )
        if len(good) < len(heads):
            self.malformed += 1
        if not good:
            return False
        with self._lock:
            if agent_id not in self._said and len(self._said) >= AGENTS_MAX:
                return False
            self._said[agent_id] = good
        return True

    def judge(self, agent_id: str, now_ms: int) -> Testimony | None:
        """Compare what an agent showed last with the chain; None when it showed nothing. Blocks for a read. Raises
        StorageError.
        """
        with self._lock:
            heads = self._said.get(agent_id)
        if heads is None:
            return None
        stored = self._hashes([head.seq for head in heads])
        wrong = [head for head in heads if stored.get(head.seq) != head.hash]
        newest = max(heads, key=lambda head: head.seq)
        found = Testimony(
            agent_id,
            newest.seq,
            now_ms,
            agreed=not wrong,
            heads=len(heads),
            disputed=min(wrong, key=lambda head: head.seq) if wrong else None,
        )
        with self._lock:
            known = self._found.get(agent_id)
            if known is not None and not known.agreed and found.agreed:
                # It has since been told newer heads, and holds those: what it held before was not there.
                found = replace(found, agreed=False, disputed=known.disputed)
            if not found.agreed and (known is None or known.agreed):
                self.disagreeing += 1
            self._found[agent_id] = found
        return found

    def testimony(self, agent_id: str) -> Testimony | None:
        """What is known of an agent's word."""
        with self._lock:
            return self._found.get(agent_id)

    def disagreements(self) -> Sequence[Testimony]:
        """Those that do not agree."""
        with self._lock:
            return [one for one in self._found.values() if not one.agreed]
