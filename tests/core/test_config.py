"""Configuration files: what may be said, and what is said back when it is wrong."""

import dataclasses
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from watchbill.config import Address, ByteSize, Duration, Homes, Selector, Table, Wrong, load, option
from watchbill.config.lines import key_lines
from watchbill.config.printer import reference, sample_file
from watchbill.errors import ConfigError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """When a value is too high."""

    above: float = option(help="The value.", at_least=0, at_most=100)
    name: str = option("", help="Its name.", length_max=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """A page."""

    listen: Address | None = option(None, help="Where it is served.")
    anonymous: bool = False

    def check(self) -> Iterable[Wrong]:
        if self.listen is not None and self.anonymous and not self.listen.loopback:
            yield Wrong("anonymous", "true", "false beyond loopback")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A daemon's configuration."""

    interval: Duration = option(Duration(10), help="How often.", at_least=Duration(0.1))
    size: ByteSize = option(ByteSize(64 * 2**20), help="How much.")
    count: int = 1
    ratio: float = 0.5
    flag: bool = False
    where: Path | None = None
    to: Address | None = None
    hosts: Selector | None = None
    colour: Colour = Colour.RED
    profile: Literal["small", "large"] = "small"
    labels: dict[str, str] = option({}, help="Labels.", length_max=3)
    names: list[str] = field(default_factory=list)
    threshold: list[Threshold] = field(default_factory=list)
    http: Listen = option(Listen())
    plugins: dict[str, Table] = option({}, rest=True)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "main.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def problems(main: Path, dropins: Path | None = None, **more) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Spec, main, dropins, **more)
    return [str(problem).replace(f"{main.parent}/", "") for problem in caught.value.problems]


def test_every_kind_of_value_is_read(write):
    spec = load(
        Spec,
        write(
            """
            interval = "1m30s"
            size = "512MiB"
            count = 3
            ratio = 1
            flag = true
            where = "/var/tmp"
            to = "[::1]:7443"
            hosts = 'role="db",site=~"b.*"'
            colour = "blue"
            profile = "large"
            labels = { rack = "b12" }
            names = ["a", "b"]
            [[threshold]]
            above = 90
            [http]
            listen = "127.0.0.1:0"
            anonymous = true
            [restic]
            repository = "/r"
            """
        ),
    )
    assert spec.interval == 90
    assert spec.size == 512 * 2**20
    assert (spec.count, spec.ratio, spec.flag, spec.where) == (3, 1.0, True, Path("/var/tmp"))
    assert spec.to == Address("::1", 7443)
    assert spec.hosts is not None
    assert [(one.name, one.op, one.value) for one in spec.hosts.conditions] == [
        ("role", "=", "db"),
        ("site", "=~", "b.*"),
    ]
    assert (spec.colour, spec.profile, spec.labels) == (Colour.BLUE, "large", {"rack": "b12"})
    assert spec.threshold == [Threshold(above=90.0)]
    assert spec.http == Listen(listen=Address("127.0.0.1", 0), anonymous=True)
    assert spec.plugins["restic"].values == {"repository": "/r"}


def test_an_empty_file_gives_the_defaults(write):
    assert load(Spec, write("")) == Spec()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "interval = 10",
            'main.toml:1: interval: got 10, wanted a duration with its unit, such as "10s", "1h30m"',
        ),
        ('interval = "ten"', 'main.toml:1: interval: got "ten", wanted a duration'),
        ('interval = ""', 'main.toml:1: interval: got "", wanted a duration'),
        ('interval = "1s1m"', 'main.toml:1: interval: got "1s1m", wanted a duration'),
        ('interval = "10ms"', 'main.toml:1: interval: got "10ms", wanted a duration'),
        ('size = "12 parsecs"', 'main.toml:1: size: got "12 parsecs", wanted a size'),
        ("size = 512", "main.toml:1: size: got 512, wanted a size"),
        ("count = 1.0", "main.toml:1: count: got 1.0, wanted a whole number"),
        ("count = true", "main.toml:1: count: got true, wanted a whole number"),
        ('ratio = "0.5"', 'main.toml:1: ratio: got "0.5", wanted a number'),
        ("ratio = nan", "main.toml:1: ratio: got nan, wanted a number"),
        ("ratio = inf", "main.toml:1: ratio: got inf, wanted a number"),
        (f"ratio = 1{'0' * 400}", "main.toml:1: ratio: got a huge number, wanted a number"),
        ("flag = 1", "main.toml:1: flag: got 1, wanted true or false"),
        ('where = "etc"', 'main.toml:1: where: got "etc", wanted an absolute path'),
        ('where = "/a\\u0000b"', 'main.toml:1: where: got "/a\\u0000b", wanted an absolute path'),
        ('to = "host"', 'main.toml:1: to: got "host", wanted an address with its port'),
        ('to = "host:70000"', 'main.toml:1: to: got "host:70000", wanted an address with its port'),
        ("hosts = 'role'", 'main.toml:1: hosts: got "role", wanted PromQL matchers'),
        ('colour = "green"', 'main.toml:1: colour: got "green", wanted one of: "red", "blue"'),
        ("profile = []", 'main.toml:1: profile: got an empty array, wanted one of: "small", "large"'),
        ("labels = { rack = 12 }", "main.toml:1: labels.rack: got 12, wanted text"),
        (
            "labels = {a='',b='',c='',d=''}",
            "main.toml:1: labels: got a table, wanted a table, each value text, at most 3",
        ),
        ('names = ["a", 7]', "main.toml:1: names[1]: got 7, wanted text"),
        ('names = "a"', 'main.toml:1: names: got "a", wanted an array, each element text'),
        (
            "intervall = 1",
            "main.toml:1: intervall: got an unknown key, wanted a known key (did you mean interval?)",
        ),
        ("zebra = 1", "main.toml:1: zebra: got 1, wanted a table [zebra], or one of: colour, count, flag"),
        (
            "[http]\nlisen = 1",
            "main.toml:2: http.lisen: got an unknown key, wanted a known key (did you mean listen?)",
        ),
        (
            "[[threshold]]",
            "main.toml:1: threshold[0].above: got nothing, wanted a number, at least 0, at most 100",
        ),
        (
            "[[threshold]]\nabove = 101",
            "main.toml:2: threshold[0].above: got 101, wanted a number, at least 0",
        ),
        ("threshold = 3", "main.toml:1: threshold: got 3, wanted an array of tables"),
        ("http = 3", "main.toml:1: http: got 3, wanted a table"),
        (
            '[http]\nlisten="0.0.0.0:1"\nanonymous=true',
            "main.toml:3: http.anonymous: got true, wanted false beyond loopback",
        ),
        ("count = ", "main.toml:1: got invalid value at the end of the file, wanted valid TOML"),
        ("\n\ncount = 1\ncount = 2", "main.toml:4: got cannot overwrite a value"),
        ("[a\n", "main.toml:1: got "),
        ('a = "', "main.toml:1: got unterminated string at the end of the file, wanted valid TOML"),
        (f"count = {'9' * 5000}", "main.toml: got "),
        (f"names = {'[' * 100_000}", "main.toml: got too deep nesting, wanted at most 16 levels"),
        (".".join("a" * 50) + " = 1", "main.toml: got too deep nesting, wanted at most 16 levels"),
        ("names = " + "[" * 40 + "]" * 40, "main.toml: got too deep nesting, wanted at most 16 levels"),
        (b"\xff\xfec\x00", "main.toml:1: got UTF-16 text, wanted UTF-8 text"),
        (b"# fine\nname = '\xe9'", "main.toml:2: got the byte 0xe9, which is not UTF-8, wanted UTF-8 text"),
        (b"a = '\x00'", "main.toml:1: got "),
        ('profile = "\\u001b[31m\\n"', 'main.toml:1: profile: got "\\u001b[31m\\u000a", wanted one of'),
    ],
)
def test_a_mistake_is_named_with_its_line(write, text, expected):
    (problem,) = problems(write(text))
    assert problem.startswith(expected)


