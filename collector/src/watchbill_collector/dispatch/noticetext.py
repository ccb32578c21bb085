"""A notice as bytes, for the outbox: JSON through zlib. What was queued before a crash is the same after it."""

import json
import zlib
from typing import Any

from watchbill_collector.notifiers.notice import Notice, NoticeAlert, NoticeKind

NOTICE_BYTES_MAX = 64 * 1024 * 1024
"""What a notice unpacks to at most."""
_ALERT_FIELDS = tuple(NoticeAlert.__slots__)
_PLAIN_FIELDS = tuple(name for name in Notice.__slots__ if name not in ("kind", "alerts"))


def packed_notice(notice: Notice) -> bytes:
    """The bytes of a notice."""
    document: dict[str, Any] = {name: _plain(getattr(notice, name)) for name in _PLAIN_FIELDS}
    document["kind"] = notice.kind.value
    document["alerts"] = [
        {name: _plain(getattr(alert, name)) for name in _ALERT_FIELDS} for alert in notice.alerts
    ]
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def unpacked_notice(body: bytes) -> Notice:
    """Back again. Raises ValueError."""
    try:
        document = json.loads(zlib.decompressobj().decompress(body, NOTICE_BYTES_MAX))
        alerts = tuple(NoticeAlert(**alert) for alert in document.pop("alerts"))
        return Notice(kind=NoticeKind(document.pop("kind")), alerts=alerts, **document)
    except (zlib.error, KeyError, TypeError) as exc:
        raise ValueError(f"a notice that cannot be read: {exc}") from exc


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else value
