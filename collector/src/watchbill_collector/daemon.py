"""The command `watchbill-collector`: the central daemon, and what is done on its own machine.

Starts fast: each command imports what it needs. Exit codes are the house's.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from watchbill.commandline import (
    OK,
    USAGE,
    Command,
    Parser,
    add_command,
    add_unbuilt,
    at_home,
    home_option,
    program,
    run,
    say,
)

if TYPE_CHECKING:
    from watchbill.config import Homes
    from watchbill_collector.config import CollectorConfig

PROGRAM = "watchbill-collector"

LATER = {
    "backup": "write the collector's state to a file",
    "restore": "bring the collector's state back from a file",
    "pki": "show and roll the certificate authority",
}
"""Commands that exist and are not built yet."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser, commands = program(PROGRAM, "Takes what agents send, keeps it, judges it, and answers for it.")

    def add(name: str, command: Command, help_: str, *, json: bool = False) -> Parser:
        return add_command(commands, name, help_, command, json=json)

    add("init", _init, "make the certificate authority, the keys, the store and the first administrator")
    start = add("run", _run, "run the collector until it is stopped")
    start.add_argument("-v", "--verbose", action="store_true", help="log more")
    check = add(
        "check-config", _check_config, "read the configuration, rules and runbooks, print every problem"
    )
    check.add_argument("--json", action="store_true", help="print one JSON document")
    printing = check.add_mutually_exclusive_group()
    printing.add_argument("--print-sample", action="store_true", help="print a commented collector.toml")
    printing.add_argument("--print-reference", action="store_true", help="print what may be configured")
    add("doctor", _doctor, "find out why the collector does not do what it should", json=True)
    add("migrate", _migrate, "bring the store to this version's schema")
    rules = add("rules", _rules, "check rule files, judge their unit tests, or print the stock pack")
    rule_actions = rules.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, many, help_, about in (
        ("check", "+", "judge rule files without loading them", "rule files, as Prometheus has them"),
        ("test", "+", "judge unit tests of rules", "unit-test files, as promtool has them"),
        ("stock", "*", "print files of the stock pack", "names of files; none lists them all"),
    ):
        action = add_command(rule_actions, name, help_, json=name != "check")
        action.add_argument("file", nargs=many, help=about)
        action.set_defaults(action=name)
    runbooks = add("runbooks", _runbooks, "judge runbooks without a running collector")
    runbook_actions = runbooks.add_subparsers(title="actions", metavar="ACTION", required=True)
    about_lint = "judge runbook files: what is wrong or odd, as far as the files tell"
    linting = add_command(runbook_actions, "lint", about_lint, json=True)
    linting.add_argument("file", nargs="+", help="runbook files")
    from watchbill_collector.usercommand import add_arguments as add_user_arguments

    add_user_arguments(add("user", _user, "manage who may use the API"), home_option())
    promql = add("promql", _promql, "evaluate PromQL over data given on standard input")
    promql.add_argument("--json-lines", action="store_true", required=True, help="one JSON object a line")
    for name, help_ in LATER.items():
        add_unbuilt(commands, name, f"{help_} (not built yet)", _later)
    return parser


def _homes(arguments: argparse.Namespace) -> "Homes":
    from watchbill.config import Homes

    return Homes.resolve("collector", getattr(arguments, "home", None))


def _config(arguments: argparse.Namespace) -> "tuple[Homes, CollectorConfig]":
    from watchbill_collector.config import load_config

    homes = _homes(arguments)
    return homes, load_config(homes)


def _init(arguments: argparse.Namespace) -> int:
    from watchbill.clock import SystemClock
    from watchbill_collector.configured import store_password
    from watchbill_collector.init import default_names, initialise

    homes, config = _config(arguments)
    homes.etc.mkdir(parents=True, exist_ok=True)
    made = initialise(
        homes.var,
        config.site,
        default_names(config.address, config.names),
        SystemClock(),
        store_url=config.store.url,
        store_password=store_password(config),
    )
    for what in made.made or ("nothing: everything was there already",):
        print(f"made      {what}")
    print(f"authority sha256:{made.ca_sha256}")
    if made.token_file.exists():
        print(f"token     {made.token_file}: log in with it, then keep it somewhere safe")
    home = at_home(arguments)
    print(f"next      {PROGRAM} run{home}" + ("" if home else f", or systemctl enable --now {PROGRAM}"))
    return OK


def _run(arguments: argparse.Namespace) -> int:
    import logging

    from watchbill import logs
    from watchbill_collector.app import serve

    homes, config = _config(arguments)
    logs.setup(logging.DEBUG if arguments.verbose else logging.INFO)
    return serve(homes, config)


def _check_config(arguments: argparse.Namespace) -> int:
    from watchbill.config.printer import reference, sample_file
    from watchbill_collector.config import CollectorConfig

    if arguments.print_sample or arguments.print_reference:
        print((sample_file if arguments.print_sample else reference)(CollectorConfig), end="")
        from watchbill_collector.notifiers.configured import channel_reference, channel_sample

        print("\n" + (channel_sample() if arguments.print_sample else channel_reference()), end="")
        return OK
    from watchbill.errors import ConfigError
    from watchbill_collector.configured import all_problems

    problems = all_problems(_homes(arguments))
    if arguments.json:
        import json

        found = [problem._asdict() for problem in problems]
        print(json.dumps({"ok": not found, "problems": found}, indent=2))
        return USAGE if found else OK
    if problems:
        raise ConfigError(problems)
    print("ok")
    return OK


def _doctor(arguments: argparse.Namespace) -> int:
    from watchbill_collector.doctor import examine

    return examine(_homes(arguments), as_json=arguments.json)


def _migrate(arguments: argparse.Namespace) -> int:
    from watchbill_collector.configured import store_password
    from watchbill_collector.store import Store

    homes, config = _config(arguments)
    with Store.open(homes.var, config.site, config.store.url, store_password(config)):
        print("the store has this version's schema")
    return OK


def _rules(arguments: argparse.Namespace) -> int:
    paths = [Path(name) for name in arguments.file]
    if arguments.action == "stock":
        from watchbill_collector.ruletool import stock

        return stock(arguments.file, as_json=arguments.json)
    if arguments.action == "test":
        from watchbill_collector.ruletool import test

        return test(paths, as_json=arguments.json)
    from watchbill_collector.configured import check_rule_files

    for line in check_rule_files(paths):
        print(line)
    return OK


def _runbooks(arguments: argparse.Namespace) -> int:
    from watchbill_collector.runbooktool import lint

    return lint([Path(name) for name in arguments.file], as_json=arguments.json)


def _promql(arguments: argparse.Namespace) -> int:
    assert arguments.json_lines, "the only form there is"
    from watchbill_collector.promql.jsonlines import serve

    serve(sys.stdin, sys.stdout)
    return OK


def _user(arguments: argparse.Namespace) -> int:
    from watchbill_collector.usercommand import run_user

    return run_user(arguments, *_config(arguments))


def _later(arguments: argparse.Namespace) -> int:
    say(PROGRAM, f"{arguments.name} is not built yet; built so far: {PROGRAM} --help")
    return USAGE
