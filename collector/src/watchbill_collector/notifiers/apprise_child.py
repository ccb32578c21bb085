"""Sends one message through Apprise: a script that `channels/apprise.py` starts for each notice.

Apprise is 45 MB of memory, speaks by blocking calls, follows redirects and reads answers whole. So it runs here, with
bounds that the kernel keeps, and is gone with the message. The address, which is a secret, comes on standard input with
the message; what became of it goes to standard output, both as JSON.
"""

import contextlib
import json
import logging
import resource
import signal
import sys

MEMORY_BYTES_MAX = 1 << 30
REQUEST_BYTES_MAX = 4 << 20
SAID_CHARACTERS_MAX = 2_000


class Said(logging.Handler):
    """Keeps what Apprise complains of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the beginning of it."""
        self.text = f"{self.text}; {record.getMessage()}"[:SAID_CHARACTERS_MAX]


def main() -> int:
    """Send it, and say what became of it: delivered, failed, unknown or missing."""
    with contextlib.suppress(
        OSError, ValueError
    ):  # A sandbox may forbid the call, and has limits of its own.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    request = json.loads(sys.stdin.buffer.read(REQUEST_BYTES_MAX))
    signal.alarm(int(request["timeout_s"]) + 1)  # Should whoever started us be dead.
    try:
        import apprise
    except ImportError as exc:
        return answer("missing", str(exc))
    said = Said()
    logging.getLogger("apprise").addHandler(said)
    asset = apprise.AppriseAsset(
        app_id="Watchbill", app_desc="Watchbill", secure_logging=True, async_mode=False
    )
    service = apprise.Apprise.instantiate(request["url"], asset=asset, suppress_exceptions=True)
    if service is None:
        return answer("unknown", said.text)
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    sent = sender.notify(
        body=request["text"], title=request["title"], notify_type=request["type"], body_format="text"
    )
    return answer("delivered" if sent else "failed", said.text, str(service.service_name or ""))


def answer(word: str, said: str, service: str = "") -> int:
    """One JSON document."""
    print(json.dumps({"word": word, "said": said.removeprefix("; "), "service": service}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
