"""The answers to what annotations ask: got while their rule is evaluated, read when they are filled in.

Asking happens under the evaluation's own budget: so many different queries, so many samples, so much time for all
alerts of a rule. What is beyond is an error in the text of the annotation; the alert is not hurt.
"""

from collections.abc import Callable

from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.errors import PromqlError, TooMany
from watchbill_collector.promql.storage import Storage
from watchbill_collector.rules.template_queries import (
    ASKED_MAX,
    SAMPLES_MAX,
    TIME_S_MAX,
    Ask,
    Samples,
    samples_of,
)

Answers = dict[str, Samples | PromqlError]
"""What one alert's annotations asked, and what came of it."""


class Asked:
    """The queries of one rule at one evaluation; the same text is asked once."""

    def __init__(
        self, engine: Engine, storage: Storage, query_ms: int, monotonic: Callable[[], float] | None
    ) -> None:
        self._engine, self._storage, self._query_ms = engine, storage, query_ms
        self._monotonic = monotonic
        self._until_s = None if monotonic is None else monotonic() + TIME_S_MAX
        self._answers: Answers = {}

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        if self._monotonic is None or self._until_s is None:
            return False
        return self._monotonic() > self._until_s

    def noting(self, own: Answers) -> Ask:
        """A way to ask that notes the answers for one alert."""

        def ask(text: str) -> Samples:
            if text not in self._answers:
                self._answers[text] = self._answer(text)
            own[text] = self._answers[text]
            return _given(own[text])

        return ask

    def _answer(self, text: str) -> Samples | PromqlError:
        if len(self._answers) >= ASKED_MAX:
            return TooMany(f"the rule's annotations ask more than {ASKED_MAX} different queries")
        budget = Budget(SAMPLES_MAX, self._until_s, self._monotonic)
        try:
            return samples_of(self._engine.instant(text, self._query_ms, self._storage, budget))
        except PromqlError as error:
            return error.with_traceback(None)


def remembered(answers: Answers) -> Ask:
    """A way to ask for what was answered before."""

    def ask(text: str) -> Samples:
        if text not in answers:
            raise PromqlError("nothing was asked when the alert was judged")
        return _given(answers[text])

    return ask


def _given(answer: Samples | PromqlError) -> Samples:
    if isinstance(answer, PromqlError):
        raise PromqlError(str(answer))
    return answer
