"""The shipped runbooks and actions fit each other, and a host would believe the actions."""

import os
import shutil
from pathlib import Path

import pytest

from watchbill.actions.definition import Action
from watchbill.actions.files import load_allowed
from watchbill_collector.runbooks.findings import ERROR
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.lint import Around, judge_text

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ACTIONS = ("postgresql", "disk", "restic", "patch", "service", "isolation")
HOSTS = (
    "db1",
    "db2",
    "app1",
    "mgmt1",
    "drill-db1",
    "drill-db2",
    "drill-mgmt",
    "drill-disk",
    "drill-web",
    "spare1",
    "web1",
    "web2",
)
LABELS = {"app1": {"role": "pg-proxy"}, "web2": {"role": "web"}}


@pytest.fixture
def allowed(tmp_path: Path) -> dict[str, Action]:
    """What the shipped files allow, read as a host reads them."""
    (tmp_path / "actions.d").mkdir()
    for name in ACTIONS:
        copy = tmp_path / "actions.d" / f"{name}.toml"
        shutil.copyfile(EXAMPLES / "actions" / copy.name, copy)
        copy.chmod(0o644)
    found = load_allowed(tmp_path, os.geteuid())
    assert found.faults == ()
    return dict(found.actions)


@pytest.mark.parametrize(
    "name",
    [
        *("pg-failover", "pg-rejoin", "disk-reclaim", "files-restore", "patch-waves", "service-restart"),
        *("host-isolate", "host-release"),
    ],
)
def test_a_shipped_runbook_asks_for_what_the_shipped_actions_allow(
    name: str, allowed: dict[str, Action]
) -> None:
    hosts = {
        one: KnownHost(name=one, agent=one, labels=LABELS.get(one, {}), actions=allowed) for one in HOSTS
    }
    path = EXAMPLES / "runbooks" / f"{name}.yaml"
    runbook, findings = judge_text(path.name, path.read_bytes(), Around(fleet=Fleet(hosts)))
    assert runbook is not None
    assert [(one.where, one.message) for one in findings if one.severity == ERROR] == []


def test_every_program_that_a_shipped_action_names_is_shipped_and_can_be_run(
    allowed: dict[str, Action],
) -> None:
    ours = {action.argv[0] for action in allowed.values() if action.argv[0].startswith("/usr/local/")}
    assert len(ours) == 6
    for program in ours:
        assert os.access(EXAMPLES / "actions" / "bin" / Path(program).name, os.X_OK), program
