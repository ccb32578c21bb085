"""How runbooks, plans and runs are written for people: top to bottom, nothing cut that somebody might have to type.

Hosts, arguments and outputs are foreign: everything goes through `clean`.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from watchbill_collector.cli.screen import Screen, ago, clean, clock, moment, span

TEXT_MAX: Final = 2_000
ARGUMENT_MAX: Final = 4_096
"""Of one element of an argv; hosts take no longer ones."""
WHYS_SHOWN: Final = 3
"""Reasons of one runbook in the list; `show` has all."""
HOSTS_SHOWN: Final = 12
"""Hosts of one step that are named; the rest is counted, and whole in --json."""
OUTPUT_LINES: Final = 12
LINE_MAX: Final = 400
WIDTH_MAX: Final = 120
PIPED_WIDTH: Final = 10_000
INDENT: Final = 4
UNDO: Final = "undo"
ASKS: Final = "waiting"
"""The state of a gate that is open."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9]{1,2}m")


def width_of(screen: Screen) -> int:
    """Columns there are; a pipe has as many as it takes."""
    if not screen.out.isatty():
        return PIPED_WIDTH
    return min(WIDTH_MAX, max(40, shutil.get_terminal_size((80, 24)).columns))


def folded(parts: Iterable[str], first: str, indent: int, width: int) -> Iterator[str]:
    """Parts joined by spaces, broken between them where a line would be too long."""
    line, fresh = first, not first or first.endswith(" ")
    for part in parts:
        if not fresh and _columns(line) + 1 + _columns(part) > width:
            yield line
            line, fresh = " " * indent, True
        line += part if fresh else f" {part}"
        fresh = False
    yield line.rstrip()


def _columns(text: str) -> int:
    """What it takes on the screen; our colours take nothing."""
    return len(_COLOUR.sub("", text)) if "\x1b" in text else len(text)


def prose(text: str, first: str, indent: int, width: int, characters_max: int = TEXT_MAX) -> Iterator[str]:
    """Foreign text, folded at its spaces."""
    yield from folded(clean(text, characters_max).split(), first, indent, width)


def command_line(argv: Sequence[str]) -> list[str]:
    """The elements of an argv as a shell would need them: where one ends is to be seen."""
    return [clean(shlex.quote(part), ARGUMENT_MAX) for part in argv]


def times_words(times: int) -> str:
    """How often something protected may begin; 0: it only looks."""
    return "as often as it is wanted" if not times else "once" if times == 1 else f"{times} times"


