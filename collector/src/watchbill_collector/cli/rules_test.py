"""`watchbill rules test` and `watchbill rules backtest`: files that the collector judges for us."""

from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.errors import FAILED, OK, USAGE, Misused
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.screen import clean, labels_text, span

FILE_BYTES_MAX = 900_000
"""All files of one command together: the collector takes no larger request."""
SERIES_SHOWN = 10
FIRINGS_SHOWN = 3
TEXT_CHARACTERS = 4_000


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@talks
def test(session: Session, files: tuple[Path, ...]) -> int:
    """Have the collector judge promtool's unit-test FILEs, with the rule files that they name.

    Ends with 0 when everything is as expected, 1 when something is not, 2 when a file cannot be used.
    """
    judged = [session.client.post("/rules/test", _order(file)) for file in files]
    code = OK if all(each["passed"] for each in judged) else FAILED
    if any(each["problems"] for each in judged):
        code = USAGE
    if session.as_json:
        session.screen.json({"passed": code == OK, "files": judged})
        return code
    for each in judged:
        _tell(session, each)
    return code


def _tell(session: Session, judged: dict[str, Any]) -> None:
    for text in judged["warnings"]:
        session.screen.line(f"warning: {clean(text, TEXT_CHARACTERS)}")
    for problem in judged["problems"]:
        session.screen.line(clean(problem["text"], TEXT_CHARACTERS))
    for failure in judged["failures"]:
        for line in failure["text"].split("\n"):
            session.screen.line(clean(line, TEXT_CHARACTERS))
    name, count = clean(judged["file"], 400), judged["expectations"]
    if judged["problems"]:
        session.screen.line(f"{name}: not judged")
    elif judged["failures"]:
        session.screen.line(f"{name}: {len(judged['failures'])} of {count} expectations failed")
    else:
        session.screen.line(f"{name}: {count} expectations in {judged['tests']} tests, all as expected")


def _order(file: Path) -> dict[str, Any]:
    text = read_text(file, "watchbill rules test FILE")
    left = FILE_BYTES_MAX - len(text.encode())
    found: dict[str, list[dict[str, str]]] = {}
    for pattern in _patterns(text):
        found[pattern] = []
        for path in _matching(file.parent, pattern):
            rules = read_text(path, "watchbill rules test FILE")
            left -= len(rules.encode())
            if left < 0:
                raise Misused(
                    f"{file} and its rule files have more than {FILE_BYTES_MAX} bytes",
                    f"watchbill-collector rules test {file}",
                )
            found[pattern].append({"name": str(path), "text": rules})
    return {"name": str(file), "text": text, "rule_files": found}


