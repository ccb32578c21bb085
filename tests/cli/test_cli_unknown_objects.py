"""What is asked for and is not there: every verb ends with 1, says what is not there, and what to type next.

The command line itself was right, so it is no usage error; nobody refused, so it is no refusal.
"""

from pathlib import Path

import pytest

from watchbill_collector.cli.program import run

UNKNOWN = [
    "hosts show NO",
    "hosts rename NO other",
    "hosts retire NO --yes",
    "hosts revoke NO --yes",
    "hosts approve NO",
    "hosts forget NO --yes",
    "gaps NO",
    "services NO",
    "backups show NO",
    "backups verify NO",
    "backups review NO --note seen",
    "backups pause NO --for 1d --reason why",
    "backups resume NO",
    "backups unexempt NO",
    "enroll revoke NO",
    "silences expire NO",
    "notify test NO",
]


@pytest.mark.parametrize("command", UNKNOWN)
def test_what_is_not_there_ends_every_verb_alike(command, served, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    token = tmp_path / "token"
    token.write_text("admin-token\n")
    token.chmod(0o600)
    code = run(
        ["--url", served.url, "--token-file", str(token), *command.replace("NO", "no-such-thing").split()]
    )
    told = capsys.readouterr()
    assert (code, told.out) == (1, "")
    assert told.err.startswith("watchbill: ")
    assert "watchbill " in told.err.split("watchbill: ", 1)[1], "it says what to type next"
