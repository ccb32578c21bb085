"""What waits to be sent: numbered records, kept until the collector has committed them.

`records` are the values and what the sender needs of any spool; `memory` and `disk` are the two spools. The disk
is an argument: `filesystem` has the real one, `simulated` one that forgets what was not synced.
"""

from watchbill_agent.spool.disk import DiskSpool, Sizes
from watchbill_agent.spool.filesystem import Filesystem, SystemFilesystem
from watchbill_agent.spool.keeper import Keeper
from watchbill_agent.spool.memory import CRIT_BYTES_MAX, MemorySpool
from watchbill_agent.spool.records import RECORD_OVERHEAD_BYTES, Draft, Record, Spool, SpoolFacts, SpoolFull
from watchbill_agent.spool.simulated import SimulatedFilesystem

__all__ = [
    "CRIT_BYTES_MAX",
    "RECORD_OVERHEAD_BYTES",
    "DiskSpool",
    "Draft",
    "Filesystem",
    "Keeper",
    "MemorySpool",
    "Record",
    "SimulatedFilesystem",
    "Sizes",
    "Spool",
    "SpoolFacts",
    "SpoolFull",
    "SystemFilesystem",
]
