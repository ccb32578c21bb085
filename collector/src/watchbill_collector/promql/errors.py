"""What can go wrong with a query. Every error names the expression or the function that it is about.

PromqlError
├── BadQuery           the text is no PromQL that we evaluate (HTTP 400, `bad_data`)
│   ├── NotSupported   it is PromQL, of a kind that we refuse by name rather than answer wrongly
│   └── TooLarge       it is larger than any text that we read
├── ExecutionFailed    the query is well formed and its data cannot be combined so (HTTP 422, `execution`)
│   └── TooMany        it needs more samples, steps or series than it may (HTTP 422, `execution`)
├── TimedOut           its time was up (HTTP 503, `timeout`)
└── Cancelled          somebody cancelled it (HTTP 503, `canceled`)

`kind` is the `errorType` of Prometheus' HTTP API.
"""

from watchbill.errors import WatchbillError


class PromqlError(WatchbillError):
    """The root of the query engine's errors.

    `expression` is the offending part of the query, as text; empty where the message has it already.
    """

    kind = "execution"

    def __init__(self, message: str, expression: str = "") -> None:
        super().__init__(message)
        self.expression = expression


class BadQuery(PromqlError):
    """The text is no PromQL that we evaluate."""

    kind = "bad_data"


class NotSupported(BadQuery):
    """PromQL of a kind that this engine refuses. `feature` names it; `at` is where it stands (`1:15`), if that is
    known.
    """

    def __init__(self, feature: str, expression: str = "", at: str = "") -> None:
        where = f" (in {expression})" if expression else ""
        begin = f"{at}: parse error: " if at else ""
        super().__init__(f"{begin}{feature} is not supported{where}", expression)
        self.feature = feature


class TooLarge(BadQuery):
    """The text is larger than any that we read."""


class ExecutionFailed(PromqlError):
    """The data cannot be combined in the way that the query asks for."""


class TooMany(ExecutionFailed):
    """The query needs more than it may have."""


class TimedOut(PromqlError):
    """The query's time was up."""

    kind = "timeout"


class Cancelled(PromqlError):
    """Somebody cancelled the query."""

    kind = "canceled"