def _patterns(text: str) -> list[str]:
    """What `rule_files` says; nothing where the file is none that can be read: the collector says what is wrong."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    patterns = document.get("rule_files") if isinstance(document, dict) else None
    return [each for each in patterns if isinstance(each, str) and each] if isinstance(patterns, list) else []


def _matching(folder: Path, pattern: str) -> list[Path]:
    root = Path("/") if pattern.startswith("/") else folder
    try:
        return sorted(root.glob(pattern.strip("/")))
    except ValueError as exc:
        raise Misused(f"rule_files: {pattern[:80]!r} is no pattern of files: {exc}") from exc


def read_text(file: Path, hint: str) -> str:
    """A file's text, or standard input's for `-`. Raises Misused with `hint` as the next thing to type."""
    import sys

    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(file, "rb") as opened:
                content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise Misused(f"{file} has more than {FILE_BYTES_MAX} bytes", "split it")
        return content.decode("utf-8")
    except OSError as exc:
        raise Misused(f"{file}: {(exc.strerror or str(exc)).lower()}", hint) from exc
    except UnicodeDecodeError as exc:
        raise Misused(f"{file} is not UTF-8: {exc.reason} at byte {exc.start}") from exc


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--expr", metavar="EXPR", help="One expression, instead of a file.")
@click.option("--for", "for_", metavar="DURATION", help="How long the expression has to hold.")
@click.option(
    "--keep-firing-for", "keep", metavar="DURATION", help="How long it is kept when it no longer holds."
)
@click.option(
    "--since", metavar="DURATION", default="7d", show_default=True, help="From so long ago until now."
)
@click.option(
    "--step", metavar="DURATION", help="How often it is judged; as often as its group says without it."
)
@talks
def backtest(
    session: Session,
    file: Path | None,
    expr: str | None,
    for_: str | None,
    keep: str | None,
    since: str,
    step: str | None,
) -> int:
    """Try the rules of FILE on what the collector has seen: when would they have fired, and how often?

    \b
    watchbill rules backtest disk.yml --since 30d
    watchbill rules backtest --expr 'node_load1 > 4' --for 5m
    """
    if (file is None) == (expr is None):
        raise Misused("give either FILE or --expr", "watchbill rules backtest FILE --since 7d")
    if file is not None and (for_ or keep):
        raise Misused("--for and --keep-firing-for belong to --expr: FILE says its own")
    order: dict[str, Any] = {"since_s": seconds(since)}
    if file is not None:
        order |= {"name": str(file), "text": read_text(file, "watchbill rules backtest FILE")}
    else:
        order |= {"expr": expr, "for_s": seconds(for_ or "0"), "keep_firing_for_s": seconds(keep or "0")}
    if step is not None:
        order["step_s"] = seconds(step)
    document = session.client.post("/rules/backtest", order)
    failed = any(rule["error"] for rule in document["rules"])
    if session.as_json:
        session.screen.json(document)
        return FAILED if failed else OK
    if not document["rules"]:
        session.screen.line("There is no alerting rule to try.")
    for rule in document["rules"]:
        _tell_tried(session, rule, document["end"])
    return FAILED if failed else OK


def _tell_tried(session: Session, rule: dict[str, Any], end: float) -> None:
    line = session.screen.line
    if rule["error"]:
        line(f"{clean(rule['rule'])}: {clean(rule['error'], TEXT_CHARACTERS)}")
        return
    line(f"{clean(rule['rule'])}: {_sentence(rule)}")
    for note in rule["notes"]:
        line(f"  note: {clean(note, 400)}")
    for other in rule["notices_by_keep_firing_for"]:
        kept = span(other["keep_firing_for_s"])
        line(f"  with keep_firing_for: {kept} it would have been {other['notices']}")
    shown = [series for series in rule["series"] if series["notices"] or series["pending_s"]]
    for series in shown[:SERIES_SHOWN]:
        labels = {name: text for name, text in series["labels"].items() if name != "alertname"}
        firings = [_firing(each, end) for each in series["firings"][-FIRINGS_SHOWN:]]
        more = series["notices"] - len(firings)
        told = ", ".join(firings) + (f", and {more} before" if more > 0 else "")
        line(
            f"  {clean(labels_text(labels), 400)}: {told or 'pending ' + span(series['pending_s']) + ', never fired'}"
        )
    if len(shown) > SERIES_SHOWN:
        line(f"  and {len(shown) - SERIES_SHOWN} more series: --json has them")


def _sentence(rule: dict[str, Any]) -> str:
    if not rule["notices"]:
        return (
            f"would not have fired; {rule['alerts']} series were pending" if rule["alerts"] else "never held"
        )
    parts = [
        f"{rule['notices']} notices from {rule['alerts']} series",
        f"longest {span(rule['longest_s'])}",
        f"{rule['short']} over within 5m",
        f"{rule['flaps']} came back within 10m",
    ]
    if rule["still_firing"]:
        parts.append(f"{rule['still_firing']} firing now")
    return ", ".join(parts)


def _firing(firing: dict[str, Any], end: float) -> str:
    from datetime import UTC, datetime

    begin = datetime.fromtimestamp(firing["from"], UTC).strftime("%Y-%m-%d %H:%M")
    if firing["to"] is None:
        return f"{begin} for {span(end - firing['from'])} and still"
    return f"{begin} for {span(firing['to'] - firing['from'])}"
