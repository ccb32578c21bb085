"""The audit: everything that was done or refused, chained by hashes that the whole fleet remembers.

`Audit` records and reads, `chain` checks rows against each other and against what the collector signed, `signatures`
checks the checkpoints, `witnesses` checks against what agents were told, `refusals` keeps those who are turned away
from filling the disk, `changes` says what a reload changed.
"""

from watchbill_collector.audit.audit import Audit
from watchbill_collector.audit.chain import ChainCheck, Mark, Verdict
from watchbill_collector.audit.faults import Fault, Finding
from watchbill_collector.audit.refusals import Refusals, Turned
from watchbill_collector.audit.witnesses import Testimony, Witnesses
from watchbill_collector.store.audit import Entry, Filter, Head, Origin, Outcome, Row, on_behalf, origin

__all__ = [
    "Audit",
    "ChainCheck",
    "Entry",
    "Fault",
    "Filter",
    "Finding",
    "Head",
    "Mark",
    "Origin",
    "Outcome",
    "Refusals",
    "Row",
    "Testimony",
    "Turned",
    "Verdict",
    "Witnesses",
    "on_behalf",
    "origin",
]
