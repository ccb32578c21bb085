"""Looks at a systemd unit: is it active, how did it end, how often was it restarted; of a timer, how its last run went
and when the next is due.

systemd is asked over D-Bus, which everybody may. A timer fails when the unit that it starts failed last time, or when
nothing was started for longer than `run_within`. Series are those of node_exporter's systemd collector.

Reasons: `failed`, `inactive`, `activating` (a warning), `restarting` (systemd starts it again and again), `sub-state`,
`not-found`, `masked`, `not-loaded`, `run-failed`, `overdue`, `over-warn`, `over-fail`; `no-systemd`, `bus`,
`bus-silent` and `not-installed` where nothing can be found out.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from watchbill.config import Duration, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.systemd_bus import BOOTED, SYSTEM_BUS, SystemdBus, bus_of, give_back
from watchbill_agent.checks.thresholds import LIMITS_MAX, Thresholds, limits_wrong

NAME_CHARACTERS_MAX: Final = 255
STATES: Final = ("activating", "active", "deactivating", "failed", "inactive")
"""As node_exporter has them."""
GOOD: Final = frozenset({"active", "reloading", "refreshing"})
NUMBERS: Final = (
    "restarts",
    "restarts_since",
    "active_seconds",
    "tasks",
    "memory_bytes",
    "last_run_seconds",
    "next_run_seconds",
)
NONE: Final = 2**64 - 1
"""What systemd says for a number that it does not have."""
_UNIT: Final = (
    ("Unit", "LoadState"),
    ("Unit", "ActiveState"),
    ("Unit", "SubState"),
    ("Unit", "ActiveEnterTimestamp"),
    ("Unit", "InactiveExitTimestamp"),
)
_SERVICE: Final = (
    ("Service", "Result"),
    ("Service", "NRestarts"),
    ("Service", "ExecMainStatus"),
    ("Service", "TasksCurrent"),
    ("Service", "MemoryCurrent"),
)
_TIMER: Final = (
    ("Timer", "Unit"),
    ("Timer", "LastTriggerUSec"),
    ("Timer", "NextElapseUSecRealtime"),
    ("Timer", "NextElapseUSecMonotonic"),
)
_WANTED: Final = {"service": _SERVICE, "timer": _TIMER}
_RESULTS: Final = ("socket", "mount", "automount", "swap", "path", "scope")
"""Types whose only property of interest is `Result`."""
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+", re.ASCII)


def _unit(value: str) -> str | None:
    right = _NAME.fullmatch(value) and len(value) <= NAME_CHARACTERS_MAX and not value.endswith("@")
    return None if right else 'the name of a unit, such as "nginx.service" or "backup.timer"'


def _states(values: Sequence[str]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        if value not in STATES:
            yield Wrong((number,), show_value(value), f"one of: {', '.join(STATES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which unit, and how it should be."""

    unit: str = option(check=_unit, help="The unit; .service if no type is said.", example='"nginx.service"')
    states: list[str] = option(
        ["active"],
        length_max=len(STATES),
        check=_states,
        help="Active states that are well. A oneshot service is inactive when it is done.",
    )
    sub_states: list[str] = option(
        [], length_max=16, help="Sub states that are well; any, if empty.", example='["running"]'
    )
    run_within: Duration | None = option(
        None, help="Of a timer: fails when its last run is longer ago.", at_least=Duration(1), example='"26h"'
    )
    warn: list[str] = option(
        [],
        length_max=LIMITS_MAX,
        check=limits_wrong,
        help=f"Limits on {', '.join(NUMBERS)}.",
        example='["restarts_since > 0"]',
    )
    fail: list[str] = option(
        [],
        length_max=LIMITS_MAX,
        check=limits_wrong,
        help="Limits that are far too much.",
        example='["restarts > 10"]',
    )
    bus: Path = option(SYSTEM_BUS, help="The bus that systemd is on: a user's is /run/user/UID/bus.")

    def check(self) -> Iterator[Wrong]:
        """What belongs to timers."""
        if self.run_within is not None and not self.unit.endswith(".timer"):
            yield Wrong("run_within", str(self.run_within.to_config()), 'a timer: unit = "NAME.timer"')


