"""Mistakes in the options of statsd, scrape and heartbeat name file, line, key, what was got and what is wanted."""

import pytest

from watchbill.errors import ConfigError
from watchbill_agent.checks.config import read_checks
from watchbill_agent.checks.trees import Trees
from watchbill_agent.cli import main

URL = 'url = "http://127.0.0.1:9100/metrics"'
RULE = "[[check.metric_relabel_configs]]\n"


@pytest.mark.parametrize(
    ("kind", "line", "key", "got", "wanted"),
    [
        ("statsd", 'listen = "8125"', "listen", '"8125"', "an address with its port"),
        ("statsd", 'socket = "run/x"', "socket", '"run/x"', "an absolute path"),
        ("statsd", f'socket = "/{"x" * 107}"', "socket", '"/xxx', "an absolute path of at most 107 bytes"),
        ("statsd", 'socket_mode = "rw"', "socket_mode", '"rw"', "octal mode"),
        ("statsd", 'prefix = "1-"', "prefix", '"1-"', "letters, digits and _"),
        ("statsd", "series_max = 0", "series_max", "0", "at least 1"),
        ("statsd", "timer_buckets = [1.0, 0.5]", "timer_buckets", "an array", "numbers that grow"),
        ("statsd", "histogram_buckets = []", "histogram_buckets", "an empty array", "numbers that grow"),
        ("scrape", 'url = "shop"', "url", '"shop"', "an address such as"),
        ("scrape", f"{URL}\nsample_limit = 10001", "sample_limit", "10001", "at most 10000"),
        ("scrape", f'{URL}\nusername = "x"', "password_file", "nothing", "username and password_file"),
        (
            "scrape",
            f"{URL}\n{RULE}target_label = 'a'\nregex = '('",
            "regex",
            '"(", which is none',
            "RE2's syntax",
        ),
        ("scrape", f"{URL}\n{RULE}action = 'hashmod'", "action", '"hashmod"', "keep"),
        ("scrape", f"{URL}\n{RULE}action = 'keep'", "source_labels", "nothing", "what to match for keep"),
        ("scrape", f"{URL}\n{RULE}separator = ','", "target_label", "nothing", "the label that is set"),
        ("heartbeat", "", "", "no schedule", "one of cron, calendar and every"),
        ("heartbeat", 'every = "1h"\ncron = "0 0 * * *"', "", "cron, every", "one of cron"),
        ("heartbeat", 'cron = "60 0 * * *"', "cron", '"60 0 * * *"', "a schedule that comes round"),
        ("heartbeat", 'cron = "0 0 31 2 *"', "cron", '"0 0 31 2 *"', "a schedule that comes round"),
        ("heartbeat", 'every = "1h"\ntz = "Mars"', "tz", '"Mars"', "a time zone"),
        ("heartbeat", 'every = "0s"', "every", '"0s"', "at least"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, kind, line, key, got, wanted):
    (tmp_path / "checks.d").mkdir()
    file = tmp_path / "checks.d/apps.toml"
    file.write_text(f'[[check]]\nname = "apps"\nkind = "{kind}"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_checks(Trees(tmp_path))
    (problem,) = raised.value.problems
    assert problem.file == str(file)
    assert problem.line in (1, *range(4, 8))
    assert problem.key.endswith(key)
    assert got in problem.got
    assert wanted in problem.wanted


def test_a_heartbeat_needs_a_door_and_a_name_that_no_backup_job_has(tmp_path, capsys):
    etc = tmp_path / "etc"
    for directory in ("checks.d", "backups.d"):
        (etc / directory).mkdir(parents=True)
    (etc / "backups.d/n.toml").write_text('[[backup]]\nname = "nightly"\ntool = "wrap"\n')
    (etc / "checks.d/n.toml").write_text('[[check]]\nname = "nightly"\nkind = "heartbeat"\nevery = "1d"\n')
    asked = ["--home", str(tmp_path), "check-config"]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert 'n.toml:3: check[0].kind: got "heartbeat", wanted [heartbeat] listen in agent.toml' in said
    assert 'n.toml:2: check[0].name: got "nightly", wanted a name that no backup job has' in said
    (etc / "agent.toml").write_text('[heartbeat]\nlisten = "127.0.0.1:7481"\n')
    (etc / "backups.d/n.toml").unlink()
    assert main(asked) == 0


@pytest.mark.parametrize(("kind", "line"), [("statsd", ""), ("heartbeat", 'every = "1h"')])
def test_what_listens_is_not_asked_by_a_command_that_heard_nothing(tmp_path, capsys, kind, line):
    (tmp_path / "etc/checks.d").mkdir(parents=True)
    (tmp_path / "etc/checks.d/a.toml").write_text(f'[[check]]\nname = "apps"\nkind = "{kind}"\n{line}\n')
    assert main(["--home", str(tmp_path), "checks", "run", "apps"]) == 2
    assert "watchbill-agent checks list says how it stands" in capsys.readouterr().err
