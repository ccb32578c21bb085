"""What the kernel says of its clock and of the connections that it tracks."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.samplers import HostPaths, NothingHere, SamplerFailed
from watchbill_agent.samplers.conntrack import Conntrack, sums
from watchbill_agent.samplers.conntrack import Options as ConntrackOptions
from watchbill_agent.samplers.timex import STA_NANO, STRUCT, TIME_ERROR, Options, Timex, values

HEADER = "entries found invalid search_restart"


def said(status: int) -> bytes:
    """As adjtimex(2) answers: every field has a number of its own."""
    return STRUCT.pack(
        *(0, 2_000, 65_536_000_000, 16_000_000, 500, status, 7),
        *(1, 32_768_000, 1_700_000_000, 999, 10_000, 6_553_600, 3_000, 4, 65_536, 11, 12, 13, 14, 37),
    )


def test_a_clock_that_is_kept_in_microseconds():
    assert values(0, said(1)) == [
        *(0.002, 2.0, 16.0, 0.0005, 1, 7, 0.01, 0.0001, 0.003, 4, 1e-6, 11, 12, 13, 14, 37),
        1.0,
    ]


def test_a_clock_that_is_kept_in_nanoseconds_and_one_that_nothing_keeps():
    fine = values(TIME_ERROR, said(STA_NANO))
    assert (fine[0], fine[8], fine[-1]) == (2e-6, 3e-6, 0.0)


def test_the_structure_is_as_large_as_the_kernels():
    assert STRUCT.size == (208 if struct.calcsize("l") == 8 else 128)


def test_the_kernel_of_this_machine_answers():
    reading = Timex(Options(), HostPaths()).sample()
    found = dict(zip((one.name for one in reading.layout.series), reading.values, strict=True))
    assert found["node_timex_sync_status"] in (0.0, 1.0)
    assert 0.009 <= found["node_timex_tick_seconds"] <= 0.011
    assert 0.9 < found["node_timex_frequency_adjustment_ratio"] < 1.1


def test_connections_are_counted_over_all_cpus(host, tree, values_of):
    reading = Conntrack(ConntrackOptions(), host).sample()
    assert values_of(reading, "node_nf_conntrack_entries") == 1234
    assert values_of(reading, "node_nf_conntrack_stat_found") == 11
    assert values_of(reading, "node_nf_conntrack_stat_search_restart") == 256
    (tree / "proc/net/stat/nf_conntrack").unlink()
    again = Conntrack(ConntrackOptions(), host).sample()
    assert list(again.values) == [1234, 262144]
    (tree / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    with pytest.raises(NothingHere):
        Conntrack(ConntrackOptions(), host).sample()


@given(st.binary(max_size=60))
def test_what_is_no_row_is_told_and_never_guessed(row):
    try:
        total = sums([row], [1, 2, 3], len(HEADER.split()))
    except SamplerFailed:
        return
    assert total == [int(word, 16) for word in row.split()[1:]]
