"""Why an agent goes: who tells it, for how long that counts, and what systemd says."""

import asyncio
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.errors import Permanent, Unreachable, UsageError
from watchbill.leaving import Farewell
from watchbill_agent.departure import AWAY_S, SAY_S, WORD_FRESH_MS, Departure
from watchbill_agent.leaving import find_reason, tell
from watchbill_agent.question import ASK_TIMEOUT_S, ask
from watchbill_agent.status import StatusSocket

OURS = "watchbill-agent.service"
STOPPING = """\
 1201 cups.service            stop    running
 1202 watchbill-agent.service stop    waiting
"""


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        ("", "stop"),
        (STOPPING, "stop"),
        (STOPPING + "1000 reboot.target start waiting\n", "reboot"),
        (STOPPING + "1000 kexec.target start waiting\n", "reboot"),
        (STOPPING + "1000 poweroff.target start waiting\n", "poweroff"),
        (STOPPING + "1000 halt.target start waiting\n", "poweroff"),
        ("1 reboot.target stop waiting\n", "stop"),
        ("7 watchbill-agent.service restart running\n", "restart"),
        ("7 other.service restart running\n", "stop"),
        ("no jobs running, this is no table\n\n\xff\n", "stop"),
    ],
)
def test_the_reason_is_what_systemd_is_about_to_do(jobs: str, reason: str) -> None:
    assert find_reason(OURS, lambda: jobs) == reason


class Link:
    """A sender, as a departure sees it."""

    def __init__(self) -> None:
        self.left: list[tuple[Farewell, float, float]] = []

    async def leave(self, farewell: Farewell, timeout_s: float, away_s: float) -> bool:
        self.left.append((farewell, timeout_s, away_s))
        return True


class Desk:
    """A departure with a clock that is moved by hand."""

    def __init__(self, link: Link | None) -> None:
        self.clock = ManualClock()
        self.flushed = 0
        self.departure = Departure(self.clock, self.flush, lambda: link)

    def flush(self) -> None:
        self.flushed += 1


async def test_a_word_counts_for_a_while_and_then_a_stop_is_a_stop() -> None:
    desk = Desk(None)
    assert desk.departure.farewell() == Farewell("stop")
    assert await desk.departure.told("reboot 900000") == {"reason": "reboot", "said": False}
    desk.clock.advance(WORD_FRESH_MS / 1000)
    assert desk.departure.farewell() == Farewell("reboot", 900_000)
    desk.clock.advance(0.001)
    assert desk.departure.farewell() == Farewell("stop")


async def test_a_suspend_is_said_at_once_and_changes_no_later_stop() -> None:
    link = Link()
    desk = Desk(link)
    assert await desk.departure.told("suspend 60000") == {"reason": "suspend", "said": True}
    assert link.left == [(Farewell("suspend", 60_000), SAY_S, AWAY_S)]
    assert desk.flushed == 1
    assert desk.departure.farewell() == Farewell("stop")
    assert await Desk(None).departure.told("suspend 0") == {"reason": "suspend", "said": False}
    assert SAY_S < ASK_TIMEOUT_S


@pytest.mark.parametrize(
    "rest", ["", "reboot", "reboot x", "a b 5", "reboot -1", f"{'x' * 33} 0", "reboot 1e9"]
)
async def test_what_is_no_word_is_refused(rest: str) -> None:
    with pytest.raises(UsageError, match="wanted a reason"):
        await Desk(None).departure.told(rest)


async def test_word_is_left_through_the_socket_and_a_wrong_one_is_answered(tmp_path: Path) -> None:
    desk = Desk(Link())
    path = tmp_path / "run" / "status.sock"
    with pytest.raises(Unreachable, match="is it running"):
        await asyncio.to_thread(tell, path, Farewell("reboot"))
    socket = StatusSocket(path, {"status": dict}, {"leaving": desk.departure.told})
    await socket.start()
    try:
        assert not await asyncio.to_thread(tell, path, Farewell("upgrade", 5))
        assert desk.departure.farewell() == Farewell("upgrade", 5)
        assert await asyncio.to_thread(tell, path, Farewell("suspend"))
        for question in ("leaving", "leaving a b c", "status now"):
            with pytest.raises(Permanent, match="wanted"):
                await asyncio.to_thread(ask, path, question)
    finally:
        await socket.stop()
