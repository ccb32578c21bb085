"""Talking to the service manager, and to nobody."""

import os
import socket

import pytest

from watchbill.sdnotify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"@watchbill-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(5)
        yield listener, address


def test_messages_arrive_as_the_protocol_has_them(manager):
    listener, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("watching 3 hosts")
    assert listener.recv(4096) == b"READY=1\nSTATUS=watching 3 hosts"
    notifier.reloading()
    first, second = listener.recv(4096).split(b"\n")
    assert first == b"RELOADING=1"
    assert int(second.removeprefix(b"MONOTONIC_USEC=")) > 0
    notifier.watchdog()
    assert listener.recv(4096) == b"WATCHDOG=1"
    notifier.status("two\nlines\x1b[31m")
    assert listener.recv(4096) == b"STATUS=two lines [31m"
    notifier.stopping()
    assert listener.recv(4096) == b"STOPPING=1"
    notifier.extend_timeout(1.5)
    assert listener.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000"
    assert notifier.failures == 0


@pytest.mark.parametrize(
    "address",
    ["", "@", "relative", "vsock:2:1", "/nonexistent/socket", "/dev/null", "/" + "x" * 500, "/a\0b"],
)
def test_a_socket_that_is_missing_or_nonsense_is_harmless(address):
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("fine")
    notifier.watchdog()


def test_a_manager_that_does_not_read_does_not_stop_us(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        for _ in range(2_000):
            notifier.watchdog()
        assert notifier.failures > 0


@pytest.mark.parametrize(
    ("usec", "owner", "expected"),
    [
        ("60000000", "", 60.0),
        pytest.param("60000000", str(os.getpid()), 60.0, id="own"),
        ("60000000", "1", None),
        ("60000000", "garbage", None),
        ("", "", None),
        ("0", "", None),
        ("-5", "", None),
        ("1e6", "", None),
        ("٣", "", None),
        ("9" * 4000, "", None),
        ("18446744073709551615", "", None),
    ],
)
def test_the_watchdog_interval_is_read_or_ignored(usec, owner, expected):
    assert Notifier({"WATCHDOG_USEC": usec, "WATCHDOG_PID": owner}).watchdog_s == expected
