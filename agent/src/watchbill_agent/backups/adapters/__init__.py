"""Backup adapters, one file each (`..adapter` says what one is). A file here is found by being here.

Only short-lived processes import them: the child that looks at a repository, `check-config`, `backup wrap`.
"""

import importlib
import pkgutil

from watchbill_agent.backups.adapter import Adapter


def names() -> tuple[str, ...]:
    """The tools that there are adapters for, sorted; imports none."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> type[Adapter] | None:
    """The adapter of this tool, and no other; None if there is none."""
    if name not in names():
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    for thing in vars(module).values():
        if isinstance(thing, type) and issubclass(thing, Adapter) and thing.__module__ == module.__name__:
            assert thing.name == name, f"{thing.name} is in the file {name}.py"
            return thing
    raise AssertionError(f"adapters/{name}.py holds no adapter")


def discover() -> dict[str, type[Adapter]]:
    """Every adapter by name, sorted."""
    found = {name: find(name) for name in names()}
    return {name: kind for name, kind in found.items() if kind is not None}
