"""Arrays of /proc/mdstat in every form that the kernel writes, and bonded interfaces with their links."""

from pathlib import Path

import pytest

from watchbill_agent.exposition import render
from watchbill_agent.samplers import HostPaths, NothingHere, SamplerFailed, build
from watchbill_agent.samplers.bonding import is_up, parse_names
from watchbill_agent.samplers.mdadm import NUMBER_MAX, Array, parse

HEAD = b"Personalities : [raid1] [raid6] [raid5] [raid4] [raid10] [multipath] \n"
END = b"unused devices: <none>\n"


def one(text: str) -> Array:
    (array,) = parse(HEAD + text.encode() + END)
    return array


def told(array: Array) -> tuple[str, int, int, int, int, int, int]:
    """State; blocks, synced; required, active, failed, spare."""
    return (
        array.state,
        array.blocks,
        array.synced,
        array.required,
        array.active,
        array.failed,
        array.spare,
    )


PLAIN = " super 1.2 level 5, 64k chunk, algorithm 2 "


@pytest.mark.parametrize(
    ("head", "size", "wanted"),
    [
        ("active raid1 sda1[0] sdb1[1]", "80 blocks [2/2] [UU]", ("active", 80, 80, 2, 2, 0, 0)),
        ("active raid4 a[0] b[1] c[2]", f"80 blocks{PLAIN}[3/3] [UUU]", ("active", 80, 80, 3, 3, 0, 0)),
        ("active raid5 a[0] b[1](F) c[2]", f"80 blocks{PLAIN}[3/2] [U_U]", ("active", 80, 80, 3, 2, 1, 0)),
        ("active raid6 a[0] b[1] c[2] d[3](S)", f"8 blocks{PLAIN}[4/3] [UUU_]", ("active", 8, 8, 4, 3, 0, 1)),
        ("active raid10 a[0] b[1]", "80 blocks 2 near-copies [2/2] [UU]", ("active", 80, 80, 2, 2, 0, 0)),
        ("active raid0 sda1[0] sdb1[1]", "80 blocks super 1.2 512k chunks", ("active", 80, 80, 2, 2, 0, 0)),
        ("broken raid0 sda1[0] sdb1[1](F)", "80 blocks 512k chunks", ("broken", 80, 80, 2, 2, 1, 0)),
        ("active linear a[0] b[1] c[2]", "80 blocks 0k rounding", ("active", 80, 80, 3, 3, 0, 0)),
        ("active faulty sda1[0]", "80 blocks nfaults=0", ("active", 80, 80, 1, 1, 0, 0)),
        ("active multipath sda[0] sdb[1](F)", "80 blocks [2/1] [U_]", ("active", 80, 80, 2, 1, 1, 0)),
        ("active (read-only) raid1 a[0] b[1]", "80 blocks [2/2] [UU]", ("active", 80, 80, 2, 2, 0, 0)),
        ("active (auto-read-only) raid0 a[0] b[1]", "80 blocks 4k chunks", ("active", 80, 80, 2, 2, 0, 0)),
        ("active raid1 a[0](W) b[1](W)(F) c[2](W)(S)", "8 blocks [2/1] [U_]", ("active", 8, 8, 2, 1, 1, 1)),
        ("active raid5 j[3](J) a[0] b[1]", f"80 blocks{PLAIN}[2/2] [UU]", ("active", 80, 80, 2, 2, 0, 0)),
        ("active raid1 a[0] b[2](R) c[1]", "80 blocks [2/2] [UU]", ("active", 80, 80, 2, 2, 0, 0)),
        ("active raid1 cciss/c0d0p1[0] dm-3[1]", "80 blocks [2/2] [UU]", ("active", 80, 80, 2, 2, 0, 0)),
        ("inactive sdb[1](S) sda[0](S)", "80 blocks super external:imsm", ("inactive", 80, 80, 0, 0, 0, 2)),
        ("inactive raid1 a[0] b[1]", "80 blocks [2/2] [UU]", ("inactive", 80, 80, 0, 0, 0, 0)),
        ("inactive super non-persistent", "", ("inactive", 0, 0, 0, 0, 0, 0)),
    ],
)
def test_every_kind_of_array_tells_its_disks_and_blocks(head, size, wanted):
    assert told(one(f"md_home : {head}\n      {size}\n      \n")) == wanted


