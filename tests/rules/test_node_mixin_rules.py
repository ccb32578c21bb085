"""The host rules that most people have already: they load unmodified, every alert of them fires on its fault and clears,
and every recording gives what it should.

The table has the names, severities, waits and expressions of node_exporter's rules, with their usual settings filled
in. `WATCHBILL_NODE_MIXIN` may name the rendered file itself: then that file is judged, word for word.
"""
# ruff: noqa: E501  # Tables read best with a line for each case.

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.rules import stock_sources
from watchbill_collector.rules.files import load

FS = 'job="node",fstype!="",mountpoint!=""'


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
NODE = 'job="node"'
ALERTS: tuple[tuple[str, str, str, str], ...] = (
    ("NodeFilesystemSpaceFillingUp", "warning", "1h", _filling(*BYTES, 40, 24)),
    ("NodeFilesystemSpaceFillingUp", "critical", "1h", _filling(*BYTES, 20, 4)),
    ("NodeFilesystemAlmostOutOfSpace", "warning", "30m", _almost(*BYTES, 5)),
    ("NodeFilesystemAlmostOutOfSpace", "critical", "30m", _almost(*BYTES, 3)),
    ("NodeFilesystemFilesFillingUp", "warning", "1h", _filling(*FILES, 40, 24)),
    ("NodeFilesystemFilesFillingUp", "critical", "1h", _filling(*FILES, 20, 4)),
    ("NodeFilesystemAlmostOutOfFiles", "warning", "1h", _almost(*FILES, 5)),
    ("NodeFilesystemAlmostOutOfFiles", "critical", "1h", _almost(*FILES, 3)),
    ("NodeNetworkReceiveErrs", "warning", "1h", f"rate(node_network_receive_errs_total{{{NODE}}}[2m]) / rate(node_network_receive_packets_total{{{NODE}}}[2m]) > 0.01"),
    ("NodeNetworkTransmitErrs", "warning", "1h", f"rate(node_network_transmit_errs_total{{{NODE}}}[2m]) / rate(node_network_transmit_packets_total{{{NODE}}}[2m]) > 0.01"),
    ("NodeHighNumberConntrackEntriesUsed", "warning", "0s", f"(node_nf_conntrack_entries{{{NODE}}} / node_nf_conntrack_entries_limit) > 0.75"),
    ("NodeTextFileCollectorScrapeError", "warning", "0s", f"node_textfile_scrape_error{{{NODE}}} == 1"),
    ("NodeClockSkewDetected", "warning", "10m", (
        f"( node_timex_offset_seconds{{{NODE}}} > 0.05 and deriv(node_timex_offset_seconds{{{NODE}}}[5m]) >= 0 ) or "
        f"( node_timex_offset_seconds{{{NODE}}} < -0.05 and deriv(node_timex_offset_seconds{{{NODE}}}[5m]) <= 0 )")),
    ("NodeClockNotSynchronising", "warning", "10m", f"min_over_time(node_timex_sync_status{{{NODE}}}[5m]) == 0 and node_timex_maxerror_seconds{{{NODE}}} >= 16"),
    ("NodeRAIDDegraded", "critical", "15m", f'node_md_disks_required{{{NODE},device!=""}} - ignoring (state) (node_md_disks{{state="active",{NODE},device!=""}}) > 0'),
    ("NodeRAIDDiskFailure", "warning", "0s", f'node_md_disks{{state="failed",{NODE},device!=""}} > 0'),
    ("NodeFileDescriptorLimit", "warning", "15m", f"( node_filefd_allocated{{{NODE}}} * 100 / node_filefd_maximum{{{NODE}}} > 70 )"),
    ("NodeFileDescriptorLimit", "critical", "15m", f"( node_filefd_allocated{{{NODE}}} * 100 / node_filefd_maximum{{{NODE}}} > 90 )"),
    ("NodeCPUHighUsage", "info", "15m", f'sum without(mode) (avg without (cpu) (rate(node_cpu_seconds_total{{{NODE}, mode!~"idle|iowait"}}[2m]))) * 100 > 90'),
    ("NodeSystemSaturation", "warning", "15m", f'node_load1{{{NODE}}} / count without (cpu, mode) (node_cpu_seconds_total{{{NODE}, mode="idle"}}) > 2'),
    ("NodeMemoryMajorPagesFaults", "warning", "15m", f"rate(node_vmstat_pgmajfault{{{NODE}}}[5m]) > 500"),
    ("NodeMemoryHighUtilization", "warning", "15m", f"100 - (node_memory_MemAvailable_bytes{{{NODE}}} / node_memory_MemTotal_bytes{{{NODE}}} * 100) > 90"),
    ("NodeDiskIOSaturation", "warning", "30m", f'rate(node_disk_io_time_weighted_seconds_total{{{NODE}, device!=""}}[5m]) > 10'),
    ("NodeSystemdServiceFailed", "warning", "5m", f'node_systemd_unit_state{{{NODE}, state="failed"}} == 1'),
    ("NodeSystemdServiceCrashlooping", "warning", "15m", f"increase(node_systemd_service_restart_total{{{NODE}}}[5m]) > 2"),
    ("NodeBondingDegraded", "warning", "5m", f"(node_bonding_slaves{{{NODE}}} - node_bonding_active{{{NODE}}}) != 0"),
)  # fmt: skip
RECORDINGS: dict[str, str] = {
    "instance:node_num_cpu:sum": f'count without (cpu, mode) ( node_cpu_seconds_total{{{NODE},mode="idle"}} )',
    "instance:node_cpu_utilisation:rate5m": f'1 - avg without (cpu) ( sum without (mode) (rate(node_cpu_seconds_total{{{NODE}, mode=~"idle|iowait|steal"}}[5m])) )',
    "instance:node_load1_per_cpu:ratio": f"( node_load1{{{NODE}}} / instance:node_num_cpu:sum{{{NODE}}} )",
    "instance:node_memory_utilisation:ratio":
        f"1 - ( ( node_memory_MemAvailable_bytes{{{NODE}}} or ( node_memory_Buffers_bytes{{{NODE}}} + node_memory_Cached_bytes{{{NODE}}} "
        f"+ node_memory_MemFree_bytes{{{NODE}}} + node_memory_Slab_bytes{{{NODE}}} ) ) / node_memory_MemTotal_bytes{{{NODE}}} )",
    "instance:node_vmstat_pgmajfault:rate5m": f"rate(node_vmstat_pgmajfault{{{NODE}}}[5m])",
    "instance_device:node_disk_io_time_seconds:rate5m": f'rate(node_disk_io_time_seconds_total{{{NODE}, device!=""}}[5m])',
    "instance_device:node_disk_io_time_weighted_seconds:rate5m": f'rate(node_disk_io_time_weighted_seconds_total{{{NODE}, device!=""}}[5m])',
    **{
        f"instance:node_network_{way}_{what}_{name}:rate5m": _net(way, what, device)
        for what in ("bytes", "drop")
        for name, device in (("excluding_lo", 'device!="lo"'), ("physical", 'device!~"lo|veth.+"'))
        for way in ("receive", "transmit")
    },
}  # fmt: skip


