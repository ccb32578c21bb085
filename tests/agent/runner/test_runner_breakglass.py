"""Steps of a bundle, carried out without the collector: what is refused, what runs once, what is told of it."""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions import outcomes
from watchbill.actions.bundle import Bundle, BundleStep, Missing, glance, sign_bundle
from watchbill.actions.definition import ArgumentRefused, Kind
from watchbill.actions.files import load_allowed
from watchbill.actions.grants import Vote, digest, sign_vote
from watchbill.actions.order import Refusal
from watchbill_agent.actions.acting import act as act_command
from watchbill_agent.runner import bounds
from watchbill_agent.runner.acting import Act, read_act
from watchbill_agent.runner.core import Runner
from watchbill_agent.runner.frames import SOCKET_NAME
from watchbill_agent.runner.launching import SessionLauncher
from watchbill_agent.runner.service import Service, own_socket

from .conftest import AGENT, ANNA, BORIS, COLLECTOR, INSTANCE, SITE, Host, ended

DAY_MS = 86_400_000
PEOPLE = {"anna": ANNA, "boris": BORIS}


def bundle(host: Host, action: str, **changes: Any) -> Bundle:
    found = load_allowed(host.homes.etc, os.geteuid()).actions[action]
    now_ms = host.clock.wall_ms()
    step = BundleStep(
        step="promote",
        kind="do",
        host=INSTANCE,
        agent=AGENT,
        action=action,
        action_digest=found.digest(),
        effect=found.effect.value,
        argv=found.argv,
        approvals=found.needs.approvals,
        role=found.needs.role,
    )
    made = Bundle(
        id="b1",
        site=SITE,
        epoch=1,
        run="bundle-b1",
        requester="carla",
        runbook="book",
        digest="ab" * 32,
        text="runbook: book\n",
        parameters={},
        lock="pg/db2",
        rto_ms=0,
        rpo_ms=0,
        issued_ms=now_ms - 1_000,
        expires_ms=now_ms + 30 * DAY_MS,
        steps=(step,),
    )
    return replace(made, **changes)


def votes(
    made: Bundle, *people: str, run: str = "", values: dict[str, str] | None = None, attempt: int = 1
) -> tuple[bytes, ...]:
    manifest = made.manifest("promote", "do", run, values or {}, attempt)
    return tuple(
        sign_vote(
            PEOPLE[person],
            Vote(
                manifest=digest(manifest.content()),
                site=SITE,
                run=manifest.run,
                gate=manifest.gate,
                person=person,
                approve=True,
                signed_ms=made.issued_ms,
                expires_ms=made.expires_ms,
            ),
        )
        for person in people
    )


def asked(made: Bundle, **changes: Any) -> Act:
    seed = changes.pop("seed", COLLECTOR)
    one = Act(
        bundle=sign_bundle(seed, made),
        step="promote",
        kind="do",
        run="",
        attempt=1,
        values={},
        votes=(),
        uid=0,
        reason="the collector burnt",
    )
    return replace(one, **changes)


def refusal(runner: Runner, one: Act) -> Refusal:
    (event,) = runner.act(one).events
    assert event.kind == outcomes.COMMAND_REFUSED, event
    return outcomes.read_refused(event.payload).reason


@pytest.fixture
def counted(host: Host) -> Path:
    """A `once` action that adds a line to a file, and one that two of dba have to agree to."""
    counter = host.root / "count"
    script = host.script("count.py", f"open({str(counter)!r}, 'a').write('x')\nprint('done')\n")
    host.action("count", [str(script)])
    host.action("promote", [str(script)], more='needs = { approvals = 2, role = "dba" }')
    return counter


