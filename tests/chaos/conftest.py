"""Fixtures of the chaos tests: the same houses of real processes as the acceptance tests have."""

import importlib.util
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAME = "watchbill_acceptance_house"
HOUSE = Path(__file__).parent.parent / "acceptance" / "house.py"
ROUNDS = int(os.environ.get("WATCHBILL_CHAOS_ROUNDS", "4"))
"""How often each thing is killed; a night's run takes hundreds."""
SEED = int(os.environ.get("WATCHBILL_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)


def _loaded() -> ModuleType:
    """Test folders are no packages, so the house cannot be imported by name."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    spec = importlib.util.spec_from_file_location(NAME, HOUSE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def chance() -> random.Random:
    """Where the moments come from; a run that fails shows its seed."""
    print(f"WATCHBILL_CHAOS_SEED={SEED}")
    return random.Random(SEED)


@pytest.fixture
def rounds() -> int:
    """How often."""
    return ROUNDS


@pytest.fixture(scope="session")
def until() -> Any:
    """Wait for a condition; see house.py."""
    return _loaded().until


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
