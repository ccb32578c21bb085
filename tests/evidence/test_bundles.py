"""A runbook is exported while there is a collector and carried out when there is none: bundle, paper, votes, runner."""

import asyncio
import base64
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.agent.runner.conftest import Host, ended
from tests.api.conftest import serve
from tests.evidence.conftest import ANNA, BORIS, SAFE, make_house, migrated, quick_path
from tests.runs.conftest import SEED, SITE, action
from tests.runs.test_runbook_desk import ADA, BOB, OTHER_TEAM, Desk, accepted, desk, started, tell
from watchbill.actions import outcomes
from watchbill.actions.bundle import DAY_MS, open_bundle
from watchbill.actions.enrolled import Enrolled, write_enrolled
from watchbill.actions.files import load_allowed
from watchbill.actions.roster import Person, Roster, sign_roster
from watchbill.actions.signing import SignatureRefused, public_key
from watchbill.errors import Refused
from watchbill_agent.runner.acting import read_act
from watchbill_collector.api.ports import Caller, NoSuch
from watchbill_collector.audit import Audit
from watchbill_collector.cli import approval_key
from watchbill_collector.cli.program import run
from watchbill_collector.services.bundles import Bundles
from watchbill_collector.services.run_intake import Committed
from watchbill_collector.store import rosters
from watchbill_collector.store.rosters import RosterRow

__all__ = ["desk", "make_house", "migrated", "quick_path", "serve"]

PROMOTE = """
runbook: failover
about: promote the standby
params: {standby: {type: host, default: db2}}
lock: "pg/{{standby}}"
objectives: {rto: 10m}
steps:
  - {id: look, do: look, on: "{{standby}}"}
  - {id: fit, check: look.out.role == "standby"}
  - {id: consent, approve: dba, count: 2}
  - id: promote
    do: promote
    on: "{{standby}}"
    with: {node: "{{look.out.node}}"}
    commit: true
"""


def bundles(desk: Desk) -> Bundles:
    house = desk.house
    audit = Audit(house.store, house.clock)
    return Bundles(
        house.store,
        house.clock,
        audit,
        desk.runs.desk,
        SEED,
        desk.runs.fleet.fleet,
        lambda: desk.runs.orders.epoch,
    )


async def test_a_bundle_says_exactly_what_would_be_done_and_is_the_collectors(desk: Desk) -> None:
    made = bundles(desk)
    with pytest.raises(Refused, match="nobody has accepted"):
        await made.export("failover", {}, "", ADA)
    await accepted(desk)
    with pytest.raises(NoSuch):
        await made.export("failover", {}, "", OTHER_TEAM)
    view = await made.export("failover", {}, "", ADA)
    signed = base64.b64decode(view.bundle)
    found = open_bundle(public_key(SEED), signed)
    assert (found.site, found.requester, found.lock, found.run) == (
        SITE,
        "ada",
        "pg/db2",
        f"bundle-{found.id}",
    )
    assert found.expires_ms - found.issued_ms == 90 * DAY_MS
    assert [(one.step, one.kind, one.host) for one in found.steps] == [
        ("look", "do", "db2"),
        ("fit", "check", ""),
        ("consent", "approve", ""),
        ("promote", "do", "db2"),
    ]
    (promote,) = found.of("promote")
    assert (promote.argv, promote.arguments, promote.agent) == (
        ("/bin/true", "x"),
        {"node": "x"},
        desk.house.named("db2").agent,
    )
    assert "ada runbook.export" in desk.audited()
    with pytest.raises(SignatureRefused):
        open_bundle(public_key(SEED), signed[:-2] + b" }")


