"""Whether an order is carried out. In this order, and the first word that fits is the answer:

    signature, form, site and host, epoch, times, the key already known, counter, action and its digest, purpose,
    arguments, approvals, how often they let it begin, cooldown, parallel, lock, how many at a time, executable

Nothing here writes or runs anything. What is believed comes from root's own files, from the ledger and from the clock;
of the order nothing is believed before the collector's signature holds, and of approvals nothing but the signatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from watchbill.actions.bounds import CLOCK_AHEAD_MS_MAX, COMMAND_TTL_MS_MAX
from watchbill.actions.canonical import canonical
from watchbill.actions.definition import Action, ArgumentRefused, Effect, Value
from watchbill.actions.enrolled import Enrolled
from watchbill.actions.files import Allowed
from watchbill.actions.grants import ApprovalsMissing, Grant, check_command
from watchbill.actions.order import LOOKS, Address, Command, Order, Purpose, Refusal, open_order
from watchbill.actions.roster import Roster, RosterRefused, open_roster
from watchbill.actions.signing import SignatureRefused
from watchbill.errors import Refused, Unreadable
from watchbill_agent.runner import bounds
from watchbill_agent.runner.child import CannotBegin, find_user
from watchbill_agent.runner.job import Job, Task
from watchbill_agent.runner.ledger import Entry, Ledger, Marks
from watchbill_agent.runner.trusted import NotTrusted, open_executable

NOT_ENROLLED: Final = "this host does not know whose orders it takes: watchbill-agent enroll, as root"


class Judged(Refused):
    """No, with the word for it."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Now:
    """Time, as this host has it."""

    wall_ms: int
    boottime_ms: int
    boot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What root of this host says. `enrolled_fault`, `roster_fault`: why what would be there cannot be believed."""

    enrolled: Enrolled | None
    allowed: Allowed
    owner: int
    roster_keys: Mapping[str, bytes] = field(default_factory=dict)
    roster: bytes = b""
    enrolled_fault: str = ""
    roster_fault: str = ""


def hear(signed: bytes, own: Enrolled | None) -> tuple[Address, Order]:
    """The first words: whose it is, what it says, and for whom. Raises Judged."""
    if own is None:
        raise Judged(Refusal.SIGNATURE, NOT_ENROLLED)
    try:
        address, order = open_order(own.command_key, signed)
    except SignatureRefused as exc:
        raise Judged(Refusal.SIGNATURE, str(exc)) from exc
    except Unreadable as exc:
        raise Judged(Refusal.FORM, str(exc)) from exc
    if (address.site, address.agent) != (own.site, own.agent_id):
        raise Judged(
            Refusal.OTHER_HOST,
            f"for {address.agent!a} of {address.site!a}, this is {own.agent_id} of {own.site}",
        )
    if isinstance(order, Command) and order.host != own.instance:
        # Whoever agreed has read that name.
        raise Judged(
            Refusal.OTHER_HOST, f"for the host {order.host!a}, and this one is called {own.instance}"
        )
    return address, order


def check_epoch_and_times(address: Address, ledger: Ledger, now: Now) -> None:
    """Raises Judged."""
    if address.epoch < ledger.marks.epoch:
        raise Judged(
            Refusal.EPOCH, f"from the collector's epoch {address.epoch}, and {ledger.marks.epoch} was heard"
        )
    if address.not_after_ms - address.issued_ms > COMMAND_TTL_MS_MAX:
        raise Judged(Refusal.EXPIRED, f"good for more than {COMMAND_TTL_MS_MAX} ms, as no order is")
    if now.wall_ms > address.not_after_ms:
        raise Judged(Refusal.EXPIRED, f"it ended {now.wall_ms - address.not_after_ms} ms ago")
    if address.issued_ms > now.wall_ms + CLOCK_AHEAD_MS_MAX:
        raise Judged(
            Refusal.CLOCK,
            f"it comes from {address.issued_ms - now.wall_ms} ms ahead: one of the clocks is wrong",
        )
    if address.issued_ms < ledger.made_ms:
        raise Judged(Refusal.EXPIRED, "from before this ledger was made, which cannot know whether it ran")


def is_fresh(address: Address, marks: Marks) -> bool:
    """Whether an order was never heard before."""
    return (address.epoch, address.counter) > (marks.epoch, marks.counter)


def check_counter(address: Address, marks: Marks) -> Marks:
    """The marks with this order. Raises Judged."""
    if not is_fresh(address, marks):
        raise Judged(
            Refusal.COUNTER, f"the counter {address.counter}, and {marks.counter} was heard: a repetition"
        )
    return Marks(address.epoch, address.counter, marks.roster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yes:
    """A command that is carried out: what runs, and by what agreement where one is needed."""

    action: Action
    task: Task
    plan: bool
    grant: Grant | None

    @property
    def approvers(self) -> tuple[str, ...]:
        """Who has agreed."""
        return () if self.grant is None else tuple(sorted(self.grant.approvers))


def judge_command(
    command: Command,
    host: Host,
    ledger: Ledger,
    running: Mapping[int, Job],
    rooms: int,
    now: Now,
    *,
    by_root: bool = False,
) -> Yes:
    """From the action on. `running` are the jobs that go on, by their rooms; `rooms` how many rooms are empty;
    `by_root`: root of this host asks for it, not the collector. Raises Judged."""
    assert host.enrolled is not None, "its order was heard"
    action = _action(command, host.allowed)
    plan = _plans(command, action)
    bound = _arguments(command, action, host.enrolled)
    # What only shows what it would do needs nobody; a look that root protects needs people like everything else.
    grant = None if plan else _grant(command, action, host, ledger.marks, now)
    if grant is not None and action.effect is not Effect.READ:
        _check_times(grant, ledger, by_root=by_root)
    if not plan:
        _check_cooldown(action, ledger, now)
    _check_company(command, action, plan, running, rooms)
    return Yes(action=action, task=_task(action, bound, host.owner, plan), plan=plan, grant=grant)


def _action(command: Command, allowed: Allowed) -> Action:
    action = allowed.actions.get(command.action)
    if action is None:
        about = next((fault for fault in allowed.faults if command.action in fault), "")
        raise Judged(
            Refusal.NOT_ALLOWED,
            f"there is no action {command.action!a} here" + (f": {about}" if about else ""),
        )
    if action.digest() != command.action_digest:
        raise Judged(
            Refusal.CHANGED, f"the action {action.name} is another than the one that was planned with"
        )
    return action


def _plans(command: Command, action: Action) -> bool:
    """Whether `plan_argv` is what runs."""
    if command.purpose not in LOOKS or action.effect is Effect.READ:
        return False
    if command.purpose is Purpose.PROBE or not action.plan_argv:
        raise Judged(
            Refusal.PURPOSE,
            f"{action.name} has an effect ({action.effect.value}); only looking is allowed here",
        )
    return True


def _arguments(command: Command, action: Action, enrolled: Enrolled) -> dict[str, Value]:
    try:
        return action.bind(command.arguments, enrolled.instance)
    except ArgumentRefused as exc:
        raise Judged(Refusal.ARGUMENTS, str(exc)) from exc


def _grant(command: Command, action: Action, host: Host, marks: Marks, now: Now) -> Grant | None:
    if not action.protected:
        return None
    assert host.enrolled is not None, "its order was heard"
    roster = believed_roster(host, marks, now)
    try:
        return check_command(
            command,
            host.enrolled.agent_id,
            host.enrolled.site,
            action.needs,
            roster,
            host.enrolled.labels,
            now.wall_ms,
        )
    except ApprovalsMissing as exc:
        raise Judged(Refusal.APPROVALS, str(exc)) from exc


def _check_times(grant: Grant, ledger: Ledger, *, by_root: bool) -> None:
    """How often people let it begin, counted here: attempts are numbered by who orders them. What was agreed to before
    this ledger counted may have begun unseen; root, who asks himself, was told to look first. Raises Judged."""
    if grant.opened_ms < ledger.counts_ms and not by_root:
        raise Judged(
            Refusal.SPENT,
            "agreed to before this ledger was made, which cannot know whether it has begun: people have to agree anew",
        )
    begun = ledger.begun(grant.id)
    if begun >= grant.times:
        raise Judged(
            Refusal.SPENT,
            f"it has begun {begun} of the {grant.times} times that were agreed to: people have to agree anew",
        )


def believed_roster(host: Host, marks: Marks, now: Now) -> Roster:
    """The roster by which people may approve now. Raises Judged."""
    if host.roster_fault:
        raise Judged(Refusal.ROSTER, host.roster_fault)
    if not host.roster and host.roster_keys:
        raise Judged(Refusal.ROSTER, "no roster has come to this host yet: watchbill roster publish")
    roster = open_for(host, host.roster)
    fault = roster.fault(now.wall_ms)
    if roster.serial < marks.roster:
        fault = f"the roster {roster.serial} is older than {marks.roster}, which was seen here"
    if fault:
        raise Judged(Refusal.ROSTER, fault)
    return roster


def open_for(host: Host, signed: bytes) -> Roster:
    """A roster that one of root's keys has signed, for this site. Raises Judged."""
    try:
        roster = open_roster(host.roster_keys, signed)
    except RosterRefused as exc:
        raise Judged(Refusal.ROSTER, str(exc)) from exc
    if host.enrolled is None or roster.site != host.enrolled.site:
        raise Judged(Refusal.ROSTER, f"a roster of the site {roster.site!a}")
    return roster


