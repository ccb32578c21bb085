"""A host at the end of a cable: a network namespace of its own, joined to this machine by a pair of interfaces.

The cable can be pulled, or lead nowhere. Unlike with a proxy, the kernel's own TCP sees what happens.
"""

import ipaddress
import os
import subprocess
from collections.abc import Sequence
from random import Random
from typing import Final

import pytest

NETWORK: Final = ipaddress.ip_network("198.18.0.0/15")
"""Set aside for tests of networks (RFC 2544): nobody's addresses."""
NETWORKS: Final = NETWORK.num_addresses // 4
COMMAND_S: Final = 20


class Cable:
    """`here` is this machine's address on it, `there` the host's. Skips the test where that cannot be made."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to make a network namespace")
        # Two runs on one machine must not choose the same.
        number = Random(os.urandom(8)).randrange(NETWORKS)
        base = int(NETWORK.network_address) + 4 * number
        self.here, self.there = (str(ipaddress.ip_address(base + end)) for end in (1, 2))
        self.namespace = f"wb{number:x}"
        self._near, self._far = f"{self.namespace}a", f"{self.namespace}b"
        made = self._ip("netns", "add", self.namespace)
        if made.returncode != 0:
            pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        inside = ("-n", self.namespace)
        for words in (
            ("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.namespace),
            ("address", "add", f"{self.here}/30", "dev", self._near),
            (*inside, "address", "add", f"{self.there}/30", "dev", self._far),
            (*inside, "link", "set", "lo", "up"),
            (*inside, "link", "set", self._far, "up"),
            ("link", "set", self._near, "up"),
        ):
            self._must(*words)

    def pull(self) -> None:
        """Both ends see that the cable is out."""
        self._must("link", "set", self._near, "down")

    def lead_nowhere(self) -> None:
        """What is sent to the host vanishes, and nobody is told."""
        self._must("route", "add", "blackhole", f"{self.there}/32")

    def mend(self) -> None:
        """All is well again."""
        self._ip("route", "del", "blackhole", f"{self.there}/32")
        self._must("link", "set", self._near, "up")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` at the far end."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *argv]

    def close(self) -> None:
        """Take it away; what still runs at its end has no network any more."""
        self._ip("route", "del", "blackhole", f"{self.there}/32")
        self._ip("link", "del", self._near)
        self._ip("netns", "del", self.namespace)

    @staticmethod
    def _ip(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["ip", *words],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def _must(self, *words: str) -> None:
        done = self._ip(*words)
        assert done.returncode == 0, (words, done.stderr)
