"""The hosts, for the HTTP side: what the registry, the link and the history know of each, put together."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from watchbill import __version__
from watchbill.errors import Refused, UsageError
from watchbill.leaving import Leaving
from watchbill_collector.api.ports import (
    Absence,
    AbsenceKind,
    Caller,
    GapSummary,
    Host,
    HostState,
    NoSuch,
    at,
)
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.lifetimes import Lifetimes
from watchbill_collector.services.accounts import AccountsService
from watchbill_collector.services.health import HealthService
from watchbill_collector.store.hosts import Host as HostRow
from watchbill_collector.store.hosts import HostState as RowState


class FleetService:
    """`api.ports.HostsService`."""

    def __init__(
        self,
        registry: HostRegistry,
        ingest: Ingest,
        accounts: AccountsService,
        delivered: Callable[[str], bool],
        lifetimes: Lifetimes,
        health: HealthService,
    ) -> None:
        """`delivered` tells whether an agent has ever had something committed; `lifetimes` are those of hosts whose
        token said nothing else.
        """
        self._health = health
        self._lifetimes = lifetimes
        self._registry = registry
        self._ingest = ingest
        self._accounts = accounts
        self._delivered = delivered

    async def hosts(self) -> Sequence[Host]:
        """All of them, by name."""
        gaps = await asyncio.to_thread(self._accounts.summaries)
        await asyncio.to_thread(self._health.read)
        return [self.shown(row, gaps.get(row.agent_id, GapSummary())) for row in self._registry.hosts()]

    async def host(self, name: str) -> Host:
        """One of them."""
        return await self._shown(self._find(name))

    async def rename(self, name: str, to: str, by: Caller) -> Host:
        """Another instance name."""
        row = self._find(name)
        return await self._shown(await _answered(self._registry.rename(row.agent_id, to, actor=by.name)))

    async def retire(self, name: str, by: Caller) -> Host:
        """Out of service."""
        row = self._find(name)
        return await self._shown(await _answered(self._registry.retire(row.agent_id, actor=by.name)))

    async def revoke(self, name: str, reason: str, by: Caller) -> Host:
        """Shut out."""
        row = self._find(name)
        done = self._registry.revoke(row.agent_id, actor=by.name, reason=reason)
        return await self._shown(await _answered(done))

    async def approve(self, name: str, by: Caller) -> Host:
        """Let in."""
        row = self._find(name)
        return await self._shown(await _answered(self._registry.approve(row.agent_id, actor=by.name)))

    async def forget(self, name: str, by: Caller) -> None:
        """No longer listed."""
        row = self._find(name)
        await _answered(self._registry.forget(row.agent_id, actor=by.name))

    def _find(self, name: str) -> HostRow:
        try:
            return self._registry.find(name)
        except UsageError as exc:
            raise NoSuch(str(exc)) from exc

    async def _shown(self, row: HostRow) -> Host:
        gaps = await asyncio.to_thread(self._accounts.summaries)
        await asyncio.to_thread(self._health.read)
        return self.shown(row, gaps.get(row.agent_id, GapSummary()))

    def shown(self, row: HostRow, gaps: GapSummary) -> Host:
        """A host as the API shows it."""
        facts = self._ingest.facts(row.agent_id)
        leaving = self._registry.leaving(row.agent_id)
        heard_ms = facts.heard_ms if facts is not None else 0
        if leaving is not None:
            heard_ms = leaving.left_ms
        state, since_ms = _STATES.get(row.state), row.changed_ms
        if state is None:
            pulse = self._ingest.liveness.pulse(row.agent_id)
            if facts is not None and facts.up is not None:
                state, since_ms = (HostState.UP if facts.up else HostState.DOWN), facts.since_ms
            elif pulse is not None:
                state = HostState.UNKNOWN
            elif leaving is not None:
                state, since_ms = HostState.STOPPED, leaving.left_ms
            else:
                state = HostState.STOPPED if self._delivered(row.agent_id) else HostState.NEVER
        version = facts.agent_version if facts is not None and facts.agent_version else row.agent_version
        expires_ms = self._registry.valid_until_ms(row.agent_id)
        lifetimes = self._lifetimes.bound(row.certificate_lifetime_ms, row.expired_grace_ms)
        return Host(
            name=row.instance,
            agent_id=row.agent_id,
            site=row.site,
            state=state,
            since=at(since_ms) if since_ms else None,
            last_seen=at(heard_ms) if heard_ms else None,
            agent_version=version,
            interval_s=facts.interval_ms / 1000 if facts is not None and facts.interval_ms else None,
            series=facts.series if facts is not None else 0,
            clock_skew_s=facts.skew_s if facts is not None and facts.connected else None,
            labels=row.labels,
            gaps=gaps,
            certificate_expires=at(expires_ms) if expires_ms else None,
            certificate_lifetime_s=lifetimes.agent_s,
            expired_grace_s=lifetimes.expired_grace_s,
            outdated=_older(version, __version__),
            transport=facts.transport if facts is not None else "",
            absence=_absence(state, leaving, since_ms, heard_ms, facts.lost_ms if facts is not None else 0),
            apps=self._health.apps(row.agent_id) if row.state not in _STATES else (),
        )


_STATES = {
    RowState.PENDING: HostState.PENDING,
    RowState.RETIRED: HostState.RETIRED,
    RowState.REVOKED: HostState.REVOKED,
}


def _absence(
    state: HostState, leaving: Leaving | None, since_ms: int, heard_ms: int, lost_ms: int
) -> Absence | None:
    """Why a host in this state is not there; None while it is, and where nobody can say."""
    if leaving is not None and state in (HostState.STOPPED, HostState.DOWN):
        kind = AbsenceKind.ANNOUNCED if state is HostState.STOPPED else AbsenceKind.OVERDUE
        back_by = at(leaving.back_by_ms) if leaving.back_by_ms else None
        return Absence(kind, leaving.reason, at(leaving.left_ms), back_by)
    if state is HostState.DOWN:
        return Absence(AbsenceKind.UNEXPECTED, "", at(lost_ms or heard_ms or since_ms))
    if state is HostState.UP and lost_ms:
        return Absence(AbsenceKind.UNEXPECTED, "", at(lost_ms))
    return None


def _older(version: str, than: str) -> bool:
    """Whether a version is older; what is no version is not."""
    try:
        return tuple(map(int, version.split("."))) < tuple(map(int, than.split(".")))
    except ValueError:
        return False


async def _answered(change: Coroutine[object, object, HostRow]) -> HostRow:
    """A change that cannot be made is a refusal, not a mistake in the request."""
    try:
        return await change
    except UsageError as exc:
        raise Refused(str(exc)) from exc
