"""Runs a program and believes its exit code: any Nagios or Icinga plugin, or one that prints JSON. What it prints as
performance data becomes series, in base units.

Exit code 0 is ok, 1 warning, 2 critical, 3 unknown; any other, and a signal, is unknown. Its line for people becomes
the detail, or what it said on stderr when it printed nothing. It runs as the agent's user: what needs more rights is
a command of root's in observe.d, which the runner runs (`observe`).

Reasons: `warning`, `critical` and `unknown` are the plugin's own words; `timeout`, `exit-code`, `signal`,
`cannot-start`, `stuck` (an earlier run cannot be ended, or its filesystem does not answer), `output-endless`,
`not-json`, `credential`, `no-runner`, `refused`.
"""

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from watchbill.config import ByteSize, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.check import (
    DETAIL_CHARACTERS_MAX,
    About,
    Failed,
    Outcome,
    Probe,
    Samples,
    Verdict,
)
from watchbill_agent.checks.command import CannotStart, Command, Ran, StillThere
from watchbill_agent.checks.perfdata import put_perfdata, read_answer
from watchbill_agent.checks.plugin_json import NotAnAnswer, read_document
from watchbill_agent.checks.secret import secret_of, secret_wanted

OUTPUT_DEFAULT: Final = ByteSize(8 * 1024)
OUTPUT_MAX: Final = ByteSize(64 * 1024)
ARGV_MAX: Final = 256
ARGUMENT_CHARACTERS_MAX: Final = 4_096
VARIABLES_MAX: Final = 64
HIDDEN: Final = b"***"
SIGNALLED: Final = 128
"""What shells add to the number of a signal."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_OBSERVE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


def _argv(values: Sequence[str]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        if "\0" in value or len(value) > ARGUMENT_CHARACTERS_MAX:
            wanted = f"text of at most {ARGUMENT_CHARACTERS_MAX} characters, no NUL"
            yield Wrong((number,), show_value(value), wanted)
        elif number == 0 and not value.startswith("/"):
            wanted = "the absolute path of a program; there is no shell"
            yield Wrong((number,), show_value(value), wanted)


def _env(values: Mapping[str, str]) -> Iterator[Wrong]:
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name):
            yield Wrong((name,), show_value(name), "the name of a variable: letters, digits and _")
        elif "\0" in value:
            yield Wrong((name,), show_value(value), "text without NUL")


def _secrets(values: Mapping[str, str]) -> Iterator[Wrong]:
    for name, value in values.items():
        wanted = secret_wanted(value)
        if not _VARIABLE.fullmatch(name):
            yield Wrong((name,), show_value(name), "the name of a variable: letters, digits and _")
        elif wanted or not value:
            yield Wrong((name,), show_value(value), wanted or "where the secret is")


def _no_run_as(value: str) -> str | None:
    return (
        "no such thing: it runs as the agent's user. For root's, name a command of observe.d: observe"
        if value
        else None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run, and how to read it."""

    argv: list[str] = option(
        [],
        length_max=ARGV_MAX,
        check=_argv,
        help="The program and its arguments. No shell.",
        example='["/usr/lib/nagios/plugins/check_disk", "-w", "10%", "-c", "5%", "-p", "/"]',
    )
    observe: str = option(
        "",
        check=lambda value: None if not value or _OBSERVE.fullmatch(value) else "a name of observe.d",
        help="Instead of argv: a command of observe.d, run by the runner with the rights that root gave it.",
        example='"disk.health"',
    )
    format: Literal["nagios", "json"] = option("nagios", help="How its output is read.")
    env: dict[str, str] = option(
        {},
        length_max=VARIABLES_MAX,
        check=_env,
        help="Its environment, beside PATH, HOME=/ and LC_ALL=C.UTF-8.",
    )
    secrets: dict[str, str] = option(
        {},
        length_max=VARIABLES_MAX,
        check=_secrets,
        help="Variables whose values are read from files or credentials, and hidden in what it prints.",
        example='{ PGPASSWORD = "/etc/watchbill/secrets/pg" }',
    )
    directory: Path = option(Path("/"), help="Where it starts.")
    output_max: ByteSize = option(
        OUTPUT_DEFAULT,
        at_least=ByteSize(256),
        at_most=OUTPUT_MAX,
        help="How much of its output is read; the rest is dropped and counted.",
    )
    run_as: str = option("", check=_no_run_as, help="Not possible: see observe.")

    def check(self) -> Iterator[Wrong]:
        """One of both."""
        if bool(self.argv) == bool(self.observe):
            yield Wrong(
                "argv", "both argv and observe" if self.argv else "nothing", "one of argv and observe"
            )
        elif self.observe and (self.env or self.secrets):
            key = "env" if self.env else "secrets"
            yield Wrong(key, "an environment", "none with observe: root's command has its own")


