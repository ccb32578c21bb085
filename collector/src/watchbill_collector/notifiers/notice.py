"""What a channel is asked to send, and what comes of it.

A `Notice` is one message to one channel about one group of alerts. It holds everything that the message says,
so that sending needs neither store nor clock, and so that the same notice, sent again after a crash, is the
same message. The dispatcher makes notices; the channels render and send them; this file is all they share.

Every string in it that comes from a host (label values, annotations made of them) is hostile: a renderer
escapes it for its own format.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol

from watchbill.errors import WatchbillError

DETAIL_CHARS_MAX: Final = 500
"""What is kept of a peer's answer, in characters: enough for its reason, too little to fill a disk."""


class NoticeKind(Enum):
    """Why a notice is sent."""

    FIRING = "firing"
    """At least one alert of the group fires."""
    RESOLVED = "resolved"
    """Nothing of the group fires any more."""
    DIGEST = "digest"
    """The collected news of what is not worth a page."""
    TEST = "test"
    """A person asked whether the channel works."""
    PLAIN = "plain"
    """Watchbill speaks for itself, in `remark`: no alert of a rule is behind it."""


@dataclass(frozen=True, slots=True)
class NoticeAlert:
    """One alert of a notice. Times are UTC milliseconds since 1970."""

    fingerprint: str
    """16 hexadecimal digits of the label set."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    status: Literal["firing", "resolved"]
    starts_ms: int
    ends_ms: int | None
    """When it ended; None as long as it fires."""
    value: float | None
    """The rule's value when it was judged last; None where there is none."""
    generator_url: str
    """The page that shows the rule's expression; "" where there is none."""
    service: str = ""
    owner: str = ""
    incomplete: bool = False
    """Judged on incomplete data: a gap was open in what the rule reads."""
    silenced: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to one channel about one group of alerts."""

    key: str
    """Idempotency key: the same over retries and after a crash, different for every other message."""
    group_key: str
    """Names the group for as long as it lives: the PagerDuty incident, the thread of mails."""
    channel: str
    route: str
    kind: NoticeKind
    severity: str
    """The worst of the group: "critical", "major", "minor", "info"; "" where nobody said."""
    group_labels: Mapping[str, str]
    common_labels: Mapping[str, str]
    common_annotations: Mapping[str, str]
    alerts: tuple[NoticeAlert, ...]
    alerts_left_out: int
    """Alerts of the group that `alerts` does not hold, because a notice is bounded."""
    created_ms: int
    external_url: str
    """Where people reach the page, without a slash at the end; "" where nobody said."""
    remark: str = ""
    """Something about the notice itself, such as that a template failed; "" as a rule."""

    @property
    def resolved(self) -> bool:
        """Whether this notice says that all is over."""
        return self.kind is NoticeKind.RESOLVED


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer accepted the notice; `detail` is what it answered, bounded and printable."""

    detail: str


class SendFailed(WatchbillError):
    """A notice was not accepted; `why` says what was tried, on whom, and what came back. Never holds a secret.

    `transient` says whether trying again can help: a person who renews a certificate helps too, a notice that
    the peer understood and refused stays refused. `retry_after_s` is the peer's own wish, None without one.

    `unwelcome`: the peer refuses us and not this notice - a wrong secret, a wrong address. Every notice would fare so
    until somebody mends the channel, and then every one goes; it is transient, and not worth asking often.
    """

    def __init__(
        self, why: str, *, transient: bool, retry_after_s: float | None = None, unwelcome: bool = False
    ) -> None:
        super().__init__(why)
        self.why = why
        self.transient = transient or unwelcome
        self.retry_after_s = retry_after_s
        self.unwelcome = unwelcome


class Notifier(Protocol):
    """A channel, ready to send."""

    async def send(self, notice: Notice) -> Delivered:
        """Send it now, within the channel's own timeout. Raises SendFailed, and nothing else."""
        ...

    async def close(self) -> None:
        """Let go of connections. Call it when nothing is being sent any more."""
        ...
