"""What this host serves, where its configuration asks for it: the metrics page, and a door for pings."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from watchbill.config import Address
from watchbill.logs import fields
from watchbill_agent.config import AgentConfig
from watchbill_agent.metrics_page import MetricsPage
from watchbill_agent.small_http import SmallServer

if TYPE_CHECKING:
    from watchbill_agent.backups.pings import Pings

log = logging.getLogger(__name__)

S = TypeVar("S", bound=SmallServer)


@dataclass(frozen=True, slots=True)
class Served:
    """The servers that are open. Their addresses may be swapped by a reload: as a whole, or not at all."""

    make_page: Callable[[Address], MetricsPage]
    make_pings: "Callable[[Address], Pings]"
    page: MetricsPage | None = None
    pings: "Pings | None" = None

    async def opened(self, config: AgentConfig) -> "Served":
        """As `config` asks: what it leaves as it is stays open. Raises StorageError, and then nothing new is."""
        found = self
        try:
            if _asked(self.page) != config.prometheus.listen:
                page = await _started(self.make_page, config.prometheus.listen, "metrics page is served")
                found = replace(found, page=page)
            if _asked(self.pings) != config.heartbeat.listen:
                pings = await _started(self.make_pings, config.heartbeat.listen, "pings are taken")
                found = replace(found, pings=pings)
        except BaseException:
            await found.close(but=self)
            raise
        return found

    async def close(self, but: "Served | None" = None) -> None:
        """Close what is open here, and not in `but`."""
        for mine, others in ((self.page, but and but.page), (self.pings, but and but.pings)):
            if mine is not None and mine is not others:
                await mine.stop()


def _asked(server: SmallServer | None) -> Address | None:
    return None if server is None else server.address


async def _started(make: Callable[[Address], S], address: Address | None, said: str) -> S | None:
    if address is None:
        return None
    server = make(address)
    await server.start()
    log.info(said, extra=fields(host=address.host, port=server.port))
    return server
