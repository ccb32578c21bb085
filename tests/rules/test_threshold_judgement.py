"""Thresholds in the short form over real hosts: enter and clear values, overrides, through reload and restart."""

from typing import Any

import pytest

from watchbill_collector.rules import MemoryAlertState

LOAD = ("node_load1", ())
HIGH = "thresholds:\n- {name: High, metric: node_load1, above: 5, clear: 3, for: 30s, severity: major}\n"


def _fs(mount: str, name: str = "used") -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, (("mountpoint", mount),)


def test_it_fires_above_and_resolves_only_below_the_clear_value(house: Any) -> None:
    it = house()
    it.load(HIGH)
    it.hosts = {"a": {LOAD: 4.0}, "b": {LOAD: 6.0}}
    it.run(3)
    assert it.states() == {("High", "b"): "firing"}, "between the two values nothing begins"
    it.hosts["b"][LOAD] = 4.0
    it.run(20)
    assert it.states() == {("High", "b"): "firing"}, "and nothing ends"
    assert it.book.alerts()[0].value == 4.0
    it.hosts["b"][LOAD] = 3.0
    it.run(1)
    assert it.states() == {}
    it.hosts["b"][LOAD] = 4.0
    it.run(4)
    assert it.states() == {}, "once resolved it has to be crossed again"
    assert it.told("High") == ["pending", "firing", "inactive"]


def test_a_pending_alert_gets_no_help_from_the_clear_value(house: Any) -> None:
    it = house()
    it.load(HIGH)
    it.hosts = {"a": {LOAD: 6.0}}
    it.run(2)
    it.hosts["a"][LOAD] = 4.0
    it.run(1)
    assert it.states() == {}


def test_below_is_the_same_upside_down(house: Any) -> None:
    it = house()
    it.load("thresholds:\n- {name: Low, metric: free, below: 10, clear: 20}\n")
    free = ("free", ())
    it.hosts = {"a": {free: 15.0}}
    seen = []
    for value in (15, 9, 19, 15, 20, 15, 9):
        it.hosts["a"][free] = float(value)
        it.run(1)
        seen.append(it.states().get(("Low", "a"), ""))
    assert seen == ["", "firing", "firing", "firing", "", "", "firing"]


@pytest.mark.parametrize("down_s", [30, 1800])
def test_the_clear_value_is_remembered_through_a_restart(house: Any, down_s: int) -> None:
    state = MemoryAlertState()
    it = house(state=state)
    it.load(HIGH)
    it.hosts = {"a": {LOAD: 6.0}, "b": {LOAD: 6.0}}
    it.run(4)
    it.hosts = {"a": {LOAD: 4.0}, "b": {LOAD: 4.0}}
    it.run(2)
    it.book.close(it.now_ms)
    again = house(state=state, now_ms=it.now_ms + down_s * 1000)
    again.load(HIGH)
    again.book.resume(again.now_ms)
    again.hosts = {"a": {LOAD: 4.0}, "b": {LOAD: 2.0}}
    again.run(15)
    assert again.states() == {("High", "a"): "firing"}
    assert again.told("High") == ["inactive"]


def test_a_reload_of_the_same_threshold_keeps_its_alerts(house: Any) -> None:
    it = house()
    it.load(HIGH)
    it.hosts = {"a": {LOAD: 6.0}}
    it.run(4)
    it.hosts["a"][LOAD] = 4.0
    it.load(HIGH + "- {name: Other, metric: node_load5, above: 5}\n")
    it.run(3)
    assert it.states() == {("High", "a"): "firing"}
    assert it.told("High") == ["pending", "firing"]


