"""What expressions of runbooks may ask: values, alerts, backups and hosts as this collector knows them now.

What cannot be known is UNKNOWN, and never satisfies anything: a host that is silent, a rule that could not be judged, a
name that means several series. Asked once for each moment: an instance answers the same until it is thrown away.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from watchbill_collector.runbooks.expression import UNKNOWN, Known, Value

NAME_CHARACTERS_MAX: Final = 256
"""Of a host, a metric, an alert or a job that is asked for."""

Sample = Callable[[str, str], float | None]
"""The newest fresh value of a metric on a host; None when there is none, or more than one series."""
Firing = Callable[[str, str], bool | None]
"""Whether an alert fires for a host; None when that could not be judged."""
Document = Callable[[str], "Mapping[str, Known] | None"]


class RunFacts:
    """`runbooks.expression.Facts`. `up` says whether a host is heard now; None: nobody knows it."""

    def __init__(
        self,
        up: Callable[[str], bool | None],
        sample: Sample,
        firing: Firing,
        backup: Document,
        host: Document,
    ) -> None:
        self._up = up
        self._sample = sample
        self._firing = firing
        self._backup = backup
        self._host = host
        self._known: dict[tuple[str, ...], Value] = {}

    def metric(self, host: str, name: str) -> Value:
        """A number."""
        return self._once(("metric", host, name), lambda: self._number(host, name))

    def alert(self, name: str, host: str) -> Value:
        """True while it fires."""
        return self._once(("alert", name, host), lambda: self._judged(name, host))

    def backup(self, job: str) -> Value:
        """A mapping."""
        return self._once(("backup", job), lambda: _value(self._backup(job)))

    def host(self, name: str) -> Value:
        """A mapping."""
        return self._once(("host", name), lambda: _value(self._host(name)))

    def _once(self, key: tuple[str, ...], ask: Callable[[], Value]) -> Value:
        if any(len(part) > NAME_CHARACTERS_MAX for part in key):
            return UNKNOWN
        if key not in self._known:
            self._known[key] = ask()
        return self._known[key]

    def _number(self, host: str, name: str) -> Value:
        if not self._up(host):
            # What a silent host said last is no evidence of how it is.
            return UNKNOWN
        found = self._sample(host, name)
        return UNKNOWN if found is None or math.isnan(found) else found

    def _judged(self, name: str, host: str) -> Value:
        if not self._up(host):
            return UNKNOWN
        found = self._firing(name, host)
        return UNKNOWN if found is None else found


def _value(document: "Mapping[str, Known] | None") -> Value:
    return UNKNOWN if document is None else dict(document)
