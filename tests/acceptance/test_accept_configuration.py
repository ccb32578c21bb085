"""Mistakes in files: each is named with its file, line and key, what was found and what is wanted; exit 2."""

import signal
import socket

import pytest

pytestmark = pytest.mark.timeout(120)

USAGE = 2

# What is wrong, as text of the main file, and what has to be said: line, key, then pieces of the sentence.
AGENT = [
    ("colour = 5\n", 1, "colour", ["unknown key"]),
    ('\nintervall = "1s"\n', 2, "intervall", ["did you mean interval"]),
    ('interval = "soon"\n', 1, "interval", ['"soon"', '"10s"']),
    ('interval = "0s"\n', 1, "interval", ["at least"]),
    ("interval = 10\n", 1, "interval", ["10", '"10s"']),
    ('interval = "10 parsecs"\n', 1, "interval", ["parsecs"]),
    ('collector = "nowhere"\n', 1, "collector", ["nowhere", "address with its port"]),
    ('collector = "a:99999"\n', 1, "collector", ["99999"]),
    ("collector = 7443\n", 1, "collector", ["7443"]),
    ('labels = { "1a" = "x" }\n', 1, "labels.1a", ["label name"]),
    ('labels = { instance = "x" }\n', 1, "labels.instance", ["set instance itself"]),
    ('labels = { rack = "" }\n', 1, "labels.rack", ["1024 bytes"]),
    ('labels = ["rack"]\n', 1, "labels", ["table"]),
    ('instance = "a b"\n', 1, "instance", ["host name"]),
    ('[spool]\nbytes = "1KiB"\n', 2, "spool.bytes", ["at least"]),
    ('[spool]\nbytes = "many"\n', 2, "spool.bytes", ["many"]),
    ('[samplers]\nenable = ["cpus"]\n', 2, "samplers.enable", ["did you mean cpu"]),
    ("[samplers.filesystem]\ncolour = 1\n", 2, "samplers.filesystem.colour", ["unknown key"]),
    (
        '[samplers.filesystem]\nmount_points_exclude = "("\n',
        2,
        "samplers.filesystem.mount_points_exclude",
        ['"("', "no regular expression"],
    ),
    ('mqtt = "mqtts://u:p@b:8883"\n', 1, "mqtt.url", ["no user or password"]),
    ('proxy = "socks5://x"\n', 1, "proxy", ["http://HOST:PORT"]),
    ("ticks_per_message = 0\n", 1, "ticks_per_message", ["at least"]),
    ("ticks_per_message = true\n", 1, "ticks_per_message", ["true"]),
]

COLLECTOR = [
    ('site = "Main Site"\n', 1, "site", ["lower-case"]),
    ('[retention]\nraw = "1h"\n', 2, "retention.raw", ["at least"]),
    ('[retention]\nraw = "15"\n', 2, "retention.raw", ["15"]),
    ('[retention]\nsize = "-1GiB"\n', 2, "retention.size", ["-1GiB"]),
    ('[http]\nlisten = "0.0.0.0:7480"\n', 2, "http.listen", ["loopback"]),
    (
        '[http]\nlisten = "0.0.0.0:1"\nbehind_proxy = true\nanonymous_read = true\n',
        4,
        "http.anonymous_read",
        [],
    ),
    ('[http]\ncertificate = "/x"\n', 1, "http.key", ["both certificate and key"]),
    ('[store]\nurl = "mysql://h/d"\n', 2, "store.url", ["postgresql://"]),
    ('[store]\nurl = "postgresql://u:secret@h/d"\n', 2, "store.url", ["password_file"]),
    ('[certificates]\nlifetime = "5s"\n', 2, "certificates.lifetime", ["at least"]),
    ('[grpc]\nenroll_listen = "127.0.0.1:0"\n', 2, "grpc.enroll_listen", ["fixed port"]),
    (
        '[grpc]\nlisten = "127.0.0.1:9"\nenroll_listen = "127.0.0.1:9"\n',
        3,
        "grpc.enroll_listen",
        ["another port", "grpc.listen has it"],
    ),
    ('[http]\nlisten = "127.0.0.1:7443"\n', 2, "http.listen", ["another port", "grpc.listen has it"]),
    ('[rules]\ninterval = "0s"\n', 2, "rules.interval", ["at least"]),
    ('[[channel]]\nname = "ops"\nkind = "emial"\n', 3, "channel[0].kind", ["did you mean email?"]),
    ("[http\n", 1, "", ["TOML"]),
    ('site = "a"\nsite = "b"\n', 2, "", []),
    ("site = \xff\n", 1, "", []),
]

