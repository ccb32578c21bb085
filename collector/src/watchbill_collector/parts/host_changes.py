"""Who is to know that a host was renamed, revoked, retired, replaced or forgotten."""

from collections.abc import Callable

from watchbill_collector.hosts import HostChange
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.state import State


class HostChanges(Part):
    """Takes changes from the registry's threads to the loop: there to the parts in the order of their opening, then to
    the followers of events, who may ask at once and must see what the parts did.
    """

    def __init__(self, ground: Ground, state: State) -> None:
        self._bus = ground.bus
        self._followers: list[Callable[[HostChange], None]] = []
        ground.stack.callback(state.registry.subscribe(lambda change: ground.on_loop(self._take, change)))

    def follow(self, follower: Callable[[HostChange], None]) -> None:
        """Call `follower` with every change from now on, on the loop."""
        self._followers.append(follower)

    def _take(self, change: HostChange) -> None:
        for follower in self._followers:
            follower(change)
        host = change.after
        self._bus.publish(
            "host", {"host": host.instance, "agent_id": host.agent_id, "change": change.kind.value}
        )
