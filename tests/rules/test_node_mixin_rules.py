"""The host rules that most people have already: they load unmodified, evaluate, and give what they should."""
# ruff: noqa: E501  # Tables read best with a line for each case.

import math
from collections.abc import Mapping
from typing import Any

import pytest

FS = 'job="node",fstype!="",mountpoint!=""'
CPU = 'rate(node_cpu_seconds_total{job="node", mode%s}[%s])'


def _filling(metric: str, whole: str, percent: int, hours: int) -> str:
    return (
        f"( {metric}{{{FS}}} / {whole}{{{FS}}} * 100 < {percent} and "
        f"predict_linear({metric}{{{FS}}}[6h], {hours}*60*60) < 0 and node_filesystem_readonly{{{FS}}} == 0 )"
    )


def _almost(metric: str, whole: str, percent: int) -> str:
    return (
        f"( {metric}{{{FS}}} / {whole}{{{FS}}} * 100 < {percent} and node_filesystem_readonly{{{FS}}} == 0 )"
    )


def _net(way: str, what: str, device: str) -> str:
    return f'sum without (device) ( rate(node_network_{way}_{what}_total{{job="node", {device}}}[5m]) )'


BYTES, FILES = (
    ("node_filesystem_avail_bytes", "node_filesystem_size_bytes"),
    ("node_filesystem_files_free", "node_filesystem_files"),
)
ALERTS: dict[str, tuple[str, str]] = {
    "SpaceFillingUp": (_filling(*BYTES, 40, 24), "1h"),
    "SpaceFillingUpSoon": (_filling(*BYTES, 20, 4), "1h"),
    "AlmostOutOfSpace": (_almost(*BYTES, 5), "30m"),
    "FilesFillingUp": (_filling(*FILES, 40, 24), "1h"),
    "AlmostOutOfFiles": (_almost(*FILES, 3), "1h"),
    "ReceiveErrs": ('rate(node_network_receive_errs_total{job="node"}[2m]) / rate(node_network_receive_packets_total{job="node"}[2m]) > 0.01', "1h"),
    "Conntrack": ('(node_nf_conntrack_entries{job="node"} / node_nf_conntrack_entries_limit) > 0.75', "0s"),
    "ClockSkew": (
        ('( node_timex_offset_seconds{job="node"} > 0.05 and deriv(node_timex_offset_seconds{job="node"}[5m]) >= 0 ) or '
        '( node_timex_offset_seconds{job="node"} < -0.05 and deriv(node_timex_offset_seconds{job="node"}[5m]) <= 0 )'), "10m"),
    "ClockNotSynchronising": ('min_over_time(node_timex_sync_status{job="node"}[5m]) == 0 and node_timex_maxerror_seconds{job="node"} >= 16', "10m"),
    "RaidDegraded": ('node_md_disks_required{job="node",device!=""} - ignoring (state) (node_md_disks{state="active",job="node",device!=""}) > 0', "15m"),
    "FileDescriptors": ('( node_filefd_allocated{job="node"} * 100 / node_filefd_maximum{job="node"} > 70 )', "15m"),
    "CpuHighUsage": ('sum without(mode) (avg without (cpu) (rate(node_cpu_seconds_total{job="node", mode!~"idle|iowait"}[2m]))) * 100 > 90', "15m"),
    "Saturation": ('node_load1{job="node"} / count without (cpu, mode) (node_cpu_seconds_total{job="node", mode="idle"}) > 2', "15m"),
    "MajorFaults": ('rate(node_vmstat_pgmajfault{job="node"}[5m]) > 500', "15m"),
    "MemoryHigh": ('100 - (node_memory_MemAvailable_bytes{job="node"} / node_memory_MemTotal_bytes{job="node"} * 100) > 90', "15m"),
    "DiskIOSaturation": ('rate(node_disk_io_time_weighted_seconds_total{job="node", device!=""}[5m]) > 10', "30m"),
    "ServiceFailed": ('node_systemd_unit_state{job="node", state="failed"} == 1', "5m"),
    "Crashlooping": ('increase(node_systemd_service_restart_total{job="node"}[5m]) > 2', "15m"),
    "Bonding": ('(node_bonding_slaves{job="node"} - node_bonding_active{job="node"}) != 0', "5m"),
}  # fmt: skip
RECORDINGS: dict[str, str] = {
    "instance:node_num_cpu:sum": 'count without (cpu, mode) ( node_cpu_seconds_total{job="node",mode="idle"} )',
    "instance:node_cpu_utilisation:rate5m": f'1 - avg without (cpu) ( sum without (mode) ({CPU % ("=~" + chr(34) + "idle|iowait|steal" + chr(34), "5m")}) )',
    "instance:node_load1_per_cpu:ratio": '( node_load1{job="node"} / instance:node_num_cpu:sum{job="node"} )',
    "instance:node_memory_utilisation:ratio":
        '1 - ( ( node_memory_MemAvailable_bytes{job="node"} or ( node_memory_Buffers_bytes{job="node"} + node_memory_Cached_bytes{job="node"} '
        '+ node_memory_MemFree_bytes{job="node"} + node_memory_Slab_bytes{job="node"} ) ) / node_memory_MemTotal_bytes{job="node"} )',
    "instance:node_vmstat_pgmajfault:rate5m": 'rate(node_vmstat_pgmajfault{job="node"}[5m])',
    "instance_device:node_disk_io_time_weighted_seconds:rate5m": 'rate(node_disk_io_time_weighted_seconds_total{job="node", device!=""}[5m])',
    "instance:node_network_receive_bytes_excluding_lo:rate5m": _net("receive", "bytes", 'device!="lo"'),
    "instance:node_network_receive_bytes_physical:rate5m": _net("receive", "bytes", 'device!~"lo|veth.+"'),
}  # fmt: skip


