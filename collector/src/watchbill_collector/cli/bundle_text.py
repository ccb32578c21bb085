"""A bundle on paper: Markdown that is carried out from top to bottom by people, with every command line as it is."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final

from watchbill_collector.cli.runbook_text import times_words
from watchbill_collector.cli.screen import clean, span

if TYPE_CHECKING:
    from watchbill.actions.bundle import Bundle, BundleStep

LINE_MAX: Final = 4_000
TEXT_LINE_MAX: Final = 1_000


def paper(bundle: "Bundle", sha256: str, file: str) -> str:
    """The whole sheet."""
    return "\n".join([*_head(bundle, sha256, file), *_steps(bundle, file), *_foot(bundle)]) + "\n"


def _head(bundle: "Bundle", sha256: str, file: str) -> Iterator[str]:
    yield f"# {clean(bundle.runbook)}, without the collector"
    yield ""
    if bundle.rto_ms or bundle.rpo_ms:
        objectives = [("back within", bundle.rto_ms), ("data no older than", bundle.rpo_ms)]
        yield "Objective: " + ", ".join(f"{what} {span(ms / 1000)}" for what, ms in objectives if ms) + "."
        yield ""
    rows = (
        ("Bundle", f"{bundle.id}, file `{clean(file)}`"),
        ("SHA-256 of the file", f"`{sha256}`"),
        (
            "Made",
            f"{_time(bundle.issued_ms)} for {clean(bundle.requester)}, who cannot approve anything in it",
        ),
        ("Good until", _time(bundle.expires_ms)),
        ("Site, epoch", f"{clean(bundle.site)}, {bundle.epoch}"),
        ("Run", f"`{clean(bundle.run)}`"),
        ("Text", f"`{clean(bundle.digest)}`"),
        ("Parameters", ", ".join(f"`{clean(k)}={clean(v)}`" for k, v in bundle.parameters.items()) or "none"),
        ("Lock", f"`{clean(bundle.lock)}`: nobody else may work on it meanwhile" if bundle.lock else "none"),
    )
    yield "| | |"
    yield "|---|---|"
    for what, text in rows:
        yield f"| {what} | {_cell(text)} |"
    yield ""
    for problem in bundle.problems:
        yield f"- **Was wrong when this was made:** {clean(problem, LINE_MAX)}"
    if bundle.problems:
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _steps(bundle: "Bundle", file: str) -> Iterator[str]:
    yield "Do the steps in this order. Stop where a check does not hold, and decide; note each time and name."
    yield ""
    number = 0
    for (name, kind), group in groupby(bundle.steps, key=lambda one: (one.step, one.kind)):
        steps = list(group)
        if kind in ("undo", "cleanup"):
            yield from _aside(steps, kind, file)
            continue
        number += 1
        yield f"## {number}. {clean(name)}{' - the point of no return' if steps[0].commit else ''}"
        yield ""
        yield from _by_kind(steps, kind, file)
        yield "Done at: ____________  by: ____________"
        yield ""


def _by_kind(steps: "list[BundleStep]", kind: str, file: str) -> Iterator[str]:
    first = steps[0]
    match kind:
        case "do":
            for one in steps:
                yield from _act(one, file)
        case "check":
            yield f"- [ ] This has to hold: `{clean(first.detail, LINE_MAX)}`. If it does not, or nobody knows: stop."
            yield ""
        case "approve":
            yield f"- [ ] {first.approvals} people of the role {clean(first.role)} agree. Who asked does not count."
            yield ""
            yield "Names and times: ________________________________________"
            yield ""
        case "notify":
            yield f"- [ ] Tell them yourself: {clean(first.detail, LINE_MAX)}"
            yield ""
        case _:
            yield clean(first.detail, LINE_MAX)
            yield ""


def _act(one: "BundleStep", file: str, kind: str = "do") -> Iterator[str]:
    yield f"On **{clean(one.host or 'a host that is not known yet')}**, as {clean(one.run_as or '?')}:"
    yield ""
    if one.argv:
        yield f"    {clean(shlex.join(one.argv), LINE_MAX)}"
    else:
        yield f"    {clean(one.action)}: {clean(one.detail, LINE_MAX)}"
    yield ""
    for name, lack in one.missing.items():
        text = clean(lack.text, LINE_MAX)
        yield f"- [ ] **Find out first:** `{clean(name)}` ({lack.kind.value}) is `{text}`: ____________"
    if one.effect == "once":
        yield "- **Never twice** without looking whether it has happened."
    if one.approvals:
        yield (
            f"- Needs {one.approvals} of {clean(one.role)}: each signs with "
            f"`watchbill approve --bundle {clean(file)} {clean(one.step)}{_sets(one)} --out NAME`"
        )
        if one.times:
            yield (
                f"- Their word lets it begin {times_words(one.times)}; each attempt after that is signed for itself, "
                "and done with the same `--attempt N`"
            )
    if one.acts:
        flags = "" if kind == "do" else f" --{kind}"
        approvals = " --approval NAME NAME" if one.approvals else ""
        yield (
            f"- With the runner: `watchbill-agent act --bundle {clean(file)} {clean(one.step)}{flags}{_sets(one)} "
            f"--reason TEXT{approvals}`"
        )
    else:
        yield f"- By hand only: {clean(one.detail, LINE_MAX) or 'its host had not said what it allows'}"
    yield ""


def _sets(one: "BundleStep") -> str:
    return "".join(f" --set {clean(name)}=VALUE" for name in one.missing)


def _aside(steps: "list[BundleStep]", kind: str, file: str) -> Iterator[str]:
    yield (
        f"### If it has to be undone: {clean(steps[0].step)}"
        if kind == "undo"
        else "### Clean-up after a drill"
    )
    yield ""
    for one in steps:
        yield from _act(one, file, kind)


def _foot(bundle: "Bundle") -> Iterator[str]:
    yield "## The runbook's own text"
    yield ""
    for line in bundle.text.splitlines():
        yield f"    {clean(line, TEXT_LINE_MAX)}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
