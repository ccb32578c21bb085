"""What an expression is made of, and how it is written.

Chains are flat (`a and b and c` is one node with three parts), so that a tree is as deep as its parentheses and no
deeper. `written` spells a tree so that it is read back as the same one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that stands there: `text` is how it was written (`16MiB`), for numbers."""

    value: str | int | float | bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A parameter or a step."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """`.name`"""

    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """`[name]`: the part whose name, or number, an expression says."""

    of: "Node"


@dataclass(frozen=True, slots=True)
class Path:
    """A part of a value: `look.out.role`, `host(spare).app[app].healthy`."""

    base: "Node"
    steps: tuple[Field | Index, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A function of the facts: `metric(standby, "up")`."""

    function: str
    arguments: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """`not x`"""

    of: "Node"


@dataclass(frozen=True, slots=True)
class Minus:
    """`-x`"""

    of: "Node"


@dataclass(frozen=True, slots=True)
class All:
    """`a and b and c`"""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    """`a or b or c`"""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Compare:
    """`a <= b`; comparisons are not chained."""

    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Chain:
    """`a + b - c`, or `a * b / c`: from left to right. Its operators are all of one kind."""

    first: "Node"
    rest: "tuple[tuple[str, Node], ...]"


Node = Literal | Name | Path | Ask | Not | Minus | All | Some | Compare | Chain

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _MINUS, _PART = range(8)
"""How tightly each kind binds."""

_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


def written(node: Node) -> str:
    """The text that is read back as this tree."""
    return _written(node)[0]


def parts(node: Node) -> Iterator[Node]:
    """A node and everything in it."""
    yield node
    for one in _inner(node):
        yield from parts(one)


def uses(node: Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names in an expression, each with the fields that are taken of it, "[]" for what is computed; none where it
    is used as a whole."""
    if isinstance(node, Name):
        yield node.name, ()
        return
    inner = list(_inner(node))
    if isinstance(node, Path) and isinstance(node.base, Name):
        yield node.base.name, tuple(step.name if isinstance(step, Field) else "[]" for step in node.steps)
        inner = inner[1:]
    for one in inner:
        yield from uses(one)


def _inner(node: Node) -> Iterator[Node]:
    match node:
        case Path(base, steps):
            yield base
            yield from (step.of for step in steps if isinstance(step, Index))
        case Ask(_, arguments):
            yield from arguments
        case Not(of) | Minus(of):
            yield of
        case All(inner) | Some(inner):
            yield from inner
        case Compare(_, left, right):
            yield from (left, right)
        case Chain(first, rest):
            yield first
            yield from (one for _, one in rest)
        case _:
            pass


def _written(node: Node) -> tuple[str, int]:
    """The text, and how tightly it binds."""
    match node:
        case Literal(bool() as value):
            return ("true" if value else "false"), _PART
        case Literal(str() as value):
            return f'"{value.translate(_ESCAPED)}"', _PART
        case Literal(_, text):
            return text, _PART
        case Name(name):
            return name, _PART
        case Path(base, steps):
            # After a number a dot would belong to the number.
            number = isinstance(base, Literal) and base.text
            start = f"({written(base)})" if number else _inside(base, _PART)
            return start + "".join(_step(step) for step in steps), _PART
        case Ask(function, arguments):
            return f"{function}({', '.join(written(one) for one in arguments)})", _PART
        case Not(of):
            return f"not {_inside(of, _NOT)}", _NOT
        case Minus(of):
            return f"-{_inside(of, _MINUS)}", _MINUS
        case All(inner):
            return " and ".join(_inside(one, _AND + 1) for one in inner), _AND
        case Some(inner):
            return " or ".join(_inside(one, _OR + 1) for one in inner), _OR
        case Compare(operator, left, right):
            return f"{_inside(left, _SUM)} {operator} {_inside(right, _SUM)}", _COMPARE
        case Chain(first, rest):
            binds = _SUM if rest[0][0] in "+-" else _PRODUCT
            tail = "".join(f" {operator} {_inside(one, binds + 1)}" for operator, one in rest)
            return _inside(first, binds + 1) + tail, binds


def _step(step: Field | Index) -> str:
    return f".{step.name}" if isinstance(step, Field) else f"[{written(step.of)}]"


def _inside(node: Node, least: int) -> str:
    """A part, in parentheses where it binds less tightly than its place wants."""
    text, binds = _written(node)
    return text if binds >= least else f"({text})"
