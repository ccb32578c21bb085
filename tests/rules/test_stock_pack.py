"""Every rule of the stock pack fires on the fault that it is for, and clears; and a healthy host is left
alone."""
# ruff: noqa: E501  # Tables read best with a line for each case.

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from watchbill_collector.rules import stock_sources
from watchbill_collector.rules.files import load

Key = tuple[str, tuple[tuple[str, str], ...]]


def key(name: str, /, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


ROOT = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/", "device_error": ""}
GIB = 2.0**30

GAUGES: dict[Key, float] = {
    key("up"): 1,
    key("node_memory_MemTotal_bytes"): 16 * GIB,
    key("node_memory_MemAvailable_bytes"): 10 * GIB,
    key("node_memory_HugePages_Total"): 0,
    key("node_memory_Hugepagesize_bytes"): 2.0**21,
    key("node_filefd_allocated"): 2_000,
    key("node_filefd_maximum"): 100_000,
    key("node_boot_time_seconds"): 1_690_000_000,
    key("node_filesystem_size_bytes", **ROOT): 100 * GIB,
    key("node_filesystem_avail_bytes", **ROOT): 35 * GIB,
    key("node_filesystem_files", **ROOT): 1_000_000,
    key("node_filesystem_files_free", **ROOT): 350_000,
    key("node_filesystem_readonly", **ROOT): 0,
    key("node_filesystem_device_error", **ROOT): 0,
    key("node_network_speed_bytes", device="eth0"): 125_000_000,
    key("node_nf_conntrack_entries"): 1_000,
    key("node_nf_conntrack_entries_limit"): 65_536,
    key("node_timex_sync_status"): 1,
    key("node_timex_maxerror_seconds"): 0.05,
    key("node_scrape_collector_success", collector="cpu"): 1,
    key("node_md_disks_required", device="md0"): 2,
    key("node_md_disks", device="md0", state="active"): 2,
    key("node_md_disks", device="md0", state="failed"): 0,
    key("watchbill_agent_clock_offset_seconds"): 0.01,
    key("watchbill_agent_config_last_reload_successful"): 1,
    key("watchbill_agent_certificate_lifetime_seconds"): 7 * 86_400,
    key("watchbill_collector_history_writable"): 1,
}
RATES: dict[Key, float] = {
    **{key("node_cpu_seconds_total", cpu=str(cpu), mode="idle"): 0.8 for cpu in range(2)},
    **{key("node_cpu_seconds_total", cpu=str(cpu), mode="user"): 0.2 for cpu in range(2)},
    key("node_pressure_cpu_waiting_seconds_total"): 0.01,
    key("node_pressure_memory_waiting_seconds_total"): 0.0,
    key("node_pressure_io_stalled_seconds_total"): 0.01,
    key("node_vmstat_oom_kill"): 0,
    key("node_vmstat_pgmajfault"): 3,
    key("node_disk_io_time_weighted_seconds_total", device="sda"): 0.1,
    **{key(f"node_network_{way}_packets_total", device="eth0"): 1_000 for way in ("receive", "transmit")},
    **{key(f"node_network_{way}_errs_total", device="eth0"): 0 for way in ("receive", "transmit")},
    **{key(f"node_network_{way}_bytes_total", device="eth0"): 1e6 for way in ("receive", "transmit")},
    key("node_netstat_TcpExt_ListenOverflows"): 0,
    key("watchbill_agent_ticks_missed_total"): 0,
    key("watchbill_collector_rules_missed_total"): 0,
    key("watchbill_collector_rules_failures_total"): 0,
    key("watchbill_agent_dropped_samples_total"): 0,
    key("watchbill_agent_collector_refused_total", reason="series"): 0,
}
IDLE = {each: 0.05 for each in RATES if each[0] == "node_cpu_seconds_total" and ("mode", "idle") in each[1]}


@dataclass(frozen=True)
class Fault:
    """What changes on a host, for how many steps, and which other alerts come with it."""

    gauges: dict[Key, float] = field(default_factory=dict)
    rates: dict[Key, float] = field(default_factory=dict)
    shrinks: dict[Key, float] = field(default_factory=dict)
    steps: int = 50
    too: frozenset[str] = frozenset()


def _gauge(name: str, value: float, /, *too: str, **labels: str) -> Fault:
    return Fault({key(name, **labels): value}, too=frozenset(too))


def _rate(name: str, value: float, *too: str, steps: int = 90, **labels: str) -> Fault:
    return Fault(rates={key(name, **labels): value}, too=frozenset(too), steps=steps)


AVAILABLE, FREE = key("node_filesystem_avail_bytes", **ROOT), key("node_filesystem_files_free", **ROOT)
FAULTS: dict[str, Fault] = {
    "HostSilent": _gauge("up", 0),
    "HostCpuBusy": Fault(rates=IDLE),
    "HostCpuPressure": Fault(rates={**IDLE, key("node_pressure_cpu_waiting_seconds_total"): 0.6}, too=frozenset(["HostCpuBusy"])),
    "HostMemoryFull": _gauge("node_memory_MemAvailable_bytes", 1 * GIB),
    "HostMemoryPressure": _rate("node_pressure_memory_waiting_seconds_total", 0.4),
    "HostOomKill": _rate("node_vmstat_oom_kill", 0.01, steps=10),
    "HostMemoryMajorFaults": _rate("node_vmstat_pgmajfault", 2_000),
    "HostIoPressure": _rate("node_pressure_io_stalled_seconds_total", 0.7),
    "HostFileDescriptors": _gauge("node_filefd_allocated", 95_000),
    "FilesystemFullSoon": Fault(shrinks={AVAILABLE: 4e6}, steps=60, too=frozenset(["FilesystemLow", "FilesystemAlmostFull"])),
    "FilesystemAlmostFull": _gauge("node_filesystem_avail_bytes", 1 * GIB, "FilesystemLow", "FilesystemFullSoon", **ROOT),
    "FilesystemLow": _gauge("node_filesystem_avail_bytes", 8 * GIB, "FilesystemFullSoon", **ROOT),
    "FilesystemInodesSoon": Fault(shrinks={FREE: 40.0}, steps=60, too=frozenset(["FilesystemInodesLow", "FilesystemInodesAlmostGone"])),
    "FilesystemInodesAlmostGone": _gauge("node_filesystem_files_free", 10_000, "FilesystemInodesLow", "FilesystemInodesSoon", **ROOT),
    "FilesystemInodesLow": _gauge("node_filesystem_files_free", 80_000, "FilesystemInodesSoon", **ROOT),
    "FilesystemUnreadable": _gauge("node_filesystem_device_error", 1, **ROOT),
    "FilesystemReadOnly": _gauge("node_filesystem_readonly", 1, **ROOT),
    "InterfaceReceiveErrors": _rate("node_network_receive_errs_total", 30, device="eth0"),
    "InterfaceTransmitErrors": _rate("node_network_transmit_errs_total", 30, device="eth0"),
    "InterfaceBusy": _rate("node_network_transmit_bytes_total", 1.2e8, device="eth0"),
    "ConntrackFull": _gauge("node_nf_conntrack_entries", 60_000),
    "ListenQueueOverflows": _rate("node_netstat_TcpExt_ListenOverflows", 5),
    "DiskSaturated": _rate("node_disk_io_time_weighted_seconds_total", 30, steps=80, device="sda"),
    "RaidDegraded": _gauge("node_md_disks", 1, device="md0", state="active"),
    "RaidDiskFailed": _gauge("node_md_disks", 1, device="md0", state="failed"),
    "ClockSkew": _gauge("watchbill_agent_clock_offset_seconds", -42.0),
    "ClockNotSynchronised": Fault({key("node_timex_sync_status"): 0, key("node_timex_maxerror_seconds"): 16}),
    "AgentSamplerFailing": _gauge("node_scrape_collector_success", 0, collector="cpu"),
    "AgentLate": _rate("watchbill_agent_ticks_missed_total", 0.2),
    "AgentLosesSamples": _rate("watchbill_agent_dropped_samples_total", 10, steps=10),
    "AgentRefused": _rate("watchbill_agent_collector_refused_total", 1, reason="series"),
    "AgentConfigurationRefused": _gauge("watchbill_agent_config_last_reload_successful", 0),
    "CollectorTakesNothing": _gauge("watchbill_collector_history_writable", 0),
    "CollectorJudgesLate": _rate("watchbill_collector_rules_missed_total", 0.05),
    "CollectorRuleFails": _rate("watchbill_collector_rules_failures_total", 0.05),
}  # fmt: skip
BY_TIME = {"HostRebooted", "AgentCertificateExpires", "AgentCertificateExpiresSoon"}
SEVERITIES = {"critical", "major", "minor", "info"}
HEALTHY = 30
"""Steps of 30 s before the faults begin."""
REST = 90
"""Steps by which all faults are over."""
AFTER = 130
"""Steps in which even windows of an hour forget them."""


def _move(it: Any, number: int) -> None:
    """One step of every host: healthy, then with its fault, then healthy again."""
    seconds = it.step_ms / 1000
    for host, values in it.hosts.items():
        fault = FAULTS.get(host, Fault())
        faulty = HEALTHY <= number < HEALTHY + fault.steps
        for name, value in GAUGES.items():
            if faulty and name in fault.shrinks:
                values[name] = max(0.0, values[name] - fault.shrinks[name] * seconds)
            else:
                values[name] = fault.gauges.get(name, value) if faulty else value
        for name, rate in RATES.items():
            values[name] = values.get(name, 1_000.0) + seconds * (
                fault.rates.get(name, rate) if faulty else rate
            )
        values[key("node_time_seconds")] = it.now_ms / 1000
        expires = it.now_ms / 1000 + 5 * 86_400
        if host == "AgentCertificateExpires" and number >= HEALTHY:
            expires = it.now_ms / 1000 + 2 * 86_400
        if host == "AgentCertificateExpiresSoon" and number >= HEALTHY:
            expires = it.now_ms / 1000 + 0.5 * 86_400
        if number >= HEALTHY + REST:
            expires = it.now_ms / 1000 + 5 * 86_400
        values[key("watchbill_agent_certificate_expiry_seconds")] = expires
        if host == "HostRebooted" and number >= HEALTHY:
            values[key("node_boot_time_seconds")] = it.booted


@pytest.fixture(scope="module")
def season(house: Any) -> Any:
    """All hosts, each with one fault, through one long evening."""
    it = house(step_ms=30_000)
    assert it.book.reload(stock_sources(), it.now_ms) == []
    it.hosts = {host: {} for host in [*FAULTS, *sorted(BY_TIME), "healthy"]}
    it.booted = it.now_ms / 1000 + HEALTHY * 30
    for number in range(HEALTHY + REST + AFTER):
        it.run(1, partial(_move, number=number))
    return it


@pytest.mark.parametrize("rule", sorted([*FAULTS, *BY_TIME]))
def test_a_rule_fires_on_its_fault_and_clears(season: Any, rule: str) -> None:
    told = [
        change.alert.state.value
        for change in season.changes
        if change.alert.rule == rule and change.alert.labels["instance"] == rule
    ]
    fired = told.index("firing")
    assert told[fired - 1 : fired + 2] == ["pending", "firing", "inactive"]
    assert told[-1] == "inactive"


@pytest.mark.parametrize("rule", sorted(FAULTS))
def test_a_fault_raises_no_other_alert(season: Any, rule: str) -> None:
    raised = {
        change.alert.rule
        for change in season.changes
        if change.alert.labels["instance"] == rule and change.alert.state.value == "firing"
    }
    assert raised <= {rule, *FAULTS[rule].too}


def test_a_healthy_host_is_left_alone(season: Any) -> None:
    firing = [change for change in season.changes if change.alert.state.value == "firing"]
    assert [change for change in firing if change.alert.labels["instance"] == "healthy"] == []


def test_every_rule_has_its_fault_here_a_severity_and_words() -> None:
    rules, problems = load(stock_sources())
    assert problems == []
    names = [rule.name for rule in rules.rules]
    assert sorted(names) == sorted([*FAULTS, *BY_TIME])
    assert len(set(names)) == len(names)
    for rule in rules.rules:
        labels = {name: template.text for name, template in rule.labels}
        assert labels["severity"] in SEVERITIES, rule.name
        assert {name for name, _ in rule.annotations} == {"summary", "description"}, rule.name


def test_the_words_of_every_alert_are_whole(season: Any) -> None:
    for change in season.changes:
        for text in change.alert.annotations.values():
            assert text
            assert "<" not in text, text
            assert "{{" not in text
