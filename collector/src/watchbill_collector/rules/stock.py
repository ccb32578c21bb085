"""The stock pack: rule files that come with the collector, for hosts as they are.

They are plain rule files under `stock/`, loaded unless the configuration says otherwise. `watchbill-collector rules
stock NAME` prints one, to be changed in `rules.d/`; `stock_off` names what to leave out: a file such as "network", or
a single alert such as "HostRebooted".
"""

from collections.abc import Collection
from importlib import resources

from watchbill_collector.rules.files import Source
from watchbill_collector.yamltree import Listing, Mapping, Scalar, Tree, parse

PREFIX = "stock/"
SUFFIX = ".yml"


def stock_files() -> dict[str, Source]:
    """The files of the pack by their names, such as "host"; their sources are named `stock/NAME.yml`."""
    folder = resources.files(__package__).joinpath("stock")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIX))
    return {
        name.removesuffix(SUFFIX): Source(PREFIX + name, folder.joinpath(name).read_bytes()) for name in names
    }


def stock_sources(off: Collection[str] = ()) -> list[Source]:
    """The files of the pack without those, and without the alerts, that are named in `off`."""
    return [_without(source, off) for name, source in stock_files().items() if name not in off]


def stock_names(source: Source) -> list[str]:
    """The alerts and recordings of one file, in their order, each once."""
    return list(dict.fromkeys(name for name, _, _ in _rules(source)))


def unknown_stock(off: Collection[str]) -> list[str]:
    """What `off` names and the pack has not: a misspelt name would leave on what was meant to be off."""
    files = stock_files()
    known = {*files, *(name for source in files.values() for name in stock_names(source))}
    return [name for name in off if name not in known]


def _without(source: Source, off: Collection[str]) -> Source:
    """The file with the lines of some rules blank, so that the others keep their numbers."""
    lines = source.content.decode().split("\n")
    for name, first, last in _rules(source):
        if name in off:
            lines[first - 1 : last] = [""] * (last - first + 1)
    return Source(source.file, "\n".join(lines).encode())


def _rules(source: Source) -> list[tuple[str, int, int]]:
    """Name, first and last line of every rule. The pack's own layout: a rule begins with its name, on its own line."""
    lines = source.content.decode().split("\n")
    starts = [
        (name.text, name.line)
        for group in _items(_values(parse(source.file, source.content), "groups"))
        for rule in _items(_values(group, "rules"))
        for name in (*_values(rule, "alert"), *_values(rule, "record"))
        if isinstance(name, Scalar)
    ]
    found = []
    for number, (name, first) in enumerate(starts):
        last = starts[number + 1][1] - 1 if number + 1 < len(starts) else len(lines)
        found.append((name, first, last))
    return found


def _values(tree: Tree | None, key: str) -> list[Tree]:
    if not isinstance(tree, Mapping):
        return []
    return [value for name, value in tree.pairs if isinstance(name, Scalar) and name.text == key]


def _items(trees: list[Tree]) -> list[Tree]:
    return [item for tree in trees if isinstance(tree, Listing) for item in tree.items]
