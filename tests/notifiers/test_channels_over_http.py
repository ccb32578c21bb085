"""Answers that HTTP peers give, and what becomes of them; each over a real connection."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from typing import Any

import pytest

from watchbill_collector.notifiers.notice import NoticeKind, SendFailed
from watchbill_collector.notifiers.peer import retry_after_s


@pytest.fixture
def hook(channel: Any, receiver: Any) -> Any:
    return channel("webhook", f'url = "{receiver.url}/hook"\ntimeout = "5s"')


async def failure(made: Any, one: Any) -> SendFailed:
    with pytest.raises(SendFailed) as failed:
        await made.send(one)
    return failed.value


@pytest.mark.parametrize(
    ("status", "transient"),
    [(status, False) for status in (400, 409, 413, 422)]
    + [(status, True) for status in (408, 425, 429, 500, 502, 503, 504)],
)
async def test_the_status_decides_whether_to_try_again(
    status: int, transient: bool, hook: Any, receiver: Any, a: Any
) -> None:
    receiver.behaviour = a.answers(status, b"because", location=receiver.url + "/elsewhere")
    failed = await failure(hook, a.notice())
    assert failed.transient is transient
    assert str(status) in failed.why
    assert len(receiver.received) == 1  # A redirect is not followed.


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404, 405, 407, 410])
async def test_what_speaks_of_us_or_of_the_address_waits_for_somebody_to_mend_it(
    status: int, hook: Any, receiver: Any, a: Any
) -> None:
    receiver.behaviour = a.answers(status, b"because", location=receiver.url + "/elsewhere")
    failed = await failure(hook, a.notice())
    assert (failed.transient, failed.unwelcome) == (True, True)
    assert str(status) in failed.why
    assert len(receiver.received) == 1  # A redirect is not followed.


async def test_a_routing_key_that_pagerduty_does_not_know_waits(pager: Any, receiver: Any, a: Any) -> None:
    said = b'{"status":"invalid event","errors":["\'routing_key\' is invalid"]}'
    receiver.behaviour = a.answers(400, said)
    assert (await failure(pager, a.notice())).unwelcome
    receiver.behaviour = a.answers(400, b'{"status":"invalid event","errors":["\'summary\' is missing"]}')
    assert not (await failure(pager, a.notice())).transient


@pytest.mark.parametrize("status", [429, 503])
async def test_a_peer_may_say_when_to_come_again(status: int, hook: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.answers(status, retry_after="17")
    assert (await failure(hook, a.notice())).retry_after_s == 17.0
    receiver.behaviour = a.answers(status)
    assert (await failure(hook, a.notice())).retry_after_s is None


def test_retry_after_has_two_forms_and_a_bound() -> None:
    now_s = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT.
    assert retry_after_s("120", now_s) == 120.0
    assert retry_after_s("Sun, 06 Nov 1994 08:50:37 GMT", now_s) == 60.0
    assert retry_after_s("Sun, 06 Nov 1994 08:48:37 GMT", now_s) == 0.0
    assert retry_after_s("99999999999999", now_s) == 3_600.0
    assert retry_after_s("Fri, 31 Dec 9999 23:59:59 GMT", now_s) == 3_600.0
    for nonsense in ("", "soon", "-5", "1e3", "\u0661", "Sun, 99 Nov 1994 08:50:37 GMT"):
        assert retry_after_s(nonsense, now_s) is None


async def test_a_peer_that_hangs_up_is_worth_another_try(hook: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.hangs_up
    assert (await failure(hook, a.notice())).transient


async def test_a_webhook_that_accepts_and_breaks_off_has_accepted(hook: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.breaks_off(200)
    assert "200" in (await hook.send(a.notice())).detail


@pytest.mark.parametrize("kind", ["slack", "pagerduty"])
async def test_where_the_body_counts_an_answer_that_breaks_off_is_none(
    kind: str, channel: Any, receiver: Any, a: Any
) -> None:
    receiver.behaviour = a.breaks_off(200)
    key = f'routing_key_file = "{channel.secret("k", "key-1")}"\n' if kind == "pagerduty" else ""
    failed = await failure(channel(kind, f'{key}url = "{receiver.url}"'), a.notice())
    assert failed.transient
    assert "broke off" in failed.why


async def test_an_acceptance_whose_body_does_not_end_is_one(channel: Any, receiver: Any, a: Any) -> None:
    async def drips(writer: asyncio.StreamWriter, _: Any) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nha")
        await asyncio.Event().wait()

    receiver.behaviour = drips
    made = channel("webhook", f'url = "{receiver.url}"\ntimeout = "1s"')
    assert (await made.send(a.notice())).detail == "200 ha"
    failed = await failure(channel("slack", f'url = "{receiver.url}"\ntimeout = "1s"'), a.notice())
    assert failed.transient
    assert "broke off: no end within 1s" in failed.why


async def test_an_answer_that_comes_byte_by_byte_has_the_attempts_time_and_no_more(
    channel: Any, receiver: Any, a: Any
) -> None:
    async def trickles(writer: asyncio.StreamWriter, _: Any) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 10_000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)

    receiver.behaviour = trickles
    failed = await failure(channel("webhook", f'url = "{receiver.url}"\ntimeout = "1s"'), a.notice())
    assert failed.transient
    assert "within 1s" in failed.why


async def test_of_a_gigabyte_only_the_beginning_is_read(hook: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = flood = a.Flood()
    delivered = await hook.send(a.notice())
    assert len(delivered.detail) <= 600
    assert flood.sent < 64 << 20


async def test_a_proxy_of_the_environment_is_not_used(
    hook: Any, receiver: Any, a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    await hook.send(a.notice())


async def test_a_proxy_of_the_configuration_is(channel: Any, receiver: Any, a: Any) -> None:
    made = channel("webhook", f'url = "http://hooks.example/x"\ninsecure = true\nproxy = "{receiver.url}"')
    await made.send(a.notice())
    assert receiver.received[0].path == "http://hooks.example/x"


async def test_tls_is_verified_against_the_configured_authority(
    channel: Any, open_receiver: Any, certificates: Any, a: Any
) -> None:
    there = await open_receiver(certificates.server_context())
    await channel("webhook", f'url = "{there.url}"\nca_file = "{certificates.ca}"').send(a.notice())
    failed = await failure(channel("webhook", f'url = "{there.url}"'), a.notice())
    assert failed.transient
    assert "certificate is not valid" in failed.why
    assert len(there.received) == 1


async def test_an_expired_certificate_is_named_and_waited_for(
    channel: Any, open_receiver: Any, ended_certificates: Any, a: Any
) -> None:
    there = await open_receiver(ended_certificates.server_context())
    made = channel("webhook", f'url = "{there.url}"\nca_file = "{ended_certificates.ca}"')
    failed = await failure(made, a.notice())
    assert failed.transient
    assert "certificate has expired" in failed.why
    assert there.received == []


async def test_an_address_from_a_file_is_not_used_in_the_clear_abroad(channel: Any, a: Any) -> None:
    made = channel(
        "slack", f'url_file = "{channel.secret("u", "http://hooks.example/services/T0/B0/xyzzy")}"'
    )
    failed = await failure(made, a.notice())
    assert "in the clear" in failed.why
    assert "xyzzy" not in failed.why


# ---------------------------------------------------------------- webhook


async def test_a_webhook_is_signed_as_standard_webhooks_are(channel: Any, receiver: Any, a: Any) -> None:
    packed = base64.b64encode(b"a key of some length").decode()
    file = channel.secret("sign", f"whsec_{packed}\nan older one\n")
    made = channel("webhook", f'url = "{receiver.url}"\nsecret_file = "{file}"')
    await made.send(a.notice())
    (got,) = receiver.received
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    wanted = [
        "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for key in (b"a key of some length", b"an older one")
    ]
    assert got.headers["webhook-signature"].split(" ") == wanted
    assert int(got.headers["webhook-timestamp"]) == a.NOW_MS // 1000


async def test_a_repeat_has_the_same_key_and_body(channel: Any, receiver: Any, hook: Any, a: Any) -> None:
    await hook.send(a.notice())
    await hook.send(a.notice())
    await hook.send(a.notice(key="weird key\r\nX: y"))
    first, second, third = receiver.received
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == "7f3a"
    assert first.headers["webhook-id"] == "7f3a"
    assert first.body == second.body
    assert len(third.headers["idempotency-key"]) == 64
    assert "x" not in third.headers


async def test_the_body_reads_as_alertmanagers_and_says_what_is_ours(
    hook: Any, receiver: Any, a: Any
) -> None:
    ended = a.alert(2, status="resolved", ends_ms=a.NOW_MS)
    await hook.send(a.notice(a.alert(1), ended, alerts_left_out=3, remark="careful"))
    body = json.loads(receiver.received[0].body)
    assert body["version"] == "4"
    assert body["status"] == "firing"
    assert body["truncatedAlerts"] == 3
    assert body["receiver"] == "under-test"
    assert [one["status"] for one in body["alerts"]] == ["firing", "resolved"]
    assert body["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"
    assert body["alerts"][1]["endsAt"] == "2026-11-18T11:06:40.000Z"
    assert body["alerts"][0]["value"] == 97.25
    assert body["watchbill"]["version"] == 1
    assert body["watchbill"]["remark"] == "careful"


async def test_a_bad_signing_secret_is_said_without_showing_it(channel: Any, receiver: Any, a: Any) -> None:
    made = channel("webhook", f'url = "{receiver.url}"\nsecret_file = "{channel.secret("s", "whsec_%%%%")}"')
    failed = await failure(made, a.notice())
    assert "base64" in failed.why
    assert "%%%%" not in failed.why


# ---------------------------------------------------------------- Slack's and PagerDuty's own ways


@pytest.mark.parametrize(
    "said", [b"no_service", b"invalid_payload", b'{"ok":false}', b"", b"<html>ok</html>"]
)
async def test_slack_saying_no_with_200_is_a_failure_by_name(
    said: bytes, channel: Any, receiver: Any, a: Any
) -> None:
    receiver.behaviour = a.answers(200, said)
    failed = await failure(channel("slack", f'url = "{receiver.url}"'), a.notice())
    assert not failed.transient
    assert (said.decode() or "nothing") in failed.why


async def test_rocket_chat_says_success_in_json(channel: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.answers(200, b'{"success":true}')
    await channel("slack", f'url = "{receiver.url}"\nstyle = "rocketchat"').send(a.notice())
    receiver.behaviour = a.answers(200, b'{"success":false,"error":"no such room"}')
    made = channel("slack", f'url = "{receiver.url}"\nstyle = "rocketchat"')
    assert "no such room" in (await failure(made, a.notice())).why


async def test_nothing_a_host_says_calls_everybody_or_hides_a_link(
    channel: Any, receiver: Any, a: Any
) -> None:
    receiver.behaviour = a.answers(200, b"ok")
    await channel("slack", f'url = "{receiver.url}"').send(a.hostile_notice())
    text = json.dumps(json.loads(receiver.received[0].body), ensure_ascii=False)
    assert "<!" not in text
    assert "<script" not in text
    assert "&lt;!channel&gt;" in text
    await channel("slack", f'url = "{receiver.url}"\nstyle = "mattermost"').send(a.hostile_notice())
    text = json.dumps(json.loads(receiver.received[1].body), ensure_ascii=False)
    assert "@channel" not in text
    assert "](http" not in text


async def test_a_large_group_fits_a_slack_message(channel: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.answers(200, b"ok")
    await channel("slack", f'url = "{receiver.url}"').send(a.notice(*(a.alert(one) for one in range(500))))
    (attachment,) = json.loads(receiver.received[0].body)["attachments"]
    assert len(attachment["text"]) < 4_000
    assert "480 more" in attachment["text"]


@pytest.fixture
def pager(channel: Any, receiver: Any, a: Any) -> Any:
    receiver.behaviour = a.answers(202, b'{"status":"success","message":"Event processed","dedup_key":"x"}')
    return channel(
        "pagerduty", f'url = "{receiver.url}"\nrouting_key_file = "{channel.secret("k", "key-1")}"'
    )


async def test_an_incident_is_opened_and_resolved_under_one_key(pager: Any, receiver: Any, a: Any) -> None:
    await pager.send(a.notice())
    await pager.send(a.resolved())
    opened, closed = (json.loads(one.body) for one in receiver.received)
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
    assert opened["dedup_key"] == closed["dedup_key"]
    assert len(opened["dedup_key"]) <= 255
    assert opened["routing_key"] == "key-1"
    assert opened["payload"]["severity"] == "critical"
    assert opened["payload"]["timestamp"] == "2026-11-18T11:01:40.000Z"
    assert len(opened["payload"]["summary"]) <= 1_024


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("critical", "critical"), ("major", "error"), ("minor", "warning"), ("info", "info"), ("", "warning")],
)
async def test_severities_have_pagerdutys_names(
    ours: str, theirs: str, pager: Any, receiver: Any, a: Any
) -> None:
    await pager.send(a.notice(severity=ours))
    assert json.loads(receiver.received[0].body)["payload"]["severity"] == theirs


async def test_a_test_leaves_no_incident_open(pager: Any, receiver: Any, a: Any) -> None:
    await pager.send(a.notice(kind=NoticeKind.TEST))
    opened, closed = (json.loads(one.body) for one in receiver.received)
    assert opened["payload"]["severity"] == "info"
    assert closed == {**closed, "event_action": "resolve", "dedup_key": opened["dedup_key"]}


async def test_what_is_no_incident_is_refused(pager: Any, receiver: Any, a: Any) -> None:
    assert not (await failure(pager, a.notice(kind=NoticeKind.DIGEST))).transient
    assert receiver.received == []


@pytest.mark.parametrize("said", [b'{"status":"invalid event","errors":["no"]}', b"accepted", b"[]"])
async def test_pagerduty_must_say_success(said: bytes, pager: Any, receiver: Any, a: Any) -> None:
    receiver.behaviour = a.answers(202, said)
    failed = await failure(pager, a.notice())
    assert not failed.transient
    assert "202" in failed.why


async def test_many_at_once_share_few_connections(hook: Any, receiver: Any, a: Any) -> None:
    await asyncio.gather(*(hook.send(a.notice(key=f"k{one}")) for one in range(100)))
    assert len(receiver.received) == 100
    assert receiver.connections <= 8


async def test_an_authority_that_cannot_be_read_is_named(channel: Any, receiver: Any, a: Any) -> None:
    for name, why in (("nowhere", "no such file"), ("empty", "no certificate")):
        file = channel.directory / name
        if name == "empty":
            file.write_text("")
        made = channel("webhook", f'url = "{receiver.url}"\nca_file = "{file}"')
        failed = await failure(made, a.notice())
        assert failed.transient
        assert f"ca_file {file}: {why}" in failed.why
        with pytest.raises(SendFailed, match="ca_file"):
            made.ready()
