"""The rows that say what is missing of a host, and why: what an agent reports, and what is found out here."""

from watchbill.leaving import Leaving
from watchbill.limits import GAP_PARTS_MAX
from watchbill.protocol.accounting import GapPart, samples_beyond
from watchbill.protocol.frames import SEQ_MAX, GapReason, Stream
from watchbill.protocol.server import Closed, Watermark
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.ingest.agents import Agent
from watchbill_collector.ingest.ports import GapRow

TIME_MS_MAX = 2**53
"""Times beyond are made up: a signed 64-bit column must hold them, and what is computed from them."""


def closed_row(agent: Agent, closed: Closed, now_ms: int) -> GapRow:
    """Records of an older spool that will not come any more."""
    return GapRow(
        agent_id=agent.agent_id,
        spool_id=closed.spool_id,
        stream=int(closed.stream),
        from_seq=closed.first,
        to_seq=closed.last,
        count=closed.count,
        samples=0,
        first_ms=agent.last_tick_ms,
        last_ms=now_ms,
        reason=closed.reason,
        recorded_ms=now_ms,
    )


def reboot_row(agent: Agent, spool_id: bytes, leaving: Leaving, now_ms: int) -> GapRow:
    """The time that a machine was down, as it had announced."""
    return GapRow(
        agent_id=agent.agent_id,
        spool_id=spool_id,
        stream=int(Stream.BULK),
        from_seq=0,
        to_seq=0,
        count=0,
        samples=0,
        first_ms=leaving.left_ms,
        last_ms=now_ms,
        reason=GapReason.REBOOT,
        recorded_ms=now_ms,
    )


def refused_row(agent: Agent, watermark: Watermark, seq: int, record: pb.Record, now_ms: int) -> GapRow:
    """One record that was not taken."""
    return GapRow(
        agent_id=agent.agent_id,
        spool_id=watermark.spool_id,
        stream=int(watermark.stream),
        from_seq=seq,
        to_seq=seq,
        count=1,
        samples=sum(len(block.values) // 8 for block in record.ticks.blocks),
        first_ms=0,
        last_ms=0,
        reason=GapReason.REFUSED,
        recorded_ms=now_ms,
    )


def reported_row(
    agent: Agent,
    watermark: Watermark,
    gap: pb.Gap,
    *,
    seq: int,
    first: int,
    notice: bool,
    offset_ms: int,
    now_ms: int,
) -> GapRow:
    """What an agent says it lost: `gap` stands at `seq`, and is missing here from `first` on. A `notice` is of time
    alone, no record is missing."""
    reason = _reason(gap.reason)
    first_ms = gap.first_boottime_ms + offset_ms if gap.first_boottime_ms else 0
    if reason is GapReason.RESTART and not first_ms:
        first_ms = agent.last_tick_ms
    return GapRow(
        agent_id=agent.agent_id,
        spool_id=watermark.spool_id,
        stream=int(watermark.stream),
        from_seq=first,
        to_seq=gap.to_seq,
        count=0 if notice else gap.to_seq - first + 1,
        samples=_samples_of(gap, first - seq),
        first_ms=_within(first_ms),
        last_ms=_within(gap.last_boottime_ms + offset_ms if gap.last_boottime_ms else 0),
        reason=reason,
        recorded_ms=now_ms,
    )


def _reason(number: int) -> GapReason:
    """A newer agent may have reasons that are not known here."""
    try:
        return GapReason(number)
    except ValueError:
        return GapReason.UNSPECIFIED


def _samples_of(gap: pb.Gap, held: int) -> int:
    """The samples missing with a gap of which the first `held` records are here; 0 where nobody can say."""
    if gap.samples >= SEQ_MAX or len(gap.parts) > GAP_PARTS_MAX:
        return 0
    parts = (GapPart(part.records, part.samples) for part in gap.parts)
    return samples_beyond(parts, gap.samples, held) or 0


def _within(time_ms: int) -> int:
    """A time that a hostile agent may have made up."""
    return time_ms if 0 <= time_ms < TIME_MS_MAX else 0