def _file() -> str:
    path = os.environ.get("WATCHBILL_NODE_MIXIN")
    if path:
        return Path(path).read_text("utf-8")
    lines = ["groups:", "- name: node", "  rules:"]
    for name, expr in RECORDINGS.items():
        lines += [f"  - record: {name}", f"    expr: {expr}"]
    for name, severity, wait, expr in ALERTS:
        lines += [f"  - alert: {name}", "    expr: |", f"      {expr}", f"    for: {wait}", f"    labels: {{severity: {severity}}}",
                  '    annotations: {description: "{{ $labels.instance }} {{ printf \\"%.2f\\" $value }}%, {{ $value | humanizePercentage }}"}']  # fmt: skip
    return "\n".join(lines) + "\n"


Key = tuple[str, tuple[tuple[str, str], ...]]


def key(name: str, /, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


ROOT = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/"}
UNIT = {"name": "a.service", "state": "failed", "type": "simple"}
AVAILABLE, FREE = key("node_filesystem_avail_bytes", **ROOT), key("node_filesystem_files_free", **ROOT)
GAUGES: dict[Key, float] = {
    AVAILABLE: 60e9,
    key("node_filesystem_size_bytes", **ROOT): 100e9,
    FREE: 600_000,
    key("node_filesystem_files", **ROOT): 1_000_000,
    key("node_filesystem_readonly", **ROOT): 0,
    key("node_nf_conntrack_entries"): 10,
    key("node_nf_conntrack_entries_limit"): 100,
    key("node_textfile_scrape_error"): 0,
    key("node_timex_offset_seconds"): 0.001,
    key("node_timex_sync_status"): 1,
    key("node_timex_maxerror_seconds"): 0.1,
    key("node_md_disks_required", device="md0"): 2,
    key("node_md_disks", device="md0", state="active"): 2,
    key("node_md_disks", device="md0", state="failed"): 0,
    key("node_filefd_allocated"): 10,
    key("node_filefd_maximum"): 100,
    key("node_load1"): 1,
    key("node_memory_MemAvailable_bytes"): 8e9,
    key("node_memory_MemTotal_bytes"): 16e9,
    key("node_systemd_unit_state", **UNIT): 0,
    key("node_bonding_slaves", master="bond0"): 2,
    key("node_bonding_active", master="bond0"): 2,
}
RATES: dict[Key, float] = {
    **{key("node_cpu_seconds_total", cpu=cpu, mode="idle"): 0.6 for cpu in "01"},
    **{key("node_cpu_seconds_total", cpu=cpu, mode="iowait"): 0.1 for cpu in "01"},
    **{key("node_cpu_seconds_total", cpu=cpu, mode="user"): 0.3 for cpu in "01"},
    **{key(f"node_network_{way}_{what}_total", device=device): rate
       for way in ("receive", "transmit")
       for what, rate in (("packets", 100), ("errs", 0), ("bytes", 1_000), ("drop", 1))
       for device in ("eth0", "veth1", "lo")},
    key("node_vmstat_pgmajfault"): 2,
    key("node_disk_io_time_seconds_total", device="sda"): 0.5,
    key("node_disk_io_time_weighted_seconds_total", device="sda"): 1.5,
    key("node_systemd_service_restart_total", name="a.service"): 0,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is otherwise on a host, and at which pace something shrinks, a minute."""

    gauges: Mapping[Key, float] = field(default_factory=dict)
    rates: Mapping[Key, float] = field(default_factory=dict)
    shrinks: Mapping[Key, float] = field(default_factory=dict)


FAULTS: dict[tuple[str, str], Fault] = {
    ("NodeFilesystemSpaceFillingUp", "warning"): Fault({AVAILABLE: 39e9}, shrinks={AVAILABLE: 0.1e9}),
    ("NodeFilesystemSpaceFillingUp", "critical"): Fault({AVAILABLE: 19e9}, shrinks={AVAILABLE: 0.1e9}),
    ("NodeFilesystemAlmostOutOfSpace", "warning"): Fault({AVAILABLE: 4.9e9}),
    ("NodeFilesystemAlmostOutOfSpace", "critical"): Fault({AVAILABLE: 2.9e9}),
    ("NodeFilesystemFilesFillingUp", "warning"): Fault({FREE: 390_000}, shrinks={FREE: 1_000}),
    ("NodeFilesystemFilesFillingUp", "critical"): Fault({FREE: 190_000}, shrinks={FREE: 1_000}),
    ("NodeFilesystemAlmostOutOfFiles", "warning"): Fault({FREE: 49_000}),
    ("NodeFilesystemAlmostOutOfFiles", "critical"): Fault({FREE: 29_000}),
    ("NodeNetworkReceiveErrs", "warning"): Fault(rates={key("node_network_receive_errs_total", device="eth0"): 1.1}),
    ("NodeNetworkTransmitErrs", "warning"): Fault(rates={key("node_network_transmit_errs_total", device="eth0"): 1.1}),
    ("NodeHighNumberConntrackEntriesUsed", "warning"): Fault({key("node_nf_conntrack_entries"): 76}),
    ("NodeTextFileCollectorScrapeError", "warning"): Fault({key("node_textfile_scrape_error"): 1}),
    ("NodeClockSkewDetected", "warning"): Fault({key("node_timex_offset_seconds"): -0.06}),
    ("NodeClockNotSynchronising", "warning"): Fault({key("node_timex_sync_status"): 0, key("node_timex_maxerror_seconds"): 16}),
    ("NodeRAIDDegraded", "critical"): Fault({key("node_md_disks", device="md0", state="active"): 1}),
    ("NodeRAIDDiskFailure", "warning"): Fault({key("node_md_disks", device="md0", state="failed"): 1}),
    ("NodeFileDescriptorLimit", "warning"): Fault({key("node_filefd_allocated"): 71}),
    ("NodeFileDescriptorLimit", "critical"): Fault({key("node_filefd_allocated"): 91}),
    ("NodeCPUHighUsage", "info"): Fault(rates={key("node_cpu_seconds_total", cpu=cpu, mode="user"): 0.92 for cpu in "01"}),
    ("NodeSystemSaturation", "warning"): Fault({key("node_load1"): 4.2}),
    ("NodeMemoryMajorPagesFaults", "warning"): Fault(rates={key("node_vmstat_pgmajfault"): 510}),
    ("NodeMemoryHighUtilization", "warning"): Fault({key("node_memory_MemAvailable_bytes"): 1.5e9}),
    ("NodeDiskIOSaturation", "warning"): Fault(rates={key("node_disk_io_time_weighted_seconds_total", device="sda"): 10.5}),
    ("NodeSystemdServiceFailed", "warning"): Fault({key("node_systemd_unit_state", **UNIT): 1}),
    ("NodeSystemdServiceCrashlooping", "warning"): Fault(rates={key("node_systemd_service_restart_total", name="a.service"): 0.01}),
    ("NodeBondingDegraded", "warning"): Fault({key("node_bonding_active", master="bond0"): 1}),
}  # fmt: skip
"""Just beyond each threshold, so that a rule read wrongly shows."""
WORSE = {
    ("NodeFilesystemSpaceFillingUp", "critical"): {("NodeFilesystemSpaceFillingUp", "warning")},
    ("NodeFilesystemAlmostOutOfSpace", "critical"): {("NodeFilesystemAlmostOutOfSpace", "warning")},
    ("NodeFilesystemFilesFillingUp", "critical"): {("NodeFilesystemFilesFillingUp", "warning")},
    ("NodeFilesystemAlmostOutOfFiles", "critical"): {("NodeFilesystemAlmostOutOfFiles", "warning")},
    ("NodeFileDescriptorLimit", "critical"): {("NodeFileDescriptorLimit", "warning")},
}
"""What fires along, because the worse contains the less bad."""
FILLING = {"NodeFilesystemSpaceFillingUp", "NodeFilesystemFilesFillingUp"}
HEALTHY, FAULTY, AFTER = 10, 80, 20
"""Minutes: before, long enough for an hour's wait, and until windows of five minutes forget."""
SELDOM = 5
"""Minutes between two judgements while hours of health go by."""
HEALTHY_LONG, FAULTY_LONG = 370, 170
"""The same where a rule looks back over six hours: until then it is warming, and a trend takes its time to show."""


def host_of(name: str, severity: str) -> str:
    return f"{name}-{severity}"


def _move(it: Any, number: int) -> None:
    """One minute of every host: healthy, then with its fault, then healthy again."""
    for host, values in it.hosts.items():
        fault = it.faults[host]
        faulty = it.healthy <= number < it.healthy + it.faulty
        for name, value in GAUGES.items():
            values[name] = fault.gauges.get(name, value) if faulty else value
            if faulty:
                values[name] -= fault.shrinks.get(name, 0.0) * (number - it.healthy)
        for name, rate in RATES.items():
            values[name] = values.get(name, 1_000.0) + 60 * (fault.rates.get(name, rate) if faulty else rate)


def _season(house: Any, faults: Mapping[str, Fault], healthy: int, faulty: int) -> Any:
    it = house(step_ms=60_000)
    it.load(_file())
    it.faults, it.healthy, it.faulty = faults, healthy, faulty
    it.hosts = {host: {} for host in faults}
    for number in range(healthy + faulty + AFTER):
        often = number >= healthy - HEALTHY
        it.run(1, partial(_move, number=number), judge=often or number % SELDOM == 0)
    return it


@pytest.fixture(scope="module")
def season(house: Any) -> Any:
    """Hosts with one fault each, and a healthy one, through two hours."""
    faults = {host_of(*each): fault for each, fault in FAULTS.items() if each[0] not in FILLING}
    return _season(house, {**faults, "healthy": Fault()}, HEALTHY, FAULTY)


@pytest.fixture(scope="module")
def long_season(house: Any) -> Any:
    """Those whose rules look back over six hours, and a healthy one, through nine."""
    faults = {host_of(*each): fault for each, fault in FAULTS.items() if each[0] in FILLING}
    return _season(house, {**faults, "healthy": Fault()}, HEALTHY_LONG, FAULTY_LONG)


def _fired(it: Any, host: str) -> set[tuple[str, str]]:
    return {
        (change.alert.rule, change.alert.labels["severity"])
        for change in it.changes
        if change.alert.labels["instance"] == host and change.alert.state.value == "firing"
    }


def test_the_file_has_every_rule_and_none_fails(season: Any) -> None:
    runs = [run for group in season.book.groups() for run in group.runs]
    alerts = [
        (run.rule.name, dict(run.rule.labels)["severity"].text) for run in runs if hasattr(run.rule, "for_ms")
    ]
    assert sorted(alerts) == sorted(FAULTS)
    assert {run.rule.name for run in runs if not hasattr(run.rule, "for_ms")} == set(RECORDINGS)
    assert [run.rule.name for run in runs if run.health.health != "ok"] == []


@pytest.mark.parametrize(("name", "severity"), sorted(FAULTS))
def test_an_alert_fires_on_its_fault_and_clears(
    season: Any, long_season: Any, name: str, severity: str
) -> None:
    season = long_season if name in FILLING else season
    told = [
        change.alert.state.value
        for change in season.changes
        if (change.alert.rule, change.alert.labels["severity"]) == (name, severity)
        and change.alert.labels["instance"] == host_of(name, severity)
    ]
    fired = told.index("firing")
    assert told[fired - 1 : fired + 2] == ["pending", "firing", "inactive"]
    others = {each for each in _fired(season, host_of(name, severity)) if each != (name, severity)}
    # A prediction over six hours sees a file system that is suddenly low as one that is filling up.
    sudden = {each for each in others if each[0] in FILLING and "AlmostOutOf" in name}
    assert others - sudden <= WORSE.get((name, severity), set())


def test_a_healthy_host_is_left_alone(season: Any, long_season: Any) -> None:
    assert _fired(season, "healthy") == set()
    assert _fired(long_season, "healthy") == set()


def test_the_words_of_every_alert_are_whole(season: Any) -> None:
    texts = [text for change in season.changes for text in change.alert.annotations.values()]
    assert texts
    assert [text for text in texts if not text or "{{" in text or "<error" in text] == []


def test_recordings_give_what_they_should(season: Any) -> None:
    newest = {}
    for name in RECORDINGS:
        for labels, samples in season.series_written(name).items():
            if ("instance", "healthy") in labels:
                newest[name, dict(labels).get("device", "")] = samples[-1][1]
    net = "instance:node_network_{}_{}_{}:rate5m"
    expected = {
        ("instance:node_num_cpu:sum", ""): 2,
        ("instance:node_cpu_utilisation:rate5m", ""): 0.3,
        ("instance:node_load1_per_cpu:ratio", ""): 0.5,
        ("instance:node_memory_utilisation:ratio", ""): 0.5,
        ("instance:node_vmstat_pgmajfault:rate5m", ""): 2,
        ("instance_device:node_disk_io_time_seconds:rate5m", "sda"): 0.5,
        ("instance_device:node_disk_io_time_weighted_seconds:rate5m", "sda"): 1.5,
        **{(net.format(way, "bytes", "excluding_lo"), ""): 2_000 for way in ("receive", "transmit")},
        **{(net.format(way, "bytes", "physical"), ""): 1_000 for way in ("receive", "transmit")},
        **{(net.format(way, "drop", "excluding_lo"), ""): 2 for way in ("receive", "transmit")},
        **{(net.format(way, "drop", "physical"), ""): 1 for way in ("receive", "transmit")},
    }
    assert newest.keys() == expected.keys()
    for series, value in expected.items():
        assert math.isclose(newest[series], value, rel_tol=1e-9), series


@pytest.mark.parametrize(("name", "severity", "wait", "expr"), ALERTS)
def test_an_expression_looks_only_at_what_it_names(
    house: Any, name: str, severity: str, wait: str, expr: str
) -> None:
    it = house()
    it.load(
        f"groups:\n- name: g\n  rules:\n  - alert: {name}\n    for: {wait}\n    labels: {{severity: {severity}}}\n    expr: |\n      {expr}\n"
    )
    assert all(metric.startswith("node_") for metric in it.book.metric_names())
    assert {watch.window_ms for watch in it.head.watches} <= {0, 120_000, 300_000, 21_600_000}


SAME_SYMPTOM = {
    "NodeFilesystemSpaceFillingUp": "FilesystemFullSoon",
    "NodeFilesystemAlmostOutOfSpace": "FilesystemAlmostFull",
    "NodeFilesystemFilesFillingUp": "FilesystemInodesSoon",
    "NodeFilesystemAlmostOutOfFiles": "FilesystemInodesAlmostGone",
    "NodeNetworkReceiveErrs": "InterfaceReceiveErrors",
    "NodeNetworkTransmitErrs": "InterfaceTransmitErrors",
    "NodeHighNumberConntrackEntriesUsed": "ConntrackFull",
    "NodeClockSkewDetected": "ClockSkew",
    "NodeClockNotSynchronising": "ClockNotSynchronised",
    "NodeRAIDDegraded": "RaidDegraded",
    "NodeRAIDDiskFailure": "RaidDiskFailed",
    "NodeFileDescriptorLimit": "HostFileDescriptors",
    "NodeCPUHighUsage": "HostCpuBusy",
    "NodeSystemSaturation": "HostCpuPressure",
    "NodeMemoryMajorPagesFaults": "HostMemoryMajorFaults",
    "NodeMemoryHighUtilization": "HostMemoryFull",
    "NodeDiskIOSaturation": "DiskSaturated",
}


def test_the_stock_pack_has_one_rule_for_each_of_these_symptoms() -> None:
    rules, _ = load(stock_sources())
    pack = {rule.name for rule in rules.rules}
    for name in {name for name, *_ in ALERTS}:
        assert len(pack & {name, SAME_SYMPTOM.get(name, name)}) == 1, name
    assert pack.isdisjoint(SAME_SYMPTOM)
