"""What a decision knows besides the run: the hosts, the facts, who may approve, what is paused. Read once for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from watchbill.actions.roster import Roster
from watchbill_collector.runbooks.expression import Facts
from watchbill_collector.runbooks.expressions import NO_FACTS
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.run.rows import Row

COMMAND_MS: Final = 120_000
"""How long a command may wait until it begins, where its step says nothing shorter."""
AWAY_POLL_MS: Final = 5_000
"""How often it is looked whether a host is there again, should nobody say so."""
RESEND_MS: Final = 2_000
"""After a command did not leave although its host seemed to be there."""
MARGIN_MS: Final = 70_000
"""After a command's last moment, until nothing of it can begin any more: its host's clock may be a minute behind, and
what was begun in time takes a moment to be told."""
LATE_MS: Final = 15 * 60_000
"""How long after its last moment an action that was accepted may be silent until nobody knows what became of it."""
UNREACHABLE_MS: Final = 15 * 60_000
"""How long an unknown outcome waits for its host to come back by itself; then a person is asked."""
GATE_MS: Final = 60 * 60_000
"""How long a gate waits that says nothing."""
AGREED_MS: Final = 30 * 60_000
"""How long after a gate's last moment what was agreed to may be begun."""
POLL_MS: Final = 1_000
"""How often a condition that is waited for is looked at."""
UNKNOWNS_MAX: Final = 3
"""Attempts of one action on one host whose outcomes stay unknown; then a person is asked."""
PROBES_MAX: Final = 3
FRESH_ROUNDS_MAX: Final = 5
"""Times that premises are looked at again for one step: hosts that come and go would keep it from ever beginning."""
VERDICTS_MAX: Final = 200
"""Rows of one check that changes its mind; later ones are not written, but for the last."""
MOVES_MAX: Final = 5_000
"""Decisions that follow each other without anybody else; more means that this code is wrong."""
DETAIL_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """See the module. `connected` and `ledger` are by agent id. `disabled` are those who were let out of this
    collector, in small letters: what they agreed to does not hold. `why_not` says why a run that waits for its turn may
    not begin yet, "" when it may."""

    site: str
    fleet: Fleet
    facts: Facts = NO_FACTS
    connected: Callable[[str], bool] = field(default=lambda _: True)
    ledger: Callable[[str], str] = field(default=lambda _: "")
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    roster: Roster | None = None
    disabled: frozenset[str] = frozenset()
    paused: str = ""
    why_not: str = ""
    rows_max: int = 1_000_000
    """Of its journal; with so many it is held."""


# ---------------------------------------------------------------- what comes of a decision


@dataclass(frozen=True, slots=True)
class Send:
    """Send the command of this key, once its rows are on the disk."""

    key: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask the host to end what runs under this key."""

    key: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Hand a message over."""

    step: str
    channel: str
    text: str


Effect = Send | Cancel | Tell


@dataclass(slots=True)
class Move:
    """Rows to write, then what to do, and when to look again without news."""

    rows: list[Row] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    wake_ms: int | None = None
    waiting: str = ""
    """Why nothing happens, when something is waited for that is no answer of a host."""

    def wake(self, at_ms: int) -> None:
        """Look again then."""
        self.wake_ms = at_ms if self.wake_ms is None else min(self.wake_ms, at_ms)