def test_every_problem_is_reported_at_once_with_its_own_line(write):
    main = write(
        '# comment\ncount = "x"\n\n[http]\nlisten = 5\n\n'
        '[[threshold]]\nabove = 1\n[[threshold]]\nabove = "90"\n'
    )
    assert [line.split(": got")[0] for line in problems(main)] == [
        "main.toml:2: count",
        "main.toml:5: http.listen",
        "main.toml:10: threshold[1].above",
    ]


def test_a_syntax_error_in_one_file_does_not_blame_the_others(write):
    main = write("count = ")
    write("flag = ", "d/10.toml")
    write('ratio = "judged only when all files parse"', "d/20.toml")
    assert [line.split(": got")[0] for line in problems(main, main.parent / "d")] == [
        "main.toml:1",
        "d/10.toml:1",
    ]


def test_drop_ins_win_in_lexical_order_and_tables_merge(write):
    main = write(
        'count = 1\nlabels = { a = "main", b = "main" }\nnames = ["main"]\n[[threshold]]\nabove = 1\n'
    )
    write('count = 20\nlabels.a = "20"\n[[threshold]]\nabove = 20\n', "d/20-b.toml")
    write(
        'count = 10\nlabels = { a = "10", c = "10" }\nnames = ["10"]\n[[threshold]]\nabove = 10\n',
        "d/10-a.toml",
    )
    write("count = 99", "d/99.toml.bak")
    write("count = 99", "d/.hidden.toml")
    spec = load(Spec, main, main.parent / "d")
    assert spec.count == 20
    assert spec.labels == {"a": "20", "b": "main", "c": "10"}
    assert spec.names == ["10"]
    assert [one.above for one in spec.threshold] == [1, 10, 20]