class Exec(Probe):
    """Runs a plugin."""

    kind = "exec"
    options_type = Options
    interval_s = 60.0
    timeout_s = 10.0

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._command = Command(options.argv, int(options.output_max), str(options.directory))

    async def look(self, within_s: float) -> Outcome:
        """Run it once."""
        options: Options = self.options
        if options.observe:
            return self._judged(await self._observed(options.observe, within_s), (), within_s)
        until_s = asyncio.get_running_loop().time() + within_s
        secrets = {name: await secret_of(where, until_s) for name, where in options.secrets.items()}
        env = {**options.env, **secrets, "WATCHBILL_CHECK": self.about.name}
        try:
            ran = await self._command.run(env, until_s - asyncio.get_running_loop().time())
        except CannotStart as exc:
            raise Failed(
                "cannot-start", f"{options.argv[0]}: {exc}".lower(), verdict=Verdict.UNKNOWN
            ) from exc
        except StillThere as exc:
            detail = f"an earlier run of {options.argv[0]} cannot be ended, or its filesystem does not answer"
            raise Failed("stuck", detail, verdict=Verdict.UNKNOWN) from exc
        return self._judged(ran, tuple(secrets.values()), within_s)

    async def close(self) -> None:
        """End what runs."""
        await self._command.close()

    async def _observed(self, name: str, within_s: float) -> Ran:
        from watchbill.errors import Refused, Transient
        from watchbill_agent.actions.door import Door, NoRunner, runner_socket

        run = _run_directory(self.about.etc)
        try:
            async with asyncio.timeout(within_s), Door(runner_socket(run)) as door:
                read = await door.observe(name)
        except NoRunner as exc:
            raise Failed("no-runner", str(exc), verdict=Verdict.UNKNOWN) from exc
        except Refused as exc:
            raise Failed("refused", str(exc), verdict=Verdict.UNKNOWN) from exc
        except Transient as exc:
            raise Failed("no-runner", str(exc), verdict=Verdict.UNKNOWN) from exc
        kept = int(self.options.output_max)
        ended = read.exit_code is not None
        return Ran(
            exit_code=read.exit_code,
            signal=None if ended or read.outcome == "timeout" else int(signal.SIGKILL),
            stdout=read.output[:kept],
            stderr=read.errors.encode(),
            dropped_bytes=max(0, len(read.output) - kept),
            timed_out=read.outcome == "timeout",
            flooded=False,
            cpu_s=0.0,
        )

    def _judged(self, ran: Ran, secrets: tuple[str, ...], within_s: float) -> Outcome:
        out, err = (_text(said, secrets) for said in (ran.stdout, ran.stderr))
        found = Samples()
        if ran.timed_out:
            said = _one_line(out) or _one_line(err)
            detail = f"got no end within {within_s:g} s" + (f"; it said: {said}" if said else "")
            return Outcome(Verdict.CRITICAL, "timeout", detail[:DETAIL_CHARACTERS_MAX], found)
        if ran.flooded:
            detail = (
                f"got more than {ran.dropped_bytes} bytes and no end, wanted {int(self.options.output_max)}"
            )
            return Outcome(Verdict.UNKNOWN, "output-endless", detail, found)
        code = ran.exit_code if ran.exit_code is not None else SIGNALLED + (ran.signal or 0)
        verdict, reason = _verdict(ran)
        if self.options.format == "json":
            verdict, reason, said, malformed = _read_json(out, verdict, reason, found)
            if reason == "not-json" and ran.dropped_bytes:
                said = f"its output was cut at output_max, {self.options.output_max.to_config()}: {said}"
        else:
            answer = read_answer(out)
            put_perfdata(found, answer.perfs)
            said, malformed = " / ".join((answer.line, *answer.more)), answer.malformed
        _put_facts(found, code, ran, malformed)
        if not said.strip(" /") and err.strip():
            said = f"stderr: {err}"
        detail = _one_line(said)
        if reason in ("exit-code", "signal"):
            detail = f"got {_ending(ran)}, wanted exit code 0 to 3" + (
                f"; it said: {detail}" if detail else ""
            )
        return Outcome(verdict, reason, detail[:DETAIL_CHARACTERS_MAX], found)


