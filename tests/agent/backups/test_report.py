"""What may be said of a backup by hand, and what is taken out of what a tool printed."""

import os
from pathlib import Path

import pytest

from watchbill.backups.record import Kind, Level, Outcome, record_fault
from watchbill.errors import UsageError
from watchbill_agent.backups.redact import HIDDEN, Redactor, known_secrets
from watchbill_agent.backups.report import Said, process_run, record_of
from watchbill_agent.backups.words import tail_of

NOW_MS = 1_800_000_000_000
PLAIN = Redactor()


def test_two_reports_of_one_name_are_one_run_of_their_job() -> None:
    first = record_of(Said(job="a", outcome="running", run="4711"), NOW_MS, PLAIN)
    second = record_of(Said(job="a", outcome="ok", run="4711"), NOW_MS + 5, PLAIN)
    other = record_of(Said(job="b", outcome="ok", run="4711"), NOW_MS, PLAIN)
    assert first.run_id == second.run_id != other.run_id
    assert first.record_id != second.record_id
    assert (first.started_ms, first.finished_ms, first.point_ms) == (NOW_MS, 0, NOW_MS)
    assert (second.started_ms, second.finished_ms, second.point_ms) == (0, NOW_MS + 5, 0)
    assert record_of(Said(job="a", outcome="ok", run="ab" * 16), NOW_MS, PLAIN).run_id == "ab" * 16


