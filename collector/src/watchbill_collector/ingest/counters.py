"""What ingest counts about itself. Plain integers: the hot path adds, and whoever scrapes reads."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from watchbill.leaving import WORDS
from watchbill.protocol.frames import GapReason
from watchbill_collector.history.values import GapRow

REFUSAL_KEYS_MAX = 10_000
"""Pairs of host and reason counted apart; what comes beyond is counted under an empty host name."""

_COUNTERS = {
    "messages": "Messages of agents taken in.",
    "message_bytes": "Bytes of these messages.",
    "records": "Records accepted for committing.",
    "samples": "Samples accepted for committing.",
    "duplicates": "Records that came again and were ignored.",
    "holes": "Records that came before an earlier one and were asked for again.",
    "beats": "Beats of agents.",
    "acks": "Acknowledgements sent.",
    "sessions_begun": "Sessions that were welcomed.",
    "sessions_refused": "Sessions that were not welcomed.",
    "busy": "Times an agent was asked to wait.",
    "throttled": "Times an agent was slowed down for exceeding its bytes.",
    "commits": "Transactions of samples committed.",
    "commit_failures": "Transactions of samples that failed; nothing in them was acknowledged.",
    "commit_seconds": "Time spent in transactions of samples.",
    "samples_lost": "Samples made by the collector itself that a failed commit took with it.",
    "gaps": "Gap rows recorded.",
    "marks_forgotten": "Watermarks of spools closed long ago, or of forgotten hosts, that were removed.",
    "requests": "Times that a host was asked to do something.",
    "dictionaries": "Series dictionaries received.",
    "dictionaries_decoded": "Series dictionaries that had to be decoded: the rest were known.",
}

EVENT_KINDS_MAX = 256
"""Kinds of critical events counted apart; agents choose their names."""

_GAP_COUNTERS = {
    "records": "Records that will never come, by the reason of their gap; a notice has none.",
    "samples": "Samples missing with gaps, as far as anybody knows.",
    "unknown": "Gaps of which nobody knows how many samples are missing.",
}


class IngestCounters:
    """Counters of one collector process."""

    __slots__ = (*_COUNTERS, "_gauges", "_skews", "cuts", "events", "gap_counts", "leavings", "refusals")

    def __init__(self) -> None:
        self.messages = 0
        self.message_bytes = 0
        self.records = 0
        self.samples = 0
        self.duplicates = 0
        self.holes = 0
        self.beats = 0
        self.acks = 0
        self.sessions_begun = 0
        self.sessions_refused = 0
        self.busy = 0
        self.throttled = 0
        self.commits = 0
        self.commit_failures = 0
        self.commit_seconds = 0.0
        self.samples_lost = 0
        self.gaps = 0
        self.marks_forgotten = 0
        self.requests = 0
        self.dictionaries = 0
        self.dictionaries_decoded = 0
        self.refusals: dict[tuple[str, str], int] = {}
        self.cuts: dict[str, int] = {}
        self.gap_counts: dict[tuple[str, str], list[int]] = {}
        self.leavings: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self._gauges: Callable[[], dict[str, float]] = dict
        self._skews: Callable[[], Iterable[tuple[str, float]]] = list

    def refused(self, agent: str, reason: str, count: int = 1) -> None:
        """Something of an agent (its instance, or its id before that is known) was refused."""
        key = (agent, reason)
        if key not in self.refusals and len(self.refusals) >= REFUSAL_KEYS_MAX:
            key = ("", reason)
        self.refusals[key] = self.refusals.get(key, 0) + count

    def cut(self, agent: str) -> None:
        """A session of an agent ended without a word from either side."""
        if agent not in self.cuts and len(self.cuts) >= REFUSAL_KEYS_MAX:
            agent = ""
        self.cuts[agent] = self.cuts.get(agent, 0) + 1

    def gap(self, agent: str, row: GapRow) -> None:
        """A gap row of an agent was committed: records, samples, and whether nobody knows how many."""
        key = (agent, GapReason(row.reason).name.lower())
        if key not in self.gap_counts and len(self.gap_counts) >= REFUSAL_KEYS_MAX:
            key = ("", key[1])
        counts = self.gap_counts.setdefault(key, [0, 0, 0])
        samples = row.samples_known
        counts[0] += row.count
        counts[1] += samples or 0
        counts[2] += samples is None

    def took_events(self, kinds: Iterable[str]) -> None:
        """Critical events of these kinds were committed."""
        for kind in kinds:
            known = kind if kind in self.events or len(self.events) < EVENT_KINDS_MAX else "other"
            self.events[known] = self.events.get(known, 0) + 1

    def left(self, reason: str) -> None:
        """A host said goodbye, with this word."""
        if reason not in WORDS:
            reason = "other"
        self.leavings[reason] = self.leavings.get(reason, 0) + 1

    def refused_in_all(self, reason: str) -> int:
        """How often something was refused for this reason, whoever sent it."""
        return sum(count for (_, known), count in self.refusals.items() if known == reason)

    def watch(
        self, gauges: Callable[[], dict[str, float]], skews: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        """Where the gauges come from: by name, and the clock skew in seconds by instance."""
        self._gauges = gauges
        self._skews = skews

    def collect(self) -> Iterable[Metric]:
        """For a prometheus_client registry."""
        for name, text in _COUNTERS.items():
            family = CounterMetricFamily(f"watchbill_collector_ingest_{name}", text)
            family.add_metric((), float(getattr(self, name)))
            yield family
        refusals = CounterMetricFamily(
            "watchbill_collector_refusals",
            "What agents sent and the collector refused: series, records, messages or sessions.",
            labels=("agent", "reason"),
        )
        for (agent, reason), count in list(self.refusals.items()):
            refusals.add_metric((agent, reason), float(count))
        yield refusals
        cuts = CounterMetricFamily(
            "watchbill_collector_sessions_cut",
            "Sessions that ended without a word: the network, a killed agent, or a message beyond what gRPC takes.",
            labels=("agent",),
        )
        for agent, count in list(self.cuts.items()):
            cuts.add_metric((agent,), float(count))
        yield cuts
        for place, (name, text) in enumerate(_GAP_COUNTERS.items()):
            family = CounterMetricFamily(f"watchbill_collector_gap_{name}", text, labels=("agent", "reason"))
            for (agent, reason), counts in list(self.gap_counts.items()):
                family.add_metric((agent, reason), float(counts[place]))
            yield family
        events = CounterMetricFamily(
            "watchbill_collector_events", "Critical events of agents that were committed.", labels=("kind",)
        )
        for kind, count in list(self.events.items()):
            events.add_metric((kind,), float(count))
        yield events
        leavings = CounterMetricFamily(
            "watchbill_collector_goodbyes",
            "Sessions that ended with a goodbye, by the reason that the agent gave.",
            labels=("reason",),
        )
        for reason, count in list(self.leavings.items()):
            leavings.add_metric((reason,), float(count))
        yield leavings
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(
                f"watchbill_collector_ingest_{name}", f"Ingest: {name.replace('_', ' ')}.", value
            )
        skew = GaugeMetricFamily(
            "watchbill_collector_agent_clock_skew_seconds",
            "How far a host's wall clock is ahead of the collector's.",
            labels=("agent",),
        )
        for agent, seconds in self._skews():
            skew.add_metric((agent,), seconds)
        yield skew
