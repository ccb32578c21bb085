"""How an application is: worked out from the newest verdicts of its checks. Pure.

- down: an essential check is critical;
- degraded: any check warns, or one that is not essential is critical;
- unknown: its host is not heard, no check has said anything lately, or an essential one cannot tell and none fails;
- healthy otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from watchbill.verdict import Verdict

VERDICTS = {one.word: one for one in Verdict}


class AppState(StrEnum):
    """How an application is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Change:
    """What was told of a check last. `after` began at `since_ms` and came after `before`, which is None where nobody
    knows; `reason` and `detail` are the check's words for it."""

    after: Verdict
    since_ms: int
    before: Verdict | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SeenCheck:
    """A check and its newest verdict, None where it has said nothing lately. `change` is what was told of it last,
    which may be behind or ahead of the verdict."""

    name: str
    app: str
    kind: str
    essential: bool
    verdict: Verdict | None
    change: Change | None = None

    @property
    def explained(self) -> Change | None:
        """What was told of the verdict that it has now."""
        return self.change if self.change is not None and self.change.after is self.verdict else None


@dataclass(frozen=True, slots=True)
class App:
    """An application of one host. `since_ms` is when its state began, 0 where nobody knows."""

    name: str
    state: AppState
    since_ms: int
    checks: tuple[str, ...]


def state_of(checks: Iterable[SeenCheck], *, heard: bool) -> AppState:
    """The state of an application with these checks, on a host that is heard or not."""
    known = list(checks)
    if not heard or all(one.verdict is None for one in known):
        return AppState.UNKNOWN
    critical = [one for one in known if one.verdict is Verdict.CRITICAL]
    if any(one.essential for one in critical):
        return AppState.DOWN
    if critical or any(one.verdict is Verdict.WARNING for one in known):
        return AppState.DEGRADED
    if any(one.essential and one.verdict in (None, Verdict.UNKNOWN) for one in known):
        return AppState.UNKNOWN
    return AppState.HEALTHY


def apps_of(checks: Iterable[SeenCheck], *, heard: bool) -> tuple[App, ...]:
    """The applications that a host's checks speak of, by name."""
    by_app: dict[str, list[SeenCheck]] = {}
    for one in checks:
        if one.app:
            by_app.setdefault(one.app, []).append(one)
    return tuple(
        App(
            name,
            state_of(mine, heard=heard),
            _since_ms(mine) if heard else 0,
            tuple(sorted(one.name for one in mine)),
        )
        for name, mine in sorted(by_app.items())
    )


def _since_ms(checks: Sequence[SeenCheck]) -> int:
    """When the state began: going back over what was told of the checks, newest first, the first change without which
    the state would be another."""
    now = state_of(checks, heard=True)
    before = list(checks)
    told = [
        (change.since_ms, number)
        for number, one in enumerate(checks)
        if (change := one.explained) is not None
    ]
    for since_ms, number in sorted(told, reverse=True):
        change = checks[number].change
        assert change is not None
        before[number] = replace(before[number], verdict=change.before, change=None)
        if state_of(before, heard=True) is not now:
            return since_ms
    return 0
