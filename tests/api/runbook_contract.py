"""What every RunbookService does: one list of facts for the twin and for the real one.

A `Stage` is a service with two hosts, `web1` bound to team a and `db1` bound to team b, and four runbooks, each by the
author `ann` and accepted by nobody:

- `restart`: svc.restart on web1;
- `broken`: an action on web1 that fails the first time in each run, and holds it;
- `guarded`: a gate of one `ops` that only the collector checks, then svc.restart on web1;
- `promote`: a gate of two `dba` that db1 verifies, then pg.promote on db1, once and protected; lock `pg/db1`.

`settle` lets what the service does by itself happen. Votes are signed by `ben`, `cleo` and `rita`, who have the roles
dba and ops on every host, and by `out`, who has them on those of team a.
"""

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest

from watchbill.actions import grants
from watchbill.actions.grants import Vote, sign_vote
from watchbill.actions.roster import Person
from watchbill.actions.signing import public_key
from watchbill.errors import Refused
from watchbill_collector.api.ports import Caller, Grant, NoSuch, Role
from watchbill_collector.api.runbook_port import (
    ENDED,
    RunbookService,
    RunState,
    RunVerb,
    RunView,
    StepView,
)

Fact = Callable[["Stage"], Awaitable[None]]
FACTS: list[Fact] = []


def fact(one: Fact) -> Fact:
    FACTS.append(one)
    return one


SEEDS = {name: bytes([at + 1]) * 32 for at, name in enumerate(("ben", "cleo", "rita", "out"))}
PEOPLE = tuple(
    Person(
        name=name,
        key=public_key(seed),
        roles=("dba", "ops"),
        scopes=("team=a",) if name == "out" else (),
    )
    for name, seed in SEEDS.items()
)


def caller(name: str, role: Role, scope: str = "") -> Caller:
    return Caller(name, (Grant(role, scope),), user_id=name)


OPERATOR = caller("rita", Role.OPERATOR)
APPROVER = caller("ben", Role.APPROVER)
OTHER_APPROVER = caller("cleo", Role.APPROVER)
AUTHOR_WHO_APPROVES = caller("ann", Role.APPROVER)
VIEWER = caller("vera", Role.VIEWER)
OF_A = caller("al", Role.OPERATOR, "team=a")
OF_B = caller("bo", Role.OPERATOR, "team=b")


@dataclass
class Stage:
    service: RunbookService
    settle: Callable[[], Awaitable[None]]
    change_text: Callable[[str], Awaitable[None]]
    """Gives a runbook another text."""
    done: Callable[[str], int]
    """How often an action with an effect was carried out on a host."""
    now_ms: Callable[[], int]
    published: list[Mapping[str, object]] = field(default_factory=list)

    async def accept(self, name: str) -> None:
        view, _ = await self.service.runbook(name, APPROVER)
        await self.service.accept(name, view.digest, APPROVER)

    async def begin(self, name: str, by: Caller = OPERATOR, **more: object) -> RunView:
        """Accept it, start it, and see how far it goes."""
        await self.accept(name)
        return await self.start(name, by, **more)

    async def start(self, name: str, by: Caller = OPERATOR, **more: object) -> RunView:
        plan = await self.service.plan(name, {}, bool(more.get("drill")), by)
        run = await self.service.start(
            name, {}, "it is a test", bool(more.get("drill")), str(more.get("confirm", plan.confirm)), by
        )
        return await self.look(run.id)

    async def look(self, run_id: str) -> RunView:
        await self.settle()
        return await self.service.run(run_id, OPERATOR)

    def vote(
        self, gate: StepView, of: RunView, person: str, *, approve: bool = True, **changed: object
    ) -> bytes:
        manifest = grants.read_manifest(gate.manifest.encode())
        given: dict[str, object] = {
            "manifest": grants.digest(gate.manifest.encode()),
            "site": manifest.site,
            "run": of.id,
            "gate": manifest.gate,
            "person": person,
            "approve": approve,
            "signed_ms": self.now_ms(),
            "expires_ms": manifest.expires_ms,
            "comment": "",
        } | changed
        return sign_vote(SEEDS[person], Vote(**given))  # type: ignore[arg-type]


def gate_of(run: RunView) -> StepView:
    (gate,) = [step for step in run.steps if step.kind == "approve"]
    return gate