def test_a_problem_in_a_drop_in_names_the_drop_in(write):
    main = write("[[threshold]]\nabove = 1\n[http]\n")
    write("\n[[threshold]]\nabove = 1000\n[http]\nanonymos = true\n", "d/20.toml")
    assert [line.split(": got")[0] for line in problems(main, main.parent / "d")] == [
        "d/20.toml:3: threshold[0].above",
        "d/20.toml:5: http.anonymos",
    ]


def test_a_drop_in_may_replace_a_value_by_a_table_and_back(write):
    main = write("count = { a = 1 }\nlabels = 3\n")
    write('count = 4\nlabels = { a = "b" }\n', "d/1.toml")
    spec = load(Spec, main, main.parent / "d")
    assert (spec.count, spec.labels) == (4, {"a": "b"})


def test_windows_line_ends_and_a_byte_order_mark_are_read(write):
    assert load(Spec, write(b"\xef\xbb\xbfcount = 7\r\nflag = true\r\n")).count == 7
    assert problems(write(b"\xef\xbb\xbfcount = 7\r\nflag = 3\r\n")) == [
        "main.toml:2: flag: got 3, wanted true or false"
    ]


def test_what_is_no_file_is_named_as_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    assert problems(tmp_path / "fifo") == ["fifo: got a FIFO, wanted a regular file"]
    assert problems(tmp_path / "directory") == ["directory: got a directory, wanted a regular file"]
    assert problems(tmp_path / "nothing") == ["nothing: got no such file, wanted a configuration file"]
    assert problems(Path("/dev/zero")) == ["zero: got a character device, wanted a regular file"]


def test_a_file_of_a_gibibyte_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert problems(path) == ["huge.toml: got more than 1048576 bytes, wanted at most 1048576 bytes"]


