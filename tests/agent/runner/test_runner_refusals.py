"""Every word by which a runner refuses, and that nothing is run then."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from watchbill.actions import outcomes
from watchbill.actions.bounds import CLOCK_AHEAD_MS_MAX, COMMAND_TTL_MS_MAX
from watchbill.actions.order import Ask, Cancel, Command, Purpose, Refusal, RosterCopy
from watchbill.actions.signing import Domain, sign
from watchbill.clock import ManualClock
from watchbill_agent.runner import bounds
from watchbill_agent.runner.core import Runner

from .conftest import BORIS, Host, Nobody, said


@pytest.fixture
def quiet(host: Host) -> Host:
    """A host whose clock stands still, and whose supervisors never begin."""
    host.clock = ManualClock()
    host.action("svc.restart", ["/bin/true"], "repeat")
    return host


def no(runner: Runner, signed: bytes) -> outcomes.Refused:
    """The one refusal that an order brings."""
    (found,) = said(runner.order(signed).events)
    assert isinstance(found, outcomes.Refused), found
    assert runner.running == 0
    return found


def refused(host: Host, command: Command | None = None, **changes: Any) -> outcomes.Refused:
    runner = host.runner(launcher=Nobody())
    return no(runner, host.signed(command or host.command("svc.restart"), **changes))


def test_what_another_key_signed_is_refused_and_names_nothing(quiet: Host) -> None:
    found = refused(quiet, seed=BORIS)
    assert (found.reason, found.key, found.run) == (Refusal.SIGNATURE, "", "")


def test_a_vote_is_no_order_though_its_signature_holds(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    assert no(runner, sign(Domain.VOTE, bytes([1]) * 32, {"v": 1})).reason is Refusal.SIGNATURE
    assert no(runner, b"").reason is Refusal.SIGNATURE


def test_a_signed_document_that_is_no_order_is_refused(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    assert no(runner, sign(Domain.ORDER, bytes([1]) * 32, {"v": 1, "kind": "shell"})).reason is Refusal.FORM


def test_a_host_that_is_not_enrolled_takes_no_orders(quiet: Host) -> None:
    (quiet.homes.etc / "enrolled.json").unlink()
    assert refused(quiet).reason is Refusal.SIGNATURE


@pytest.mark.parametrize("changes", [{"site": "other"}, {"agent": "agent-3"}])
def test_an_order_for_another_host_is_refused(quiet: Host, changes: dict[str, str]) -> None:
    found = refused(quiet, **changes)
    assert (found.reason, found.key) == (Refusal.OTHER_HOST, "")


def test_a_command_under_another_name_of_this_host_is_refused(quiet: Host) -> None:
    """Whoever agreed has read that name."""
    found = refused(quiet, quiet.command("svc.restart", host="test1"))
    assert found.reason is Refusal.OTHER_HOST
    assert "db2" in found.detail


def test_an_older_collector_is_refused_and_a_newer_one_begins_to_count_anew(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    runner.order(quiet.signed(quiet.command("svc.restart"), epoch=5, counter=900))
    found = no_more(runner, quiet.signed(quiet.command("svc.restart", run="r2"), epoch=4))
    assert found.reason is Refusal.EPOCH
    answer = runner.order(quiet.signed(quiet.command("svc.restart", run="r3"), epoch=6, counter=1))
    assert answer.changed, "the inventory tells the epoch"


def no_more(runner: Runner, signed: bytes) -> outcomes.Refused:
    (found,) = said(runner.order(signed).events)
    assert isinstance(found, outcomes.Refused), found
    return found


@pytest.mark.parametrize(
    ("issued_ms", "not_after_ms", "reason"),
    [
        (-86_400_000, -86_400_000 + 60_000, Refusal.EXPIRED),
        (-60_000, -1, Refusal.EXPIRED),
        (0, COMMAND_TTL_MS_MAX + 1, Refusal.EXPIRED),
        (CLOCK_AHEAD_MS_MAX + 1, CLOCK_AHEAD_MS_MAX + 2, Refusal.CLOCK),
    ],
)
def test_what_comes_from_another_time_is_refused(
    quiet: Host, issued_ms: int, not_after_ms: int, reason: Refusal
) -> None:
    now_ms = quiet.clock.wall_ms()
    found = refused(quiet, issued_ms=now_ms + issued_ms, not_after_ms=now_ms + not_after_ms)
    assert found.reason is reason


def test_an_order_from_before_the_ledger_was_made_is_refused(quiet: Host) -> None:
    """What an older ledger knew of it is gone."""
    assert refused(quiet, issued_ms=quiet.clock.wall_ms() - 1).reason is Refusal.EXPIRED


def test_a_repeated_order_is_answered_as_before_and_not_run_again(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    signed = quiet.signed(quiet.command("svc.restart"))
    first, second = runner.order(signed), runner.order(signed)
    assert [event.id for event in first.events] == [event.id for event in second.events]
    assert runner.running == 1


@pytest.mark.parametrize("order", [Ask("q", ("00" * 32,)), Cancel("00" * 32), RosterCopy(b"x")])
def test_a_repeated_order_of_another_kind_is_refused(quiet: Host, order: Any) -> None:
    runner = quiet.runner(launcher=Nobody())
    signed = quiet.signed(order)
    runner.order(signed)
    assert no(runner, signed).reason is Refusal.COUNTER


def test_a_command_that_comes_late_behind_newer_ones_is_refused_for_good(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    late = quiet.command("svc.restart", run="late")
    signed = quiet.signed(late)
    runner.order(quiet.signed(Ask("q", ())))
    assert no(runner, signed).reason is Refusal.COUNTER
    found = no(runner, quiet.signed(late))
    assert found.reason is Refusal.COUNTER, "it was told as one that will not be run"
    (states,) = said(runner.order(quiet.signed(Ask("q", (quiet.key(late),)))).events)
    assert states.states == {quiet.key(late): outcomes.State.REFUSED}


def test_what_was_refused_once_is_not_run_when_it_comes_again(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    command = replace(quiet.command("svc.restart"), action="not.yet")
    assert no(runner, quiet.signed(command)).reason is Refusal.NOT_ALLOWED
    quiet.action("not.yet", ["/bin/true"], "repeat")
    assert no(runner, quiet.signed(command)).reason is Refusal.NOT_ALLOWED
    runner.close()
    assert no(quiet.runner(launcher=Nobody()), quiet.signed(command)).reason is Refusal.NOT_ALLOWED


def test_an_action_that_is_not_there_is_not_allowed(quiet: Host) -> None:
    found = refused(quiet, quiet.command("svc.stop"))
    assert found.reason is Refusal.NOT_ALLOWED


@pytest.mark.parametrize("spoil", ["link", "group", "other", "owner", "directory"])
def test_an_action_whose_file_others_could_have_written_is_not_allowed(quiet: Host, spoil: str) -> None:
    command = quiet.command("svc.restart")
    path = quiet.homes.etc / "actions.d" / "svc.restart.toml"
    match spoil:
        case "link":
            path.rename(quiet.root / "elsewhere.toml")
            path.symlink_to(quiet.root / "elsewhere.toml")
        case "group":
            path.chmod(0o664)
        case "other":
            path.chmod(0o646)
        case "owner":
            if os.geteuid() != 0:
                pytest.skip("needs root, to give a file away")
            os.chown(path, 12345, 0)
        case _:
            path.parent.chmod(0o777)
    found = refused(quiet, command)
    assert found.reason is Refusal.NOT_ALLOWED


def test_a_changed_action_is_refused(quiet: Host) -> None:
    command = quiet.command("svc.restart")
    quiet.action("svc.restart", ["/bin/false"], "repeat")
    assert refused(quiet, command).reason is Refusal.CHANGED


ARGUMENT = (
    'args.unit = { type = "string" }\nargs.place = { type = "path", roots = ["/srv"], default = "/srv/a" }'
)


@pytest.mark.parametrize(
    "arguments",
    [
        {"unit": "-rf"},
        {"unit": "a\nb"},
        {"unit": "a\0b"},
        {"unit": "\u0430pt"},
        {"unit": ""},
        {"unit": "a" * 300},
        {"unit": "a", "place": "/srv/../etc/passwd"},
        {"unit": "a", "place": "/etc/passwd"},
        {"unit": "a", "more": "b"},
        {},
    ],
)
def test_an_argument_that_the_action_does_not_take_is_refused(quiet: Host, arguments: dict[str, Any]) -> None:
    quiet.action("take", ["/bin/echo", "{{unit}}", "{{place}}"], "repeat", ARGUMENT)
    found = refused(quiet, quiet.command("take", arguments=arguments))
    assert found.reason is Refusal.ARGUMENTS
    assert found.detail.isprintable()


@pytest.mark.parametrize("purpose", [Purpose.PROBE, Purpose.PLAN, Purpose.PREFLIGHT])
def test_an_effect_where_only_looking_is_allowed_is_refused(quiet: Host, purpose: Purpose) -> None:
    assert refused(quiet, quiet.command("svc.restart", purpose=purpose)).reason is Refusal.PURPOSE


PROTECTED = 'needs = { approvals = 2, role = "dba" }'


@pytest.fixture
def guarded(quiet: Host) -> Host:
    quiet.action("pg.promote", ["/bin/true"], "once", PROTECTED)
    return quiet


def test_without_a_roster_nothing_protected_runs(guarded: Host) -> None:
    runner = guarded.runner(launcher=Nobody())
    command = guarded.agreed(guarded.command("pg.promote"), "anna", "boris")
    assert no(runner, guarded.signed(command)).reason is Refusal.ROSTER, "no key"
    guarded.install_roster_key()
    other = replace(command, attempt=2)
    assert no(runner, guarded.signed(other)).reason is Refusal.ROSTER, "no roster"


def test_a_roster_past_its_days_approves_nothing(guarded: Host) -> None:
    guarded.install_roster_key()
    runner = guarded.runner(launcher=Nobody())
    runner.order(guarded.signed(RosterCopy(guarded.roster(1))))
    assert isinstance(guarded.clock, ManualClock)
    guarded.clock.advance(2 * 86_400)
    command = guarded.agreed(guarded.command("pg.promote"), "anna", "boris")
    assert no(runner, guarded.signed(command)).reason is Refusal.ROSTER


def test_too_few_approvals_are_refused_and_enough_are_named(guarded: Host) -> None:
    guarded.install_roster_key()
    runner = guarded.runner(launcher=Nobody())
    answer = runner.order(guarded.signed(RosterCopy(guarded.roster(1))))
    assert (answer.events, answer.changed) == ([], True)
    plain = guarded.command("pg.promote")
    assert no(runner, guarded.signed(plain)).reason is Refusal.APPROVALS
    one = guarded.agreed(replace(plain, attempt=2), "anna")
    assert no(runner, guarded.signed(one)).reason is Refusal.APPROVALS
    changed = replace(guarded.agreed(replace(plain, attempt=3), "anna", "boris"), step="another")
    assert no(runner, guarded.signed(changed)).reason is Refusal.APPROVALS, "of another plan"
    both = guarded.agreed(replace(plain, attempt=4), "anna", "boris")
    (accepted,) = said(runner.order(guarded.signed(both)).events)
    assert accepted.approvers == ("anna", "boris")


def test_nobody_has_to_agree_to_a_plan(guarded: Host) -> None:
    more = f'{PROTECTED}\nplan_argv = ["/bin/echo", "would"]'
    guarded.action("pg.promote", ["/bin/true"], "once", more)
    runner = guarded.runner(launcher=Nobody())
    command = guarded.command("pg.promote", purpose=Purpose.PLAN)
    (accepted,) = said(runner.order(guarded.signed(command)).events)
    assert accepted.approvers == ()
    assert runner._jobs.running[0].task.argv == ("/bin/echo", "would")


@pytest.mark.parametrize("purpose", [Purpose.PROBE, Purpose.PLAN, Purpose.PREFLIGHT])
def test_a_look_that_is_protected_needs_people_like_all_else(guarded: Host, purpose: Purpose) -> None:
    guarded.action("secret.look", ["/bin/cat", "/etc/shadow"], "read", PROTECTED)
    guarded.install_roster_key()
    runner = guarded.runner(launcher=Nobody())
    runner.order(guarded.signed(RosterCopy(guarded.roster(1))))
    command = guarded.command("secret.look", purpose=purpose)
    assert no(runner, guarded.signed(command)).reason is Refusal.APPROVALS


@pytest.mark.parametrize(
    ("serial", "changes", "why"),
    [
        (1, {}, "older"),
        (2, {"expires_ms": 5_000_000_000_000}, "another roster 2"),
        (3, {"site": "other"}, "site"),
    ],
)
def test_a_roster_that_is_older_or_of_another_site_is_refused(
    guarded: Host, serial: int, changes: dict[str, Any], why: str
) -> None:
    guarded.install_roster_key()
    runner = guarded.runner(launcher=Nobody())
    second = guarded.roster(2)
    runner.order(guarded.signed(RosterCopy(second)))
    runner.close()
    runner = guarded.runner(launcher=Nobody())
    found = no(runner, guarded.signed(RosterCopy(guarded.roster(serial, **changes))))
    assert found.reason is Refusal.ROSTER
    assert why in found.detail
    assert runner.order(guarded.signed(RosterCopy(second))).events == [], "the same one is no news"
    assert runner.inventory()[0].roster_serial == 2


def test_an_action_rests_between_two_runs_whatever_the_wall_clock_says(quiet: Host) -> None:
    quiet.action("rests", ["/bin/true"], "repeat", 'cooldown = "10m"\nparallel = 3')
    runner = quiet.runner(launcher=Nobody())
    runner.order(quiet.signed(quiet.command("rests")))
    assert isinstance(quiet.clock, ManualClock)
    quiet.clock.advance(599)
    quiet.clock.set_wall_ms(quiet.clock.wall_ms() + 3_600_000)
    again = quiet.command("rests", attempt=2)
    (found,) = said(runner.order(quiet.signed(again)).events)
    assert (found.reason, "another 2 s" in found.detail) == (Refusal.COOLDOWN, True)
    quiet.clock.advance(2)
    assert isinstance(
        said(runner.order(quiet.signed(replace(again, attempt=3))).events)[0], outcomes.Accepted
    )


def test_no_more_of_an_action_run_at_a_time_than_it_says(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    runner.order(quiet.signed(quiet.command("svc.restart")))
    found = no_more(runner, quiet.signed(quiet.command("svc.restart", attempt=2)))
    assert found.reason is Refusal.PARALLEL


def test_what_one_run_has_locked_another_does_not_touch(quiet: Host) -> None:
    quiet.action("other", ["/bin/true"], "repeat")
    runner = quiet.runner(launcher=Nobody())
    runner.order(quiet.signed(quiet.command("svc.restart", lock="db")))
    found = no_more(runner, quiet.signed(quiet.command("other", run="r2", lock="db")))
    assert found.reason is Refusal.LOCKED
    (same,) = said(runner.order(quiet.signed(quiet.command("other", run="r1", lock="db"))).events)
    assert isinstance(same, outcomes.Accepted)


def test_more_than_a_host_takes_at_a_time_is_busy(quiet: Host) -> None:
    quiet.action("many", ["/bin/true"], "read", "parallel = 32")
    runner = quiet.runner(launcher=Nobody())
    for attempt in range(bounds.RUNNING_MAX):
        runner.order(quiet.signed(quiet.command("many", attempt=attempt)))
    found = no_more(runner, quiet.signed(quiet.command("many", attempt=99)))
    assert found.reason is Refusal.BUSY


def _gone(host: Host) -> None:
    (host.root / "tool").unlink()


def _writable(host: Host) -> None:
    (host.root / "tool").chmod(0o777)


def _given_away(host: Host) -> None:
    os.chown(host.root / "tool", 12345, 0)


def _not_executable(host: Host) -> None:
    (host.root / "tool").chmod(0o644)


def _foreign_link(host: Host) -> None:
    (host.root / "tool").rename(host.root / "real")
    (host.root / "tool").symlink_to(host.root / "real")
    os.lchown(host.root / "tool", 12345, 0)


def _loop(host: Host) -> None:
    _gone(host)
    (host.root / "tool").symlink_to(host.root / "tool")


def _bad_interpreter(host: Host) -> None:
    (host.root / "tool").write_text("#!python3\n")


def _pinned(host: Host) -> None:
    (host.root / "tool").write_text("#!/bin/sh\nrm -rf /nowhere\n")


@pytest.mark.parametrize(
    "spoil",
    [_gone, _writable, _given_away, _not_executable, _foreign_link, _loop, _bad_interpreter, _pinned],
)
def test_an_executable_that_is_not_the_right_one_is_refused(
    quiet: Host, spoil: Callable[[Host], None]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    import hashlib

    tool = quiet.script("tool", "pass\n")
    pin = hashlib.sha256(tool.read_bytes()).hexdigest() if spoil is _pinned else ""
    quiet.action("use", [str(tool)], "repeat", f'sha256 = "{pin}"')
    spoil(quiet)
    found = refused(quiet, quiet.command("use"))
    assert found.reason is Refusal.EXECUTABLE
    assert "tool" in found.detail


def test_a_directory_that_others_may_write_spoils_what_is_in_it(quiet: Host) -> None:
    place = quiet.root / "bin"
    place.mkdir()
    tool = quiet.script("bin/tool", "pass\n")
    quiet.action("use", [str(tool)], "repeat")
    place.chmod(0o777)
    assert refused(quiet, quiet.command("use")).reason is Refusal.EXECUTABLE
    place.chmod(0o1777)
    runner = quiet.runner(launcher=Nobody())
    (found,) = said(runner.order(quiet.signed(quiet.command("use", attempt=2))).events)
    assert isinstance(found, outcomes.Accepted), "where only owners may rename, it is still the same file"


def test_a_user_that_is_not_there_is_refused(quiet: Host) -> None:
    quiet.action("use", ["/bin/true"], "repeat", 'run_as = "nobody-here"')
    assert refused(quiet, quiet.command("use")).reason is Refusal.EXECUTABLE


def test_a_flood_of_forgeries_is_counted_and_fills_nothing(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    assert isinstance(quiet.clock, ManualClock)
    told = 0
    for _ in range(200):
        quiet.clock.advance(0.001)
        told += len(runner.order(quiet.signed(Ask("q", ()), seed=BORIS)).events)
    assert told == bounds.REFUSALS_BURST
    assert (runner.untold, runner.counts["signature"]) == (200 - told, 200)
    assert len(runner.waiting()) == told
    quiet.clock.advance(bounds.REFUSALS_EVERY_S)
    runner.confirm([event.id for event in runner.waiting()])
    (found,) = said(runner.order(b"x" * 100).events)
    assert "170 refusals before it were not told" in found.detail
    # And what the collector did sign is heard all the same.
    (accepted,) = said(runner.order(quiet.signed(quiet.command("svc.restart"))).events)
    assert isinstance(accepted, outcomes.Accepted)


def test_refusals_that_nobody_fetches_are_bounded(quiet: Host) -> None:
    runner = quiet.runner(launcher=Nobody())
    for attempt in range(bounds.NOTES + 10):
        runner.order(quiet.signed(quiet.command("svc.stop", attempt=attempt)))
    assert len(runner.waiting()) == bounds.NOTES
    assert runner.untold == 10
    runner.close()
    assert len(quiet.runner(launcher=Nobody()).waiting()) == bounds.NOTES, "they are on the disk"
