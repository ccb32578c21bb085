"""Write `store/new.sql`, from which a new SQLite store is made, by going the way of all migrations."""

import tempfile
from pathlib import Path

from watchbill_collector.store import new
from watchbill_collector.store.database import locate
from watchbill_collector.store.migrate import migrate_by_steps

with tempfile.TemporaryDirectory() as place:
    database = locate(Path(place))
    migrate_by_steps(database)
    assert database.file is not None
    new.FILE.write_text(new.written(database.file), "utf-8")
