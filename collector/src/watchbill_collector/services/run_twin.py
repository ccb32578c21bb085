"""Hosts in memory, with runners that judge and remember like the real ones, for trying out runs and for benchmarks.

A host has actions and, for each, a program: a function from its arguments to what it would print. What ran is counted.
Faults are said to it: it can be away, lose messages, forget its ledger, be started anew in the middle of a command.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from watchbill.actions.definition import Action, ArgumentRefused, Effect, Value
from watchbill.actions.grants import ApprovalsMissing, Grant, check_command
from watchbill.actions.order import LOOKS, Address, Ask, Cancel, Command, Order, Refusal, open_order
from watchbill.actions.outcomes import Accepted, Finished, Inventory, Outcome, Refused, State, States
from watchbill.actions.roster import Roster  # noqa: TC001 - The twin's attribute has its type at run time.
from watchbill.actions.signing import SignatureRefused
from watchbill.clock import Clock
from watchbill.errors import Unreadable

Told = Accepted | Finished | Refused | States | Inventory
Program = Callable[[Mapping[str, Value]], "Ran"]
LEDGER_MAX: Final = 100_000
"""Commands that a host in memory remembers; the oldest go."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program did."""

    exit_code: int = 0
    output: str = ""
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Entry:
    command: Command
    state: State
    accepted: Accepted | None = None
    answer: Finished | Refused | None = None


