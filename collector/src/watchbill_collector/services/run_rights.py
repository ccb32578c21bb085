"""Who may see and change runbooks and runs: by the hosts that they touch.

Seen is what touches one host of the caller's scope; changed only what touches none outside of it. What touches no host
that is known is for those who see everything.
"""

from collections.abc import Collection
from typing import Final

from watchbill.errors import Refused
from watchbill_collector.api.ports import Caller, Role
from watchbill_collector.scopes import Bindings, View

RUNNING_ROLES: Final = frozenset({Role.OPERATOR, Role.APPROVER})
APPROVING_ROLES: Final = frozenset({Role.APPROVER})


class Rights:
    """By the names of hosts."""

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings

    def sees(self, caller: Caller, hosts: Collection[str]) -> bool:
        """Whether he sees what touches these hosts."""
        view = View.of(grant.scope for grant in caller.grants)
        if caller.via == "anonymous" or view.whole:
            return True
        return any(self._within(view, host) for host in hosts)

    def may_change(
        self,
        caller: Caller,
        hosts: Collection[str],
        what: str,
        roles: Collection[Role] = RUNNING_ROLES,
    ) -> None:
        """Raises Refused when he may not do this to all of them."""
        view = View.of(grant.scope for grant in caller.grants if grant.role in roles)
        if view.whole:
            return
        if not hosts or any(not self._within(view, host) for host in hosts):
            # Whoever may not change them may not see them all either: they are not named.
            raise Refused(
                f"{caller.name} may do this to {view.text} alone, and to {what} means hosts outside of it"
            )

    def _within(self, view: View, host: str) -> bool:
        bound = self._bindings.bound(host)
        return bound is not None and view.host(host, bound)
