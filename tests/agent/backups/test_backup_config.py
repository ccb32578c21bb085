"""backups.d: what a job becomes, and what the person who holds a wrong file is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from watchbill.backups.definition import (
    COPIES_MAX,
    JOBS_MAX,
    Copy,
    Definition,
    ProofAges,
    Requirement,
    Retention,
    Severities,
    SizeLimits,
    read_definition,
)
from watchbill.backups.record import Level
from watchbill.backups.schedule import Schedule
from watchbill.errors import ConfigError
from watchbill_agent.backups.adapter import Reason, SourcePaths
from watchbill_agent.backups.config import JobConfig, Target, read_jobs

ALL = """\
[[backup]]
name = "files-nightly"
service = "files"
tool = "files"
source = { paths = ["/srv/files"], must_exist = true, min_files = 1000 }
schedule = { cron = "15 2 * * *", tz = "Europe/Berlin" }
start_grace = "30m"
max_duration = "4h"
min_duration = "20s"
rpo = "26h"
size = { min = "10GiB", drop = "30%", window = 7 }
retention = { keep = "30d", min_copies = 7 }
verify = { structure = "7d", data = "30d", restore = "90d" }
require = { copies = 2, offsite = 1, immutable = 1 }
severity = { rpo = "critical", failed = "minor", anomaly = "major", verify = "info" }
observe_every = "2h"
partial_if = ["skipp(ed|ing)"]
[backup.files]
paths = ["/mnt/nas/*"]
settle = "2m"
[[backup.copies]]
name = "nas"
location = "rack-a"
media = "disk"
[[backup.copies]]
name = "cloud"
location = "offsite"
media = "object"
immutable = true
files = { paths = ["/mnt/cloud/*"] }
"""
PROVED = frozenset({Level.STRUCTURE, Level.DATA})
SMALL = '[[backup]]\nname = "a"\ntool = "wrap"\n'


def read(tmp_path: Path, **files: str) -> tuple[JobConfig, ...]:
    directory = tmp_path / "backups.d"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)
    return read_jobs(tmp_path)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, a=text)
    return [
        f"{problem.line}: {problem.key}: got {problem.got}, wanted {problem.wanted}"
        for problem in caught.value.problems
    ]


def test_every_field_of_a_job_reaches_its_definition(tmp_path: Path) -> None:
    (job,) = read(tmp_path, a=ALL)
    assert job.definition == Definition(
        name="files-nightly",
        tool="files",
        service="files",
        schedule=Schedule(cron="15 2 * * *", zone="Europe/Berlin"),
        start_grace_s=1800,
        max_duration_s=4 * 3600,
        min_duration_s=20,
        rpo_s=26 * 3600,
        size=SizeLimits(min_bytes=10 << 30, drop=0.3, window=7),
        retention=Retention(keep_s=30 * 86_400, min_copies=7),
        verify=ProofAges(structure_s=7 * 86_400, data_s=30 * 86_400, restore_s=90 * 86_400),
        copies=(
            Copy(name="nas", location="rack-a", media="disk"),
            Copy(name="cloud", location="offsite", media="object", immutable=True),
        ),
        require=Requirement(copies=2, offsite=1, immutable=1),
        severity=Severities(verify="info"),
        observed=True,
        observe_every_s=7200,
    )
    assert read_definition(job.definition.to_json()) == job.definition
    assert job.source == SourcePaths(paths=("/srv/files",), must_exist=True, min_files=1000)
    assert job.partial_if == ("skipp(ed|ing)",)
    assert job.targets[0].levels == {Level.STRUCTURE, Level.DATA}


def test_what_a_copy_says_of_its_repository_wins_over_the_jobs_own_table(tmp_path: Path) -> None:
    (job,) = read(tmp_path, a=ALL)
    assert job.targets == (
        Target(copy="nas", options={"paths": ["/mnt/nas/*"], "settle": "2m"}, levels=PROVED),
        Target(copy="cloud", options={"paths": ["/mnt/cloud/*"], "settle": "2m"}, levels=PROVED),
    )


@pytest.mark.parametrize(
    ("copies", "targets"),
    [
        ("", [""]),
        ("[[backup.copies]]\nname = 'a'", ["a"]),
        ("[[backup.copies]]\nname = 'a'\n[[backup.copies]]\nname = 'b'", ["a"]),
        (
            "[[backup.copies]]\nname = 'a'\nfiles = {lag = '1m'}\n[[backup.copies]]\nname = 'b'\nfiles = {lag = '2m'}",
            ["a", "b"],
        ),
    ],
)
def test_a_repository_is_of_the_first_copy_that_says_nothing_of_its_own(
    tmp_path: Path, copies: str, targets: list[str]
) -> None:
    text = '[[backup]]\nname = "a"\ntool = "files"\nfiles = { paths = ["/srv/*"] }\n' + copies
    assert [target.copy for target in read(tmp_path, a=text)[0].targets] == targets


def test_a_job_known_by_its_runs_alone_is_not_observed(tmp_path: Path) -> None:
    (job,) = read(tmp_path, a=SMALL)
    assert (job.targets, job.definition.observed, job.definition.observe_every_s) == ((), False, 0.0)
    assert job.definition.start_grace_s == 1800


def test_verifications_are_left_to_others_when_the_job_says_so(tmp_path: Path) -> None:
    (job,) = read(tmp_path, a=ALL.replace('restore = "90d"', 'restore = "90d", run = false'))
    assert [target.levels for target in job.targets] == [set(), set()]
    assert job.definition.verify.data_s == 30 * 86_400


@pytest.mark.parametrize("tool", ["restic", "borg"])
def test_a_restore_is_verified_by_the_agent_where_it_has_a_place(tmp_path: Path, tool: str) -> None:
    options = {"restic": "repository = '/r', password_file = '/p'", "borg": "repository = '/r'"}[tool]
    text = f"[[backup]]\nname = 'a'\ntool = '{tool}'\nverify = {{ data = '30d', restore = '90d' }}\n"
    (job,) = read(tmp_path, a=f"{text}{tool} = {{ {options} }}")
    assert job.targets[0].levels == {Level.DATA}
    (job,) = read(tmp_path, a=f"{text}{tool} = {{ {options}, restore_dir = '/srv/tmp' }}")
    assert job.targets[0].levels == {Level.DATA, Level.RESTORE}


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ('{ every = "6h" }', Schedule(every_s=21_600)),
        ('{ calendar = "Mon..Fri 02:15" }', Schedule(calendar="Mon..Fri 02:15")),
        ("{}", Schedule()),
    ],
)
def test_a_schedule_goes_by_cron_by_calendar_or_by_its_last_run(
    tmp_path: Path, schedule: str, wanted: Schedule
) -> None:
    (job,) = read(tmp_path, a=SMALL + f"schedule = {schedule}")
    assert job.definition.schedule == wanted


def test_a_host_without_the_directory_has_no_backups(tmp_path: Path) -> None:
    assert read_jobs(tmp_path) == ()


def test_jobs_of_several_files_come_in_their_order(tmp_path: Path) -> None:
    jobs = read(tmp_path, b=SMALL.replace('"a"', '"second"'), a=SMALL)
    assert [job.name for job in jobs] == ["a", "second"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", None),
        ('[[backup]]\ntool = "wrap"\n', "1: backup[0].name: got nothing, wanted text"),
        (
            SMALL.replace('"a"', '"a b"'),
            '2: backup[0].name: got "a b", wanted 1 to 64 letters, digits, dots, hyphens and underscores',
        ),
        (SMALL.replace("wrap", "tape"), '3: backup[0].tool: got "tape", wanted one of: '),
        (
            SMALL + "rop = '1h'",
            "4: backup[0].rop: got an unknown key, wanted a known key (did you mean rpo?)",
        ),
        (SMALL + "rpo = 26", "4: backup[0].rpo: got 26, wanted a duration with its unit, such as"),
        (SMALL + "rpo = '11y'", '4: backup[0].rpo: got "11y", wanted a duration'),
        (SMALL + "size = { drop = 30 }", '4: backup[0].size.drop: got 30, wanted a share such as "30%"'),
        (SMALL + "size = { drop = '130%' }", "4: backup[0].size.drop"),
        (
            SMALL + "schedule = { cron = '15 2 * *' }",
            '4: backup[0].schedule.cron: got "15 2 * *", wanted 4 fields, wanted 5: minute hour',
        ),
        (SMALL + "schedule = { cron = '0 0 30 2 *' }", "4: backup[0].schedule.cron: "),
        (SMALL + "schedule = { calendar = 'someday' }", '4: backup[0].schedule.calendar: got "someday"'),
        (
            SMALL + "schedule = { cron = '15 2 * * *', tz = 'Mars/Olympus' }",
            '4: backup[0].schedule.tz: got "Mars/Olympus", wanted a time zone such as "Europe/Berlin"',
        ),
        (
            SMALL + "schedule = { cron = '15 2 * * *', every = '1h' }",
            "4: backup[0].schedule.every: got one more way to say when, wanted nothing beside cron",
        ),
        (
            SMALL + "severity = { rpo = 'awful' }",
            '4: backup[0].severity.rpo: got "awful", wanted one of: "critical"',
        ),
        (SMALL + "fail_if = ['ok', '(']", '4: backup[0].fail_if[1]: got "(", wanted a regular expression: '),
        (SMALL + "observe_every = '1s'", "4: backup[0].observe_every: got"),
        (SMALL + "unit = 'rm -rf'", '4: backup[0].unit: got "rm -rf", wanted a unit such as'),
        (
            SMALL + "[backup.restic]\nrepository = '/x'",
            "4: backup[0].restic: got a table, wanted a known key, or the table of its tool: wrap",
        ),
        (
            SMALL + "[backup.wrap]\nshell = 'x'",
            "5: backup[0].wrap.shell: got an unknown key, wanted no key at all here",
        ),
        (
            SMALL + "min_duration = '2h'\nmax_duration = '1h'",
            '4: backup[0].min_duration: got "2h", wanted at most max_duration',
        ),
        (
            SMALL + "copies = [{ name = 'x' }, { name = 'x' }]",
            '4: backup[0].copies[1].name: got "x", wanted a name of its own',
        ),
        (
            SMALL + "copies = [" + '{ name = "x" },' * (COPIES_MAX + 1) + "]",
            "4: backup[0].copies: got an array",
        ),
        (SMALL + SMALL, '5: backup[1].name: got "a" again, wanted a name of its own ('),
        (SMALL.replace("wrap", "files"), "1: backup[0].files.paths: got nothing, wanted an array"),
    ],
)
def test_a_wrong_file_is_told_with_its_line_its_key_and_what_is_wanted(
    tmp_path: Path, text: str, told: str | None
) -> None:
    if told is None:
        assert read(tmp_path, a=text) == ()
    else:
        found = problems(tmp_path, text)
        assert len(found) == 1, found
        assert found[0].startswith(told)


def test_all_mistakes_of_all_jobs_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, SMALL + "rpo = 1\nunit = 'x'\n" + SMALL.replace("wrap", "tape"))
    assert [line.partition(": got")[0] for line in found] == [
        "4: backup[0].rpo",
        "5: backup[0].unit",
        "8: backup[1].tool",
    ]


def test_a_mistake_in_what_copies_share_is_told_once_and_where_it_was_written(tmp_path: Path) -> None:
    text = ALL.replace('settle = "2m"', "settle = 2")
    assert [line.partition(",")[0] for line in problems(tmp_path, text)] == [
        "20: backup[0].files.settle: got 2"
    ]


def test_more_jobs_than_an_event_holds_are_refused(tmp_path: Path) -> None:
    text = "".join(SMALL.replace('"a"', f'"j{number}"') for number in range(JOBS_MAX + 1))
    (told,) = problems(tmp_path, text)
    assert told.endswith(f"got {JOBS_MAX + 1} backups, wanted at most {JOBS_MAX}")


def test_check_config_tells_problems_of_both_files_as_one_list(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "backups.d").mkdir(parents=True)
    (etc / "agent.toml").write_text("interval = 1\n")
    (etc / "backups.d" / "a.toml").write_text(SMALL + "rpo = 1\n")
    argv = [sys.executable, "-m", "watchbill_agent", "check-config", "--home", str(tmp_path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [problem["key"] for problem in json.loads(done.stdout)["problems"]] == [
        "interval",
        "backup[0].rpo",
    ]


def test_the_page_about_backups_explains_every_reason_and_its_example_is_right(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/backups.md").read_text()
    (job,) = read(tmp_path, a=text.split("```toml\n")[1].split("```")[0])
    assert [target.copy for target in job.targets] == ["nas", "cloud"]
    table = text.split("## Reasons")[1].split("## Adapters")[0]
    assert [reason for reason in Reason if f"`{reason}`" not in table] == []
