"""Alerts pushed to Debian's Alertmanager: it receives, shows and clears them."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from watchbill.clock import SystemClock
from watchbill_collector.notifiers.channels.alertmanager import alerts
from watchbill_collector.notifiers.notice import NoticeKind, SendFailed

real = pytest.mark.real("prometheus-alertmanager")


@pytest.fixture
async def alertmanager(a: Any, tmp_path: Path) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = tmp_path / "alertmanager.yml"
    file.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    process = subprocess.Popen(  # noqa: ASYNC220 - It is awaited below.
        [
            "prometheus-alertmanager",
            f"--config.file={file}",
            f"--storage.path={tmp_path / 'am'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx2.AsyncClient(trust_env=False) as client:
            deadline_s = time.monotonic() + a.DEADLINE_S
            while True:
                try:
                    if (await client.get(f"{url}/-/ready")).status_code == 200:
                        break
                except httpx2.TransportError:
                    assert process.poll() is None, "alertmanager ended"
                assert time.monotonic() < deadline_s, "alertmanager did not get ready"
                await asyncio.sleep(0.05)
        yield url
    finally:
        with process:
            process.kill()


async def shown(url: str) -> list[dict[str, Any]]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        found = (await client.get(f"{url}/api/v2/alerts")).json()
    assert isinstance(found, list)
    return found


def now(a: Any, **changes: Any) -> Any:
    wall_ms = SystemClock().wall_ms()
    one = a.alert(starts_ms=wall_ms - 60_000, **changes)
    return a.notice(one, created_ms=wall_ms)


@real
async def test_alertmanager_shows_what_fires_and_clears_what_ended(
    alertmanager: str, channel: Any, a: Any
) -> None:
    made = channel("alertmanager", f'urls = ["{alertmanager}"]')
    firing = now(a)
    delivered = await made.send(firing)
    assert delivered.detail == "1 of 1 took 1 alerts"
    (one,) = await shown(alertmanager)
    assert one["labels"]["instance"] == "web1"
    assert one["annotations"]["summary"] == "/var on web1 is 97 % full"
    assert one["annotations"]["owner"] == "team-web"
    assert one["generatorURL"].startswith("http://collector.example")
    ended = a.resolved(*firing.alerts, created_ms=firing.created_ms)
    ended_at = a.replace(ended.alerts[0], ends_ms=SystemClock().wall_ms())
    await made.send(a.replace(ended, alerts=(ended_at,)))
    assert await shown(alertmanager) == []


@real
async def test_a_large_group_is_pushed_and_cleared_whole(alertmanager: str, channel: Any, a: Any) -> None:
    made = channel("alertmanager", f'urls = ["{alertmanager}"]')
    wall_ms = SystemClock().wall_ms()
    every = [a.alert(number, starts_ms=wall_ms - 60_000) for number in range(2_500)]
    assert (await made.send(a.notice(*every, created_ms=wall_ms))).detail == "1 of 1 took 2500 alerts"
    assert len(await shown(alertmanager)) == 2_500
    ended = [a.replace(one, status="resolved", ends_ms=SystemClock().wall_ms()) for one in every]
    await made.send(a.notice(*ended, created_ms=wall_ms))
    assert await shown(alertmanager) == []


@real
async def test_one_of_a_group_may_end_while_the_rest_fires(alertmanager: str, channel: Any, a: Any) -> None:
    made = channel("alertmanager", f'urls = ["{alertmanager}/"]')
    wall_ms = SystemClock().wall_ms()
    both = [a.alert(number, starts_ms=wall_ms - 60_000) for number in (1, 2)]
    await made.send(a.notice(*both, created_ms=wall_ms))
    ended = a.replace(both[0], status="resolved", ends_ms=SystemClock().wall_ms())
    await made.send(a.notice(ended, both[1], created_ms=wall_ms))
    assert [one["labels"]["instance"] for one in await shown(alertmanager)] == ["web2"]


@real
async def test_hostile_labels_arrive_as_they_are(alertmanager: str, channel: Any, a: Any) -> None:
    text = a.HOSTILE.replace("\ud800", "")
    labels = {"alertname": "Hostile", "instance": text, "empty": ""}
    made = channel("alertmanager", f'urls = ["{alertmanager}"]')
    await made.send(now(a, labels=labels, annotations={"summary": text, "nothing": ""}))
    (one,) = await shown(alertmanager)
    assert one["labels"] == {"alertname": "Hostile", "instance": text}


@real
async def test_a_test_and_a_word_of_the_house_show_up(alertmanager: str, channel: Any, a: Any) -> None:
    made = channel("alertmanager", f'urls = ["{alertmanager}"]')
    wall_ms = SystemClock().wall_ms()
    await made.send(a.notice(kind=NoticeKind.TEST, created_ms=wall_ms))
    await made.send(
        a.replace(a.notice(kind=NoticeKind.PLAIN, created_ms=wall_ms, remark="Lagging."), alerts=())
    )
    names = sorted(one["labels"]["alertname"] for one in await shown(alertmanager))
    assert names == ["DiskFull", "Watchbill"]


@real
async def test_what_alertmanager_refuses_is_said_in_its_words(
    alertmanager: str, channel: Any, a: Any
) -> None:
    made = channel("alertmanager", f'urls = ["{alertmanager}"]')
    with pytest.raises(SendFailed) as failed:
        await made.send(now(a, labels={"": "x", "bad-name": "y"}))
    assert not failed.value.transient
    assert "400" in failed.value.why


@real
async def test_a_dead_member_does_not_stop_the_others(alertmanager: str, channel: Any, a: Any) -> None:
    made = channel("alertmanager", f'urls = ["http://127.0.0.1:1", "{alertmanager}"]')
    delivered = await made.send(now(a))
    assert delivered.detail.startswith(
        "1 of 2 took 1 alerts; not taken: http://127.0.0.1:1: connection refused"
    )
    assert len(await shown(alertmanager)) == 1


async def test_when_no_member_takes_it_all_reasons_are_given(
    channel: Any, open_receiver: Any, a: Any
) -> None:
    busy, broken = await open_receiver(), await open_receiver()
    busy.behaviour = a.answers(429, retry_after="40")
    broken.behaviour = a.answers(400, b"no")
    made = channel("alertmanager", f'urls = ["{busy.url}", "{broken.url}"]')
    with pytest.raises(SendFailed) as failed:
        await made.send(a.notice())
    assert failed.value.transient
    assert failed.value.retry_after_s == 40.0
    assert "429" in failed.value.why
    assert "400" in failed.value.why


def test_what_fires_is_kept_alive_by_an_end_in_the_future(a: Any) -> None:
    (one,) = alerts(a.notice(), 900_000)
    assert one["endsAt"] == "2026-11-18T11:21:40.000Z"
    (one,) = alerts(a.resolved(), 900_000)
    assert one["endsAt"] == "2026-11-18T11:06:40.000Z"
    assert json.dumps(one)


async def test_it_says_how_often_it_wants_to_hear_again(channel: Any) -> None:
    made = channel("alertmanager", 'urls = ["http://127.0.0.1:9093"]\nkeep_alive = "6m"')
    assert made.refresh_s == 120.0
    assert channel("webhook", 'url = "http://127.0.0.1:1"').refresh_s is None


async def test_a_digest_is_refused(channel: Any, receiver: Any, a: Any) -> None:
    made = channel("alertmanager", f'urls = ["{receiver.url}"]')
    with pytest.raises(SendFailed, match="digest"):
        await made.send(a.notice(kind=NoticeKind.DIGEST))
    assert receiver.received == []
