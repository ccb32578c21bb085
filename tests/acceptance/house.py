"""A collector and its agents as real processes: each in a home of its own, on ephemeral loopback ports.

Nothing here looks inside: what is asked is asked over HTTP, by the operator's command, or by looking at a
process from outside. `House` starts and ends everything; whatever it started is gone after `House.close`.
"""

import contextlib
import ctypes
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

T = TypeVar("T")

PROGRAMS: Final = Path(sys.executable).parent
DEADLINE_S: Final = 30.0
"""How long a condition may take on a machine that does other things too."""
POLL_S: Final = 0.05
COMMAND_S: Final = 60.0
BURN: Final = "import time; end = time.monotonic() + 120\nwhile time.monotonic() < end: pass"
LOAD_EVERY_S: Final = 0.2
LOG_LINES_SHOWN: Final = 40
USUAL: Final = frozenset({"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "LANG"})
"""The environment of a house that nobody has changed."""
OURS: Final = "/api/watchbill/v1"
STALL_S_MAX: Final = 10.0
"""A process of a machine that does other things too may stand still for so long; no date is set by so little."""

_PR_SET_PDEATHSIG: Final = 1
_LIBC = ctypes.CDLL(None)

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)(?: \d+)?")
_STOOD_STILL = re.compile(r"this process stood still and missed readings seconds=([0-9.]+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def _beside(name: str) -> ModuleType:
    """A module beside this one: test folders are no packages."""
    full = f"watchbill_acceptance_{name}"
    spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[full] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def until(condition: Callable[[], T], what: str, seconds: float = DEADLINE_S) -> T:
    """What `condition` answers, as soon as it is true. Fails when it is not within `seconds`."""
    deadline_s = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; the last answer was {found!r:.1000}")
        time.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def metric_samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Prometheus' text format as values by name and labels."""
    found = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match and not line.startswith("#"):
            labels = frozenset(_LABEL.findall(match[2] or ""))
            found[match[1], labels] = float(match[3])
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What the collector answered over HTTP."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as one JSON document."""
        return json.loads(self.out)


def _started(argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with open(log, "ab") as output:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            # A group of its own: what it forks (`unshare --fork`) has to end with it.
            start_new_session=True,
            # A test run that is killed must not leave daemons behind.
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )


FORKS: Final = _beside("forked").Forks()
"""What collectors are forked from; see forked.py."""


class Process:
    """One running program with its log."""

    def __init__(
        self, argv: Sequence[str], log: Path, environment: Mapping[str, str], *, forked: bool = False
    ) -> None:
        self.log = log
        self.popen = FORKS(argv, environment, log, log) if forked else _started(argv, log, environment)
        self.pid = self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """End it, and what it started, as a power failure would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(DEADLINE_S)

    def stop(self) -> int:
        """Ask it to end, and wait. Returns its code."""
        if self.running:
            self.popen.terminate()
        return self.popen.wait(DEADLINE_S)

    def resident_bytes(self) -> int:
        """The memory it has now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Daemon:
    """One of the two daemons in its home."""

    house: "House"
    program: str
    home: Path
    process: Process | None = None

    @property
    def etc(self) -> Path:
        """Its configuration."""
        return self.home / "etc"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.home / "log"

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def start(self) -> None:
        """Start the daemon."""
        self.house.start(self, [str(PROGRAMS / self.program), "run", "--home", str(self.home)])

    @property
    def running(self) -> Process:
        """Its process."""
        assert self.process is not None, "it was not started"
        return self.process

    def kill(self) -> None:
        """End it as a power failure would."""
        self.running.kill()

    def stop(self) -> int:
        """End it in order. Returns its code."""
        return self.running.stop()

    def command(self, *arguments: str, given: str = "", extra: Mapping[str, str] | None = None) -> Done:
        """Run its program with other arguments, in the same home."""
        argv = [str(PROGRAMS / self.program), *arguments, "--home", str(self.home)]
        return self.house.run(argv, given=given, extra=extra)


@dataclass(slots=True)
class Agent(Daemon):
    """A host."""

    name: str = ""

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.home / "var" / "agent"

    @property
    def agent_id(self) -> str:
        """Its identity."""
        return str(json.loads((self.state / "identity.json").read_bytes())["agent_id"])

    def status(self) -> dict[str, Any]:
        """What it says over its socket; empty while it cannot be asked."""
        done = self.command("status", "--json")
        return dict(done.json) if done.code == 0 else {}


COLLECTOR_TOML = """\
address = "127.0.0.1"

[grpc]
listen = "127.0.0.1:{stream}"
enroll_listen = "127.0.0.1:{enroll}"

[http]
listen = "127.0.0.1:{http}"
anonymous_read = {anonymous}
{more}
"""


@dataclass(slots=True)
class Collector(Daemon):
    """The collector, and everything one asks of it."""

    ports: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.home / "var" / "collector"

    @property
    def token_file(self) -> Path:
        """The administrator's token."""
        return self.state / "admin.token"

    @property
    def url(self) -> str:
        """Where people find it."""
        return f"http://127.0.0.1:{self.ports['http']}"

    def launch(self) -> None:
        """Start it, and wait until it answers."""
        self.start()
        until(self.ready, f"the collector is ready; it said:\n{self.said[-2000:]}")

    def ready(self) -> bool:
        """Whether it answers queries."""
        assert self.running.running, self.said[-4000:]
        try:
            return self.ask("GET", "/readyz").status == 200
        except OSError:
            return False

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `token` None: nobody in particular; empty: the administrator."""
        shown = dict(headers or {})
        if token is not None:
            shown.setdefault("Authorization", f"Bearer {token or self.token_file.read_text().strip()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=COMMAND_S)
        try:
            connection.request(method, path, body, shown)
            answer = connection.getresponse()
            return Answer(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read(64 << 20)
            )
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """A document of our own API."""
        answer = self.ask("GET", OURS + path)
        assert answer.status == 200, (path, answer)
        return answer.json

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: labels and value of each series."""
        from urllib.parse import urlencode

        answer = self.ask("GET", f"/api/v1/query?{urlencode({'query': expression})}")
        assert answer.status == 200, (expression, answer)
        data = answer.json["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        if data["resultType"] == "matrix":
            return [(row["metric"], float(len(row["values"]))) for row in data["result"]]
        return [(row["metric"], float(row["value"][1])) for row in data["result"]]

    def value(self, expression: str) -> float | None:
        """The one value of a query, None when there is none."""
        found = self.query(expression)
        assert len(found) <= 1, (expression, found)
        return found[0][1] if found else None

    def raw(self, selector: str, seconds: float) -> list[tuple[float, float]]:
        """Every stored sample of one series in the last seconds: time and value."""
        from urllib.parse import urlencode

        path = f"/api/v1/query?{urlencode({'query': f'{selector}[{round(seconds)}s]'})}"
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        rows = answer.json["data"]["result"]
        assert len(rows) <= 1, (selector, [row["metric"] for row in rows])
        return [(float(at), float(value)) for row in rows for at, value in row["values"]]

    def host(self, name: str) -> dict[str, Any]:
        """A host as the API shows it; empty when there is none."""
        return next((host for host in self.get("/hosts")["hosts"] if host["name"] == name), {})

    def gaps(self, name: str) -> list[dict[str, Any]]:
        """The gaps of a host."""
        return list(self.get(f"/gaps?host={name}")["gaps"])

    def losses(self, name: str) -> list[dict[str, Any]]:
        """The gaps of a host but for the moments in which its agent, as it says itself, got no turn of this machine."""
        log = self.house.root / name / "log"
        said = log.read_text("utf-8", "replace") if log.exists() else ""
        stalls_s = [float(seconds) for seconds in _STOOD_STILL.findall(said)]
        real = 0 < max(stalls_s, default=0) < STALL_S_MAX
        return [gap for gap in self.gaps(name) if not (real and _is_moment(gap))]

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """The alerts of a rule."""
        return [alert for alert in self.get("/alerts?resolved=1")["alerts"] if alert["name"] == name]

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Its own metrics, as it serves them."""
        answer = self.ask("GET", "/metrics")
        assert answer.status == 200, answer
        return metric_samples(answer.content.decode())

    def metric(self, name: str, **labels: str) -> float:
        """One of its own metrics; 0 when it is not there."""
        return self.metrics().get((name, frozenset(labels.items())), 0.0)

    def refusals(self, agent: str) -> dict[str, float]:
        """What was refused of an agent, by reason."""
        found = {}
        for (name, labels), value in self.metrics().items():
            pairs = dict(labels)
            if name == "watchbill_collector_refusals_total" and pairs["agent"] == agent:
                found[pairs["reason"]] = value
        return found

    def issue(self, name: str, **order: Any) -> dict[str, Any]:
        """A token for a host: `token` and the `command` to paste."""
        order.setdefault("names", [name])
        answer = self.ask("POST", f"{OURS}/enrolments", json.dumps(order).encode())
        assert answer.status == 201, answer
        issued: dict[str, Any] = answer.json["issued"][0]
        return issued

    def cli(self, *arguments: str, given: str = "") -> Done:
        """The operator's command against this collector."""
        where = {"WATCHBILL_URL": self.url, "WATCHBILL_TOKEN_FILE": str(self.token_file)}
        return self.house.run([str(PROGRAMS / "watchbill"), *arguments], given=given, extra=where)


def _is_moment(gap: Mapping[str, Any]) -> bool:
    """Whether it is a stall that took no record with it and was soon over."""
    if gap["reason"] != "stalled" or gap["count"]:
        return False
    first, last = (datetime.fromisoformat(gap[key]) for key in ("first", "last"))
    return (last - first).total_seconds() < STALL_S_MAX


class Load:
    """CPU load that nobody else's work disturbs: a process that burns, and a /proc in which its time alone is `nice`.

    What else of lower priority runs on this machine would count under that mode too. Everything but that column of
    `stat` is the kernel's.
    """

    def __init__(self, root: Path) -> None:
        self.procfs = root / "proc"
        self.procfs.mkdir()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() and entry.name != "stat":
                (self.procfs / entry.name).symlink_to(entry)
        (self.procfs / "1").symlink_to("/proc/1")
        self._burner: subprocess.Popen[bytes] | None = None
        self._ticks = 0
        self._end = threading.Event()
        self._write()
        self._writer = threading.Thread(target=self._write_for_ever, daemon=True)
        self._writer.start()

    def begin(self) -> None:
        """Burn."""
        self._burner = subprocess.Popen([sys.executable, "-c", BURN])

    def end(self) -> None:
        """Burn no more."""
        if self._burner is not None:
            burner, self._burner = self._burner, None
            burner.kill()
            burner.wait()

    def close(self) -> None:
        """End everything."""
        self.end()
        self._end.set()
        self._writer.join()

    def _write_for_ever(self) -> None:
        while not self._end.wait(LOAD_EVERY_S):
            self._write()

    def _write(self) -> None:
        burner = self._burner
        if burner is not None:
            with contextlib.suppress(OSError):
                spent = Path(f"/proc/{burner.pid}/stat").read_text().rpartition(")")[2].split()
                self._ticks = max(self._ticks, int(spent[11]) + int(spent[12]))
        lines = []
        for line in Path("/proc/stat").read_text().splitlines():
            words = line.split()
            if words[0].startswith("cpu"):
                words[2] = f"{self._ticks if words[0] in ('cpu', 'cpu0') else 0:020d}"
            lines.append(" ".join(words))
        # Over what is there: the agent keeps it open.
        with open(self.procfs / "stat", "r+b" if (self.procfs / "stat").exists() else "wb") as file:
            file.write("\n".join(lines).encode() + b"\n")
            file.truncate()


class House:
    """A directory, what runs in it, and its end."""

    def __init__(self, template: Path | None = None) -> None:
        """`template` is a directory that keeps what `init` made once for all houses."""
        self._template = template
        self.root = Path(tempfile.mkdtemp(prefix="h"))
        self.processes: list[Process] = []
        runtime = self.root / "r"
        runtime.mkdir(mode=0o700)
        self.environment = {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "TMPDIR": str(self.root),
            "XDG_RUNTIME_DIR": str(runtime),
            "LANG": "C.UTF-8",
        }

    def close(self) -> None:
        """End what runs, and remove everything."""
        for process in reversed(self.processes):
            process.kill()
        for log in sorted(self.root.glob("*/log")):
            lines = log.read_text("utf-8", "replace").splitlines()
            print(f"--- {log.parent.name}", *lines[-LOG_LINES_SHOWN:], sep="\n")
        shutil.rmtree(self.root)

    def _may_be_forked(self, argv: Sequence[str]) -> bool:
        usual = argv[0] == str(PROGRAMS / "watchbill-collector") and self.environment.keys() <= USUAL
        return usual and not os.environ.get("WATCHBILL_TESTS_EXEC")

    def _run_forked(self, argv: Sequence[str], given: str) -> Done:
        with tempfile.TemporaryDirectory() as place:
            source, out, err = (Path(place) / name for name in ("in", "out", "err"))
            source.write_text(given)
            child = FORKS(argv, self.environment, out, err, str(source))
            try:
                code = child.wait(COMMAND_S)
            finally:
                child.send_signal(signal.SIGKILL)
            return Done(code, *(path.read_text("utf-8", "replace") for path in (out, err)))

    def run(self, argv: Sequence[str], *, given: str = "", extra: Mapping[str, str] | None = None) -> Done:
        """Run a command to its end."""
        if not extra and self._may_be_forked(argv):
            return self._run_forked(argv, given)
        done = subprocess.run(
            list(argv),
            input=given,
            env={**self.environment, **(extra or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def collector(self, more: str = "", *, anonymous: bool = False, launch: bool = True) -> Collector:
        """A collector, initialised and running."""
        home = self.root / "c"
        (home / "etc" / "rules.d").mkdir(parents=True)
        stream, enroll, http_port = free_ports(3)
        ports = {"stream": stream, "enroll": enroll, "http": http_port}
        made = Collector(self, "watchbill-collector", home, ports=ports)
        text = COLLECTOR_TOML.format(anonymous=str(anonymous).lower(), more=more, **ports)
        (home / "etc" / "collector.toml").write_text(text)
        self._initialise(made)
        if launch:
            made.launch()
        return made

    def _initialise(self, made: Collector) -> None:
        """`watchbill-collector init`, or a copy of an earlier one: it costs a second, and tests are many."""
        kept = self._template / "var" if self._template is not None else None
        if kept is not None and kept.exists():
            shutil.copytree(kept, made.home / "var", symlinks=True)
            return
        done = made.command("init")
        assert done.code == 0, done
        if kept is not None:
            shutil.copytree(made.home / "var", kept, symlinks=True)

    def home(self, name: str, toml: str = 'interval = "1s"\n') -> Agent:
        """A host that is not enrolled yet."""
        home = self.root / name
        (home / "etc").mkdir(parents=True)
        (home / "etc" / "agent.toml").write_text(toml)
        return Agent(self, "watchbill-agent", home, name=name)

    def enrolled(self, collector: Collector, name: str, toml: str = 'interval = "1s"\n') -> Agent:
        """A host that is enrolled and does not run."""
        agent = self.home(name, toml)
        token = collector.issue(name)["token"]
        done = agent.command("enroll", "--token-file", "-", given=token)
        assert done.code == 0, done
        return agent

    def agent(self, collector: Collector, name: str, toml: str = 'interval = "1s"\n') -> Agent:
        """A host that is enrolled, runs and is up."""
        agent = self.enrolled(collector, name, toml)
        agent.start()
        self.until_up(collector, name)
        return agent

    def start(self, daemon: Daemon, argv: Sequence[str]) -> None:
        """Start a daemon by another command than its own."""
        forked = self._may_be_forked(argv)
        daemon.process = Process(argv, daemon.log, self.environment, forked=forked)
        self.processes.append(daemon.process)

    def until_up(self, collector: Collector, name: str) -> None:
        """Wait until the collector has something of a host and calls it up."""
        until(
            lambda: (host := collector.host(name))["state"] == "up" and host["series"] > 0,
            f"{name} is up",
        )
