"""Channels by name while they are swapped, and the twin that stands in for them."""

import asyncio
import logging
from typing import Any

import pytest

from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.memory import MemoryChannel
from watchbill_collector.notifiers.notice import Delivered, Notice, NoticeKind, SendFailed


async def test_what_is_on_its_way_goes_out_through_the_old_channel(a: Any) -> None:
    old, new = MemoryChannel(), MemoryChannel()
    channels = ChannelSet({"ops": old})
    old.hang()
    on_its_way = asyncio.create_task(channels.send("ops", a.notice()))
    await a.until(lambda: old.attempts)
    channels.swap({"ops": new})
    await channels.send("ops", a.notice(key="later"))
    assert not old.closed
    old.go_on()
    assert await on_its_way == Delivered("kept")
    await a.until(lambda: old.closed)
    assert [one.key for one in old.accepted] == ["7f3a"]
    assert [one.key for one in new.accepted] == ["later"]
    await channels.close()
    assert new.closed


async def test_a_channel_that_went_with_a_reload_is_named() -> None:
    channels = ChannelSet({})
    with pytest.raises(SendFailed, match="there is no channel 'gone'") as failed:
        await channels.send("gone", None)  # type: ignore[arg-type]  # It is not looked at.
    assert failed.value.unwelcome


async def test_a_channels_mistake_costs_one_attempt_and_shows_no_secret(
    a: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def send(self, notice: Notice) -> Delivered:
            raise KeyError("hunter2")

        async def close(self) -> None:
            raise OSError("hunter2")

    channels = ChannelSet({"ops": Broken()})
    with caplog.at_level(logging.DEBUG), pytest.raises(SendFailed, match="KeyError") as failed:
        await channels.send("ops", a.notice())
    assert failed.value.transient
    await channels.close()
    assert "hunter2" not in caplog.text + failed.value.why


async def test_the_set_knows_names_kinds_and_who_wants_to_hear_again() -> None:
    channels = ChannelSet({"b": MemoryChannel(refresh_s=300.0), "a": MemoryChannel()})
    assert channels.names == ("a", "b")
    assert channels.kind("a") == "memory"
    assert channels.kind("none") == ""
    assert (channels.refresh_s("a"), channels.refresh_s("b")) == (None, 300.0)


async def test_the_twin_fails_as_it_is_told(a: Any) -> None:
    twin = MemoryChannel()
    twin.fail_next(SendFailed("later", transient=True, retry_after_s=3.0), times=2)
    twin.fail_next(SendFailed("cut off", transient=True), accepted=True)
    for _ in range(3):
        with pytest.raises(SendFailed):
            await twin.send(a.notice())
    await twin.send(a.notice())
    assert twin.attempts == 4
    assert len(twin.of_kind(NoticeKind.FIRING)) == 2


async def test_the_stamp_of_a_channel_changes_with_its_secret_and_with_a_reload(channel: Any) -> None:
    secret = channel.secret("hook", "one")
    made = channel("webhook", f'url = "https://hooks.example"\nsecret_file = "{secret}"')
    channels = ChannelSet({"hook": made, "twin": MemoryChannel()})
    seen = [channels.stamp("hook")]
    assert channels.stamp("hook") == seen[0]
    secret.write_text("another")
    seen.append(channels.stamp("hook"))
    secret.unlink()
    seen.append(channels.stamp("hook"))
    channels.swap({"hook": made})
    seen.append(channels.stamp("hook"))
    assert len(set(map(str, seen))) == 4
    assert channels.stamp("gone") != channels.stamp("hook")
    await channels.close()
