"""The collector is killed at every write of a journal, before it and after it; hosts are what says what happened."""

import asyncio
import itertools
import json
import random
from collections.abc import Callable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.runs.conftest import SEED, SITE, House, Killed, action
from watchbill.actions.order import Command, open_order
from watchbill.actions.signing import public_key
from watchbill_collector.runbooks.run.fold import fold
from watchbill_collector.runbooks.run.progress import Run
from watchbill_collector.runbooks.run.rows import Voted, read_row
from watchbill_collector.runbooks.run.words import NEVER_RAN, AttemptState, RunState
from watchbill_collector.services.run_twin import HostTwin, Ran, Told
from watchbill_collector.store import runs as run_rows

FAILOVER = """
runbook: failover
about: all kinds of steps
lock: pg
steps:
  - {id: look, do: look, on: db2}
  - {id: fit, check: look.out.role == "standby"}
  - {id: consent, approve: dba}
  - {id: fence, do: fence, on: mgmt, undo: {do: unfence, on: mgmt}, retry: {times: 1, delay: 1s}}
  - {id: promote, do: promote, on: db2, commit: true}
  - {id: repoint, do: repoint, on: {select: 'role="proxy"', wave: 1}}
  - {id: tell, notify: ops}
"""


def furnish(house: House, *, at_once: bool = True) -> dict[str, HostTwin]:
    hosts = {
        name: house.host(name, {"role": "proxy"} if name.startswith("p") else None, at_once=at_once)
        for name in ("db2", "mgmt", "p1", "p2")
    }
    db2, mgmt = hosts["db2"], hosts["mgmt"]
    db2.allow(*action("look", "read", lambda _: Ran(output='{"role": "standby"}')))
    db2.allow(*action("promote", "once"))
    mgmt.allow(*action("fence", "once", None, probe="power", done_when="out.off"))
    mgmt.allow(*action("power", "read", lambda _: Ran(output=json.dumps({"off": mgmt.ran["fence"] > 0}))))
    mgmt.allow(*action("unfence", "repeat"))
    for name in ("p1", "p2"):
        hosts[name].allow(*action("repoint", "repeat"))
    house.runbook(FAILOVER)
    return hosts


async def drive(house: House, run_id: str) -> None:
    """Settle, and agree to what is asked, until the run has ended or is held."""
    for _ in range(60):
        await house.settle()
        live = house.runs.get(run_id)
        if live is None or live.run.state is RunState.HELD:
            return
        gate = live.run.step("consent").gate
        if gate is not None and gate.closed is None:
            await house.add(
                run_id, Voted(step="consent", person="bob", approve=True, digest=gate.opened.digest)
            )
        await house.pass_s(1)
    raise AssertionError(f"it does not end: {house.run(run_id).state} {house.run(run_id).detail}")


def folded(house: House, run_id: str) -> Run:
    run = fold(run_id, [(row.at_ms, read_row(row.body)) for row in house.journal(run_id)])
    assert run is not None
    return run


def judge(house: House, run: Run) -> None:
    """What the hosts counted against what the journal says."""
    for host in house.fleet.hosts.values():
        for key, times in host.keys.items():
            assert times == 1, "one command ran twice"
            assert key in run.keys, "something ran without an intent"
        assert all(host.ran[name] <= 1 for name in ("fence", "promote")), "a once action ran twice"
    for key, attempt in run.keys.items():
        ran = house.fleet.hosts[attempt.agent].keys[key]
        if attempt.outcome in NEVER_RAN:
            assert not ran, f"{attempt.action} ran, and the journal says that it never did"
        elif attempt.state is AttemptState.FINISHED:
            assert ran, f"{attempt.action} did not run, and the journal has a result"


def killing(house: House, at: int) -> Callable[[], None]:
    """A hook that kills at the n-th time."""
    seen = itertools.count(1)

    def hook(*_: object) -> None:
        if next(seen) == at:
            raise Killed

    return hook


def unwritten(house: House, body: bytes) -> bool:
    """Fails when a command leaves whose intent is not on the disk."""
    address, order = open_order(public_key(SEED), body)
    if isinstance(order, Command):
        key = order.key(SITE, address.agent)
        rows = house.store.read(lambda c: run_rows.journal(c, order.run))
        assert any(row.kind == "intent" and row.document()["key"] == key for row in rows), "no intent"
    return False


async def play(house: House, before: int = 0, after: int = 0) -> str:
    """One run, killed at one commit: the n-th, before it or after it."""
    furnish(house)
    run_id = await house.begin("failover")
    house.fleet.lose = lambda _, body: unwritten(house, body)
    house.writing, house.written = killing(house, before), killing(house, after)
    while True:
        try:
            await drive(house, run_id)
        except Killed:
            house.kill()
            await house.start()
        else:
            return run_id


