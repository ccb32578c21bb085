"""A notice as JSON, for programs: what `webhook` posts and `exec` reads.

The keys are those of Alertmanager's webhook, version "4", so that what was written for it understands us;
what is ours stands under `watchbill`, with a version of its own. Keys are only added.
"""

from datetime import UTC, datetime
from typing import Any, Final

import orjson

from watchbill_collector.notifiers.notice import Notice, NoticeAlert

FORMAT_VERSION: Final = "4"
OURS_VERSION: Final = 1
NEVER: Final = "0001-01-01T00:00:00Z"
"""What Go writes for a time that is none: the end of an alert that fires."""


def rfc3339(wall_ms: int | None) -> str:
    """A time as programs read it; what is no time is `NEVER`."""
    try:
        when = datetime.fromtimestamp((wall_ms or 0) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return NEVER
    if wall_ms is None:
        return NEVER
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


def document(notice: Notice, alerts_max: int) -> dict[str, Any]:
    """The JSON document; alerts beyond `alerts_max` are counted in `truncatedAlerts`."""
    shown = notice.alerts[:alerts_max]
    left = notice.alerts_left_out + len(notice.alerts) - len(shown)
    return {
        "version": FORMAT_VERSION,
        "groupKey": notice.group_key,
        "truncatedAlerts": left,
        "status": "resolved" if notice.resolved else "firing",
        "receiver": notice.channel,
        "groupLabels": dict(notice.group_labels),
        "commonLabels": dict(notice.common_labels),
        "commonAnnotations": dict(notice.common_annotations),
        "externalURL": notice.external_url,
        "alerts": [_alert(alert) for alert in shown],
        "watchbill": {
            "version": OURS_VERSION,
            "key": notice.key,
            "kind": notice.kind.value,
            "severity": notice.severity,
            "route": notice.route,
            "created": rfc3339(notice.created_ms),
            "remark": notice.remark,
        },
    }


def encode(document_: Any) -> bytes:
    """As UTF-8. A lone surrogate, which no text should hold, becomes a question mark instead of an error."""
    try:
        return orjson.dumps(document_)
    except (TypeError, orjson.JSONEncodeError):
        return orjson.dumps(_clean(document_))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def _alert(alert: NoticeAlert) -> dict[str, Any]:
    return {
        "status": alert.status,
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "startsAt": rfc3339(alert.starts_ms),
        "endsAt": rfc3339(alert.ends_ms),
        "generatorURL": alert.generator_url,
        "fingerprint": alert.fingerprint,
        "value": alert.value,
        "service": alert.service,
        "owner": alert.owner,
        "incomplete": alert.incomplete,
        "silenced": alert.silenced,
    }
