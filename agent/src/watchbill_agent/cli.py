"""The command `watchbill-agent`.

Starts fast: nothing beyond the standard library's smallest is imported before the command is known, and each
command imports what it needs. Errors go to standard error and end with the next thing to type; exit codes are
the house's.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from watchbill.commandline import (
    FAILED,
    OK,
    USAGE,
    Command,
    Parser,
    add_command,
    at_home,
    program,
    run,
    say,
)

if TYPE_CHECKING:
    from watchbill.commandline import Commands
    from watchbill.config import Homes

PROGRAM = "watchbill-agent"

USER = "watchbill-agent"
SYSTEM_STATE = Path("/var/lib/watchbill")

WAITING = 4

UNFINISHED_S_MAX = 6.0
"""How long `sample` goes on asking what has not answered yet: a little longer than a mount has time for."""
UNFINISHED_EVERY_S = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, except for `backup wrap`, which `entry` knows before; returns the exit code."""
    return run(_parser(), argv)


# ---------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser, commands = program(PROGRAM, "Samples this host and streams what it sees to the collector.")

    def add(name: str, command: Command, help_: str, *, json: bool = False) -> Parser:
        return add_command(commands, name, help_, command, json=json)

    start = add("run", _run, "run the agent until it is stopped")
    start.add_argument("-v", "--verbose", action="store_true", help="log more")
    check = add(
        "check-config", _check_config, "read the configuration and print every problem in it", json=True
    )
    printing = check.add_mutually_exclusive_group()
    printing.add_argument(
        "--print-sample",
        action="store_true",
        help="print a commented agent.toml, and files of backups.d and checks.d",
    )
    printing.add_argument("--print-reference", action="store_true", help="print what may be configured")
    _add_enroll(add("enroll", _enroll, "make this host known to a collector"))
    add("seal", _seal, "forget this host's identity, before an image is made of it")
    _add_sample(add("sample", _sample, "read everything once and print it as Prometheus text"))
    add("status", _status, "say how the running agent is", json=True)
    add("doctor", _doctor, "find out why this host does not report", json=True)
    add("gaps", _gaps, "list what was lost and waits to be reported", json=True)
    _add_spool(add("spool", _spool, "inspect, verify or repair the spool on disk"))
    _add_leaving(add("leaving", _leaving, "tell the running agent why it is about to be stopped"))
    _add_backup(commands)
    _add_checks(commands)
    _add_actions(commands)
    _add_act(add("act", _act, "carry out a step of a bundle here, without the collector", json=True))
    return parser


def _add_enroll(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "token", nargs="?", help="the token; better in a file, where other users do not see it"
    )
    parser.add_argument("--token-file", metavar="FILE", help="file with the token, - for standard input")
    parser.add_argument("--proxy", default=None, help="as proxy in agent.toml, which it overrides")


def _add_spool(parser: Parser) -> None:
    actions = parser.add_subparsers(title="what to do", metavar="ACTION", dest="action", required=True)
    for name, help_ in (
        ("inspect", "say what is in it"),
        ("verify", "read all of it; exit 1 when something is damaged"),
        ("repair", "take what is damaged out of the way; the agent must not run"),
    ):
        added = add_command(actions, name, help_, json=True)
        added.add_argument(
            "--dir", metavar="DIR", type=Path, help="the spool's directory, if not the agent's own"
        )
        if name == "repair":
            added.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _add_backup(commands: "Commands") -> None:
    from watchbill_agent.backups.commandline import add_commands

    add_commands(add_command(commands, "backup", "wrap a backup's command, report how one went"))


def _add_checks(commands: "Commands") -> None:
    from watchbill_agent.checks.commandline import add_commands

    add_commands(add_command(commands, "checks", "look at an application now, list how all of them are"))


def _add_actions(commands: "Commands") -> None:
    from watchbill_agent.actions.commandline import add_commands

    add_commands(add_command(commands, "actions", "check and list what root lets be run on this host"))


def _add_act(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "step", nargs="?", metavar="STEP", help="the step; without it, what there is to do here"
    )
    parser.add_argument(
        "--bundle", metavar="F", type=Path, required=True, help="as `watchbill runbooks export` wrote it"
    )
    parser.add_argument(
        "--approval",
        metavar="A",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="votes, as `watchbill approve --bundle` wrote them",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="why; others read it")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="what had to be found out"
    )
    parser.add_argument(
        "--run", metavar="ID", default="", help="go on with this run instead of the bundle's own"
    )
    parser.add_argument(
        "--attempt", metavar="N", type=int, default=1, help="which attempt: one is never run twice"
    )
    parser.add_argument(
        "--out-of-order",
        metavar="TEXT",
        default="",
        help="why it is done although a step before it has not gone well here; others read it",
    )
    parser.add_argument("--undo", action="store_true", help="the step's undo instead")
    parser.add_argument("--cleanup", action="store_true", help=argparse.SUPPRESS)


