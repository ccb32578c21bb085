"""Regenerate the protobuf code beside its .proto files; the result is checked in.

`python proto/generate.py` writes in place; `--check` writes nothing and fails when what is checked in is stale.
Needs the environment's bin folder on PATH, for mypy-protobuf's plug-ins of protoc.
"""

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
SOURCE = HERE / "src"


def generate(out: Path) -> None:
    """Run protoc, stubs included; the import paths come out right because they are the file paths."""
    protos = sorted(str(path) for path in SOURCE.glob("watchbill/v1/*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{SOURCE}", f"-I{well_known}"]
    arguments += [f"--{kind}_out={out}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    if protoc.main([*arguments, *protos]) != 0:
        raise SystemExit("protoc failed")


def main() -> int:
    """Write the generated code, or with --check compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    if not parser.parse_args().check:
        generate(SOURCE)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = [
            str(path.relative_to(scratch))
            for path in sorted(Path(scratch).rglob("*_pb2*"))
            if not (SOURCE / path.relative_to(scratch)).exists()
            or (SOURCE / path.relative_to(scratch)).read_bytes() != path.read_bytes()
        ]
    for name in stale:
        print(f"{name} is stale: run python proto/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
