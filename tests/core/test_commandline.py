"""What all three programs do with the outputs and the places that they are given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = ("watchbill-agent", "watchbill-collector", "watchbill")


def run(program, *arguments, close=False, **options):
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        preexec_fn=(lambda: os.close(1)) if close else None,
        **options,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_output_that_is_full_is_a_failure_in_one_line(program):
    with open("/dev/full", "w") as full:
        done = run(program, "--help", stdout=full)
    assert (done.returncode, done.stderr) == (1, f"{program}: output: no space left on device\n")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("watchbill-agent", ("check-config",)),
        ("watchbill-collector", ("rules", "stock")),
        ("watchbill", ("--version",)),
    ],
)
def test_an_output_that_is_closed_takes_everything(tmp_path, program, arguments):
    done = run(program, *arguments, close=True, env={**os.environ, "WATCHBILL_HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_runner_without_a_home_is_roots_alone():
    if os.geteuid() == 0:
        pytest.skip("as root it would run")
    done = run("watchbill-runner")
    assert done.returncode == 2
    assert "--home DIR" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_who_has_read_enough_makes_no_failure(program):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:
        done = run(program, "--help", stdout=nobody)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_place_that_cannot_be_is_a_failure_in_one_line():
    done = run("watchbill-collector", "init", "--home", "/proc/none")
    assert done.returncode == 1
    assert done.stderr.startswith("watchbill-collector: /proc/none")


def test_a_home_with_a_blank_and_letters_that_the_output_has_not_is_no_hindrance(tmp_path):
    home = tmp_path / "my höme"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run("watchbill-collector", "init", "--home", str(home), stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"next      watchbill-collector run --home '{tmp_path}/my h?me'" in done.stdout
