"""The child that renews: `python -m watchbill_agent.renew_child`, two questions and two answers, a line of
JSON each.

1. `{"identity": PATH, "new_key": bool, "wall_ms": int | null}` is answered by `{"csr", "proof"}`: a
signing request for the present key or a new one, and where `wall_ms` is given the proof that the enrolled
key asks for it. 2. `{"chain": [...], "trust": [...]}` (base64 of DER) is checked, and the identity
replaced: `{"not_after_ms"}`.

A new key is only in this process until the collector has certified it, so a renewal that is broken off
leaves the identity as it was.
"""

import base64
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from watchbill.errors import Refused, WatchbillError
from watchbill.identity import AgentIdentity, IdentityFile
from watchbill_agent import identity_keys
from watchbill_agent.enroll import describe_error

LINE_BYTES_MAX: Final = 1 << 20


def ask(identity: AgentIdentity, key: identity_keys.Key, wall_ms: int | None) -> dict[str, Any]:
    """The request for `key`, and the proof by the present one where it is needed."""
    csr = identity_keys.signing_request(key)
    proof = b""
    if wall_ms is not None:
        message = b"watchbill/renew/v1\0" + identity.agent_id.encode() + b"\0" + hashlib.sha256(csr).digest()
        message += wall_ms.to_bytes(8, signed=True)
        proof = identity_keys.sign(identity_keys.read_key(identity.key_pem), message)
    return {"csr": base64.b64encode(csr).decode(), "proof": base64.b64encode(proof).decode()}


def take(identity: AgentIdentity, key: identity_keys.Key, answer: dict[str, Any]) -> AgentIdentity:
    """The identity with its next certificate. Raises ProtocolError for one that is not ours."""
    chain = [base64.b64decode(one) for one in answer["chain"]]
    trust = [base64.b64decode(one) for one in answer["trust"]]
    not_before_ms, not_after_ms, chain_pem, trust_pem = identity_keys.check_certificate(
        chain, trust, key, identity.uri
    )
    return replace(
        identity,
        key_pem=identity_keys.key_pem(key),
        chain_pem=chain_pem,
        trust_pem=trust_pem,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        renewals=identity.renewals + 1,
    )


def main() -> int:
    """The child: ask, wait, take."""
    try:
        begin = json.loads(sys.stdin.buffer.readline(LINE_BYTES_MAX))
        file = IdentityFile(Path(begin["identity"]).parent)
        identity = file.load()
        if identity is None:
            raise Refused("this host is not enrolled")
        key = identity_keys.new_key() if begin["new_key"] else identity_keys.read_key(identity.key_pem)
        print(json.dumps(ask(identity, key, begin["wall_ms"])), flush=True)
        line = sys.stdin.buffer.readline(LINE_BYTES_MAX)
        if not line:
            return 0  # The collector refused, or nobody answered: nothing has changed.
        renewed = take(identity, key, json.loads(line))
        file.save(renewed)
        print(json.dumps({"not_after_ms": renewed.not_after_ms}), flush=True)
    except WatchbillError as exc:
        print(json.dumps(describe_error(exc)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
