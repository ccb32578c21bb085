"""What is wanted of an answer over HTTP: its status, headers and body, as a file says it and as it is judged.

A rule that decides against an answer says what was got and what is wanted, and of a body no more than its length.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from watchbill.config import NotWanted, option
from watchbill.config.convert import show_value
from watchbill_agent.checks import regex
from watchbill_agent.checks.httpwire import Answer
from watchbill_agent.checks.jsonpath import WANTED, Condition, NoCondition, read_condition
from watchbill_agent.checks.probing import Findings, shown
from watchbill_agent.checks.regex import Regex
from watchbill_agent.names import WrongOption

RULES_MAX: Final = 64
"""Of each sort in one check."""

_STATUSES = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Statuses:
    """One status or some in a row, written 200, "200", "200-204" or "2xx"."""

    first: int
    last: int

    @classmethod
    def from_config(cls, value: object) -> "Statuses":
        """Read it from a file."""
        text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
        match = _STATUSES.fullmatch(text)
        if match is None or (match[3] and match[3] < match[2]):
            raise NotWanted('"2xx", 200 or "200-204"')
        if match[1]:
            return cls(int(match[1]) * 100, int(match[1]) * 100 + 99)
        return cls(int(match[2]), int(match[3] or match[2]))

    def to_config(self) -> str:
        """The shortest spelling."""
        if self.first == self.last:
            return str(self.first)
        whole = self.first % 100 == 0 and self.last == self.first + 99
        return f"{self.first // 100}xx" if whole else f"{self.first}-{self.last}"

    def __contains__(self, status: int) -> bool:
        return self.first <= status <= self.last


SUCCESS: Final = Statuses(200, 299)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRule:
    """A header and what it must say, or must not."""

    header: str = option(help="Its name.", example='"Content-Type"')
    regexp: str = option(help="What any of its values matches.", example='"^application/json"')
    allow_missing: bool = option(False, help="Whether an answer without it is well.")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a check, compiled; None for a pattern while RE2 is not installed."""

    statuses: tuple[Statuses, ...]
    bodies_not: tuple[Regex | None, ...]
    bodies: tuple[Regex | None, ...]
    headers_not: tuple[tuple[HeaderRule, Regex | None], ...]
    headers: tuple[tuple[HeaderRule, Regex | None], ...]
    json: tuple[Condition, ...]

    @property
    def wants_body(self) -> bool:
        """Whether a body has to be kept."""
        return bool(self.bodies or self.bodies_not or self.json)

    @property
    def complete(self) -> bool:
        """Whether all could be compiled; nothing is judged otherwise."""
        of_headers = (one for _, one in (*self.headers, *self.headers_not))
        return None not in (*self.bodies, *self.bodies_not, *of_headers)

    def judge(self, answer: Answer, body: bytes, findings: Findings) -> bool:
        """What is not as it is wanted; whether a pattern decided."""
        if not any(answer.status in statuses for statuses in self.statuses):
            wanted = ", ".join(statuses.to_config() for statuses in self.statuses)
            findings.fail("status-unexpected", f"got {answer.status}, wanted {wanted or 'none at all'}")
        before = len(findings.all)
        self._judge_headers(answer, findings)
        self._judge_body(body, findings)
        by_pattern = len(findings.all) > before
        self._judge_json(body, findings)
        return by_pattern

    def _judge_headers(self, answer: Answer, findings: Findings) -> None:
        for rules, unwanted in ((self.headers_not, True), (self.headers, False)):
            for rule, pattern in rules:
                assert pattern is not None, "complete"
                name = rule.header.lower().encode("latin-1", "replace")
                values = [value for key, value in answer.headers if key == name]
                if not values and rule.allow_missing:
                    continue
                found = any(pattern.found_in(value) for value in values)
                if found == unwanted or (not values and unwanted):
                    got = shown(values[0]) if values else "none"
                    word = "none that matches" if unwanted else "one that matches"
                    detail = f"{rule.header}: got {got}, wanted {word} {shown(rule.regexp)}"
                    findings.fail("header-unexpected", detail)

    def _judge_body(self, body: bytes, findings: Findings) -> None:
        for patterns, unwanted in ((self.bodies_not, True), (self.bodies, False)):
            for pattern in patterns:
                assert pattern is not None, "complete"
                if pattern.found_in(body) == unwanted:
                    word = "matches" if unwanted else "does not match"
                    detail = f"the body ({len(body)} bytes) {word} {shown(pattern.text)}"
                    findings.fail("body-unexpected", detail)

    def _judge_json(self, body: bytes, findings: Findings) -> None:
        if not self.json:
            return
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError) as exc:
            findings.fail("json-invalid", f"the body ({len(body)} bytes) is no JSON: {str(exc)[:100]}")
            return
        for condition in self.json:
            if why := condition.fault(document):
                findings.fail("json-unexpected", f"{condition.text[:120]}: {why}")


def header_rules(
    rules: Sequence[HeaderRule], check: str, key: str
) -> tuple[tuple[HeaderRule, Regex | None], ...]:
    """With their patterns. Raises WrongOption."""
    return tuple(
        (rule, regex.compiled(rule.regexp, check, f"{key}[{number}].regexp"))
        for number, rule in enumerate(rules)
    )


def conditions(texts: Sequence[str], check: str, key: str) -> tuple[Condition, ...]:
    """Those on JSON. Raises WrongOption."""
    found = []
    for number, text in enumerate(texts):
        try:
            found.append(read_condition(text))
        except NoCondition as exc:
            raise WrongOption(check, f"{key}[{number}]", f"{show_value(text)} ({exc})", WANTED) from exc
    return tuple(found)
