"""The planner: how every alert stands, what every channel was told, who wants quiet -> notices to queue.

Pure but for what it remembers to be quick: an alert's destinations and the silences that match it are worked
out once, as long as nothing they depend on changes. With 50,000 alerts that is the difference between looking
at each once and at each every second.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from watchbill_collector.dispatch.compose import Composer, Describe, ServiceOf, line_of, nobody_serves
from watchbill_collector.dispatch.decide import Standings, Step, decide, without_queued
from watchbill_collector.dispatch.routing import Destination, Roots, Route, Routing, destinations, thread_key
from watchbill_collector.dispatch.silence import Silence
from watchbill_collector.dispatch.thread import Thread
from watchbill_collector.dispatch.values import Service, Severity, Standing, Way
from watchbill_collector.dispatch.windows import OpenWindows, open_windows
from watchbill_collector.notifiers.notice import Notice

THREADS_MAX = 10_000
"""Threads at once. Beyond, alerts of a route are told together, whatever their group."""
DIGEST_LINES_MAX = 1_000
"""Lines of one digest; the rest is a number."""
KEPT_MS = 7 * 86_400_000
"""How long a thread is kept whose channel is gone; it may come back, and is owed an end."""
ROUTED_MAX = 200_000
"""Alerts whose destinations are remembered; all are forgotten together when there are more."""
MINUTE_MS = 60_000
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class World:
    """What is known at one moment.

    `complete`: an alert that is not there has ended. `refresh_ms`: how soon a channel's peer forgets, by channel;
    `alerts_wanted`: how many alerts it wants listed.
    `attempted` and `in_flight` are keys of queued notices.
    """

    alerts: Sequence[Standing]
    silences: tuple[Silence, ...]
    routing: Routing
    channels: frozenset[str]
    now_ms: int
    complete: bool = True
    refresh_ms: Mapping[str, int] = field(default_factory=dict)
    alerts_wanted: Mapping[str, int] = field(default_factory=dict)
    attempted: frozenset[str] = frozenset()
    in_flight: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hush:
    """Why an alert that fires tells nobody anew."""

    silences: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    inhibited: bool = False


@dataclass(slots=True)
class Plan:
    """What is to be written in one transaction: `threads` as they are from now, threads that are `gone`,
    `notices` to queue, and queued ones that were `overtaken`. The rest is for whoever asks.
    """

    threads: dict[str, Thread] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)
    abandoned: int = 0
    """Threads given up although their channel is owed an end: it has been gone for too long."""
    grouped_together: int = 0
    """Alerts that went into a common thread because there are too many threads."""
    look_again_ms: int = 0
    hushed: dict[str, Hush] = field(default_factory=dict)
    places: Mapping[str, tuple[Destination, Mapping[str, Standing]]] = field(default_factory=dict)
    """The alerts that nothing hushes, by the thread they belong to."""
    due: dict[str, int] = field(default_factory=dict)
    """When a thread that has something to tell, or may have again, is to be looked at."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.threads or self.gone or self.notices or self.overtaken)

    def look(self, at_ms: int) -> None:
        """Look again then, if not sooner."""
        if at_ms and (not self.look_again_ms or at_ms < self.look_again_ms):
            self.look_again_ms = at_ms


@dataclass(slots=True)
class _Remembered:
    """What was worked out, and for what it holds."""

    routing: Routing | None = None
    silences: tuple[Silence, ...] | None = None
    windows: OpenWindows | None = None
    destinations: dict[tuple[str, str, bool, Way | None], list[Destination]] = field(default_factory=dict)
    silenced: dict[str, tuple[str, ...]] = field(default_factory=dict)
    muted: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def match(self, world: World, windows: OpenWindows) -> None:
        """Forget what no longer holds."""
        if self.routing is not world.routing or len(self.destinations) > ROUTED_MAX:
            self.routing, self.destinations = world.routing, {}
        if self.silences != world.silences or len(self.silenced) > ROUTED_MAX:
            self.silences, self.silenced = world.silences, {}
        if self.windows != windows or len(self.muted) > ROUTED_MAX:
            self.windows, self.muted = windows, {}


