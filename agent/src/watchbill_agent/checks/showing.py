"""What `watchbill-agent checks run`, `list` and `kinds` print."""

import argparse
import asyncio
import json
import sys
import time

from watchbill.commandline import FAILED, OK, USAGE
from watchbill.config.printer import sample_file
from watchbill.errors import UsageError
from watchbill.homes import Homes
from watchbill_agent import exposition
from watchbill_agent.checks import kinds, wire
from watchbill_agent.checks.check import Listener, Outcome, Pinged, Samples, Verdict
from watchbill_agent.checks.config import CheckTable, Spec, read_checks
from watchbill_agent.checks.looking import look
from watchbill_agent.checks.present import DIRECTORY
from watchbill_agent.checks.publishing import published
from watchbill_agent.checks.trees import Trees
from watchbill_agent.checks.workers import Workers
from watchbill_agent.config import load_config
from watchbill_agent.question import SOCKET_NAME, ask
from watchbill_agent.reading import Layout, Reading


def run(arguments: argparse.Namespace) -> int:
    """Look once; the exit code."""
    spec = _named(_read(_homes(arguments)), arguments.name)
    if isinstance(spec.check, (Listener, Pinged)):  # What it heard, the running agent alone knows.
        print(
            f"{spec.name} listens all the time: watchbill-agent checks list says how it stands",
            file=sys.stderr,
        )
        return USAGE
    began_s = time.monotonic()
    outcome = asyncio.run(_look(spec))
    took_s = time.monotonic() - began_s
    samples, _ = published(spec, outcome, took_s)
    if arguments.json:
        print(json.dumps(_document(spec, outcome, samples, took_s), indent=2))
    else:
        print(f"{spec.name} ({spec.kind}): {words(outcome)} after {took_s:.3f} s")
        reading = Reading(Layout(samples.families.values(), samples.series), samples.values)
        print(exposition.render([reading]), end="")
    return OK if outcome.verdict in (Verdict.OK, Verdict.WARNING) else FAILED


def words(outcome: Outcome) -> str:
    """The verdict, and why."""
    why = ": ".join(filter(None, (outcome.reason, wire.one_line(outcome.detail))))
    return f"{outcome.verdict.word}, {why}" if why else outcome.verdict.word


async def _look(spec: Spec) -> Outcome:
    workers = Workers()
    try:
        found = await look(spec, workers, None)
    finally:
        await spec.check.close()
        await workers.close()
    return found if isinstance(found, Outcome) else wire.outcome_of(found.result)


def _document(spec: Spec, outcome: Outcome, samples: Samples, took_s: float) -> dict[str, object]:
    rows = zip(samples.series, samples.values, strict=True)
    return {
        "check": spec.name,
        "kind": spec.kind,
        "app": spec.app,
        "verdict": outcome.verdict.word,
        "reason": outcome.reason,
        "detail": wire.one_line(outcome.detail),
        "seconds": round(took_s, 6),
        "samples": [{"name": one.name, "labels": dict(one.labels), "value": value} for one, value in rows],
    }


def list_checks(arguments: argparse.Namespace) -> int:
    """What is configured, and how the running agent found it."""
    homes = _homes(arguments)
    specs = _read(homes)
    found = _asked(homes) if specs else {}
    rows = [
        {
            "check": spec.name,
            "kind": spec.kind,
            "app": spec.app,
            "interval_s": spec.interval_s,
            "behind": list(spec.behind),
            **(found.get(spec.name) or {"verdict": "", "reason": "", "detail": "", "since_ms": 0}),
        }
        for spec in specs
    ]
    if arguments.json:
        print(json.dumps({"checks": rows}, indent=2))
        return OK
    if not rows:
        print(f"no checks; they go into {homes.etc / DIRECTORY}/*.toml (watchbill-agent checks kinds)")
        return OK
    width = max(len(str(row["check"])) for row in rows)
    for row in rows:
        why = ": ".join(filter(None, (str(row["reason"]), str(row["detail"]))))
        verdict = str(row["verdict"]) or "not looked at yet"
        print(f"{row['check']:<{width}}  {row['kind']:<9}  {verdict:<8}  {why}".rstrip())
    return OK


def _asked(homes: Homes) -> dict[str, dict[str, object]]:
    """How the running agent found them; nothing where none runs."""
    from watchbill.errors import Permanent, Unreachable

    try:
        document = ask(homes.run / SOCKET_NAME, "checks")
    except (Unreachable, Permanent) as exc:
        print(exc, file=sys.stderr)
        return {}
    rows = document.get("checks")
    return {row["check"]: row for row in rows} if isinstance(rows, list) else {}


def list_kinds(arguments: argparse.Namespace) -> int:
    """What sorts of checks there are, or what a file may say of one."""
    if arguments.kind:
        return _show_kind(arguments.kind, as_json=arguments.json)
    every = {name: kind.help() for name, kind in kinds.discover().items()}
    if arguments.json:
        print(
            json.dumps({"kinds": [{"kind": name, "help": help_} for name, help_ in every.items()]}, indent=2)
        )
        return OK
    for name, help_ in every.items():
        print(f"{name:<10} {help_}")
    return OK


def _show_kind(name: str, *, as_json: bool) -> int:
    kind = kinds.find(name)
    if kind is None:
        raise UsageError(f"no kind is called {name[:80]!r}; there are: {', '.join(kinds.names())}")
    own, common = sample_file(kind.options_type), sample_file(CheckTable)
    if as_json:
        print(json.dumps({"kind": name, "help": kind.help(), "keys": own, "common_keys": common}, indent=2))
        return OK
    print(f"# {name}: {kind.help()}\n\n{own}\n{common}", end="")
    return OK


def _read(homes: Homes) -> tuple[Spec, ...]:
    config = load_config(homes)
    return read_checks(Trees(homes.etc, config.procfs, config.sysfs, config.rootfs))


def _named(specs: tuple[Spec, ...], name: str) -> Spec:
    for spec in specs:
        if spec.name == name:
            return spec
    import difflib

    near = difflib.get_close_matches(name, [spec.name for spec in specs], n=1)
    known = (
        f"did you mean {near[0]}?"
        if near
        else f"there are: {', '.join(spec.name for spec in specs) or 'none'}"
    )
    raise UsageError(f"no check is called {name[:80]!r}; {known}")


def _homes(arguments: argparse.Namespace) -> Homes:
    return Homes.resolve("agent", getattr(arguments, "home", None))