# ---------------------------------------------------------------- runbooks


@fact
async def runbooks_are_listed_by_name_with_the_digest_of_their_text(stage: Stage) -> None:
    found = await stage.service.runbooks(VIEWER)
    assert [one.name for one in found] == ["broken", "guarded", "promote", "restart"]
    view, text = await stage.service.runbook("restart", VIEWER)
    assert view.digest == hashlib.sha256(text.encode()).hexdigest()
    assert view.accepted_by == ""


@fact
async def what_is_not_there_is_not_found(stage: Stage) -> None:
    service = stage.service
    with pytest.raises(NoSuch):
        await service.runbook("nothing", OPERATOR)
    with pytest.raises(NoSuch):
        await service.start("nothing", {}, "why", False, "", OPERATOR)
    with pytest.raises(NoSuch):
        await service.run("nothing", OPERATOR)
    with pytest.raises(NoSuch):
        await service.journal("nothing", 0, OPERATOR)
    with pytest.raises(NoSuch):
        await service.change("nothing", RunVerb.ABORT, "", "why", OPERATOR)


@fact
async def a_text_that_nobody_has_accepted_runs_as_a_drill_alone(stage: Stage) -> None:
    with pytest.raises(Refused, match="accept"):
        await stage.service.start("restart", {}, "why", False, "", OPERATOR)
    assert stage.done("web1") == 0
    run = await stage.start("restart", drill=True)
    assert run.drill


@fact
async def a_text_is_accepted_by_its_digest_and_not_by_its_author(stage: Stage) -> None:
    view, _ = await stage.service.runbook("restart", APPROVER)
    with pytest.raises(Refused):
        await stage.service.accept("restart", "0" * 64, APPROVER)
    with pytest.raises(Refused):
        await stage.service.accept("restart", view.digest, AUTHOR_WHO_APPROVES)
    accepted = await stage.service.accept("restart", view.digest, APPROVER)
    assert accepted.accepted_by == "ben"
    assert accepted.accepted is not None


@fact
async def another_text_is_not_accepted_with_the_old_one(stage: Stage) -> None:
    await stage.accept("restart")
    await stage.change_text("restart")
    view, _ = await stage.service.runbook("restart", OPERATOR)
    assert view.accepted_by == ""
    with pytest.raises(Refused):
        await stage.service.start("restart", {}, "why", False, "", OPERATOR)


@fact
async def a_text_that_is_no_runbook_has_findings_with_a_place(stage: Stage) -> None:
    found = await stage.service.lint("x.yaml", "steps: []\n", OPERATOR)
    assert [one.severity for one in found if one.severity == "error"]
    assert all(one.file == "x.yaml" and one.line >= 0 and one.message for one in found)


@fact
async def a_plan_says_exactly_what_would_run_and_changes_nothing(stage: Stage) -> None:
    plan = await stage.service.plan("promote", {}, False, OPERATOR)
    (promote,) = [one for one in plan.steps if one.action == "pg.promote"]
    assert (promote.host, promote.effect) == ("db1", "once")
    assert promote.argv[0].startswith("/")
    assert plan.lock == "pg/db1"
    assert any("accept" in one for one in plan.problems)
    assert await stage.service.runs(OPERATOR, False, False, "", 10) == []
    assert stage.done("db1") == 0


# ---------------------------------------------------------------- runs


@fact
async def a_run_of_one_step_succeeds_and_its_journal_is_in_order(stage: Stage) -> None:
    run = await stage.begin("restart")
    assert (run.state, run.exit_code, run.requester, run.reason) == (
        RunState.SUCCEEDED,
        0,
        "rita",
        "it is a test",
    )
    assert stage.done("web1") == 1
    (step,) = run.steps
    assert step.state == "ok"
    assert step.attempts[0].host == "web1"
    rows = await stage.service.journal(run.id, 0, VIEWER)
    assert [row.n for row in rows] == sorted({row.n for row in rows})
    assert len({row.hash for row in rows}) == len(rows)
    later = await stage.service.journal(run.id, rows[0].n, VIEWER)
    assert list(later) == list(rows[1:])
    assert stage.published
    assert {one["id"] for one in stage.published} == {run.id}