def _act(arguments: argparse.Namespace) -> int:
    from watchbill_agent.actions.acting import act

    return act(arguments)


def _add_leaving(parser: argparse.ArgumentParser) -> None:
    from watchbill.leaving import WORDS

    parser.add_argument("--reason", choices=WORDS, help="why; without it systemd is asked")
    parser.add_argument(
        "--back-within", metavar="DURATION", help="from when it is missed, such as 30m; default by the reason"
    )
    parser.add_argument(
        "--unit", metavar="NAME", help="the agent's own unit, default watchbill-agent.service"
    )


def _add_sample(parser: argparse.ArgumentParser) -> None:
    for name, default in (("procfs", "/proc"), ("sysfs", "/sys"), ("rootfs", "/")):
        parser.add_argument(
            f"--{name}", metavar="DIR", type=Path, default=Path(default), help=f"default {default}"
        )
    parser.add_argument(
        "--collector", metavar="NAME", action="append", default=[], help="only this sampler; may be repeated"
    )
    parser.add_argument("--all", action="store_true", help="also the families that are off by default")


def _homes(arguments: argparse.Namespace) -> "Homes":
    from watchbill.config import Homes

    return Homes.resolve("agent", getattr(arguments, "home", None))


def _print_json(document: object) -> None:
    import json

    print(json.dumps(document, indent=2))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


# ---------------------------------------------------------------- commands


def _run(arguments: argparse.Namespace) -> int:
    import logging

    from watchbill import daemon, logs

    limit = logs.setup(logging.DEBUG if arguments.verbose else logging.INFO)
    from watchbill_agent.config import load_config

    homes = _homes(arguments)
    config = load_config(homes)
    from watchbill_agent.app import DRAIN_S, Agent

    agent = Agent(homes, config, limit)
    return daemon.run(agent.run, drain_s=DRAIN_S)


def _check_config(arguments: argparse.Namespace) -> int:
    from watchbill_agent.backups import adapters
    from watchbill_agent.backups.config import JobConfig, PrintedFile, read_jobs
    from watchbill_agent.checks import printing
    from watchbill_agent.checks.config import Door, read_checks
    from watchbill_agent.checks.trees import Trees
    from watchbill_agent.config import AgentConfig, load_config

    if arguments.print_sample or arguments.print_reference:
        from watchbill.config.printer import reference, sample_file
        from watchbill_agent.samplers import discover

        shown = sample_file if arguments.print_sample else reference
        options = {"samplers": {name: kind.options_type for name, kind in discover().items()}}
        print(shown(AgentConfig, options), end="")
        tools = {"backup": {name: kind.options_type for name, kind in adapters.discover().items()}}
        print("\n" + shown(PrintedFile, tools), end="")
        print("\n" + (printing.sample() if arguments.print_sample else printing.reference()), end="")
        return OK
    from watchbill.errors import ConfigError

    homes = _homes(arguments)
    problems = []
    config: AgentConfig | None = None
    jobs: tuple[JobConfig, ...] = ()
    try:
        config = load_config(homes)
    except ConfigError as exc:
        problems += exc.problems
    try:
        jobs = read_jobs(homes.etc)
    except ConfigError as exc:
        problems += exc.problems
    listens = config is None or config.heartbeat.listen is not None
    try:
        read_checks(Trees(homes.etc), Door(listens, frozenset(job.name for job in jobs)))
    except ConfigError as exc:
        problems += exc.problems
    if problems:
        if arguments.json:
            _print_json({"ok": False, "problems": [problem._asdict() for problem in problems]})
        else:
            for problem in problems:
                print(problem, file=sys.stderr)
        return USAGE
    if arguments.json:
        _print_json({"ok": True, "problems": []})
    else:
        print("ok")
    return OK


