"""Administrators: the first one, tokens, one-time logins, sessions; and `init`, run again and again."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.errors import Busy, Refused, StorageError, Unreadable, UsageError
from watchbill_collector.init import initialise, open_pki
from watchbill_collector.pki import Lifetimes
from watchbill_collector.store import Store
from watchbill_collector.users import Grant, Role, Users

NAMES = ["127.0.0.1"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def state(tmp_path: Path, clock: ManualClock) -> Path:
    initialise(tmp_path / "state", "main", NAMES, clock)
    return tmp_path / "state"


def _admin_token(state: Path) -> str:
    return (state / "admin.token").read_text().strip()


def test_init_makes_everything_once_and_changes_nothing_the_second_time(
    tmp_path: Path, clock: ManualClock
) -> None:
    state = tmp_path / "state"
    first = initialise(state, "main", NAMES, clock)
    assert first.made == ("certificate authority and keys", "server certificate", "user admin")
    files = {path: path.read_bytes() for path in [*state.glob("pki/*"), state / "admin.token"]}
    assert {path.name for path in files} == {
        "ca.key",
        "ca.pem",
        "server.pem",
        "envelope.key",
        "command.key",
        "audit.key",
        "admin.token",
    }
    for path in files:
        assert path.stat().st_mode & 0o777 == (0o644 if path.name == "ca.pem" else 0o600), path
    second = initialise(state, "main", NAMES, clock)
    assert second.made == ()
    assert second.ca_sha256 == first.ca_sha256
    assert {path: path.read_bytes() for path in files} == files


def test_a_token_file_that_was_moved_away_is_not_made_again(state: Path, clock: ManualClock) -> None:
    token = _admin_token(state)
    (state / "admin.token").unlink()
    initialise(state, "main", NAMES, clock)
    assert not (state / "admin.token").exists()
    with Store.open(state, "main") as store:
        assert Users(store, clock).verify_bearer(token).name == "admin"


def test_init_beside_a_running_collector_is_refused(state: Path, clock: ManualClock) -> None:
    with Store.open(state, "main"), pytest.raises(Refused, match="two of us"):
        initialise(state, "main", NAMES, clock)


def test_init_for_another_site_is_refused(state: Path, clock: ManualClock) -> None:
    with pytest.raises(Refused, match='belongs to site "main"'):
        initialise(state, "other", NAMES, clock)


def test_an_uninitialised_directory_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="watchbill-collector init"):
        open_pki(tmp_path, Lifetimes())


KILLED = """
import os, signal, sys
from pathlib import Path
import watchbill.files, watchbill_collector.init as init
from watchbill.clock import ManualClock
count, last = 0, 0
def killing(name):
    real = getattr(os, name)
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, wrapped)
for name in ("fsync", "rename", "replace"):
    killing(name)
steps = last = 0
while not steps:
    last += 1
    child = os.fork()
    if child == 0:
        failed = 255
        try:
            init.initialise(Path(sys.argv[1]) / str(last), "main", ["127.0.0.1"], ManualClock())
            failed = 0
        finally:
            os._exit(failed or count)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        steps = code
print(last, steps)
"""
"""Inits one after the other, each in a child that is killed one step later, until one comes to its end: importing it
takes longer than doing it. A process of its own, because it forks: the tests' has threads."""


def test_init_killed_before_any_sync_or_rename_is_mended_by_running_it_again(
    tmp_path: Path, clock: ManualClock
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=True, timeout=100, text=True
    )
    whole, steps = map(int, killed.stdout.split())
    assert (whole, steps > 10) == (steps + 1, True), "each was killed but the last"
    for step in range(1, whole):
        state = tmp_path / str(step)
        initialise(state, "main", NAMES, clock)
        with Store.open(state, "main") as store:
            users = Users(store, clock)
            assert users.verify_bearer(_admin_token(state)).name == "admin", step
            assert len(users.users()) == 1


# ---------------------------------------------------------------- tokens


async def test_the_first_administrator_can_use_what_is_in_his_file(state: Path, clock: ManualClock) -> None:
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        principal = users.verify_bearer(_admin_token(state))
        assert (principal.name, principal.grants, principal.via) == ("admin", (Grant(Role.ADMIN),), "token")
        assert principal.has(Role.ADMIN)
        assert not principal.has(Role.VIEWER)