@fact
async def what_fails_is_held_until_a_person_says_what_becomes_of_it(stage: Stage) -> None:
    run = await stage.begin("broken")
    assert (run.state, run.exit_code) == (RunState.HELD, 3)
    retried = await stage.service.change(run.id, RunVerb.RETRY, "", "again", OPERATOR)
    assert retried.id == run.id
    again = await stage.look(run.id)
    assert again.state is RunState.SUCCEEDED
    assert len(again.steps[0].attempts) == 2
    for verb in (RunVerb.RETRY, RunVerb.ABORT, RunVerb.SKIP):
        with pytest.raises(Refused):
            await stage.service.change(run.id, verb, "", "again", OPERATOR)


@fact
async def a_held_run_can_be_skipped_marked_done_or_aborted(stage: Stage) -> None:
    await stage.accept("broken")
    ends = {}
    for verb in (RunVerb.SKIP, RunVerb.MARK_DONE, RunVerb.ABORT):
        run = await stage.start("broken")
        assert run.state is RunState.HELD
        await stage.service.change(run.id, verb, "", "I looked", OPERATOR)
        ends[verb] = (await stage.look(run.id)).state
    assert ends == {
        RunVerb.SKIP: RunState.SUCCEEDED,
        RunVerb.MARK_DONE: RunState.SUCCEEDED,
        RunVerb.ABORT: RunState.CANCELLED,
    }


@fact
async def runs_are_listed_newest_first_and_narrowed(stage: Stage) -> None:
    first = await stage.begin("restart")
    second = await stage.begin("guarded")
    listed = await stage.service.runs(VIEWER, False, False, "", 10)
    assert [one.id for one in listed] == [second.id, first.id]
    assert [one.id for one in await stage.service.runs(VIEWER, True, False, "", 10)] == [second.id]
    assert [one.id for one in await stage.service.runs(VIEWER, False, False, "restart", 10)] == [first.id]
    assert [one.id for one in await stage.service.runs(VIEWER, False, False, "", 1)] == [second.id]
    assert await stage.service.runs(VIEWER, False, True, "", 10) == []
    drill = await stage.start("restart", drill=True)
    await stage.start("restart")
    assert [one.id for one in await stage.service.runs(VIEWER, False, True, "", 1)] == [drill.id]
    (restart,) = [one for one in await stage.service.runbooks(VIEWER) if one.name == "guarded"]
    assert restart.open_runs == 1


# ---------------------------------------------------------------- gates


@fact
async def a_gate_that_the_collector_checks_takes_a_vote_of_who_is_logged_in(stage: Stage) -> None:
    run = await stage.begin("guarded")
    assert (run.state, run.exit_code) == (RunState.WAITING, 4)
    gate = gate_of(run)
    assert gate.state == "waiting"
    assert not gate.verified_on_host
    assert gate.manifest_digest == grants.digest(gate.manifest.encode()), "it can be signed as well"
    assert stage.done("web1") == 0
    with pytest.raises(NoSuch):
        await stage.service.approve(run.id, "nothing", True, "", APPROVER)
    await stage.service.approve(run.id, gate.id, True, "looks right", APPROVER)
    after = await stage.look(run.id)
    assert after.state is RunState.SUCCEEDED
    assert [(one.person, one.approve, one.comment) for one in gate_of(after).votes] == [
        ("ben", True, "looks right")
    ]
    with pytest.raises(Refused):
        await stage.service.approve(run.id, gate.id, True, "", OTHER_APPROVER)


@fact
async def who_asked_for_it_does_not_approve_it(stage: Stage) -> None:
    run = await stage.begin("guarded", by=APPROVER)
    with pytest.raises(Refused):
        await stage.service.approve(run.id, gate_of(run).id, True, "", APPROVER)
    assert (await stage.look(run.id)).state is RunState.WAITING
    assert stage.done("web1") == 0


@fact
async def one_no_is_enough(stage: Stage) -> None:
    run = await stage.begin("guarded")
    await stage.service.approve(run.id, gate_of(run).id, False, "not now", APPROVER)
    after = await stage.look(run.id)
    assert after.state in ENDED | {RunState.HELD}
    assert after.state is not RunState.SUCCEEDED
    assert stage.done("web1") == 0