class Planner:
    """Makes plans. `service_of` and `service` know services by labels and by name."""

    def __init__(
        self,
        describe: Describe,
        *,
        service_of: ServiceOf = nobody_serves,
        service: Callable[[str], Service | None] = lambda _: None,
        external_url: str = "",
    ) -> None:
        self._service_of = service_of
        self._service = service
        self._composer = Composer(describe, service_of, external_url.rstrip("/"))
        self._remembered = _Remembered()
        self._services: dict[str, Service | None] = {}

    def plan(self, world: World, threads: Mapping[str, Thread]) -> Plan:
        """What to do now."""
        plan = Plan()
        windows = open_windows(world.routing.windows, world.now_ms)
        self._remembered.match(world, windows)
        standings = _standings(world)
        wanted = self._routed(world, windows, standings, threads, plan)
        plan.places = wanted
        for key in {**threads, **wanted}:
            destination, eligible = wanted.get(key, (None, {}))
            thread = threads.get(key)
            if thread is None:
                assert destination is not None, "a key that is in neither"
                thread = _begun(destination, world.now_ms)
            self._thread(world, standings, thread, eligible, destination, plan)
        # A digest that begins with this plan has its time to wait for, too.
        self._look_again(world, {**threads, **plan.threads}, plan)
        return plan

    # Who is told of what.

    def _routed(
        self,
        world: World,
        windows: OpenWindows,
        standings: Standings,
        threads: Mapping[str, Thread],
        plan: Plan,
    ) -> dict[str, tuple[Destination, dict[str, Standing]]]:
        """The alerts that nothing hushes, by the thread they belong to."""
        down = _hosts_down(standings.firing)
        active = frozenset(one.silence_id for one in world.silences if one.active(world.now_ms))
        services = self._served(standings.firing)
        failing = frozenset(
            service.name
            for key, alert in standings.firing.items()
            if (service := services[key]) is not None and alert.severity.rank <= Severity.MAJOR.rank
        )
        roots = Roots(failing, self._service)
        told_on = _told_on(threads)
        wanted: dict[str, tuple[Destination, dict[str, Standing]]] = {}
        for key, alert in standings.firing.items():
            hush = self._hush(alert, windows, world.silences, active, down)
            if hush is not None:
                plan.hushed[key] = hush
                continue
            service = services[key]
            for destination in self._destinations(alert, world.routing, roots, service):
                route = destination.route
                if route.mute and not route.mute.isdisjoint(windows.names):
                    plan.hushed[key] = Hush(windows=tuple(sorted(route.mute & windows.names)))
                    continue
                place = _placed(destination, key, told_on, threads, wanted, plan)
                if place is not None:
                    wanted.setdefault(place.key, (place, {}))[1][key] = alert
        return wanted

    def _served(self, firing: Mapping[str, Standing]) -> dict[str, Service | None]:
        known = self._services
        if len(known) > ROUTED_MAX:
            known.clear()
        for key, alert in firing.items():
            if key not in known:
                known[key] = self._service_of(alert.labels)
        return known

    def _hush(
        self,
        alert: Standing,
        windows: OpenWindows,
        silences: tuple[Silence, ...],
        active: frozenset[str],
        down: frozenset[str],
    ) -> Hush | None:
        remembered, key = self._remembered, alert.fingerprint
        silenced = remembered.silenced.get(key)
        if silenced is None:
            silenced = remembered.silenced[key] = tuple(
                one.silence_id for one in silences if one.silences(alert.labels)
            )
        if silenced:
            silenced = tuple(one for one in silenced if one in active)
        muted = remembered.muted.get(key)
        if muted is None:
            muted = remembered.muted[key] = tuple(
                name for name, match in windows.muted if match.matches(alert.labels)
            )
        inhibited = not alert.host_down and alert.labels.get("instance", "") in down
        return Hush(silenced, muted, inhibited) if silenced or muted or inhibited else None

    def _destinations(
        self, alert: Standing, routing: Routing, roots: Roots, service: Service | None
    ) -> list[Destination]:
        remembered = self._remembered.destinations
        root = roots.of(service) if service is not None else ""
        key = (alert.fingerprint, root, alert.quiet, alert.way)
        found = remembered.get(key)
        if found is None:
            found = remembered[key] = destinations(
                alert, routing, root, service.channel if service is not None else ""
            )
        return found

    # One thread.

    def _thread(
        self,
        world: World,
        standings: Standings,
        thread: Thread,
        eligible: dict[str, Standing],
        destination: Destination | None,
        plan: Plan,
    ) -> None:
        if thread.channel not in world.channels:
            if world.now_ms - thread.changed_ms > KEPT_MS:
                plan.gone.append(thread.key)
                plan.abandoned += 1
            return
        if thread.way is Way.DIGEST:
            self._digest(world, standings, thread, eligible, plan)
            return
        route = destination.route if destination is not None else None
        queued = thread.queued
        attempted = queued is not None and queued.key in world.attempted
        decision = decide(
            thread,
            eligible,
            route,
            standings,
            attempted=attempted,
            in_flight=queued is not None and queued.key in world.in_flight,
            now_ms=world.now_ms,
            refresh_ms=world.refresh_ms.get(thread.channel, 0),
        )
        plan.look(decision.due_ms)
        if decision.due_ms:
            plan.due[thread.key] = decision.due_ms
        if decision.step is Step.NOTHING:
            if thread.idle and not eligible and thread.changed_ms:
                plan.gone.append(thread.key)
            return
        if queued is not None:
            plan.overtaken.append(queued.key)
        if decision.content is None:
            plan.threads[thread.key] = replace(
                without_queued(thread, attempted=attempted), changed_ms=world.now_ms
            )
            return
        base = _next_life(thread, world.now_ms)
        wanted = world.alerts_wanted.get(thread.channel, 0)
        notice, waiting = self._composer.page(base, decision.content, route, standings, world.now_ms, wanted)
        bare = without_queued(base, attempted=attempted)
        plan.notices.append(notice)
        plan.threads[thread.key] = replace(
            bare, queued=waiting, number=base.number + 1, changed_ms=world.now_ms
        )

    def _digest(
        self,
        world: World,
        standings: Standings,
        thread: Thread,
        eligible: Mapping[str, Standing],
        plan: Plan,
    ) -> None:
        """Lines come and end; at its time of day all of them go out, and those that have ended go."""
        now_ms = world.now_ms
        lines, left_out = dict(thread.told), thread.left_out
        for key, alert in eligible.items():
            line = lines.get(key)
            if line is not None and line.ends_ms:
                lines[key] = replace(line, ends_ms=0)
            elif line is None and len(lines) < DIGEST_LINES_MAX:
                lines[key] = line_of(alert, self._composer.describe(alert))
            elif line is None:
                left_out = max(left_out, len(eligible) - len(lines))
        for key, line in lines.items():
            if not line.ends_ms and standings.over(key):
                resolved = standings.resolved.get(key)
                lines[key] = replace(line, ends_ms=resolved.resolved_ms if resolved is not None else now_ms)
        changed = lines != thread.told or left_out != thread.left_out
        if not thread.told_ms:
            thread = replace(thread, told_ms=now_ms)
        thread = replace(thread, told=lines, left_out=left_out)
        due_ms = world.routing.digest.latest(world.routing.digest_zone, now_ms, DAY_MS)
        if lines and thread.queued is None and due_ms > thread.told_ms:
            base = _next_life(thread, now_ms)
            notice, waiting = self._composer.digest(base, now_ms)
            plan.notices.append(notice)
            plan.threads[thread.key] = replace(
                base, queued=waiting, number=base.number + 1, changed_ms=now_ms
            )
        elif changed:
            plan.threads[thread.key] = replace(thread, changed_ms=now_ms)
        elif thread.idle and thread.changed_ms:
            plan.gone.append(thread.key)

    def _look_again(self, world: World, threads: Mapping[str, Thread], plan: Plan) -> None:
        now_ms = world.now_ms
        for silence in world.silences:
            for edge_ms in (silence.starts_ms, silence.ends_ms):
                if edge_ms > now_ms:
                    plan.look(edge_ms)
        if world.routing.windows or any(one.way is Way.DIGEST for one in threads.values()):
            plan.look(now_ms - now_ms % MINUTE_MS + MINUTE_MS)


