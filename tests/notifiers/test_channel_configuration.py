"""`[[channel]]` tables: what is wrong with them is said with file, line and key."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from watchbill.config import ConfigError, load
from watchbill_collector.config import CollectorConfig
from watchbill_collector.notifiers.channel import Surroundings
from watchbill_collector.notifiers.configured import channel_reference, channel_sample, check_ready
from watchbill_collector.notifiers.secret import Secret, SecretFile

HEAD = '[[channel]]\nname = "x"\n'
WRONG = [
    ('[[channel]]\nkind = "emial"\n', 2, "channel[0].kind", "did you mean email?"),
    ('[[channel]]\nname = "x"\n', 1, "channel[0].kind", '"webhook"'),
    (HEAD + 'kind = "memory"\n', 3, "channel[0].kind", "one of"),
    (HEAD + "kind = 5\n", 3, "channel[0].kind", "one of"),
    (HEAD + 'kind = "webhook"\nurll = "x"\n', 4, "channel[0].urll", "did you mean url?"),
    (HEAD + 'kind = "webhook"\n', 1, "channel[0].url", "either url or url_file"),
    (HEAD + 'kind = "webhook"\nurl = "http://hooks.example"\n', 4, "channel[0].url", "insecure = true"),
    (HEAD + 'kind = "webhook"\nurl = "https://u:hunter2@h.example"\n', 4, "channel[0].url", "without a user"),
    (HEAD + 'kind = "webhook"\nurl = "gopher://x"\n', 4, "channel[0].url", "https://"),
    (HEAD + 'kind = "webhook"\nurl = "https://x"\ntimeout = "9m"\n', 5, "channel[0].timeout", "at most 120"),
    (
        HEAD + 'kind = "webhook"\nurl = "https://x"\nsecret_file = "s"\n',
        5,
        "channel[0].secret_file",
        "absolute",
    ),
    (
        HEAD + 'kind = "webhook"\nurl = "https://x"\nsecret_file = "credential:../s"\n',
        5,
        "channel[0].secret_file",
        "NAME",
    ),
    (HEAD + 'kind = "exec"\nargv = ["tell"]\n', 4, "channel[0].argv", "absolute path"),
    (HEAD + 'kind = "exec"\nargv = []\n', 4, "channel[0].argv", "absolute path"),
    (HEAD + 'kind = "exec"\nargv = "/bin/x"\n', 4, "channel[0].argv", "array"),
    (HEAD + 'kind = "email"\n', 1, "channel[0].to", "array"),
    (HEAD + 'kind = "email"\nto = ["a@b\\nBcc: c@d"]\n', 4, "channel[0].to.0", "ops@example.org"),
    (
        HEAD + 'kind = "email"\nto = ["a@b.c"]\nserver = "mail.example:25"\ntls = "none"\n',
        6,
        "channel[0].tls",
        "insecure",
    ),
    (HEAD + 'kind = "email"\nto = ["a@b.c"]\nuser = "u"\n', 1, "channel[0].password_file", "both"),
    (
        HEAD + 'kind = "email"\nto = ["a@b.c"]\ntitle = "{{ $nope }}"\n',
        5,
        "channel[0].title",
        "undefined variable",
    ),
    (HEAD + 'kind = "pagerduty"\n', 1, "channel[0].routing_key_file", "path"),
    (HEAD + 'kind = "alertmanager"\nurls = []\n', 4, "channel[0].urls", "at least one"),
    (HEAD + 'kind = "slack"\nurl = "https://x"\nstyle = "teams"\n', 5, "channel[0].style", "mattermost"),
    ('[[channel]]\nname = "a b"\nkind = "exec"\nargv = ["/x"]\n', 2, "channel[0].name", "letters"),
]


@pytest.mark.parametrize(("text", "line", "key", "wanted"), WRONG)
def test_a_mistake_is_named_with_its_place(
    text: str, line: int, key: str, wanted: str, tmp_path: Path
) -> None:
    file = tmp_path / "collector.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        load(CollectorConfig, file)
    found = [(problem.line, problem.key) for problem in wrong.value.problems]
    assert (line, key) in found
    assert wanted in str(wrong.value)
    assert "hunter2" not in str(wrong.value)


def test_every_mistake_of_every_channel_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    file.write_text("".join(text for text, *_ in WRONG))
    with pytest.raises(ConfigError) as wrong:
        load(CollectorConfig, file)
    assert len(wrong.value.problems) >= len(WRONG)


def test_a_name_is_taken_once_over_all_files(tmp_path: Path) -> None:
    file, more = tmp_path / "collector.toml", tmp_path / "collector.d"
    more.mkdir()
    text = HEAD + 'kind = "exec"\nargv = ["/bin/x"]\n'
    file.write_text(text)
    (more / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r'a.toml:2: channel\[0\].name: got "x" again'):
        load(CollectorConfig, file, more)


def test_what_is_right_and_could_not_send_is_found_before_it_has_to(tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    missing = tmp_path / "secret"
    file.write_text(HEAD + f'kind = "webhook"\nurl = "https://x"\nsecret_file = "{missing}"\n')
    tables = load(CollectorConfig, file).channel
    (problem,) = check_ready(tables, Surroundings("0"))
    assert (problem.line, problem.key) == (1, "channel[0]")
    assert "no such file" in problem.got
    missing.write_text("s")
    missing.chmod(0o640)
    assert check_ready(tables, Surroundings("0")) == []


def test_a_credential_of_the_unit_is_found_where_systemd_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "hook").write_text("hunter2\n")
    (tmp_path / "hook").chmod(0o400)
    secret = SecretFile.from_config("credential:hook").read()
    assert secret.reveal() == "hunter2"
    assert "hunter2" not in repr(secret)


@pytest.mark.parametrize("form", ["hunter2 x", "hunter2%20x", "aHVudGVyMiB4"])
def test_a_secret_is_hidden_in_the_forms_in_which_peers_repeat_it(form: str) -> None:
    said = Secret("hunter2 x").hide_in(f"535 no: {form}!")
    assert form not in said


def test_reference_and_sample_know_every_kind() -> None:
    for kind in ("alertmanager", "email", "exec", "pagerduty", "slack", "webhook"):
        assert f'kind = "{kind}"' in channel_reference()
        assert f'# kind = "{kind}"' in channel_sample()


def test_the_printed_sample_is_commented_out_whole() -> None:
    code = "import sys; from watchbill_collector.daemon import main; sys.exit(main(['check-config', '--print-sample']))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)
    assert all(line.startswith("#") or not line for line in done.stdout.splitlines())


def test_the_example_of_the_documentation_is_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()
    blocks: list[Any] = [part.split("```")[0] for part in page.split("```toml\n")[1:]]
    assert blocks
    text = "\n".join(block for block in blocks if "[[channel]]" in block)
    file = tmp_path / "collector.toml"
    file.write_text(text)
    assert len(load(CollectorConfig, file).channel) >= 6
