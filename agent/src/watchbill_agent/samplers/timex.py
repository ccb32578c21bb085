"""The kernel's clock discipline: how far it thinks that this host's clock is off, and whether anything keeps it right.

It is asked by adjtimex(2) with nothing to adjust, which needs no rights. The numbers are of the machine that this
process runs on, whatever tree the others are read from.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    NothingHere,
    Reading,
    Sampler,
    Series,
)

_G, _C = MetricType.GAUGE, MetricType.COUNTER
_FAMILIES: Final = (
    Family("node_timex_offset_seconds", _G, "What the clock is still to be moved by."),
    Family("node_timex_frequency_adjustment_ratio", _G, "How fast the clock is made to go; 1 as it is."),
    Family("node_timex_maxerror_seconds", _G, "The most that the clock may be wrong."),
    Family("node_timex_estimated_error_seconds", _G, "How wrong the clock is thought to be."),
    Family("node_timex_status", _G, "The status bits of the clock."),
    Family("node_timex_loop_time_constant", _G, "Time constant of the phase-locked loop."),
    Family("node_timex_tick_seconds", _G, "Seconds between two ticks."),
    Family("node_timex_pps_frequency_hertz", _G, "Frequency of the pulse-per-second signal."),
    Family("node_timex_pps_jitter_seconds", _G, "Jitter of the pulse-per-second signal."),
    Family("node_timex_pps_shift_seconds", _G, "Length of its calibration interval."),
    Family("node_timex_pps_stability_hertz", _G, "Average of its lately changed frequency."),
    Family("node_timex_pps_jitter_total", _C, "Times that its jitter was too large."),
    Family("node_timex_pps_calibration_total", _C, "Its calibration intervals."),
    Family("node_timex_pps_error_total", _C, "Its failed calibrations."),
    Family("node_timex_pps_stability_exceeded_total", _C, "Times that it was not stable enough."),
    Family("node_timex_tai_offset_seconds", _G, "International Atomic Time less UTC."),
    Family("node_timex_sync_status", _G, "1 while something keeps the clock right, 0 otherwise."),
)
_LAYOUT: Final = Layout(_FAMILIES, [Series(family.name) for family in _FAMILIES])

STRUCT: Final = struct.Struct("@I 4l i 3l 2l l 2l i 5l i 44x")
"""struct timex of adjtimex(2), as this machine lays it out."""
TIME_ERROR: Final = 5
"""What adjtimex answers while nothing keeps the clock right."""
STA_NANO: Final = 0x2000
"""Offset and jitter are in nanoseconds, otherwise in microseconds."""
MICRO: Final = 1e6
PPM16: Final = MICRO * 65536
"""Frequencies are parts per million, with 16 bits behind the point."""

Ask = Callable[[], tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Timex(Sampler):
    """Calls adjtimex."""

    name = "timex"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, _host: HostPaths) -> None:
        self._ask: Ask | None = None

    def sample(self) -> Reading:
        """One call. NothingHere where it is not allowed, as in some containers."""
        if self._ask is None:
            self._ask = asking()
        state, content = self._ask()
        return Reading(_LAYOUT, values(state, content))


def asking() -> Ask:
    """What calls adjtimex. Imported here alone: ctypes takes half a megabyte."""
    import ctypes

    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError) as exc:
        raise NothingHere("adjtimex", "this system has no such call") from exc
    place = ctypes.create_string_buffer(STRUCT.size)

    def ask() -> tuple[int, bytes]:
        ctypes.memset(place, 0, STRUCT.size)  # No mode: nothing is adjusted.
        state = int(adjtimex(place))
        if state < 0:
            raise NothingHere("adjtimex", os.strerror(ctypes.get_errno()).lower())
        return state, place.raw

    return ask


def values(state: int, content: bytes) -> list[float]:
    """In layout order, in base units, as node_exporter has them."""
    _, offset, frequency, maxerror, esterror, status, constant, *rest = STRUCT.unpack(content)
    tick, pps_frequency, jitter, shift, stability, jitters, calibrations, errors, unstable, tai = rest[4:]
    fine = 1e9 if status & STA_NANO else MICRO
    return [
        offset / fine,
        1 + frequency / PPM16,
        maxerror / MICRO,
        esterror / MICRO,
        status,
        constant,
        tick / MICRO,
        pps_frequency / PPM16,
        jitter / fine,
        shift,
        stability / PPM16,
        jitters,
        calibrations,
        errors,
        unstable,
        tai,
        float(state != TIME_ERROR),
    ]