def test_a_run_that_is_a_process_is_none_of_a_later_process_with_the_same_number(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    boot = tmp_path / "sys/kernel/random/boot_id"
    names = []
    for began, booted in (("100", "a"), ("100", "a"), ("200", "a"), ("100", "b")):
        (tmp_path / "7/stat").write_text(f"7 (a ) b) S {'0 ' * 18}{began} 0 0\n")
        boot.write_text(booted + "\n")
        names.append(process_run("7", tmp_path))
    assert names[0] == names[1]
    assert len(set(names)) == 3
    for text in ("8", "", "../7", "-1", "x", "9" * 30):
        with pytest.raises(UsageError, match="--run-of"):
            process_run(text, tmp_path)
    assert process_run(str(os.getpid())) == process_run(str(os.getpid()))


def test_the_data_stands_for_the_time_when_the_run_began() -> None:
    said = Said(job="a", outcome="ok", started="2026-05-04T02:15:00+02:00")
    assert record_of(said, NOW_MS, PLAIN).point_ms == 1_777_853_700_000


@pytest.mark.parametrize(
    ("kind", "level", "outcome", "proof"),
    [
        ("verify", "", "ok", (Level.DATA, True, 0)),
        ("verify", "structure", "failed", (Level.STRUCTURE, False, 1)),
        ("restore", "", "ok", (Level.RESTORE, True, 0)),
        ("restore", "", "running", None),
        ("run", "", "ok", None),
    ],
)
def test_a_verification_that_ended_proves_something(
    kind: str, level: str, outcome: str, proof: tuple[Level, bool, int] | None
) -> None:
    made = record_of(Said(job="a", kind=kind, level=level, outcome=outcome), NOW_MS, PLAIN)
    assert (made.kind, made.outcome) == (Kind(kind), Outcome(outcome))
    assert (made.verify and (made.verify.level, made.verify.ok, made.verify.bad)) == proof


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"job": ""}, "JOB: got ''"),
        ({"job": "x" * 65}, "JOB: got"),
        ({"job": "../etc"}, "JOB: got"),
        ({"job": "a\nb"}, "JOB: got"),
        ({"started": "yesterday"}, "--started: got 'yesterday', wanted a time with its zone"),
        ({"started": "2026-05-04T02:15:00"}, "--started"),
        ({"finished": "0"}, "--finished"),
        ({"point": "9" * 30}, "--point"),
        ({"point": "0001-01-01T00:00:00+14:00"}, "--point"),
        ({"started": "200", "finished": "100"}, "before --started"),
        ({"bytes_source": -1}, "--bytes: got -1"),
        ({"files": 2**63}, "--files"),
        ({"reason": "It Broke"}, "--reason"),
        ({"tool": "x\x1b[1m"}, "--tool"),
        ({"snapshot": "x" * 257}, "--snapshot"),
        ({"run": "x" * 257}, "--run"),
        ({"level": "data"}, "--level"),
    ],
)
def test_what_cannot_be_is_refused_by_name(more: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        record_of(Said(**{"job": "a", "outcome": "ok", **more}), NOW_MS, PLAIN)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_hostile_text_becomes_a_record_that_the_collector_takes() -> None:
    text = "\x00\x1b]0;title\x07\u202e" + "ä" * 100_000
    said = Said(job="a", outcome="failed", errors=[text] * 50, tail=text + "\n" + text)
    assert record_fault(record_of(said, NOW_MS, PLAIN)) == ""


def test_a_tail_is_what_a_person_saw_last() -> None:
    assert tail_of("a\r\n 1%\r 50%\r100%\n\x1b[1;32mdone\x1b[0m\n") == "a\n100%\ndone"
    long = tail_of("".join(f"line {number}\n" for number in range(10_000)))
    assert long.endswith("line 9999")
    assert long.startswith("line ")
    assert 8_000 < len(long) <= 8_192


SECRET = "tr0ub4dor&3"


@pytest.mark.parametrize(
    "line",
    [
        "connecting to sftp://backup:{}@nas.example/srv",
        "password={}",
        "  RESTIC_PASSWORD: '{}'",
        'aws_secret_access_key = "{}"',
        '{{"repo": 1, "passphrase": "{}"}}',
        "curl --proxy-password {} https://x",
        "mysqldump --password={} db",
        "Authorization: Bearer {}abcdefgh",
        "api_key:{}",
        "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
        "{}\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\n{}",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(line: str) -> None:
    shown = PLAIN(line.format(SECRET))
    assert SECRET not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "token", ["AKIAABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln"]
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    assert token not in PLAIN(f"using {token} now")


@pytest.mark.parametrize(
    "line",
    [
        "processed 1234 files, 5.6 GiB in 0:42",
        "snapshot 4f3c2a1b saved",
        "reading https://example.org/path:8080 as user@host",
        "password file: none needed; 3 tokens left",
    ],
)
def test_ordinary_words_stay(line: str) -> None:
    assert PLAIN(line).split()[0] == line.split(maxsplit=1)[0]
    if "password" not in line:
        assert PLAIN(line) == line


def test_what_the_environment_and_the_arguments_call_secret_is_taken_out_wherever_it_stands() -> None:
    environment = {
        "RESTIC_PASSWORD": "correct horse",
        "PGPASSWORD": "staple",
        "RESTIC_PASSWORD_FILE": "/etc/restic/pw",
        "HOME": "/root",
        "PWD": "/srv/here",
        "SSH_ASKPASS": "/usr/bin/ask",
        "NEEDS_TOKEN": "True",
        "B2_ACCOUNT_KEY": "k0-key",
        "X_TOKEN": "ab",
    }
    argv = ["tool", "--password=hunter22", "--secret", "swordfish", "--password-file", "/p", "--token", "-v"]
    known = known_secrets(environment, argv)
    assert sorted(known) == ["True", "ab", "correct horse", "hunter22", "k0-key", "staple", "swordfish"]
    shown = Redactor(known)("xcorrect horsex k0-key hunter22,staple about /etc/restic/pw /root True")
    assert shown == f"x{HIDDEN}x {HIDDEN} {HIDDEN},{HIDDEN} about /etc/restic/pw /root True"


def test_redaction_takes_a_bounded_time_whatever_a_tool_prints() -> None:
    for piece in (
        "password",
        "a://b:",
        "-----BEGIN PRIVATE KEY-----",
        '"token":"\\',
        "--secret ",
        "eyJ-.",
        "\x1b[",
    ):
        tail_of(PLAIN(piece * (32_768 // len(piece))))
