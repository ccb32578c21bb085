"""Alerts that change, to those who follow: from the rules' thread to the bus, which lives on the loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from watchbill_collector.api.events import RESYNC, EventBus
from watchbill_collector.rules import AlertChange

ALERT_EVENTS_MAX: Final = 200
"""Alerts that change in one evaluation and are told one by one; of more, followers are told to read all again."""


class AlertEvents:
    """`on_loop` has something called on the loop, from any thread."""

    def __init__(self, bus: EventBus, on_loop: Callable[..., None]) -> None:
        self._bus = bus
        self._on_loop = on_loop

    def changed(self, changes: Sequence[AlertChange]) -> None:
        """What one evaluation changed. In the rules' thread."""
        documents = [
            {
                "alert": change.rule,
                "state": change.state.value,
                "labels": change.labels,
                "at_ms": change.at_ms,
            }
            for change in changes[: ALERT_EVENTS_MAX + 1]
        ]
        self._on_loop(self._publish, documents)

    def _publish(self, documents: Sequence[Mapping[str, object]]) -> None:
        """An event for every change; beyond the bound one that says to read all alerts again."""
        if len(documents) > ALERT_EVENTS_MAX:
            self._bus.publish(RESYNC, {})
            return
        for document in documents:
            self._bus.publish("alert", document)
