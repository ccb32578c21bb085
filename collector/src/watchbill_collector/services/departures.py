"""Hosts that said they are gone for good: those that were enrolled to come and go retire themselves."""

import contextlib
import logging

from watchbill.errors import Busy, StorageError, UsageError
from watchbill.leaving import DECOMMISSION
from watchbill.logs import fields
from watchbill_collector.hosts import HostRegistry

log = logging.getLogger("watchbill.collector")


async def retire_decommissioned(registry: HostRegistry) -> int:
    """Retire every ephemeral host that was decommissioned; how many. What the store does not take now is tried
    again when this is called next. The audit has the host itself as the one who did it.
    """
    retired = 0
    for host in registry.decommissioned():
        with contextlib.suppress(UsageError):  # An administrator was faster.
            try:
                await registry.retire(host.agent_id, actor=f"host:{host.instance}", reason=DECOMMISSION)
            except (Busy, StorageError) as exc:
                log.error("a host could not retire", extra=fields(host=host.instance, why=exc))
                break
            retired += 1
    return retired