async def test_killed_at_every_write_a_run_ends_the_same_and_nothing_ran_twice(house: House) -> None:
    commits = itertools.count()
    furnish(house)
    house.written = lambda _: bool(next(commits)) and None
    await drive(house, await house.begin("failover"))
    total = next(commits)
    assert total > 10
    for at in range(1, total + 2):
        for where in ("before", "after"):
            house = house.another()
            await house.start()
            run_id = await play(house, **{where: at})
            run = folded(house, run_id)
            assert run.state is RunState.SUCCEEDED, f"{where} {at}: {run.detail}"
            judge(house, run)
            repointed = [house.named(name).ran["repoint"] for name in ("p1", "p2")]
            assert repointed == [1, 1], f"{where} {at}"
            assert house.told, "the message was handed over"


# ---------------------------------------------------------------- random faults

WORDS = ["lose", "away", "back", "reboot", "reinstall", "finish", "kill", "mix", "wait", "long", "retry"]
FAULTS = st.lists(
    st.tuples(st.sampled_from([*WORDS, *["finish"] * 6]), st.integers(0, 3)), min_size=3, max_size=25
)


def at_each_command(test: Callable[..., None]) -> Callable[..., None]:
    """Besides what is drawn: each fault of the host that matters, in the middle of each command."""
    for finished, host in enumerate((0, 0, 1, 0, 2)):  # look, look again, fence, promote, repoint
        for fault in ("reboot", "reinstall"):
            faults = [("finish", 0)] * finished + [(fault, host), ("back", host), ("finish", 0)]
            test = example(faults, 0, False)(test)
    return test


class Chaos:
    """What goes wrong with one run, said step by step."""

    def __init__(self, house: House, run_id: str, seed: int) -> None:
        self.house = house
        self.run_id = run_id
        self.hosts = list(house.fleet.hosts.values())
        self.random = random.Random(seed)
        self.losing = 0
        self.mixing = False
        house.fleet.lose = self._lose
        house.mix = self._mix

    def _lose(self, _agent: str, _body: bytes) -> bool:
        self.losing -= 1
        return self.losing >= 0

    def _mix(self, told: list[tuple[str, Told]]) -> list[tuple[str, Told]]:
        if self.mixing and told:
            told = told + self.random.sample(told, 1)
            self.random.shuffle(told)
        return told

    async def step(self, what: str, number: int) -> None:
        """One thing goes wrong, or goes on."""
        house, host = self.house, self.hosts[number]
        live = house.runs.get(self.run_id)
        match what:
            case "lose":
                self.losing = 1 + number
            case "away":
                host.connected = False
            case "back":
                host.connected = True
                house.runs.connected(host.agent)
            case "reboot":
                host.reboot()
            case "reinstall":
                host.reinstall()
            case "finish":
                for one in self.hosts:
                    for key in one.running():
                        one.finish(key)
            case "kill":
                house.kill()
                await house.start()
            case "mix":
                self.mixing = not self.mixing
            case "wait":
                await house.pass_s(1 + number)
            case "long":
                await house.pass_s(200)
            case "retry" if live is not None and live.run.state is RunState.HELD:
                step = live.run.held_step
                if step not in {"fence", "promote"}:
                    await house.say(self.run_id, "retry")
            case _:
                pass
        await house.settle()
        await self._agree()

    async def _agree(self) -> None:
        live = self.house.runs.get(self.run_id)
        gate = live.run.step("consent").gate if live is not None else None
        if gate is not None and gate.closed is None:
            await self.house.add(
                self.run_id, Voted(step="consent", person="bob", approve=True, digest=gate.opened.digest)
            )

    async def end(self) -> None:
        """All faults are over: a run ends, or a person is asked; nothing is under way for ever."""
        self.losing, self.mixing = 0, False
        for host in self.hosts:
            host.connected = host.at_once = True
            self.house.runs.connected(host.agent)
            for key in host.running():
                host.finish(key)
        for _ in range(40):
            await self.house.settle()
            await self._agree()
            live = self.house.runs.get(self.run_id)
            if live is None or live.run.state is RunState.HELD:
                break
            await self.house.pass_s(60)
        run = folded(self.house, self.run_id)
        judge(self.house, run)
        assert run.state in {RunState.SUCCEEDED, RunState.HELD}, f"{run.state}: {run.detail}"
        assert not run.open_keys
        if run.state is RunState.HELD:
            assert run.detail
            await self.house.say(self.run_id, "abort")
        else:
            assert self.hosts[0].ran["promote"] == 1


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@at_each_command
@given(FAULTS, st.integers(0, 2**16), st.booleans())
def test_whatever_goes_wrong_nothing_ran_twice_or_without_intent_and_mismatches_are_unknown_or_held(
    store_house: House, faults: list[tuple[str, int]], seed: int, at_once: bool
) -> None:
    async def scenario() -> None:
        house = store_house.another()
        await house.start()
        furnish(house, at_once=at_once)
        run_id = await house.begin("failover")
        chaos = Chaos(house, run_id, seed)
        await chaos.step("begin", 0)
        for what, number in faults:
            await chaos.step(what, number)
            judge(house, folded(house, run_id))
        await chaos.end()

    asyncio.run(scenario())
