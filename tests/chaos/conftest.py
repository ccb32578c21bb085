"""Fixtures of the chaos tests: the same houses of real processes as the acceptance tests have, and chance."""

import importlib.util
import os
import random
from pathlib import Path
from types import ModuleType

import pytest

ROUNDS = int(os.environ.get("WATCHBILL_CHAOS_ROUNDS", "3"))
"""How often each thing is killed; a night's run takes hundreds."""
SEED = int(os.environ.get("WATCHBILL_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)


def _acceptance() -> ModuleType:
    """Test folders are no packages, so their fixtures cannot be imported by name."""
    path = Path(__file__).parent.parent / "acceptance" / "conftest.py"
    spec = importlib.util.spec_from_file_location("watchbill_acceptance_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_shared = _acceptance()
until, free_ports, template, house = _shared.until, _shared.free_ports, _shared.template, _shared.house


@pytest.fixture
def chance() -> random.Random:
    """Where the moments come from; a run that fails shows its seed."""
    print(f"WATCHBILL_CHAOS_SEED={SEED}")
    return random.Random(SEED)


@pytest.fixture
def rounds() -> int:
    """How often."""
    return ROUNDS
