"""Become an agent, and stay one: enrolment and renewal as the rest of the agent sees them.

Keys are made and certificates read in short-lived children (`enroll_child`, `renew_child`), the only
places where the cryptography package is imported: it would add 8.5 MiB to a daemon that needs it twice a
week. What goes to a child goes through its standard input, never through its arguments.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from watchbill.errors import (
    Permanent,
    ProtocolError,
    Refused,
    StorageError,
    Transient,
    Unreachable,
    Unreadable,
    WatchbillError,
)
from watchbill.files import FileMissing, UnreadableFile, read_bounded, sync_directory
from watchbill.identity import (
    TOKEN_TEXT_BYTES_MAX,
    AgentIdentity,
    IdentityFile,
    IdentityRefused,
    RefusalReason,
)

DRAFT_FILE: Final = "enrolling.json"
"""The keys of an enrolment that has begun and is not answered yet; gone when it is."""
CHILD_MARGIN_S: Final = 30.0
PATIENCE_S: Final = 60.0
CHILD_OUTPUT_BYTES_MAX: Final = 1 << 20
REASON_KEY: Final = "watchbill-reason"
RETRY_KEY: Final = "watchbill-retry-after-ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """What enrolling needs to know. `instance` is the name from agent.toml, empty for none; `collector`
    replaces the address of the streams that the collector names; `patience_s` is how long to keep trying a
    busy collector. `ca`, `user` and `password_file` are agent.toml's, for a token that leads to a broker.
    """

    token: str = field(repr=False)
    state_directory: str
    hostname: str
    instance: str = ""
    agent_version: str
    proxy: str = ""
    patience_s: float = PATIENCE_S
    ca: str = ""
    user: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """This host is an agent. `already`: it was before, by the same token. `fingerprint` is its key's, for
    people.
    """

    identity: AgentIdentity
    already: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class AwaitsApproval:
    """An administrator has to approve after comparing the fingerprint; then the same command again."""

    instance: str
    fingerprint: str
    retry_after_s: float


def enroll(request: EnrolRequest) -> Enrolled | AwaitsApproval:
    """Enrol this host with a token; the same token again on an enrolled host is fine, after a crash too.

    Blocks. Raises IdentityRefused with the reason; Unreachable, Busy-like Transient when later may help;
    Unreadable for a token that is none; StorageError; Refused when another enrolment is going on.
    """
    answer = _run_child("watchbill_agent.enroll_child", asdict(request), request.patience_s + CHILD_MARGIN_S)
    if answer["outcome"] == "pending":
        return AwaitsApproval(answer["instance"], answer["fingerprint"], answer["retry_after_s"])
    identity = IdentityFile(Path(request.state_directory)).load()
    if identity is None:
        raise StorageError(f"{request.state_directory}: the identity that was just written is not there")
    return Enrolled(identity, answer["outcome"] == "already", answer["fingerprint"])


def read_token(path: Path | None) -> str:
    """A token from a file, or from standard input when `path` is None. Raises Unreadable."""
    if path is None:
        text = sys.stdin.buffer.read(TOKEN_TEXT_BYTES_MAX + 1)
        if len(text) > TOKEN_TEXT_BYTES_MAX:
            raise Unreadable(f"standard input: longer than any token ({TOKEN_TEXT_BYTES_MAX} bytes)")
    else:
        text = read_bounded(path, TOKEN_TEXT_BYTES_MAX)
    return text.decode("ascii", "replace").strip()


def seal(state_directory: Path) -> bool:
    """Forget who this host is, as before making an image of it: identity and half-made enrolments. False
    when there was nothing to forget. Raises OSError.
    """
    draft = state_directory / DRAFT_FILE
    had_draft = draft.exists()
    draft.unlink(missing_ok=True)
    if had_draft:
        sync_directory(state_directory)
    return IdentityFile(state_directory).forget() or had_draft


# ---------------------------------------------------------------- children


def _run_child(module: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Run a child to its end; its answer is one JSON object. Raises the error it describes."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", module],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unreachable(f"no answer within {timeout_s:.0f} s") from exc
    return read_answer(done.stdout, done.returncode, done.stderr)


def read_answer(output: bytes, code: int, said: bytes = b"") -> dict[str, Any]:
    """What a child wrote, or the error it stands for."""
    try:
        answer = json.loads(output[:CHILD_OUTPUT_BYTES_MAX])
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        last = said.decode("utf-8", "replace").strip().splitlines()
        raise Permanent(
            f"the enrolment child ended with {code}: {last[-1][:200] if last else 'it said nothing'}"
        )
    if "error" in answer:
        raise _error(answer)
    return answer


_ERRORS: Final[dict[str, type[WatchbillError]]] = {
    one.__name__: one
    for one in (Refused, Unreachable, Transient, Unreadable, ProtocolError, StorageError, Permanent)
}


def _error(answer: dict[str, Any]) -> WatchbillError:
    if answer["error"] == IdentityRefused.__name__:
        return IdentityRefused(RefusalReason(answer["reason"]), answer["message"], answer["retry_after_s"])
    return _ERRORS.get(answer["error"], Permanent)(answer["message"])


def refusal(
    code: str, details: str, trailing: Iterable[tuple[str, str | bytes]], endpoint: str
) -> IdentityRefused | Unreachable:
    """What a call that ended with a status means: a refusal with its reason, or nobody there who could
    answer.
    """
    found = {key: value if isinstance(value, str) else "" for key, value in trailing}
    try:
        reason = RefusalReason(found.get(REASON_KEY, ""))
    except ValueError:
        return Unreachable(f"{endpoint}: {details or code}")
    retry = found.get(RETRY_KEY, "")
    return IdentityRefused(reason, details, int(retry) / 1000 if retry.isdigit() else None)


def describe_error(error: WatchbillError) -> dict[str, Any]:
    """The other way: what a child answers instead of a result."""
    if isinstance(error, IdentityRefused):
        return {
            "error": IdentityRefused.__name__,
            "reason": error.reason.value,
            "message": str(error),
            "retry_after_s": error.retry_after_s,
        }
    if isinstance(error, FileMissing | UnreadableFile):
        return {"error": Unreadable.__name__, "message": str(error)}
    name = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _ERRORS), Permanent.__name__)
    return {"error": name, "message": str(error)}
