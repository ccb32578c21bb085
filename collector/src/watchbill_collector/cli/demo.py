"""`watchbill demo`: a collector and a real agent of this machine, to look at.

It starts the programs that everybody else runs, `watchbill-collector` and `watchbill-agent`, with a home of
their own, and does what an operator does, in this order:

1. `watchbill-collector init`, then `run`, on loopback.
2. a token for this host through the API, and `watchbill-agent enroll` with it on standard input.
3. `watchbill-agent run`, a reading a second.
4. a backup of the demo's own configuration, now and every five minutes.
5. a check of the collector's page, every five seconds.
6. `watchbill-runner`, and a runbook that looks and changes nothing, accepted.
7. when the host is up and has sent something: one address with a one-time login.

Ctrl-C, `--for`, or a failure end the agent, then the collector, and remove the home unless it was named. If
the demo itself is killed, its children get a signal from the kernel and a janitor removes the rest.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from watchbill_collector.cli import demo_backup, demo_check, demo_runbook, janitor, said
from watchbill_collector.cli.children import Child, Children, find_program, typed
from watchbill_collector.cli.client import Client, segment
from watchbill_collector.cli.collectors import (
    Collector,
    demo_file,
    read_private,
    read_token,
    write_private,
)
from watchbill_collector.cli.errors import CommandFailed, Misused, Refused, Unreachable
from watchbill_collector.cli.screen import Screen, clean

HTTP_PORT = 7480
INTERVAL_S = 1
START_S = 60.0
"""How long the collector, and then the first readings, may take on a slow machine."""
STOP_S = 15.0
POLL_S = 0.1
WATCH_S = 0.5
ASK_TIMEOUT_S = 10.0
HOST_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks the demo to end."""

MARK = "# Written by `watchbill demo`"

COLLECTOR_TOML = """\
# Written by `watchbill demo`: everything on loopback.
address = "127.0.0.1"

[grpc]
listen = "127.0.0.1:{grpc}"
enroll_listen = "127.0.0.1:{enroll}"

[http]
listen = "127.0.0.1:{http}"
anonymous_read = true
"""

AGENT_TOML = """\
# Written by `watchbill demo`.
interval = "{interval}s"
"""

RULES_YML = """\
# Written by `watchbill demo`: a threshold quick enough to watch. The stock one for the same waits 15 minutes.
groups:
  - name: demo
    interval: 5s
    rules:
      - alert: DemoCpuBusy
        expr: 100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[20s]))) > 80
        for: 15s
        labels:
          severity: minor
        annotations:
          summary: "{{ $labels.instance }}: CPU at {{ $value | printf \\"%.0f\\" }} % for 15 s"
"""
LOAD = "for i in $(seq $(nproc)); do timeout 60 sh -c 'while :; do :; done' & done"


class _Stop(BaseException):
    """Somebody asked us to end."""


@dataclass(frozen=True, slots=True)
class Demo:
    """Where a demo lives and which programs it runs."""

    home: Path
    collector_program: str
    agent_program: str
    runner_program: str
    http_port: int
    host: str

    @property
    def url(self) -> str:
        """The collector's address."""
        return f"http://127.0.0.1:{self.http_port}"


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65_535), help=f"HTTP port; {HTTP_PORT}, or a free one, without it."
)
@click.option("--for", "for_s", type=click.FloatRange(min=0), metavar="SECONDS", help="End after so long.")
@click.option(
    "--home", type=click.Path(path_type=Path), help="Keep everything in DIR; a temporary one without it."
)
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document when it is up.")
def demo(port: int | None, for_s: float | None, home: Path | None, no_browser: bool, as_json: bool) -> int:
    """Start a collector and an agent of this machine, to try Watchbill out.

    Ctrl-C ends both and leaves nothing behind. With --for it ends by itself: 0 if the host was up.
    """
    begun_s = time.monotonic()
    as_json = as_json or said.as_json()  # `watchbill --json demo`.
    screen = Screen.here()
    programs = _programs()
    http_port = _http_port(port)
    temporary = home is None
    place: Path | None = None
    children: Children | None = None
    stopped = False
    try:
        for number in STOPPING:
            signal.signal(number, _stop)
        place = Path(tempfile.mkdtemp(prefix="watchbill-demo-")) if home is None else _made(home)
        children = Children(place if temporary else None, demo_file())
        made = Demo(place, *programs, http_port, _host_name())
        token = _start(made, children)
        _show(made, token, screen, temporary, no_browser, as_json)
        until_s = None if for_s is None else begun_s + for_s
        _watch(made, token, children, until_s)
    except _Stop:
        stopped = True
    finally:
        _clean_up(children, place if temporary else None)
    if stopped and not as_json:
        click.echo("Ended." if not temporary else "Ended; nothing is left behind.", err=True)
    return 0


