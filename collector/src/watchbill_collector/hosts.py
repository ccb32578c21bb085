"""The host registry: who may connect, under which name and labels.

All of it is in memory, so the link asks without waiting; every change is committed first, by the store's
one writer thread, and then made here, in that thread. A subscriber is called there too, before the next
change: it must not block, and reaches an event loop by `call_soon_threadsafe`. So a revocation is in force
for the next frame as soon as its answer is given.

An agent's id is never used again: a forgotten host leaves its row as a tombstone.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError, UsageError
from watchbill.identity import INSTANCE_PATTERN, IdentityRefused, RefusalReason
from watchbill.leaving import DECOMMISSION, Leaving
from watchbill_collector.pki.peer import read_peer
from watchbill_collector.store import Store, events
from watchbill_collector.store.events import Event
from watchbill_collector.store.hosts import (
    Host,
    HostState,
    Presence,
    all_hosts,
    all_present,
    last_expiries,
    put_host,
    put_present,
)
from watchbill_collector.store.text import harmless

__all__ = ["Admission", "ChangeKind", "Host", "HostChange", "HostRegistry", "HostState", "check_instance"]

HOSTS_MAX: Final = 100_000
"""Live hosts of a site; the next enrolment is refused."""
REASON_MAX: Final = 500


class ChangeKind(StrEnum):
    """What happened to a host. After RENAMED its series go on under new labels and the old ones end; after
    REPLACED its name and series belong to `successor`; the last three end its sessions.
    """

    ENROLLED = "enrolled"
    APPROVED = "approved"
    RENAMED = "renamed"
    REPLACED = "replaced"
    RETIRED = "retired"
    REVOKED = "revoked"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class HostChange:
    """A change that is committed. `before` is None when the host is new."""

    kind: ChangeKind
    before: Host | None
    after: Host
    successor: Host | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """A client's certificate, accepted: which host it is, and until when (UTC ms) this certificate is
    good.
    """

    host: Host
    serial: str
    not_after_ms: int


Subscriber = Callable[[HostChange], None]

_REFUSALS: Final = {
    HostState.PENDING: RefusalReason.PENDING,
    HostState.RETIRED: RefusalReason.RETIRED,
    HostState.REVOKED: RefusalReason.REVOKED,
    HostState.FORGOTTEN: RefusalReason.REVOKED,
}
_SHUT_OUT: Final = frozenset({HostState.RETIRED, HostState.REVOKED, HostState.FORGOTTEN})
_WHY: Final = {
    RefusalReason.UNKNOWN_AGENT: "no host was enrolled here under that identity; enrol it again",
    RefusalReason.PENDING: "an administrator has not approved this host yet",
    RefusalReason.RETIRED: "this host was retired; enrol it again with a new token",
    RefusalReason.REVOKED: "this host was revoked",
    RefusalReason.EXPIRED: "this host's last certificate has expired",
}


class HostRegistry:
    """Every host of the site, in memory, written through to the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.site = store.site
        self._store = store
        self._clock = clock
        self._hosts = {host.agent_id: host for host in store.read(lambda c: all_hosts(c, store.site))}
        self._live = {host.instance.lower(): host for host in self._hosts.values() if host.live}
        self._valid_until_ms = store.read(lambda c: last_expiries(c, store.site))
        self._present = store.read(lambda c: all_present(c, store.site))
        self._forgotten_names: frozenset[str] | None = None
        self._subscribers: list[Subscriber] = []
        self.presence_not_written = 0
        """How often the store could not be told that a host came or left, since the start."""

    # ------------------------------------------------------------ asking

    def get(self, agent_id: str) -> Host | None:
        """The host with that id, whatever its state."""
        return self._hosts.get(agent_id)

    def live(self, instance: str) -> Host | None:
        """The live host of that name; upper and lower case are the same name."""
        return self._live.get(instance.lower())

    def live_count(self) -> int:
        """How many names are taken."""
        return len(self._live)

    def hosts(self) -> list[Host]:
        """Every host but the forgotten, by name."""
        known = [host for host in list(self._hosts.values()) if host.state is not HostState.FORGOTTEN]
        return sorted(known, key=lambda host: (host.instance.lower(), host.enrolled_ms))

    def forgotten_names(self) -> frozenset[str]:
        """Names that only forgotten hosts had."""
        known = self._forgotten_names
        if known is None:
            hosts = list(self._hosts.values())
            listed = {host.instance for host in hosts if host.state is not HostState.FORGOTTEN}
            known = frozenset({host.instance for host in hosts} - listed)
            self._forgotten_names = known
        return known

    def find(self, name: str) -> Host:
        """The host a person means: a live one's name, an id or the beginning of one, or the newest of a
        past name.

        Raises UsageError, saying what there is instead.
        """
        host = self._live.get(name.lower()) or self._hosts.get(name)
        if host is not None and host.state is not HostState.FORGOTTEN:
            return host
        past = [host for host in self.hosts() if host.instance.lower() == name.lower()]
        if past:
            return max(past, key=lambda host: host.changed_ms)
        begins = [host for host in self.hosts() if len(name) >= 4 and host.agent_id.startswith(name)]
        if len(begins) == 1:
            return begins[0]
        what = f"{len(begins)} hosts begin with" if begins else "no host is called"
        raise UsageError(f"{what} {harmless(name)!r}: watchbill hosts lists them")

    def admit(self, certificate_pem: bytes) -> Admission:
        """Judge the certificate a client came with. Raises IdentityRefused with the reason."""
        peer = read_peer(certificate_pem, self.site, self._clock.wall_ms())
        # A collector restored from a backup has not issued the newest certificates it meets.
        if peer.not_after_ms > self._valid_until_ms.get(peer.agent_id, 0):
            self._valid_until_ms[peer.agent_id] = peer.not_after_ms
        refusal = self.standing(peer.agent_id)
        if refusal is not None:
            raise IdentityRefused(refusal, _WHY[refusal])
        return Admission(self._hosts[peer.agent_id], peer.serial, peer.not_after_ms)

    def standing(self, agent_id: str) -> RefusalReason | None:
        """None while that host may go on; asked before every frame. One lookup, no I/O.

        A session outlives the certificate it began with as long as the host has renewed.
        """
        host = self._hosts.get(agent_id)
        if host is None:
            return RefusalReason.UNKNOWN_AGENT
        if host.state is not HostState.ACTIVE:
            return _REFUSALS[host.state]
        if self._clock.wall_ms() >= self._valid_until_ms.get(agent_id, 0):
            return RefusalReason.EXPIRED
        return None

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every change from now on, in the writer's thread; the answer ends it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def valid_until_ms(self, agent_id: str) -> int | None:
        """When the last certificate of a host ends, UTC ms."""
        return self._valid_until_ms.get(agent_id)

    def shut_out(self) -> list[str]:
        """Who may not connect any more and still holds a valid certificate: revoked, retired, forgotten."""
        now_ms = self._clock.wall_ms()
        return sorted(
            host.agent_id
            for host in list(self._hosts.values())
            if host.state in _SHUT_OUT and now_ms < self._valid_until_ms.get(host.agent_id, 0)
        )

    # ------------------------------------------------------------ who is there

    def seen(self, agent_id: str, labels: Mapping[str, str], beat_interval_ms: int = 0) -> None:
        """A session began, and the host's series carry these labels. Returns at once and is written soon
        after, so that after a restart of the collector a host that was there counts as down, not as
        unknown.
        """
        self._set_present(agent_id, Presence(dict(labels), None, beat_interval_ms))

    def left(self, agent_id: str, leaving: Leaving) -> None:
        """The host announced its stop: it is neither up nor down, unless it stays away for longer than it
        promised. Returns at once.
        """
        before = self._present.get(agent_id)
        if before is not None:
            self._set_present(agent_id, replace(before, leaving=leaving))

    def labels_of_series(self, agent_id: str) -> Mapping[str, str]:
        """What the series of a host carry; empty before it came."""
        presence = self._present.get(agent_id)
        return {} if presence is None else presence.labels

    def leaving(self, agent_id: str) -> Leaving | None:
        """How a host said goodbye; None while it has not."""
        presence = self._present.get(agent_id)
        return None if presence is None else presence.leaving

    def expected(self) -> list[tuple[Host, Presence]]:
        """Active hosts that came and did not say goodbye."""
        return [(host, presence) for host, presence in self.came() if presence.leaving is None]

    def promised(self) -> list[tuple[Host, Mapping[str, str], Leaving]]:
        """Active hosts that said goodbye and that they would be back."""
        return [
            (host, presence.labels, presence.leaving)
            for host, presence in self.came()
            if presence.leaving is not None and presence.leaving.back_by_ms
        ]

    def decommissioned(self) -> list[Host]:
        """Active hosts that were made to come and go, and said that they are gone for good."""
        return [
            host
            for host, presence in self.came()
            if host.ephemeral and presence.leaving is not None and presence.leaving.reason == DECOMMISSION
        ]

    def came(self) -> list[tuple[Host, Presence]]:
        """Active hosts that ever came, and how they are there."""
        came = [(self._hosts[agent_id], presence) for agent_id, presence in list(self._present.items())]
        return [(host, presence) for host, presence in came if host.state is HostState.ACTIVE]

    def _set_present(self, agent_id: str, presence: Presence) -> None:
        if agent_id not in self._hosts or self._present.get(agent_id) == presence:
            return
        self._present[agent_id] = presence
        now_ms = self._clock.wall_ms()
        try:
            written = self._store.submit(lambda c: put_present(c, self.site, agent_id, presence, now_ms))
        except (Busy, StorageError):
            # Only the answer after a restart suffers: this host would be unknown then until it comes again.
            self.presence_not_written += 1
        else:
            written.add_done_callback(self._presence_written)

    def _presence_written(self, written: Future[None]) -> None:
        self.presence_not_written += written.exception() is not None

    # ------------------------------------------------------------ changing

    async def rename(self, agent_id: str, instance: str, *, actor: str, source: str = "") -> Host:
        """Give a live host another name: new series begin, the old ones end. Raises UsageError,
        StorageError.
        """
        check_instance(instance)

        def decide(host: Host) -> Host:
            holder = self.live(instance)
            if not host.live:
                raise UsageError(f"{host.instance} is {host.state}; only a live host can be renamed")
            if holder is not None and holder.agent_id != agent_id:
                raise UsageError(f"the name {instance} is taken: watchbill hosts show {instance}")
            return replace(host, instance=instance)

        return await self._change(agent_id, ChangeKind.RENAMED, decide, actor, source)

    async def approve(self, agent_id: str, *, actor: str, source: str = "") -> Host:
        """Let a waiting host in: its agent gets its certificate when it asks next. Raises UsageError."""

        def decide(host: Host) -> Host:
            if host.state is not HostState.PENDING:
                raise UsageError(f"{host.instance} is {host.state}, not waiting for approval")
            return replace(host, state=HostState.ACTIVE)

        return await self._change(agent_id, ChangeKind.APPROVED, decide, actor, source)

    async def retire(self, agent_id: str, *, actor: str, reason: str = "", source: str = "") -> Host:
        """Take a host out of service: its name is free, its history stays. Raises UsageError."""

        def decide(host: Host) -> Host:
            if not host.live:
                raise UsageError(f"{host.instance} is already {host.state}")
            return replace(host, state=HostState.RETIRED, reason=harmless(reason, REASON_MAX))

        return await self._change(agent_id, ChangeKind.RETIRED, decide, actor, source)

    async def revoke(self, agent_id: str, *, actor: str, reason: str = "", source: str = "") -> Host:
        """Shut a host out for ever, a waiting or a retired one too. Raises UsageError."""

        def decide(host: Host) -> Host:
            if host.state in {HostState.REVOKED, HostState.FORGOTTEN}:
                raise UsageError(f"{host.instance} is already {host.state}")
            return replace(host, state=HostState.REVOKED, reason=harmless(reason, REASON_MAX))

        return await self._change(agent_id, ChangeKind.REVOKED, decide, actor, source)

    async def forget(self, agent_id: str, *, actor: str, source: str = "") -> Host:
        """Stop listing a host that is not live, and its series; its id stays used. Raises UsageError."""

        def decide(host: Host) -> Host:
            if host.live:
                raise UsageError(
                    f"{host.instance} is {host.state}: watchbill hosts retire {host.instance} first"
                )
            if host.state is HostState.FORGOTTEN:
                raise UsageError(f"{host.instance} is already forgotten")
            return replace(host, state=HostState.FORGOTTEN)

        return await self._change(agent_id, ChangeKind.FORGOTTEN, decide, actor, source)

    async def _change(
        self, agent_id: str, kind: ChangeKind, decide: Callable[[Host], Host], actor: str, source: str
    ) -> Host:
        def work(connection: sa.Connection) -> HostChange:
            # Memory changes in this thread alone, so what it says here is what the last commit said.
            before = self._hosts.get(agent_id)
            if before is None:
                raise UsageError(f"no host has the id {harmless(agent_id)!r}")
            after = replace(decide(before), changed_ms=self._clock.wall_ms())
            put_host(connection, after)
            detail: Mapping[str, object] = {"agent_id": agent_id, "reason": after.reason}
            if after.instance != before.instance:
                detail = {**detail, "was": before.instance}
            event = Event(
                verb=f"host.{kind}", target=after.instance, actor=actor, source=source, detail=detail
            )
            events.append(connection, self.site, self._clock, event)
            return HostChange(kind, before, after)

        change = await self._store.write(work, lambda made: self.apply([made]))
        return change.after

    def apply(self, changes: Sequence[HostChange], valid_until_ms: Mapping[str, int] | None = None) -> None:
        """Make committed changes here and tell the subscribers; called in the writer's thread alone."""
        self._valid_until_ms.update(valid_until_ms or {})
        for change in changes:
            if change.before is not None and self._live.get(change.before.instance.lower()) is change.before:
                del self._live[change.before.instance.lower()]
            self._hosts[change.after.agent_id] = change.after
            if change.after.live:
                self._live[change.after.instance.lower()] = change.after
        self._forgotten_names = None
        problems: list[Exception] = []
        for change in changes:
            for subscriber in list(self._subscribers):
                try:
                    subscriber(change)
                except Exception as exc:  # noqa: BLE001 - One deaf subscriber must not keep the others from hearing.
                    problems.append(exc)
        if problems:
            raise ExceptionGroup("told of a change of hosts, somebody failed", problems)


def check_instance(name: str) -> None:
    """Names of hosts: letters, digits and `._:@-`, at most 253. Raises UsageError."""
    if not INSTANCE_PATTERN.fullmatch(name):
        raise UsageError(
            f"got the host name {harmless(name)!r}, wanted letters, digits and ._:@- (at most 253, no space)"
        )
