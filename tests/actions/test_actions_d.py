"""What root writes into actions.d and observe.d is used when nobody else could have written it, and told when not."""

import os
from pathlib import Path

import pytest

from watchbill.actions.definition import ArgumentRefused, Effect
from watchbill.actions.enrolled import Enrolled, read_enrolled, read_roster_keys, write_enrolled
from watchbill.actions.files import load_allowed
from watchbill.actions.patterns import pattern_fault
from watchbill.errors import Unreadable

ME = os.getuid()
RESTART = """
[[action]]
name = "svc.restart"
argv = ["/usr/bin/systemctl", "restart", "--", "{{unit}}"]
args.unit = { type = "enum", enum = ["nginx.service", "postgresql.service"] }
effect = "repeat"
timeout = "90s"
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name in ("actions.d", "observe.d"):
        (tmp_path / name).mkdir(mode=0o755)
    return tmp_path


def write(etc: Path, text: str, name: str = "a.toml", mode: int = 0o644) -> Path:
    path = etc / "actions.d" / name
    path.write_text(text)
    path.chmod(mode)
    return path


def action(fields: str, args: str = "", argv: str = '["/bin/true"]') -> str:
    return f'[[action]]\nname = "a"\nargv = {argv}\neffect = "read"\n{fields}\n{args}\n'


def test_an_action_is_what_its_file_says(etc: Path) -> None:
    write(etc, RESTART)
    (etc / "observe.d" / "smart.toml").write_text(
        '[[observe]]\nname = "smart"\nargv = ["/usr/sbin/smartctl", "--json", "--all", "/dev/sda"]\nformat = "json"\n'
    )
    allowed = load_allowed(etc, ME)
    assert allowed.faults == ()
    restart = allowed.actions["svc.restart"]
    assert (restart.effect, restart.timeout_s, restart.run_as) == (Effect.REPEAT, 90, "root")
    bound = restart.bind({"unit": "nginx.service"})
    assert restart.command_line(bound) == ("/usr/bin/systemctl", "restart", "--", "nginx.service")
    assert allowed.observes["smart"].argv[-1] == "/dev/sda"


def test_without_a_file_nothing_is_allowed(tmp_path: Path) -> None:
    assert load_allowed(tmp_path, ME).actions == {}


@pytest.mark.parametrize(
    ("mode", "why"),
    [(0o664, "others may write it"), (0o666, "others may write it"), (0o646, "others may write it")],
)
def test_a_file_that_others_may_write_is_not_used_and_the_rest_goes_on(
    etc: Path, mode: int, why: str
) -> None:
    write(etc, RESTART, "bad.toml", mode)
    write(etc, action(""), "good.toml")
    allowed = load_allowed(etc, ME)
    assert set(allowed.actions) == {"a"}
    assert len(allowed.faults) == 1
    assert f"bad.toml: {why}" in allowed.faults[0]


def test_a_symbolic_link_a_pipe_and_a_directory_are_not_used(etc: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(RESTART)
    (etc / "actions.d" / "link.toml").symlink_to(real)
    os.mkfifo(etc / "actions.d" / "pipe.toml")
    (etc / "actions.d" / "sub.toml").mkdir()
    allowed = load_allowed(etc, ME)
    assert allowed.actions == {}
    assert [fault.partition(": ")[2] for fault in allowed.faults] == [
        "a symbolic link; it is not used",
        "not a regular file; it is not used",
        "not a regular file; it is not used",
    ]


def test_a_directory_that_others_may_write_allows_nothing(etc: Path) -> None:
    write(etc, RESTART)
    (etc / "actions.d").chmod(0o777)
    allowed = load_allowed(etc, ME)
    assert allowed.actions == {}
    assert "nothing in it is used" in allowed.faults[0]


@pytest.mark.skipif(ME != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_used(etc: Path) -> None:
    os.chown(write(etc, RESTART), 12345, 12345)
    allowed = load_allowed(etc, 0)
    assert allowed.actions == {}
    assert "owned by user 12345" in allowed.faults[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (action("", argv='["true"]'), 'a.toml:3: action[0].argv[0]: got "true", wanted the absolute path'),
        (action("", argv='["/bin/../bin/true"]'), "wanted the absolute path"),
        (action("", argv="[]"), "got nothing, wanted the absolute path"),
        (action("", 'args.x = { type = "int" }', '["{{x}}"]'), "wanted the absolute path"),
        (action("", 'args.x = { type = "int" }', '["/bin/true", "--port={{x}}"]'), "as a whole element"),
        (action("", 'args.x = { type = "int" }', '["/bin/true", "{{x}}{{x}}"]'), "as a whole element"),
        (action("", argv='["/bin/true", "{{y}}"]'), "wanted an argument that args describes"),
        (action("", 'args.x = { type = "int" }'), "wanted {{x}} in argv"),
        (action("", 'args.x = { type = "enum" }', '["/bin/true", "{{x}}"]'), "the values that there are"),
        (
            action("", 'args.x = { type = "path" }', '["/bin/true", "{{x}}"]'),
            "directories that the path may lie in",
        ),
        (
            action("", "args.x = { type = 'string', match = '(a+)+' }", '["/bin/true", "{{x}}"]'),
            "repeated group",
        ),
        (
            action("", 'args.x = { type = "int", max = 5, default = 6 }', '["/bin/true", "{{x}}"]'),
            "args.x.default",
        ),
        (action("run_as = 'a b'"), "wanted the name of a user"),
        (action("protected = true"), "wanted needs"),
        (action("needs = { approvals = 0, role = 'dba' }"), "needs.approvals"),
        (action("secrets = { LD_PRELOAD = 'credential:x' }"), "wanted a variable such as PGPASSWORD"),
        (action("secrets = { TOKEN = 'x' }"), "wanted credential:NAME"),
        (action("effcet = 'once'"), "did you mean effect?"),
        (action("probe = 'b'"), "wanted an expression over the probe"),
        (action("probe = 'b'\ndone_when = 'out.ok'"), "wanted a read action that takes its arguments"),
        ("[[action]", "wanted valid TOML"),
        (action("") + action(""), "is in"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_nothing_of_it_is_used(etc: Path, text: str, told: str) -> None:
    write(etc, text)
    allowed = load_allowed(etc, ME)
    assert allowed.actions == {}
    assert any(told in fault and "a.toml" in fault for fault in allowed.faults), allowed.faults


ARGUMENTS = """
args.unit = { type = "name" }
args.port = { type = "int", min = 1024, max = 65535 }
args.size = { type = "size", max = "1GiB" }
args.where = { type = "path", roots = ["/srv/restore"] }
args.host = { type = "host", self = true }
args.word = { type = "string", match = "[a-z]{1,9}" }
args.sort = { type = "enum", enum = ["up", "-down"], dash = true }
"""
GOOD = {
    "unit": "a@b.service",
    "port": 5432,
    "size": 1024,
    "where": "/srv/restore/files",
    "host": "db1",
    "word": "abc",
    "sort": "-down",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unit", "-rf"),
        ("unit", "a\nb"),
        ("unit", "a\0b"),
        ("unit", "аbc"),  # noqa: RUF001 - A Cyrillic letter that looks like one of ours.
        ("unit", "$(id)"),
        ("unit", ""),
        ("unit", "a" * 300),
        ("unit", 5),
        ("unit", None),
        ("unit", ["a"]),
        ("port", "5432"),
        ("port", True),
        ("port", 80),
        ("port", 2**70),
        ("size", -1),
        ("where", "/srv/restore/../../etc"),
        ("where", "/srv/restore"),
        ("where", "/srv/restored/x"),
        ("where", "srv/restore/x"),
        ("where", "/srv/restore//x"),
        ("where", "//srv/restore/x"),
        ("host", "db2"),
        ("word", "abc1"),
        ("word", "abc\n"),
        ("sort", "down"),
        ("more", "x"),
    ],
)
def test_a_value_that_an_action_does_not_take_is_refused(etc: Path, name: str, value: object) -> None:
    write(etc, action("", ARGUMENTS, '["/bin/echo", ' + ", ".join(f'"{{{{{one}}}}}"' for one in GOOD) + "]"))
    allowed = load_allowed(etc, ME)
    assert allowed.faults == ()
    echo = allowed.actions["a"]
    assert echo.bind(GOOD, "db1") == GOOD
    with pytest.raises(ArgumentRefused, match=name):
        echo.bind({**GOOD, name: value}, "db1")


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a|a)*", "(?=a)", r"(a)\1", "a*a*a*a*", "(", "a{1,64}" * 6, "(a|b)" * 30, "(?i)a"]
)
def test_a_pattern_that_could_run_for_ever_is_refused(pattern: str) -> None:
    assert pattern_fault(pattern)


@pytest.mark.parametrize(
    "pattern", [r"[a-z][a-z0-9-]{0,30}", r"\d+\.\d+", r"(web|db)[0-9]{1,3}", r"[^/]+/[^/]+"]
)
def test_an_ordinary_pattern_is_taken(pattern: str) -> None:
    assert pattern_fault(pattern) == ""


def test_root_knows_who_its_host_is(tmp_path: Path) -> None:
    assert read_enrolled(tmp_path, ME) is None
    enrolled = Enrolled(
        site="main", agent_id="id-1", instance="db1", command_key=b"k" * 32, labels={"team": "db"}
    )
    write_enrolled(tmp_path, enrolled)
    assert read_enrolled(tmp_path, ME) == enrolled
    (tmp_path / "enrolled.json").chmod(0o666)
    with pytest.raises(Unreadable, match="others may write it"):
        read_enrolled(tmp_path, ME)


def test_the_keys_of_rosters_are_roots(tmp_path: Path) -> None:
    assert read_roster_keys(tmp_path, ME) == {}
    (tmp_path / "roster.pub").write_text("# ours\ned25519 " + "ab" * 32 + " the safe\n")
    assert list(read_roster_keys(tmp_path, ME).values()) == [bytes.fromhex("ab" * 32)]
    (tmp_path / "roster.pub").write_text("ed25519 " + "ab" * 31 + "\n")
    with pytest.raises(Unreadable, match=r"roster\.pub:1: got"):
        read_roster_keys(tmp_path, ME)
