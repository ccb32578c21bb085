"""Alerts outlive the process in a file that is whole or not there."""

import math
from pathlib import Path

import pytest

from watchbill_collector.rules.alerts import Alert, AlertState
from watchbill_collector.rules.state import FileAlertState, Saved

ALERT = Alert(
    (("alertname", "A"), ("instance", "ü")),
    (("instance", "ü"),),
    AlertState.FIRING,
    1_700_000_000_123,
    5,
    0,
    7,
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = FileAlertState(tmp_path / "alerts.json")
    assert store.load() is None
    for value in (1.5, math.inf, -0.0):
        saved = Saved(42, {"key": ((ALERT, value),), "other": ()})
        store.save(saved)
        assert FileAlertState(tmp_path / "alerts.json").load() == saved
    assert (tmp_path / "alerts.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 9}', b'{"version":1,"at_ms":"x","rules":{}}', b"\xff"]
)
def test_a_file_that_makes_no_sense_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "alerts.json"
    path.write_bytes(content)
    store = FileAlertState(path)
    assert store.load() is None
    assert str(path) in store.unreadable
    assert (tmp_path / "alerts.json.bad").read_bytes() == content
    store.save(Saved(1, {}))
    assert store.load() == Saved(1, {})