def test_a_step_runs_once_and_is_told_loudly_with_who_and_why(host: Host, counted: Path) -> None:
    runner = host.runner()
    made = bundle(host, "count")
    (begun, *_) = runner.act(asked(made)).events
    assert begun.kind == outcomes.COMMAND_BREAKGLASS
    told = outcomes.read_breakglass(begun.payload)
    assert (told.bundle, told.uid, told.reason, told.action) == ("b1", 0, "the collector burnt", "count")
    key = told.accepted.key
    assert ended(runner, key).outcome is outcomes.Outcome.OK
    assert [event.kind for event in runner.acted(key)] == [
        outcomes.COMMAND_BREAKGLASS,
        outcomes.COMMAND_FINISHED,
    ]
    # Asked for again: what is stored is told, and nothing runs.
    assert outcomes.COMMAND_FINISHED in [event.kind for event in runner.act(asked(made)).events]
    runner.confirm([event.id for event in runner.waiting()])
    assert runner.waiting() == []
    (again,) = runner.acted(key)
    assert outcomes.read_finished(again.payload).outcome is outcomes.Outcome.OK
    assert counted.read_text() == "x"
    # Another attempt is another decision, and root's.
    runner.act(asked(made, attempt=2))
    ended(runner)
    assert counted.read_text() == "xx"


def test_a_collector_that_comes_back_with_the_same_run_does_not_run_it_again(
    host: Host, counted: Path
) -> None:
    runner = host.runner()
    made = bundle(host, "count")
    runner.act(asked(made, run="r1"))
    ended(runner)
    sent = host.command("count", run="r1", step="promote", lock="pg/db2")
    events = runner.order(host.signed(sent)).events
    assert outcomes.COMMAND_FINISHED in [event.kind for event in events]
    assert counted.read_text() == "x"


def test_it_survives_the_runners_death_and_is_told_by_the_next_one(host: Host, counted: Path) -> None:
    runner = host.runner()
    runner.act(asked(bundle(host, "count")))
    ended(runner)
    runner.close()
    kinds = [event.kind for event in host.runner().waiting()]
    assert kinds == [outcomes.COMMAND_BREAKGLASS, outcomes.COMMAND_FINISHED]


def test_a_protected_step_needs_the_same_signatures_and_takes_the_bundles_roster(
    host: Host, counted: Path
) -> None:
    runner = host.runner()
    made = bundle(host, "promote", roster=host.roster())
    assert refusal(runner, asked(made, votes=votes(made, "anna", "boris"))) is Refusal.ROSTER
    host.install_roster_key()
    assert refusal(runner, asked(made, votes=votes(made, "anna"))) is Refusal.APPROVALS
    assert refusal(runner, asked(made, votes=votes(made, "anna", "anna"))) is Refusal.APPROVALS
    other_run = votes(made, "anna", "boris", run="r9")
    assert refusal(runner, asked(made, votes=other_run)) is Refusal.APPROVALS
    own = replace(made, requester="anna")
    assert refusal(runner, asked(own, votes=votes(own, "anna", "boris"))) is Refusal.APPROVALS
    (begun, *_) = runner.act(asked(made, votes=votes(made, "anna", "boris"))).events
    assert outcomes.read_breakglass(begun.payload).accepted.approvers == ("anna", "boris")
    ended(runner)
    assert counted.read_text() == "x"


@pytest.mark.parametrize("version", [1, 2])
def test_a_protected_step_begins_as_often_as_was_signed_and_each_attempt_more_is_signed_for_itself(
    host: Host, counted: Path, version: int
) -> None:
    """Also when the bundle is older than the ledger: root, who asks himself, was told to look first."""
    host.install_roster_key()
    made = bundle(host, "promote", roster=host.roster(), version=version)
    step = replace(made.steps[0], times=2) if version > 1 else made.steps[0]
    made = replace(made, steps=(step,), issued_ms=made.issued_ms - DAY_MS)
    assert glance(sign_bundle(COLLECTOR, made)) == made, "it reads back as it was written"
    runner = host.runner()
    first = votes(made, "anna", "boris")
    for attempt in range(1, step.times + 1):
        done(runner, asked(made, votes=first, attempt=attempt))
    beyond = step.times + 1
    assert refusal(runner, asked(made, votes=first, attempt=beyond)) is Refusal.APPROVALS
    anew = votes(made, "anna", "boris", attempt=beyond)
    done(runner, asked(made, votes=anew, attempt=beyond))
    assert counted.read_text() == "x" * beyond
    # An order of the collector's with those votes is counted with them, and one of its own is not the bundle's.
    sent = host.command("promote", run="bundle-b1", step="promote", attempt=9, lock="pg/db2")
    manifest = made.manifest("promote", "do", "", {}).content()
    (event,) = runner.order(host.signed(replace(sent, manifest=manifest, votes=first))).events
    assert outcomes.read_refused(event.payload).reason is Refusal.SPENT