def _stop(_: int, __: FrameType | None) -> None:
    _deaf()  # Whoever holds Ctrl-C down must not interrupt the cleaning up.
    raise _Stop


def _deaf() -> None:
    # Blocked first: Python complains of a signal that comes while it is being told to ignore it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _clean_up(children: Children | None, home: Path | None) -> None:
    """End the processes and remove what is ours. No Ctrl-C interrupts this."""
    with contextlib.suppress(_Stop):  # One that came just before.
        _deaf()
    if children is not None:
        children.stop(STOP_S)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)
    janitor.forget(demo_file(), os.getpid())
    if children is not None:
        children.done()


# ---------------------------------------------------------------- before anything is started


def _programs() -> tuple[str, str, str]:
    collector, agent = find_program("watchbill-collector"), find_program("watchbill-agent")
    runner = find_program("watchbill-runner")
    if collector is None:
        raise Misused("watchbill-collector is not installed here", "pip install 'watchbill-collector[demo]'")
    if agent is None or runner is None:
        raise Misused(
            "the demo needs the agent, which is not installed here", "pip install 'watchbill-collector[demo]'"
        )
    return collector, agent, runner


def _http_port(wanted: int | None) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise Misused(
                f"port {wanted} is taken", "watchbill demo --port N with another, or without --port"
            )
        return wanted
    if _is_free(HTTP_PORT):
        return HTTP_PORT
    port = _free_port()
    click.echo(f"Port {HTTP_PORT} is taken; using {port}.", err=True)
    return port


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _made(home: Path) -> Path:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise Misused(f"{home}: {(exc.strerror or str(exc)).lower()}", "watchbill demo --home DIR") from exc
    return home.resolve()


def _host_name() -> str:
    """This machine's name, as far as it can be a host's name."""
    name = "".join(letter if letter in HOST_NAME_CHARACTERS else "-" for letter in socket.gethostname())
    return name.strip("-.")[:64] or "this-host"


# ---------------------------------------------------------------- starting


def _start(demo: Demo, children: Children) -> str:
    """Collector, enrolment, agent, until the host is up; the administrator's token."""
    etc = demo.home / "etc"
    etc.mkdir(mode=0o700, exist_ok=True)
    ports = {"http": demo.http_port, "grpc": _free_port(), "enroll": _free_port()}
    _write(etc / "collector.toml", COLLECTOR_TOML.format_map(ports))
    (etc / "rules.d").mkdir(mode=0o700, exist_ok=True)
    _write(etc / "rules.d" / "demo.yml", RULES_YML)
    agent_toml = AGENT_TOML.format(interval=INTERVAL_S)
    if _identity(demo).exists():
        # Of a home that was used before: at enrolment the host learnt a port that is another's by now.
        agent_toml += f'collector = "127.0.0.1:{ports["grpc"]}"\n'
    _write(etc / "agent.toml", agent_toml)
    (etc / "backups.d").mkdir(mode=0o700, exist_ok=True)
    _write(etc / "backups.d" / "demo.toml", demo_backup.configuration(demo.home))
    (demo.home / demo_backup.DIRECTORY).mkdir(mode=0o700, exist_ok=True)
    for directory in ("actions.d", "checks.d", "runbooks.d"):
        (etc / directory).mkdir(mode=0o700, exist_ok=True)
    _write(etc / "actions.d" / "demo.toml", demo_runbook.ACTIONS_TOML)
    _write(etc / "checks.d" / "demo.toml", demo_check.configuration(demo.http_port))
    _write(etc / "runbooks.d" / "demo.yaml", demo_runbook.RUNBOOK_YAML.format(host=demo.host))
    home = ("--home", str(demo.home))
    log = demo.home / "collector.log"
    children.run_once("watchbill-collector init", [demo.collector_program, "init", *home], log)
    children.start("watchbill-collector run", [demo.collector_program, "run", *home], log)
    token = read_token(demo.home / "var" / "collector" / "admin.token")
    client = _client(demo, token)
    _until(lambda: _answers(client), children, f"the collector did not answer; its log is {log}")
    agent_log = demo.home / "agent.log"
    if not _enrolled(demo, client):
        _enrol(demo, client, children, agent_log)
    children.start("watchbill-runner", [demo.runner_program, *home], demo.home / "runner.log")
    children.start("watchbill-agent run", [demo.agent_program, "run", *home], agent_log)
    _until(lambda: _is_up(demo, client), children, "the host did not come up; see `watchbill hosts`")
    _back_up(demo, children)
    demo_runbook.may_run(client)
    return token


