"""How the list of hosts says why one is not there."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill_collector.cli.hosts import _standing
from watchbill_collector.cli.screen import clock

NOON = datetime.now(UTC).astimezone().replace(hour=12, minute=40, second=5, microsecond=0)
TODAY = NOON.astimezone(UTC).isoformat()


def host(state: str, kind: str, reason: str = "", back_by: str | None = None) -> dict[str, Any]:
    return {"state": state, "absence": {"kind": kind, "reason": reason, "since": TODAY, "back_by": back_by}}


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ({"state": "up", "absence": None}, "up"),
        ({"state": "up"}, "up"),
        (host("stopped", "announced", "stop"), "stopped"),
        (host("stopped", "announced", "reboot", TODAY), "stopped: reboot, back by 12:40"),
        (host("stopped", "announced", "decommission"), "stopped: decommission"),
        (host("down", "overdue", "upgrade", TODAY), "down: upgrade, overdue since 12:40"),
        (host("down", "unexpected"), "down: unexpected since 12:40"),
        (host("up", "unexpected"), "up: link lost since 12:40"),
    ],
)
def test_a_state_says_why(shown: dict[str, Any], words: str) -> None:
    assert _standing(shown) == words


def test_another_day_has_its_date() -> None:
    earlier = NOON - timedelta(days=3)
    assert clock(earlier.astimezone(UTC).isoformat()) == earlier.strftime("%Y-%m-%d 12:40")
    assert clock(None) == "-"
