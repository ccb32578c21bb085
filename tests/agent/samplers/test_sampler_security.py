"""What samplers tell of a host's security: logins, ports, users, files and updates, and what happens to them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import UsageError
from watchbill_agent.authlog import Login, Sudo
from watchbill_agent.authlog import parse as parse_login
from watchbill_agent.errand import Errand
from watchbill_agent.samplers import HostPaths, NothingHere, Reading, Sampler, SamplerFailed, discover
from watchbill_agent.samplers.listening import Port, address_of
from watchbill_agent.samplers.listening import parse as parse_ports
from watchbill_agent.samplers.logins import BURST
from watchbill_agent.samplers.updates import ORIGINS_MAX, parse_apt, parse_dnf
from watchbill_agent.samplers.users import parse as parse_users
from watchbill_agent.samplers.watched_files import parse as parse_file

WAIT_S = 20.0
FUZZ = [
    *(
        b":",
        b"\n",
        b" ",
        b"\0",
        b"0A",
        b"00000000:0016",
        b"error 2",
        b"ok 1 2 3 4 5 ",
        b"[amd64])",
        b" ; COMMAND=",
    ),
    *(b"Failed password for ", b" from ", b" port 22", b"root:x:0:0::/:/bin/sh\n", b"pam_unix(su:auth): "),
    *(b"Inst a [1] (2 ", b"a.x86_64 1 r\n"),
]


@pytest.fixture
def make(host: HostPaths) -> Iterator[Callable[..., Sampler]]:
    made: list[Sampler] = []

    def build(name: str, at: HostPaths = host, **options: Any) -> Sampler:
        kind = discover()[name]
        made.append(kind(kind.options_type(**options), at))
        return made[-1]

    yield build
    for one in made:
        one.close()


def told(sampler: Sampler) -> list[dict[str, Any]]:
    happenings, sampler.happenings = sampler.happenings, ()
    return [dict(happening.payload) for happening in happenings]


def until(sampler: Sampler, holds: Callable[[Reading], bool]) -> Reading:
    deadline = time.monotonic() + WAIT_S
    while not holds(reading := sampler.sample()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return reading


@given(st.lists(st.sampled_from(FUZZ) | st.binary(max_size=12), max_size=30))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_there_parsers_end_and_raise_nothing_but_failures(pieces):
    text = b"".join(pieces)
    for parse in (
        lambda: list(parse_users(text)),
        lambda: parse_ports("tcp", text) + parse_ports("udp", text),
        lambda: [list(parse_login(name, text)) for name in (b"sshd", b"sudo", b"login")],
        lambda: parse_apt(text),
        lambda: parse_dnf(text),
        lambda: parse_file(text),
    ):
        with contextlib.suppress(SamplerFailed):
            parse()


# ------------------------------------------------------------ users


def test_a_user_who_can_log_in_is_counted_and_told_when_added_changed_or_removed(make, tree, values_of):
    passwd = tree / "root/etc/passwd"
    users = make("users")
    before = users.sample()
    assert values_of(before, "watchbill_security_login_users") == 3
    assert told(users) == []
    text = passwd.read_text()
    passwd.write_text(text + "eve:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/usr/sbin/nologin\n")
    after = users.sample()
    assert told(users) == [{"change": "added", "user": "eve", "uid": 0, "shell": "/bin/sh"}]
    assert values_of(after, "watchbill_security_superusers") == 2
    fingerprint = "watchbill_security_login_users_fingerprint"
    assert values_of(before, fingerprint) != values_of(after, fingerprint)
    passwd.write_text(text.replace("1000:1000", "0:1000").replace("old:", "older:"))
    users.sample()
    assert [(one["change"], one["user"]) for one in told(users)] == [
        ("changed", "ann"),
        ("removed", "eve"),
        ("removed", "old"),
        ("added", "older"),
    ]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"words\n", bytes(range(256))])
def test_a_passwd_that_names_nobody_is_a_failure(make, tree, content):
    (tree / "root/etc/passwd").write_bytes(content)
    with pytest.raises(SamplerFailed):
        make("users").sample()


# ------------------------------------------------------------ ports


def test_ports_of_a_frozen_host_are_counted_without_those_that_clients_use(make, values_of):
    reading = make("listening").sample()
    assert values_of(reading, "watchbill_security_listening_ports", proto="tcp") == 3
    assert values_of(reading, "watchbill_security_listening_ports", proto="udp") == 1


def test_a_new_port_is_told_once_with_its_process(make, values_of):
    listening = make("listening", HostPaths(clock=ManualClock()), loopback=True)
    listening.sample()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reading = listening.sample()
        mine = [one for one in told(listening) if one["port"] == port]
        assert mine == [
            {
                "proto": "tcp",
                "address": "127.0.0.1",
                "port": port,
                "uid": os.getuid(),
                "process": Path("/proc/self/comm").read_text().strip(),
            }
        ]
        assert values_of(reading, "watchbill_security_ports_opened_total", proto="tcp") >= 1
    listening.sample()
    with socket.create_server(("127.0.0.1", port)):
        listening.sample()
        assert [one for one in told(listening) if one["port"] == port] == []


def test_a_port_that_only_this_host_reaches_is_told_when_asked_for_alone(make):
    listening = make("listening", HostPaths(clock=ManualClock()))
    listening.sample()
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening.sample()
        assert [one for one in told(listening) if one["port"] == server.getsockname()[1]] == []


def test_what_comes_up_while_the_host_starts_is_no_news(make, tree, values_of):
    clock = ManualClock(boottime_ms=20_000)
    listening = make("listening", HostPaths(tree / "proc", clock=clock))
    table = tree / "proc/net/tcp"
    line = table.read_text().splitlines(True)[1]

    def opened(port: str) -> float:
        with table.open("a") as file:
            file.write(line.replace(":0016", port))
        lines = table.read_text().splitlines(True)
        table.write_text("".join([lines[0], *sorted(lines[1:], key=lambda one: " 0A " not in one)]))
        return values_of(listening.sample(), "watchbill_security_ports_opened_total", proto="tcp")

    assert opened(":0050") == 0
    clock.advance(60)
    assert opened(":01BB") == 0
    clock.advance(600)
    assert opened(":1F90") == 1
    assert [one["port"] for one in told(listening)] == [8080]


def test_reading_ends_with_the_sockets_that_listen(make, tree):
    table = tree / "proc/net/tcp"
    lines = table.read_text().splitlines(True)
    busy = lines[-1] * 2_000
    table.write_text("".join(lines) + busy + lines[1].replace(":0016", ":0017"))
    assert make("listening").sample().values[0] == 3


def test_addresses_are_those_of_the_kernels_byte_order():
    assert sys.byteorder == "little"
    assert address_of(b"0100007F") == "127.0.0.1"
    assert address_of(b"B80D01200000000067452301EFCDAB89") == "2001:db8::123:4567:89ab:cdef"
    assert address_of(b"0000000000000000FFFF00000100007F") == "::ffff:127.0.0.1"
    assert Port("tcp", "::ffff:127.0.0.1", 1, 0, 0).local


def test_a_table_that_is_none_is_a_failure_and_a_line_that_is_none_is_left_out(make, tree):
    (tree / "proc/net/tcp").write_bytes(b"nonsense\n")
    with pytest.raises(SamplerFailed, match="wanted a table of sockets"):
        make("listening").sample()
    assert parse_ports("tcp", b"  0: zz:16 00000000:0000 0A 0 0 0 0 0 1\n 0: 00000000:0016 0:0 0A 0:0") == []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        (tree / "proc/net" / name).unlink(missing_ok=True)
    with pytest.raises(NothingHere):
        make("listening").sample()


# ------------------------------------------------------------ logins


@pytest.mark.parametrize(
    ("program", "message", "found"),
    [
        (
            "sshd",
            "Accepted publickey for root from 10.0.0.9 port 5022 ssh2: ED25519 SHA256:abc",
            (True, "publickey"),
        ),
        (
            "sshd-session",
            "Accepted keyboard-interactive/pam for ann from ::1 port 1 ssh2",
            (True, "keyboard-interactive"),
        ),
        (
            "/usr/sbin/sshd",
            "Failed password for invalid user x y from 10.0.0.9 port 22 ssh2",
            (False, "password"),
        ),
        ("sshd", "Failed none for invalid user a from 10.0.0.9 port 22 ssh2", (False, "other")),
        ("sshd", "Invalid user admin from 10.0.0.9 port 43", (False, "invalid-user")),
        (
            "login",
            "pam_unix(login:session): session opened for user root(uid=0) by LOGIN(uid=0)",
            (True, "console"),
        ),
        ("su", "pam_unix(su-l:auth): authentication failure; logname= uid=1000", (False, "su")),
    ],
)
def test_a_login_is_read_from_what_the_log_says(program, message, found):
    (login,) = parse_login(program.encode(), message.encode())
    assert isinstance(login, Login)
    assert (login.success, login.method) == found


def test_the_address_is_what_sshd_wrote_and_not_what_the_user_is_called():
    line = b"Failed password for invalid user root from 6.6.6.6 port 1 ssh2 from 10.0.0.9 port 22 ssh2"
    (login,) = parse_login(b"sshd", line)
    assert login.address == b"10.0.0.9"


@pytest.mark.parametrize(
    ("message", "success"),
    [
        ("     ann : TTY=pts/0 ; PWD=/home/ann ; USER=root ; COMMAND=/usr/bin/id", True),
        ("ann : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh", False),
        ("eve : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh", False),
    ],
)
def test_a_use_of_sudo_is_read_with_its_result(message, success):
    assert list(parse_login(b"sudo", message.encode())) == [Sudo(success)]


@pytest.mark.parametrize("program", ["cron", "sshd", "sudo", "su", "x"])
def test_what_is_no_login_counts_nothing(program):
    for message in (
        b"",
        b"pam_unix(cron:session): session opened for user root",
        b"Server listening on ::",
        b"\xff : ",
    ):
        assert list(parse_login(program.encode(), message)) == []


def test_logins_are_counted_from_the_log_and_a_success_after_a_burst_is_told(make, tree, values_of):
    log = tree / "root/var/log/auth.log"
    log.parent.mkdir(parents=True)
    log.write_text("Nov 29 19:00:00 h sshd[1]: Accepted password for old from 10.0.0.1 port 1 ssh2\n")
    logins = make("logins")
    assert sum(logins.sample().values) == 0

    def write(*lines: str) -> None:
        with log.open("a") as file:
            file.writelines(f"2026-11-29T19:06:41.123456+00:00 h {line}\n" for line in lines)

    failed = "sshd[7]: Failed password for root from 10.0.0.9 port 22 ssh2"
    write(*[failed] * (BURST - 2), "sshd[7]: message repeated 2 times: [ " + failed.partition(": ")[2] + "]")
    write(
        "sshd[8]: Accepted password for ann from 10.0.0.8 port 22 ssh2",
        "sudo: ann : TTY=p ; COMMAND=/bin/id",
        "torn",
    )
    logins.sample()
    assert told(logins) == [], "another address has guessed nothing"
    write("sshd[9]: Accepted password for root from 10.0.0.9 port 22 ssh2")
    reading = logins.sample()
    assert values_of(reading, "watchbill_security_logins_total", method="password", result="failure") == BURST
    assert values_of(reading, "watchbill_security_logins_total", method="password", result="success") == 2
    assert values_of(reading, "watchbill_security_sudo_total", result="success") == 1
    assert values_of(reading, "watchbill_security_logins_after_burst_total") == 1
    assert told(logins) == [
        {"user": "root", "address": "10.0.0.9", "method": "password", "failures_at_least": BURST}
    ]
    log.rename(log.with_name("auth.log.1"))
    log.write_text("2026-11-29T19:06:41+00:00 h " + failed + "\n")
    reading = logins.sample()
    assert (
        values_of(reading, "watchbill_security_logins_total", method="password", result="failure")
        == BURST + 1
    )


def program(place: Path, name: str, script: str) -> None:
    (place / name).write_text(f"#!/bin/sh\n{script}\n")
    (place / name).chmod(0o755)


def test_the_journal_is_followed_where_there_is_no_log(make, tmp_path, monkeypatch, values_of):
    line = r'{"__CURSOR":"c1","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"Failed password for a from 10.0.0.9 port 22 ssh2"}'
    program(
        tmp_path, "journalctl", f"echo \"$@\" > {tmp_path}/said; echo '{line}'; echo nonsense; exec sleep 600"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    logins = make("logins", source="journal")
    until(
        logins,
        lambda one: (
            values_of(one, "watchbill_security_logins_total", method="password", result="failure") == 1
        ),
    )
    assert "_UID=0" in (tmp_path / "said").read_text()
    logins.close()


def test_neither_a_log_nor_a_journal_is_nothing_to_read(make, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NothingHere):
        make("logins").sample()


# ------------------------------------------------------------ watched files


@pytest.fixture
def real() -> HostPaths:
    return HostPaths(clock=SystemClock())


def test_a_watched_file_tells_what_changed_and_by_how_much(make, tmp_path, real, values_of):
    watched, absent = tmp_path / "sshd_config", tmp_path / "preload"
    watched.write_text("PermitRootLogin no\n")
    files = make("watched_files", real, paths=[str(watched), str(absent)])

    def readable(path: Path) -> Callable[[Reading], bool]:
        return lambda one: values_of(one, "watchbill_security_file_readable", path=str(path)) == 1

    first = until(files, readable(watched))
    assert told(files) == []

    def change(what: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        until(files, lambda _: bool(found.extend(told(files)) or found))
        assert [one["change"] for one in found] == [what]
        return found[0]

    watched.write_text("PermitRootLogin yes\n")
    content = change("content")
    assert content["path"] == str(watched)
    assert content["before"]["sha256"] != content["after"]["sha256"]
    second = files.sample()
    name = "watchbill_security_file_fingerprint"
    assert values_of(first, name, path=str(watched)) != values_of(second, name, path=str(watched))
    assert values_of(second, "watchbill_security_file_changes_total", path=str(watched)) == 1
    watched.chmod(0o600)
    assert change("owner")["after"]["owner"].endswith(" 600")
    absent.write_text("/lib/evil.so\n")
    assert change("appeared")["before"] == {}
    watched.unlink()
    assert change("vanished")["after"] == {}


def test_a_file_on_a_mount_that_hangs_delays_nothing_and_the_others_are_read(
    make, tmp_path, monkeypatch, values_of
):
    """Whatever never comes back from opening it: here a child that stops at the second path."""
    clock = ManualClock()
    child = tmp_path / "child.py"
    child.write_text(
        "import sys, os, time\n"
        "for path in sys.argv[1:]:\n"
        "    if path.endswith('hung'): time.sleep(600)\n"
        "    os.write(1, b'ok 1 1000000000 0 0 644 ' + b'ab' * 32 + b'\\n')\n"
    )
    monkeypatch.setattr("watchbill_agent.samplers.watched_files._PROGRAM", child)
    files = make("watched_files", HostPaths(clock=clock), paths=["/a", "/b/hung", "/c"])

    def values(one: Reading) -> list[float]:
        return [
            values_of(one, "watchbill_security_file_readable", path=path) for path in ("/a", "/b/hung", "/c")
        ]

    assert list(files.sample().values) == [], "a fingerprint of nothing would be a change at every start"
    deadline = time.monotonic() + WAIT_S
    while not files._said.count(b"\n"):
        files.sample()
        assert time.monotonic() < deadline
    clock.advance(60)
    until(files, lambda one: values(one) == [1, 0, 1])
    assert files.notice == "/b/hung: does not answer"


def test_paths_that_cannot_be_watched_are_refused(make):
    for paths in (["etc/passwd"], [], ["/a\n"], [f"/{number}" for number in range(101)]):
        with pytest.raises(UsageError, match="paths"):
            make("watched_files", paths=paths)


# ------------------------------------------------------------ updates

APT = b"""Inst libc6 [2.36-9] (2.36-9+deb12u1 Debian:12.1/stable, Debian-Security:12/stable-security [amd64]) []
Inst linux-image-6.1.0-9-amd64 (6.1.27-1 Debian-Security:12/stable-security [amd64])
Inst tzdata [2023] (2024 Debian:12.1/stable [all])
Inst broken [1
Conf libc6 (2.36-9+deb12u1 Debian:12.1/stable [amd64])
Inst own [1] (2 [amd64])
"""
DNF = b"""
openssl.x86_64                  1:3.0.7-2.el9                baseos
kernel.x86_64                   5.14.0-503.el9               baseos
vim-common.noarch               2:8.2-21                     appstream
Obsoleting Packages
grub2.x86_64                    2.06                         baseos
"""


def test_pending_updates_are_counted_by_origin_and_those_about_security_apart():
    pending = parse_apt(APT)
    assert (pending.updates, pending.security) == (4, 2)
    assert sorted((*dict(pairs).values(), count) for pairs, count in pending.by.items()) == [
        ("all", "Debian:12.1/stable", 1),
        ("amd64", "Debian-Security:12/stable-security", 1),
        ("amd64", "Debian:12.1/stable", 1),
        ("amd64", "unknown", 1),
    ]
    assert sum(pending.by.values()) == 4
    found = parse_dnf(DNF)
    assert found.updates == 3
    assert {dict(pairs)["origin"]: count for pairs, count in found.by.items()} == {
        "appstream": 1,
        "baseos": 2,
    }


def test_too_many_origins_are_put_together():
    lines = b"".join(b"Inst p [1] (2 Origin%d:1/x [amd64])\n" % number for number in range(ORIGINS_MAX + 20))
    pending = parse_apt(lines)
    assert len(pending.by) == ORIGINS_MAX
    assert sum(pending.by.values()) == ORIGINS_MAX + 20


RELEASE = """Origin: Debian
Label: Debian-Security
Suite: stable-security
Version: 12
Components: main
Date: Sat, 28 Nov 2026 10:00:00 UTC
"""
PACKAGES = """Package: dpkg
Version: 9999-1
Architecture: ARCH
Filename: t.deb
Size: 1
SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

"""


@pytest.mark.real("apt-get", "dpkg")
def test_apt_is_asked_for_real(make, real, tmp_path, monkeypatch, values_of):
    """The system's apt, with lists of its own that have a newer package than is installed."""
    (tmp_path / "lists/partial").mkdir(parents=True)
    (tmp_path / "sources.list").write_text(
        "deb [trusted=yes] http://security.example/ stable-security main\n"
    )
    arch = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    lists = tmp_path / "lists/security.example_dists_stable-security"
    Path(f"{lists}_Release").write_text(f"{RELEASE}Architectures: {arch} all\n")
    Path(f"{lists}_main_binary-{arch}_Packages").write_text(PACKAGES.replace("ARCH", arch))
    sources = f"-o Dir::Etc::SourceList={tmp_path}/sources.list -o Dir::Etc::SourceParts=-"
    program(
        tmp_path,
        "apt-get",
        f'exec {shutil.which("apt-get")} -o Dir::State::Lists={tmp_path}/lists {sources} "$@"',
    )
    program(
        tmp_path, "nice", 'shift 2; exec "$@"'
    )  # On a busy machine the lowest priority never has its turn.
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    updates = make("updates", real)
    assert list(updates.sample().values) == []
    reading = until(updates, lambda one: bool(one.values))
    origin = "Debian-Security:12/stable-security"
    assert values_of(reading, "apt_upgrades_pending", origin=origin, arch=arch) == 1
    assert values_of(reading, "watchbill_updates_security_pending") == 1
    assert values_of(reading, "watchbill_updates_read_timestamp_seconds") > 1_700_000_000
    assert updates.sample().layout is reading.layout


def test_dnf_is_asked_for_updates_advisories_and_whether_to_restart(make, tmp_path, monkeypatch, values_of):
    said = DNF.decode()
    program(
        tmp_path,
        "dnf",
        f'case "$*" in *check-update*) cat <<X\n{said}X\nexit 100;; '
        "*) echo 'RHSA-2026:1 Important/Sec. openssl-1:3.0.7-2.el9.x86_64';; esac",
    )
    program(tmp_path, "needs-restarting", "exit 1")
    for name in ("sh", "cat", "nice"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    updates = make("updates", HostPaths())
    reading = until(updates, lambda one: bool(one.values))
    assert values_of(reading, "yum_upgrades_pending", origin="baseos") == 2
    assert values_of(reading, "watchbill_updates_security_pending") == 1
    assert values_of(reading, "node_reboot_required") == 1


def test_a_package_manager_that_fails_is_a_failure_and_is_asked_again(make, tmp_path, monkeypatch):
    program(tmp_path, "apt-get", "exit 100")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clock = ManualClock()
    updates = make("updates", HostPaths(clock=clock))
    with pytest.raises(SamplerFailed, match="ended with 100"):
        until(updates, lambda _: False)
    program(tmp_path, "apt-get", "true")
    clock.advance(601)
    deadline = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(SamplerFailed):
            if updates.sample().values:
                break
        assert time.monotonic() < deadline


def test_whether_to_restart_is_read_from_run(make, tree, values_of):
    reboot = make("reboot")
    assert list(reboot.sample().values) == [0]
    (tree / "root/run").mkdir()
    (tree / "root/run/reboot-required").touch()
    assert list(reboot.sample().values) == [1]


# ------------------------------------------------------------ errands


def test_an_errand_that_takes_too_long_is_killed_with_what_it_started(tmp_path):
    clock = ManualClock()
    errand = Errand(["sh", "-c", "sleep 600 & echo $!; wait"], clock, 5)
    deadline = time.monotonic() + WAIT_S
    said = b""
    while not said.endswith(b"\n"):
        said += errand.take()
        assert time.monotonic() < deadline
    assert not errand.ended
    clock.advance(5)
    while not errand.ended:
        assert time.monotonic() < deadline
    assert errand.timed_out
    assert errand.code == -signal.SIGKILL

    def runs() -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{int(said)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    while runs():
        assert time.monotonic() < deadline
    errand.close()
