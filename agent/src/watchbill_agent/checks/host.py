"""What this host does about its applications, put together. A host without checks imports this and no more."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from watchbill.clock import Clock
from watchbill.config import Homes
from watchbill.daemon import Daemon
from watchbill.errors import StorageError
from watchbill.logs import fields
from watchbill_agent.checks.present import Counts, any_checks
from watchbill_agent.checks.trees import Trees
from watchbill_agent.config import AgentConfig
from watchbill_agent.events import Events
from watchbill_agent.spool import SpoolFull

if TYPE_CHECKING:
    from watchbill_agent.backups.pings import Beats, Ping
    from watchbill_agent.checks.service import Checks, Judged, Standing

log = logging.getLogger(__name__)

HEARTBEAT_PING: Final = "heartbeat.ping"
"""`check`, `what` (start, success, fail or log), `exit_code` where one was given, and the end of what was `text`."""


class HostChecks:
    """See the module. `host` is this host's name for the phases of its checks. Raises ConfigError for checks that are
    wrong."""

    def __init__(self, homes: Homes, config: AgentConfig, clock: Clock, host: str) -> None:
        self._homes = homes
        self._clock = clock
        self._host = host
        self._trees = (config.procfs, config.sysfs, config.rootfs)
        self._tasks: list[asyncio.Task[object]] = []
        self.running: Checks | None = None
        self._wanted = self._judge_at_start()

    def _judge_at_start(self) -> "Judged | None":
        """A host whose disk is broken is one to be watched: without its checks, which is said."""
        try:
            return self.judge()
        except StorageError as exc:
            log.error("the checks of this host do not run", extra=fields(reason=exc))
            return None

    def judge(self) -> "Judged | None":
        """What checks there are; None without any. Raises ConfigError with every problem, StorageError when nobody
        could read them."""
        if not any_checks(self._homes.etc):
            return None
        from watchbill_agent.checks.service import judge

        judged = judge(self._where())
        return judged if judged.checks else None

    def _where(self) -> Trees:
        procfs, sysfs, rootfs = self._trees
        return Trees(self._homes.etc, procfs, sysfs, rootfs)

    def start(self, house: Daemon, events: Events, base_ms: Callable[[], int]) -> None:
        """Begin, if there is anything to begin with."""
        self._house, self._events, self._base_ms = house, events, base_ms
        if self._wanted is not None:
            self._start(self._wanted)

    def _start(self, judged: "Judged") -> None:
        from watchbill_agent.checks.service import Checks

        self.running = Checks(
            self._where(),
            self._homes.var,
            self._host,
            self._clock,
            self._base_ms,
            pinged=frozenset(judged.pinged),
        )
        self._tasks = [
            self._house.spawn("checks", self.running.run()),
            self._house.spawn("events of checks", self.running.tell(self._events)),
        ]

    def adopt(self, judged: "Judged | None") -> None:
        """The files changed, and were judged: there are checks now, or none."""
        if self.running is not None:
            self.running.reload()
        elif judged is not None:
            self._start(judged)

    def stop(self) -> None:
        """Look at nothing more."""
        for task in self._tasks:
            task.cancel()

    @property
    def counts(self) -> Counts:
        """Of the looks."""
        return Counts() if self.running is None else self.running.counts

    @property
    def pinged(self) -> frozenset[str]:
        """The checks that take pings."""
        return frozenset() if self.running is None else self.running.pinged

    def ping(self, name: str, what: str, code: int | None, text: str, at_ms: int) -> bool:
        """Tell a check of a ping; whether it could be told."""
        return self.running is not None and self.running.ping(name, what, code, text, at_ms)

    def beats(self) -> "Beats":
        """What the door for pings has to know of heartbeat checks."""
        from watchbill_agent.backups.pings import Beats

        return Beats(lambda: self.pinged, self._beat)

    async def _beat(self, ping: "Ping") -> bool:
        """Keep a ping, and tell its check; whether both went well. Whoever pinged may try again."""
        said = {"check": ping.name, "what": ping.what, "text": ping.text}
        code = {} if ping.code is None else {"exit_code": ping.code}
        try:
            await self._events.keep(HEARTBEAT_PING, {**said, **code})
        except SpoolFull as exc:
            log.error("a ping could not be kept", extra=fields(check=ping.name, reason=exc))
            return False
        told = self.ping(ping.name, ping.what, ping.code, ping.text, ping.at_ms)
        if not told:
            log.error("a ping could not be told to its check", extra=fields(check=ping.name))
        return told

    def standings(self) -> "list[Standing]":
        """How each check stands."""
        return [] if self.running is None else self.running.standings()