@fact
async def a_gate_that_hosts_verify_takes_signed_votes_alone(stage: Stage) -> None:
    run = await stage.begin("promote")
    gate = gate_of(run)
    assert gate.verified_on_host
    assert gate.manifest_digest == grants.digest(gate.manifest.encode())
    (effect,) = grants.read_manifest(gate.manifest.encode()).effects
    assert (effect.host, effect.action) == ("db1", "pg.promote")
    with pytest.raises(Refused):
        await stage.service.approve(run.id, gate.id, True, "", APPROVER)
    first = await stage.service.vote(run.id, gate.id, stage.vote(gate, run, "ben"), APPROVER)
    assert first.state is RunState.WAITING
    assert stage.done("db1") == 0
    await stage.service.vote(run.id, gate.id, stage.vote(gate, run, "cleo"), OTHER_APPROVER)
    after = await stage.look(run.id)
    assert after.state is RunState.SUCCEEDED
    assert stage.done("db1") == 1


@fact
async def votes_that_do_not_count_are_refused_with_why(stage: Stage) -> None:
    run = await stage.begin("promote")
    gate = gate_of(run)
    good = stage.vote(gate, run, "ben")
    for bad in (
        stage.vote(gate, run, "rita"),  # Who asked for it.
        stage.vote(gate, run, "out"),  # Another team's.
        stage.vote(gate, run, "ben", manifest="0" * 64),
        stage.vote(gate, run, "ben", run="another"),
        stage.vote(gate, run, "ben", expires_ms=1),
        good[:-2] + b"x}",
        b"\0" * 64 + good[64:],
    ):
        with pytest.raises(Refused) as told:
            await stage.service.vote(run.id, gate.id, bad, APPROVER)
        assert str(told.value)
    # The same person twice is one.
    await stage.service.vote(run.id, gate.id, good, APPROVER)
    with contextlib.suppress(Refused):
        await stage.service.vote(run.id, gate.id, stage.vote(gate, run, "ben", comment="again"), APPROVER)
    assert (await stage.look(run.id)).state is RunState.WAITING
    assert stage.done("db1") == 0


@fact
async def two_runs_do_not_hold_one_lock(stage: Stage) -> None:
    first = await stage.begin("promote")
    second = await stage.start("promote")
    assert second.state is RunState.QUEUED
    await stage.service.change(first.id, RunVerb.ABORT, "", "the other one", OPERATOR)
    assert (await stage.look(second.id)).state is RunState.WAITING


# ---------------------------------------------------------------- who


@fact
async def what_is_outside_a_scope_does_not_exist(stage: Stage) -> None:
    run = await stage.begin("restart")
    assert [one.name for one in await stage.service.runbooks(OF_B)] == ["promote"]
    assert list(await stage.service.runs(OF_B, False, False, "", 10)) == []
    for there, never in ((run.id, "rnever"),):
        told = []
        for one in (there, never):
            with pytest.raises(NoSuch) as error:
                await stage.service.run(one, OF_B)
            told.append(str(error.value).replace(one, "X"))
        assert told[0] == told[1]
    with pytest.raises(NoSuch):
        await stage.service.runbook("restart", OF_B)
    with pytest.raises(NoSuch):
        await stage.service.start("restart", {}, "why", False, "", OF_B)
    with pytest.raises(NoSuch):
        await stage.service.change(run.id, RunVerb.ABORT, "", "why", OF_B)
    own = await stage.service.start("restart", {}, "why", False, "", OF_A)
    await stage.settle()
    assert (await stage.service.run(own.id, OF_A)).state is RunState.SUCCEEDED


# ---------------------------------------------------------------- automation


@fact
async def a_pause_lets_no_effect_begin_until_it_ends(stage: Stage) -> None:
    assert await stage.service.paused() is None
    await stage.accept("restart")
    await stage.service.pause("the network is being rebuilt", OPERATOR)
    by, reason, _ = await stage.service.paused() or ("", "", None)
    assert (by, reason) == ("rita", "the network is being rebuilt")
    try:
        run = await stage.start("restart")
    except Refused:
        run = None
    assert stage.done("web1") == 0
    await stage.service.resume("it is rebuilt", OPERATOR)
    assert await stage.service.paused() is None
    if run is not None:
        assert (await stage.look(run.id)).state is RunState.SUCCEEDED
        assert stage.done("web1") == 1
    with pytest.raises(Refused):
        await stage.service.resume("again", OPERATOR)
