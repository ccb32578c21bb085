"""Hosts with what each allows, for the runbooks that are shipped and for small ones."""

from pathlib import Path

import pytest

from watchbill.actions.definition import Action, Argument, Effect, Kind, Needs
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import read_runbook

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "runbooks"
NEEDS_DBA = Needs(2, "dba")


def _action(name: str, effect: str, *arguments: Argument, output: str = "json", **more: object) -> Action:
    argv = (f"/usr/lib/actions/{name}", *(f"{{{{{one.name}}}}}" for one in arguments))
    return Action(
        name=name,
        argv=argv,
        effect=Effect(effect),
        arguments=arguments,
        output="json" if output == "json" else "text",
        **more,  # type: ignore[arg-type]
    )


def _host(name: str) -> Argument:
    return Argument(name=name, kind=Kind.HOST)


def _path(name: str) -> Argument:
    return Argument(name=name, kind=Kind.PATH, roots=("/srv/restore",))


_DATABASE = (
    _action("pg.status", "read"),
    _action("pg.reach", "read", _host("peer")),
    _action("pg.write_probe", "read"),
    _action("pg.promote", "once", probe="pg.role", done_when='out.role == "primary"', needs=NEEDS_DBA),
    _action("pg.role", "read"),
    _action("pg.rebuild_standby", "repeat"),
)
_FENCER = (
    _action(
        "fence.off",
        "once",
        _host("node"),
        probe="fence.state",
        done_when='out.power == "off"',
        needs=NEEDS_DBA,
    ),
    _action(
        "fence.on",
        "once",
        _host("node"),
        probe="fence.state",
        done_when='out.power == "on"',
        needs=NEEDS_DBA,
    ),
    _action("fence.state", "read", _host("node")),
)
_PROXY = (_action("proxy.set_primary", "repeat", _host("to")),)
_SPARE = (
    _action(
        "restic.pick", "read", Argument(name="job", kind=Kind.NAME), Argument(name="before", kind=Kind.STRING)
    ),
    _action("fs.free", "read", _path("path")),
    _action(
        "restic.restore",
        "repeat",
        Argument(name="snapshot", kind=Kind.STRING, match="[0-9a-f]{8,64}"),
        _path("target"),
        timeout_s=6 * 3600,
    ),
    _action("fs.remove_tree", "repeat", _path("path")),
    _action(
        "files.verify_sample",
        "read",
        _path("root"),
        # The design hands over a manifest, what is shipped the run that made one.
        Argument(name="manifest", kind=Kind.STRING, default="newest"),
        Argument(name="job", kind=Kind.NAME, default="any"),
        Argument(name="snapshot", kind=Kind.NAME, default="newest"),
        timeout_s=3600,
    ),
    _action("samba.start", "repeat"),
)
_WEB = (
    _action("app.diagnose", "read", Argument(name="app", kind=Kind.NAME), output="text"),
    _action("svc.restart", "repeat", Argument(name="unit", kind=Kind.NAME), output="text"),
    _action("app.look", "read"),
    _action("app.drain", "once"),
    _action(
        "app.size",
        "repeat",
        Argument(name="bytes", kind=Kind.SIZE),
        Argument(name="n", kind=Kind.INT, default=3),
    ),
)
_HOSTS = {
    "db1": ("db", _DATABASE),
    "db2": ("db", _DATABASE),
    "drill-db1": ("drill", _DATABASE),
    "drill-db2": ("drill", _DATABASE),
    "app1": ("app", _DATABASE),
    "mgmt1": ("mgmt", _FENCER),
    "drill-mgmt": ("drill", _FENCER),
    "proxy1": ("pg-proxy", _PROXY),
    "proxy2": ("pg-proxy", _PROXY),
    "spare1": ("spare", _SPARE),
    "web1": ("web", _WEB),
    "web2": ("web", _WEB),
    "web3": ("web", _WEB),
}


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Thirteen hosts; `new1` has not said what it allows."""
    known = {
        name: KnownHost(
            name=name,
            agent=f"agent-{name}",
            labels={"role": role},
            actions={action.name: action for action in actions},
        )
        for name, (role, actions) in _HOSTS.items()
    }
    return Fleet({**known, "new1": KnownHost(name="new1", agent="agent-new1", labels={"role": "new"})})


@pytest.fixture(scope="session")
def examples() -> dict[str, Runbook]:
    """The runbooks that are shipped, by name."""
    found: dict[str, Runbook] = {}
    for path in sorted(EXAMPLES.glob("*.yaml")):
        runbook, problems = read_runbook(path.name, path.read_bytes())
        assert runbook is not None, problems
        found[runbook.name] = runbook
    return found