def _back_up(demo: Demo, children: Children) -> None:
    """A run of the demo's backup. One that fails is what a failed backup looks like, and ends no demo."""
    argv = demo_backup.argv(demo.agent_program, demo.home, time.time())
    try:
        children.run_once(
            f"backup {demo_backup.JOB}", argv, demo.home / "backup.log", timeout_s=demo_backup.TIMEOUT_S
        )
    except CommandFailed as exc:
        click.echo(str(exc), err=True)


def _write(path: Path, content: str) -> None:
    """Write a configuration of ours; never over somebody else's."""
    try:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(MARK):
            raise Misused(
                f"{path} was not written by a demo", "watchbill demo --home with an empty directory"
            )
        path.write_text(content, "utf-8")
    except OSError as exc:
        raise Misused(f"{path}: {(exc.strerror or str(exc)).lower()}", "watchbill demo --home DIR") from exc


def _client(demo: Demo, token: str) -> Client:
    return Client(Collector(demo.url, token, "demo"), ASK_TIMEOUT_S)


def _until(condition: Callable[[], bool], children: Children, what: str) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        children.check()
        if time.monotonic() > deadline_s:
            raise CommandFailed(f"after {START_S:.0f} s: {what}\n{children.last_words()}")
        time.sleep(POLL_S)


def _answers(client: Client) -> bool:
    """Whether our collector answers: one that does not know our token is somebody else's."""
    try:
        client.get("/me")
    except (Unreachable, Refused):
        return False
    return True


def _identity(demo: Demo) -> Path:
    return demo.home / "var" / "agent" / "identity.json"


def _hosts(client: Client) -> list[dict[str, Any]]:
    hosts: list[dict[str, Any]] = client.get("/hosts")["hosts"]
    return hosts


def _enrolled(demo: Demo, client: Client) -> bool:
    """Whether a home that was used before knows this host already."""
    if not _identity(demo).exists():
        return False
    return any(
        host["name"] == demo.host and host["state"] in ("up", "down", "unknown", "stopped", "never")
        for host in _hosts(client)
    )


def _enrol(demo: Demo, client: Client, children: Children, log: Path) -> None:
    replace = any(host["name"] == demo.host for host in _hosts(client))
    made = client.post("/enrolments", {"names": [demo.host], "replace": replace})
    argv = [demo.agent_program, "enroll", "--token-file", "-", "--home", str(demo.home)]
    children.run_once("watchbill-agent enroll", argv, log, given=made["issued"][0]["token"] + "\n")


def _is_up(demo: Demo, client: Client) -> bool:
    """Up by the collector's word, and something of it answers a query."""
    try:
        host = client.get(f"/hosts/{segment(demo.host)}")["host"]
        if host["state"] != "up" or not host["series"]:
            return False
        data = client.prometheus("/query", {"query": "up"})["data"]
    except Unreachable:
        return False
    return any(
        row["metric"].get("instance") == demo.host and row["value"][1] == "1" for row in data["result"]
    )


# ---------------------------------------------------------------- running


def _show(demo: Demo, token: str, screen: Screen, temporary: bool, no_browser: bool, as_json: bool) -> None:
    client = _client(demo, token)
    host = client.get(f"/hosts/{segment(demo.host)}")["host"]
    known = _remember(demo, token)
    backup = demo_backup.awaited(client, demo.host)
    runbook = demo_runbook.NAME if demo_runbook.accepted(client) else ""
    there = f"{demo.url}/login?code={client.post('/logins')['code']}"
    if as_json:
        screen.json(
            {"url": demo.url, "login": there, "host": demo.host, "state": host["state"]}
            | {"series": host["series"], "home": str(demo.home)}
            | {"backup": demo_backup.JOB, "word": backup["word"] if backup else "", "runbook": runbook}
        )
    else:
        _print(demo, screen, there, host, backup, runbook, known, temporary)
    sys.stdout.flush()
    if not no_browser and _has_display():
        import webbrowser

        webbrowser.open(f"{demo.url}/login?code={client.post('/logins')['code']}")


