"""What adapters do with a tool's answer whatever the tool: read it, or say why it cannot be used."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from watchbill.backups.record import Outcome, Proof
from watchbill_agent.backups.adapter import Finished, Reason, Verification, error_lines, trouble

T = TypeVar("T")


class Unusable(Exception):
    """What was to be read could not be; becomes an Observation or a Verification. `errors` say it to a person."""

    def __init__(self, reason: str, errors: tuple[str, ...]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errors = errors
        self.outcome = Outcome.FAILED if reason == Reason.REPOSITORY_DAMAGED else Outcome.UNKNOWN


def usable(finished: Finished, program: str) -> Finished:
    """What ran to its end. Raises Unusable for a tool that is missing, hung or printed too much."""
    no = trouble(finished, program)
    if no is not None:
        raise Unusable(*no)
    return finished


def read_document(document: bytes, kind: type[T], tool: str) -> T:
    """A JSON document. Raises ValueError with what is wrong, also where only half of it came."""
    try:
        return msgspec.json.decode(document, type=kind)
    except msgspec.DecodeError as exc:
        raise ValueError(
            f"{len(document)} bytes that are not what {tool}'s documentation says: {exc}"
        ) from exc


def time_ms(text: str) -> int:
    """A time in ms, at least 1: year 1 is what Go calls no time. Without a zone it is UTC, because tools are asked with
    TZ=UTC. Raises ValueError."""
    read = datetime.fromisoformat(text)
    return max(1, int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000))


def readable(path: Path, bytes_max: int, missing: str) -> bytes:
    """The beginning of a file that a tool needs. Raises Unusable, with the reason `missing` where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(bytes_max)
    except PermissionError as exc:
        raise Unusable(Reason.NEEDS_RUNNER, (f"{path}: this agent may not read it",)) from exc
    except OSError as exc:
        raise Unusable(missing, (f"{path}: {exc.strerror}",)) from exc


def proved(proof: Proof, said: Sequence[str], reason: str, version: str) -> Verification:
    """What a proof says; `reason` where it says that something is wrong."""
    return Verification(
        outcome=Outcome.OK if proof.ok else Outcome.FAILED,
        proof=proof,
        reason="" if proof.ok else reason,
        errors=error_lines(said),
        tool_version=version,
    )
