"""One runner: an order goes in, events come out; what runs is looked after; what was told and is safe is forgotten.

Accepting a command:

1. judged (judging.py): nothing is written for who is refused but the refusal;
2. the job into an empty room, durable;
3. the decision and the marks into the ledger, durable: from here on this key is never decided on again;
4. a supervisor is asked for. Whether it lives, its lock says; how far it came, the ledger.

Refusals of commands whose signature holds are decisions as well: what was told as "will not be run" must not be run
when the same key comes again. Everything is synchronous and short; waiting is the service's.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from watchbill.actions import outcomes
from watchbill.actions.bounds import CLOCK_AHEAD_MS_MAX
from watchbill.actions.definition import Effect
from watchbill.actions.enrolled import Enrolled, read_enrolled, read_roster_keys
from watchbill.actions.files import load_allowed
from watchbill.actions.order import LOOKS, Address, Ask, Cancel, Command, Order, Refusal, RosterCopy
from watchbill.clock import Clock
from watchbill.errors import StorageError, Unreadable
from watchbill.files import FileMissing, UnreadableFile, read_bounded, write_atomic
from watchbill.homes import Homes
from watchbill.logs import fields
from watchbill_agent.runner import bounds
from watchbill_agent.runner.acting import Act, check_bundle_epoch, check_order, glass_of, hear_act
from watchbill_agent.runner.boot import boot_id
from watchbill_agent.runner.cells import Disk, SystemDisk
from watchbill_agent.runner.event import Event
from watchbill_agent.runner.inventory import inventory
from watchbill_agent.runner.job import Glass, Job
from watchbill_agent.runner.jobs import Jobs, Store
from watchbill_agent.runner.judging import (
    Host,
    Judged,
    Now,
    Yes,
    check_counter,
    check_epoch_and_times,
    hear,
    is_fresh,
    judge_command,
    open_for,
)
from watchbill_agent.runner.launching import Launcher, NotLaunched
from watchbill_agent.runner.ledger import KEPT_MS, Class, Entry, Ledger, LedgerFull, Marks, Progress
from watchbill_agent.runner.retold import from_ledger
from watchbill_agent.runner.rooms import Rooms
from watchbill_agent.runner.telling import Allowance, Answers, Notes

log = logging.getLogger(__name__)

ROSTER: Final = "roster.signed"
ROSTER_BYTES_MAX: Final = 320 * 1024
FETCHED: Final = "told again; what it printed was fetched before"


@dataclass(slots=True)
class Answer:
    """What an order caused at once. `changed`: another inventory than before."""

    events: list[Event] = field(default_factory=list)
    changed: bool = False


class Runner:
    """What the socket serves. `owner` is whose files are believed, beside root's; `slots` are those of a new ledger."""

    def __init__(
        self,
        homes: Homes,
        owner: int,
        clock: Clock,
        launcher: Launcher,
        disk: Disk | None = None,
        boot: str | None = None,
        slots: int = bounds.SLOTS,
    ) -> None:
        self.homes = homes
        self.owner = owner
        self.counts: Counter[str] = Counter()
        """Orders by what came of them: `accepted`, and the words of refusals."""
        self.untold = 0
        """Refusals that were only counted, for there were too many."""
        self._clock = clock
        self._launcher = launcher
        self._disk = disk or SystemDisk()
        self._boot = boot or boot_id()
        self._slots = slots
        self._store: Store | None = None
        self.fault = ""
        """Why nothing can be written down; then nothing is accepted."""
        self._jobs = Jobs(clock, self._boot)
        self._answers = Answers()
        self._strangers = Allowance(bounds.REFUSALS_BURST, bounds.REFUSALS_EVERY_S, clock.monotonic_s)
        self._known = Allowance(bounds.ANSWERS_BURST, bounds.ANSWERS_EVERY_S, clock.monotonic_s)
        self._not_told_since = 0
        self._opened()

    # ------------------------------------------------------------ what it stands on

    def _opened(self) -> Store | None:
        """The files, opened when they were not; None when they cannot be, and `fault` says why."""
        if self._store is not None:
            return self._store
        try:
            ledger = Ledger.open(self._disk, self.homes.var, self._clock.wall_ms(), self._slots)
            rooms = Rooms.open(self._disk, self.homes.var)
            notes = Notes.open(self._disk, self.homes.var)
        except (OSError, StorageError, Unreadable) as exc:
            if not self.fault:
                log.error("nothing can be written down, so nothing is run", extra=fields(reason=exc))
            self.fault = str(exc)
            return None
        self.fault = ""
        if ledger.damaged:
            log.error(
                "decisions in the ledger are damaged: it is another one now",
                extra=fields(cells=ledger.damaged),
            )
        self._store = Store(ledger, rooms, notes)
        self._adopt(self._store)
        return self._store

    def _adopt(self, store: Store) -> None:
        """What another runner left behind, by its key."""
        self._jobs.adopt(store)
        self.look()

    def _lost(self, error: OSError | StorageError) -> str:
        """The disk failed under us: the files are opened anew at the next order."""
        log.error("the runner's files cannot be written", extra=fields(reason=error))
        if self._store is not None:
            self._store.close()
        self._store = None
        return f"what is done cannot be written down: {error}"

    def close(self) -> None:
        """Give the files back; what runs goes on."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _enrolled(self) -> Enrolled | None:
        try:
            return read_enrolled(self.homes.etc, self.owner)
        except Unreadable as exc:
            raise Judged(Refusal.SIGNATURE, str(exc)) from exc

    def host(self) -> Host:
        """What root of this host says now."""
        etc, owner = self.homes.etc, self.owner
        enrolled, keys, roster, enrolled_fault, roster_fault = None, {}, b"", "", ""
        try:
            enrolled = read_enrolled(etc, owner)
        except Unreadable as exc:
            enrolled_fault = str(exc)
        try:
            keys = read_roster_keys(etc, owner)
            roster = read_bounded(self.homes.var / ROSTER, ROSTER_BYTES_MAX)
        except FileMissing:
            pass
        except (Unreadable, UnreadableFile) as exc:
            roster_fault = str(exc)
        return Host(
            enrolled=enrolled,
            allowed=load_allowed(etc, owner),
            owner=owner,
            roster_keys=keys,
            roster=roster,
            enrolled_fault=enrolled_fault,
            roster_fault=roster_fault,
        )

    def _now(self) -> Now:
        return Now(self._clock.wall_ms(), self._clock.boottime_ms(), self._boot)

    # ------------------------------------------------------------ orders

    def order(self, signed: bytes) -> Answer:
        """Judge an order and carry it out; what it caused at once."""
        try:
            # Root's other files are read for who has signed alone: reading them is work.
            address, order = hear(signed, self._enrolled())
        except Judged as exc:
            return self._refused(self._refusal("", "", "", exc), self._strangers)
        store = self._opened()
        if store is not None and store.ledger.made_ms > self._clock.wall_ms() + CLOCK_AHEAD_MS_MAX:
            # Somebody has set the date back since: the ledger looks at its times when it is opened.
            self.close()
            store = self._opened()
        if store is None:
            key, run, step = _named(address, order)
            return self._refused(
                self._refusal(key, run, step, Judged(Refusal.LEDGER, self.fault)), self._known
            )
        try:
            return self._carry_out(store, self.host(), address, order)
        except (OSError, StorageError) as exc:
            key, run, step = _named(address, order)
            no = Judged(Refusal.LEDGER, str(exc) if isinstance(exc, LedgerFull) else self._lost(exc))
            return self._refused(self._refusal(key, run, step, no), self._known)

    def _carry_out(self, store: Store, host: Host, address: Address, order: Order) -> Answer:
        if isinstance(order, Command):
            return self._command(store, host, address, order)
        try:
            check_epoch_and_times(address, store.ledger, self._now())
            marks = check_counter(address, store.ledger.marks)
            changed = marks.epoch != store.ledger.marks.epoch
            store.ledger.raise_marks(marks)
            match order:
                case Ask():
                    return Answer(self._states(store, order.question, order.keys), changed)
                case Cancel():
                    return Answer(self._cancel(store, order.key), changed)
                case RosterCopy():
                    return Answer([], self._take_roster(store, host, order.signed) or changed)
        except Judged as exc:
            return self._refused(self._refusal("", "", "", exc), self._known)

    def _command(self, store: Store, host: Host, address: Address, command: Command) -> Answer:
        key = command.key(address.site, address.agent)
        ledger, now = store.ledger, self._now()
        marks = ledger.marks
        fresh = is_fresh(address, marks)
        known = ledger.find(key)
        decided = Marks(address.epoch, address.counter, marks.roster) if fresh else marks
        try:
            check_epoch_and_times(address, ledger, now)
        except Judged as exc:
            if known is not None:
                return self._again(store, known, command)
            # A late order that was never heard is decided on; an old one that is played back is not worth a place.
            keep = fresh and exc.reason is not Refusal.EPOCH
            return self._decline(store, key, command, exc, decided if keep else None)
        if known is not None:
            return self._again(store, known, command)
        try:
            check_counter(address, marks)
            self.look()
            yes = judge_command(command, host, ledger, self._jobs.running, self._jobs.empty(store), now)
        except Judged as exc:
            return self._decline(store, key, command, exc, decided)
        return self._accept(store, key, command, yes, decided, now)

    def act(self, asked: Act) -> Answer:
        """Carry out a step of a bundle, because root of this host asks for it; see `acting.py`."""
        host, now = self.host(), self._now()
        key = step = run = ""
        try:
            bundle, command = hear_act(asked, host, now)
            run, step = command.run, command.step
            key = command.key(bundle.site, self._own_id(host))
            store = self._opened()
            if store is None:
                raise Judged(Refusal.LEDGER, self.fault)
            known = store.ledger.find(key)
            if known is not None:
                return self._again(store, known, command)
            check_bundle_epoch(bundle, store.ledger.marks)
            check_order(asked, bundle, self._own_id(host), store.ledger)
            self._bring_roster(store, host, bundle.roster)
            self.look()
            rooms = self._jobs.empty(store)
            yes = judge_command(
                command, self.host(), store.ledger, self._jobs.running, rooms, now, by_root=True
            )
            glass = glass_of(asked, bundle, command)
            log.critical(
                "begun without the collector",
                extra=fields(bundle=bundle.id, step=step, uid=asked.uid, reason=asked.reason, key=key),
            )
            return self._accept(store, key, command, yes, store.ledger.marks, now, glass)
        except Judged as exc:
            # No decision is written down: whoever asked stands before it, and asks again once it is mended.
            return self._refused(self._refusal(key, run, step, exc), self._known)
        except (OSError, StorageError) as exc:
            no = Judged(Refusal.LEDGER, str(exc) if isinstance(exc, LedgerFull) else self._lost(exc))
            return self._refused(self._refusal(key, run, step, no), self._known)

    def _own_id(self, host: Host) -> str:
        assert host.enrolled is not None, "its bundle was heard"
        return host.enrolled.agent_id

    def _bring_roster(self, store: Store, host: Host, signed: bytes) -> None:
        """A bundle brings the roster of its time; one that is no newer than what is here is left."""
        if signed:
            with contextlib.suppress(Judged):
                self._take_roster(store, host, signed)

    def acted(self, key: str) -> list[Event]:
        """What is known of a command that was begun here, without taking it from who fetches it. For who waits."""
        self.look()
        waiting = self._jobs.waiting_of(key)
        if any(event.kind == outcomes.COMMAND_FINISHED for event in waiting):
            return waiting
        store = self._store
        entry = None if store is None else store.ledger.find(key)
        if store is None or entry is None or entry.reason:
            return []
        progress = store.ledger.progress(entry)
        if isinstance(progress, Progress) and progress.outcome:
            again = from_ledger(key, "", "", store.ledger.id, progress, FETCHED)
            return [Event(outcomes.COMMAND_FINISHED, again.to_json())]
        return []

    def _accept(
        self,
        store: Store,
        key: str,
        command: Command,
        yes: Yes,
        marks: Marks,
        now: Now,
        glass: Glass | None = None,
    ) -> Answer:
        job = Job(
            key=key,
            run=command.run,
            step=command.step,
            action=yes.action.name,
            plan=yes.plan,
            lock=command.lock,
            task=yes.task,
            ledger=store.ledger.id,
            boot=now.boot,
            at_ms=now.wall_ms,
            approvers=yes.approvers,
            glass=glass,
        )
        look = yes.plan or yes.action.effect is Effect.READ
        class_ = Class.LOOK if look else Class.EFFECT
        entry = self._entry(key, class_, "" if yes.plan else yes.action.name, now, _kept_ms(yes, class_, now))
        if yes.grant is not None and not look:
            entry = replace(entry, grant=yes.grant.id)
        room = self._jobs.empty_room(store)
        changed = marks.epoch != store.ledger.marks.epoch
        store.rooms.settle(room, job)
        try:
            store.ledger.decide(entry, marks)
        except BaseException:
            with contextlib.suppress(OSError):
                store.rooms.leave(room)
            raise
        self.counts["accepted"] += 1
        self._jobs.put(room, job)
        log.info("accepted", extra=fields(action=job.action, run=job.run, step=job.step, key=key))
        events = [job.begun()]
        try:
            self._launcher.start(key, job.task)
        except NotLaunched as exc:
            events += self._jobs.never_began(store, room, str(exc))
        return Answer(events, changed)

    def _entry(self, key: str, class_: Class, action: str, now: Now, kept_ms: int, reason: str = "") -> Entry:
        return Entry(
            key=key,
            class_=class_,
            action=action,
            at_ms=now.wall_ms,
            boot=now.boot,
            boottime_ms=now.boottime_ms,
            until_ms=now.wall_ms + kept_ms,
            reason=reason,
        )

    # ------------------------------------------------------------ no

    def _decline(self, store: Store, key: str, command: Command, no: Judged, marks: Marks | None) -> Answer:
        """Refuse a command. With `marks` it is a decision: this key will not be run."""
        changed = False
        if marks is not None:
            now = self._now()
            class_ = Class.LOOK if command.purpose in LOOKS else Class.REFUSED
            changed = marks.epoch != store.ledger.marks.epoch
            with contextlib.suppress(LedgerFull):
                entry = self._entry(key, class_, "", now, KEPT_MS[class_], no.reason.value)
                store.ledger.decide(entry, marks)
        answer = self._refused(self._refusal(key, command.run, command.step, no), self._known)
        answer.changed = changed
        return answer

    def _refusal(self, key: str, run: str, step: str, no: Judged) -> outcomes.Refused:
        at_ms = self._clock.wall_ms()
        return outcomes.Refused(key=key, run=run, step=step, reason=no.reason, detail=no.detail, at_ms=at_ms)

    def _refused(self, refused: outcomes.Refused, allowance: Allowance) -> Answer:
        """Tell a refusal, unless there were too many: those are counted, and the next one that is told says so."""
        self.counts[refused.reason.value] += 1
        if not allowance.spend():
            self.untold += 1
            self._not_told_since += 1
            return Answer()
        log.warning(
            "refused", extra=fields(reason=refused.reason.value, detail=refused.detail, key=refused.key)
        )
        detail = refused.detail[: outcomes.DETAIL_CHARACTERS_MAX - 60]
        if self._not_told_since:
            detail += f" ({self._not_told_since} refusals before it were not told)"
        told = outcomes.Refused(
            key=refused.key,
            run=refused.run,
            step=refused.step,
            reason=refused.reason,
            detail=detail,
            at_ms=refused.at_ms,
        )
        event = Event(outcomes.COMMAND_REFUSED, told.to_json())
        if not self._noted(event):
            self.untold += 1
            self._not_told_since += 1
            return Answer()
        self._not_told_since = 0
        return Answer([event])

    def _noted(self, event: Event) -> bool:
        if self._store is None:
            self._answers.add(event)  # In memory, which is all there is.
            return True
        try:
            return self._store.notes.add(event)
        except OSError as exc:
            self._lost(exc)
            self._answers.add(event)
            return True

    # ------------------------------------------------------------ what is known already

    def _again(self, store: Store, entry: Entry, command: Command) -> Answer:
        """The stored answer to a key that was decided on."""
        self.counts["again"] += 1
        if not self._known.spend():
            self.untold += 1
            return Answer()
        self.look()
        waiting = self._jobs.waiting_of(entry.key)
        if not waiting:
            waiting = [self._recalled(store, entry, command)]
            self._answers.add(waiting[0])
        return Answer(waiting)

    def _recalled(self, store: Store, entry: Entry, command: Command) -> Event:
        """What is left of a command whose events were fetched."""
        if entry.reason:
            told = outcomes.Refused(
                key=entry.key,
                run=command.run,
                step=command.step,
                reason=Refusal(entry.reason),
                detail="refused when it first came",
                at_ms=entry.at_ms,
            )
            return Event(outcomes.COMMAND_REFUSED, told.to_json())
        progress = store.ledger.progress(entry)
        if not isinstance(progress, Progress) or not progress.outcome:
            return _states_event("again", store.ledger.id, self._boot, {entry.key: outcomes.State.ACCEPTED})
        finished = from_ledger(entry.key, command.run, command.step, store.ledger.id, progress, FETCHED)
        return Event(outcomes.COMMAND_FINISHED, finished.to_json())

    def _states(self, store: Store, question: str, keys: Iterable[str]) -> list[Event]:
        self.look()
        states = {key: self._state(store, key) for key in keys}
        event = _states_event(question, store.ledger.id, self._boot, states)
        self._answers.add(event)
        return [event]

    def _state(self, store: Store, key: str) -> outcomes.State:
        entry = store.ledger.find(key)
        if entry is None:
            return outcomes.State.ABSENT
        if entry.reason:
            return outcomes.State.REFUSED
        progress = store.ledger.progress(entry)
        if progress is None:
            return outcomes.State.ACCEPTED
        done = isinstance(progress, Progress) and progress.outcome
        return outcomes.State.FINISHED if done else outcomes.State.RUNNING

    def _cancel(self, store: Store, key: str) -> list[Event]:
        """End what runs. When nothing does, say what is known: there is nothing that would follow."""
        self.look()
        if self._jobs.cancel(key):
            self.look()
            return []
        return self._states(store, "cancel", (key,))

    def _take_roster(self, store: Store, host: Host, signed: bytes) -> bool:
        """Keep a roster, when it is not older than what was seen; whether it is another one."""
        roster = open_for(host, signed)
        seen = store.ledger.marks.roster
        if roster.serial < seen:
            raise Judged(
                Refusal.ROSTER, f"the roster {roster.serial} is older than {seen}, which was seen here"
            )
        if signed == host.roster:
            return False
        if roster.serial == seen and host.roster:
            raise Judged(Refusal.ROSTER, f"another roster {seen} was seen here: sign it with a higher serial")
        write_atomic(self.homes.var / ROSTER, signed)
        marks = store.ledger.marks
        store.ledger.raise_marks(Marks(marks.epoch, marks.counter, roster.serial))
        return True

    # ------------------------------------------------------------ what runs, and what is told

    def look(self) -> None:
        """See what has ended, and what nobody sees to any more."""
        self._launcher.reap()
        store = self._opened() if self._jobs.running else self._store
        if store is None:
            return
        try:
            self._jobs.look(store)
        except OSError as exc:
            self._lost(exc)

    @property
    def running(self) -> int:
        """Commands that go on."""
        return len(self._jobs.running)

    def waiting(self) -> list[Event]:
        """Every event that was not confirmed, those of one command in their order."""
        notes = [] if self._store is None else self._store.notes.waiting()
        return self._jobs.waiting() + notes + self._answers.waiting()

    def confirm(self, ids: Iterable[bytes]) -> None:
        """These are safe elsewhere."""
        told = list(ids)
        for event_id in told:
            self._answers.confirm(event_id)
            if self._store is not None:
                self._store.notes.confirm(event_id)
        self._jobs.confirm(told, self._store)

    def inventory(self) -> list[outcomes.Inventory]:
        """What this host can do, in its parts."""
        store = self._opened()
        marks = Marks() if store is None else store.ledger.marks
        return inventory(self.host(), "" if store is None else store.ledger.id, marks.epoch, marks.roster)

    def status(self) -> dict[str, object]:
        """For people and tests."""
        store = self._opened()
        return {
            "ledger": "" if store is None else store.ledger.id,
            "remembered": 0 if store is None else store.ledger.held,
            "remembered_max": 0 if store is None else store.ledger.slots,
            "running": self.running,
            "waiting": len(self.waiting()),
            "counts": dict(self.counts),
            "untold": self.untold,
            "answers_dropped": self._answers.dropped,
            "fault": self.fault,
        }


def _kept_ms(yes: Yes, class_: Class, now: Now) -> int:
    """For how long a command that is taken up is remembered: also as long as it rests, or people's agreement lasts."""
    rest_ms = 0 if yes.plan else yes.action.cooldown_s * 1000
    agreed_ms = 0 if yes.grant is None else yes.grant.expires_ms - now.wall_ms
    return max(KEPT_MS[class_], rest_ms, agreed_ms)


def _states_event(question: str, ledger: str, boot: str, states: dict[str, outcomes.State]) -> Event:
    told = outcomes.States(question=question, ledger=ledger, boot=boot, states=states)
    return Event(outcomes.COMMAND_STATES, told.to_json())


def _named(address: Address, order: Order) -> tuple[str, str, str]:
    if isinstance(order, Command):
        return order.key(address.site, address.agent), order.run, order.step
    return "", "", ""
