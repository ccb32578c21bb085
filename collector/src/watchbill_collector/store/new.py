"""A new SQLite store, made from `new.sql`: what all migrations together make, in SQLite's own words.

Going the way of every migration takes a child and more than a second, at each `init` and in each test that wants a
store. The file is written by the migrations themselves, and a test fails when it is not what they make:

    .venv/bin/python scripts/new_store.py
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import sqlalchemy as sa

FILE: Final = Path(__file__).with_name("new.sql")
_HEAD: Final = "-- Written by scripts/new_store.py: not to be edited.\n"


def is_empty(connection: sa.Connection) -> bool:
    """Whether nobody has made anything in this SQLite file."""
    return bool(connection.exec_driver_sql("SELECT count(*) = 0 FROM sqlite_master").scalar_one())


def make(connection: sa.Connection) -> None:
    """Everything, in the transaction that is open."""
    for statement in statements(FILE.read_text("utf-8")):
        connection.exec_driver_sql(statement)


def statements(text: str) -> Iterator[str]:
    """One after the other; a trigger has semicolons within."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), statement


def written(file: Path) -> str:
    """What makes a store like the one in this file, which nobody has used."""
    with closing(sqlite3.connect(file)) as connection:
        made = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
        )
        lines = [f"{line.rstrip()}\n" for (sql,) in made for line in f"{sql};".splitlines()]
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    lines.append(f"INSERT INTO alembic_version VALUES ('{revision}');\n")  # noqa: S608 - Of our own migrations.
    return _HEAD + "".join(lines)
