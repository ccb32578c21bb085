"""Every rule of the stock pack fires on the fault that it is for, and clears; and a healthy host is left
alone."""
# ruff: noqa: E501  # Tables read best with a line for each case.

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from watchbill_collector.rules import stock_sources
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import AlertingRule
from watchbill_collector.rules.stock import stock_files, unknown_stock

Key = tuple[str, tuple[tuple[str, str], ...]]


def key(name: str, /, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


OWN = {
    "fresh": "critical",
    "run": "minor",
    "size": "major",
    "verify": "major",
    "copies": "major",
    "ledger": "info",
}
"""How bad each side of a backup is, as its job says."""


def facet(name: str) -> Key:
    return key("watchbill_backup_facet", backup="nightly", facet=name, severity=OWN[name])


def book(name: str) -> Key:
    return key(f"watchbill_runbook_{name}", runbook="failover")


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
    **{key("node_scrape_collector_success", collector=one): 0 for one in ("bonding", "conntrack", "mdadm")},
    key("node_md_disks_required", device="md0"): 2,
    key("node_md_disks", device="md0", state="active"): 2,
    key("node_md_disks", device="md0", state="failed"): 0,
    key("watchbill_agent_clock_offset_seconds"): 0.01,
    key("watchbill_agent_config_last_reload_successful"): 1,
    key("watchbill_agent_certificate_lifetime_seconds"): 7 * 86_400,
    key("watchbill_collector_history_writable"): 1,
    key("watchbill_collector_channel_failing_seconds", channel="ops"): 0,
    key("watchbill_collector_notices_oldest_seconds", channel="ops"): 0,
    key("watchbill_collector_audit_witnesses_disagreeing"): 0,
    key("watchbill_runbook_breakglass_recent"): 0,
    key("node_textfile_scrape_error"): 0,
    key("node_systemd_unit_state", name="a.service", state="failed", type="simple"): 0,
    key("node_bonding_slaves", master="bond0"): 2,
    key("node_bonding_active", master="bond0"): 2,
    key("probe_success", check="web"): 1,
    key("probe_duration_seconds", check="web"): 0.2,
    key("watchbill_check_info", check="web", essential="true", kind="http"): 1,
    key("watchbill_check_status", check="web"): 0,
    key("probe_success", check="nightly"): 1,
    key("watchbill_check_info", check="nightly", essential="true", kind="heartbeat"): 1,
    # A plugin that takes long is no slow answer.
    key("probe_success", check="updates"): 1,
    key("probe_duration_seconds", check="updates"): 12,
    key("watchbill_check_info", check="updates", essential="false", kind="exec"): 1,
    key("pg_stat_activity_count", check="pg", datname="shop", state="active"): 10,
    key("pg_stat_activity_count", check="pg", datname="shop", state="idle"): 30,
    key("pg_settings_max_connections", check="pg"): 100,
    key("watchbill_check_database_duration_seconds", check="pg", phase="connect"): 2.0,
    key("watchbill_check_database_duration_seconds", check="pg", phase="query"): 0.1,
    key("pg_replication_lag_seconds", check="pg"): 0.5,
    key("watchbill_log_backlog_bytes", check="access"): 0,
    **{facet(name): 0 for name in OWN},
    key("watchbill_backup_missed", backup="nightly"): 0,
    key("watchbill_backup_service_rpo_seconds", service="shop"): 600,
    key("watchbill_backup_service_rpo_objective_seconds", service="shop"): 3_600,
    **{
        book(name): 0
        for name in ("held", "failed", "stopped", "breaker_open", "drill_failed", "drill_overdue")
    },
    **{book(name): 1 for name in ("ready", "accepted")},
    key("watchbill_runbook_runs_open", runbook="failover", state="proposed"): 0,
    book("recovery_seconds"): 300,
    book("objective_rto_seconds"): 600,
    key("watchbill_updates_pending"): 0,
    key("watchbill_updates_security_pending"): 0,
    key("node_reboot_required"): 0,
    key("watchbill_security_login_users_fingerprint"): 763_978_139,
    key("watchbill_security_file_fingerprint", path="/etc/passwd"): 281_474_976_710_655,
    key("watchbill_roster_hosts_behind"): 0,
    key("watchbill_roster_people_disabled"): 0,
    key("watchbill_roster_role_people", role="dba"): 3,
    key("watchbill_roster_role_needed", role="dba"): 2,
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
    **{key("watchbill_security_ports_opened_total", proto=proto): 0 for proto in ("tcp", "udp")},
    key("watchbill_security_logins_total", method="password", result="failure"): 0.01,
    key("watchbill_security_logins_total", method="password", result="success"): 1,
    key("watchbill_security_logins_after_burst_total"): 0,
    key("watchbill_agent_ticks_missed_total"): 0,
    key("watchbill_collector_rules_missed_total"): 0,
    key("watchbill_collector_rules_failures_total"): 0,
    key("watchbill_collector_ingest_samples_lost_total"): 0,
    key("watchbill_collector_ingest_gaps_total"): 0,
    **{
        key("watchbill_collector_notices_total", channel="ops", outcome=outcome): 0
        for outcome in ("refused", "given_up")
    },
    key("watchbill_collector_notices_total", channel="ops", outcome="delivered"): 0.1,
    key("node_systemd_service_restart_total", name="a.service"): 0,
    key("watchbill_agent_dropped_samples_total"): 0,
    key("watchbill_agent_collector_refused_total", reason="series"): 0,
    key("watchbill_check_statsd_lost_total", check="statsd"): 0,
    key("watchbill_agent_check_looks_total"): 20,
    **{
        key(f"watchbill_agent_check_{what}_total"): 0
        for what in ("late", "restarts", "samples_dropped", "events_dropped")
    },
    key("http_requests_total", code="200", method="GET"): 40.0,
    key("http_requests_total", code="503", method="GET"): 0.01,
    key("http_request_duration_seconds_bucket", le="3", method="GET"): 40.0,
    key("http_request_duration_seconds_bucket", le="10", method="GET"): 40.01,
    key("http_request_duration_seconds_bucket", le="+Inf", method="GET"): 40.01,
    key("http_request_duration_seconds_count", method="GET"): 40.01,
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


def _rate(name: str, value: float, /, *too: str, steps: int = 90, **labels: str) -> Fault:
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
    "AgentChecksLate": _rate("watchbill_agent_check_late_total", 2),
    "AgentChecksRestart": _rate("watchbill_agent_check_restarts_total", 0.01),
    "AgentChecksLose": _rate("watchbill_agent_check_samples_dropped_total", 5, steps=10),
    "AgentLosesSamples": _rate("watchbill_agent_dropped_samples_total", 10, steps=10),
    "AgentRefused": _rate("watchbill_agent_collector_refused_total", 1, reason="series"),
    "AgentConfigurationRefused": _gauge("watchbill_agent_config_last_reload_successful", 0),
    "NodeTextFileCollectorScrapeError": _gauge("node_textfile_scrape_error", 1),
    "NodeSystemdServiceFailed": _gauge("node_systemd_unit_state", 1, name="a.service", state="failed", type="simple"),
    "NodeSystemdServiceCrashlooping": _rate("node_systemd_service_restart_total", 0.02, name="a.service"),
    "NodeBondingDegraded": _gauge("node_bonding_active", 1, master="bond0"),
    "CollectorLosesSamples": _rate("watchbill_collector_ingest_samples_lost_total", 1, steps=10),
    "DataMissing": _rate("watchbill_collector_ingest_gaps_total", 0.01, steps=10),
    "CollectorTakesNothing": _gauge("watchbill_collector_history_writable", 0),
    "CollectorJudgesLate": _rate("watchbill_collector_rules_missed_total", 0.05),
    "CollectorRuleFails": _rate("watchbill_collector_rules_failures_total", 0.05),
    "ChannelFailing": Fault({key("watchbill_collector_channel_failing_seconds", channel="ops"): 400.0, key("watchbill_collector_notices_oldest_seconds", channel="ops"): 2_000.0}),
    "NoticesWaiting": _gauge("watchbill_collector_notices_oldest_seconds", 2_000, channel="ops"),
    "NoticesLost": _rate("watchbill_collector_notices_total", 0.01, steps=10, channel="ops", outcome="given_up"),
    "CheckFailing": _gauge("probe_success", 0, check="web"),
    "HeartbeatMissed": _gauge("probe_success", 0, check="nightly"),
    "CheckUnknown": _gauge("watchbill_check_status", 3, check="web"),
    "CheckWarns": _gauge("watchbill_check_status", 1, check="web"),
    "ResponseSlow": _gauge("probe_duration_seconds", 4.5, check="web"),
    "RequestsSlow": _rate("http_request_duration_seconds_bucket", 37.0, le="3", method="GET"),
    "StatsdLosesDatagrams": _rate("watchbill_check_statsd_lost_total", 5, steps=10, check="statsd"),
    "LogReadLate": _gauge("watchbill_log_backlog_bytes", 100 * 2.0**20, check="access"),
    "DatabaseSlow": _gauge("watchbill_check_database_duration_seconds", 0.8, check="pg", phase="query"),
    "ReplicationLate": _gauge("pg_replication_lag_seconds", 90, check="pg"),
    "ConnectionsMany": _gauge("pg_stat_activity_count", 55, check="pg", datname="shop", state="active"),
    "ConnectionsAlmostGone": _gauge("pg_stat_activity_count", 90, "ConnectionsMany", check="pg", datname="shop", state="active"),
    "ErrorRateHigh": _rate("http_requests_total", 2, code="503", method="GET"),
    "AuditDisputed": _gauge("watchbill_collector_audit_witnesses_disagreeing", 1),
    "GlassBroken": _gauge("watchbill_runbook_breakglass_recent", 1),
    "SecurityUpdatesPending": Fault({key("watchbill_updates_pending"): 5, key("watchbill_updates_security_pending"): 3}, steps=130),
    "UpdatesPending": Fault({key("watchbill_updates_pending"): 2}, steps=130),
    "RebootRequired": _gauge("node_reboot_required", 1),
    "ListeningPortNew": _rate("watchbill_security_ports_opened_total", 0.01, steps=4, proto="tcp"),
    "LoginUsersChanged": Fault({key("watchbill_security_login_users_fingerprint"): 12}, steps=4),
    "WatchedFileChanged": Fault({key("watchbill_security_file_fingerprint", path="/etc/passwd"): 12}, steps=4),
    "LoginsFail": _rate("watchbill_security_logins_total", 0.1, steps=20, method="password", result="failure"),
    "LoginAfterFailures": _rate("watchbill_security_logins_after_burst_total", 0.01, steps=4),
    "BackupStale": Fault({facet("fresh"): 2}),
    "BackupFailed": Fault({facet("run"): 2}),
    "BackupMissed": Fault({facet("run"): 2, key("watchbill_backup_missed", backup="nightly"): 1}),
    "BackupSuspect": Fault({facet("size"): 2}),
    "BackupUnverified": Fault({facet("verify"): 2}),
    "BackupCopiesMissing": Fault({facet("copies"): 2}),
    "BackupLedger": Fault({facet("ledger"): 2}),
    "RosterBehind": Fault({key("watchbill_roster_hosts_behind"): 3}, steps=130),
    "RosterRoleShort": _gauge("watchbill_roster_role_people", 1, role="dba"),
    "RosterHasDisabled": Fault({key("watchbill_roster_people_disabled"): 1}, steps=130),
    "ServiceRpoExceeded": _gauge("watchbill_backup_service_rpo_seconds", 4_000, service="shop"),
    "RunbookRunHeld": Fault({book("held"): 1}),
    "RunbookRunFailed": Fault({book("failed"): 1}),
    # One proposal is one alert: which of both says why it waits.
    "RunbookTriggerStopped": Fault({book("stopped"): 1, key("watchbill_runbook_runs_open", runbook="failover", state="proposed"): 1}),
    "RunbookProposed": _gauge("watchbill_runbook_runs_open", 1, runbook="failover", state="proposed"),
    "RunbookBreakerOpen": Fault({book("breaker_open"): 1}),
    "RunbookNotReady": Fault({book("ready"): 0}),
    "RunbookNotAccepted": Fault({book("accepted"): 0}),
    "RunbookDrillFailed": Fault({book("drill_failed"): 1}),
    "RunbookDrillOverdue": Fault({book("drill_overdue"): 1}),
    "RunbookTooSlow": Fault({book("recovery_seconds"): 601}),
}  # fmt: skip
BY_TIME = {
    *("HostRebooted", "AgentCertificateExpires", "AgentCertificateExpiresSoon"),
    *("CertificateExpires", "CertificateExpiresSoon"),
    *("RosterOld", "RosterEndsSoon"),
}
SEVERITIES = {"critical", "major", "minor", "info"}
HEALTHY = 30
"""Steps of 30 s before the faults begin."""
REST = 90
"""Steps by which all faults are over."""
AFTER = 65
"""Steps of a minute in which even windows of an hour forget them."""


