"""Where hosts reach the collector only through an HTTP proxy."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import SystemClock
from watchbill.errors import Refused, Unreachable, Unreadable
from watchbill_agent.enroll import EnrolRequest
from watchbill_agent.enroll_child import enrol
from watchbill_agent.renew import renew

Ask = Callable[..., EnrolRequest]


class Proxy:
    """An HTTP proxy that knows CONNECT. `answer` is its status line; `seen` what it was asked."""

    def __init__(self) -> None:
        self.answer = "HTTP/1.1 200 Connection established"
        self.seen: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.seen.append(head)
        writer.write(f"{self.answer}\r\n\r\n".encode())
        if " 200 " in self.answer:
            host, _, port = head.split(" ")[1].rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))
        writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    found = Proxy()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


async def test_enrolment_and_renewal_go_through_the_proxy(
    site: Any, ask: Ask, tmp_path: Path, proxy: Proxy
) -> None:
    token = await site.token(names=("web01",))
    url = f"http://me:p%40ss@127.0.0.1:{proxy.port}"
    await asyncio.to_thread(enrol, ask(token, tmp_path, proxy=url), SystemClock())
    await renew(tmp_path, SystemClock(), url)
    places = [head.split(" ")[1] for head in proxy.seen]
    assert places == [f"127.0.0.1:{site.enrol_port}"] * 2 + [f"127.0.0.1:{site.stream_port}"]
    words = base64.b64encode(b"me:p@ss").decode()
    assert all(f"Basic {words}" in head for head in proxy.seen)


async def test_a_proxy_that_refuses_is_named(site: Any, ask: Ask, tmp_path: Path, proxy: Proxy) -> None:
    token = await site.token(names=("web01",))
    url = f"http://127.0.0.1:{proxy.port}"
    proxy.answer = "HTTP/1.1 407 Proxy Authentication Required"
    with pytest.raises(Refused, match="407 Proxy Authentication Required"):
        await asyncio.to_thread(enrol, ask(token, tmp_path, proxy=url), SystemClock())
    proxy.answer = "x" * 100_000
    with pytest.raises(Unreachable, match="no answer that could be read"):
        await asyncio.to_thread(enrol, ask(token, tmp_path, proxy=url), SystemClock())


@pytest.mark.parametrize("url", ["https://x:1", "x", "http://", "http://x:99999", "socks5://x:1"])
async def test_what_is_no_proxy_is_refused(site: Any, ask: Ask, tmp_path: Path, url: str) -> None:
    token = await site.token(names=("web01",))
    with pytest.raises(Unreadable, match="wanted http://HOST:PORT"):
        await asyncio.to_thread(enrol, ask(token, tmp_path, proxy=url), SystemClock())


async def test_the_environment_is_asked_only_when_the_agent_is_told_to(
    site: Any, ask: Ask, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    token = await site.token(match="web*", uses=2)
    await asyncio.to_thread(enrol, ask(token, tmp_path / "a", "web01"), SystemClock())
    assert proxy.seen == []
    await asyncio.to_thread(enrol, ask(token, tmp_path / "b", "web02", proxy="env"), SystemClock())
    assert len(proxy.seen) == 2