RULES = [
    ("expr: rote(x[5m]) > 1", ["rote"]),
    ("expr: rate(x) > 1", ["rate"]),
    ("expr: 'sum by (x) (y'", ["sum by (x) (y"]),
    ("expr: x > 1\n        for: soon", ["soon"]),
    ("expr: x > 1\n        colour: red", ["colour"]),
    ("expr: x > 1\n        labels: {__name__: y}", ["__name__"]),
    ("expr: x > 1\n        annotations: {summary: '{{ nope }}'}", ["nope"]),
    ("expr: ''", []),
]


def lines(done):
    assert done.code == USAGE, done
    assert done.out == ""
    assert "Traceback" not in done.err
    return done.err.splitlines()


@pytest.fixture(scope="module")
def agent(shared_house):
    return shared_house.home("a")


@pytest.fixture(scope="module")
def collector(shared_house):
    made = shared_house.collector(launch=False)
    (made.etc / "collector.toml").unlink()
    return made


@pytest.fixture
def write(request):
    """Write files; they are gone after the test."""
    written = []

    def file(path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
        written.append(path)
        return path

    yield file
    for path in written:
        path.unlink(missing_ok=True)


def one_line(done, file, line, key, pieces):
    found = [text for text in lines(done) if str(file) in text]
    assert len(found) == 1, done.err
    (text,) = found
    assert f"{file}:{line}:" in text, text
    assert not key or f" {key}" in text, text
    assert " got " in text
    assert ", wanted " in text
    assert all(piece in text for piece in pieces), text
    assert "secret@" not in text


@pytest.mark.parametrize(("text", "line", "key", "pieces"), AGENT, ids=lambda value: str(value)[:30])
def test_the_agent_names_a_mistake(agent, write, text, line, key, pieces):
    file = write(agent.etc / "agent.toml", text)
    one_line(agent.command("check-config"), file, line, key, pieces)


@pytest.mark.parametrize(("text", "line", "key", "pieces"), COLLECTOR, ids=lambda value: str(value)[:30])
def test_the_collector_names_a_mistake(collector, write, text, line, key, pieces):
    file = write(collector.etc / "collector.toml", text)
    one_line(collector.command("check-config"), file, line, key, pieces)


@pytest.mark.parametrize(("rule", "pieces"), RULES, ids=lambda value: str(value)[:30])
def test_a_rule_that_cannot_be_is_named_with_its_expression(collector, write, rule, pieces):
    head = "groups:\n  - name: g\n    rules:\n      - {alert: A, expr: up == 0}\n      - alert: Wrong\n"
    text = f"{head}        {rule}\n"
    file = write(collector.etc / "rules.d" / "wrong.yml", text)
    found = [one for one in lines(collector.command("check-config")) if str(file) in one]
    assert len(found) == 1, found
    (one,) = found
    where = one.removeprefix("watchbill-collector: ").removeprefix(f"{file}:")
    assert 5 <= int(where.partition(":")[0]) <= 7, one
    assert "Wrong" in one or "rules[1]" in one, "which rule it is"
    assert all(piece in one for piece in pieces), one
    offline = collector.house.run(["watchbill-collector", "rules", "check", str(file)])
    assert [line for line in lines(offline) if str(file) in line] == found


@pytest.mark.parametrize(
    "text",
    [
        "groups: 5\n",
        "groups:\n- name: [\n",
        "- a\n",
        "a: &a [*a]\n",
        "groups: []\nmore: 1\n",
        "\0",
        "x" * 100_000,
    ],
)
def test_a_file_that_is_no_rule_file_is_named(collector, write, text):
    file = write(collector.etc / "rules.d" / "wrong.yml", text)
    assert any(f"{file}" in line for line in lines(collector.command("check-config")))


def test_several_mistakes_in_several_files_are_said_at_once(agent, collector, write):
    main = write(agent.etc / "agent.toml", 'interval = "soon"\ncolour = 1\n[spool]\nbytes = "x"\n')
    dropin = write(agent.etc / "agent.d" / "10-more.toml", "\n\nticks_per_message = -1\n")
    said = lines(agent.command("check-config"))
    wanted = [f"{main}:1:", f"{main}:2:", f"{main}:4:", f"{dropin}:3:"]
    assert [sum(where in line for line in said) for where in wanted] == [1, 1, 1, 1], said
    main = write(collector.etc / "collector.toml", 'site = "A"\n[retention]\nraw = "x"\nminute = "y"\n')
    said = lines(collector.command("check-config"))
    assert [sum(f"{main}:{line}:" in one for one in said) for line in (1, 3, 4)] == [1, 1, 1], said


def test_mistakes_in_files_of_every_kind_are_said_at_once(collector, write):
    rules = write(collector.etc / "rules.d" / "wrong.yml", "groups:\n- colour: red\n")
    services = write(
        collector.etc / "services.d" / "wrong.toml", '[[service]]\nnme = "shop"\nchannel = "x"\n'
    )
    others = [f"{rules}:2:", f"{services}:2:"]
    for text, own in (
        ("colour = 5\n", ":1:"),
        ('[[channel]]\nname = "a"\nkind = "exec"\nargv = ["/none"]\n', ":1:"),
        ('[http]\ncertificate = "/none"\nkey = "/none"\n', ": http.key: got /none: no such file"),
        ('[mqtt]\nbroker = "mqtts://b:8883"\nca = "/none"\n', ": mqtt.ca: got /none: no such file"),
    ):
        main = write(collector.etc / "collector.toml", text)
        done = collector.command("check-config")
        said = lines(done)
        assert all(any(where in line for line in said) for where in [f"{main}{own}", *others]), said
        found = collector.command("check-config", "--json")
        assert found.code == USAGE
        assert {problem["file"] for problem in found.json["problems"]} == {
            str(main),
            str(rules),
            str(services),
        }


def test_a_daemon_does_not_start_on_a_mistake_and_says_the_same(agent, collector, write):
    file = write(agent.etc / "agent.toml", "colour = 5\n")
    assert any(f"{file}:1:" in line for line in lines(agent.command("run")))
    file = write(collector.etc / "collector.toml", "colour = 5\n")
    assert any(f"{file}:1:" in line for line in lines(collector.command("run")))
    assert any(f"{file}:1:" in line for line in lines(collector.command("init")))


def test_a_collector_without_keys_says_what_to_type_and_is_not_started_again_and_again(house):
    done = house.run(["watchbill-collector", "run", "--home", str(house.root / "none")])
    assert done.code == USAGE
    assert "run watchbill-collector init first" in done.err
    made = house.run(["watchbill-collector", "init", "--home", str(house.root / "none")])
    assert made.code == 0
    assert f"watchbill-collector run --home {house.root / 'none'}" in made.out


def test_a_port_that_somebody_has_is_named_with_the_key_and_what_to_type(collector, write, free_ports):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for table, key in (("grpc", "listen"), ("grpc", "enroll_listen"), ("http", "listen")):
            doors = dict.fromkeys(("grpc.listen", "http.listen"), '"127.0.0.1:0"')
            doors |= {
                "grpc.enroll_listen": f'"127.0.0.1:{free_ports(1)[0]}"',
                f"{table}.{key}": f'"{address}"',
            }
            write(
                collector.etc / "collector.toml",
                "".join(f"{name} = {door}\n" for name, door in doors.items()),
            )
            done = collector.command("run")
            assert done.code == 1, done  # So that the unit tries again.
            said = f"{address} cannot be used: address already in use; `ss -ltnp` says who has it; [{table}] {key} is"
            assert said in done.err, done.err


def test_a_rule_file_that_is_not_there_is_named_once(house):
    done = house.run(["watchbill-collector", "rules", "check", "none.yml"])
    assert (done.code, done.out) == (USAGE, "")
    assert done.err.strip() == "watchbill-collector: none.yml: got no such file, wanted a readable rule file"


def test_what_the_daemons_print_as_samples_they_accept(agent, collector, write):
    for daemon, name in ((agent, "agent.toml"), (collector, "collector.toml")):
        sample = daemon.command("check-config", "--print-sample")
        assert sample.code == 0
        write(daemon.etc / name, sample.out)
        done = daemon.command("check-config")
        assert (done.code, done.out.strip()) == (0, "ok"), done
        reference = daemon.command("check-config", "--print-reference")
        assert reference.code == 0
        assert "interval" in reference.out


def test_sighup_with_a_mistake_leaves_an_agent_as_it_was_and_doctor_says_so(house, until):
    collector = house.collector('[rules]\ninterval = "7s"\n')

    def intervals():
        groups = collector.ask("GET", "/api/v1/rules").json["data"]["groups"]
        return {group["name"]: group["interval"] for group in groups}

    until(lambda: intervals().get("filesystem") == 7, "a group without an interval has the configured one")
    agent = house.agent(collector, "web1")
    file = agent.etc / "agent.toml"
    file.write_text('interval = "soon"\n')
    agent.running.signal(signal.SIGHUP)
    until(lambda: "reload refused" in agent.said, "it is refused")
    assert f"{file}:1: interval: got" in agent.said
    assert agent.status()["sampling"]["interval_s"] == 1.0
    assert "the last reload was refused" in agent.command("doctor").out
    file.write_text('interval = "2s"\nlabels = { rack = "b12" }\n')
    agent.running.signal(signal.SIGHUP)
    until(lambda: collector.query('up{rack="b12"} == 1'), "the new labels are there")
    until(lambda: collector.host("web1")["interval_s"] == 2.0, "and the new interval")
    until(lambda: collector.query('node_load1{instance="web1",rack=""}') == [], "the old series have ended")