def _print(
    demo: Demo,
    screen: Screen,
    there: str,
    host: dict[str, Any],
    backup: dict[str, Any] | None,
    runbook: str,
    known: bool,
    temporary: bool,
) -> None:
    at = "" if known else f" --url {demo.url}"
    here, collector = typed("watchbill"), typed("watchbill-collector")
    screen.line(f"{screen.painted('Watchbill', 'bold')} runs: {there}")
    screen.line(f"(a one-time login, good for ten minutes; `{here} login --browser` makes another)")
    screen.line()
    screen.line(
        f"  {clean(demo.host)}  {screen.state(host['state'])}  {host['series']} series, a reading a second"
    )
    if backup is not None:
        screen.line(f"  {demo_backup.JOB}  {screen.state(backup['word'])}  its backup, every five minutes")
    screen.line()
    screen.line("Look around, in another terminal:")
    screen.line(f"  {here} hosts{at}")
    screen.line(f"  {here} query{at} 'rate(node_cpu_seconds_total{{mode=\"idle\"}}[1m])'")
    screen.line(f"  {here} alerts{at}")
    screen.line(f"  {here} backups show {demo_backup.JOB}{at}")
    if runbook:
        screen.line(f"  {here} run {runbook}{at} --reason 'a first look' --wait")
    screen.line("See one: load the CPU for a minute, and watch DemoCpuBusy come and go:")
    screen.line(f"  {LOAD}")
    screen.line()
    screen.line("Real hosts next. On the machine that is to collect:")
    screen.line(f"  sudo {collector} init && sudo {collector} run")
    screen.line(
        f"  sudo {here} login http://127.0.0.1:7480 --token-file /var/lib/watchbill/collector/admin.token"
    )
    screen.line(f"  sudo {here} enroll create --name HOST      # prints the one line to paste on HOST")
    screen.line()
    screen.line(
        f"Ctrl-C ends the demo{f' and removes {demo.home}' if temporary else f'; {demo.home} stays'}."
    )


def _has_display() -> bool:
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _known_demo(path: Path) -> dict[str, Any] | None:
    try:
        return read_private(path)
    except Misused:
        return None


def _remember(demo: Demo, token: str) -> bool:
    """Leave word where other commands look. False when another demo of this user is there already."""
    path = demo_file()
    known = _known_demo(path)
    if known is not None and known.get("pid") != os.getpid():
        pid = known.get("pid")
        if isinstance(pid, int) and Path(f"/proc/{pid}").exists():
            click.echo(f"Another demo of yours runs at {known.get('url')}; commands find that one.", err=True)
            return False
    try:
        write_private(path, {"url": demo.url, "token": token, "pid": os.getpid(), "home": str(demo.home)})
    except OSError as exc:
        click.echo(f"{path}: {(exc.strerror or str(exc)).lower()}; commands need --url {demo.url}", err=True)
        return False
    return True


def _watch(demo: Demo, token: str, children: Children, until_s: float | None) -> None:
    """Until the time is up or somebody stops us; what is killed is started again.

    Raises CommandFailed when a child ends for a reason of its own, or the host is not up at the end.
    """
    client = _client(demo, token)

    def runs_again(child: Child) -> bool:
        return child.argv[0] == demo.collector_program and _answers(client)

    due_s = time.monotonic() + demo_backup.EVERY_S
    while until_s is None or time.monotonic() < until_s:
        for line in children.mend(time.monotonic(), runs_again):
            click.echo(line, err=True)
        if time.monotonic() >= due_s:
            due_s += demo_backup.EVERY_S
            _back_up(demo, children)
        rest_s = WATCH_S if until_s is None else max(0.0, until_s - time.monotonic())
        time.sleep(min(WATCH_S, rest_s))
    if not _is_up(demo, client):
        raise CommandFailed(f"{demo.host} was up and is not any more:\n{children.last_words()}")
