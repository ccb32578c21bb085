"""Fixtures of the acceptance tests: a house of real processes, empty or with a collector and one host."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAME = "watchbill_acceptance_house"


def _loaded() -> ModuleType:
    """`house.py` beside this file: test folders are no packages, so it cannot be imported by name."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("house.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def until() -> Any:
    """Wait for a condition; see house.py."""
    return _loaded().until


@pytest.fixture(scope="session")
def house_type() -> Any:
    """For a house that lasts as long as its test wants."""
    return _loaded().House


@pytest.fixture(scope="session")
def free_ports() -> Any:
    """Ports that nobody has; see house.py."""
    return _loaded().free_ports


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an initialised collector is kept, to be copied."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def house(template: Path) -> Iterator[Any]:
    """An empty house for one test."""
    made = _loaded().House(template)
    yield made
    made.close()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """CPU load of our own, and the /proc that shows it; see house.py."""
    made = _loaded().Load(tmp_path_factory.mktemp("load"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_house(template: Path) -> Iterator[Any]:
    """An empty house for the tests of one file."""
    made = _loaded().House(template)
    yield made
    made.close()
