"""Values with `{{expression}}` in them: one expression that is the whole value, or text with several in it."""

import re
from collections.abc import Iterator
from typing import Final

from watchbill_collector.runbooks.expression import (
    EXPRESSION_CHARACTERS_MAX,
    UNKNOWN,
    Expression,
    Facts,
    Scope,
    Unknown,
    Value,
)
from watchbill_collector.runbooks.expressions import NO_FACTS, BadExpression, evaluate, parse
from watchbill_collector.runbooks.model import Template

TEXT_CHARACTERS_MAX: Final = EXPRESSION_CHARACTERS_MAX
PIECES_MAX: Final = 32
_PLACE: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def parse_template(text: str, line: int = 0, *, joined: bool = False) -> Template:
    """A template. Only with `joined` may it be text with expressions in it. Raises BadExpression."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise BadExpression(1, 1, f"{len(text)} characters", f"at most {TEXT_CHARACTERS_MAX}")
    found = list(_PLACE.finditer(text))
    if len(found) > PIECES_MAX:
        raise BadExpression(1, 1, f"{len(found)} of {{{{...}}}}", f"at most {PIECES_MAX}")
    outside = _PLACE.sub("", text)
    if "{{" in outside or "}}" in outside:
        raise BadExpression(1, 1, ascii(text[:80]), 'a "{{" and its "}}"')
    if found and not joined and (len(found) > 1 or found[0].group() != text):
        raise BadExpression(
            1,
            1,
            ascii(text[:80]),
            "one {{...}} that is the whole value: there is no other templating",
        )
    return Template(text, tuple(_pieces(text, found, line)) or ("",), line)


def _pieces(text: str, found: list[re.Match[str]], line: int) -> Iterator[str | Expression]:
    at = 0
    for place in found:
        if place.start() > at:
            yield text[at : place.start()]
        yield parse(place[1].strip(), line)
        at = place.end()
    if at < len(text):
        yield text[at:]


def render(template: Template, scope: Scope, facts: Facts = NO_FACTS) -> Value:
    """What a template comes to: the value of its expression as it is, else text. UNKNOWN when a part of it is."""
    if template.expression is not None:
        return evaluate(template.expression, scope, facts)
    texts: list[str] = []
    for piece in template.pieces:
        value = piece if isinstance(piece, str) else evaluate(piece, scope, facts)
        if isinstance(value, Unknown):
            return UNKNOWN
        texts.append(plain(value))
    return "".join(texts)


def plain(value: Value) -> str:
    """A value as text for people and for joined templates."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Unknown():
            return "unknown"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case list():
            return "[" + ", ".join(plain(one) for one in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {plain(one)}" for key, one in value.items()) + "}"
        case _:
            return "nothing"
