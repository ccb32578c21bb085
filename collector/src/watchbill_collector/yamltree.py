"""YAML as a bounded tree that knows its lines.

The tree is built from the parser's events, without recursion and without guessing types: a scalar is the
text that stands there, so `severity: 1` and `on: yes` are the strings "1" and "yes", as Prometheus reads
them. An alias is the node it names, not a copy; what a document may blow up to is bounded where it is
walked (`yamlreading.py`).
"""

from dataclasses import dataclass, field

import yaml

from watchbill.errors import Problem

FILE_BYTES_MAX = 8 * 1024 * 1024
"""A file larger than this is a mistake: the public collections of rules have half a megabyte."""
NODES_MAX = 500_000
"""Nodes of one document, each alias counted as often as it is used."""
DEPTH_MAX = 32
"""Nesting of one document; a rule file has six levels, a runbook seven."""


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A piece of text. `null` is an empty plain scalar, `~` or `null`."""

    line: int
    text: str
    plain: bool

    @property
    def null(self) -> bool:
        """Whether YAML reads it as nothing."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A sequence."""

    line: int
    items: "list[Tree]" = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """A mapping, in the order written; keys may repeat until somebody complains."""

    line: int
    pairs: "list[tuple[Tree, Tree]]" = field(default_factory=list)


Tree = Scalar | Listing | Mapping


@dataclass(slots=True)
class _Open:
    node: Listing | Mapping
    anchor: str | None
    key: Tree | None = None


class BadDocument(Exception):
    """The text is no YAML document that we read; `problem` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


_YAML_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset(_YAML_TAG + kind for kind in ("str", "map", "seq"))
"""Tags that change nothing here; what others would make of a value is not worth knowing."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(file: str, content: bytes) -> Tree | None:
    """The document's tree; None if it is empty. Raises BadDocument."""
    if len(content) > FILE_BYTES_MAX:
        raise BadDocument(Problem(file, 0, "", f"{len(content)} bytes", f"at most {FILE_BYTES_MAX}"))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadDocument(
            Problem(file, line, "", f"byte 0x{content[error.start]:02x}", "UTF-8 text")
        ) from None
    try:
        return _Builder(file).build(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "; ".join(part for part in (error.context, error.problem) if part) or "something else"
        line = 0 if mark is None else mark.line + 1
        raise BadDocument(Problem(file, line, "", what, "YAML")) from None
    except yaml.YAMLError as error:
        raise BadDocument(Problem(file, 0, "", str(error).split("\n")[0], "YAML")) from None


class _Builder:
    def __init__(self, file: str) -> None:
        self._file = file
        self._anchors: dict[str, Tree] = {}
        self._open: list[_Open] = []
        self._root: Tree | None = None
        self._nodes = 0

    def build(self, text: str) -> Tree | None:
        documents = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._bad(event, "a second document", "one document a file")
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                done = self._open.pop()
                self._place(done.node, done.anchor)
        root = self._root
        return None if isinstance(root, Scalar) and root.null else root

    def _node(self, event: yaml.NodeEvent) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise self._bad(event, f"more than {NODES_MAX} nodes", "a smaller file")
        line = _line(event)
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _TAGS:
            raise self._bad(event, f"the tag {tag.replace(_YAML_TAG, '!!')}", "YAML without tags")
        if isinstance(event, yaml.AliasEvent):
            found = self._anchors.get(event.anchor or "")
            if found is None:
                raise self._bad(
                    event, f"the alias *{event.anchor}", "an alias of an anchor that stands before it"
                )
            self._place(found, None)
        elif isinstance(event, yaml.ScalarEvent):
            self._place(Scalar(line, event.value, event.implicit[0]), event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= DEPTH_MAX:
                raise self._bad(event, f"more than {DEPTH_MAX} levels of nesting", "a flatter file")
            listing = isinstance(event, yaml.SequenceStartEvent)
            self._open.append(_Open(Listing(line) if listing else Mapping(line), event.anchor))

    def _place(self, node: Tree, anchor: str | None) -> None:
        if anchor is not None:
            # Named when complete, so that nothing can contain itself.
            self._anchors[anchor] = node
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node, Listing):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            parent.node.pairs.append((parent.key, node))
            parent.key = None

    def _bad(self, event: yaml.NodeEvent | yaml.DocumentStartEvent, got: str, wanted: str) -> BadDocument:
        return BadDocument(Problem(self._file, _line(event), "", got, wanted))


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return 0 if mark is None else mark.line + 1


def kind(node: Tree) -> str:
    """What a node is, in words for an error."""
    if isinstance(node, Scalar):
        return "nothing" if node.null else f"{shown(node.text)}"
    return "a list" if isinstance(node, Listing) else "a mapping"


def shown(text: str) -> str:
    """Text for an error message, cut to what helps, with nothing in it that a terminal would obey."""
    one_line = printable(" ".join(text[:1_000].split()))
    return f'"{one_line[:80]}..."' if len(one_line) > 80 else f'"{one_line}"'


def printable(text: str) -> str:
    """Text with nothing in it that a terminal would obey, or that would turn it round."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
