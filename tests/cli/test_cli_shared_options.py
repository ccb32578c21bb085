"""The options that all commands share, wherever they stand. In process: what is parsed is the same."""

import json
from pathlib import Path

import pytest

from watchbill_collector.cli.program import run

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served) -> None:
    """A home that knows another collector: nothing listens there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("WATCHBILL_URL", NOWHERE)


@pytest.mark.parametrize(
    "command",
    [
        "URL JSON hosts show web1",
        "URL hosts JSON show web1",
        "JSON hosts URL show web1",
        "hosts URL JSON show web1",
        "hosts URL show web1 JSON",
        "hosts show URL JSON web1",
        "hosts show web1 URL JSON",
    ],
)
def test_where_a_shared_option_stands_makes_no_difference(command, served, capsys):
    words = command.replace("URL", f"--url {served.url}").replace("JSON", "--json").split()
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["host"]["agent_id"] == "id-1"


@pytest.mark.parametrize(
    "command",
    [
        "alerts",
        "audit list",
        "enroll list",
        "gaps",
        "query up",
        "rules",
        "services",
        "doctor",
        "silences",
    ],
)
def test_every_command_takes_them_before_its_name(command, served, tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text("admin-token\n")
    token.chmod(0o600)
    assert run(["--url", served.url, "--token-file", str(token), "--json", *command.split()]) in (0, 1)
    assert capsys.readouterr().out[:1] in ("{", "[")


def test_the_later_of_two_counts(served, capsys):
    assert run(["--url", NOWHERE, "hosts", "--url", served.url]) == 0
    assert run(["--url", served.url, "hosts", "--url", NOWHERE]) == 5


@pytest.mark.parametrize("command", ["audit", "enroll", "notify"])
def test_a_group_that_does_nothing_by_itself_takes_them_too(command, served, capsys):
    verb = {"audit": "list", "enroll": "list", "notify": "test"}[command]
    assert run([command, "--url", NOWHERE, verb, *(["ops"] if verb == "test" else [])]) == 5
    assert NOWHERE in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--url", NOWHERE], ["--json"], ["--token-file", "/dev/null"]])
def test_a_command_that_has_no_use_for_one_says_so(option, capsys):
    assert run([*option, "completion", "bash"]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()[0]) == (
        "",
        f"watchbill: `watchbill completion` takes no {option[0]}",
    )


def test_login_takes_the_address_as_an_option_as_well(served, tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text("admin-token\n")
    token.chmod(0o600)
    assert run(["--url", served.url, "login", "--token-file", str(token)]) == 0
    assert f" at {served.url}; kept in " in capsys.readouterr().out
