"""What waits to be sent: numbered records, kept until the collector has committed them.

`records` are the values and what the sender needs of any spool; `memory` and `disk` are the two spools. The disk
is an argument: `filesystem` has the real one, `simulated` one that forgets what was not synced.

Of the spool on disk, from the outside in: `keeper` syncs and tends it, `disk` opens it and is what the others call,
`store` finds what a directory holds, `lane` is one stream. A lane has its newest records in `tail`, its `gaps`, and its
files in `segment_files`, with `segment_writer`, `segment_reader`, the spare files of `reserve` and the `lane_job` of
each sync, all of them at one `place`. `segment` and `note` are what one file says, `format` its bytes. `tools` is the
command line's way in.
"""

from watchbill_agent.spool.disk import DiskSpool, Sizes
from watchbill_agent.spool.filesystem import Filesystem, SystemFilesystem
from watchbill_agent.spool.keeper import Keeper, MemoryKeeper
from watchbill_agent.spool.memory import CRIT_BYTES_MAX, MemorySpool
from watchbill_agent.spool.records import (
    RECORD_OVERHEAD_BYTES,
    Draft,
    Receipt,
    Record,
    Spool,
    SpoolFacts,
    SpoolFull,
)
from watchbill_agent.spool.simulated import SimulatedFilesystem

__all__ = [
    "CRIT_BYTES_MAX",
    "RECORD_OVERHEAD_BYTES",
    "DiskSpool",
    "Draft",
    "Filesystem",
    "Keeper",
    "MemoryKeeper",
    "MemorySpool",
    "Receipt",
    "Record",
    "SimulatedFilesystem",
    "Sizes",
    "Spool",
    "SpoolFacts",
    "SpoolFull",
    "SystemFilesystem",
]
