"""The memory of the process: what glibc and the collector of garbage are told. Without glibc, nothing happens."""

import ctypes
import gc
from dataclasses import dataclass

GARBAGE_THRESHOLDS = (20_000, 20, 20)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3)."""
LARGE_BYTES, SPARE_BYTES = 2 << 20, 8 << 20
"""What is larger gets pages of its own, and gives them back; of the rest each thread keeps so much to use again.
Smaller figures cost a fifth of all CPU in fresh pages, larger ones tens of megabytes."""
GIVE_BACK_S = 20.0
"""The longest until free memory between pieces in use is given back."""
GIVE_BACK_LOOK_S = 1.0
BURST_BYTES = 8 << 20
"""After so many bytes received it is given back as soon as no more come: a fleet sends before the rules look, and until
the next burst nobody needs what this one took."""
LULL_BYTES = 1 << 20
"""Fewer between two looks are the end of a burst."""


def settle_malloc() -> None:
    """Large arrays, which live for milliseconds, go back to the system, instead of leaving holes that are then
    filled with what lives long: glibc raises its own limit to 32 MB otherwise. Does nothing elsewhere."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, SPARE_BYTES)


def settle_garbage() -> None:
    """What was made until now stays: the collector of garbage need not look at it again, and seldom at the rest.

    With a thousand agents a full collection took 170 ms, and the small ones 3 % of all CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def give_back() -> None:
    """glibc keeps what lies between two pieces in use. Readings come and go in pieces of a few kilobytes between
    what connections hold for long: with a thousand agents at 1 s this was 100 to 300 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(slots=True)
class GivingBack:
    """When to give back: `due` is asked every GIVE_BACK_LOOK_S, with how many bytes were ever received."""

    last_s: float
    since_bytes: int = 0
    seen_bytes: int = 0

    def due(self, now_s: float, received_bytes: int) -> bool:
        """Whether to give back now."""
        lull = received_bytes - self.seen_bytes < LULL_BYTES
        self.seen_bytes = received_bytes
        burst = received_bytes - self.since_bytes >= BURST_BYTES
        if not (burst and lull) and now_s - self.last_s < GIVE_BACK_S:
            return False
        self.last_s, self.since_bytes = now_s, received_bytes
        return True
