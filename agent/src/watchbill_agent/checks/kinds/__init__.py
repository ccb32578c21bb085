"""The kinds of checks, one file each (`..check` says what one is). A file here is found by being here."""

import importlib
import pkgutil
from typing import cast

from watchbill_agent.checks.check import Check


def names() -> tuple[str, ...]:
    """The kinds that there are, sorted; imports none."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> type[Check] | None:
    """This kind, and no other is imported; None if there is none."""
    if name not in names():
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    for thing in vars(module).values():
        own = isinstance(thing, type) and issubclass(thing, Check) and thing.__module__ == module.__name__
        if own and getattr(thing, "kind", None) == name:
            return cast("type[Check]", thing)
    raise AssertionError(f"kinds/{name}.py holds no check of that kind")


def discover() -> dict[str, type[Check]]:
    """Every kind by name, sorted."""
    found = {name: find(name) for name in names()}
    return {name: kind for name, kind in found.items() if kind is not None}
