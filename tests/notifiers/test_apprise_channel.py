"""Apprise, in a process of its own."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.notifiers.notice import SendFailed


def address(receiver: Any, path: str = "hook") -> str:
    return f"json://{receiver.url.removeprefix('http://')}/{path}"


async def test_the_words_arrive_as_apprise_writes_them(channel: Any, receiver: Any, a: Any) -> None:
    made = channel("apprise", f'url_file = "{channel.secret("u", address(receiver))}"')
    delivered = await made.send(a.notice())
    assert delivered.detail == "JSON took it"
    body = json.loads(receiver.received[0].body)
    assert body["title"].startswith("[")
    assert "/var on web1 is 97 % full" in body["message"]
    assert body["type"] == "failure"
    await made.send(a.resolved())
    assert json.loads(receiver.received[1].body)["type"] == "success"


async def test_what_a_host_says_is_text_and_no_line_of_its_own(channel: Any, receiver: Any, a: Any) -> None:
    made = channel("apprise", f'url_file = "{channel.secret("u", address(receiver))}"')
    await made.send(a.hostile_notice())
    body = json.loads(receiver.received[0].body)
    assert "\n" not in body["title"]
    assert "\u202e" not in body["title"] + body["message"]


async def test_a_failure_is_worth_another_try_and_says_whose(channel: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.answers(500, b"no")
    made = channel("apprise", f'url_file = "{channel.secret("u", address(receiver, "t0ps3cret-token"))}"')
    with pytest.raises(SendFailed) as failed:
        await made.send(a.notice())
    assert failed.value.transient
    assert "JSON did not take it" in failed.value.why
    assert "t0ps3cret" not in failed.value.why


async def test_an_address_that_nobody_knows_waits_for_somebody_to_mend_it(channel: Any, a: Any) -> None:
    made = channel("apprise", f'url_file = "{channel.secret("u", "nope://hunter2-secret")}"')
    with pytest.raises(SendFailed, match="no address that it knows") as failed:
        await made.send(a.notice())
    assert failed.value.unwelcome
    assert "hunter2" not in failed.value.why


async def test_without_apprise_the_line_to_type_is_said(
    channel: Any, receiver: Any, a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = channel("apprise", f'url_file = "{channel.secret("u", address(receiver))}"')
    monkeypatch.setattr("watchbill_collector.notifiers.channels.apprise.LIBRARY", "apprise_that_is_not_there")
    with pytest.raises(SendFailed, match=r"pip install 'watchbill-collector\[apprise\]'"):
        made.ready()


async def test_a_proxy_of_the_environment_is_not_used(
    channel: Any, receiver: Any, a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    made = channel("apprise", f'url_file = "{channel.secret("u", address(receiver))}"')
    await made.send(a.notice())
    assert len(receiver.received) == 1


async def test_its_process_ends_with_the_attempt(channel: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.hangs
    made = channel("apprise", f'timeout = "100s"\nurl_file = "{channel.secret("u", address(receiver))}"')
    task = asyncio.create_task(made.send(a.notice()))
    await a.until(lambda: receiver.received)
    (child,) = children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await a.until(lambda: child not in children())


def children() -> list[int]:
    """Our processes that run Apprise."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == str(os.getpid()) and any(word.endswith(b"apprise_child.py") for word in words):
            found.append(int(place.name))
    return found