def done(runner: Runner, one: Act) -> outcomes.Breakglass:
    """It is carried out and fetched; what was told of it."""
    (begun, *_) = runner.act(one).events
    told = outcomes.read_breakglass(begun.payload)
    ended(runner, told.accepted.key)
    runner.confirm([event.id for event in runner.waiting()])
    return told


def chain(host: Host, **more: Any) -> Bundle:
    """Two steps of this host in a group, one more after them with an undo, and one on another host before all."""
    (last,) = bundle(host, "count").steps
    first, second = (replace(last, step=name, action="count", group="both") for name in ("a", "b"))
    elsewhere = replace(last, step="fence", agent="agent-9", host="db9")
    look = replace(last, step="look", effect="read")
    undo = replace(last, kind="undo")
    return bundle(host, "count", steps=(elsewhere, look, first, second, last, undo), **more)


def test_steps_go_well_here_one_after_the_other_unless_somebody_says_why_not(
    host: Host, counted: Path
) -> None:
    """What is on another host, and what only looks, no runner can wait for."""
    runner, made = host.runner(), chain(host)
    assert refusal(runner, asked(made)) is Refusal.ORDER
    assert refusal(runner, asked(made, kind="undo")) is Refusal.ORDER
    for name in ("b", "a"):  # Of a group, in any order.
        assert refusal(runner, asked(made)) is Refusal.ORDER
        done(runner, asked(made, step=name))
    done(runner, asked(made))
    done(runner, asked(made, kind="undo"))
    assert counted.read_text() == "xxxx"
    # Another run of the bundle is another order of things.
    assert refusal(runner, asked(made, run="r9")) is Refusal.ORDER
    told = done(runner, asked(made, run="r9", out_of_order="a and b were done by hand"))
    assert told.reason == "the collector burnt; out of order: a and b were done by hand"


def test_a_step_that_failed_here_is_no_step_that_went_well(host: Host, counted: Path) -> None:
    host.action("fails", ["/bin/false"])
    (last,) = bundle(host, "count").steps
    failing = replace(bundle(host, "fails").steps[0], step="a", missing={"n": Missing("{{x}}", Kind.INT)})
    made = bundle(host, "count", steps=(replace(failing, missing={}), last))
    runner = host.runner()
    done(runner, asked(made, step="a"))
    assert refusal(runner, asked(made)) is Refusal.ORDER
    # Whose value is not said with the next step is looked for by its action.
    unsaid = bundle(host, "count", steps=(failing, last))
    assert refusal(runner, asked(unsaid)) is Refusal.ORDER
    assert not counted.exists()


def test_what_is_not_the_collectors_not_in_time_or_not_allowed_is_refused(host: Host, counted: Path) -> None:
    runner = host.runner()
    made = bundle(host, "count")
    now_ms = host.clock.wall_ms()
    cases = [
        (asked(made, seed=ANNA), Refusal.SIGNATURE),
        (asked(made, bundle=b"x" * 200), Refusal.SIGNATURE),
        (asked(replace(made, site="other")), Refusal.OTHER_HOST),
        (asked(replace(made, expires_ms=now_ms - 1)), Refusal.EXPIRED),
        (asked(replace(made, expires_ms=now_ms + 91 * DAY_MS)), Refusal.EXPIRED),
        (asked(replace(made, issued_ms=now_ms + DAY_MS)), Refusal.EXPIRED),
        (asked(made, step="nothing"), Refusal.OTHER_HOST),
        (asked(made, kind="undo"), Refusal.OTHER_HOST),
        (asked(made, values={"node": "x"}), Refusal.ARGUMENTS),
        (asked(made, reason=" "), Refusal.FORM),
        (asked(replace(made, steps=(replace(made.steps[0], agent="agent-9"),))), Refusal.OTHER_HOST),
        (asked(replace(made, steps=(replace(made.steps[0], host="db9"),))), Refusal.OTHER_HOST),
        (asked(replace(made, steps=(replace(made.steps[0], action_digest="00" * 32),))), Refusal.CHANGED),
        (asked(replace(made, steps=(replace(made.steps[0], action="rm"),))), Refusal.NOT_ALLOWED),
    ]
    for one, wanted in cases:
        assert refusal(runner, one) is wanted, (one, wanted)
    assert not counted.exists()
    # Nothing of it was a decision: once it is mended, it runs.
    assert runner.act(asked(made)).events[0].kind == outcomes.COMMAND_BREAKGLASS
    ended(runner)


