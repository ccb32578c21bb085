"""Watchbill's own API: the notification channels, and a test of one."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.channel_port import ChannelTrial, ChannelView
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within

BASE = "/api/watchbill/v1"


@dataclass(frozen=True, slots=True)
class ChannelList:
    """Every channel."""

    channels: Sequence[ChannelView]


async def _channels(call: Call) -> Response:
    return json_answer(ChannelList(await call.house.services.channels.channels()))


async def _test(call: Call) -> Response:
    name: str = call.request.path_params["name"]
    return json_answer(await call.house.services.channels.test(name, call.caller))


NOTIFICATION_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/channels",
        Need.READ,
        _channels,
        "Where notifications go.",
        gives=ChannelList,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("POST",),
        f"{BASE}/channels/{{name}}/test",
        Need.OPERATE,
        _test,
        "Send a test notice through one channel now, and say what its peer answered.",
        (Parameter("name", "The channel's name.", required=True),),
        gives=ChannelTrial,
        within=Within.NO_HOSTS,
    ),
)
