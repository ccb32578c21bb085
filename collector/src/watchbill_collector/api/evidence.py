"""`/api/watchbill/v1/evidence` and `runs/{id}/evidence`: signed archives, for who audits without a scope.

An archive holds rows of the audit, which name hosts of every scope.
"""

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.evidence_port import Archive, EvidenceKey
from watchbill_collector.api.ours import BASE
from watchbill_collector.api.params import read_fields, time_field
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.api.runbook_port import no_run

ARCHIVE_MEDIA = "application/zip"
RUN_CHARACTERS_MAX = 256


def archive_answer(made: Archive) -> Response:
    """An archive, to be kept as a file."""
    headers = {"Content-Disposition": f'attachment; filename="{made.name}"'}
    return Response(made.content, 200, headers, ARCHIVE_MEDIA)


async def _run(call: Call) -> Response:
    run_id: str = call.request.path_params["name"]
    if len(run_id) > RUN_CHARACTERS_MAX or not run_id.isprintable():
        raise no_run(run_id)
    return archive_answer(await call.house.services.evidence.run(run_id, call.caller))


async def _period(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    since_ms, until_ms = time_field(fields, "since", None), time_field(fields, "until", None)
    return archive_answer(await call.house.services.evidence.period(since_ms, until_ms, call.caller))


async def _key(call: Call) -> Response:
    return json_answer(await call.house.services.evidence.key())


EVIDENCE_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/runs/{{name}}/evidence",
        Need.AUDITOR,
        _run,
        "One run as a signed archive: text, journal, votes, timings, audit.",
        (Parameter("name", "The run's id.", required=True),),
        media=ARCHIVE_MEDIA,
        within=Within.WHOLE,
    ),
    Route(
        ("GET",),
        f"{BASE}/evidence",
        Need.AUDITOR,
        _period,
        "Runs, drills and backups of a time as a signed archive.",
        (
            Parameter("since", "From this time, 30 days before `until` without it; 400 days at most."),
            Parameter("until", "To this time, now without it."),
        ),
        media=ARCHIVE_MEDIA,
        within=Within.WHOLE,
    ),
    Route(
        ("GET",),
        f"{BASE}/evidence/key",
        Need.KNOWN,
        _key,
        "The public key by which archives and the audit are signed.",
        gives=EvidenceKey,
        within=Within.NO_HOSTS,
    ),
)