def _file() -> str:
    lines = ["groups:", "- name: node", "  rules:"]
    for name, expr in RECORDINGS.items():
        lines += [f"  - record: {name}", f"    expr: {expr}"]
    for name, (expr, wait) in ALERTS.items():
        lines += [f"  - alert: {name}", "    expr: |", f"      {expr}", f"    for: {wait}", "    labels: {severity: warning}",
                  '    annotations: {description: "{{ $labels.instance }} {{ printf \\"%.2f\\" $value }}%"}']  # fmt: skip
    return "\n".join(lines) + "\n"


def _values(it: Any, second: float) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    fs = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/"}
    plain: Mapping[str, float] = {
        "node_load1": 6.0,
        "node_memory_MemAvailable_bytes": 4e9,
        "node_memory_MemTotal_bytes": 16e9,
        "node_vmstat_pgmajfault": 2 * second,
        "node_filefd_allocated": 80.0,
        "node_filefd_maximum": 100.0,
        "node_nf_conntrack_entries": 90.0,
        "node_nf_conntrack_entries_limit": 100.0,
        "node_timex_offset_seconds": 0.1 + second / 1e6,
    }
    found = {(name, ()): value for name, value in plain.items()}

    def add(name: str, value: float, /, **labels: str) -> None:
        found[name, tuple(sorted(labels.items()))] = value

    for cpu in "01":
        add("node_cpu_seconds_total", 0.6 * second, cpu=cpu, mode="idle")
        add("node_cpu_seconds_total", 0.1 * second, cpu=cpu, mode="iowait")
        add("node_cpu_seconds_total", 0.3 * second, cpu=cpu, mode="user")
    for device, speed in (("eth0", 1000.0), ("veth1", 100.0), ("lo", 1.0)):
        add("node_network_receive_bytes_total", speed * second, device=device)
        add("node_network_receive_packets_total", second, device=device)
        add("node_network_receive_errs_total", 0.1 * second, device=device)
    add("node_filesystem_avail_bytes", 15e9 - 1e6 * second, **fs)
    add("node_filesystem_size_bytes", 100e9, **fs)
    add("node_filesystem_readonly", 0.0, **fs)
    add("node_md_disks_required", 2.0, device="md0")
    add("node_md_disks", 1.0, device="md0", state="active")
    add("node_systemd_unit_state", 1.0, name="a.service", state="failed", type="simple")
    return found


def test_they_load_and_evaluate_over_hosts(house: Any) -> None:
    it = house(step_ms=60_000)
    it.load(_file())

    def move(it: Any) -> None:
        second = (it.now_ms - 1_700_000_010_000) / 1000
        it.hosts = {"a": _values(it, second), "b": _values(it, second)}

    it.run(70, move)
    failing = [run.rule.name for run in it.book.groups()[0].runs if run.health.health != "ok"]
    assert failing == []
    firing = {rule for (rule, host), state in it.states().items() if state == "firing" and host == "a"}
    assert firing == {
        "SpaceFillingUp", "SpaceFillingUpSoon", "ReceiveErrs", "Conntrack", "ClockSkew", "RaidDegraded",
        "FileDescriptors", "Saturation", "ServiceFailed",
    }  # fmt: skip
    newest = {}
    for name in RECORDINGS:
        for labels, samples in it.series_written(name).items():
            if ("instance", "a") in labels:
                newest[name, dict(labels).get("device", "")] = samples[-1][1]
    expected = {
        ("instance:node_num_cpu:sum", ""): 2,
        ("instance:node_cpu_utilisation:rate5m", ""): 0.3,
        ("instance:node_load1_per_cpu:ratio", ""): 3,
        ("instance:node_memory_utilisation:ratio", ""): 0.75,
        ("instance:node_vmstat_pgmajfault:rate5m", ""): 2,
        ("instance:node_network_receive_bytes_excluding_lo:rate5m", ""): 1100,
        ("instance:node_network_receive_bytes_physical:rate5m", ""): 1000,
    }
    assert newest.keys() == expected.keys()
    for name, value in expected.items():
        assert math.isclose(newest[name], value, rel_tol=1e-9), name


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_expression_looks_only_at_what_it_names(house: Any, name: str) -> None:
    it = house()
    it.load(f"groups:\n- name: g\n  rules:\n  - alert: {name}\n    expr: |\n      {ALERTS[name][0]}\n")
    assert all(metric.startswith("node_") for metric in it.book.metric_names())
    assert {watch.window_ms for watch in it.head.watches} <= {0, 120_000, 300_000, 21_600_000}
