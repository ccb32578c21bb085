"""Users as an administrator manages them: the command's own code, offline and while the collector runs."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import ManualClock
from watchbill.errors import Refused, UsageError
from watchbill_collector.daemon import main
from watchbill_collector.scopes import View, parse_scope
from watchbill_collector.services.userdesk import UserSocket, answer, ask
from watchbill_collector.store import Store
from watchbill_collector.store import audit as rows
from watchbill_collector.users import Grant, Role, Users

ADMIN = {"do": "add", "name": "root", "grants": [{"role": "admin", "scope": ""}]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", "main") as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall_ms=1_795_000_000_000)


@pytest.fixture
def users(store: Store, clock: ManualClock) -> Users:
    return Users(store, clock)


async def do(users: Users, **request: Any) -> dict[str, Any]:
    return await answer(users, request, "local:test")


async def add(users: Users, name: str, role: str = "viewer", scope: str = "", **more: Any) -> str:
    made = await do(users, do="add", name=name, grants=[{"role": role, "scope": scope}], **more)
    token: str = made["token"]
    return token


async def test_a_token_opens_what_was_granted_and_is_kept_as_a_hash(users: Users, store: Store) -> None:
    token = await add(users, "alice", "operator", "team=a", token_name="laptop")
    principal = users.verify_bearer(token)
    assert principal.grants == (Grant(Role.OPERATOR, 'team="a"'),)
    kept = b"".join(file.read_bytes() for file in store.database.file.parent.iterdir() if file.is_file())
    assert token.rpartition(".")[2].encode() not in kept
    found = store.read(lambda c: rows.rows_from(c, 0, 100))
    assert [(row.actor, row.action) for row in found] == [
        ("local:test", "user.add"),
        ("local:test", "token.add"),
    ]
    assert token.rpartition(".")[2] not in repr(found)


async def test_a_token_ends_with_its_time_its_revocation_and_its_user(
    users: Users, clock: ManualClock
) -> None:
    told: list[str] = []
    users.subscribe(lambda: told.append("changed"))
    short = await add(users, "short", life_s=60.0)
    users.verify_bearer(short)
    clock.advance(61)
    with pytest.raises(Refused):
        users.verify_bearer(short)
    revoked = await add(users, "revoked")
    await do(users, do="revoke", name="revoked", token_id=revoked.split(".")[1])
    with pytest.raises(Refused):
        users.verify_bearer(revoked)
    out = await add(users, "out")
    await do(users, do="disable", name="out")
    with pytest.raises(Refused):
        users.verify_bearer(out)
    await do(users, do="enable", name="out")
    assert users.verify_bearer(out).name == "out"
    assert told == ["changed", "changed"]


async def test_changed_grants_hold_for_tokens_that_are_out_already(users: Users) -> None:
    token = await add(users, "bob", "viewer")
    grants = [{"role": "author", "scope": ""}, {"role": "viewer", "scope": 'team=~"a|b"'}]
    await do(users, do="grant", name="bob", grants=grants)
    assert set(users.verify_bearer(token).grants) == {
        Grant(Role.AUTHOR),
        Grant(Role.VIEWER, 'team=~"a|b"'),
    }


async def test_the_last_administrator_of_everything_stays(users: Users) -> None:
    await do(users, **ADMIN)
    await add(users, "of-a", "admin", "team=a")
    for request in (
        {"do": "disable", "name": "root"},
        {"do": "grant", "name": "root", "grants": [{"role": "viewer", "scope": ""}]},
        {"do": "grant", "name": "root", "grants": [{"role": "admin", "scope": "team=a"}]},
    ):
        with pytest.raises(UsageError, match="last administrator"):
            await do(users, **request)
    await add(users, "second", "admin")
    await do(users, do="disable", name="root")
    with pytest.raises(UsageError, match="last administrator"):
        await do(users, do="disable", name="second")


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "add", "name": "", "grants": [{"role": "viewer"}]},
        {"do": "add", "name": "a\nb", "grants": [{"role": "viewer"}]},
        {"do": "add", "name": "x" * 200, "grants": [{"role": "viewer"}]},
        {"do": "add", "name": "a", "grants": []},
        {"do": "add", "name": "a", "grants": [{"role": "root"}]},
        {"do": "add", "name": "a", "grants": ["viewer"]},
        {"do": "add", "name": "a", "grants": [{"role": "viewer", "scope": 'team!="b"'}]},
        {"do": "add", "name": "a", "grants": [{"role": "viewer", "scope": 'team=~"["'}]},
        {"do": "add", "name": "a", "grants": [{"role": "viewer", "scope": '__name__="up"'}]},
        {"do": "add", "name": "a", "grants": [{"role": "viewer", "scope": "team"}]},
        {"do": "add", "name": "a", "grants": [{"role": "viewer"}], "life_s": -1},
        {"do": "add", "name": "a", "grants": [{"role": "viewer"}], "life_s": True},
        {"do": "add", "name": 7, "grants": [{"role": "viewer"}]},
        {"do": "become", "name": "root"},
        {},
    ],
)
async def test_a_request_that_makes_no_sense_changes_nothing(users: Users, request_: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await answer(users, request_, "local:test")
    assert users.users() == []


def test_scopes_have_one_spelling_and_demand_something() -> None:
    assert parse_scope("team=a").text == parse_scope(' {team = "a"} '.replace(" ", "")).text == 'team="a"'
    assert parse_scope("team=a,rack=b-12").text == 'team="a",rack="b-12"'
    for text in ("", " ", 'a!="b"', 'a=~".*"', 'a=""', 'a="b" or', "x" * 600):
        with pytest.raises(UsageError):
            parse_scope(text)
    assert View.of(["", "team=a"]).whole
    assert not View.of(["broken{"]).whole


# ---------------------------------------------------------------- the socket


@pytest.fixture
async def desk(tmp_path: Path, users: Users) -> AsyncIterator[UserSocket]:
    made = UserSocket(tmp_path / ("deep" * 40) / "run", users)
    await made.start()
    yield made
    await made.stop()


async def test_a_running_collector_does_it_and_it_is_in_force_at_once(desk: UserSocket, users: Users) -> None:
    directory = desk.path.parent
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600
    said = await asyncio.to_thread(ask, directory, ADMIN)
    assert said is not None
    assert users.verify_bearer(said["token"]).name == "root"
    with pytest.raises(UsageError, match="last administrator"):
        await asyncio.to_thread(ask, directory, {"do": "disable", "name": "root"})
    listed = await asyncio.to_thread(ask, directory, {"do": "list"})
    assert listed is not None
    assert [user["name"] for user in listed["users"]] == ["root"]


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[]\n", b"{\n", b"\xff\xfe\n", b"[" * 60_000 + b"\n", b"x" * 100_000]
)
async def test_nonsense_on_the_socket_harms_nobody(desk: UserSocket, line: bytes) -> None:
    def send() -> bytes:
        import contextlib
        import os

        directory = os.open(desk.path.parent, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(f"/proc/self/fd/{directory}/{desk.path.name}")
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(line)
                    connection.shutdown(socket.SHUT_WR)
                    return connection.recv(65_536)
                return b""
        finally:
            os.close(directory)

    said = await asyncio.to_thread(send)
    assert not said or "error" in json.loads(said)
    assert await asyncio.to_thread(ask, desk.path.parent, {"do": "list"}) == {"users": []}


def test_where_no_collector_runs_nobody_answers(tmp_path: Path) -> None:
    assert ask(tmp_path, {"do": "list"}) is None


# ---------------------------------------------------------------- the command


def test_the_command_works_without_a_running_collector(tmp_path: Path, capsys: Any) -> None:
    home = ["--home", str(tmp_path)]
    assert main(["init", *home]) == 0
    file = tmp_path / "token"
    made = main(
        ["user", "add", "alice", "--role", "operator", "--scope", "team=a", "--token-file", str(file), *home]
    )
    assert made == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("wbt1.")
    assert file.read_text().strip() not in capsys.readouterr().out
    assert main(["user", "list", "--json", *home]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [user["name"] for user in listed["users"]] == ["admin", "alice"]
    assert main(["user", "disable", "admin", *home]) == 2
    assert main(["user", "add", "bob", "--role", "king", *home]) == 2
    assert main(["user", "add", "bob", "--role", "viewer", "--expires", "soon", *home]) == 2
    assert main(["user", "token", "nobody", *home]) != 0
