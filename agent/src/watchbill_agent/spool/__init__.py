"""What waits to be sent: numbered records, kept until the collector has committed them.

`records` are the values and what the sender needs of any spool; `memory` and `disk` are the two spools.
"""

from watchbill_agent.spool.memory import CRIT_BYTES_MAX, MemorySpool
from watchbill_agent.spool.records import RECORD_OVERHEAD_BYTES, Draft, Record, Spool, SpoolFacts, SpoolFull

__all__ = [
    "CRIT_BYTES_MAX",
    "RECORD_OVERHEAD_BYTES",
    "Draft",
    "MemorySpool",
    "Record",
    "Spool",
    "SpoolFacts",
    "SpoolFull",
]
