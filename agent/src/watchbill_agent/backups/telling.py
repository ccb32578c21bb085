"""Hands over what `backup wrap` has to say, in a thread: neither a disk nor an agent that hangs holds up a backup.

What is handed over goes in order. A beat that cannot be told at once is dropped: the next one, or the end, says more.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from watchbill_agent.backups.drop import Document, Drop

CLOSE_S_MAX: Final = 20.0
"""How long the end of a run may be waited for, with all that is still before it."""
WAIT_STEP_S: Final = 0.002

Make = Callable[[], "Document"]


class Telling:
    """`make_drop` gives the place to hand over at; it is called in the thread, which imports what it needs."""

    def __init__(self, make_drop: "Callable[[], Drop]") -> None:
        self._make_drop = make_drop
        self._work: queue.SimpleQueue[Callable[[Drop], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)
        self._thread.start()
        self.kept = 0
        """Records that were kept."""
        self.faults: list[str] = []
        """Why others were not."""

    def keep(self, make: Make) -> None:
        """Hand over what `make` makes, one way or the other."""
        self._work.put(lambda drop: self._keep(drop, make))

    def do(self, work: Callable[[], None]) -> None:
        """Have it done there, in its turn."""
        self._work.put(lambda _: work())

    def beat(self, make: Make) -> None:
        """Hand it over to a running agent, if there is one."""
        self._work.put(lambda drop: self._beat(drop, make))

    def _keep(self, drop: "Drop", make: Make) -> None:
        drop.hand_over(make())
        self.kept += 1

    @staticmethod
    def _beat(drop: "Drop", make: Make) -> None:
        from watchbill.errors import WatchbillError

        try:
            drop.tell(make())
        except WatchbillError:
            return  # No agent runs, or it has no room: what is said at the end is what counts.

    def _run(self) -> None:
        drop: Drop | None = None
        while (work := self._work.get()) is not None:
            try:
                drop = drop or self._make_drop()
                work(drop)
            except Exception as exc:  # noqa: BLE001 - Whatever goes wrong in telling, the command's end is passed on.
                self.faults.append(str(exc) or type(exc).__name__)

    def wait(self, kept: int, timeout_s: float = CLOSE_S_MAX) -> bool:
        """Whether so many records were kept, as soon as that is known."""
        until_s = time.monotonic() + timeout_s
        while self.kept < kept and not self.faults and time.monotonic() < until_s:
            time.sleep(WAIT_STEP_S)
        return self.kept >= kept

    def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        """Wait for everything, as long as may be waited."""
        self._work.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.faults.append(f"the agent and the disk did not answer within {timeout_s:.0f} s")
