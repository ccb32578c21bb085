"""Disks, interfaces, mounts, CPUs and states come and go: a new layout then, the same one otherwise."""

from pathlib import Path

import pytest

from watchbill_agent.samplers import HostPaths, Reading, Sampler, build, discover

ERRANDS = ("logins", "updates", "watched_files")
"""What follows logs, or sends children on errands, is in test_sampler_security."""


def one(host: HostPaths, name: str, **options: object) -> Sampler:
    kind = discover()[name]
    return kind(kind.options_type(**options), host)


def devices(reading: Reading, label: str) -> set[str]:
    return {value for series in reading.layout.series for name, value in series.labels if name == label}


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", sorted(discover().keys() - {"time", *ERRANDS}))
def test_a_steady_host_keeps_its_layout(host, name):
    sampler = one(host, name)
    first, second = sampler.sample(), sampler.sample()
    assert first.layout is second.layout
    assert len(first.values) == len(first.layout.series)


def test_changed_values_alone_keep_the_layout(tree, host):
    sampler = one(host, "diskstats")
    first = sampler.sample()
    rewrite(tree / "proc/diskstats", " 52131180 ", " 52131181 ")
    second = sampler.sample()
    assert second.layout is first.layout
    assert second.values != first.values


def test_a_disk_that_appears_and_vanishes_changes_the_layout_twice(tree, host):
    sampler = one(host, "diskstats")
    table = tree / "proc/diskstats"
    before = table.read_text()
    first = sampler.sample()
    table.write_text(before + "8 16 sdb 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n")
    second = sampler.sample()
    table.write_text(before)
    third = sampler.sample()
    assert "sdb" in devices(second, "device")
    assert second.layout is not first.layout
    assert devices(third, "device") == devices(first, "device")


def test_two_disks_that_trade_places_trade_their_values_too(tree, host, values_of):
    sampler = one(host, "diskstats")
    table = tree / "proc/diskstats"
    first = sampler.sample()
    lines = table.read_text().splitlines(True)
    table.write_text("".join(reversed(lines)))
    second = sampler.sample()
    for device in ("sda", "nvme0n1", "dm-0"):
        name = "node_disk_reads_completed_total"
        assert values_of(first, name, device=device) == values_of(second, name, device=device)


def test_what_udev_learns_is_seen_within_a_minute(tree, host):
    sampler = one(host, "diskstats")
    first = sampler.sample()
    (tree / "udev/b259:0").write_text("E:ID_FS_TYPE=xfs\nE:ID_FS_UUID=1-2-3\n")
    assert sampler.sample().layout is first.layout
    host.clock.advance(60)
    assert "1-2-3" in devices(sampler.sample(), "uuid")


def test_an_interface_that_appears_is_there_with_the_next_tick(tree, host):
    sampler = one(host, "netdev")
    sampler.sample()
    with open(tree / "proc/net/dev", "a") as table:
        table.write("  wg0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n")
    assert "wg0" in devices(sampler.sample(), "device")


def test_an_interface_that_vanishes_between_two_files_costs_no_other_its_values(tree, host, values_of):
    sampler = one(host, "netdev")
    first = sampler.sample()
    nohandler = tree / "sys/class/net/eth0/statistics/rx_nohandler"
    nohandler.write_text("")  # As the read of a device that is just going.
    nohandler.unlink()
    second = sampler.sample()
    assert second.layout is not first.layout
    assert values_of(second, "node_network_receive_nohandler_total", device="eth0") is None
    assert values_of(second, "node_network_receive_nohandler_total", device="lo") == 0
    assert values_of(second, "node_network_receive_drop_total", device="eth0") == 2


def test_an_unplugged_cpu_has_no_series(tree, host):
    sampler = one(host, "cpu")
    assert devices(sampler.sample(), "cpu") == {"0", "1", "2"}
    text = (tree / "proc/stat").read_text()
    (tree / "proc/stat").write_text("".join(x for x in text.splitlines(True) if not x.startswith("cpu1 ")))
    reading = sampler.sample()
    assert {dict(s.labels)["cpu"] for s in reading.layout.series if s.name == "node_cpu_seconds_total"} == {
        "0"
    }


