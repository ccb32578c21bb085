"""What a parameter takes, what it is worth in an expression, and the values of a run.

Values are given as text, by people, by an alert's labels, by a drill. A value is never read as a template or an
expression: what looks like one is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Final

from watchbill.actions import bounds
from watchbill.config import ByteSize, Duration, NotWanted
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp
from watchbill_collector.runbooks.expression import Known
from watchbill_collector.runbooks.model import Parameter, ParameterKind, Runbook

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
"""Of a parameter, and of a step that others refer to."""
MATCH_CHARACTERS_MAX: Final = 500
CHOICES_MAX: Final = bounds.CHOICES_MAX
NOW: Final = "now"
"""A time that is the one at which the run begins."""

_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}", re.ASCII)
_INT: Final = re.compile(r"-?[0-9]{1,15}", re.ASCII)
_NUMBERS: Final = frozenset({ParameterKind.INT, ParameterKind.SIZE, ParameterKind.DURATION})
Fault = tuple[str, str]
"""Got and wanted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The parameters of a run: `values` for expressions, `texts` for people, `problems` by the name of a parameter;
    `now` is the moment that they are of, if that was said."""

    values: Mapping[str, Known] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    now: datetime | None = None


def judge_parameters(
    runbook: Runbook, given: Mapping[str, str], now: datetime | None = None, *, drill: bool = False
) -> Judged:
    """The values of a run: what was given, in a drill what that says, else the default.

    `now` is what a time of "now" comes to; without it "now" stays what it is. A problem for each value that is missing,
    wrong or for no parameter.
    """
    rehearsed = runbook.drill.parameters if drill and runbook.drill is not None else {}
    known = [one.name for one in runbook.parameters]
    values: dict[str, Known] = {}
    texts: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            wanted = f"{close[0]}?" if close else f"one of {', '.join(known)}" if known else "none"
            problems[name] = f"{runbook.name} has no such parameter, wanted {wanted}"
    for one in runbook.parameters:
        text = given.get(one.name, rehearsed.get(one.name, one.default))
        if text is None:
            problems[one.name] = f"not given, wanted {wanted_of(one)}"
            continue
        value, fault = read_value(one, text)
        if fault is not None:
            problems[one.name] = f"got {fault[0]}, wanted {fault[1]}"
            continue
        if is_now(one, text) and now is not None:
            value = text = written(now)
        values[one.name], texts[one.name] = value, text
    return Judged(values, texts, problems, now)


def is_now(parameter: Parameter, text: str) -> bool:
    """Whether it is another time in each run."""
    return parameter.kind is ParameterKind.TIME and text == NOW


def written(moment: datetime) -> str:
    """A time as parameters have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parameters_of_alert(runbook: Runbook, labels: Mapping[str, str]) -> dict[str, str]:
    """What an alert says about parameters that have no default: its label of the same name, and for the first host
    without one the host that the alert is about."""
    found: dict[str, str] = {}
    instance = labels.get("instance", "")
    for one in runbook.parameters:
        if one.default is not None:
            continue
        if labels.get(one.name):
            found[one.name] = labels[one.name]
        elif one.kind is ParameterKind.HOST and instance:
            found[one.name] = instance
            instance = ""
    return found


def read_value(parameter: Parameter, text: str) -> tuple[Known, Fault | None]:
    """The value of a text, or what is wrong with it."""
    shown = ascii(text[:80])
    if "{{" in text or "}}" in text:
        return None, (shown, "a plain value: no {{...}}")
    if not text or len(text) > bounds.ARGUMENT_CHARACTERS_MAX:
        return None, (f"{len(text)} characters", f"1 to {bounds.ARGUMENT_CHARACTERS_MAX}")
    if not text.isascii() or not text.isprintable():
        return None, (shown, "printable ASCII")
    if parameter.kind in _NUMBERS:
        return _number(parameter, text)
    if text.startswith("-"):
        return None, (shown, 'no "-" at its beginning')
    if not _fits(parameter, text):
        return None, (shown, wanted_of(parameter))
    if parameter.match and not _pattern(parameter).matches(text):
        return None, (shown, f"all of it to match {parameter.match}")
    return text, None


