"""What hosts say of their backups: read at ingest's door, kept in the store, judged by the desk."""

from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.host_changes import HostChanges
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.past import Past
from watchbill_collector.parts.state import State
from watchbill_collector.services.backups import BackupMetrics, Backups


class BackupWatch(Part):
    """See the module."""

    def __init__(
        self, ground: Ground, state: State, past: Past, changes: HostChanges, intake: Intake
    ) -> None:
        self._ground = ground
        self.backups = Backups(
            state.store,
            ground.clock,
            state.registry,
            state.belonging,
            past.table,
            through_ms=intake.ingest.through_ms,
            emit=intake.ingest.commits.add_own,
            publish=ground.bus.publish,
        )
        intake.reads(self.backups.door.read)
        intake.crit.backups_told = self.backups.told
        changes.follow(self.backups.host_changed)
        ground.metrics.register(BackupMetrics(self.backups))

    def begin(self) -> None:
        """Read everything back, and go on from there."""
        self.backups.spawn(self._ground.house)
        self._ground.stack.push_async_callback(self.backups.close)
