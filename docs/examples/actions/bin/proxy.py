#!/usr/bin/python3 -I
"""proxy.py CONFIG TO: write which host a proxy (pgbouncer, haproxy) sends to, and have it read that.

The file is written whole and put in place at once. Where it says so already nothing is touched and only read again: the
proxy of a run that died between the two did not hear of it.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

RELOAD_S = 30
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def fail(message: str, code: int = 1) -> NoReturn:
    """End here."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def main(arguments: list[str]) -> int:
    """See the module."""
    if len(arguments) != 2 or not HOST.fullmatch(arguments[1]):
        fail(__doc__ or "", 2)
    to = arguments[1]
    try:
        with open(arguments[0], "rb") as file:
            config = tomllib.load(file)
        proxy = config["proxy"]
        path, reload = Path(proxy["file"]), [str(one) for one in proxy.get("reload", [])]
        known = str(config.get("peers", {}).get(to, f"host={to} port=5432"))
        words = [word for word in known.split() if not word.startswith(("user=", "password="))]
        text = f"# {to}\n" + str(proxy["line"]).replace("{to}", " ".join(words)) + "\n"
    except (OSError, ValueError, KeyError) as exc:
        fail(f"{arguments[0]}: {exc}", 2)
    changed = not path.exists() or path.read_text() != text
    if changed:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with open(fresh, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    if reload:
        done = subprocess.run(reload, capture_output=True, text=True, timeout=RELOAD_S, check=False)
        if done.returncode:
            fail(f"{reload[0]}: {done.stderr.strip()}")
    print(json.dumps({"primary": to, "changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
