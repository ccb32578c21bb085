"""Where a stream lies on the disk and who writes it, and how large it may become."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchbill.protocol.frames import Stream
from watchbill_agent.spool.filesystem import Filesystem
from watchbill_agent.spool.format import Header


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a stream may become. `reserve` are spare files kept on the disk, none for bulk."""

    bytes_max: int
    segment_bytes: int
    reserve: int = 0
    retained_bytes: int = 0
    retained_ms: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """What all segments of a store have in common, and the boot that writes them."""

    filesystem: Filesystem
    directory: Path
    store_id: bytes
    agent_id: bytes
    boot_id: bytes
    seed: int
    now_ms: Callable[[], tuple[int, int]]
    """Wall clock and boot time."""

    def header(self, stream: Stream, first: int, samples_before: int) -> Header:
        """The header of a segment that begins now; `first` is the number in the file."""
        wall_ms, boottime_ms = self.now_ms()
        return Header(
            int(stream),
            self.store_id,
            self.agent_id,
            first,
            samples_before,
            wall_ms,
            boottime_ms,
            self.boot_id,
        )