def test_the_first_override_that_matches_decides_alone(house: Any) -> None:
    it = house()
    it.load(
        "thresholds:\n- name: Full\n  metric: used\n  above: 80\n  severity: minor\n  overrides:\n"
        "  - {host: a, mount: /backup, above: 98, severity: critical}\n"
        "  - {mount: [/backup, /media], above: 90}\n"
        "  - {host: c, off: true}\n"
    )
    it.hosts = {
        "a": {_fs("/"): 85.0, _fs("/backup"): 95.0, _fs("/media"): 85.0},
        "b": {_fs("/"): 75.0, _fs("/backup"): 95.0, _fs("/media"): 91.0},
        "c": {_fs("/"): 99.0, _fs("/media"): 99.0},
    }
    it.run(1)
    found = {
        (alert.labels["instance"], alert.labels["mountpoint"]): alert.labels["severity"]
        for alert in it.book.alerts()
    }
    assert found == {
        ("a", "/"): "minor",
        ("b", "/backup"): "minor",
        ("b", "/media"): "minor",
        ("c", "/media"): "minor",
    }
    it.hosts["a"][_fs("/backup")] = 99.0
    it.run(1)
    worst = [alert for alert in it.book.alerts() if alert.labels["mountpoint"] == "/backup"]
    assert {(alert.labels["instance"], alert.labels["severity"]) for alert in worst} == {
        ("a", "critical"),
        ("b", "minor"),
    }


def test_overrides_of_an_expression_are_about_its_result(house: Any) -> None:
    it = house()
    it.load(
        "thresholds:\n- name: Full\n  expr: 100 * (1 - avail / size)\n  above: 80\n  clear: 70\n"
        '  where: mountpoint!~"/run.*"\n  overrides:\n'
        "  - {mount: /backup, above: 98, clear: 97}\n  - {host: b, off: true}\n"
    )

    def disks(**used: float) -> dict[Any, float]:
        mounts = {"root": "/", "backup": "/backup", "run": "/run/x"}
        sizes = {_fs(mount, "size"): 100.0 for mount in mounts.values()}
        return sizes | {_fs(mounts[name], "avail"): 100 - value for name, value in used.items()}

    it.hosts = {"a": disks(root=85, backup=90, run=99), "b": disks(root=85, backup=99, run=99)}
    it.run(1)
    firing = {(alert.labels["instance"], alert.labels["mountpoint"]) for alert in it.book.alerts()}
    assert firing == {("a", "/"), ("b", "/backup")}
    it.hosts = {"a": disks(root=75, backup=97.5, run=99), "b": disks(root=75, backup=97.5, run=99)}
    it.run(2)
    firing = {(alert.labels["instance"], alert.labels["mountpoint"]) for alert in it.book.alerts()}
    assert firing == {("a", "/"), ("b", "/backup")}
    it.hosts = {"a": disks(root=70, backup=97.5, run=99), "b": disks(root=75, backup=97, run=99)}
    it.run(1)
    assert it.states() == {}


def test_two_severities_of_one_name_do_not_hold_each_other(house: Any) -> None:
    it = house()
    it.load(
        "thresholds:\n- {name: Hot, metric: node_load1, above: 5, clear: 2, severity: minor}\n"
        "- {name: Hot, metric: node_load1, above: 9, clear: 8, severity: critical}\n"
    )
    it.hosts = {"a": {LOAD: 6.0}}
    it.run(2)
    assert [alert.labels["severity"] for alert in it.book.alerts()] == ["minor"]
    it.hosts["a"][LOAD] = 8.5
    it.run(2)
    assert [alert.labels["severity"] for alert in it.book.alerts()] == ["minor"]
    it.hosts["a"][LOAD] = 9.5
    it.run(1)
    it.hosts["a"][LOAD] = 8.5
    it.run(3)
    assert sorted(alert.labels["severity"] for alert in it.book.alerts()) == ["critical", "minor"]


def test_thresholds_and_groups_stand_in_one_file(house: Any) -> None:
    it = house()
    it.load(
        "groups:\n- name: g\n  rules:\n  - {record: 'load:double', expr: 2 * node_load1}\n"
        "thresholds:\n- {name: T, metric: 'load:double', above: 10, runbook: calm, summary: '{{ $value }}!'}\n"
    )
    it.hosts = {"a": {LOAD: 6.0}}
    it.run(1)
    (alert,) = it.book.alerts()
    assert alert.annotations == {"runbook": "calm", "summary": "12!"}
    assert [group.group.name for group in it.book.groups()] == ["g", "thresholds"]
