"""What steps of runbooks tell people, through a channel. Best effort: the run goes on whether it arrives or not."""

import asyncio
import logging
from typing import Final

from watchbill.clock import Clock
from watchbill.logs import fields
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.notice import Notice, NoticeKind, SendFailed
from watchbill_collector.runbooks.run.progress import Run

log = logging.getLogger("watchbill.runs")

SENDING_MAX: Final = 100
"""Messages under way at a time; one more is not sent, and counted."""
TRIES: Final = 3
AGAIN_S: Final = 5.0


class RunNotices:
    """`services.runs.Telling`. On the loop."""

    def __init__(self, channels: ChannelSet, clock: Clock, external_url: str) -> None:
        self._channels = channels
        self._clock = clock
        self._external_url = external_url
        self._sending: set[asyncio.Task[None]] = set()
        self._count = 0
        self.failed = 0

    def tell(self, run: Run, channel: str, text: str) -> None:
        """Send it soon."""
        if channel not in self._channels.names or len(self._sending) >= SENDING_MAX:
            self.failed += 1
            log.warning("a run's message was not sent", extra=fields(run=run.run_id, channel=channel))
            return
        self._count += 1
        task = asyncio.create_task(self._send(channel, self._notice(run, channel, text)))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _notice(self, run: Run, channel: str, text: str) -> Notice:
        labels = {"runbook": run.created.runbook, "run": run.run_id}
        return Notice(
            key=f"run/{run.run_id}/{run.n}/{self._count}",
            group_key=f"run/{run.run_id}",
            channel=channel,
            route="",
            kind=NoticeKind.PLAIN,
            severity="info",
            group_labels=labels,
            common_labels=labels,
            common_annotations={"summary": text},
            alerts=(),
            alerts_left_out=0,
            created_ms=self._clock.wall_ms(),
            external_url=self._external_url,
            remark=text,
        )

    async def _send(self, channel: str, notice: Notice) -> None:
        for _ in range(TRIES):
            try:
                await self._channels.send(channel, notice)
            except SendFailed as exc:
                why: object = exc
                if not exc.transient:
                    break
                await asyncio.sleep(AGAIN_S)
            else:
                return
        self.failed += 1
        log.warning("a run's message did not arrive", extra=fields(channel=channel, why=why))
