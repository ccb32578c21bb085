"""The description of the API, made from the table of routes and the types of the bodies."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from watchbill_collector.api.routes import Need, Parameter, Route, Within

_REF = "#/components/schemas/{name}"
_PLACE = re.compile(r"\{(\w+)(?::\w+)?\}")

_ERROR = {
    "type": "object",
    "required": ["status", "errorType", "error"],
    "properties": {
        "status": {"const": "error"},
        "errorType": {"type": "string"},
        "error": {"type": "string"},
        "hint": {"type": "string", "description": "The next thing to type."},
    },
}
_PROMETHEUS = {
    "type": "object",
    "required": ["status", "data"],
    "properties": {
        "status": {"const": "success"},
        "data": {},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "infos": {"type": "array", "items": {"type": "string"}},
    },
}


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of everything in the table."""
    types = sorted(
        {kind for route in routes for kind in (route.takes, route.gives) if kind}, key=lambda k: k.__name__
    )
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in route.methods:
            place = paths.setdefault(_PLACE.sub(r"{\1}", route.path), {})
            place[method.lower()] = _operation(route, method, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Watchbill", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components | {"Error": _ERROR, "PrometheusAnswer": _PROMETHEUS},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, method: str, by_type: dict[type, dict[str, Any]]) -> dict[str, Any]:
    in_form = route.form and method == "POST"
    operation: dict[str, Any] = {
        "summary": route.about,
        "description": f"{route.need.value} {(route.within or Within.WHOLE).value}",
        "operationId": _operation_id(route.path, method),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PLACE.findall(route.path)
        ]
        + ([] if in_form else [_parameter(parameter) for parameter in _in_query(route)]),
        "responses": {
            "201"
            if method == "POST"
            and route.path.endswith(("/enrolments", "/logins", "/users", "/tokens", "/runs"))
            else "200": _success(route, by_type),
            "default": {
                "description": "What went wrong.",
                "content": {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}},
            },
        },
        "security": [] if route.need is Need.NOTHING else [{"bearer": []}],
    }
    if in_form:
        form = {
            "type": "object",
            "properties": {parameter.name: _schema(parameter) for parameter in route.parameters},
        }
        operation["requestBody"] = {"content": {"application/x-www-form-urlencoded": {"schema": form}}}
    elif route.takes is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": by_type[route.takes]}}}
    return operation


def _in_query(route: Route) -> list[Parameter]:
    places = set(_PLACE.findall(route.path))
    return [parameter for parameter in route.parameters if parameter.name not in places]


def _success(route: Route, by_type: dict[type, dict[str, Any]]) -> dict[str, Any]:
    if route.gives is not None:
        schema = by_type[route.gives]
    elif route.path.startswith("/api/v1/"):
        schema = {"$ref": _REF.format(name="PrometheusAnswer")}
    else:
        schema = {}
    return {"description": "It worked.", "content": {route.media: {"schema": schema}}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.about,
        "schema": _schema(parameter),
    }


def _schema(parameter: Parameter) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}} if parameter.many else {"type": "string"}


def _operation_id(path: str, method: str) -> str:
    return f"{method.lower()}_" + "_".join(re.findall(r"\w+", _PLACE.sub(r"by_\1", path)))