def _standings(world: World) -> Standings:
    firing: dict[str, Standing] = {}
    resolved: dict[str, Standing] = {}
    for alert in world.alerts:
        if not alert.firing:
            resolved[alert.fingerprint] = alert
            continue
        before = firing.get(alert.fingerprint)
        # Two rules with one label set are one alert: the worse of them speaks.
        if before is None or alert.severity.rank < before.severity.rank:
            firing[alert.fingerprint] = alert
    return Standings(firing, resolved, world.complete)


def _hosts_down(firing: Mapping[str, Standing]) -> frozenset[str]:
    return frozenset(
        instance
        for alert in firing.values()
        if alert.host_down and (instance := alert.labels.get("instance", ""))
    )


def _told_on(threads: Mapping[str, Thread]) -> dict[tuple[str, str], str]:
    """Which thread of a channel told it of an alert."""
    return {
        (thread.channel, fingerprint): key
        for key, thread in threads.items()
        if thread.way is Way.PAGE
        for fingerprint, told in thread.told.items()
        if told.sure
    }


def _placed(
    destination: Destination,
    fingerprint: str,
    told_on: Mapping[tuple[str, str], str],
    threads: Mapping[str, Thread],
    wanted: Mapping[str, object],
    plan: Plan,
) -> Destination | None:
    """The thread that an alert belongs to: None when its channel knows of it by another one, which will tell the
    end."""
    if destination.way is Way.PAGE:
        teller = told_on.get((destination.channel, fingerprint), destination.key)
        if teller != destination.key:
            return None
    if destination.key in threads or destination.key in wanted or len(threads) + len(wanted) < THREADS_MAX:
        return destination
    plan.grouped_together += 1
    key = thread_key(destination.route, destination.channel, destination.way, ())
    return replace(destination, key=key, group=())


def _begun(destination: Destination, now_ms: int) -> Thread:
    return Thread(
        key=destination.key,
        channel=destination.channel,
        route=destination.route.name,
        way=destination.way,
        group=destination.group,
        life=now_ms,
    )


def _next_life(thread: Thread, now_ms: int) -> Thread:
    """A thread whose channel knows of nothing begins anew: what comes is another story."""
    return replace(thread, life=now_ms, number=0) if thread.idle else thread


__all__ = ["Hush", "Plan", "Planner", "Route", "World"]
