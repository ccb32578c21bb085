"""`watchbill audit verify` on a running collector names what somebody did to its database meanwhile."""

import json
import sqlite3
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)

OURS = "/api/watchbill/v1"


def silences(collector: Any, count: int) -> None:
    for number in range(count):
        order = {"matchers": f'alertname="X{number}"', "duration_s": 60, "reason": "for the record"}
        assert collector.ask("POST", f"{OURS}/silences", json.dumps(order).encode()).status == 201


def meddle(collector: Any, *statements: str) -> None:
    """What somebody does to the file while the collector is down: the triggers are no obstacle."""
    collector.stop()
    with sqlite3.connect(collector.state / "control.db") as database:
        for table in ("audit", "audit_checkpoints"):
            for word in ("update", "delete"):
                database.execute(f"DROP TRIGGER IF EXISTS {table}_no_{word}")
        for statement in statements:
            database.execute(statement)
    database.close()
    collector.launch()


def test_verify_names_the_row_that_was_edited_and_the_tail_that_was_cut(house: Any) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    silences(collector, 5)
    whole = collector.cli("audit", "verify")
    assert whole.code == 0, whole
    assert "whole" in whole.out
    assert "signed checkpoints" in whole.out
    (row, *_) = [one for one in collector.get("/audit")["rows"] if one["action"] == "silence.add"]
    meddle(collector, f"UPDATE audit SET actor = 'nobody' WHERE seq = {row['seq']}")
    edited = collector.cli("audit", "verify")
    assert edited.code == 1, edited
    assert f"edited: row {row['seq']} was changed; it says: nobody silence.add" in edited.out
    assert "try: keep a copy of the store" in edited.out
    meddle(
        collector,
        f"UPDATE audit SET actor = '{row['actor']}' WHERE seq = {row['seq']}",
        "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
    )
    cut = collector.cli("audit", "verify", "--json")
    assert cut.code == 1
    (finding,) = [one for one in cut.json["findings"] if one["fault"] in ("cut", "rewritten")]
    assert "signed at" in finding["detail"]
    assert "the audit is not what this collector signed" in collector.said
    assert [one["target"] for one in collector.get("/audit?action=audit.disputed")["rows"]] == ["checkpoint"]
    assert collector.metric("watchbill_collector_audit_witnesses_disagreeing") == 1
