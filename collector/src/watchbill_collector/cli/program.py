"""The command tree, its aliases, and how a command ends.

`COMMANDS` names every command with its module and its one line of help, so that listing them imports none.
"""

import sys
from collections.abc import Sequence
from typing import Any

import click

from watchbill import outputs
from watchbill_collector.cli import said
from watchbill_collector.cli.errors import FAILED, OK, UNREACHABLE, USAGE, CommandFailed

PROGRAM = "watchbill"

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Start a collector and an agent of this machine, to try Watchbill out."),
    "login": ("login", "Remember a collector and the token for it."),
    "hosts": ("hosts", "List hosts; show, rename, retire, revoke, approve or forget one."),
    "top": ("query", "Hosts by CPU, memory, load or disk."),
    "query": ("query", "Evaluate a PromQL expression."),
    "rules": ("rules", "List rules; check, test or backtest a rule file."),
    "alerts": ("alerts", "What is pending or firing."),
    "services": ("services", "Services with their owners, hosts, alerts and dependencies."),
    "backups": ("backups", "How every backup stands and why; what has none."),
    "runbooks": ("runbooks", "List runbooks; show, lint, plan, accept or export one."),
    "run": ("running", "Run a runbook, or rehearse it."),
    "runs": ("runs", "List runs; show, follow or steer one."),
    "approve": ("approving", "Agree to what a run wants to do, with your own key."),
    "deny": ("approving", "Say no to it."),
    "drills": ("drills", "Which rehearsals are due, and what those that were held have shown."),
    "evidence": ("evidence", "A run, or a time, as a signed archive; check one."),
    "automation": ("automation", "Whether anything acts by itself; pause or resume that."),
    "roster": ("roster", "Who may approve: keys, signed rosters, hosts that are behind."),
    "enroll": ("enroll", "Make tokens that let hosts in; list or revoke them."),
    "gaps": ("hosts", "Which data are known to be missing, and why."),
    "silences": ("silences", "Quiet for some alerts, for a while, with a reason."),
    "notify": ("notify", "Try a notification channel."),
    "audit": ("audit", "What was done or refused, and whether its record is whole."),
    "doctor": ("doctor", "How the collector does, and what to do about it."),
    "completion": ("completion", "Print the line that switches completion on in your shell."),
}

LATER = (
    "incidents",
    "mark",
    "report",
)
"""What the surface promises and later versions bring."""

ALIASES = {
    "host": "hosts",
    "rule": "rules",
    "alert": "alerts",
    "gap": "gaps",
    "enrolls": "enroll",
    "enrol": "enroll",
    "service": "services",
    "silence": "silences",
    "incident": "incidents",
    "backup": "backups",
    "runbook": "runbooks",
    "drill": "drills",
}


class Program(click.Group):
    """Commands by name, imported when they are wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature.
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name in LATER:
            return _later(name)
        if name not in COMMANDS:
            return None
        from importlib import import_module

        module = import_module(f"watchbill_collector.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; say what is near when there is none."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], [*COMMANDS, *ALIASES], 1)
            meant = f" Did you mean `{PROGRAM} {near[0]}`?" if near else ""
            ctx.fail(f"there is no command {args[0][:60]!r}.{meant}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name not in LATER:
            for option in said.in_vain(ctx, command):
                ctx.fail(f"`{PROGRAM} {name}` takes no {option}")
        return name, command, rest


def _later(name: str) -> click.Command:
    def not_built(**_: Any) -> None:
        raise CommandFailed(f"`{PROGRAM} {name}` is not built yet", f"{PROGRAM} --help", USAGE)

    return click.Command(
        name,
        callback=not_built,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        help="Not built yet.",
    )


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from watchbill import __version__

        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


def build() -> Program:
    """The command tree."""
    return Program(
        PROGRAM,
        help="Watches servers, and says what is wrong with them. Start with `watchbill demo`.",
        epilog="Which collector: --url, WATCHBILL_URL, what `watchbill login` remembers, a running demo, "
        "then http://127.0.0.1:7480. Exit codes: 0 ok, 1 failed, 2 usage, 3 held, 4 waiting for approval, "
        "5 not reachable, 6 refused.",
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_version,
                help="Print the version.",
            ),
            *said.options(),
        ],
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
        no_args_is_help=True,
    )


def run(arguments: Sequence[str]) -> int:
    """The whole program: the exit code."""
    outputs.ready()
    try:
        outcome = build().main(list(arguments), PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else OK
    except CommandFailed as exc:
        _say(str(exc), exc.hint)
        return exc.code
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return USAGE
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx is not None else PROGRAM
        _say(exc.format_message(), f"{path} --help")
        return USAGE
    except click.ClickException as exc:
        _say(exc.format_message(), "")
        return exc.exit_code
    except (
        KeyError
    ) as exc:  # Documents are read where they are shown: what is missing there is another version's.
        _say(f"the answer has no {exc.args[0]!r}: is the collector of another version?", f"{PROGRAM} doctor")
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", "")
        return 130
    except (BrokenPipeError, SystemExit):
        # Whoever read us has enough, which is no failure: click exits with 1 then, and for nothing else in this mode.
        outputs.abandon()
        return OK
    except OSError as exc:
        if exc.filename is None:
            outputs.abandon()
        _say(f"{exc.filename or 'output'}: {(exc.strerror or str(exc)).lower()}", "")
        return FAILED


def _say(message: str, hint: str) -> None:
    try:
        sys.stderr.write(f"{PROGRAM}: {message}\n")
        if hint:
            sys.stderr.write(f"try: {hint}\n")
        sys.stderr.flush()
    except OSError:
        return


__all__ = ["COMMANDS", "LATER", "UNREACHABLE", "build", "run"]