def test_a_cpu_that_comes_back_starts_from_its_own_counters(tree, host, values_of):
    sampler = one(host, "cpu")
    stat = tree / "proc/stat"
    sampler.sample()
    stat.write_text(stat.read_text().replace("cpu1 55940 7 32373 272181 709", "cpu1 3 0 1 40 0"))
    reading = sampler.sample()
    assert values_of(reading, "node_cpu_seconds_total", cpu="1", mode="idle") == 0.4
    assert values_of(reading, "node_cpu_seconds_total", cpu="1", mode="user") == 0.03


def test_a_counter_that_slips_back_a_little_stays_where_it_was(tree, host, values_of):
    sampler = one(host, "cpu")
    stat = tree / "proc/stat"
    sampler.sample()
    stat.write_text(
        stat.read_text().replace("cpu1 55940 7 32373 272181 709", "cpu1 55941 7 32373 272000 700")
    )
    reading = sampler.sample()
    assert values_of(reading, "node_cpu_seconds_total", cpu="1", mode="idle") == 2721.81
    assert values_of(reading, "node_cpu_seconds_total", cpu="1", mode="iowait") == 7.09
    assert values_of(reading, "node_cpu_seconds_total", cpu="1", mode="user") == 559.41


def test_a_cpu_taken_offline_says_so(tree, host, values_of):
    sampler = one(host, "cpu")
    assert values_of(sampler.sample(), "node_cpu_online", cpu="1") == 1
    (tree / "sys/devices/system/cpu/online").write_text("0\n")
    assert values_of(sampler.sample(), "node_cpu_online", cpu="1") == 0


def test_a_machine_whose_first_cpu_cannot_go_offline_has_no_online_series(tree, host, values_of):
    (tree / "sys/devices/system/cpu/cpu0/online").unlink()
    assert values_of(one(host, "cpu").sample(), "node_cpu_online", cpu="1") is None


def test_guest_time_can_be_left_out(host, values_of):
    reading = one(host, "cpu", guest=False).sample()
    assert values_of(reading, "node_cpu_guest_seconds_total", cpu="1", mode="user") is None
    assert values_of(reading, "node_cpu_seconds_total", cpu="1", mode="user") == 559.4


def test_cpu_and_stat_read_the_file_once_in_a_round_and_anew_in_the_next(tree, host, values_of):
    cpu, stat = one(host, "cpu"), one(host, "stat")
    path = tree / "proc/stat"
    cpu.sample()
    rewrite(path, "procs_running 2", "procs_running 7")
    assert values_of(stat.sample(), "node_procs_running") == 2
    assert values_of(stat.sample(), "node_procs_running") == 7
    cpu.sample()
    rewrite(path, "procs_running 7", "procs_running 9")
    host.clock.advance(1)
    assert values_of(stat.sample(), "node_procs_running") == 9


def test_ipv6_that_is_turned_on_later_appears(tree, host, values_of):
    path = tree / "proc/net/snmp6"
    text = path.read_text()
    path.unlink()
    sampler = one(host, "netstat")
    assert values_of(sampler.sample(), "node_netstat_Ip6_InOctets") is None
    path.write_text(text)
    assert values_of(sampler.sample(), "node_netstat_Ip6_InOctets") is not None


def test_a_kernel_without_pressure_of_interrupts_has_the_other_five(tree, host, values_of):
    (tree / "proc/pressure/irq").unlink()
    reading = one(host, "pressure").sample()
    assert len(reading.values) == 5
    assert values_of(reading, "node_pressure_memory_stalled_seconds_total") == 1e-06