class Unit(Probe):
    """Looks at a unit."""

    kind = "unit"
    options_type = Options
    interval_s = 15.0
    timeout_s = 5.0
    retries = 1

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._thresholds = Thresholds("unit", options, NUMBERS)
        known = options.unit.rpartition(".")[2] in (*_WANTED, *_RESULTS, "target", "slice", "device")
        self._name = options.unit if known else f"{options.unit}.service"
        self._type = self._name.rpartition(".")[2]
        self._bus: SystemdBus | None = None
        self._restarts: int | None = None

    async def look(self, within_s: float) -> Outcome:
        """Ask systemd once."""
        until_s = time.monotonic() + within_s
        bus = self._opened()
        wanted = _WANTED.get(self._type, ())
        more = ((self._type.title(), "Result"),) if self._type in _RESULTS else ()
        found = await bus.properties(self._name, (*_UNIT, *wanted, *more), within_s)
        run: Mapping[str, Any] = {}
        if self._type == "timer" and found.get("Unit"):
            run = await bus.properties(str(found["Unit"]), (*_UNIT, *_SERVICE), until_s - time.monotonic())
        return self._judge(found, run, time.time())

    async def close(self) -> None:
        """Give the connection back."""
        if self._bus is not None:
            bus, self._bus = self._bus, None
            await give_back(bus)

    def _opened(self) -> SystemdBus:
        if self._bus is None:
            address = Path(self.options.bus)
            if address == SYSTEM_BUS:
                address = self.about.rootfs / str(SYSTEM_BUS)[1:]
                if not (self.about.rootfs / str(BOOTED)[1:]).is_dir():
                    raise Failed("no-systemd", "this host is not run by systemd", verdict=Verdict.UNKNOWN)
            self._bus = bus_of(address)
        return self._bus

    # ------------------------------------------------------------ judging

    def _judge(self, found: Mapping[str, Any], run: Mapping[str, Any], now_s: float) -> Outcome:
        numbers = self._numbers(found, now_s)
        samples = self._samples(found, run, numbers)
        bad = self._load_fault(found) or self._state_fault(found) or self._run_fault(found, run, now_s)
        if bad is not None:
            verdict, reason, detail = bad
            return Outcome(verdict, reason, f"{self._name}: {detail}", samples)
        detail = f"{self._name}: {found['ActiveState']} ({found['SubState']})"
        return self._thresholds.judge(numbers, samples, detail)

    def _load_fault(self, found: Mapping[str, Any]) -> tuple[Verdict, str, str] | None:
        load = found.get("LoadState", "not-found")
        if load == "loaded":
            return None
        reason = load if load in ("not-found", "masked") else "not-loaded"
        words = {"not-found": "systemd knows no such unit", "masked": "it is masked, and cannot be started"}
        return Verdict.CRITICAL, reason, words.get(reason, f"got load state {load}, wanted loaded")

    def _state_fault(self, found: Mapping[str, Any]) -> tuple[Verdict, str, str] | None:
        state, sub = str(found.get("ActiveState", "")), str(found.get("SubState", ""))
        wanted = f"wanted {' or '.join(self.options.states)}"
        well = state in self.options.states or (state in GOOD and "active" in self.options.states)
        if sub == "auto-restart" and not well:
            return (
                Verdict.CRITICAL,
                "restarting",
                f"it ended ({_ending(found)}) and is started again, {wanted}",
            )
        if state == "activating" and not well:
            return Verdict.WARNING, "activating", f"got activating ({sub}), {wanted}"
        if not well:
            reason = "failed" if state == "failed" else "inactive"
            return (
                Verdict.CRITICAL,
                reason,
                f"got {state} ({_ending(found) if state == 'failed' else sub}), {wanted}",
            )
        if self.options.sub_states and sub not in self.options.sub_states:
            return Verdict.CRITICAL, "sub-state", f"got {sub}, wanted {' or '.join(self.options.sub_states)}"
        return None

    def _run_fault(
        self, found: Mapping[str, Any], run: Mapping[str, Any], now_s: float
    ) -> tuple[Verdict, str, str] | None:
        if run and (run.get("ActiveState") == "failed" or run.get("Result", "success") != "success"):
            return Verdict.CRITICAL, "run-failed", f"the last run of {found['Unit']} failed ({_ending(run)})"
        within: Duration | None = self.options.run_within
        if within is None:
            return None
        # Before its first run, a timer has as long from when it was started.
        last_s = _seconds(found, "LastTriggerUSec") or _seconds(found, "InactiveExitTimestamp") or now_s
        if now_s - last_s > within:
            ago = Duration(round(now_s - last_s)).to_config()
            return (
                Verdict.CRITICAL,
                "overdue",
                f"got the last run {ago} ago, wanted one within {within.to_config()}",
            )
        return None

    def _numbers(self, found: Mapping[str, Any], now_s: float) -> dict[str, float]:
        restarts = found.get("NRestarts")
        before, self._restarts = self._restarts, restarts
        active_s = _seconds(found, "ActiveEnterTimestamp")
        last_s, next_s = _seconds(found, "LastTriggerUSec"), _next_s(found, now_s)
        numbers: dict[str, float | None] = {
            "restarts": restarts,
            "restarts_since": None if restarts is None or before is None else max(0, restarts - before),
            "active_seconds": now_s - active_s if active_s and found.get("ActiveState") in GOOD else None,
            "tasks": _known(found, "TasksCurrent"),
            "memory_bytes": _known(found, "MemoryCurrent"),
            "last_run_seconds": now_s - last_s if last_s else None,
            "next_run_seconds": next_s - now_s if next_s else None,
        }
        return {name: value for name, value in numbers.items() if value is not None}

    def _samples(
        self, found: Mapping[str, Any], run: Mapping[str, Any], numbers: Mapping[str, float]
    ) -> Samples:
        samples, name = Samples(), self._name
        state = "active" if found.get("ActiveState") in GOOD else found.get("ActiveState")
        for one in STATES:
            help_ = "Whether the unit is in this state."
            samples.gauge(
                "node_systemd_unit_state", help_, float(state == one), name=name, state=one, type=self._type
            )
        began_s = _seconds(found, "ActiveEnterTimestamp") if "active_seconds" in numbers else None
        samples.gauge(
            "node_systemd_unit_start_time_seconds",
            "When it became active; 0 when it is not.",
            began_s or 0,
            name=name,
        )
        if "restarts" in numbers:
            help_ = "How often systemd has started it again."
            samples.counter("node_systemd_service_restart_total", help_, numbers["restarts"], name=name)
        if "tasks" in numbers:
            samples.gauge("node_systemd_unit_tasks_current", "Its tasks.", numbers["tasks"], name=name)
        if "memory_bytes" in numbers:
            samples.gauge(
                "watchbill_check_unit_memory_bytes", "Memory in use.", numbers["memory_bytes"], name=name
            )
        if self._type == "timer":
            last_s = _seconds(found, "LastTriggerUSec") or 0
            samples.gauge(
                "node_systemd_timer_last_trigger_seconds",
                "When it last started something; 0 for never.",
                last_s,
                name=name,
            )
            next_s = _next_s(found, time.time()) or 0
            samples.gauge(
                "watchbill_check_unit_next_run_timestamp_seconds",
                "When it is due next; 0 for never.",
                next_s,
                name=name,
            )
        result = run.get("Result", found.get("Result"))
        if result is not None:
            help_ = "Whether its last run ended well; of a timer, that of what it starts."
            samples.gauge("watchbill_check_unit_result_success", help_, float(result == "success"), name=name)
        return samples


def _ending(found: Mapping[str, Any]) -> str:
    result, status = str(found.get("Result", "")), found.get("ExecMainStatus")
    return f"{result}, status {status}" if status else result or str(found.get("SubState", ""))


def _seconds(found: Mapping[str, Any], name: str) -> float | None:
    value = _known(found, name)
    return value / 1e6 if value else None


def _known(found: Mapping[str, Any], name: str) -> float | None:
    value = found.get(name)
    return None if value is None or value == NONE else float(value)


def _next_s(found: Mapping[str, Any], now_s: float) -> float | None:
    """Whichever is sooner: by the calendar, or so long after something."""
    calendar_s = _seconds(found, "NextElapseUSecRealtime")
    monotonic_s = _seconds(found, "NextElapseUSecMonotonic")
    if monotonic_s is not None:
        monotonic_s += now_s - time.monotonic()
    known = [one for one in (calendar_s, monotonic_s) if one is not None]
    return min(known) if known else None