def days_count(number: int) -> bool:
    """Whether it is the time of the faults that come with time."""
    return HEALTHY <= number < HEALTHY + REST


def _move(it: Any, number: int) -> None:
    """One step of every host: healthy, then with its fault, then healthy again."""
    seconds = it.step_ms / 1000
    for host, values in it.hosts.items():
        fault = getattr(it, "faults", FAULTS).get(host, Fault())
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
        days = {"CertificateExpires": 13.9, "CertificateExpiresSoon": 2.9}.get(host, 60)
        left = days if days_count(number) else 60
        values[key("probe_ssl_earliest_cert_expiry", check="web")] = it.now_ms / 1000 + left * 86_400
        age = {"RosterOld": 61, "RosterEndsSoon": 81}.get(host, 10) if days_count(number) else 10
        values[key("watchbill_roster_issued_timestamp_seconds")] = it.now_ms / 1000 - age * 86_400
        values[key("watchbill_roster_expires_timestamp_seconds")] = it.now_ms / 1000 + (90 - age) * 86_400
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
        if number == HEALTHY + REST:
            it.step_ms = 60_000
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
    alerting = [rule for rule in rules.rules if isinstance(rule, AlertingRule)]
    names = [rule.name for rule in alerting]
    assert set(names) == {*FAULTS, *BY_TIME}
    # One rule an alert, but for hosts that may be silent for longer, and checks that depend on others.
    assert {name for name in names if names.count(name) > 1} == {"HostSilent", "CheckFailing"}
    for rule in alerting:
        labels = {name: template.text for name, template in rule.labels}
        # A backup's job says itself how bad it is: its series carry that.
        own = rule.name.startswith("Backup")
        assert labels == {} if own else labels["severity"] in SEVERITIES, rule.name
        words = {name: template.text for name, template in rule.annotations}
        # A busy processor is no news: it is shown, and sent nowhere.
        way = {"notify": "none"} if rule.name == "HostCpuBusy" else {}
        assert words == {"summary": words["summary"], "description": words["description"], **way}, rule.name