def _sample(arguments: argparse.Namespace) -> int:
    import logging
    import time

    from watchbill_agent.exposition import render
    from watchbill_agent.hostpaths import HostPaths
    from watchbill_agent.samplers import Round, build, discover

    kinds = discover()
    unknown = [name for name in arguments.collector if name not in kinds]
    if unknown:
        say(PROGRAM, f"no sampler {', '.join(unknown)}; there are: {', '.join(kinds)}")
        return USAGE
    names = list(dict.fromkeys(arguments.collector)) or (list(kinds) if arguments.all else None)
    logging.disable()  # What the daemon would log is said at the end, once.
    host = HostPaths(arguments.procfs, arguments.sysfs, arguments.rootfs)
    samplers = build(host, names)
    try:
        one = Round(samplers)
        readings = one.run()
        deadline_s = time.monotonic() + UNFINISHED_S_MAX
        while any(sampler.unfinished for sampler in samplers) and time.monotonic() < deadline_s:
            time.sleep(UNFINISHED_EVERY_S)
            readings = one.run()
        sys.stdout.write(render(readings))
        noticed = [state for state in one.states.values() if state.notice]
        failing = [state for state in one.states.values() if state.reason and not state.absent]
    finally:
        for sampler in samplers:
            sampler.close()
        host.close()
    for state in noticed:
        say(PROGRAM, f"sampler {state.name}: {state.notice}")
    for state in failing:
        say(PROGRAM, f"sampler {state.name}: {state.reason}")
    return FAILED if failing and len(failing) == len(samplers) else OK


def _status(arguments: argparse.Namespace) -> int:
    from watchbill_agent.question import SOCKET_NAME, ask

    document = ask(_homes(arguments).run / SOCKET_NAME, "status")
    if arguments.json:
        _print_json(document)
        return OK
    from watchbill_agent.report import status_lines

    _print_lines(status_lines(document))
    return OK


def _gaps(arguments: argparse.Namespace) -> int:
    from watchbill_agent.question import SOCKET_NAME, ask

    document = ask(_homes(arguments).run / SOCKET_NAME, "gaps")
    if arguments.json:
        _print_json(document)
        return OK
    from watchbill_agent.report import gaps_lines

    _print_lines(gaps_lines(document))
    return OK


def _agent_id(state_directory: Path) -> bytes | None:
    """Whose spool this host's is; None when it has no identity that can be read."""
    from watchbill.errors import WatchbillError
    from watchbill.identity import IdentityFile
    from watchbill_agent.spool.format import sixteen

    try:
        identity = IdentityFile(state_directory).load()
    except WatchbillError:
        return None
    return None if identity is None else sixteen(identity.agent_id)


def _spool(arguments: argparse.Namespace) -> int:
    from watchbill_agent.config import load_config
    from watchbill_agent.spool import tools

    directory, agent_id = arguments.dir, None
    if directory is None:
        homes = _homes(arguments)
        config = load_config(homes)
        directory, agent_id = config.spool_home(homes), _agent_id(config.identity_home(homes))
    if arguments.action == "repair":
        done = tools.repair(directory, agent_id, dry_run=arguments.dry_run)
        if arguments.json:
            _print_json({"directory": str(directory), "dry_run": arguments.dry_run, "done": done})
        else:
            _print_lines(done or ["nothing is damaged"])
        return OK
    found = tools.look(directory, agent_id)
    inspecting = arguments.action == "inspect"
    shown = tools.document(found) if inspecting else tools.findings(found)
    if arguments.json:
        _print_json(shown)
    else:
        _print_lines(tools.inspect_lines(shown) if inspecting else tools.verify_lines(shown))
    return OK if inspecting or shown["ok"] else FAILED


def _leaving(arguments: argparse.Namespace) -> int:
    from watchbill.config.units import Duration, NotWanted
    from watchbill.errors import UsageError
    from watchbill.leaving import Farewell
    from watchbill_agent import leaving
    from watchbill_agent.question import SOCKET_NAME

    try:
        within = Duration.from_config(arguments.back_within) if arguments.back_within is not None else None
    except NotWanted as exc:
        raise UsageError(f"--back-within: got {arguments.back_within!r}, wanted {exc}") from exc
    reason = arguments.reason or leaving.find_reason(arguments.unit or leaving.UNIT)
    farewell = Farewell(reason, 0 if within is None else within.ms)
    said = leaving.tell(_homes(arguments).run / SOCKET_NAME, farewell)
    _print_lines(leaving.sentence(farewell, "" if within is None else within.to_config(), said=said))
    return OK


