"""Alerts that somebody gives: the twin of `snapshot.Snapshot`, for tests and for trying routes out."""

from collections.abc import Mapping, Sequence

from watchbill_collector.dispatch.values import Described, Standing, fingerprint_of, severity_of


class GivenAlerts:
    """Alerts by name of host or by all labels; `fire` and `resolve` change them."""

    def __init__(self) -> None:
        self._alerts: dict[str, Standing] = {}
        self._changed = True

    def fire(self, at_ms: int, *, host_down: bool = False, **labels: str) -> Standing:
        """An alert with these labels fires from now."""
        fingerprint = fingerprint_of(tuple(sorted(labels.items())))
        made = Standing(
            fingerprint=fingerprint,
            labels=labels,
            firing=True,
            fired_ms=at_ms,
            rule=labels.get("alertname", ""),
            severity=severity_of(labels),
            host_down=host_down,
        )
        self._alerts[fingerprint] = made
        self._changed = True
        return made

    def resolve(self, alert: Standing, at_ms: int) -> None:
        """It is over, and its rule remembers it."""
        self._alerts[alert.fingerprint] = Standing(
            fingerprint=alert.fingerprint,
            labels=alert.labels,
            firing=False,
            fired_ms=alert.fired_ms,
            resolved_ms=at_ms,
            rule=alert.rule,
            severity=alert.severity,
        )
        self._changed = True

    def forget(self, alert: Standing) -> None:
        """Nobody knows of it any more: its rule is gone."""
        self._alerts.pop(alert.fingerprint, None)
        self._changed = True

    def read(self) -> tuple[Sequence[Standing], bool]:
        """As the dispatcher asks."""
        changed, self._changed = self._changed, False
        return list(self._alerts.values()), changed

    def describe(self, alert: Standing) -> Described:
        """A summary that names the labels."""
        return Described({"summary": " ".join(alert.labels.values())}, 1.0)


def labelled(name: str, severity: str = "critical", **more: str) -> Mapping[str, str]:
    """The labels of an alert of that name."""
    return {"alertname": name, "severity": severity, **more}