def test_an_alert_of_a_backup_is_as_bad_as_its_job_says(season: Any) -> None:
    told = {
        change.alert.rule: change.alert.labels["severity"]
        for change in season.changes
        if change.alert.rule.startswith("Backup")
    }
    assert told == {
        "BackupStale": "critical",
        "BackupFailed": "minor",
        "BackupMissed": "minor",
        "BackupSuspect": "major",
        "BackupUnverified": "major",
        "BackupCopiesMissing": "major",
        "BackupLedger": "info",
    }


@pytest.mark.parametrize("level", [1.0, 3.0], ids=["warning", "unknown"])
def test_what_is_a_warning_or_not_known_of_a_backup_is_no_alert(house: Any, level: float) -> None:
    it = house()
    assert it.book.reload([stock_files()["backups"]], it.now_ms) == []
    it.hosts = {
        "a": {facet(name): level for name in OWN} | {key("watchbill_backup_missed", backup="nightly"): 0}
    }
    it.run(3)
    assert it.states() == {}


def test_the_words_of_every_alert_are_whole(season: Any) -> None:
    for change in season.changes:
        for text in change.alert.annotations.values():
            assert text
            assert "<" not in text, text
            assert "{{" not in text


def _idle(rate: float) -> dict[Key, float]:
    return dict.fromkeys(IDLE, rate)