async def test_a_bundle_goes_on_with_an_open_run_under_its_parameters(desk: Desk) -> None:
    await accepted(desk)
    run_id = await started(desk)
    view = await bundles(desk).export("failover", {}, run_id, BOB)
    found = open_bundle(public_key(SEED), base64.b64decode(view.bundle))
    assert (found.run, found.requester, found.parameters) == (run_id, "ada", {"standby": "db2"})
    # The key is the one that the collector itself has sent.
    (look,) = found.of("look")
    command = found.command(look, 1, "", {}, ())
    live = desk.runs.runs.get(run_id)
    assert live is not None
    assert command.key(SITE, look.agent) in live.run.keys
    with pytest.raises(Refused, match="none is given beside it"):
        await bundles(desk).export("failover", {"standby": "db2"}, run_id, BOB)
    with pytest.raises(NoSuch):
        await bundles(desk).export("failover", {}, "nobody", BOB)


async def test_the_whole_way_export_two_votes_and_the_runner_without_any_collector(
    desk: Desk,
    serve: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    house, twin = desk.house, desk.house.named("db2")
    house.clock.advance(time.time() - house.clock.wall_ms() / 1000)
    host = _real_host(tmp_path, twin.agent)
    counter = host.root / "count"
    script = host.script("promote.py", f"import sys\nopen({str(counter)!r}, 'a').write(sys.argv[1])\n")
    host.allow(
        f'[[action]]\nname = "promote"\nargv = ["{script}", "{{{{node}}}}"]\neffect = "once"\n'
        'needs = { approvals = 2, role = "dba" }\nargs.node = { type = "name" }\n'
    )
    twin.allow(load_allowed(host.homes.etc, os.geteuid()).actions["promote"])
    desk.runs.inventories.take([tell(house, twin)])
    await desk.load(PROMOTE)
    await accepted(desk)
    _publish_roster(desk)

    served = await serve(parts=lambda _: {"bundles": bundles(desk)})
    served.twins.users.tokens["token-ada"] = ADA
    for name, value in (("WATCHBILL_URL", served.url), ("WATCHBILL_TOKEN_FILE", str(tmp_path / "token"))):
        monkeypatch.setenv(name, value)
    (tmp_path / "token").write_text("token-ada\n")
    out = tmp_path / "failover"
    assert await asyncio.to_thread(run, ["runbooks", "export", "failover", "--out", str(out)]) == 0
    assert await asyncio.to_thread(run, ["runbooks", "export", "failover", "--out", str(out)]) == 2, (
        "never replaced"
    )
    await served.server.stop()
    text = (tmp_path / "failover.md").read_text()
    for said in (
        f"    {script} '{{{{look.out.node}}}}'",
        "**Find out first:** `node` (name) is `{{look.out.node}}`",
        '- [ ] This has to hold: `look.out.role == "standby"',
        "- [ ] 2 people of the role dba agree.",
        "the point of no return",
        "watchbill-agent act --bundle failover.bundle promote --set node=VALUE",
        "**Never twice**",
    ):
        assert said in text, text

    votes = [_vote(monkeypatch, tmp_path, name, seed) for name, seed in (("anna", ANNA), ("boris", BORIS))]
    capsys.readouterr()
    request = {
        "bundle": base64.b64encode((tmp_path / "failover.bundle").read_bytes()).decode(),
        "step": "promote",
        "kind": "do",
        "run": "",
        "attempt": 1,
        "values": {"node": "db1"},
        "votes": votes[:1],
        "reason": "both are gone",
    }
    runner = host.runner()
    (no,) = runner.act(read_act(request, 0)).events
    assert "1 of 2 of dba have agreed" in outcomes.read_refused(no.payload).detail
    request["votes"] = votes
    other = request | {"values": {"node": "db9"}}
    (no,) = runner.act(read_act(other, 0)).events
    assert "0 of 2" in outcomes.read_refused(no.payload).detail, "they agreed to another value"
    (begun, *_) = runner.act(read_act(request, 0)).events
    assert outcomes.read_breakglass(begun.payload).accepted.approvers == ("anna", "boris")
    assert ended(runner).outcome is outcomes.Outcome.OK
    runner.act(read_act(request, 0))
    assert counter.read_text() == "db1"
    runner.close()


def _real_host(tmp_path: Path, agent: str) -> Host:
    assert not tmp_path.stat().st_mode & stat.S_IWOTH
    host = Host(tmp_path / "h")
    write_enrolled(
        host.homes.etc,
        Enrolled(
            site=SITE, agent_id=agent, instance="db2", command_key=public_key(SEED), labels={"team": "db"}
        ),
    )
    (host.homes.etc / "roster.pub").write_text(f"ed25519 {public_key(SAFE).hex()} the safe\n")
    return host


def _publish_roster(desk: Desk) -> None:
    now_ms = desk.house.clock.wall_ms()
    people = tuple(
        Person(name=name, key=public_key(seed), roles=("dba",))
        for name, seed in (("anna", ANNA), ("boris", BORIS))
    )
    made = Roster(site=SITE, serial=1, issued_ms=now_ms, expires_ms=now_ms + 30 * DAY_MS, people=people)
    row = RosterRow(1, "ada", now_ms, sign_roster(SAFE, made))
    desk.house.store.write_blocking(lambda c: rosters.put(c, SITE, row))


def _vote(monkeypatch: pytest.MonkeyPatch, place: Path, name: str, seed: bytes) -> str:
    """Somebody signs at his own machine, where nothing answers."""
    file = place / name / "approval.key"
    file.parent.mkdir(mode=0o700)
    file.write_text(f"ed25519-seed {seed.hex()} {name}\n")
    file.chmod(0o600)
    monkeypatch.setattr(approval_key, "key_file", lambda: file)
    vote = place / f"{name}.vote"
    typed = ["approve", "--bundle", str(place / "failover.bundle"), "promote", "--out", str(vote)]
    assert run([*typed, "--yes"]) == 2, "what is not known has to be said"
    assert run([*typed, "--set", "node=db1"]) == 2, "nobody is there to say yes"
    assert run([*typed, "--set", "node=db1", "--yes"]) == 0
    assert run([*typed, "--set", "node=db1", "--yes"]) == 2, "a vote is never replaced"
    return vote.read_text().strip()


async def test_who_had_a_bundle_made_signs_nothing_of_it_and_only_what_needs_it_is_signed(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.house.named("db2").allow(*action("promote", "once"))
    await accepted(desk)
    view = await bundles(desk).export("failover", {}, "", Caller("anna", ADA.grants))
    file = tmp_path / "f"
    file.write_bytes(base64.b64decode(view.bundle))
    key = tmp_path / "k" / "approval.key"
    key.parent.mkdir(mode=0o700)
    monkeypatch.setattr(approval_key, "key_file", lambda: key)
    for name, code, told in (
        ("anna", 6, "somebody else has to agree"),
        ("boris", 2, "needs nobody's approval"),
    ):
        key.write_text(f"ed25519-seed {ANNA.hex()} {name}\n")
        key.chmod(0o600)
        assert (
            run(["approve", "--bundle", str(file), "promote", "--out", str(tmp_path / "v"), "--yes"]) == code
        )
        assert told in capsys.readouterr().err
    file.write_bytes(b"x" * 100)
    assert run(["approve", "--bundle", str(file), "promote", "--out", str(tmp_path / "v"), "--yes"]) == 2
    assert run(["approve", "r1", "promote", "--out", str(tmp_path / "v")]) == 2


async def test_glass_that_was_broken_is_told_loudly_for_an_hour(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    agent = desk.house.named("db2").agent
    begun = outcomes.Accepted(key="k" * 64, run="r7", step="act", ledger="l", boot="b", at_ms=5)
    glass = outcomes.Breakglass(
        accepted=begun, bundle="b1", runbook="failover", action="promote", attempt=1, uid=0, reason="burnt"
    )
    committed = Committed(told=[(agent, begun)], glass=[(agent, glass)])
    desk.runs.told(committed)
    await asyncio.sleep(0)
    assert (desk.runs.broken, desk.runs.broken_lately) == (1, 1)
    assert "a step was carried out without the collector" in caplog.text
    desk.house.clock.advance(3_601)
    assert (desk.runs.broken, desk.runs.broken_lately) == (1, 0)
