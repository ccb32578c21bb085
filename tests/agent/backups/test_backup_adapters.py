"""Every adapter is found by its file, explains itself, and is no part of the running agent."""

import subprocess
import sys

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Outcome
from watchbill.config.printer import reference, sample_file
from watchbill_agent.backups import adapters
from watchbill_agent.backups.adapter import Check, Job, Level, NoCommands, by_exit_code


@pytest.mark.parametrize("name", adapters.names())
def test_every_adapter_is_named_as_its_file_and_says_what_it_is(name: str) -> None:
    kind = adapters.find(name)
    assert kind is not None
    assert kind.name == name
    assert len(kind.help()) > 20
    assert reference(kind.options_type)
    assert sample_file(kind.options_type)
    assert kind.levels <= set(Level)


def test_discovery_finds_what_there_is_and_nothing_else() -> None:
    assert "wrap" in adapters.discover()
    assert tuple(adapters.discover()) == adapters.names()
    assert adapters.find("tape") is None
    assert adapters.find("../config") is None


def test_finding_one_adapter_imports_no_other() -> None:
    code = (
        "import sys; from watchbill_agent.backups import adapters; adapters.find('wrap')\n"
        "print([m for m in sys.modules if m.startswith('watchbill_agent.backups.adapters.')])"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True, text=True
    ).stdout
    assert out.strip() == "['watchbill_agent.backups.adapters.wrap']"


def test_a_wrapped_command_is_known_by_its_runs_alone() -> None:
    kind = adapters.find("wrap")
    assert kind is not None
    job = Job(name="nightly", definition=Definition(name="nightly", tool="wrap"))
    wrap = kind(kind.options_type(), job, NoCommands())
    assert wrap.observe(0).outcome is Outcome.UNKNOWN
    assert wrap.verify(Check(level=Level.DATA), 0).proof is None
    assert wrap.read_run(0, b"", b"") == by_exit_code(0)
    assert wrap.read_run(1, b"", b"").outcome is Outcome.FAILED
