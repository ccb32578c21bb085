"""Posts each notice as JSON to an address, signed, so that the receiver knows who sent it and that it is new.

The body has the keys of Alertmanager's webhook, version "4", and ours under `watchbill`. The headers are those
of Standard Webhooks: `webhook-id`, `webhook-timestamp`, and `webhook-signature`, the HMAC-SHA256 of
`id.timestamp.body`. `webhook-id` and `Idempotency-Key` stay the same when a notice is sent again.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.config import Wrong, option
from watchbill_collector.notifiers.channel import Channel, Surroundings, read_secret
from watchbill_collector.notifiers.document import document, encode
from watchbill_collector.notifiers.notice import Delivered, Notice, SendFailed
from watchbill_collector.notifiers.peer import (
    Peer,
    Reached,
    address,
    hidden,
    origin,
    plain_url_wrongs,
    refuse_unless_ok,
    url_wrongs,
)
from watchbill_collector.notifiers.secret import Secret, SecretFile

ALERTS_MAX: Final = 1_000
SECRETS_MAX: Final = 4
"""Signing secrets at once: the new one and the old, while both ends change over."""
PACKED_PREFIX: Final = "whsec_"
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Reached):
    """A JSON POST, signed."""

    url: str = option(
        "",
        check=url_wrongs,
        help="Where to post.",
        example='"https://hooks.example/watchbill"',
    )
    url_file: SecretFile | None = option(
        None, help="File with the address instead, where the address itself is a secret."
    )
    secret_file: SecretFile | None = option(
        None, help="File with the signing secret: whsec_... or any text; a second line is signed with, too."
    )
    authorization_file: SecretFile | None = option(
        None, help='File with a whole Authorization header, such as "Bearer ...".'
    )
    alerts_max: int = option(
        100, at_least=1, at_most=ALERTS_MAX, help="Alerts in one body; the rest is counted."
    )

    def check(self) -> Iterator[Wrong]:
        """One address, and not in the clear by accident."""
        if bool(self.url) == (self.url_file is not None):
            got = "both" if self.url else "nothing"
            yield Wrong("url", got, "either url or url_file")
        yield from plain_url_wrongs("url", self.url, insecure=self.insecure)


class Webhook(Channel):
    """Signed JSON to one address."""

    kind = "webhook"
    options_type = Options

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._clock = surroundings.clock
        self._peer = Peer(options, surroundings)

    async def send(self, notice: Notice) -> Delivered:
        """Post it; any 2xx is acceptance, unless its body says no."""
        url, secrets = address(self._options.url, self._options.url_file)
        body = encode(document(notice, self._options.alerts_max))
        message_id = idempotency_key(notice.key)
        headers = {"webhook-id": message_id, "idempotency-key": message_id}
        if self._options.secret_file is not None:
            signing = read_secret(self._options.secret_file)
            timestamp = self._clock.wall_ms() // 1000
            headers |= signed_headers(message_id, timestamp, body, keys_of(signing))
            secrets = [*secrets, signing]
        if self._options.authorization_file is not None:
            authorization = read_secret(self._options.authorization_file)
            headers["authorization"] = header_value(authorization)
            bare = Secret(authorization.reveal().rpartition(" ")[2])
            secrets = [*secrets, authorization, bare]
        answer = await self._peer.post(url, body, headers, secrets)
        refuse_unless_ok(answer, origin(url))
        return Delivered(hidden(f"{answer.status} {answer.text()}".strip(), secrets))

    def ready(self) -> None:
        """The files are there."""
        self._peer.ready()
        address(self._options.url, self._options.url_file)
        for file in (self._options.secret_file, self._options.authorization_file):
            if file is not None:
                read_secret(file)
        if self._options.secret_file is not None:
            keys_of(read_secret(self._options.secret_file))

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.close()


def idempotency_key(key: str) -> str:
    """The notice's key as a header may hold it."""
    return key if _PLAIN_KEY.fullmatch(key) else hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def keys_of(secret: Secret) -> list[bytes]:
    """The signing keys of a secret file, one a line. Raises SendFailed."""
    keys = []
    for text in secret.reveal().splitlines()[:SECRETS_MAX]:
        packed = text.strip()
        if not packed.startswith(PACKED_PREFIX):
            keys.append(packed.encode())
            continue
        try:
            keys.append(base64.b64decode(packed.removeprefix(PACKED_PREFIX), validate=True))
        except binascii.Error:
            raise SendFailed("secret_file: whsec_ is not followed by base64", transient=True) from None
    return [key for key in keys if key]


def signed_headers(message_id: str, timestamp_s: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of Standard Webhooks; one signature a key."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    marks = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    return {
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{mark}" for mark in marks),
    }


def header_value(secret: Secret) -> str:
    """The secret as a header's value. Raises SendFailed when it cannot be one."""
    text = secret.reveal()
    if not text.isascii() or not text.isprintable():
        raise SendFailed("authorization_file: wanted one line of printable ASCII", transient=True)
    return text