def test_a_filesystem_that_becomes_read_only_is_seen_within_ten_seconds(tree, host, values_of):
    sampler = one(host, "filesystem")
    labels = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/"}
    assert values_of(sampler.sample(), "node_filesystem_readonly", **labels) == 0
    rewrite(tree / "proc/1/mountinfo", "/dev/sda1 rw,errors=remount-ro", "/dev/sda1 ro,errors=remount-ro")
    host.clock.advance(10)
    assert values_of(sampler.sample(), "node_filesystem_readonly", **labels) == 1


def test_a_mount_table_of_process_1_that_is_hidden_is_replaced_by_our_own(tree, host):
    (tree / "proc/self").mkdir()
    (tree / "proc/1/mountinfo").rename(tree / "proc/self/mountinfo")
    assert "/srv/data disk" in devices(one(host, "filesystem").sample(), "mountpoint")


def test_too_many_mounts_are_cut_and_said(tree, host):
    line = "1{0} 22 253:{0} / /many/{0} rw - tmpfs many rw\n"
    (tree / "proc/1/mountinfo").write_text("".join(line.format(number) for number in range(10_000)))
    sampler = one(host, "filesystem")
    reading = sampler.sample()
    assert len(devices(reading, "mountpoint")) == 2000
    assert sampler.notice == "8000 mounts beyond the first 2000 are left out"


def test_a_mount_that_stands_there_twice_is_reported_once_as_the_one_on_top(tree, host, values_of):
    with open(tree / "proc/1/mountinfo", "a") as table:
        table.write("99 22 8:1 / / ro,relatime shared:1 - ext4 /dev/sda1 rw\n")
    reading = one(host, "filesystem").sample()
    labels = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/"}
    assert values_of(reading, "node_filesystem_readonly", **labels) == 1


def test_a_process_state_once_seen_stays_at_zero(tree, host, values_of):
    sampler = one(host, "processes")
    first = sampler.sample()
    stat = tree / "proc/17/stat"
    stat.write_text(stat.read_text().replace("b) D ", "b) S "))
    second = sampler.sample()
    assert second.layout is first.layout
    assert values_of(second, "node_processes_state", state="D") == 0
    assert values_of(second, "node_processes_state", state="S") == 2


def test_a_process_that_ends_while_it_is_read_is_not_counted(tree, host, values_of):
    (tree / "proc/17/stat").unlink()
    assert values_of(one(host, "processes").sample(), "node_processes_pids") == 2


def test_an_include_decides_alone(host):
    assert devices(one(host, "diskstats", device_include="^sda").sample(), "device") == {"sda", "sda1"}
    assert devices(one(host, "netdev", device_include="^(lo|eth0)$").sample(), "device") == {"lo", "eth0"}
    assert devices(one(host, "netdev", device_exclude="^veth").sample(), "device") == {"lo", "eth0"}


def test_the_host_name_and_the_zone_are_labels_that_may_change(tree, host, monkeypatch):
    sampler = one(host, "uname")
    assert devices(sampler.sample(), "nodename") == {"web-17"}
    (tree / "proc/sys/kernel/hostname").write_text("web-18\n")
    host.clock.advance(60)
    assert devices(sampler.sample(), "nodename") == {"web-18"}


def test_a_clock_that_the_kernel_gave_up_is_a_new_series(tree, host):
    sampler = one(host, "time")
    first = sampler.sample()
    assert sampler.sample().layout is first.layout
    (tree / "sys/devices/system/clocksource/clocksource0/current_clocksource").write_text("hpet\n")
    current = [s for s in sampler.sample().layout.series if s.name == "node_time_clocksource_current_info"]
    assert [dict(series.labels)["clocksource"] for series in current] == ["hpet"]


def test_every_newer_field_of_meminfo_can_be_had(host, values_of):
    assert values_of(one(host, "meminfo").sample(), "node_memory_SecPageTables_bytes") is None
    assert values_of(one(host, "meminfo", all_fields=True).sample(), "node_memory_SecPageTables_bytes") == 0


def test_build_takes_options_by_name(host):
    kind = discover()["netdev"]
    (sampler,) = build(host, ["netdev"], {"netdev": kind.options_type(device_include="^lo$")})
    assert devices(sampler.sample(), "device") == {"lo"}
