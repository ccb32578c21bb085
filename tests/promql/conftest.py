"""Debian's Prometheus, for tests that compare with it."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


class Prometheus:
    """A Prometheus of its own on a free port."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1h, evaluation_interval: 1m}\n"
            "storage: {tsdb: {out_of_order_time_window: 3650d}}\n"
        )
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-remote-write-receiver",
                "--storage.tsdb.retention.time=100y",
                "--log.level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "prometheus did not become ready"
                assert self._process.poll() is None, "prometheus ended"
                time.sleep(0.05)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            return error.read()

    def query(self, path: str, parameters: dict[str, str]) -> dict:
        form = urllib.parse.urlencode(parameters).encode()
        return json.loads(self.post(path, form, {"Content-Type": "application/x-www-form-urlencoded"}))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One server for all tests of the process."""
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    try:
        server.wait()
        yield server
    finally:
        server.close()