MARGINS: dict[str, tuple[Fault, ...]] = {
    "HostCpuBusy": (Fault(rates=_idle(0.21)), Fault(rates=_idle(0.19))),
    "HostCpuPressure": (
        Fault(rates={**IDLE, key("node_pressure_cpu_waiting_seconds_total"): 0.29}),
        Fault(rates={**IDLE, key("node_pressure_cpu_waiting_seconds_total"): 0.31}),
    ),
    "HostMemoryFull": tuple(_gauge("node_memory_MemAvailable_bytes", share * 16 * GIB) for share in (0.21, 0.19)),
    "HostMemoryPressure": tuple(_rate("node_pressure_memory_waiting_seconds_total", rate) for rate in (0.095, 0.105)),
    "HostMemoryMajorFaults": tuple(_rate("node_vmstat_pgmajfault", rate) for rate in (490, 510)),
    "HostIoPressure": tuple(_rate("node_pressure_io_stalled_seconds_total", rate) for rate in (0.29, 0.31)),
    "HostFileDescriptors": tuple(_gauge("node_filefd_allocated", value) for value in (79_000, 81_000)),
    "FilesystemAlmostFull": tuple(_gauge("node_filesystem_avail_bytes", left * GIB, **ROOT) for left in (3.1, 2.9)),
    "FilesystemLow": tuple(_gauge("node_filesystem_avail_bytes", left * GIB, **ROOT) for left in (10.2, 9.8)),
    "FilesystemInodesAlmostGone": tuple(_gauge("node_filesystem_files_free", left, **ROOT) for left in (31_000, 29_000)),
    "FilesystemInodesLow": tuple(_gauge("node_filesystem_files_free", left, **ROOT) for left in (102_000, 98_000)),
    "InterfaceReceiveErrors": tuple(_rate("node_network_receive_errs_total", rate, device="eth0") for rate in (9.8, 10.2)),
    "InterfaceTransmitErrors": tuple(_rate("node_network_transmit_errs_total", rate, device="eth0") for rate in (9.8, 10.2)),
    "InterfaceBusy": tuple(_rate("node_network_receive_bytes_total", share * 1.25e8, device="eth0") for share in (0.79, 0.81)),
    "ConntrackFull": tuple(_gauge("node_nf_conntrack_entries", share * 65_536) for share in (0.79, 0.81)),
    "ListenQueueOverflows": tuple(_rate("node_netstat_TcpExt_ListenOverflows", rate) for rate in (0.95, 1.05)),
    "DiskSaturated": tuple(_rate("node_disk_io_time_weighted_seconds_total", rate, device="sda") for rate in (9.8, 10.2)),
    "ClockSkew": tuple(_gauge("watchbill_agent_clock_offset_seconds", offset) for offset in (4.9, 5.1)),
    "AgentLate": tuple(_rate("watchbill_agent_ticks_missed_total", rate) for rate in (0.048, 0.052)),
    "AgentChecksLate": tuple(_rate("watchbill_agent_check_late_total", rate) for rate in (0.95, 1.05)),
    # Twenty within ten minutes.
    "LoginsFail": tuple(_rate("watchbill_security_logins_total", rate, method="password", result="failure") for rate in (0.032, 0.035)),
    "ChannelFailing": tuple(_gauge("watchbill_collector_channel_failing_seconds", value, channel="ops") for value in (295, 305)),
    "NoticesWaiting": tuple(_gauge("watchbill_collector_notices_oldest_seconds", value, channel="ops") for value in (890, 910)),
    "DatabaseSlow": tuple(_gauge("watchbill_check_database_duration_seconds", value, check="pg", phase="query") for value in (0.49, 0.51)),
    "ReplicationLate": tuple(_gauge("pg_replication_lag_seconds", value, check="pg") for value in (59, 61)),
    "LogReadLate": tuple(_gauge("watchbill_log_backlog_bytes", value * 2.0**20, check="access") for value in (63, 65)),
    "ConnectionsMany": tuple(_gauge("pg_stat_activity_count", value, check="pg", datname="shop", state="active") for value in (50, 51)),
    "ConnectionsAlmostGone": tuple(_gauge("pg_stat_activity_count", value, check="pg", datname="shop", state="active") for value in (65, 66)),
    "ResponseSlow": tuple(_gauge("probe_duration_seconds", value, check="web") for value in (2.9, 3.1)),
    # Of 40 requests a second, one in a hundred is 0.404 with the errors themselves.
    "ErrorRateHigh": tuple(_rate("http_requests_total", rate, code="503", method="GET") for rate in (0.39, 0.42)),
    "RaidDegraded": tuple(_gauge("node_md_disks", left, device="md0", state="active") for left in (2, 1)),
}  # fmt: skip
"""Just within and just beyond the threshold of each rule that has one."""


