"""The table of routes: what each path does, who may ask for it, what goes in and what comes out.

One table makes the router, the permissions and the OpenAPI document; a route that is not in it does not
exist, and none can be in it without saying what it needs.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp

from watchbill_collector.api.ports import Caller, Role
from watchbill_collector.scopes import NOTHING, View

if TYPE_CHECKING:
    from watchbill_collector.api.house import House
    from watchbill_collector.api.ports import QueryService


class Need(Enum):
    """Who may call a route. The value is the sentence for the documentation."""

    NOTHING = "Open to everybody who can reach the port."
    READ = "Any role; nobody in particular, too, where `[http] anonymous_read` is on."
    KNOWN = "Any role."
    OPERATE = "The role operator, approver or admin: acknowledge, silence, test a channel."
    RUN = "The role operator or approver: start and steer runbooks."
    APPROVE = "The role approver: agree to what others want to run, and accept what others wrote."
    AUTHOR = "The role author: change what runs and what is judged."
    AUDIT = "The role admin or auditor; operator, approver and author read what they did themselves."
    AUDITOR = "The role admin or auditor."
    ADMIN = "The role admin."


class Within(Enum):
    """What a route does for callers who may see only a part of the hosts. Every route says it; one that does
    not is for callers without a scope alone. The value is the sentence for the documentation.
    """

    FILTERED = "A scope filters what comes back."
    OBJECT = "A scope decides which objects there are: what is outside of it is not found."
    NO_HOSTS = "Nothing in it belongs to a host: a scope changes nothing."
    WHOLE = "Not for callers with a scope."


EVERY_ROLE = frozenset(Role)
ROLES: dict[Need, frozenset[Role]] = {
    Need.NOTHING: EVERY_ROLE,
    Need.READ: EVERY_ROLE,
    Need.KNOWN: EVERY_ROLE,
    Need.OPERATE: frozenset({Role.OPERATOR, Role.APPROVER, Role.ADMIN}),
    Need.RUN: frozenset({Role.OPERATOR, Role.APPROVER}),
    Need.APPROVE: frozenset({Role.APPROVER}),
    Need.AUTHOR: frozenset({Role.AUTHOR}),
    Need.AUDIT: EVERY_ROLE - {Role.VIEWER},
    Need.AUDITOR: frozenset({Role.ADMIN, Role.AUDITOR}),
    Need.ADMIN: frozenset({Role.ADMIN}),
}
"""Which roles satisfy a need, from the authorisation matrix: everybody reads; who runs and approves recovery does
not administer, and an administrator neither runs nor approves it.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has been let in."""

    request: Request
    caller: Caller
    house: "House"
    body: bytes = b""
    view: View = NOTHING
    """Where the caller may do what this route does: the scopes of those of his grants that satisfy its need."""
    sees: View = NOTHING
    """What the caller may read: the scopes of all his grants."""

    @property
    def query(self) -> "QueryService":
        """The query engine, over what the caller sees."""
        return self.house.services.query.within(self.view)

    def covers(self, labels: Mapping[str, str]) -> bool:
        """Whether what has these labels - an alert, a gap, an event - is the caller's to see or to change."""
        return self.view.covers(labels, self.house.services.bindings)


Handler = Callable[[Call], Awaitable[ASGIApp]]
"""What answers a call; a Response is one."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the URL, or of a form body where the route takes POST in Prometheus' way."""

    name: str
    about: str
    required: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One row. `form`: POST carries the parameters as a form. `takes` and `gives` are the types of the JSON
    bodies.

    `gives` None: the answer is not described by a type of ours (Prometheus' shapes, text, a stream).
    """

    methods: tuple[str, ...]
    path: str
    need: Need
    handler: Handler
    about: str
    parameters: tuple[Parameter, ...] = ()
    form: bool = False
    takes: type | None = None
    gives: type | None = None
    media: str = "application/json"
    within: Within | None = None
    """What it does for callers with a scope; None: not for them, and the tests ask for a decision."""

    @property
    def writes(self) -> bool:
        """Whether it changes anything: every method but reading, Prometheus' form POSTs excepted."""
        return not self.form and not {"GET", "HEAD"} & set(self.methods)
