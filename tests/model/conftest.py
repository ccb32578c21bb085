"""`world.py` beside this file: test folders are no packages, so it cannot be imported by name."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

NAME = "watchbill_model_world"


def _loaded() -> ModuleType:
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("world.py"))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[NAME]


@pytest.fixture(scope="session")
def world() -> ModuleType:
    """The model of the whole house with one agent."""
    return _loaded()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each weather, and for each rule that is broken on purpose."""
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", _loaded().MODES)
    if "mutation" in metafunc.fixturenames:
        metafunc.parametrize("mutation", _loaded().MUTATIONS)
