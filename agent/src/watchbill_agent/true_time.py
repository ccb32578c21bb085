"""What this host knows of the true time, whatever its own clock says.

Readings carry the host's clock as it is, and the collector puts them right. Certificates cannot be judged so: a clock
that says 1970, or ten years too much, lets nobody in and no certificate be renewed. Where the system's clock fails at
one, the collector is asked for its time, signed (`watchbill.signed_time`), and from then on CLOCK_BOOTTIME carries it.
The system's clock is never set.

Time below a floor is never believed, whoever signed it: the newest that this host ever saw, kept in `newest-time.json`
and written once a day at most; the beginning of its own certificate, which the collector wrote; and a date before which
this program did not exist. So whoever gets hold of the collector's old keys cannot take a box back to when they held.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from watchbill.clock import Clock
from watchbill.errors import StorageError
from watchbill.files import FileMissing, UnreadableFile, read_bounded, write_atomic
from watchbill.identity import AgentIdentity
from watchbill.logs import fields
from watchbill.signed_time import ANSWER_S_MAX, WALL_MS_MAX, TimeRefused, Window, check_time
from watchbill.tls_dates import Validity, ended

log = logging.getLogger("watchbill.time")

FILE_NAME: Final = "newest-time.json"
FILE_BYTES_MAX: Final = 4_096
OLDEST_MS: Final = 1_735_689_600_000
"""2025-01-01: there was no Watchbill before."""
FLOOR_SLACK_MS: Final = 300_000
"""The collector's clock may be put back by this much, as time servers do."""
SAVE_EVERY_MS: Final = 86_400_000
"""How much newer the newest time is before it is written down again: flash wears out."""
DRIFT_MAX: Final = 1e-4
"""Seconds a second by which CLOCK_BOOTTIME may run wrong."""
OFF_MS_MIN: Final = 60_000
"""A clock that is less wrong than this is not what made a certificate invalid."""
RELEARN_MS: Final = 86_400_000
"""The collector is asked again after this long: CLOCK_BOOTTIME may have drifted by seconds."""
STEP_MS: Final = 1_000
"""A system clock that moved by more than this against CLOCK_BOOTTIME was set: it is tried again."""


