"""Steps of a runbook from its YAML: six kinds, what each may say, and where each runs.

A step without an id is named by its position, such as `step-3`; nothing can refer to such a name, because in an
expression it would be a difference.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from watchbill.actions import bounds
from watchbill.actions.definition import NAME as ACTION_NAME
from watchbill.config import Duration, NotWanted, Selector
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp
from watchbill_collector.runbooks.expression import Expression
from watchbill_collector.runbooks.expression_parser import KEYWORDS, BadExpression, parse
from watchbill_collector.runbooks.model import (
    HOSTS_MAX,
    STEPS_MAX,
    Act,
    Call,
    Check,
    Gate,
    Notify,
    OnFail,
    Parallel,
    Step,
    Target,
    Template,
    What,
)
from watchbill_collector.runbooks.parameters import NAME
from watchbill_collector.runbooks.templates import parse_template
from watchbill_collector.yamlreading import TreeReading
from watchbill_collector.yamltree import Listing, Mapping, Scalar, Tree, kind, shown

SECONDS_MAX: Final = 366 * 86_400
"""Of any duration in a runbook."""
RETRIES_MAX: Final = 100
RETRY_DELAY_S_DEFAULT: Final = 5.0
TEXT_CHARACTERS_MAX: Final = 2_000

KINDS: Final = ("do", "check", "approve", "notify", "call", "parallel")
OF_ALL: Final = ("id", "when", "on_fail", "drill", "clock")
OF_KIND: Final = {
    "do": ("on", "with", "timeout", "retry", "undo", "commit"),
    "check": ("within", "hold"),
    "approve": ("count", "self", "timeout"),
    "notify": ("text",),
    "call": ("with", "timeout"),
    "parallel": ("timeout",),
}
"""What a step of each kind may say, beyond its own key and what all may."""
STEP_KEYS: Final = (*KINDS, *OF_ALL, *dict.fromkeys(key for keys in OF_KIND.values() for key in keys))
IN_PARALLEL: Final = ("do", "check", "notify")

_WAVE: Final = re.compile(r"(100|[1-9][0-9]?)%", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)


class StepReading(TreeReading):
    """A file whose steps are read."""

    def steps(self, node: Tree | None, around: Tree) -> tuple[Step, ...]:
        """The list under `steps`."""
        if node is None:
            self.bad(around, "steps", "no steps", "a list of steps")
            return ()
        items = list(self.items(node, "steps"))
        if not items:
            self.bad(node, "steps", "no steps", "a list of steps")
        self._left = STEPS_MAX
        made = [self._step(one, f"step-{number}", grouped=False) for number, one in enumerate(items, 1)]
        return tuple(one for one in made if one is not None)

    def act(self, node: Tree, at: str) -> Act | None:
        """An undo, a clean-up."""
        keys = self.mapping(node, at, ("do", "on", "with"))
        if keys is None:
            return None
        if "do" not in keys:
            self.bad(node, at, "no action", '"do" with the name of an action')
            return None
        return self._act(keys, node, at)

    def _step(self, node: Tree, position: str, *, grouped: bool) -> Step | None:
        if self._left == 0:
            self.bad(node, "steps", f"more than {STEPS_MAX} steps", f"at most {STEPS_MAX}")
        self._left -= 1
        if self._left < 0:
            return None
        at = _known_as(node) or position
        keys = self.mapping(node, at, STEP_KEYS)
        if keys is None:
            return None
        kinds = [one for one in KINDS if one in keys]
        if len(kinds) != 1:
            got = "no kind of step" if not kinds else " and ".join(kinds)
            self.bad(node, at, got, "exactly one of " + ", ".join(KINDS))
            return None
        what = self._what(kinds[0], keys, node, at, grouped=grouped)
        self._check_keys(kinds[0], keys, at)
        name = self.name(keys["id"], node, f"{at}.id", NAME, "a name") if "id" in keys else position
        if name in KEYWORDS:
            self.bad(node, f"{at}.id", shown(name), "a name that is no word of expressions")
        times, delay_s = self._retry(keys.get("retry"), f"{at}.retry")
        return (
            None
            if what is None
            else Step(
                id=name,
                what=what,
                when=self._expression(keys["when"], f"{at}.when") if "when" in keys else None,
                timeout_s=self.seconds(keys.get("timeout"), f"{at}.timeout"),
                retry_times=times,
                retry_delay_s=delay_s,
                undo=self.act(keys["undo"], f"{at}.undo") if "undo" in keys else None,
                on_fail=self.on_fail(keys.get("on_fail"), f"{at}.on_fail"),
                commit=self._truth(keys.get("commit"), f"{at}.commit"),
                drill=self._choice(keys.get("drill"), f"{at}.drill", ("run", "skip", "only")),
                clock_stop=self._choice(keys.get("clock"), f"{at}.clock", ("", "stop")) == "stop",
                line=node.line,
            )
        )

    def _check_keys(self, what: str, keys: dict[str, Tree], at: str) -> None:
        for key, node in keys.items():
            if key in KINDS or key in OF_ALL or key in OF_KIND[what]:
                continue
            fitting = [one for one, own in OF_KIND.items() if key in own]
            self.bad(node, f"{at}.{key}", f'"{key}" on a {what}', f"it on a {' or '.join(fitting)}")

    def _what(self, what: str, keys: dict[str, Tree], node: Tree, at: str, *, grouped: bool) -> What | None:
        if grouped and what not in IN_PARALLEL:
            self.bad(keys[what], f"{at}.{what}", f"{what} in a parallel group", ", ".join(IN_PARALLEL))
            return None
        match what:
            case "do":
                return self._act(keys, node, at)
            case "check":
                condition = self._expression(keys["check"], f"{at}.check")
                within_s = self.seconds(keys.get("within"), f"{at}.within")
                hold_s = self.seconds(keys.get("hold"), f"{at}.hold")
                return (
                    None
                    if condition is None
                    else Check(condition=condition, within_s=within_s, hold_s=hold_s)
                )
            case "approve":
                return Gate(
                    role=self.name(keys["approve"], node, f"{at}.approve", _WORD, "a role"),
                    count=self.whole(keys.get("count"), f"{at}.count", 1, bounds.APPROVALS_MAX) or 1,
                    own_vote=self._truth(keys.get("self"), f"{at}.self"),
                )
            case "notify":
                return Notify(
                    channel=self.name(keys["notify"], node, f"{at}.notify", _WORD, "a channel"),
                    text=self.template(keys.get("text"), f"{at}.text", joined=True),
                )
            case "call":
                return Call(
                    runbook=self.name(keys["call"], node, f"{at}.call", _WORD, "the name of a runbook"),
                    parameters=self._arguments(keys.get("with"), f"{at}.with"),
                )
            case _:
                return self._parallel(keys["parallel"], at)

    def _parallel(self, node: Tree, at: str) -> Parallel | None:
        items = list(self.items(node, f"{at}.parallel"))
        if not items:
            self.bad(node, f"{at}.parallel", "no steps", "a list of steps")
        made = [self._step(one, f"{at}-{number}", grouped=True) for number, one in enumerate(items, 1)]
        return Parallel(tuple(one for one in made if one is not None))

    # Actions and where they run.

    def _act(self, keys: dict[str, Tree], node: Tree, at: str) -> Act | None:
        action = self.name(keys["do"], node, f"{at}.do", ACTION_NAME, "the name of an action")
        arguments = self._arguments(keys.get("with"), f"{at}.with")
        if "on" not in keys:
            self.bad(node, at, "no host", '"on": a host, a list of hosts, or {select: ...}')
            return None
        target = self._target(keys["on"], f"{at}.on")
        if target is None:
            return None
        return Act(action=action, on=target, arguments=arguments, line=keys["do"].line)

    def _arguments(self, node: Tree | None, at: str) -> dict[str, Template]:
        pairs = {} if node is None else self.mapping(node, at, None) or {}
        if node is not None and len(pairs) > bounds.ARGUMENTS_MAX:
            self.bad(node, at, f"{len(pairs)} arguments", f"at most {bounds.ARGUMENTS_MAX}")
        made: dict[str, Template] = {}
        for name, one in list(pairs.items())[: bounds.ARGUMENTS_MAX]:
            if not NAME.fullmatch(name):
                self.bad(one, at, shown(name), f"the name of an argument: {_in_words(NAME)}")
            elif (template := self.template(one, f"{at}.{name}")) is not None:
                made[name] = template
        return made

    def _target(self, node: Tree, at: str) -> Target | None:
        if isinstance(node, Mapping) and any(isinstance(key, Scalar) for key, _ in node.pairs):
            return self._selected(node, at)
        nodes = list(self.items(node, at)) if isinstance(node, Listing) else [node]
        if not nodes or len(nodes) > HOSTS_MAX:
            self.bad(node, at, f"{len(nodes)} hosts", f"1 to {HOSTS_MAX}")
            return None
        found: list[Template] = []
        for one in nodes:
            host = self.template(one, at)
            if host is None:
                return None
            if host.expression is None and not _HOST.fullmatch(host.text):
                self.bad(one, at, shown(host.text), "the name of a host, or {select: ...}")
            found.append(host)
        return Target(hosts=tuple(found), line=node.line)

    def _selected(self, node: Tree, at: str) -> Target | None:
        keys = self.mapping(node, at, ("select", "wave", "max_failures"))
        if keys is None:
            return None
        if "select" not in keys:
            self.bad(node, at, "no selector", "a host, or {select: 'role=\"web\"'}")
            return None
        share, hosts = self._wave(keys.get("wave"), f"{at}.wave")
        return Target(
            select=self._selector(keys["select"], f"{at}.select"),
            wave_share=share,
            wave_hosts=hosts,
            max_failures=self.whole(keys.get("max_failures"), f"{at}.max_failures", 0, HOSTS_MAX),
            line=node.line,
        )

    def _selector(self, node: Tree, at: str) -> str:
        text = self.word(node, at)
        wanted = 'PromQL matchers, such as \'role="web",site=~"b.*"\''
        if "{{" in text:
            self.bad(node, at, "{{...}} in a selector", f"{wanted}, as they are: they decide who is asked")
            return text
        try:
            conditions = Selector.from_config(text).conditions
            matchers = [Matcher(one.name, MatchOp(one.op), one.value) for one in conditions]
            if not any(not one.matches("") for one in matchers):
                self.bad(node, at, shown(text), f"{wanted}: at least one that demands something")
        except NotWanted as error:
            self.bad(node, at, shown(text), str(error))
        except InvalidRegex as error:
            self.bad(node, at, str(error), "a regular expression in RE2 syntax")
        return text

    def _wave(self, node: Tree | None, at: str) -> tuple[float, int]:
        """A share of the hosts, or how many; all at once where nothing is said."""
        if node is None:
            return 1.0, 0
        text = self.word(node, at)
        match = _WAVE.fullmatch(text)
        if match:
            return int(match[1]) / 100, 0
        if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= HOSTS_MAX:
            return 1.0, int(text)
        self.bad(node, at, shown(text), f'a share such as "25%", or 1 to {HOSTS_MAX} hosts')
        return 1.0, 0

    def _retry(self, node: Tree | None, at: str) -> tuple[int, float]:
        keys = {} if node is None else self.mapping(node, at, ("times", "delay")) or {}
        if node is not None and keys and "times" not in keys:
            self.bad(node, at, "no times", "how many times more it is tried")
        delay_s = self.seconds(keys.get("delay"), f"{at}.delay") if "delay" in keys else RETRY_DELAY_S_DEFAULT
        times = self.whole(keys.get("times"), f"{at}.times", 1, RETRIES_MAX)
        return times, delay_s if times else 0.0

    # Values.

    def word(self, node: Tree | None, at: str) -> str:
        """Text; "" where nothing stands, or, with a complaint, no text."""
        if isinstance(node, Mapping) and node.pairs and isinstance(node.pairs[0][0], Mapping):
            # {{x}} without quotes is a mapping in a mapping, as YAML has it.
            self.bad(node, at, "{{...}} without quotes", 'quotes around it: "{{...}}"')
            return ""
        return "" if node is None else self.text(node, at) or ""

    def long_text(self, node: Tree | None, at: str, characters_max: int) -> str:
        """Text for people."""
        text = self.word(node, at)
        if node is not None and len(text) > characters_max:
            self.bad(node, at, f"{len(text)} characters", f"at most {characters_max}")
        return text

    def name(self, node: Tree | None, around: Tree, at: str, pattern: re.Pattern[str], what: str) -> str:
        """A name that has to be there."""
        if node is None:
            self.bad(around, at, "nothing", what)
            return ""
        before = self.complaints
        text = self.word(node, at)
        if not pattern.fullmatch(text) and self.complaints == before:
            got = shown(text) if text else kind(node)
            self.bad(node, at, got, f"{what}: {_in_words(pattern)}")
        return text

    def template(self, node: Tree | None, at: str, *, joined: bool = False) -> Template | None:
        """A value that may be an expression, or with `joined` hold some."""
        if node is None:
            return None
        before = self.complaints
        text = self.word(node, at)
        if self.complaints > before:
            return None
        try:
            return parse_template(text, node.line, joined=joined)
        except BadExpression as error:
            self._bad_expression(node, at, error)
            return None

    def _expression(self, node: Tree, at: str) -> Expression | None:
        before = self.complaints
        text = self.word(node, at)
        if self.complaints > before:
            return None
        try:
            return parse(text, node.line)
        except BadExpression as error:
            self._bad_expression(node, at, error)
            return None

    def _bad_expression(self, node: Tree, at: str, error: BadExpression) -> None:
        place = f" at character {error.column}" + (f" of its line {error.line}" if error.line > 1 else "")
        self.bad(node, at, error.got + place, error.wanted)

    def seconds(self, node: Tree | None, at: str) -> float:
        """A duration, 0 where nothing stands."""
        if node is None:
            return 0.0
        text = self.word(node, at)
        found = self.duration_of(text)
        if not 0 <= found <= SECONDS_MAX:
            self.bad(node, at, shown(text), 'a duration such as "30s", "5m" or "1h30m", at most 366d')
            return 0.0
        return found

    @staticmethod
    def duration_of(text: str) -> float:
        """Seconds, -1 for what is no duration."""
        try:
            return float(Duration.from_config(text))
        except (NotWanted, OverflowError):
            return -1.0

    def whole(self, node: Tree | None, at: str, least: int, most: int) -> int:
        """A whole number, 0 where nothing stands."""
        if node is None:
            return 0
        text = self.word(node, at)
        if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
            return int(text)
        self.bad(node, at, shown(text) if text else kind(node), f"a whole number from {least} to {most}")
        return 0

    def _truth(self, node: Tree | None, at: str) -> bool:
        return self._choice(node, at, ("false", "true")) == "true"

    def on_fail(self, node: Tree | None, at: str) -> OnFail | None:
        """What a failure does; None where nothing is said."""
        return None if node is None else OnFail(self._choice(node, at, tuple(OnFail)))

    def _choice(self, node: Tree | None, at: str, choices: Sequence[str]) -> str:
        """One of some words; the first where nothing stands, or, with a complaint, none of them."""
        if node is None:
            return choices[0]
        text = self.word(node, at)
        if text in choices and text:
            return text
        self.bad(
            node, at, shown(text) if text else kind(node), self._one_of([one for one in choices if one], text)
        )
        return choices[0]

    @staticmethod
    def _one_of(choices: Sequence[str], text: str) -> str:
        close = get_close_matches(text, choices, 1)
        if close:
            return f'"{close[0]}"?'
        return f"one of {', '.join(choices)}" if choices else "none: there are no parameters"


def _known_as(node: Tree) -> str:
    """The id of a step, by which its mistakes are told, because people know it; "" where there is none."""
    for key, value in node.pairs if isinstance(node, Mapping) else ():
        if isinstance(key, Scalar) and key.text == "id" and isinstance(value, Scalar):
            return value.text if NAME.fullmatch(value.text) else ""
    return ""


def _in_words(pattern: re.Pattern[str]) -> str:
    match pattern.pattern[:9]:
        case "[a-z][a-z":
            return "a letter, then letters, digits and _; in lower case"
        case "[a-z0-9][":
            return "letters, digits and . _ -; in lower case"
        case _:
            return "letters, digits and . _ -"