def count_of(number: int, noun: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def names(hosts: Sequence[str]) -> str:
    """Hosts in one line, the first of many."""
    shown = ", ".join(clean(host) for host in hosts[:HOSTS_SHOWN])
    more = len(hosts) - HOSTS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def sheet(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Words and what they stand at."""
    for word, text in rows:
        if text:
            yield from folded(text.split(" "), f"{word:13}", 13, width)


# ---------------------------------------------------------------- runbooks


RUNBOOK_HEAD: Final = ("RUNBOOK", "READY", "ACCEPTED BY", "LAST DRILL", "RTO", "TOOK", "OPEN", "ABOUT")
"""TOOK is the p90 of the recovery times."""
NAME_MAX: Final = 64
ABOUT_MIN: Final = 20


def runbook_rows(screen: Screen, books: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The list; what it is about takes the room that is left."""
    rows = [
        (
            clean(book["name"], NAME_MAX),
            readiness(book),
            clean(book["accepted_by"] or "nobody", NAME_MAX),
            drilled(book),
            span(book["rto_s"]) if book["rto_s"] else "-",
            span(book["recovery_p90_s"]) if book["recovery_p90_s"] is not None else "-",
            str(book["open_runs"] or "-"),
        )
        for book in books
    ]
    taken_up = sum(
        2 + max([len(head), *(len(row[at]) for row in rows)]) for at, head in enumerate(RUNBOOK_HEAD[:-1])
    )
    room = max(ABOUT_MIN, width_of(screen) - taken_up)
    return [(*row, clean(book["about"] or "-", room)) for row, book in zip(rows, books, strict=True)]


def warnings(books: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What of the runbooks somebody should look after, and how."""
    for book in books:
        name = clean(book["name"], NAME_MAX)
        if readiness(book) == "not ready":
            for why in book["not_ready"][:WHYS_SHOWN]:
                yield f"{name} is not ready: {clean(why, LINE_MAX)}"
        if readiness(book) == "broken":
            yield f"{name} has mistakes: watchbill runbooks lint {name}"
        if book["breaker_open"]:
            yield f"{name} is not started by itself any more, its breaker is open: watchbill runbooks show {name}"


def readiness(book: dict[str, Any]) -> str:
    """In one word."""
    if any(one["severity"] == "error" for one in book["findings"]):
        return "broken"
    if book["ready"] is None:
        return "unknown"
    return "ready" if book["ready"] else "not ready"


def drilled(book: dict[str, Any]) -> str:
    """When it was rehearsed, how that went, and whether it is due."""
    overdue = (due := moment(book["drill_due"])) is not None and due < datetime.now(UTC)
    if book["last_drill"] is None:
        return "never, overdue" if overdue else "never"
    text = f"{book['last_drill_state'] or 'ended'}, {ago(book['last_drill'])} ago"
    return f"{text}, overdue" if overdue else text


def trigger(book: dict[str, Any]) -> str:
    """What starts it."""
    if not book["trigger"]:
        return "-"
    if book["breaker_open"]:
        return f"{book['trigger']} (breaker open)"
    return f"{book['trigger']} ({'auto' if book['automatic'] else 'proposes'})"


def runbook_lines(screen: Screen, book: dict[str, Any]) -> Iterator[str]:
    """The sheet of one runbook."""
    width = width_of(screen)
    accepted = (
        f"by {clean(book['accepted_by'])}, {ago(book['accepted'])} ago"
        if book["accepted_by"]
        else f"by nobody: it runs as a drill alone. watchbill runbooks accept {clean(book['name'])}"
    )
    p90 = book["recovery_p90_s"]
    recovery = f"wanted within {span(book['rto_s'])}" if book["rto_s"] else ""
    if p90 is not None:
        recovery += f"{', ' if recovery else ''}took {span(p90)} (p90)"
    checked = f", looked at {ago(book['preflight'])} ago" if book["preflight"] else ""
    looked = (
        ("runbook", clean(book["name"])),
        ("about", clean(book["about"], TEXT_MAX)),
        ("ready", screen.state(readiness(book)) + checked),
    )
    yield from sheet(looked, width)
    for why in book["not_ready"]:
        yield from prose(why, " " * 13 + "- ", 15, width)
    yield from sheet(
        (
            ("file", clean(book["file"], LINE_MAX)),
            ("digest", book["digest"]),
            ("accepted", accepted),
            ("recovery", recovery),
            ("data loss", f"wanted within {span(book['rpo_s'])}" if book["rpo_s"] else ""),
            ("trigger", clean(trigger(book), LINE_MAX) if book["trigger"] else ""),
            ("last drill", drilled(book)),
            ("next drill", clock(book["drill_due"]) if book["drill_due"] else ""),
            ("open runs", str(book["open_runs"]) if book["open_runs"] else ""),
        ),
        width,
    )
    if book["breaker_open"]:
        yield f"{'':13}watchbill runbooks reset-breaker {clean(book['name'])} --reason TEXT"


def finding_line(finding: dict[str, Any], file: str = "") -> str:
    """As compilers have it."""
    place = clean(file or finding["file"], LINE_MAX) + (f":{finding['line']}" if finding["line"] else "")
    where = f" {clean(finding['where'], LINE_MAX)}:" if finding["where"] else ""
    warning = " warning:" if finding["severity"] != "error" else ""
    return f"{place}:{warning}{where} {clean(finding['message'], TEXT_MAX)}"


# ---------------------------------------------------------------- plans


def plan_lines(screen: Screen, plan: dict[str, Any], book: dict[str, Any] | None) -> Iterator[str]:
    """Everything that would be done, exactly, and what stands in its way."""
    width = width_of(screen)
    steps = plan["steps"]
    acts = [one for one in steps if one["kind"] == "do" and one["effect"] != "read"]
    hosts = list(dict.fromkeys(one["host"] for one in acts if one["host"]))
    gates = [one for one in steps if one["kind"] == "approve"]
    commits = list(dict.fromkeys(one["step"] for one in steps if one["commit"]))
    values = " ".join(
        f"{clean(name)}={clean(shlex.quote(value))}" for name, value in plan["parameters"].items()
    )
    yield from sheet(
        (
            ("plan of", clean(plan["runbook"]) + (", a drill" if plan["drill"] else "")),
            ("changes", names(hosts) if hosts else "no host"),
            ("gates", ", ".join(_gate_words(one) for one in gates)),
            ("commit", ", ".join(clean(one) for one in commits)),
            ("lock", clean(plan["lock"], LINE_MAX)),
            ("parameters", values),
            ("digest", plan["digest"]),
            ("last drill", "" if book is None else drilled(book)),
        ),
        width,
    )
    yield ""
    yield from plan_steps(screen, steps)
    if plan["problems"]:
        yield ""
        yield screen.painted("It cannot be run:", "red")
        for problem in plan["problems"]:
            yield from prose(problem, "  - ", INDENT, width)


def _gate_words(step: dict[str, Any]) -> str:
    return f"{clean(step['step'])} ({step['approvals']} of {clean(step['role'])})"


def plan_steps(screen: Screen, steps: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Steps from top to bottom; the hosts of a step below it, together where they would do the same."""
    width = width_of(screen)
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for step in steps:
        grouped.setdefault((step["step"], step["kind"]), []).append(step)
    number = 0
    for (name, kind), rows in grouped.items():
        # An undo is no step of its own: it stands below the one that it would undo.
        number += kind != UNDO
        first = f"{'':7}" if kind == UNDO else f"{number:3} "
        yield from folded(_heading(screen, name, kind, rows), first, 9 if kind == UNDO else 7, width)
        same: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in rows:
            same.setdefault((*row["argv"], "\0", row["verdict"], row["detail"], row["seen"]), []).append(row)
        for group in list(same.values())[:HOSTS_SHOWN]:
            yield from _planned(screen, group, alone=len(same) == 1, width=width)
        if len(same) > HOSTS_SHOWN:
            yield f"       and {len(same) - HOSTS_SHOWN} more: --json shows all"
        if any(row["commit"] for row in rows):
            yield "       " + screen.painted(
                "POINT OF NO RETURN: from here on nothing is undone by itself", "yellow"
            )


def _heading(screen: Screen, name: str, kind: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    row = rows[0]
    words = [] if kind == UNDO else [f" {screen.painted(clean(name) + ':', 'bold')}"]
    if kind == "approve":
        gate = f"GATE: {row['approvals']} of {clean(row['role'])} have to agree"
        return [*words, screen.painted(gate, "yellow")]
    if row["action"]:
        hosts = [one["host"] for one in rows if one["host"]]
        doing = "" if kind == "do" else f"{clean(kind)}: "
        words += [f"{doing}{clean(row['action'])}", f"on {names(hosts)}" if hosts else "on no host"]
        if row["effect"]:
            words.append(f"({clean(row['effect'])}{', as ' + clean(row['run_as']) if row['run_as'] else ''})")
        if row["approvals"]:
            words[-1] += ","
            words.append(f"needs {row['approvals']} of {clean(row['role'])}")
        return words
    return [*words, clean(kind)]


def _planned(screen: Screen, group: Sequence[dict[str, Any]], *, alone: bool, width: int) -> Iterator[str]:
    row = group[0]
    place = "" if alone else f"{names([one['host'] for one in group])}: "
    if row["argv"]:
        yield from folded(command_line(row["argv"]), f"       {place}", 9, width)
    elif place:
        yield f"       {place.rstrip(' :')}"
    verdict = screen.state(row["verdict"]) if row["verdict"] else ""
    if row["detail"] or (verdict and not row["seen"]):
        yield from prose(row["detail"], f"       {verdict}", 7, width)
    if row["seen"]:
        yield from prose(row["seen"], f"       {verdict or 'saw'}:", 9, width, LINE_MAX)


# ---------------------------------------------------------------- runs


RUN_HEAD: Final = ("RUN", "RUNBOOK", "STATE", "BEGAN", "BY", "TOOK", "WHERE IT STANDS", "REASON")


def run_row(run: dict[str, Any]) -> tuple[str, ...]:
    """One run in the list."""
    return (
        run["id"],
        run["runbook"] + (" (drill)" if run["drill"] else ""),
        run["state"],
        clock(run["created"]),
        run["requester"] or "-",
        taken(run),
        run["state_detail"] or "-",
        run["reason"] or "-",
    )


def taken(run: dict[str, Any]) -> str:
    """How long it took, or has taken."""
    begun = moment(run["started"] or run["created"])
    ended = moment(run["ended"]) or datetime.now(UTC)
    return "-" if begun is None else span(max(0.0, (ended - begun).total_seconds()))


def recovery(run: dict[str, Any]) -> str:
    """The clock of the recovery against its objective."""
    if run["recovery_s"] is not None:
        text = f"took {span(run['recovery_s'])}"
        late = run["rto_s"] and run["recovery_s"] > run["rto_s"]
    elif run["ended"] is None and run["started"]:
        passed = (datetime.now(UTC) - (moment(run["created"]) or datetime.now(UTC))).total_seconds()
        text = f"{span(max(0.0, passed))} so far"
        late = run["rto_s"] and passed > run["rto_s"]
    else:
        return ""
    return text + (f" of {span(run['rto_s'])}" if run["rto_s"] else "") + (", too late" if late else "")


def run_lines(screen: Screen, run: dict[str, Any], *, everything: bool = False) -> Iterator[str]:
    """The sheet of one run, its steps, and what to type next."""
    width = width_of(screen)
    values = " ".join(
        f"{clean(name)}={clean(shlex.quote(value))}" for name, value in run["parameters"].items()
    )
    yield from sheet(
        (
            ("run", f"{clean(run['id'])} of {clean(run['runbook'])}" + (", a drill" if run["drill"] else "")),
            (
                "state",
                " ".join(
                    part
                    for part in (screen.state(run["state"]), clean(run["state_detail"], TEXT_MAX))
                    if part
                ),
            ),
            ("asked by", f"{clean(run['requester'])} at {clock(run['created'])}"),
            ("reason", clean(run["reason"], TEXT_MAX)),
            ("trigger", clean(run["trigger"], LINE_MAX)),
            ("parameters", values),
            ("lock", clean(run["lock"], LINE_MAX)),
            ("recovery", recovery(run)),
            ("digest", run["digest"]),
        ),
        width,
    )
    yield ""
    longest = max([8, *(len(clean(step["id"])) for step in run["steps"])])
    for step in run["steps"]:
        yield from step_lines(screen, step, min(longest, 24), width, everything=everything)
    hints = list(next_lines(run))
    if hints:
        yield ""
        yield from hints


def step_lines(
    screen: Screen, step: dict[str, Any], longest: int, width: int, *, everything: bool = False
) -> Iterator[str]:
    """One step, its votes, and its attempts where they say more than that it went well."""
    state = screen.painted(f"{step['state']:8}", _colour(step["state"]))
    head = f"  {state} {clean(step['id']):{longest}} "
    yield from prose(step_words(step), head, 11, width)
    inner = " " * 11
    for vote in step["votes"]:
        counted = "" if vote["counted"] else f", not counted: {clean(vote['why_not'], LINE_MAX)}"
        said = "agreed" if vote["approve"] else "said no"
        comment = f": {clean(vote['comment'], LINE_MAX)}" if vote["comment"] else ""
        yield from folded(
            f"{clean(vote['person'])} {said} at {clock(vote['at'])}{counted}{comment}".split(" "),
            inner,
            13,
            width,
        )
    for attempt in step["attempts"]:
        if everything or attempt["outcome"] not in ("ok", "") or attempt["state"] == "unknown":
            yield from attempt_lines(attempt, width, everything=everything)


def _colour(state: str) -> str:
    from watchbill_collector.cli.screen import STATE_COLOURS

    # A step whose turn has not come is nothing to look at; an alert that is pending is.
    return "dim" if state == "pending" else STATE_COLOURS.get(state, "")


def step_words(step: dict[str, Any]) -> str:
    """What a step is and how it stands, in one line."""
    parts = []
    if step["kind"] == "approve":
        agreed = sum(1 for vote in step["votes"] if vote["approve"] and vote["counted"])
        parts.append(f"{agreed} of {step['needed']} of {step['role']} have agreed")
        if step["state"] == ASKS and step["gate_expires"]:
            parts.append(f"until {clock(step['gate_expires'])}")
    hosts = list(dict.fromkeys(one["host"] for one in step["attempts"] if one["host"]))
    if hosts:
        parts.append(f"on {names(hosts)}")
    begun, ended = moment(step["started"]), moment(step["ended"])
    if begun is not None and ended is not None and step["attempts"]:
        parts.append(f"in {span((ended - begun).total_seconds())}")
    if step["detail"] and not (step["kind"] == "approve" and step["state"] == "ok"):
        parts.append(step["detail"])  # Of a gate that opened: who agreed, which stands below it.
    return ", ".join(parts) or (step["kind"] if step["state"] == "pending" else "")


def attempt_lines(attempt: dict[str, Any], width: int, *, everything: bool) -> Iterator[str]:
    """What was run on one host and what came of it."""
    inner = " " * 11
    ended = attempt["outcome"] or attempt["state"]
    code = "" if attempt["exit_code"] is None else f", code {attempt['exit_code']}"
    number = f", attempt {attempt['attempt']}" if attempt["attempt"] > 1 else ""
    why = f": {clean(attempt['detail'], TEXT_MAX)}" if attempt["detail"] else ""
    purpose = f"{clean(attempt['purpose'])} " if attempt["purpose"] not in ("", "step") else ""
    told = f"{purpose}{clean(attempt['host'])}: {clean(ended)}{code}{number}{why}"
    yield from folded(told.split(" "), inner, 13, width)
    if attempt["argv"]:
        yield from folded(command_line(attempt["argv"]), f"{inner}  ", 15, width)
    for text in (attempt["output"], attempt["errors"]):
        lines = text.splitlines()
        kept = lines if everything else lines[-OUTPUT_LINES:]
        if len(kept) < len(lines):
            yield f"{inner}  | ... {len(lines) - len(kept)} lines before these: --output shows all"
        for line in kept:
            yield f"{inner}  | {clean(line, LINE_MAX)}"


def next_lines(run: dict[str, Any]) -> Iterator[str]:
    """What a person can type now."""
    run_id, state = clean(run["id"]), run["state"]
    gates = [step for step in run["steps"] if step["kind"] == "approve" and step["state"] == ASKS]
    for gate in gates:
        yield f"To agree: watchbill approve {run_id} {clean(gate['id'])}    (not by {clean(run['requester'])})"
    if state == "held":
        yield f"To go on: watchbill runs retry|skip|mark-done {run_id} --reason TEXT"
        yield f"To end it: watchbill runs undo|abort {run_id} --reason TEXT"
    elif state == "proposed":
        yield f"To begin: watchbill runs start {run_id} --reason TEXT"
    elif state in ("queued", "running", "undoing", "cancelling") or (state == "waiting" and not gates):
        yield f"To watch: watchbill runs follow {run_id}"


JOURNAL_HEAD: Final = ("#", "WHEN", "WHAT", "STEP", "HOST", "WHO", "DETAIL")


NOISE: Final = frozenset(
    {
        "agent",
        "boot",
        "covers",
        "digest",
        "host_ms",
        "hosts",
        "key",
        "ledger",
        "manifest",
        "phase",
        "signed",
        "targets",
    }
)
"""Of a row's detail: for programs, which read --json."""


def journal_rows(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The journal, row by row. What came of a command is told by its key alone: its intent says where it belongs."""
    places: dict[object, tuple[str, str]] = {}
    for row in rows:
        key, step, host = row["detail"].get("key"), row["step"], row["host"]
        if key is not None and step:
            places[key] = (step, host)
        elif key is not None and not step:
            step, host = places.get(key, ("", host))
        when = datetime.fromisoformat(row["at"]).astimezone()
        told = {name: value for name, value in row["detail"].items() if name not in NOISE}
        yield (
            str(row["n"]),
            when.strftime("%Y-%m-%d %H:%M:%S"),
            row["kind"],
            step or "-",
            host or "-",
            row["actor"] or "-",
            " ".join(f"{name}={_value(value)}" for name, value in told.items()) or "-",
        )


def _value(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)