def _check_cooldown(action: Action, ledger: Ledger, now: Now) -> None:
    """Since it was last begun. Within one boot the clock that nobody sets counts; a wall clock that went back counts as
    standing still."""
    if not action.cooldown_s:
        return
    ages = [_age_ms(entry, now) for entry in ledger.runs_of(action.name)]
    left_ms = action.cooldown_s * 1000 - min(ages, default=action.cooldown_s * 1000)
    if left_ms > 0:
        raise Judged(Refusal.COOLDOWN, f"{action.name} rests for another {left_ms // 1000 + 1} s")


def _age_ms(entry: Entry, now: Now) -> int:
    if entry.boot == now.boot:
        return now.boottime_ms - entry.boottime_ms
    return max(0, now.wall_ms - entry.at_ms)


def _check_company(
    command: Command,
    action: Action,
    plan: bool,
    running: Mapping[int, Job],
    rooms: int,
) -> None:
    same = sum(job.action == action.name and not job.plan for job in running.values())
    if not plan and same >= action.parallel:
        raise Judged(Refusal.PARALLEL, f"{same} of {action.name} run, and {action.parallel} may at a time")
    for job in running.values():
        if command.lock and job.lock == command.lock and job.run != command.run:
            raise Judged(Refusal.LOCKED, f"{command.lock!a} is held by the run {job.run!a}")
    if len(running) >= bounds.RUNNING_MAX or rooms < 1:
        raise Judged(
            Refusal.BUSY,
            f"{len(running)} commands run, at most {bounds.RUNNING_MAX} may; {rooms} results more have room",
        )


def _task(action: Action, bound: Mapping[str, Value], owner: int, plan: bool) -> Task:
    argv = action.command_line(bound, plan=plan)
    task = Task(
        argv=argv,
        run_as=action.run_as,
        owner=owner,
        timeout_s=action.timeout_s,
        kill_grace_s=action.kill_grace_s,
        output_max=action.output_max,
        # The pin is of the executable of `argv`.
        sha256=action.sha256 if argv[0] == action.argv[0] else "",
        secrets=dict(action.secrets),
    )
    if len(canonical({"argv": list(argv), "secrets": task.secrets})) > bounds.JOB_BYTES // 2:
        raise Judged(Refusal.NOT_ALLOWED, f"its command line is longer than {bounds.JOB_BYTES // 2} bytes")
    try:
        find_user(task.run_as)
        open_executable(argv[0], owner, task.sha256).close()
    except (CannotBegin, NotTrusted) as exc:
        raise Judged(Refusal.EXECUTABLE, str(exc)) from exc
    return task