class HostTwin:
    """One host. With `at_once` a command ends when it is delivered; else `finish` ends it."""

    def __init__(
        self,
        agent: str,
        name: str,
        site: str,
        command_key: bytes,
        clock: Clock,
        *,
        labels: Mapping[str, str] | None = None,
        at_once: bool = True,
    ) -> None:
        self.agent = agent
        self.name = name
        self.labels = dict(labels or {})
        self.at_once = at_once
        self.connected = True
        self.roster: Roster | None = None
        self.actions: dict[str, Action] = {}
        self.ran: Counter[str] = Counter()
        """How often each action ran."""
        self.keys: Counter[str] = Counter()
        """How often each command ran; more than once is what must never be."""
        self.told: deque[Told] = deque()
        """What it has to say, until somebody takes it."""
        self.boot = f"{name}-boot-0"
        self.ledger = f"{name}-ledger-0"
        self._site = site
        self._command_key = command_key
        self._clock = clock
        self._programs: dict[str, Program] = {}
        self._entries: dict[str, _Entry] = {}
        self._grants: Counter[str] = Counter()
        self._counter = 0
        self._epoch = 0
        self._made_ms = 0
        self._numbers = itertools.count(1)

    def allow(self, action: Action, program: Program | None = None) -> None:
        """Let an action be run; without a program it prints nothing and is well."""
        self.actions[action.name] = action
        self._programs[action.name] = program or (lambda _: Ran())

    def inventory(self) -> Inventory:
        """What it says of itself."""
        return Inventory(
            version=f"{self.ledger}-{len(self.actions)}",
            runner=True,
            ledger=self.ledger,
            epoch=self._epoch,
            roster_serial=self.roster.serial if self.roster is not None else 0,
            roster_keys=(),
            actions=tuple(self.actions.values()),
        )

    # ------------------------------------------------------------ orders

    def take(self, body: bytes) -> None:
        """An order arrives."""
        try:
            address, order = open_order(self._command_key, body)
        except (SignatureRefused, Unreadable) as exc:
            self.told.append(self._refusal("", "", "", Refusal.SIGNATURE, str(exc)))
            return
        match order:
            case Command():
                self._command(address, order)
            case Ask():
                self._answer(order)
            case Cancel():
                self.finish(order.key, Ran(outcome=Outcome.CANCELLED))
            case _:
                pass

    def _command(self, address: Address, command: Command) -> None:
        key = command.key(self._site, self.agent)
        fault = self._misaddressed(address, command)
        if fault is not None:
            self.told.append(self._refusal(key, command.run, command.step, *fault))
            return
        known = self._entries.get(key)
        if known is not None:
            # The same command again: what became of it is said again, and nothing is run.
            self.told.extend(one for one in (known.accepted, known.answer) if one is not None)
            return
        fault = self._counted(address) or self._judged(command)
        if fault is not None:
            answer = self._refusal(key, command.run, command.step, *fault)
            self._remember(key, _Entry(command, State.REFUSED, answer=answer))
            self.told.append(answer)
            return
        accepted = Accepted(
            key=key,
            run=command.run,
            step=command.step,
            ledger=self.ledger,
            boot=self.boot,
            at_ms=self._clock.wall_ms(),
        )
        self._remember(key, _Entry(command, State.RUNNING, accepted))
        self.told.append(accepted)
        self._begin(key, command)
        if self.at_once:
            self.finish(key)

    def _misaddressed(self, address: Address, _: Order) -> tuple[Refusal, str] | None:
        if (address.site, address.agent) != (self._site, self.agent):
            return Refusal.OTHER_HOST, f"for {address.agent}"
        if address.epoch < self._epoch:
            return Refusal.EPOCH, f"epoch {address.epoch}, {self._epoch} was seen"
        self._epoch = address.epoch
        if self._clock.wall_ms() >= address.not_after_ms:
            return Refusal.EXPIRED, "its time is over"
        return None

    def _counted(self, address: Address) -> tuple[Refusal, str] | None:
        if address.issued_ms < self._made_ms:
            return Refusal.COUNTER, "ordered before this ledger was made"
        if address.counter <= self._counter:
            return Refusal.COUNTER, f"number {address.counter}, {self._counter} was seen"
        self._counter = address.counter
        return None

    def _judged(self, command: Command) -> tuple[Refusal, str] | None:
        action = self.actions.get(command.action)
        if action is None:
            return Refusal.NOT_ALLOWED, f"{command.action} is not allowed here"
        if action.digest() != command.action_digest:
            return Refusal.CHANGED, f"{command.action} is another one now"
        if command.purpose in LOOKS and action.effect is not Effect.READ:
            return Refusal.PURPOSE, f"{command.action} is no read action"
        try:
            action.bind(command.arguments, self.name)
        except ArgumentRefused as exc:
            return Refusal.ARGUMENTS, str(exc)
        if action.protected:
            if self.roster is None:
                return Refusal.ROSTER, "no roster"
            try:
                grant = check_command(
                    command,
                    self.agent,
                    self._site,
                    action.needs,
                    self.roster,
                    self.labels,
                    self._clock.wall_ms(),
                )
            except ApprovalsMissing as exc:
                return Refusal.APPROVALS, str(exc)
            return self._spent(action, grant)
        return None

    def _spent(self, action: Action, grant: Grant) -> tuple[Refusal, str] | None:
        """How often it may still begin by what was agreed to; when it may, that is counted."""
        if action.effect is Effect.READ:
            return None
        if grant.opened_ms < self._made_ms:
            return Refusal.SPENT, "agreed to before this ledger was made"
        if self._grants[grant.id] >= grant.times:
            return Refusal.SPENT, f"it has begun {grant.times} times"
        self._grants[grant.id] += 1
        return None

    def _remember(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        while len(self._entries) > LEDGER_MAX:
            del self._entries[next(iter(self._entries))]

    def _begin(self, key: str, command: Command) -> None:
        self.keys[key] += 1
        self.ran[command.action] += 1

    def running(self) -> list[str]:
        """The keys of what runs."""
        return [key for key, one in self._entries.items() if one.state is State.RUNNING]

    def finish(self, key: str, ran: Ran | None = None) -> None:
        """What runs under this key ends, as its program says."""
        entry = self._entries.get(key)
        if entry is None or entry.state is not State.RUNNING:
            return
        command = entry.command
        found = ran if ran is not None else self._programs[command.action](command.arguments)
        outcome = found.outcome or (Outcome.OK if found.exit_code == 0 else Outcome.FAILED)
        self._end(key, entry, outcome, found)

    def _end(self, key: str, entry: _Entry, outcome: Outcome, ran: Ran) -> None:
        now_ms = self._clock.wall_ms()
        accepted = entry.accepted
        assert accepted is not None, "what runs was taken up"
        entry.state = State.FINISHED
        entry.answer = Finished(
            key=key,
            run=entry.command.run,
            step=entry.command.step,
            ledger=accepted.ledger,
            outcome=outcome,
            started_ms=accepted.at_ms,
            ended_ms=now_ms,
            exit_code=None if outcome is Outcome.INTERRUPTED else ran.exit_code,
            output=ran.output,
            output_bytes=len(ran.output),
        )
        self.told.append(entry.answer)

    def _answer(self, ask: Ask) -> None:
        states = {
            key: entry.state if (entry := self._entries.get(key)) is not None else State.ABSENT
            for key in ask.keys
        }
        self.told.append(States(question=ask.question, ledger=self.ledger, boot=self.boot, states=states))

    def _refusal(self, key: str, run: str, step: str, reason: Refusal, detail: str) -> Refused:
        return Refused(key=key, run=run, step=step, reason=reason, detail=detail, at_ms=self._clock.wall_ms())

    # ------------------------------------------------------------ faults

    def reboot(self) -> None:
        """Started anew: what ran is interrupted, and its runner says so."""
        self.boot = f"{self.name}-boot-{next(self._numbers)}"
        for key, entry in self._entries.items():
            if entry.state is State.RUNNING:
                self._end(key, entry, Outcome.INTERRUPTED, Ran())

    def reinstall(self) -> None:
        """Its ledger is a new one: it knows nothing of what ran, nor how far orders were counted."""
        self.boot = f"{self.name}-boot-{next(self._numbers)}"
        self.ledger = f"{self.name}-ledger-{next(self._numbers)}"
        self._entries.clear()
        self._grants.clear()
        self._counter = 0
        self._made_ms = self._clock.wall_ms()


@dataclass(slots=True)
class FleetTwin:
    """Hosts and the way to them: `run_orders.Orders`. `lose` says of a body whether it is lost under way."""

    hosts: dict[str, HostTwin] = field(default_factory=dict)
    lose: Callable[[str, bytes], bool] = field(default=lambda _agent, _body: False)
    carried: int = 0
    lost: int = 0

    def add(self, host: HostTwin) -> HostTwin:
        """One host more."""
        self.hosts[host.agent] = host
        return host

    def send(self, agent_id: str, body: bytes, ttl_ms: int) -> bool:
        """Carry an order."""
        host = self.hosts.get(agent_id)
        if host is None or not host.connected or ttl_ms <= 0:
            return False
        if self.lose(agent_id, body):
            self.lost += 1
            return True
        self.carried += 1
        host.take(body)
        return True

    def take(self) -> list[tuple[str, Told]]:
        """Everything that connected hosts have to say."""
        found: list[tuple[str, Told]] = []
        for agent, host in self.hosts.items():
            while host.connected and host.told:
                found.append((agent, host.told.popleft()))
        return found
