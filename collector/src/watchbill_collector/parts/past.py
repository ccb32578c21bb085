"""The history on disk and the table of series, with the thread in which history is merged and trimmed."""

from concurrent.futures import ThreadPoolExecutor

from watchbill_collector.history import History, HistoryOptions
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.series import SeriesTable


class Past(Part):
    """See the module. Opening it reads back what a crash left."""

    def __init__(self, ground: Ground) -> None:
        retention = ground.config.retention
        self.table = SeriesTable()
        self.history = History.open(
            ground.directory / "history",
            self.table,
            ground.clock,
            HistoryOptions(
                raw_ms=retention.raw.ms,
                minute_ms=retention.minute.ms,
                hour_ms=retention.hour.ms,
                size_bytes_max=retention.size,
            ),
        )
        ground.stack.callback(self.history.close)
        self.historian = ThreadPoolExecutor(1, thread_name_prefix="history-merge")
        ground.stack.callback(self.historian.shutdown, wait=True, cancel_futures=True)
