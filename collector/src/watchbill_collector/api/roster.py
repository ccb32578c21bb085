"""`/api/watchbill/v1/roster`: who may approve. Carried here, made and signed elsewhere."""

import base64
import binascii
from typing import Final

from starlette.responses import Response

from watchbill.errors import UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.ours import decoded
from watchbill_collector.api.roster_port import Behind, NewRoster, Published, RosterDocument
from watchbill_collector.api.routes import Call, Need, Route, Within

BASE: Final = "/api/watchbill/v1"


async def _roster(call: Call) -> Response:
    return json_answer(await call.house.services.roster.roster())


async def _publish(call: Call) -> Response:
    order = decoded(call.body, NewRoster)
    try:
        signed = base64.b64decode(order.signed.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise UsageError("signed: wanted a signed roster in base64") from exc
    return json_answer(await call.house.services.roster.publish(signed, call.caller))


async def _behind(call: Call) -> Response:
    return json_answer(await call.house.services.roster.behind(call.sees))


ROSTER_ROUTES = (
    Route(
        ("GET",),
        f"{BASE}/roster",
        Need.KNOWN,
        _roster,
        "The newest roster: who may approve what hosts protect.",
        gives=RosterDocument,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("POST",),
        f"{BASE}/roster",
        Need.ADMIN,
        _publish,
        "Carry a newer roster, signed by its own keys, to the hosts.",
        takes=NewRoster,
        gives=Published,
        within=Within.WHOLE,
    ),
    Route(
        ("GET",),
        f"{BASE}/roster/behind",
        Need.READ,
        _behind,
        "Hosts that do not have the newest roster.",
        gives=Behind,
        within=Within.FILTERED,
    ),
)
