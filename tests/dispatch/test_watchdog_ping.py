"""The ping goes out while everything makes progress, and is withheld, refused or lost without harm otherwise."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest

from watchbill.config import Duration
from watchbill.errors import ConfigError
from watchbill_collector.dispatch.settings import Watchdog
from watchbill_collector.dispatch.watchdog import WatchdogPing, read_headers


@pytest.fixture
def service() -> Iterator[Any]:
    class Handler(http.server.BaseHTTPRequestHandler):
        seen: ClassVar[list[tuple[str, str, str]]] = []
        status = 200

        def answer(self) -> None:
            Handler.seen.append((self.command, self.path, self.headers.get("X-Token", "")))
            self.send_response(Handler.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_HEAD = answer  # noqa: N815 - The library calls them so.

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


async def test_it_pings_only_while_nothing_stands_still(service: Any) -> None:
    stalled: list[str] = []
    ping = WatchdogPing(Watchdog(url=service.url + "/id", method="POST"), {"X-Token": "t"}, lambda: stalled)
    async with httpx2.AsyncClient(timeout=10) as client:
        assert await ping.turn(client) == "ok"
        stalled.append("evaluation")
        assert await ping.turn(client) == "withheld"
        assert "evaluation" in ping.last_error
        stalled.clear()
        service.status = 500
        assert await ping.turn(client) == "failed"
        assert ping.last_error == "HTTP 500"
        service.status = 302
        assert await ping.turn(client) == "failed", "a redirect is not followed"
    assert service.seen == [("POST", "/id", "t")] * 3
    assert ping.outcomes == {"ok": 1, "failed": 2, "withheld": 1}


async def test_nobody_there_is_counted_and_ends_nothing() -> None:
    ping = WatchdogPing(Watchdog(url="http://127.0.0.1:9/", timeout=Duration(5)), {}, list)
    async with httpx2.AsyncClient(timeout=5) as client:
        assert await ping.turn(client) == "failed"
    assert ping.outcomes["failed"] == 1


def test_headers_come_from_a_private_file_and_values_are_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer s3cret\n\nX-Site: main\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read") as caught:
        read_headers(file)
    assert "s3cret" not in str(caught.value)
    file.chmod(0o600)
    assert read_headers(file) == {"Authorization": "Bearer s3cret", "X-Site": "main"}
    file.write_text("s3cret\n")
    with pytest.raises(ConfigError, match=r":1: .*lines of `Name: value`") as caught:
        read_headers(file)
    assert "s3cret" not in str(caught.value)
