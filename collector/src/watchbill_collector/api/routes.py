"""The table of routes: what each path does, who may ask for it, what goes in and what comes out.

One table makes the router, the permissions and the OpenAPI document; a route that is not in it does not
exist, and none can be in it without saying what it needs.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp

from watchbill_collector.api.ports import Caller, Role

if TYPE_CHECKING:
    from watchbill_collector.api.house import House


class Need(Enum):
    """Who may call a route. The value is the sentence for the documentation."""

    NOTHING = "Open to everybody who can reach the port."
    READ = "Any role; nobody in particular, too, where `[http] anonymous_read` is on."
    KNOWN = "Any role."
    ADMIN = "The role admin."


EVERY_ROLE = frozenset(Role)
ROLES: dict[Need, frozenset[Role]] = {
    Need.NOTHING: EVERY_ROLE,
    Need.READ: EVERY_ROLE,
    Need.KNOWN: EVERY_ROLE,
    Need.ADMIN: frozenset({Role.ADMIN}),
}
"""Which roles satisfy a need, from the authorisation matrix: everybody reads, administrators change hosts and
tokens.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has been let in."""

    request: Request
    caller: Caller
    house: "House"
    body: bytes = b""


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

    @property
    def writes(self) -> bool:
        """Whether it changes anything: every method but reading, Prometheus' form POSTs excepted."""
        return not self.form and not {"GET", "HEAD"} & set(self.methods)
