"""Paging: page faults, pages to and from disk and swap, and out-of-memory kills."""

import re
from dataclasses import dataclass

from watchbill_agent.names import NameFilter
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
)
from watchbill_agent.words import Places, Words, number, shown

_NAME = re.compile(rb"[a-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`fields` is a regular expression: the fields of /proc/vmstat to report."""

    fields: str = r"^(oom_kill|pgpg|pswp|pg.*fault).*"


class Vmstat(Sampler):
    """Reads /proc/vmstat."""

    name = "vmstat"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._filter = NameFilter.of("vmstat", options, include="fields")
        self._file = host.hot_proc("vmstat")
        self._places: Places | None = None

    def sample(self) -> Reading:
        """One value for each field."""
        words = self._file.read().split()
        values = self._places.values(words) if self._places else None
        if values is None:
            self._places = learn(words, self._filter)
            values = self._places.values(words)
        assert self._places is not None
        assert values is not None, "what was just learnt can be read"
        return Reading(self._places.layout, values)


def learn(words: Words, fields: NameFilter) -> Places:
    """Where the wanted fields stand among the words, a name and a number in turn."""
    if not words or len(words) % 2:
        raise SamplerFailed("vmstat", f"wanted names and values, got {shown(b' '.join(words[-3:]))}")
    families: dict[str, Family] = {}
    names_at: list[int] = []
    for at in range(0, len(words), 2):
        if not _NAME.fullmatch(words[at]):
            raise SamplerFailed("vmstat", f"wanted the name of a field, got {shown(words[at])}")
        field = words[at].decode("ascii")
        number(words[at + 1], "vmstat", field)
        name = f"node_vmstat_{field}"
        if fields.keeps(field) and name not in families:
            families[name] = Family(name, MetricType.UNTYPED, f"{field} of /proc/vmstat.")
            names_at.append(at)
    layout = Layout(families.values(), map(Series, families))
    return Places(layout, words, names_at, [at + 1 for at in names_at])