def _doctor(arguments: argparse.Namespace) -> int:
    from watchbill.logs import escape
    from watchbill_agent import doctor

    findings = []
    for finding in doctor.examine(_homes(arguments)):
        findings.append(finding)
        if not arguments.json:
            _print_lines(doctor.lines(finding, escape))
    if arguments.json:
        _print_json({"findings": doctor.as_documents(findings)})
    return FAILED if any(finding.verdict is doctor.Verdict.FAILED for finding in findings) else OK


def _seal(arguments: argparse.Namespace) -> int:
    from watchbill.files import Lock, make_directory
    from watchbill_agent import lastrun
    from watchbill_agent.actions import introduction
    from watchbill_agent.config import load_config
    from watchbill_agent.enroll import seal
    from watchbill_agent.spool.tools import forget

    homes = _homes(arguments)
    config = load_config(homes)
    where = config.identity_home(homes)
    if not (homes.var.is_dir() or where.is_dir()):
        print("this host has no identity")
        return OK
    make_directory(homes.var)
    # A running agent would go on with what it has in memory.
    with Lock(homes.var / "agent.lock"):
        forgotten = seal(where)
        introduction.forget(homes.etc)
        lastrun.forget(homes.var)
        forget(config.spool_home(homes))  # Its records are this host's: an image must not send them.
    print(
        "the identity is gone; enrol each host made from this image"
        if forgotten
        else "this host has no identity"
    )
    return OK


def _enroll(arguments: argparse.Namespace) -> int:
    from watchbill.errors import UsageError

    if (arguments.token is None) == (arguments.token_file is None):
        raise UsageError("give the token once: --token-file FILE, or --token-file - to paste it")
    import socket

    from watchbill import __version__
    from watchbill_agent.actions.introduction import Introduction
    from watchbill_agent.config import load_config
    from watchbill_agent.enroll import AwaitsApproval, EnrolRequest, enroll, read_token

    homes = _homes(arguments)
    config = load_config(homes)
    if arguments.token is not None:
        say(PROGRAM, "other users can see a token on a command line; --token-file does not show it")
        token = str(arguments.token)
    else:
        from_stdin = arguments.token_file == "-"  # noqa: S105 - The usual name for standard input.
        token = read_token(None if from_stdin else Path(arguments.token_file))
    introduction = Introduction(homes.etc)
    _become_owner(homes)
    request = EnrolRequest(
        token=token,
        state_directory=str(config.identity_home(homes)),
        hostname=socket.gethostname(),
        instance=config.instance,
        agent_version=__version__,
        proxy=config.proxy if arguments.proxy is None else arguments.proxy,
        ca=config.mqtt.ca,
        user=config.mqtt.user,
        password_file=str(config.mqtt.password_file or ""),
    )
    try:
        answer = enroll(request)
    except BaseException:
        introduction.nobody()
        raise
    if isinstance(answer, AwaitsApproval):
        introduction.nobody()
        print(f"{answer.instance} waits for an administrator, who compares this fingerprint:")
        print(f"  {answer.fingerprint}")
        print(f"then run the same command again; not before {answer.retry_after_s:.0f} s from now")
        return WAITING
    identity = answer.identity
    was = "was enrolled already" if answer.already else "is enrolled"
    print(f"this host {was} as {identity.instance} of site {identity.site}")
    print(f"key fingerprint {answer.fingerprint}")
    if not introduction.introduce(identity):
        say(PROGRAM, f"{homes.etc} could not be written, so no runbook can act on this host; as root it can")
    print(f"next: {_how_to_run(arguments)}")
    return OK


def _become_owner(homes: "Homes") -> None:
    """Run as root, go on as the user whose files the agent's are: it has to read what is written here."""
    if os.geteuid() != 0:
        return
    import pwd

    if homes.var.is_dir():
        found = homes.var.stat()
        user, group = found.st_uid, found.st_gid
    elif homes.var.is_relative_to(SYSTEM_STATE):
        try:
            entry = pwd.getpwnam(USER)
        except KeyError:
            return  # Not installed from a package: whoever runs this runs the agent.
        user, group = entry.pw_uid, entry.pw_gid
        from watchbill.files import make_directory

        make_directory(homes.var.parent, 0o755)
        make_directory(homes.var)
        os.chown(homes.var, user, group)
    else:
        return
    if user != 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)


def _how_to_run(arguments: argparse.Namespace) -> str:
    """What starts the agent: a home of its own is no service manager's."""
    home = at_home(arguments)
    return f"{PROGRAM} run{home}" if home else f"systemctl enable --now {PROGRAM}"