@pytest.mark.parametrize(
    ("line", "state", "synced"),
    [
        ("[=>...]  recovery =  8.5% (7/80) finish=1.0min speed=3K/sec", "recovering", 7),
        ("[=>...]  resync = 12.0% (9/80) finish=1.0min speed=3K/sec", "resync", 9),
        ("[=>...]  check = 100.0% (80/80) finish=0.0min speed=3K/sec", "check", 80),
        ("[>....]  reshape =  0.0% (0/80) finish=9.9min speed=0K/sec", "reshape", 0),
        (" resync =  8.5% (7/80) finish=1.0min speed=3K/sec", "resync", 7),
        ("\tresync=PENDING", "resync", 0),
        ("\tresync=DELAYED", "resync", 0),
        ("\tresync=REMOTE", "resync", 0),
        ("\trecover=REMOTE", "recovering", 0),
        ("bitmap: 4/4 pages [16KB], 65536KB chunk, file: /resync =  1.0% (1/2)", "active", 80),
    ],
)
@pytest.mark.parametrize("bitmap", ["before", "after", "none"])
def test_what_is_put_in_order_tells_how_far_it_is(line, state, synced, bitmap):
    kept = "      bitmap: 0/30 pages [0KB], 65536KB chunk\n"
    before, after = kept * (bitmap == "before"), kept * (bitmap == "after")
    array = one(
        f"md0 : active raid1 a[0] b[1]\n      80 blocks [2/2] [UU]\n{before}      {line}\n{after}      \n"
    )
    assert (array.state, array.synced) == (state, synced)
    assert sum(list(array.values())[6:]) == (state != "reshape"), (
        "node_exporter has no state of its own for it"
    )


MIRROR = b"md0 : active raid1 a[0] b[1]\n      80 blocks [2/2] [UU]\n"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"md0 : asleep raid1 a[0]\n      80 blocks [2/2] [UU]\n", "wanted an array and its state"),
        (b"md0\n", "wanted an array and its state"),
        (b"      80 blocks [2/2] [UU]\n", "wanted an array, got"),
        (b"md0 : active raid1 a[0] b[1]\n", "md0: wanted its blocks"),
        (b"md0 : active raid1 a[0] b[1]\n      many blocks [2/2] [UU]\n", "md0: wanted its blocks"),
        (b"md0 : active raid1 a[0] b[1]\n      80 blocks\n", r"md0: wanted \[disks/working\]"),
        (b"md0 : active raid1 a[0] b[1]\n      80 blocks [x/2] [UU]\n", r"md0: wanted \[disks/working\]"),
        (MIRROR + b"      [>..]  recovery = some\n", "md0: wanted how much is synced"),
        (MIRROR + MIRROR, "names one array twice"),
        (MIRROR.replace(b"md0", b"md\xff"), "wanted an array's name"),
        (MIRROR.replace(b"80", b"%d" % (NUMBER_MAX + 1)), "md0: wanted a number of at most 64 bits"),
        (MIRROR.replace(b"80", b"9" * 5000), "md0: wanted a number of at most 64 bits"),
        (MIRROR.replace(b"/2]", b"/%s]" % (b"9" * 5000)), "md0: wanted a number of at most 64 bits"),
    ],
)
def test_what_is_no_array_is_refused_with_the_reason(body, why):
    with pytest.raises(SamplerFailed, match=f"mdstat: .*{why}"):
        parse(HEAD + body + END)


def test_the_largest_number_of_blocks_is_read():
    assert parse(HEAD + MIRROR.replace(b"80", b"%d" % NUMBER_MAX) + END)[0].blocks == NUMBER_MAX


def test_a_list_of_arrays_cut_at_any_byte_is_refused(tree):
    data = (tree / "proc/mdstat").read_bytes()
    assert len(parse(data)) == 9
    for end in range(len(data)):
        with pytest.raises(SamplerFailed, match="mdstat: "):
            parse(data[:end])


def test_without_the_driver_there_is_nothing_here_and_without_an_array_no_series(tree, host):
    (sampler,) = build(host, ["mdadm"])
    file = tree / "proc/mdstat"
    file.write_bytes(HEAD + END)
    first, second = sampler.sample(), sampler.sample()
    assert (first.layout.series, list(first.values)) == ((), [])
    assert first.layout is second.layout
    host.close()
    file.unlink()
    with pytest.raises(NothingHere, match="RAID driver is not loaded"):
        sampler.sample()


def test_a_disk_that_fails_shows_with_the_next_tick_and_an_array_that_is_made_too(tree, host, values_of):
    (sampler,) = build(host, ["mdadm"])
    file = tree / "proc/mdstat"
    file.write_bytes(HEAD + MIRROR + END)
    first = sampler.sample()
    file.write_bytes(HEAD + MIRROR.replace(b"b[1]", b"b[1](F)").replace(b"[2/2] [UU]", b"[2/1] [U_]") + END)
    second = sampler.sample()
    assert second.layout is first.layout
    assert values_of(first, "node_md_disks", device="md0", state="failed") == 0
    assert values_of(second, "node_md_disks", device="md0", state="failed") == 1
    assert values_of(second, "node_md_disks", device="md0", state="active") == 1
    assert values_of(second, "node_md_disks_required", device="md0") == 2
    file.write_bytes(HEAD + MIRROR + MIRROR.replace(b"md0", b"md1") + END)
    assert values_of(sampler.sample(), "node_md_state", device="md1", state="active") == 1


