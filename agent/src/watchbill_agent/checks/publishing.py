"""What becomes of an outcome: the series that every check has, and the labels of all its series. Pure."""

from collections.abc import Iterable
from typing import Final

from watchbill_agent.checks.check import SAMPLES_MAX, Listener, Outcome, Samples, Verdict
from watchbill_agent.checks.config import Spec
from watchbill_agent.reading import Family, MetricType, Series

SUCCESS: Final = Family(
    "probe_success", MetricType.GAUGE, "Whether the check found well what it looks at: 1 or 0."
)
DURATION: Final = Family("probe_duration_seconds", MetricType.GAUGE, "Seconds that the look took.")
STATUS: Final = Family(
    "watchbill_check_status", MetricType.GAUGE, "The verdict: 0 ok, 1 warning, 2 critical, 3 unknown."
)
INFO: Final = Family(
    "watchbill_check_info", MetricType.GAUGE, "1: the kind of the check, and whether it is essential."
)
BEHIND: Final = Family(
    "watchbill_check_behind", MetricType.GAUGE, "1: this check depends on on_check of on_instance."
)
OWN: Final = frozenset(one.name for one in (SUCCESS, DURATION, STATUS, INFO, BEHIND))
"""Of the runtime: a kind that uses such a name is mistaken, and what it says there is left out."""

ROUNDED_MAX: Final = 200
"""Samples of a check whose times are rounded. A page of an application has many, and its own precision."""

Pairs = tuple[tuple[str, str], ...]


class Labelled:
    """The series of one check with the labels that all of them have, kept for as long as it says the same series: a
    page of 10,000 series is named once and not at every look, which would be most of what a look costs."""

    def __init__(self) -> None:
        self._said: list[Series] = []
        self._made: list[Series] = []

    def of(self, said: list[Series], common: Pairs) -> list[Series]:
        """Each with `common`, which is always the same."""
        # Where a check hands over the very same objects, this compares nothing but their addresses.
        if said != self._said:
            before = {id(one): made for one, made in zip(self._said, self._made, strict=True)}
            known: dict[Pairs, Pairs] = {}
            made = []
            for one in said:
                same = before.get(id(one))
                if same is None:
                    pairs = known.get(one.labels)
                    if pairs is None:
                        pairs = known[one.labels] = _with(one.labels, common)
                    same = Series(one.name, pairs)
                made.append(same)
            self._said, self._made = list(said), made
        return self._made


def published(
    spec: Spec, outcome: Outcome, took_s: float, labelled: Labelled | None = None
) -> tuple[Samples, int]:
    """All samples of a check with all their labels, and how many were left out because they are too many. `labelled`
    is the check's own, where it is asked again and again."""
    made = Samples()
    common = common_labels(spec)
    if outcome.verdict is not Verdict.UNKNOWN:
        made.put(SUCCESS, float(outcome.verdict is not Verdict.CRITICAL), common)
    if not isinstance(spec.check, Listener):
        made.put(DURATION, _told(DURATION.name, took_s), common)
    made.put(STATUS, float(outcome.verdict), common)
    essential = "true" if spec.essential else "false"
    made.put(INFO, 1.0, _with(common, (("essential", essential), ("kind", spec.kind))))
    for one in spec.behind:
        made.put(BEHIND, 1.0, _with(common, _dependency(one)))
    found = outcome.samples
    made.families |= {name: family for name, family in found.families.items() if name not in OWN}
    said, values = found.series, found.values
    if not OWN.isdisjoint(found.families):
        kept = [(one, value) for one, value in zip(said, values, strict=False) if one.name not in OWN]
        said, values = [one for one, _ in kept], [value for _, value in kept]
    if len(said) <= ROUNDED_MAX:
        values = [_told(one.name, value) for one, value in zip(said, values, strict=False)]
    made.series += (labelled or Labelled()).of(said[:SAMPLES_MAX], common)
    made.values += values[:SAMPLES_MAX]
    return made, max(0, len(found.series) - SAMPLES_MAX)


def _told(name: str, value: float) -> float:
    """Times in whole microseconds: what is finer is noise, and noise is what history cannot compress."""
    return round(value, 6) if name.endswith("_seconds") else value


def common_labels(spec: Spec) -> Pairs:
    """Of every series of a check."""
    app = (("app", spec.app),) if spec.app else ()
    return _with(spec.labels, (("check", spec.name), *app))


def _dependency(text: str) -> Pairs:
    host, slash, check = text.rpartition("/")
    pairs = (("on_check", check), ("on_instance", host if slash else ""))
    return tuple(pair for pair in pairs if pair[1])


def _with(pairs: Pairs, over: Iterable[tuple[str, str]]) -> Pairs:
    """Both, sorted; what is in `over` wins."""
    return tuple(sorted({**dict(pairs), **dict(over)}.items()))
