"""Debian's mosquitto as a child of the collector: `[mqtt] broker = "embedded"`.

Its configuration is made for the installed version at every start, with a state directory, ports and access rules of
its own; the distribution's own service and files are never touched. Three listeners:

- a unix socket in the collector's state directory, for the collector alone;
- the agents' port: TLS 1.3, only with a certificate of our authority. The certificate's name is the user and the
  client, so nobody can take another's place; an agent may publish its own `hello`, `up`, `beat` and read its own
  `down`, nothing else. Hosts that were shut out may do nothing at all;
- the enrolment port: TLS without a client certificate; a client may ask under its own name and read its own answer.

Nothing is kept: no persistence, no retained messages, no sessions. It is started again when it dies, and ends with the
collector, also when that is killed.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.backoff import Backoff
from watchbill.errors import Permanent
from watchbill.files import make_directory, write_atomic
from watchbill.logs import fields
from watchbill.mqtt import PACKET_BYTES_MAX, Broker
from watchbill.topics import Topics

log = logging.getLogger("watchbill.mosquitto")

PROGRAM: Final = "mosquitto"
PLACES: Final = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where it is beside PATH: Debian keeps it where users' paths do not reach."""
CONFIG_FILE: Final = "mosquitto.conf"
AGENTS_FILE: Final = "agents.acl"
HOSTS_FILE: Final = "hosts.acl"
SOCKET: Final = "broker.sock"
PID_FILE: Final = "mosquitto.pid"

INFLIGHT_MAX: Final = 20
QUEUED_MESSAGES_MAX: Final = 8_192
QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024
"""What waits for one client, the collector above all; what comes beyond is lost, and its sender begins anew."""
KEEPALIVE_S_MAX: Final = 600
ENROLMENTS_MAX: Final = 64
"""Connections open at once on the enrolment port."""
MEMORY_BYTES_MAX: Final = 512 * 1024 * 1024
READY_S: Final = 10.0
STOP_S: Final = 3.0
BACKOFF_S: Final = 0.5
BACKOFF_CAP_S: Final = 30.0
LOG_LINE_BYTES_MAX: Final = 4_096

