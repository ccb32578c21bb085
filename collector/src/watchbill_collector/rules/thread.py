"""The rules' own thread: evaluation is never behind a query, a request or a commit.

It sleeps until the next group is due, or until somebody wakes it (rules were reloaded, the house closes,
the head has much to fold). An exception that nobody expected ends it, and `failure` has it: the daemon has
to look, and ends.
"""

import threading
from collections.abc import Callable

from watchbill.clock import Clock
from watchbill_collector.head import Head
from watchbill_collector.promql.precedence import Precedence
from watchbill_collector.rules.rulebook import Rulebook

NAME = "rules"
WAKE_S_MAX = 1.0
"""The longest sleep: so a step of the wall clock delays nothing for longer, and messages are folded while
fresh."""
FOLD_BYTES = 16 * 1024 * 1024
"""Messages waiting in the head beyond which they are folded before the next evaluation."""


class RuleThread:
    """Evaluates a rulebook until it is closed."""

    def __init__(
        self,
        book: Rulebook,
        head: Head,
        clock: Clock,
        on_failure: Callable[[BaseException], None] | None = None,
        precedence: Precedence | None = None,
    ) -> None:
        """While it evaluates it goes first in `precedence`."""
        self.failure: BaseException | None = None
        self._book = book
        self._head = head
        self._clock = clock
        self._on_failure = on_failure
        self._precedence = precedence or Precedence()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    def close(self, timeout_s: float = 10.0) -> bool:
        """End after the evaluation that is running; whether it did in time. State is saved."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._closing:
                now_ms = self._clock.wall_ms()
                with self._precedence.first():
                    upcoming_ms = self._book.evaluate_due(now_ms)
                if self._head.staged_bytes > FOLD_BYTES:
                    self._head.fold(now_ms)
                wait_s = max(0.0, min(WAKE_S_MAX, (upcoming_ms - self._clock.wall_ms()) / 1000))
                self._wake.wait(wait_s)
                self._wake.clear()
            self._book.close(self._clock.wall_ms())
        except BaseException as error:
            self.failure = error
            if self._on_failure is not None:
                self._on_failure(error)
            raise
