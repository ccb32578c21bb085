"""The tables of pgBackRest, barman and sanoid are read strictly: a job of each, and every mistake at its line."""

from pathlib import Path

import pytest

from watchbill.config import Table
from watchbill.errors import ConfigError
from watchbill_agent.backups import adapters
from watchbill_agent.backups.config import read_jobs

JOBS = """\
[[backup]]
name = "log"
tool = "pgbackrest"
[backup.pgbackrest]
stanza = "shop"
config = "/etc/pgbackrest.conf"
[[backup]]
name = "barman"
tool = "barman"
[backup.barman]
server = "shop"
run_check = false
[[backup]]
name = "tank"
tool = "sanoid"
[backup.sanoid]
datasets = ["tank/shop", "tank/mail"]
config_dir = "/etc/sanoid"
monitor = false
"""


def read(place: Path, text: str) -> dict[str, object]:
    """The options of each job by its tool."""
    directory = place / "backups.d"
    directory.mkdir(exist_ok=True)
    (directory / "db.toml").write_text(text)
    found: dict[str, object] = {}
    for job in read_jobs(place):
        tool = job.definition.tool
        kind = adapters.find(tool)
        assert kind is not None
        found[tool] = Table(job.targets[0].options, ("backup", tool)).read(kind.options_type)
    return found


def test_a_job_of_each_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, JOBS)
    assert found["pgbackrest"].config == Path("/etc/pgbackrest.conf")  # type: ignore[attr-defined]
    assert found["barman"].run_check is False  # type: ignore[attr-defined]
    assert found["sanoid"].datasets == ["tank/shop", "tank/mail"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ('stanza = "shop"', 'stanza = "--repo=2"', "db.toml:5: backup[0].pgbackrest.stanza: got"),
        ('stanza = "shop"', 'stanza = "a/b"', "wanted a stanza's name"),
        ('stanza = "shop"', 'stanza = "shop"\nrepo = 257', "at most 256"),
        ('stanza = "shop"', "repo = 1", "pgbackrest.stanza"),
        ('server = "shop"', 'server = "all"', "wanted the name of one server"),
        ('server = "shop"', 'server = "-c"', "wanted the name of one server"),
        ("run_check = false", "run_chek = false", "backup[1].barman.run_chek"),
        ('["tank/shop", "tank/mail"]', "[]", "1 to 64 names of datasets"),
        ('["tank/shop", "tank/mail"]', '["-r"]', "1 to 64 names of datasets"),
        ('["tank/shop", "tank/mail"]', '["tank@snap"]', "1 to 64 names of datasets"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, before: str, after: str, wanted: str) -> None:
    assert before in JOBS
    with pytest.raises(ConfigError) as told:
        read(tmp_path, JOBS.replace(before, after))
    assert wanted in str(told.value)