_VERSION: Final = re.compile(r"mosquitto version (\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """What the broker is made of: where it listens, the PEM files it takes, how many agents it lets in."""

    directory: Path
    listen: tuple[str, int]
    enroll_listen: tuple[str, int]
    topics: Topics
    authority: Path
    certificate: Path
    agents_max: int


def find() -> str | None:
    """Where mosquitto is, if it is."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=PLACES)


def version(program: str) -> tuple[int, int, int]:
    """Which it is. Raises Permanent for one that cannot be used."""
    # It has no option that prints only this; asked for help it ends with 3.
    done = subprocess.run([program, "-h"], capture_output=True, text=True, check=False, timeout=10)
    found = _VERSION.search(done.stdout)
    if found is None:
        raise Permanent(f"{program} does not say which version it is")
    parts = (int(found[1]), int(found[2]), int(found[3]))
    if parts[0] != 2:
        # 1.x has no unix sockets and other rules; 3 has announced to take other files.
        raise Permanent(
            f"{program} is {found[0]}, wanted 2.x: install Debian's, or name a broker of your own"
        )
    return parts


def configuration(plan: BrokerPlan, user: str) -> str:
    """The whole configuration, for 2.0 and later of 2: 2.1 has other defaults, so nothing is left to them."""
    directory = plan.directory
    secured = [
        f"cafile {plan.authority}",
        f"certfile {plan.certificate}",
        f"keyfile {plan.certificate}",
        "tls_version tlsv1.3",
        "max_qos 1",
        "max_topic_alias 0",
    ]
    lines = [
        "# Made by watchbill-collector at every start: a change here does not last.",
        "per_listener_settings true",
        f"user {user}",
        f"pid_file {directory / PID_FILE}",
        "persistence false",
        "retain_available false",
        f"max_packet_size {PACKET_BYTES_MAX}",
        f"max_inflight_messages {INFLIGHT_MAX}",
        f"max_queued_messages {QUEUED_MESSAGES_MAX}",
        f"max_queued_bytes {QUEUED_BYTES_MAX}",
        f"memory_limit {MEMORY_BYTES_MAX}",
        f"max_keepalive {KEEPALIVE_S_MAX}",
        "sys_interval 0",
        "log_dest stderr",
        "log_timestamp false",
        "log_type error",
        "log_type warning",
        "",
        f"listener {plan.listen[1]} {plan.listen[0]}",
        *secured,
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {directory / AGENTS_FILE}",
        f"max_connections {plan.agents_max}",
        "",
        f"listener {plan.enroll_listen[1]} {plan.enroll_listen[0]}",
        *secured,
        "require_certificate false",
        "allow_anonymous true",
        # Not above: before the first listener it opens one more, for everybody, on port 1883 (2.0.11).
        "allow_zero_length_clientid false",
        f"acl_file {directory / HOSTS_FILE}",
        f"max_connections {ENROLMENTS_MAX}",
        "",
        # Last: once it answers, the ports before it are ours.
        f"listener 0 {directory / SOCKET}",
        "allow_anonymous true",
        "",
    ]
    return "\n".join(lines)


def agent_rules(topics: Topics, shut_out: Sequence[str]) -> str:
    """What agents may: `%u` is the name in the certificate. Who is shut out has a valid one and may nothing."""
    root = topics.root
    lines = [f"pattern write {root}/%u/{lane}" for lane in ("hello", "up", "beat")]
    lines.append(f"pattern read {root}/%u/down")
    for agent_id in shut_out:
        lines += [f"user {agent_id}", "topic deny #"]
    return "\n".join(lines) + "\n"


def host_rules(topics: Topics) -> str:
    """What hosts may that are no agents yet: `%c` is the name that the client made up for its request."""
    root = f"{topics.root}/enroll/%c"
    return f"pattern write {root}/ask\npattern read {root}/answer\n"


class EmbeddedBroker:
    """The broker. `run` it as a task; `address` is where the collector finds it."""

    def __init__(self, plan: BrokerPlan) -> None:
        """Raises Permanent when there is no mosquitto that can be used, StorageError."""
        program = find()
        if program is None:
            raise Permanent(
                "no mosquitto on this machine: apt-get install mosquitto, or name a broker in [mqtt]"
            )
        self.version = version(program)
        self._program = program
        self._plan = plan
        self._rules = ""
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.starts = 0
        self.last_words = ""
        """What it said last, when it ended by itself."""
        make_directory(plan.directory)
        self._write(CONFIG_FILE, configuration(plan, pwd.getpwuid(os.geteuid()).pw_name))
        self._write(HOSTS_FILE, host_rules(plan.topics))
        self.shut_out([])

    def _write(self, name: str, text: str) -> None:
        write_atomic(self._plan.directory / name, text.encode())

    @property
    def address(self) -> Broker:
        """Where the collector finds it."""
        return Broker(unix=str(self._plan.directory / SOCKET))

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Keep it running for ever."""
        backoff = Backoff(BACKOFF_S, BACKOFF_CAP_S)
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            await self._once()
            if self._stopping:
                return
            log.error("the broker ended and is started again", extra=fields(said=self.last_words))
            await asyncio.sleep(backoff.ended_s(loop.time() - began_s))

    async def _once(self) -> None:
        """Start it, and wait for its end."""
        await asyncio.to_thread(self._end_leftover)
        (self._plan.directory / SOCKET).unlink(missing_ok=True)
        argv = [self._program, "-c", str(self._plan.directory / CONFIG_FILE)]
        guard = shutil.which("setpriv")
        if guard is not None:
            # Should the collector be killed, the kernel ends it.
            argv = [guard, "--pdeathsig", "TERM", *argv]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LOG_LINE_BYTES_MAX,
            start_new_session=True,  # A terminal's Ctrl-C is the collector's: it stops the broker last.
        )
        self._process = process
        self.starts += 1
        try:
            await self._listen(process)
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await asyncio.shield(process.wait())

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """What it says, until it ends."""
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # Longer than any line of its own; the rest follows.
            if not line:
                return
            self.last_words = line.decode("utf-8", "replace").strip()
            log.info("mosquitto says", extra=fields(line=self.last_words))

    def _end_leftover(self) -> None:
        """A broker of a collector that was killed, where nothing else ended it: it holds our ports."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._plan.directory / PID_FILE).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(self._plan.directory / CONFIG_FILE).encode() in command.split(b"\0"):
                os.kill(pid, signal.SIGKILL)

    async def ready(self) -> None:
        """Wait until it takes connections. Raises Permanent when it does not."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + READY_S
        while not await asyncio.to_thread(self._answers):
            if loop.time() > give_up_s:
                raise Permanent(f"the broker does not start: {self.last_words or 'it says nothing'}")
            await asyncio.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self._plan.directory / SOCKET))
            return True
        return False

    async def stop(self) -> None:
        """End it."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    # ------------------------------------------------------------ changes

    def shut_out(self, agent_ids: Sequence[str]) -> None:
        """These may do nothing any more, though their certificates are valid. Blocks for a moment. Raises
        StorageError: then the rules stay as they are, and the collector ignores them all the same.
        """
        rules = agent_rules(self._plan.topics, agent_ids)
        if rules != self._rules:
            self._write(AGENTS_FILE, rules)
            self._rules = rules
            self.reload()

    def reload(self) -> None:
        """Read rules and certificates anew; connections stay."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
