"""What this host does about its backups, put together: the door for what others say of runs, looks at repositories,
systemd's units, pings.

A host without backups imports the door and no more; everything else comes with the first job.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from watchbill.backups.requests import UNKNOWN_JOB
from watchbill.clock import Clock
from watchbill.config import Address, Homes
from watchbill.daemon import Daemon
from watchbill.errors import StorageError
from watchbill.logs import fields
from watchbill.protocol.frames import VerifyBackup
from watchbill_agent.actions.door import runner_socket
from watchbill_agent.backups.drop import Drop
from watchbill_agent.backups.incoming import Incoming
from watchbill_agent.backups.present import Counts, load_jobs, was_told
from watchbill_agent.backups.requests import Refused, RequestCounts, Requests, Verdict
from watchbill_agent.events import Events

if TYPE_CHECKING:
    from watchbill_agent.backups.config import JobConfig
    from watchbill_agent.backups.pings import Beats, Pings
    from watchbill_agent.backups.service import Backups
    from watchbill_agent.backups.units import UnitWatch

log = logging.getLogger(__name__)


class HostBackups:
    """See the module. `agent_id` is None on a host that is not enrolled: what it is told it keeps as files. Raises
    ConfigError for jobs that are wrong."""

    def __init__(self, homes: Homes, clock: Clock, agent_id: str | None) -> None:
        self._homes = homes
        self._clock = clock
        self._agent_id = agent_id
        self._jobs = self._load()
        self._names: frozenset[str] = frozenset()
        self._events: Events | None = None
        self._service: Backups | None = None
        self._looking: asyncio.Task[object] | None = None
        self._units: UnitWatch | None = None
        self._requests: Requests | None = None
        self.incoming: Incoming | None = None

    def _load(self) -> "Sequence[JobConfig] | None":
        """None when nobody could read them: a host whose disk is broken is one to be watched, and to say that it has no
        backups would be wrong."""
        try:
            return load_jobs(self._homes.etc)
        except StorageError as exc:
            log.error("the backups of this host are not watched", extra=fields(reason=exc))
            return None

    # ------------------------------------------------------------ life

    async def start(self, house: Daemon, events: Events, committed: Callable[[], int]) -> None:
        """Adopt what was left while no agent ran, and begin. `committed` is the number of the last critical record that
        the collector has."""
        self._events = events
        door = None if self._agent_id is None else events
        self.incoming = Incoming(Drop(self._homes), door, committed=committed, taken=self._took)
        await self.incoming.at_start()
        house.spawn("backups left as files", self.incoming.run())
        self._requests = Requests(events, self._clock, self._judge)
        house.spawn("what is asked about backups", self._requests.run())
        if self._jobs is not None:
            self.adopt(house, self._jobs)

    def adopt(self, house: Daemon, jobs: "Sequence[JobConfig]") -> None:
        """These are the jobs now. A host that has none, and never told of any, imports nothing of it."""
        assert self._events is not None, "adopted after the start"
        self._names = frozenset(job.name for job in jobs)
        if self._service is not None:
            self._service.adopt(jobs)
        elif self._agent_id is not None and (jobs or was_told(self._homes.var)):
            from watchbill_agent.backups.service import Backups

            runner = {"etc": str(self._homes.etc), "runner": str(runner_socket(self._homes.run))}
            self._service = Backups(
                jobs, self._homes.var, self._agent_id, self._events, self._clock, runner=runner
            )
            self._looking = house.spawn("backups", self._service.run())
        self._watch_units(house, jobs)

    def _watch_units(self, house: Daemon, jobs: "Sequence[JobConfig]") -> None:
        if self._units is None and self._agent_id is not None and any(job.unit for job in jobs):
            from watchbill_agent.backups.units import UnitWatch

            self._units = UnitWatch(self._door().keep, self._clock)
            house.spawn("units of backups", self._units.run())
        if self._units is not None:
            self._units.adopt_jobs(jobs)

    def stop(self) -> None:
        """Begin no further look."""
        if self._looking is not None:
            self._looking.cancel()

    # ------------------------------------------------------------ what is told, and asked

    async def told(self, rest: str) -> dict[str, object]:
        """Somebody hands over a record, through the socket. Raises UsageError."""
        return await self._door().told(rest)

    def pings(self, address: Address, beats: "Beats") -> "Pings":
        """A door for pings, not open yet; `beats` are those of heartbeat checks."""
        from watchbill_agent.backups.pings import Pings

        return Pings(address, lambda: self._names, self._door().keep, self._clock, beats)

    def seen(self) -> list[dict[str, object]]:
        """What looks at repositories found."""
        return [] if self._service is None else self._service.seen()

    def asked(self, request: VerifyBackup) -> None:
        """The collector asks for a verification. Answered by an event, later."""
        assert self._requests is not None, "there is a link after the start"
        self._requests.take(request)

    def _judge(self, request: VerifyBackup) -> Verdict:
        if self._service is None:
            return Refused(UNKNOWN_JOB, f"no file of this host defines {request.job}")
        return self._service.judge(request)

    @property
    def requests(self) -> RequestCounts:
        """Of what the collector asks."""
        return RequestCounts() if self._requests is None else self._requests.counts

    @property
    def counts(self) -> Counts:
        """Of the looks."""
        return Counts() if self._service is None else self._service.counts

    def _took(self, record: Mapping[str, object]) -> None:
        """A run that ended says how its command did; its repository says what became of it."""
        ended = record["kind"] == "run" and record["outcome"] != "running"
        if self._service is not None and ended:
            self._service.soon(str(record["job"]))

    def _door(self) -> Incoming:
        assert self.incoming is not None, "the door for records is opened first"
        return self.incoming