def test_a_loop_of_links_and_a_file_as_directory_say_so(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert problems(tmp_path / "loop") == [
        "loop: got too many levels of symbolic links, wanted a readable file"
    ]
    (tmp_path / "file").write_text("")
    assert problems(tmp_path / "file" / "x")[0].endswith("x: got no such file, wanted a configuration file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_says_so(write):
    path = write("")
    path.chmod(0)
    assert problems(path) == ["main.toml: got permission denied, wanted a readable file"]


def test_a_missing_main_file_may_be_allowed(tmp_path):
    assert load(Spec, tmp_path / "none.toml", tmp_path / "none.d", main_required=False) == Spec()


def test_the_environment_overrides_single_keys(write):
    main = write("count = 1\n[http]\nanonymous = true\n")
    env = {
        "X_COUNT": "5",
        "X_PROFILE": "large",
        "X_HTTP__LISTEN": "127.0.0.1:80",
        "X_NAMES": '["a"]',
        "OTHER": "1",
    }
    spec = load(Spec, main, env=env, env_prefix="X_")
    assert (spec.count, spec.profile, spec.names) == (5, "large", ["a"])
    assert spec.http == Listen(listen=Address("127.0.0.1", 80), anonymous=True)
    assert problems(main, env={"X_COUNT": "many"}, env_prefix="X_") == [
        'environment X_COUNT: count: got "many", wanted a whole number'
    ]


def test_a_plug_in_reads_its_own_table_with_its_own_lines(write):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Restic:
        repository: Path
        keep: int = 3

    spec = load(Spec, write('[restic]\nkind = "restic"\nrepository = "/r"\nkep = 1\n'))
    with pytest.raises(
        ConfigError, match=r"main.toml:4: restic.kep: got an unknown key, .*did you mean keep"
    ):
        spec.plugins["restic"].read(Restic, skip=["kind"])
    with pytest.raises(
        ConfigError, match=r"main.toml:1: restic.repository: got nothing, wanted an absolute path"
    ):
        load(Spec, write("[restic]\n")).plugins["restic"].read(Restic)


def test_problems_are_bounded(write):
    lines = problems(write("[http]\n" + "".join(f"key{n} = 1\n" for n in range(5_000))))
    assert len(lines) == 201
    assert "4800 more problems" in lines[-1]


def test_the_line_of_everything_is_known():
    text = '''
# comment = 1
a = """
multi [not.a.header]
"""
"quoted.key" = { x = 1, y = [
  1,
  { z = 'lit # eral' }, # comment ]
] }
[table]
b.c.d = 1979-05-27T07:32:00Z
[[array]]
one = 1
[array.sub]
two = \'\'\'
\'\'\'\'\'
[[array.deep]]
[[array.deep]]
three = "a\\"b]"
[[array]]
one = 2
'''
    lines = key_lines(text)
    tomllib.loads(text)
    assert lines["a",] == 3
    assert lines["quoted.key", "y", 0] == 7
    assert lines["quoted.key", "y", 1, "z"] == 8
    assert lines["table",] == 10
    assert lines["table", "b", "c", "d"] == 11
    assert lines["array", 0, "one"] == 13
    assert lines["array", 0, "sub", "two"] == 15
    assert lines["array", 0, "deep", 1, "three"] == 19
    assert lines["array", 1, "one"] == 21


@pytest.mark.parametrize("text", ["10s", "1h30m", "15d", "500ms", "2y", "1m", "0s", "90d"])
def test_durations_read_back_as_they_are_written(text):
    assert Duration.from_config(text).to_config() == text


@pytest.mark.parametrize("text", ["512MiB", "10GB", "1B", "0B", "3KiB"])
def test_sizes_read_back_as_they_are_written(text):
    assert ByteSize.from_config(text).to_config() == text


def test_the_sample_file_is_all_comments_and_reads_back_as_the_defaults(write):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """What restic is told."""

        keep: int = option(3, help="Snapshots kept.")

    text = sample_file(Spec, {"": {"restic": Options}})
    assert all(line.startswith("# ") or not line for line in text.splitlines())
    assert "# [restic]" in text
    uncommented = [line[2:] for line in text.splitlines() if " = " in line or line.startswith("# [")]
    keys = [
        line
        for line in uncommented
        if "..." not in line and not line.endswith("= ") and "threshold" not in line
    ]
    keys = [line for line in keys if line.split(" = ")[0] not in ("where", "to", "hosts", "listen", "above")]
    values = tomllib.loads("\n".join(keys))
    assert values["interval"] == "10s"
    assert values["size"] == "64MiB"
    assert values["restic"] == {"keep": 3}


def test_the_reference_names_every_key():
    text = reference(Spec)
    for spec in (Spec, Threshold, Listen):
        for one in dataclasses.fields(spec):
            assert f"`{one.name}`" in text or one.name in ("threshold", "http", "plugins")


def test_homes_are_the_systems_or_all_under_one_directory(tmp_path):
    system = Homes.resolve("agent", env={})
    assert [str(path) for path in (system.etc, system.var, system.run)] == [
        "/etc/watchbill",
        "/var/lib/watchbill/agent",
        "/run/watchbill/agent",
    ]
    home = Homes.resolve("agent", tmp_path, env={"WATCHBILL_HOME": "/elsewhere"})
    assert home == Homes(tmp_path / "etc", tmp_path / "var/agent", tmp_path / "run/agent")
    assert Homes.resolve("agent", env={"WATCHBILL_HOME": str(tmp_path)}) == home


def test_a_file_full_of_unknown_keys_is_judged_quickly_enough(write):
    """A mebibyte of keys once took minutes: every key searched all the others."""
    text = "".join(f"key{n} = 1\n" for n in range(60_000))
    assert len(problems(write(text), env={"X_COUNT": "3"}, env_prefix="X_")) == 201