def bonds(host: HostPaths) -> dict[str, str]:
    """Links and those that are up, by interface."""
    (sampler,) = build(host, ["bonding"])
    lines = dict(line.split(" ") for line in render([sampler.sample()]).splitlines() if line[0] != "#")
    masters = [name.split('"')[1] for name in lines if name.startswith("node_bonding_slaves")]
    return {
        name: "{}/{}".format(
            *(lines[f'node_bonding_{what}{{master="{name}"}}'] for what in ("active", "slaves"))
        )
        for name in masters
    }


@pytest.mark.parametrize(
    ("status", "up"),
    [("up", True), ("down", False), ("going down", False), ("going back", False), ("unknown", False)],
)
def test_a_link_counts_while_it_is_up(status, up):
    assert is_up("eth1", f"{status}\n".encode()) is up


def test_links_come_and_go_and_their_bond_says_so_with_the_same_layout(tree, host, values_of):
    net = tree / "sys/class/net"
    assert bonds(host) == {"bond0": "1/2", "bond1": "0/0"}
    (sampler,) = build(host, ["bonding"])
    first = sampler.sample()
    (net / "eth2/bonding_slave/mii_status").write_text("up\n")
    (net / "bond1/bonding/slaves").write_text("eth1\n")
    second = sampler.sample()
    assert second.layout is first.layout
    assert values_of(second, "node_bonding_active", master="bond0") == 2
    assert values_of(second, "node_bonding_slaves", master="bond1") == 1
    (net / "bonding_masters").write_text("bond1\n")
    third = sampler.sample()
    assert values_of(third, "node_bonding_slaves", master="bond0") is None
    assert values_of(third, "node_bonding_active", master="bond1") == 1


def test_no_bond_is_no_series_and_no_driver_is_nothing_here(tree, host):
    masters = tree / "sys/class/net/bonding_masters"
    masters.write_bytes(b"")
    assert bonds(host) == {}
    masters.unlink()
    with pytest.raises(NothingHere, match="bonding driver is not loaded"):
        bonds(host)


@pytest.mark.parametrize(
    "word", [b"../eth1", b"..", b".", b"a:b", b"a\0b", b"\xff", b"sixteen-letters-", b"++more/", b"9" * 5000]
)
def test_what_is_no_interface_is_refused_and_never_becomes_a_path(tree, host, word):
    for name in ("bonding_masters", "bond0/bonding/slaves"):
        file = tree / "sys/class/net" / name
        before = file.read_bytes()
        file.write_bytes(b"eth1 " + word + b"\n" if "slaves" in name else b"bond0 " + word + b"\n")
        with pytest.raises(SamplerFailed, match="wanted an interface, got"):
            bonds(host)
        file.write_bytes(before)
    assert bonds(host) == {"bond0": "1/2", "bond1": "0/0"}


def test_an_interface_twice_is_refused():
    with pytest.raises(SamplerFailed, match="masters: names 'bond0' twice"):
        parse_names("masters", b"bond0 bond0\n")


@pytest.mark.parametrize("name", ["bonding_masters", "bond0/bonding/slaves", "eth1/bonding_slave/mii_status"])
def test_each_file_of_a_bond_cut_at_any_byte_is_refused(tree, host, name):
    file = tree / "sys/class/net" / name
    data = file.read_bytes()
    for end in range(1, len(data)):
        file.write_bytes(data[:end])
        with pytest.raises(SamplerFailed, match="its last line has no end"):
            bonds(host)


def test_a_link_without_a_status_fails_with_its_file_named(tree, host):
    file = tree / "sys/class/net/eth2/bonding_slave/mii_status"
    file.unlink()
    with pytest.raises(SamplerFailed, match=r"eth2/bonding_slave/mii_status: does not exist"):
        bonds(host)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_of_bonds_and_links_that_went_are_given_back(tree, host):
    net = tree / "sys/class/net"
    (sampler,) = build(host, ["bonding"])
    sampler.sample()
    held = descriptors()
    for _ in range(3):
        (net / "bonding_masters").write_text("bond1\n")
        sampler.sample()
        (net / "bonding_masters").write_text("bond0 bond1\n")
        sampler.sample()
    assert descriptors() == held
    (net / "bonding_masters").unlink()
    host.close()
    with pytest.raises(NothingHere):
        sampler.sample()
    assert descriptors() == held - len(["masters", "slaves", "slaves", "eth1", "eth2"])


def test_both_are_on_by_default(host: HostPaths, tree: Path):
    assert {"bonding", "mdadm"} <= {sampler.name for sampler in build(host)}