class TrueTime:
    """The time by which this host judges certificates; it is a Clock. `bypass` says that the system's clock is not to
    be asked for that. `learned` is called when the collector's time was learned anew.
    """

    def __init__(
        self,
        directory: Path | None,
        clock: Clock,
        not_before_ms: int = 0,
        learned: Callable[[], None] = lambda: None,
    ) -> None:
        """`not_before_ms` is the beginning of this host's certificate; without a directory nothing is kept."""
        self._path = None if directory is None else directory / FILE_NAME
        self._clock = clock
        self._learned = learned
        self._least_ms = max(OLDEST_MS, not_before_ms)
        """A clock that says less is wrong for certain."""
        self.floor_ms = max(self._least_ms, 0 if self._path is None else _load(self._path))
        self._saved_ms = self.floor_ms
        self._earliest: tuple[int, int] | None = None
        """The true time and CLOCK_BOOTTIME, both in ms, as they were when the first was told."""
        self._slack_ms = 0
        self._suspected_at_ms: int | None = None
        self.refused: dict[str, int] = {}
        """Times that were not believed, by reason."""
        self.asked = 0
        """How often the collector's time was learned."""

    # ------------------------------------------------------------ asking

    @property
    def known(self) -> bool:
        """Whether the collector's time was learned in this process."""
        return self._earliest is not None

    @property
    def bypass(self) -> bool:
        """Whether the system's clock failed at a certificate, the true time is known, and nobody has set it since."""
        if self._suspected_at_ms is None or not self.known:
            return False
        if abs(self._clock.wall_ms() - self.window().earliest_ms) < OFF_MS_MIN:
            return False
        return abs(self._ahead_ms() - self._suspected_at_ms) <= STEP_MS

    @property
    def fresh(self) -> bool:
        """Whether it was learned, and not so long ago that it should be asked for again."""
        return self._earliest is not None and self._clock.boottime_ms() - self._earliest[1] < RELEARN_MS

    def window(self) -> Window:
        """The true time, as well as it is known. Only what was learned counts."""
        assert self._earliest is not None, "asked where it was learned"
        said_ms, at_ms = self._earliest
        gone_ms = self._clock.boottime_ms() - at_ms
        drift_ms = round(gone_ms * DRIFT_MAX)
        return Window(said_ms + gone_ms - drift_ms, said_ms + gone_ms + drift_ms + self._slack_ms)

    def wall_ms(self) -> int:
        """UTC ms, to judge certificates by: what the collector told, else the system's clock above the floor."""
        if self.bypass:
            window = self.window()
            return (window.earliest_ms + window.latest_ms) // 2
        return max(self._clock.wall_ms(), self.floor_ms)

    def boottime_ms(self) -> int:
        """CLOCK_BOOTTIME."""
        return self._clock.boottime_ms()

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return self._clock.monotonic_s()

    def judge_early(self, chain: Sequence[Validity]) -> None:
        """Before a password is sent. Where the time is not known yet, a chain must at least not have ended before the
        newest that this host ever saw. Raises ConnectionError.
        """
        try:
            if self.known:
                self.judge(chain)
            elif any(one.until_ms <= self.floor_ms for one in chain):
                raise self._refuse("certificate", "its certificate had ended when this host was on last")
        except TimeRefused as exc:
            raise ConnectionError(str(exc)) from exc

    def judge(self, chain: Sequence[Validity]) -> None:
        """Raises TimeRefused when a certificate of a chain is not valid by the collector's time.

        It may be the collector's clock that was wrong when it was asked. Where this host's own can be right, it is
        tried again next, as on every other host.
        """
        assert chain, "there is a chain where a handshake was verified"
        window = self.window()
        wrong = ended(chain, window)
        if wrong is None:
            return
        if self._clock.wall_ms() >= self._least_ms:
            self._earliest = self._suspected_at_ms = None
        when = "has ended" if window.latest_ms >= wrong.until_ms else "is not valid yet"
        raise self._refuse("certificate", f"by the collector's signed time its certificate {when}")

    # ------------------------------------------------------------ learning

    def suspect(self) -> None:
        """The system's clock has failed at a certificate, as it stands now."""
        self._suspected_at_ms = self._ahead_ms()

    def told(
        self, identity: AgentIdentity, nonce: bytes, wall_ms: int, signature: bytes, asked_at_ms: int
    ) -> None:
        """An answer to a question with this number. Raises TimeRefused unless this host's collector signed it, and as
        `learn`.
        """
        try:
            check_time(identity.collector_envelope_key, identity.site, nonce, wall_ms, signature)
        except TimeRefused as exc:
            raise self._refuse(exc.reason, str(exc)) from exc
        self.learn(wall_ms, asked_at_ms)

    def learn(self, said_ms: int, asked_at_ms: int) -> None:
        """The collector said so, in answer to a question that left at `asked_at_ms` of CLOCK_BOOTTIME; its signature
        is verified. Raises TimeRefused.
        """
        at_ms = self._clock.boottime_ms()
        if at_ms - asked_at_ms > ANSWER_S_MAX * 1000:
            took_s = (at_ms - asked_at_ms) / 1000
            raise self._refuse("late", f"the collector's time came {took_s:.0f} s after it was asked for")
        if not 0 <= said_ms <= WALL_MS_MAX:
            raise self._refuse("range", f"the collector told a time that cannot be: {said_ms} ms")
        if said_ms < self.floor_ms - FLOOR_SLACK_MS:
            behind_s = (self.floor_ms - said_ms) / 1000
            raise self._refuse(
                "floor",
                f"the collector's time is {behind_s:.0f} s before the newest that this host ever saw; if its clock "
                f"was wrong then, remove {self._path or FILE_NAME}",
            )
        before = self.bypass
        self._earliest, self._slack_ms = (said_ms, at_ms), at_ms - asked_at_ms
        self.asked += 1
        self.saw(said_ms)
        if self.bypass and not before:
            log.warning(
                "this host's clock cannot judge certificates; the collector's signed time is used",
                extra=fields(clock_off_s=round((self._clock.wall_ms() - said_ms) / 1000)),
            )
            self._learned()

    def saw(self, collector_ms: int) -> None:
        """A collector that was let in by its certificate says what time it is: the floor rises."""
        if self.floor_ms < collector_ms <= WALL_MS_MAX:
            self.floor_ms = collector_ms

    def met(self, collector_ms: int) -> None:
        """As `saw`, of a session that goes on. Where this host's clock let the collector in and both say the same, a
        floor above them is the work of a clock that was years ahead once, and comes down.
        """
        agreed = not self.bypass and abs(self._clock.wall_ms() - collector_ms) < OFF_MS_MIN
        if agreed and self._least_ms <= collector_ms < self.floor_ms - FLOOR_SLACK_MS:
            ahead_s = (self.floor_ms - collector_ms) / 1000
            log.warning(
                "the newest time was ahead of all clocks; it is put back", extra=fields(ahead_s=ahead_s)
            )
            self.floor_ms = collector_ms
        self.saw(collector_ms)

    @property
    def save_due(self) -> bool:
        """Whether the floor rose enough to be written down, or came down."""
        return not self._saved_ms - FLOOR_SLACK_MS <= self.floor_ms < self._saved_ms + SAVE_EVERY_MS

    def save(self) -> None:
        """Write the floor down. A disk that refuses is logged: it costs a day of the floor, nothing else. Blocks."""
        if self._path is None or self.floor_ms == self._saved_ms:
            return
        self._saved_ms = self.floor_ms
        try:
            write_atomic(self._path, json.dumps({"newest_ms": self.floor_ms}).encode() + b"\n")
        except StorageError as exc:
            log.warning("the newest time could not be written down", extra=fields(reason=exc))

    def _ahead_ms(self) -> int:
        return self._clock.wall_ms() - self._clock.boottime_ms()

    def _refuse(self, reason: str, message: str) -> TimeRefused:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return TimeRefused(reason, message)


def _load(path: Path) -> int:
    """The newest time that was written down; 0 without one. What cannot be read is logged, and no error."""
    try:
        found = json.loads(read_bounded(path, FILE_BYTES_MAX))
        newest_ms = found["newest_ms"]
        if type(newest_ms) is not int or not 0 <= newest_ms <= WALL_MS_MAX:
            raise ValueError("no time that can be")
    except FileMissing:
        return 0
    except (UnreadableFile, ValueError, KeyError, TypeError) as exc:
        log.warning("the newest time cannot be read", extra=fields(path=path, reason=exc))
        return 0
    return newest_ms
