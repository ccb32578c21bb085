"""What follows from a run's journal, and from nothing else: times, what people said, what hosts refused, what came out.

Whoever makes an archive and whoever checks it call the same functions; a document that says more than the journal, or
something else, is found by that.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

ENDED: Final = frozenset({"succeeded", "failed", "undone", "cancelled", "expired"})
_RUNNING: Final = "running"

Row = Mapping[str, Any]
"""A row of `journal.jsonl`: n, at_ms, kind, body (canonical JSON as text), prev_hash, hash."""


def documents(run_id: str, rows: Sequence[Row]) -> dict[str, Any]:
    """All documents that follow, by the names of their files. Raises KeyError, ValueError for what is no journal."""
    read = [(row, json.loads(row["body"])) for row in rows]
    return {
        "run.json": _run(run_id, read),
        "gates.json": _gates(read),
        "outputs.json": _outputs(read),
        "refusals.json": _refusals(read),
    }


_Read = Sequence[tuple[Row, Mapping[str, Any]]]


def _run(run_id: str, rows: _Read) -> dict[str, Any]:
    first, created = rows[0]
    if first["kind"] != "created":
        raise ValueError(f"a journal that begins with {first['kind']}")
    found: dict[str, Any] = {
        "id": run_id,
        "runbook": created["runbook"],
        "digest": created["digest"],
        "called": created.get("called", {}),
        "drill": created.get("drill", False),
        "requester": created["requester"],
        "reason": created["reason"],
        "trigger": created.get("trigger", ""),
        "parameters": created["parameters"],
        "lock": created.get("lock", ""),
        "state": "proposed" if created.get("proposed", False) else "queued",
        "why": "",
        "created_ms": first["at_ms"],
        "started_ms": 0,
        "recovered_ms": 0,
        "ended_ms": 0,
        "rows": len(rows),
        "journal_head": rows[-1][0]["hash"],
        "rto_ms": created.get("rto_ms", 0),
        "people": [],
        "resumed": 0,
        "steps": {},
    }
    for row, body in rows[1:]:
        _apply(found, row, body)
    recovered_ms, rto_ms = found["recovered_ms"], found["rto_ms"]
    found["recovery_ms"] = recovered_ms - found["created_ms"] if recovered_ms else None
    found["rto_kept"] = _kept(found["recovery_ms"], rto_ms, ended=bool(found["ended_ms"]))
    return found


def _kept(recovery_ms: int | None, rto_ms: int, *, ended: bool) -> bool | None:
    """Whether the objective was kept; None where there is none, or nobody can say yet."""
    if not rto_ms or (recovery_ms is None and not ended):
        return None
    return recovery_ms is not None and recovery_ms <= rto_ms


def _apply(found: dict[str, Any], row: Row, body: Mapping[str, Any]) -> None:
    at_ms = row["at_ms"]
    match row["kind"]:
        case "state":
            found["state"], found["why"] = body["state"], body.get("detail", "")
            if body["state"] == _RUNNING and not found["started_ms"]:
                found["started_ms"] = at_ms
            if body["state"] in ENDED:
                found["ended_ms"] = at_ms
        case "recovered":
            found["recovered_ms"] = found["recovered_ms"] or at_ms
        case "resumed":
            found["resumed"] += 1
        case "operator":
            found["people"].append({"at_ms": at_ms, **body})
        case "step_began":
            place = found["steps"].setdefault(_place(body), {"began_ms": at_ms})
            place["hosts"] = [one["host"] for one in body.get("targets", [])]
        case "step_ended":
            place = found["steps"].setdefault(_place(body), {"began_ms": at_ms})
            place |= {"ended_ms": at_ms, "state": body["state"], "detail": body.get("detail", "")}
        case _:
            pass


def _place(body: Mapping[str, Any]) -> str:
    phase = body.get("phase", "forward")
    step: str = body["step"]
    return step if phase == "forward" else f"{phase}:{step}"


def _gates(rows: _Read) -> list[dict[str, Any]]:
    """Every gate that was opened, with the document that was voted on, byte for byte, and every vote."""
    found: list[dict[str, Any]] = []
    open_gates: dict[str, dict[str, Any]] = {}
    for row, body in rows:
        at_ms = row["at_ms"]
        match row["kind"]:
            case "gate_opened":
                made = {
                    "step": body["step"],
                    "role": body["role"],
                    "count": body["count"],
                    "opened_ms": at_ms,
                    "expires_ms": body["expires_ms"],
                    "own_vote": body.get("own_vote", False),
                    "verified_on_host": body.get("on_host", False),
                    "manifest": body["manifest"],
                    "digest": body["digest"],
                    "votes": [],
                    "passed": None,
                    "why": "",
                    "people": [],
                }
                found.append(made)
                open_gates[body["step"]] = made
            case "vote" if body["step"] in open_gates:
                vote = {"at_ms": at_ms, "signed": "", "comment": ""} | dict(body)
                vote.pop("row", None)
                # What somebody says after his words were void holds again.
                open_gates[body["step"]].get("voided", {}).pop(body["person"], None)
                open_gates[body["step"]]["votes"].append(vote)
            case "votes_voided":
                for gate in open_gates.values():
                    gate.setdefault("voided", {})[body["person"]] = body["why"]
            case "gate_closed" if body["step"] in open_gates:
                gate = open_gates[body["step"]]
                gate |= {
                    "passed": body["passed"],
                    "why": body["why"],
                    "people": body.get("people", []),
                    "closed_ms": at_ms,
                }
            case _:
                pass
    return found


def _outputs(rows: _Read) -> list[dict[str, Any]]:
    """How every command ended, with the digest of all it printed."""
    intents: dict[str, Mapping[str, Any]] = {}
    found: list[dict[str, Any]] = []
    for _, body in rows:
        match body["row"]:
            case "intent":
                intents[body["key"]] = body
            case "result":
                intent = intents[body["key"]]
                found.append(
                    {
                        **_command(intent),
                        "outcome": body["outcome"],
                        "exit_code": body.get("exit_code"),
                        "started_ms": body.get("started_ms", 0),
                        "ended_ms": body.get("ended_ms", 0),
                        "output_bytes": body.get("output_bytes", 0),
                        "output_digest": body.get("output_digest", ""),
                    }
                )
            case _:
                pass
    return found


def _refusals(rows: _Read) -> list[dict[str, Any]]:
    """What hosts did not do, and what never ran or cannot be known."""
    intents: dict[str, Mapping[str, Any]] = {}
    found: list[dict[str, Any]] = []
    for row, body in rows:
        match body["row"]:
            case "intent":
                intents[body["key"]] = body
            case "refused" | "lapsed" | "unknown" as what:
                why = body.get("reason", "") + (": " if body.get("detail") else "") + body.get("detail", "")
                found.append(
                    {
                        **_command(intents[body["key"]]),
                        "at_ms": row["at_ms"],
                        "what": what,
                        "why": why or body.get("why", ""),
                    }
                )
            case _:
                pass
    return found


def _command(intent: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": intent["key"],
        "step": intent["step"],
        "host": intent["host"],
        "agent": intent["agent"],
        "action": intent["action"],
        "action_digest": intent["digest"],
        "attempt": intent["attempt"],
        "purpose": intent["purpose"],
        "arguments": intent.get("arguments", {}),
    }