def _read_json(out: str, verdict: Verdict, reason: str, found: Samples) -> tuple[Verdict, str, str, int]:
    """A status in the document counts more than the exit code, unless that says that the plugin broke."""
    if reason in ("exit-code", "signal"):
        return verdict, reason, out, 0
    try:
        status, message, malformed = read_document(out, found)
    except NotAnAnswer as exc:
        return Verdict.UNKNOWN, "not-json", str(exc), 0
    if status is not None:
        verdict = status
        reason = "" if status is Verdict.OK else status.word
    return verdict, reason, message, malformed


def _verdict(ran: Ran) -> tuple[Verdict, str]:
    if ran.signal is not None:
        return Verdict.UNKNOWN, "signal"
    if ran.exit_code not in tuple(Verdict):
        return Verdict.UNKNOWN, "exit-code"
    verdict = Verdict(ran.exit_code)
    return verdict, "" if verdict is Verdict.OK else verdict.word


def _ending(ran: Ran) -> str:
    if ran.signal is None:
        code = ran.exit_code or 0
        words = f", as a shell says of {name}" if (name := _signal_name(code - SIGNALLED)) else ""
        return f"exit code {code}{words}"
    return _signal_name(ran.signal) or f"signal {ran.signal}"


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return ""


def _put_facts(found: Samples, code: int, ran: Ran, malformed: int) -> None:
    """The same for every plugin, so that their layout stays."""
    found.gauge("watchbill_check_plugin_exit_code", "128 and its number for a signal.", code)
    found.gauge("watchbill_check_plugin_cpu_seconds", "CPU time of the plugin's last run.", ran.cpu_s)
    found.gauge(
        "watchbill_check_plugin_dropped_bytes", "Output beyond the bound, of the last run.", ran.dropped_bytes
    )
    found.gauge(
        "watchbill_check_plugin_malformed", "Values that could not be read, of the last run.", malformed
    )


def _text(said: bytes, secrets: tuple[str, ...]) -> str:
    for secret in sorted((secret.encode() for secret in secrets if secret), key=len, reverse=True):
        said = said.replace(secret, HIDDEN)
    return said.decode("utf-8", "replace")


def _one_line(text: str) -> str:
    words = " ".join(text[: 4 * DETAIL_CHARACTERS_MAX].split())
    return "".join(char if char.isprintable() else "?" for char in words)[:DETAIL_CHARACTERS_MAX]


def _run_directory(etc: Path) -> Path:
    """Where the agent's sockets are, when its configuration is there."""
    from watchbill.homes import Homes

    system = Homes.resolve("agent", env={})
    return system.run if etc == system.etc else Homes.resolve("agent", etc.parent).run
