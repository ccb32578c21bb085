"""The rules of the house that no linter knows."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_source_roots_hold_no_package_marker() -> None:
    # One in packaging/ or proto/ would shadow a real library of that name; see docs/decisions.md.
    roots = ("proto", "agent", "collector", "packaging", "systemd", "tests")
    assert [name for name in roots if (ROOT / name / "__init__.py").exists()] == []
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_no_package_index_is_named_anywhere() -> None:
    # Assembled from halves, so that this file does not name one either.
    hosts = [a + b for a, b in (("pypi", ".org"), ("pythonhosted", ".org"), ("registry.npmjs", ".org"))]
    words = re.compile("|".join(map(re.escape, [*hosts, "--index" + "-url", "--extra-index" + "-url"])))
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if words.search(path.read_text("utf-8", errors="ignore"))
    ]
    assert found == []
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text()


def test_every_pin_carries_a_hash() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text().replace("\\\n", " ")
        pins = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert pins
        assert [line for line in pins if "==" not in line or "--hash=sha256:" not in line] == []


def test_one_version_in_all_three_distributions() -> None:
    sys.path.insert(0, str(ROOT / "proto" / "src"))
    from watchbill import __version__

    versions = {
        name: re.search(r'^version = "(.+)"$', (ROOT / name / "pyproject.toml").read_text(), re.MULTILINE)
        for name in ("proto", "agent", "collector")
    }
    assert {name: match and match[1] for name, match in versions.items()} == dict.fromkeys(
        versions, __version__
    )


def test_generated_protobuf_code_is_fresh() -> None:
    bin_dir = Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, "proto/generate.py", "--check"],
        cwd=ROOT,
        env={"PATH": f"{bin_dir}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The file names inside each distribution's wheel, built from the tree as it is."""
    out = tmp_path_factory.mktemp("wheels")
    names = {}
    for name in ("proto", "agent", "collector"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out / name)],
            cwd=ROOT / name,
            check=True,
            capture_output=True,
        )
        (wheel,) = (out / name).glob("*.whl")
        names[name] = zipfile.ZipFile(wheel).namelist()
    return names


def test_the_agent_wheel_holds_no_collector(wheels: dict[str, list[str]]) -> None:
    assert not [
        name for name in wheels["agent"] if not name.startswith(("watchbill_agent", "watchbill_agent-"))
    ]


def test_the_core_wheel_carries_messages_and_types(wheels: dict[str, list[str]]) -> None:
    for wanted in ("watchbill/v1/link.proto", "watchbill/v1/link_pb2.pyi", "watchbill/py.typed"):
        assert wanted in wheels["proto"]


def test_the_collector_wheel_carries_the_page_and_the_stock_rules(wheels: dict[str, list[str]]) -> None:
    names = wheels["collector"]
    assert "watchbill_collector/web/dist/index.html" in names
    assert [
        name
        for name in names
        if name.startswith("watchbill_collector/rules/stock/") and name.endswith(".yml")
    ]


@pytest.mark.parametrize("module", ["watchbill_agent.cli", "watchbill_agent.app"])
def test_the_agents_daemon_path_imports_nothing_heavy(module: str) -> None:
    heavy = ["numpy", "pydantic", "click", "cryptography", "jinja2", "aiomqtt", "watchbill_collector"]
    program = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
