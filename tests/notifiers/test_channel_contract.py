"""What holds for every kind of channel: one suite over all of them, with real receivers."""

import asyncio
import json
import logging
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.notifiers.channel import Channel, discover
from watchbill_collector.notifiers.notice import Delivered, SendFailed
from watchbill_collector.notifiers.trial import trial_notice

SECRET = "s3cr3t-hunter2-XYZ"
KINDS = ["alertmanager", "apprise", "email", "exec", "pagerduty", "slack", "webhook"]
OVER_HTTP = ["alertmanager", "pagerduty", "slack", "webhook"]
WITH_SECRETS = ["alertmanager", "apprise", "email", "pagerduty", "slack", "webhook"]


def test_the_suite_covers_every_kind_there_is() -> None:
    assert list(discover()) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_explains_itself(kind: str) -> None:
    assert discover()[kind].help().endswith(".")


@dataclass
class Peer:
    """A channel and the real other end of it."""

    channel: Channel
    taken: Callable[[], list[str]]
    """What arrived, as text."""


@pytest.fixture
async def peer(
    request: pytest.FixtureRequest, channel: Any, open_receiver: Any, a: Any, tmp_path: Path
) -> Any:
    async def open_(kind: str, behaviour: Any = None, limit: str = "10s") -> Peer:
        time = f'timeout = "{limit}"\n'
        if kind == "exec":
            script, out = tmp_path / "tell", tmp_path / "told"
            work = {"hangs": "sleep 1000 & sleep 1000", "refuses": "echo no; exit 1"}.get(
                behaviour, f"cat >>{out}"
            )
            script.write_text(f"#!/bin/sh\n{work}\n")
            script.chmod(0o755)
            made = channel(kind, f'{time}argv = ["{script}"]')
            return Peer(made, lambda: [out.read_text()] if out.exists() else [])
        if kind == "email":
            return await mail(time, behaviour)
        receiver = await open_receiver()
        right = {"slack": a.answers(200, b"ok"), "pagerduty": a.answers(202, b'{"status":"success"}')}
        known = {"hangs": a.hangs, "refuses": a.answers(400, SECRET.encode())}
        usual = right.get(kind, a.answers(200))
        receiver.behaviour = behaviour if callable(behaviour) else known.get(behaviour, usual)
        secret = receiver.url + "/services/" + SECRET if kind == "slack" else SECRET
        bearer = kind == "alertmanager"
        file = channel.secret("s", f"Bearer {secret}" if bearer else secret)
        if kind == "apprise":
            file = channel.secret("s", f"json://u:{SECRET}@{receiver.url.removeprefix('http://')}/hook")
        keys = {
            "apprise": f'url_file = "{file}"',
            "alertmanager": f'urls = ["{receiver.url}"]\nauthorization_file = "{file}"',
            "pagerduty": f'url = "{receiver.url}"\nrouting_key_file = "{file}"',
            "slack": f'url_file = "{file}"',
            "webhook": f'url = "{receiver.url}/hook"\nsecret_file = "{file}"\n'
            f'authorization_file = "{channel.secret("t", "Bearer " + SECRET)}"',
        }
        made = channel(kind, time + keys[kind])
        return Peer(made, lambda: [one.body.decode() for one in receiver.received])

    async def mail(time: str, behaviour: Any) -> Peer:
        password = f'user = "u"\npassword_file = "{channel.secret("s", SECRET)}"\n'
        to = 'to = ["ops@example.org"]\nfrom = "watchbill@example.org"\n'
        if behaviour == "hangs":
            silent = socket.create_server(("127.0.0.1", 0))  # Connections are made, and nobody takes them.
            request.addfinalizer(silent.close)
            port = silent.getsockname()[1]
            return Peer(channel("email", f'{time}{to}server = "127.0.0.1:{port}"'), list)
        server = request.getfixturevalue("mail_server")
        said = ["--say", "DATA", "554 not wanted here"] if behaviour == "refuses" else []
        here = server("--login", "u", SECRET, *said)
        made = channel("email", f'{time}{to}{password}server = "127.0.0.1:{here.port}"')
        return Peer(made, lambda: [str(one) for one in here.mails()])

    return open_


Opens = Callable[..., Awaitable[Peer]]


def kinds(*names: str) -> Any:
    marks = {"email": [pytest.mark.real("aiosmtpd")]}
    return pytest.mark.parametrize("kind", [pytest.param(name, marks=marks.get(name, [])) for name in names])


@kinds(*KINDS)
async def test_a_firing_its_end_and_a_test_arrive(kind: str, peer: Opens, a: Any) -> None:
    made = await peer(kind)
    for one in (a.notice(), a.resolved(), trial_notice("under-test", a.NOW_MS, "", "eva", "1")):
        delivered = await made.channel.send(one)
        assert isinstance(delivered, Delivered)
    assert made.taken()
    if kind != "email":  # Whose bodies are encoded; test_mail_channel.py reads them.
        assert "DiskFull" in "".join(made.taken())
    made.channel.ready()


@kinds(*KINDS)
async def test_a_peer_that_hangs_is_cut_off_at_the_timeout(kind: str, peer: Opens, a: Any) -> None:
    made = await peer(kind, "hangs", "1s")
    with pytest.raises(SendFailed) as failed:
        async with asyncio.timeout(a.DEADLINE_S):
            await made.channel.send(a.notice())
    assert failed.value.transient
    assert "within 1s" in failed.value.why


