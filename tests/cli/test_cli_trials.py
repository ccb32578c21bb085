"""`watchbill rules test`, `rules backtest` and `services`, as a person types them; and their offline twins."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.cli import services

COLLECTOR = Path(sys.executable).with_name("watchbill-collector")
RULES = "groups:\n- { name: g, rules: [{ alert: Down, expr: up == 0 }] }\n"
TESTS = """\
rule_files: [rules/*.yml]
tests:
- input_series: [{ series: 'up{instance="a"}', values: '0' }]
  alert_rule_test: [{ eval_time: 0, alertname: Down, exp_alerts: [{ exp_labels: { instance: %s } }] }]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "r.yml").write_text(RULES)
    (tmp_path / "good.yml").write_text(TESTS % "a")
    (tmp_path / "bad.yml").write_text(TESTS % "b")
    (tmp_path / "broken.yml").write_text("test: []\n")
    return tmp_path


def offline(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(COLLECTOR), "rules", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "code"), [("good.yml", 0), ("bad.yml", 1), ("broken.yml", 2), ("none.yml", 2)]
)
def test_here_and_at_the_collector_a_file_is_judged_alike(
    admin: Any, files: Path, name: str, code: int
) -> None:
    here = offline("test", files / name)
    assert (here.returncode, here.stderr) == (code, "")
    there = admin("rules", "test", str(files / name))
    assert there.code == code
    if name != "none.yml":
        assert there.out == here.stdout
    if name == "bad.yml":
        assert 'missing: {alertname="Down", instance="b"} annotations []' in there.out
        assert 'surplus: {alertname="Down", instance="a"} annotations []' in there.out
        assert "1 of 1 expectations failed" in there.out


def test_one_json_document_has_every_file(admin: Any, files: Path) -> None:
    names = [str(files / name) for name in ("good.yml", "bad.yml")]
    here = json.loads(offline("test", "--json", *names).stdout)
    assert admin("rules", "test", "--json", *names).json == here
    assert [each["passed"] for each in here["files"]] == [True, False]
    assert here["passed"] is False


def test_the_stock_pack_is_listed_and_printed() -> None:
    listed = offline("stock")
    assert "HostSilent" in listed.stdout
    assert offline("stock", "disk").stdout.startswith("# Disks")
    assert {"name": "disk", "alerts": ["DiskSaturated", "RaidDegraded", "RaidDiskFailed"]} in json.loads(
        offline("stock", "--json").stdout
    )["files"]
    wrong = offline("stock", "dsik")
    assert wrong.returncode == 2
    assert "disk, filesystem" in wrong.stderr


def test_a_printed_file_of_the_pack_can_be_checked(tmp_path: Path) -> None:
    copy = tmp_path / "host.yml"
    copy.write_text(offline("stock", "host").stdout)
    assert offline("check", copy).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either FILE or --expr"),
        (("x.yml", "--expr", "up"), "either FILE or --expr"),
        (("x.yml", "--for", "5m"), "belong to --expr"),
        (("--expr", "up", "--since", "soon"), "soon"),
        (("none.yml",), "none.yml"),
    ],
)
def test_a_backtest_that_makes_no_sense_is_refused_here(
    admin: Any, arguments: tuple[str, ...], told: str
) -> None:
    done = admin("rules", "backtest", *arguments)
    assert done.code == 2
    assert told in done.err


def test_services_say_how_to_have_some(admin: Any) -> None:
    done = admin("services")
    assert (done.code, "services.d" in done.out) == (0, True)
    assert admin("services", "--json").json == {"services": []}
    assert admin("services", "shop").code != 0


def test_a_service_shows_how_its_rpo_was_kept() -> None:
    rpo = {
        "rpo_s": 900.0, "objective": 0.999, "since": "2026-11-01T00:00:00Z", "until": "2026-12-01T00:00:00Z",
        "kept": 0.9995, "over_s": 1296.0, "times": 2, "budget_s": 2592.0, "left_s": 1296.0,
    }  # fmt: skip
    service = {
        "name": "shop", "state": "ok", "hosts": [], "hosts_up": 0, "firing": {}, "owner": "", "depends": [],
        "failing_dependencies": [],
    }  # fmt: skip
    for told, shown in (
        (rpo, ("99.95 %", "21m36s")),
        (rpo | {"left_s": -3600.0}, ("99.95 %", "overspent by 1h")),
        (rpo | {"kept": None}, ("-", "-")),
        (None, ("-", "-")),
    ):
        assert services._row(service | {"rpo": told})[4:6] == shown