def wanted_of(parameter: Parameter) -> str:
    """What a parameter takes, in words."""
    match parameter.kind:
        case ParameterKind.HOST:
            return "the name of a host"
        case ParameterKind.NAME:
            return "letters, digits and . _ @ : + -"
        case ParameterKind.STRING:
            return "text"
        case ParameterKind.INT:
            return "a whole number"
        case ParameterKind.SIZE:
            return 'a size with its unit, such as "16MiB"'
        case ParameterKind.DURATION:
            return 'a duration with its unit, such as "5m"'
        case ParameterKind.PATH:
            return 'a path without "..", "." and "//"'
        case ParameterKind.ENUM:
            return "one of " + ", ".join(parameter.choices)
        case ParameterKind.BACKUP:
            return "the name of a backup job"
        case ParameterKind.TIME:
            return 'a time such as "2026-03-01T12:00:00Z", or "now"'


def parameter_fault(parameter: Parameter) -> tuple[str, str, str] | None:
    """What is wrong with how a parameter is declared: key, got and wanted."""
    if (parameter.kind is ParameterKind.ENUM) != bool(parameter.choices):
        got = "no choices" if parameter.kind is ParameterKind.ENUM else f"choices for a {parameter.kind}"
        return "enum", got, "a list of choices for type enum, and for no other"
    if len(parameter.choices) > CHOICES_MAX or len(set(parameter.choices)) < len(parameter.choices):
        return "enum", f"{len(parameter.choices)} choices", f"at most {CHOICES_MAX}, each once"
    if parameter.match:
        if parameter.kind in _NUMBERS:
            return "match", f"a pattern for a {parameter.kind}", "min and max for numbers"
        if len(parameter.match) > MATCH_CHARACTERS_MAX:
            return "match", f"{len(parameter.match)} characters", f"at most {MATCH_CHARACTERS_MAX}"
        try:
            _pattern(parameter).check()
        except InvalidRegex as error:
            return "match", ascii(parameter.match[:80]), f"a regular expression in RE2 syntax: {error.reason}"
    for key, text in (("min", parameter.least), ("max", parameter.most)):
        if not text:
            continue
        if parameter.kind not in _NUMBERS:
            return key, f"a bound for a {parameter.kind}", "match for texts"
        if _parsed(parameter.kind, text) is None:
            return key, ascii(text[:80]), wanted_of(parameter)
    if parameter.default is not None:
        _, fault = read_value(parameter, parameter.default)
        if fault is not None:
            return "default", *fault
    return None


def _number(parameter: Parameter, text: str) -> tuple[Known, Fault | None]:
    value = _parsed(parameter.kind, text)
    if value is None:
        return None, (ascii(text[:80]), wanted_of(parameter))
    least = _parsed(parameter.kind, parameter.least) if parameter.least else None
    most = _parsed(parameter.kind, parameter.most) if parameter.most else None
    if (least is not None and value < least) or (most is not None and value > most):
        bounds_said = " and ".join(
            f"{word} {bound}"
            for word, bound in (("at least", parameter.least), ("at most", parameter.most))
            if bound
        )
        return None, (text, bounds_said)
    return value, None


def _parsed(kind: ParameterKind, text: str) -> int | float | None:
    """A number's text; None when it is none. Durations are seconds, sizes bytes."""
    try:
        match kind:
            case ParameterKind.INT:
                return int(text) if _INT.fullmatch(text) else None
            case ParameterKind.SIZE:
                return int(ByteSize.from_config(text))
            case _:
                seconds = float(Duration.from_config(text))
                return int(seconds) if seconds == int(seconds) else seconds
    except (NotWanted, OverflowError):
        return None


def _fits(parameter: Parameter, text: str) -> bool:
    match parameter.kind:
        case ParameterKind.HOST:
            return _HOST.fullmatch(text) is not None
        case ParameterKind.NAME | ParameterKind.BACKUP:
            return _PLAIN.fullmatch(text) is not None
        case ParameterKind.ENUM:
            return text in parameter.choices
        case ParameterKind.PATH:
            parts = text.removeprefix("/").split("/")
            return not any(part in ("", ".", "..") for part in parts)
        case ParameterKind.TIME:
            return text == NOW or _time(text)
        case _:
            return True


def _time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _pattern(parameter: Parameter) -> Matcher:
    """RE2: no pattern takes long, whatever it says."""
    return Matcher("", MatchOp.REGEX, parameter.match)