# Apprise does not say what a peer has understood.
@kinds(*(kind for kind in KINDS if kind != "apprise"))
async def test_a_peer_that_understands_and_refuses_is_not_asked_again(kind: str, peer: Opens, a: Any) -> None:
    made = await peer(kind, "refuses")
    with pytest.raises(SendFailed) as failed:
        await made.channel.send(a.notice())
    assert not failed.value.transient


NOES = ('{"ok":false}', '{"status":"error"}', '{"error":"no such room"}', '{"errorMessage":"timed out"}')


@pytest.mark.parametrize("body", NOES)
@kinds(*OVER_HTTP)
async def test_a_peer_that_says_no_with_200_has_not_accepted(
    kind: str, body: str, peer: Opens, a: Any
) -> None:
    made = await peer(kind, a.answers(200, body.encode()))
    with pytest.raises(SendFailed, match="but it says") as failed:
        await made.channel.send(a.notice())
    assert not failed.value.transient


@pytest.mark.parametrize("body", ['{"errors":[],"error":null}', "[1]", "thank you", '{"status":"success"}'])
async def test_any_other_answer_of_a_webhook_is_a_yes(body: str, peer: Opens, a: Any) -> None:
    made = await peer("webhook", a.answers(200, body.encode()))
    assert isinstance(await made.channel.send(a.notice()), Delivered)


@kinds("alertmanager", "email", "pagerduty", "slack", "webhook")
async def test_nobody_there_is_worth_another_try(kind: str, channel: Any, a: Any) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    keys = {
        "alertmanager": f'urls = ["http://127.0.0.1:{port}"]',
        "email": f'to = ["a@b.example"]\nserver = "127.0.0.1:{port}"',
        "pagerduty": f'url = "http://127.0.0.1:{port}"\nrouting_key_file = "{channel.secret("k", SECRET)}"',
        "slack": f'url = "http://127.0.0.1:{port}"',
        "webhook": f'url = "http://127.0.0.1:{port}"',
    }
    with pytest.raises(SendFailed) as failed:
        await channel(kind, keys[kind]).send(a.notice())
    assert failed.value.transient
    assert f"127.0.0.1:{port}" in failed.value.why
    assert "refused" in failed.value.why or "attempts failed" in failed.value.why


@kinds(*KINDS)
async def test_hostile_labels_are_sent_and_break_nothing(kind: str, peer: Opens, a: Any) -> None:
    made = await peer(kind)
    await made.channel.send(a.hostile_notice())
    (text,) = made.taken()[-1:]
    if kind == "email":
        return  # test_mail_channel.py reads what the parts say.
    json.loads(text)
    if kind in ("slack", "pagerduty"):
        assert "\\u202e" not in text.replace("\\\\u202e", "")  # Shown as a number, never as itself.


@kinds(*WITH_SECRETS)
@pytest.mark.parametrize("behaviour", [None, "refuses"])
async def test_secrets_are_shown_nowhere(
    kind: str, behaviour: str | None, peer: Opens, a: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = await peer(kind, behaviour)
    try:
        said = repr(await made.channel.send(a.notice()))
    except SendFailed as failed:
        said = f"{failed!r} {failed} {failed.why}"
    everything = said + caplog.text + repr(made.channel) + repr(vars(made.channel))
    assert SECRET not in everything


@kinds(*WITH_SECRETS)
async def test_a_secret_that_others_may_read_is_not_used(
    kind: str, peer: Opens, a: Any, tmp_path: Path
) -> None:
    made = await peer(kind)
    (tmp_path / "s").chmod(0o644)
    with pytest.raises(SendFailed, match="0600 or 0640") as failed:
        await made.channel.send(a.notice())
    assert failed.value.transient
    with pytest.raises(SendFailed):
        made.channel.ready()
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o644
    assert made.taken() == []


@kinds(*WITH_SECRETS)
async def test_a_renewed_secret_counts_without_a_reload(
    kind: str, peer: Opens, a: Any, tmp_path: Path
) -> None:
    made = await peer(kind)
    secret = (tmp_path / "s").read_text()
    (tmp_path / "s").unlink()
    with pytest.raises(SendFailed, match="no such file"):
        await made.channel.send(a.notice())
    (tmp_path / "s").write_text(secret)
    (tmp_path / "s").chmod(0o600)
    await made.channel.send(a.notice())


@kinds(*OVER_HTTP)
async def test_five_hundred_alerts_stay_bounded(kind: str, peer: Opens, a: Any) -> None:
    made = await peer(kind)
    await made.channel.send(a.notice(*(a.alert(number) for number in range(500)), alerts_left_out=49_500))
    (text,) = made.taken()
    assert len(text) < 600_000


@kinds(*OVER_HTTP)
async def test_an_attempt_that_is_cancelled_ends_at_once(kind: str, peer: Opens, a: Any) -> None:
    made = await peer(kind, "hangs", "100s")
    task = asyncio.create_task(made.channel.send(a.notice()))
    await a.until(made.taken)
    task.cancel()
    async with asyncio.timeout(a.DEADLINE_S):
        with pytest.raises(asyncio.CancelledError):
            await task
