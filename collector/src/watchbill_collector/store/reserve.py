"""Room that the control state has already, so that it works on a full disk: audit, silences and outbox.

SQLite on a full disk cannot even delete, because its log would have to grow. So at every start a large value is
written and removed: the database file keeps its pages, free, and the log file keeps its length, which is only
given back when the last connection closes. From then on writes take what is there: the log is begun anew at its
start after every checkpoint (each 1,000 pages), so its length has to be that and the largest transaction.

A reserve inside the files is better than a file to be deleted in need: what that gives back, anybody may take.
On file systems that copy on write (btrfs, zfs) it promises nothing. PostgreSQL looks after itself.
"""

from typing import Final

import sqlalchemy as sa

RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Free pages in the database, and the least length of its log: twice what comes between two checkpoints."""
TABLE: Final = "reserve"


def set_aside(writer: sa.Engine, size: int = RESERVE_BYTES) -> bool:
    """Make sure of the reserve; whether there was room for it. A store that is full already still opens."""
    if writer.dialect.name != "sqlite":
        return True
    try:
        with writer.connect() as connection:
            with connection.begin():
                # One that a crash left behind would hold the room that it is there to give.
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {TABLE}")
                connection.exec_driver_sql(f"CREATE TABLE {TABLE} (room BLOB NOT NULL)")
                connection.execute(sa.text(f"INSERT INTO {TABLE} VALUES (zeroblob(:size))"), {"size": size})  # noqa: S608 - Our own name.
            with connection.begin():
                connection.exec_driver_sql(f"DROP TABLE {TABLE}")
    except sa.exc.OperationalError:
        return False
    return True
