"""The mount table: escapes, thousands of lines, duplicates, and which of them can hang."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.mounts import Mount, can_hang, parse_mountinfo, unescape
from watchbill_agent.reading import SamplerFailed
from watchbill_agent.samplers.filesystem import strip_root


def line(number: int, point: str, kind: str, device: str = "dev") -> bytes:
    return f"{number} 1 8:{number} / {point} rw shared:1 - {kind} {device} rw\n".encode()


@pytest.mark.parametrize(
    ("word", "path"),
    [
        (rb"/plain", b"/plain"),
        (rb"/with\040space", b"/with space"),
        (rb"/with\011tab\012newline", b"/with\ttab\nnewline"),
        (rb"/back\134slash", b"/back\\slash"),
        (rb"/back\134040slash", b"/back\\040slash"),
        (rb"/unfinished\04", rb"/unfinished\04"),
        (b"/\xff\xfe", b"/\xff\xfe"),
    ],
)
def test_octal_is_undone_once(word, path):
    assert unescape(word) == path


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_every_path_survives_the_kernels_escapes(text):
    escaped = text.encode()
    for byte in b"\\ \t\n":
        escaped = escaped.replace(bytes([byte]), b"\\%03o" % byte)
    (mount,) = parse_mountinfo(b"1 0 8:1 / /" + escaped + b" rw - ext4 /dev/sda1 rw\n")
    assert mount.point == b"/" + text.encode()


def test_a_carriage_return_in_a_path_ends_no_line():
    (mount,) = parse_mountinfo(b"1 0 8:1 / /a\rb rw - ext4 /dev/sda1 rw\n")
    assert mount.point == b"/a\rb"


def test_a_line_is_read_whatever_stands_before_the_dash():
    (mount,) = parse_mountinfo(
        b"36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 propagate_from:2 - ext3 /dev/root rw\n"
    )
    assert mount == Mount(36, "98", "0", b"/mnt2", "ext3", "/dev/root", read_only=True)


@pytest.mark.parametrize("super_options", ["ro", "rw,ro", "rw,emergency_ro"])
def test_read_only_is_read_from_the_superblock_too(super_options):
    (mount,) = parse_mountinfo(f"1 0 8:1 / / rw - ext4 /dev/sda1 {super_options}\n".encode())
    assert mount.read_only


def test_an_option_that_only_begins_with_ro_is_not_read_only():
    (mount,) = parse_mountinfo(b"1 0 8:1 / / rw,rotate - ext4 /dev/sda1 rw,errors=remount-ro\n")
    assert not mount.read_only


@pytest.mark.parametrize(
    "bad", [b"x\n", b"1 0 8:1 / /\n", b"1 0 8 / / rw - ext4 d rw\n", b"1 0 8:x / / rw - ext4 d rw\n", b"\n"]
)
def test_a_bad_line_is_named_with_its_number(bad):
    with pytest.raises(SamplerFailed, match="line 2"):
        parse_mountinfo(line(1, "/", "ext4") + bad)


def test_ten_thousand_mounts_are_read():
    mounts = parse_mountinfo(b"".join(line(number, f"/m/{number}", "tmpfs") for number in range(10_000)))
    assert len(mounts) == 10_000
    assert can_hang(mounts) == set()


@pytest.mark.parametrize(
    ("table", "hanging"),
    [
        ([("/", "ext4"), ("/run", "tmpfs"), ("/boot", "vfat"), ("/srv", "xfs")], set()),
        ([("/", "ext4"), ("/net", "nfs4")], {1}),
        (
            [("/", "ext4"), ("/a", "fuse.sshfs"), ("/b", "zfs"), ("/c", "autofs"), ("/d", "ceph")],
            {1, 2, 3, 4},
        ),
        ([("/", "ext4"), ("/x", "something new")], {1}),
        ([("/", "ext4"), ("/net", "nfs4"), ("/net/deep/usb", "ext4")], {1, 2}),
        ([("/", "ext4"), ("/net", "nfs4"), ("/network", "ext4")], {1}),
        ([("/", "nfs4"), ("/srv", "ext4")], {0}),
        ([("/", "overlay"), ("/data", "xfs")], {0}),
    ],
)
def test_what_can_hang_is_what_is_not_known_and_what_lies_behind_it(table, hanging):
    mounts = parse_mountinfo(
        b"".join(line(at, point, kind.replace(" ", "_")) for at, (point, kind) in enumerate(table))
    )
    assert can_hang(mounts) == hanging


@pytest.mark.parametrize(
    ("point", "root", "label"),
    [
        (b"/srv", b"/", b"/srv"),
        (b"/host", b"/host", b"/"),
        (b"/host/srv", b"/host", b"/srv"),
        (b"/hostile", b"/host", b"/hostile"),
        (b"/srv", b"/host", b"/srv"),
    ],
)
def test_the_root_is_stripped_at_a_slash(point, root, label):
    assert strip_root(point, root) == label