@pytest.fixture(scope="module")
def margins(house: Any) -> Any:
    """Two hosts a rule, one on each side of its threshold."""
    it = house(step_ms=30_000)
    assert it.book.reload(stock_sources(), it.now_ms) == []
    it.faults = {
        f"{rule} {side}": replace(fault, steps=REST)
        for rule, faults in MARGINS.items()
        for side, fault in zip(("within", "beyond"), faults, strict=True)
    }
    it.hosts = {host: {} for host in it.faults}
    it.booted = 0
    for number in range(HEALTHY + REST):
        it.run(1, partial(_move, number=number))
    return it


@pytest.mark.parametrize("rule", MARGINS)
def test_a_threshold_is_where_it_is_said_to_be(margins: Any, rule: str) -> None:
    fired = {
        change.alert.labels["instance"]
        for change in margins.changes
        if change.alert.rule == rule and change.alert.state.value == "firing"
    }
    assert f"{rule} beyond" in fired
    assert f"{rule} within" not in fired


@pytest.mark.parametrize(
    ("down_after", "pending_at_s", "fires_after_s"),
    [("", 30, 60), ("5m", 270, 300), ("15m", 870, 900), ("nonsense", 30, 60), ("never", None, None)],
)
def test_a_host_may_be_silent_for_as_long_as_its_label_allows(
    house: Any, down_after: str, pending_at_s: int | None, fires_after_s: int | None
) -> None:
    it = house(step_ms=30_000)
    assert it.book.reload([stock_files()["host"]], it.now_ms) == []
    labels = {"down_after": down_after} if down_after else {}
    began_ms = it.now_ms + 30_000
    states: dict[int, str] = {}

    def note(it: Any) -> None:
        states[it.now_ms - 30_000 - began_ms] = it.states().get(("HostSilent", "a"), "")
        it.hosts = {"a": {key("up", **labels): 0}}

    it.run(34, note)
    seconds = {
        state: [at_ms // 1000 for at_ms, each in states.items() if each == state]
        for state in ("pending", "firing")
    }
    assert max(seconds["pending"], default=None) == pending_at_s
    assert min(seconds["firing"], default=None) == fires_after_s


def test_what_the_pack_has_can_be_left_out_by_file_and_by_alert() -> None:
    rules, problems = load(stock_sources(["network", "HostRebooted", "HostSilent"]))
    assert problems == []
    left = {rule.name for rule in rules.rules if isinstance(rule, AlertingRule)}
    assert left == {*FAULTS, *BY_TIME} - {
        "HostRebooted", "HostSilent", "InterfaceReceiveErrors", "InterfaceTransmitErrors", "InterfaceBusy", "ConntrackFull",
        "ListenQueueOverflows",
    }  # fmt: skip
    everything, _ = load(stock_sources())
    places = {(rule.name, rule.place.line) for rule in everything.rules}
    assert all((rule.name, rule.place.line) in places for rule in rules.rules)


def test_every_single_alert_can_be_left_out() -> None:
    for whole in stock_sources():
        everything, _ = load([whole])
        names = {rule.name for rule in everything.rules}
        for name in names:
            (left,) = [one for one in stock_sources([name]) if one.file == whole.file]
            rules, problems = load([left])
            assert problems == []
            assert {rule.name for rule in rules.rules} == names - {name}


def test_a_misspelt_name_is_told_rather_than_left_on() -> None:
    assert unknown_stock(["network", "HostRebooted", "netwrok", "hostrebooted"]) == [
        "netwrok",
        "hostrebooted",
    ]


def test_few_errors_are_no_rate_however_large_their_share(house: Any) -> None:
    it = house()
    assert it.book.reload([stock_files()["checks"]], it.now_ms) == []
    fine, failed = (key("http_requests_total", code=code, method="GET") for code in ("200", "500"))

    def move(it: Any, errors_a_step: float) -> None:
        for values in it.hosts.values():
            values[fine] = values.get(fine, 0.0) + 1.0
            values[failed] = values.get(failed, 0.0) + errors_a_step

    it.hosts = {"a": {}}
    it.run(60, partial(move, errors_a_step=0.9))
    assert ("ErrorRateHigh", "a") not in it.states()
    it.run(60, partial(move, errors_a_step=1.1))
    assert it.states()[("ErrorRateHigh", "a")] == "firing"


def test_rules_for_what_nobody_measures_are_silent_and_do_not_warm(house: Any) -> None:
    it = house()
    assert it.book.reload(stock_sources(), it.now_ms) == []
    it.hosts = {"a": {key("node_load1"): 1.0}}
    it.run(3)
    checks = next(run for run in it.book.groups() if run.group.name == "checks")
    assert [run.health.warming for run in checks.runs] == [None] * len(checks.runs)
    assert it.states() == {}
