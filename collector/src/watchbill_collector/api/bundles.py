"""`/api/watchbill/v1/runbooks/{name}/export`: a runbook to be carried out when the collector is gone."""

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.bundle_port import BundleView, ExportOrder
from watchbill_collector.api.ours import BASE, decoded
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.api.runbooks import parameters_of, run_named, runbook_of


async def _export(call: Call) -> Response:
    order = decoded(call.body, ExportOrder)
    made = await call.house.services.bundles.export(
        runbook_of(call), parameters_of(order.parameters), run_named(order.run), call.caller
    )
    return json_answer(made)


BUNDLE_ROUTES: tuple[Route, ...] = (
    Route(
        ("POST",),
        f"{BASE}/runbooks/{{name}}/export",
        Need.RUN,
        _export,
        "A signed bundle: steps with hosts, exact arguments and who has to agree, for when this collector is gone.",
        (Parameter("name", "The runbook's name.", required=True),),
        takes=ExportOrder,
        gives=BundleView,
        within=Within.OBJECT,
    ),
)
