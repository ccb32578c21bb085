"""What an edge box writes besides its readings."""

from pathlib import Path

from watchbill.clock import ManualClock
from watchbill.protocol.frames import AuditHead
from watchbill_agent.audit_heads import FILE_NAME, SAVE_EVERY_EDGE_S, AuditHeads


def test_audit_heads_of_a_busy_day_are_written_every_hour(tmp_path: Path) -> None:
    clock = ManualClock()
    heads, path = AuditHeads(tmp_path, clock, SAVE_EVERY_EDGE_S), tmp_path / FILE_NAME
    written = set()
    for minute in range(24 * 60):
        heads.told(AuditHead(minute + 1, bytes([minute % 256]) * 32))
        if heads.due:
            heads.save()
        written.add(path.read_bytes() if path.exists() else b"")
        clock.advance(60)
    assert len(written) == 24
    heads.save()
    assert AuditHeads(tmp_path, clock).every()[-1].seq == 24 * 60, "the newest is there at the end"