async def test_wrong_tokens_are_all_refused_alike_and_slowed_down(state: Path, clock: ManualClock) -> None:
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        right = _admin_token(state)
        prefix, token_id, _ = right.split(".")
        zeros = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
        wrong = [
            "",
            "x",
            right[:-1],
            right + "A",
            f"{prefix}.{token_id}.{zeros}",
            f"{prefix}.aaaaaaaaaaaa.{zeros}",
        ]
        messages = set()
        for text in [*wrong, "x" * 10**6, right.upper(), "wbs1" + right[4:]]:
            with pytest.raises(Refused) as caught:
                users.verify_bearer(text, "192.0.2.1")
            messages.add(str(caught.value))
        assert len(messages) == 1
        for _ in range(100):
            with pytest.raises((Refused, Busy)) as last:
                users.verify_bearer("x", "192.0.2.1")
        assert isinstance(last.value, Busy)
        assert users.verify_bearer(right, "192.0.2.1").name == "admin", "who is right never waits"


async def test_tokens_end_when_revoked_when_expired_and_with_their_user(
    state: Path, clock: ManualClock
) -> None:
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        bob = await users.add("bob", [Grant(Role.VIEWER, 'team="a"')], actor="admin")
        with pytest.raises(UsageError, match="exists"):
            await users.add("BOB", [], actor="admin")
        for name in ("", " x", "a\nb", "x" * 200):
            with pytest.raises(UsageError):
                await users.add(name, [], actor="admin")
        short = await users.new_token(bob.user_id, actor="admin", life_s=60)
        long = await users.new_token(bob.user_id, actor="admin")
        assert users.verify_bearer(short).grants == (Grant(Role.VIEWER, 'team="a"'),)
        clock.advance(61)
        with pytest.raises(Refused):
            users.verify_bearer(short)
        await users.revoke_token(long.split(".")[1], actor="admin")
        with pytest.raises(Refused):
            users.verify_bearer(long)
        third = await users.new_token(bob.user_id, actor="admin")
        await users.disable(bob.user_id, actor="admin")
        with pytest.raises(Refused):
            users.verify_bearer(third)
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        assert users.find("Bob").disabled
        for text in (short, long, third):
            with pytest.raises(Refused):
                users.verify_bearer(text)


# ---------------------------------------------------------------- logins and sessions


async def test_a_login_code_opens_one_session_within_ten_minutes(state: Path, clock: ManualClock) -> None:
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        admin = users.find("admin")
        code = await users.new_login(admin.user_id, actor="demo")
        opened = await users.log_in(code, "127.0.0.1")
        assert opened.principal.name == "admin"
        with pytest.raises(Refused):
            await users.log_in(code, "127.0.0.1")
        assert users.verify_session(opened.cookie).via == "session"
        assert users.csrf_is_right(opened.cookie, opened.csrf)
        assert not users.csrf_is_right(opened.cookie, "00" * 32)
        assert not users.csrf_is_right(opened.cookie, "not hexadecimal")
        late = await users.new_login(admin.user_id, actor="demo")
        clock.advance(601)
        with pytest.raises(Refused):
            await users.log_in(late, "127.0.0.1")
        await users.log_out(opened.cookie)
        with pytest.raises(Refused):
            users.verify_session(opened.cookie)


async def test_sessions_survive_a_restart_and_end_when_idle_or_after_twelve_hours(
    state: Path, clock: ManualClock
) -> None:
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        admin = users.find("admin")
        one = await users.log_in(await users.new_login(admin.user_id, actor="demo"), "")
        two = await users.begin_session(users.verify_bearer(_admin_token(state)), "")
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        for _ in range(24):
            clock.advance(20 * 60)
            users.verify_session(one.cookie)
            await users.touch(one.cookie)
        with pytest.raises(Refused):
            users.verify_session(two.cookie)
        clock.advance(4 * 3600 + 1)
        with pytest.raises(Refused):
            users.verify_session(one.cookie)


async def test_guessing_codes_is_slowed_down_and_disturbs_nobody(state: Path, clock: ManualClock) -> None:
    with Store.open(state, "main") as store:
        users = Users(store, clock)
        code = await users.new_login(users.find("admin").user_id, actor="demo")
        zeros = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
        guess = f"wbl1.{code.split('.')[1]}.{zeros}"
        busy = 0
        for _ in range(100):
            try:
                await users.log_in(guess, "192.0.2.1")
            except Busy:
                busy += 1
            except Refused:
                pass
        assert busy == 70
        assert (await users.log_in(code, "192.0.2.1")).principal.name == "admin"


def test_a_token_file_with_something_else_in_it_is_not_taken(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "admin.token").write_text("hunter2\n")
    with pytest.raises(Unreadable):
        initialise(tmp_path / "state", "main", NAMES, clock)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        initialise(tmp_path / "file" / "state", "main", NAMES, clock)
