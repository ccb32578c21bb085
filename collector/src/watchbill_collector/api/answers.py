"""Answers: JSON by orjson, one shape for errors, compression when asked for.

Success under `/api/v1` has Prometheus' envelope; ours under `/api/watchbill/v1` is the plain document. Errors
have one shape in both, Prometheus': `{"status": "error", "errorType": ..., "error": ...}`, and ours add
`hint`, the next thing to type, where there is one.
"""

import zlib
from collections.abc import Mapping, Sequence

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response

from watchbill.errors import Busy, ConfigError, Refused, StorageError, Transient, UsageError
from watchbill_collector.api.ports import NoSuch, QueryAnswer
from watchbill_collector.promql.errors import PromqlError, TooMany

COMPRESS_BYTES_MIN = 1_400
"""Below one packet compression saves nothing."""

GZIP_LEVEL = 3
"""An answer of 10 MB takes 0.1 s at level 3 and 0.3 s at level 6, for 10 % fewer bytes."""

ANSWER_BYTES_MAX = 64 << 20
"""Bytes of one answer. A thousand series at 2,000 points each are 50 MB of JSON; nothing draws more."""

JSON_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS

_PROMQL_STATUS = {"bad_data": 400, "execution": 422, "timeout": 503, "canceled": 503}

Document = object
"""Anything orjson writes: dictionaries, lists, frozen dataclasses, datetimes, enums."""


def json_answer(document: Document, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A plain document."""
    return Response(orjson.dumps(document, option=JSON_OPTIONS), status, headers, "application/json")


def prometheus_answer(data: Document, warnings: Sequence[str] = (), infos: Sequence[str] = ()) -> bytes:
    """Prometheus' envelope around `data`, as bytes."""
    return envelope(orjson.dumps(data, option=JSON_OPTIONS), warnings, infos)


def query_envelope(answer: QueryAnswer, stats: Document | None = None) -> bytes:
    """Prometheus' envelope around a query's result. Raises TooMany when it is too large to send."""
    if len(answer.result) > ANSWER_BYTES_MAX:
        raise TooMany(
            f"the answer has {len(answer.result)} bytes of JSON, more than {ANSWER_BYTES_MAX}: "
            "ask for fewer series, a shorter range or a wider step"
        )
    parts = [b'{"resultType":"', answer.result_type.encode(), b'","result":', answer.result]
    if stats is not None:
        parts += [b',"stats":', orjson.dumps(stats, option=JSON_OPTIONS)]
    parts.append(b"}")
    return envelope(b"".join(parts), answer.warnings, answer.infos)


def envelope(data: bytes, warnings: Sequence[str] = (), infos: Sequence[str] = ()) -> bytes:
    """Prometheus' envelope around JSON that is already written."""
    parts = [b'{"status":"success","data":', data]
    if warnings:
        parts += [b',"warnings":', orjson.dumps(list(warnings))]
    if infos:
        parts += [b',"infos":', orjson.dumps(list(infos))]
    parts.append(b"}")
    return b"".join(parts)


def error_answer(
    status: int, kind: str, message: str, hint: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """The one shape of errors."""
    document = {"status": "error", "errorType": kind, "error": message}
    if hint:
        document["hint"] = hint
    # Text of foreign origin may hold lone surrogates, which JSON cannot carry.
    clean = {key: value.encode("utf-8", "replace").decode() for key, value in document.items()}
    return json_answer(clean, status, headers)


def answer_for(error: Exception) -> Response | None:
    """What an error of the house is in HTTP; None for what we did not raise on purpose."""
    match error:
        case PromqlError():
            return error_answer(_PROMQL_STATUS.get(error.kind, 422), error.kind, str(error))
        case NoSuch():
            return error_answer(404, "not_found", str(error))
        case UsageError() | ConfigError():
            return error_answer(400, "bad_data", str(error))
        case Refused():
            return error_answer(409, "refused", str(error))
        case Busy():
            after = {"Retry-After": str(max(1, round(error.retry_after_s)))}
            return error_answer(503, "unavailable", str(error), headers=after)
        case Transient():
            return error_answer(503, "unavailable", str(error), headers={"Retry-After": "1"})
        case StorageError():
            return error_answer(500, "internal", str(error))
    return None


def wants_gzip(headers: Headers) -> bool:
    """Whether the client takes gzip."""
    for offer in headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = offer.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def gzip_bytes(body: bytes) -> bytes:
    """Gzip without a name or a time in it, so that equal answers are equal bytes."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
