"""What each parser makes of one line, and of a line that is not its own."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.names import NameFilter
from watchbill_agent.reading import Layout, SamplerFailed, Series
from watchbill_agent.samplers import (
    cpu,
    diskstats,
    filefd,
    loadavg,
    meminfo,
    netdev,
    netstat,
    pressure,
    processes,
    sockstat,
    stat,
    vmstat,
)
from watchbill_agent.words import Places

EVERYTHING = NameFilter()
DISK_NUMBERS = " ".join(map(str, range(1, 18)))


def disks(text: str) -> list[tuple[str, str]]:
    data = text.encode()
    found, places, _ = diskstats.learn(data, data.split(), EVERYTHING)
    values = places.values(data.split())
    assert values is not None
    reads = [
        value
        for value, one in zip(values, places.layout.series, strict=True)
        if "reads_completed" in one.name
    ]
    return list(zip([disk.name for disk in found], map(str, reads), strict=True))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("sda", f"   8       0 sda {DISK_NUMBERS}"),
        ("cciss/c0d0", f"104 0 cciss/c0d0 {DISK_NUMBERS}"),
        ("my disk", f"8 0 my disk {DISK_NUMBERS}"),
        ("7", f"8 0 7 {DISK_NUMBERS}"),
    ],
)
def test_a_disk_is_what_stands_before_its_numbers(name, row):
    assert disks(f"{row}\n") == [(name, "1")]


def test_a_name_that_ends_with_a_number_is_told_by_its_neighbours():
    assert disks(f"8 0 sda {DISK_NUMBERS}\n8 16 disk 2 {DISK_NUMBERS}\n") == [("sda", "1"), ("disk 2", "1")]


@pytest.mark.parametrize("count", [11, 15, 17])
def test_every_age_of_diskstats_is_read(count):
    data = f"8 0 sda {' '.join(['5'] * count)}\n".encode()
    _, places, divisors = diskstats.learn(data, data.split(), EVERYTHING)
    assert len(places.layout.series) == len(divisors) == count


def test_columns_of_a_kernel_to_come_are_left_alone():
    data = f"8 0 sda {' '.join(['5'] * 20)}\n".encode()
    _, places, _ = diskstats.learn(data, data.split(), EVERYTHING)
    assert len(places.layout.series) == 17


def test_partitions_of_linux_2_6_are_passed_over():
    assert disks(f"8 0 hda {DISK_NUMBERS}\n8 1 hda1 1 2 3 4\n") == [("hda", "1")]


DEFAULT_DISKS = NameFilter.of(
    "diskstats", diskstats.Options(), include="device_include", exclude="device_exclude"
)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *(
            (name, True)
            for name in ("sda", "vda", "xvda", "nvme0n1", "dm-3", "md127", "sr0", "mmcblk0p1", "fd")
        ),
        *(
            (name, False)
            for name in ("sda1", "vda12", "xvda1", "hda3", "nvme0n1p2", "loop7", "ram0", "zram1", "fd0")
        ),
    ],
)
def test_the_disks_of_the_default_are_node_exporters(name, kept):
    assert DEFAULT_DISKS.keeps(name) is kept


@pytest.mark.parametrize(
    ("name", "state"),
    [
        (b"systemd", b"S"),
        (b"a) R", b"D"),
        (b"a) R 1 2 3", b"Z"),
        (b"new\nline) X", b"T"),
        (b"((((", b"I"),
        (b"))))", b"R"),
        (b"", b"S"),
        (b"\xff\xfe", b"S"),
    ],
)
def test_a_process_name_may_hold_anything(name, state):
    line = b"7 (" + name + b") " + state + b" 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 12 0 29 1 2\n"
    assert processes.parse("7/stat", line) == (state.decode(), 12)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_process_parser_raise_anything_else(data):
    with contextlib.suppress(SamplerFailed):
        processes.parse("x", data)


def test_cpus_of_an_old_kernel_read_zero_where_it_counts_nothing():
    cpus, rows = cpu.parse(b"cpu  1 2 3 4\ncpu0 1 2 3 4\nintr 5\n")
    assert (cpus, rows) == ([b"cpu0"], [[1, 2, 3, 4, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    "text", [b"cpu0 1 2\n", b"cpu0 a b c d\n", b"cpux 1 2 3 4\n", b"cpu 1 2 3 4\n", b"\n"]
)
def test_cpu_times_that_are_none_are_refused(text):
    with pytest.raises(SamplerFailed):
        cpu.parse(text)


def test_a_cpu_named_twice_is_refused():
    with pytest.raises(SamplerFailed, match="twice"):
        cpu.parse(b"cpu0 1 2 3 4\ncpu0 1 2 3 4\nintr 5\n")


@pytest.mark.parametrize(
    ("text", "cpus"), [("", []), ("0", [0]), ("0-3", [0, 1, 2, 3]), ("1,4-5,9", [1, 4, 5, 9])]
)
def test_a_list_of_cpus(text, cpus):
    assert cpu.parse_list(text) == cpus


counters = st.lists(st.integers(0, 2**40), min_size=10, max_size=10)


@given(counters, counters)
def test_a_counter_never_falls_unless_its_cpu_came_back(old, new):
    (row,) = cpu.keep_rising([b"cpu0"], [old], [b"cpu0"], [new])
    if old[3] - new[3] >= 300:
        assert row == new
    else:
        assert all(kept == max(pair) for kept, pair in zip(row, zip(old, new, strict=True), strict=True))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (loadavg, b"0.1 x 0.3 1/2 3\n"),
        (loadavg, b"0.1 0.2\n"),
        (filefd, b"1 2\n"),
        (filefd, b"1 0 x\n"),
        (stat, b"cpu 1\nintr 5\nctxt 6\n"),
        (stat, b"cpu 1\nintr x\nctxt 1\nbtime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 1\n"),
    ],
)
def test_what_is_not_a_files_own_is_refused(module, text):
    with pytest.raises(SamplerFailed):
        module.parse(text)


def test_the_interrupt_line_of_a_large_machine_is_not_read_to_its_end():
    text = b"cpu 1\nintr 987654321" + b" 0" * 100_000 + b"\nctxt 2\nbtime 3\nprocesses 4\nprocs_running 5\n"
    assert stat.parse(text + b"procs_blocked 6\n") == [987654321, 2, 4, 3, 5, 6]


@pytest.mark.parametrize(
    ("resource", "text"),
    [
        ("cpu", b"full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
        ("io", b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
        ("memory", b"some total=1\nfull total=x\n"),
        ("cpu", b"some avg10=0.00\n"),
    ],
)
def test_pressure_without_the_line_that_counts_is_refused(resource, text):
    with pytest.raises(SamplerFailed):
        pressure.parse(resource, text)


def test_the_full_line_of_cpu_pressure_is_left_alone():
    assert pressure.parse("cpu", b"some avg10=0 avg60=0 avg300=0 total=2500000\nfull total=7\n") == [2.5]


@pytest.mark.parametrize(
    ("word", "field"), [(b"Active(anon):", "Active_anon"), (b"DirectMap2M:", "DirectMap2M"), (b"A:", "A")]
)
def test_a_field_of_meminfo_is_spelled_as_node_exporter_does(word, field):
    assert meminfo.field_name(word) == field


@pytest.mark.parametrize("word", [b"MemTotal", b":", b"9x:", b"a b:", b"\xff:", b'x"}:'])
def test_what_is_no_field_of_meminfo_is_refused(word):
    with pytest.raises(SamplerFailed):
        meminfo.field_name(word)


@pytest.mark.parametrize(
    "text",
    [
        b"only one heading\n",
        b"a|b|c\na|b|c\n eth0 no colon 1 2 3\n",
        b"a|b|c\na|b|c\n eth0: 1 2 3\n",
        b"a|b|c\na|b|c\n eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 x\n",
        b"a|b|c\na|b|c\n : 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
    ],
)
def test_what_is_no_table_of_interfaces_is_refused(text):
    with pytest.raises(SamplerFailed):
        netdev.learn(text, text.split(), EVERYTHING)


def test_a_machine_without_interfaces_has_no_series():
    text = b"a|b|c\na|b|c\n"
    devices, places = netdev.learn(text, text.split(), EVERYTHING)
    assert (devices, places.layout.series) == ([], ())


@pytest.mark.parametrize("text", [b"Tcp: A B\nTcp: 1\n", b"Tcp: A\nUdp: 1\n", b"Tcp: A\n", b"Tcp A\nTcp 1\n"])
def test_lines_that_are_no_pair_are_refused(text):
    with pytest.raises(SamplerFailed):
        netstat.learn_pairs("net/snmp", text.split(b"\n"), EVERYTHING)


@pytest.mark.parametrize(
    ("name", "field"), [(b"Ip6InOctets", "Ip6_InOctets"), (b"UdpLite6InErrors", "UdpLite6_InErrors")]
)
def test_a_six_ends_the_protocol(name, field):
    assert netstat.learn_named([name, b"5"], EVERYTHING).layout.series == (Series(f"node_netstat_{field}"),)


@pytest.mark.parametrize(
    "text", [b"TCP: inuse\n", b"inuse 5\n", b"TCP: inuse x\n", b"T}: inuse 5\n", b"TCP: x 1\n"]
)
def test_what_is_no_table_of_sockets_is_refused(text):
    with pytest.raises(SamplerFailed):
        sockstat.learn(text.split(), 4096)


def test_a_field_of_vmstat_that_stands_twice_is_reported_once():
    places = vmstat.learn(b"pgfault 1 pgfault 2".split(), EVERYTHING)
    assert places.values(b"pgfault 1 pgfault 2".split()) == [1]


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(-9, 2**64)), min_size=1, max_size=9)
)
def test_places_pick_what_a_slow_reading_would(rows):
    words = [word for name, value in rows for word in (name, str(value).encode())]
    layout = Layout((), ())
    layout.series = tuple(Series(str(at)) for at in range(len(rows)))
    places = Places(layout, words, range(0, len(words), 2), range(1, len(words), 2))
    assert places.values(words) == [value for _, value in rows]
    assert places.values([*words, b"d", b"1"]) is None
    assert places.values([b"z", *words[1:]]) is None
    assert places.values([words[0], b"nonsense", *words[2:]]) is None