def test_a_bundle_of_an_older_epoch_is_void_once_a_newer_collector_was_heard(
    host: Host, counted: Path
) -> None:
    runner = host.runner()
    host.epoch = 2
    runner.order(host.signed(host.command("count", step="other")))
    ended(runner)
    assert refusal(runner, asked(bundle(host, "count"))) is Refusal.EPOCH
    assert counted.read_text() == "x"


def test_what_had_to_be_found_out_is_judged_and_part_of_what_is_agreed_to(host: Host) -> None:
    out = host.root / "out"
    script = host.script("say.py", f"import sys\nopen({str(out)!r}, 'a').write(sys.argv[1])\n")
    host.allow(
        f'[[action]]\nname = "say"\nargv = ["{script}", "{{{{n}}}}"]\neffect = "once"\n'
        'args.n = { type = "int", min = 1, max = 9 }\n'
    )
    made = bundle(host, "say")
    made = replace(made, steps=(replace(made.steps[0], missing={"n": Missing("{{pick.out.n}}", Kind.INT)}),))
    assert glance(sign_bundle(COLLECTOR, made)) == made, "it reads back as it was written"
    with pytest.raises(ArgumentRefused, match="has to be found out"):
        made.manifest("promote", "do", "", {})
    first, second = (made.manifest("promote", "do", "", {"n": n}).content() for n in ("3", "4"))
    assert digest(first) != digest(second)
    runner = host.runner()
    for values in ({}, {"n": "x"}, {"n": "10"}, {"n": "3", "m": "3"}):
        assert refusal(runner, asked(made, values=values)) is Refusal.ARGUMENTS, values
    runner.act(asked(made, values={"n": "3"}))
    ended(runner)
    assert out.read_text() == "3"


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 0},
        {"attempt": 1001},
        {"kind": "check"},
        {"bundle": "?"},
        {"votes": ["?"]},
        {"step": 5},
        {"values": []},
    ],
)
def test_what_is_no_request_is_told_so(change: dict[str, Any]) -> None:
    request = {
        "bundle": "", "step": "a", "kind": "do", "run": "", "attempt": 1, "values": {}, "votes": [], "reason": "x",
    }  # fmt: skip
    read_act(request, 0)
    with pytest.raises((ValueError, TypeError)):
        read_act(request | change, 0)


@pytest.fixture
def short_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wb-act-") as directory:
        yield Path(directory)


async def test_the_command_carries_it_out_over_the_socket(
    short_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = short_home / "h"
    host = Host(home)
    script = host.script("hello.py", "print('hello\\x1b[31m')\n")
    host.action("hello", [str(script)])
    made = bundle(host, "hello")
    file = short_home / "f"
    file.write_bytes(sign_bundle(COLLECTOR, made))
    arguments = argparse.Namespace(
        bundle=file, approval=[], set=[], step="promote", undo=False, cleanup=False, run="", attempt=1, json=False,
        reason="", out_of_order="", home=home,
    )  # fmt: skip
    assert await asyncio.to_thread(act_command, arguments) == 2, "a reason is wanted"
    arguments.reason = "burnt"
    assert await asyncio.to_thread(act_command, arguments) == 5, "nobody listens"
    service = Service(host.homes, home, starts=SessionLauncher(home))
    server = await asyncio.start_unix_server(
        service._serve, sock=own_socket(host.homes.run / SOCKET_NAME, home), limit=bounds.FRAME_BYTES_MAX
    )
    looking = asyncio.create_task(service._look_for_ever())
    try:
        assert await asyncio.to_thread(act_command, arguments) == 0
        arguments.step = "other"
        assert await asyncio.to_thread(act_command, arguments) == 6
        arguments.step = None
        assert await asyncio.to_thread(act_command, arguments) == 0
    finally:
        looking.cancel()
        server.close()
        await service.close()
    printed = capsys.readouterr()
    assert "hello?[31m\nok, exit code 0" in printed.out
    assert "* promote" in printed.out
    assert "refused, other_host" in printed.err
