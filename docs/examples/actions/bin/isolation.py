#!/usr/bin/python3 -I
"""isolation.py ADDRESS PORT SECONDS: whether this host is cut off, asked twice; for actions.d, as root. It only looks.

1. The kernel: is the table there, is its set still full, when does it run empty, how much was dropped.
2. The network: does the address answer within so many seconds. A refusal is an answer, too.

Prints one JSON document. What could not be found out is a failure and never "cut off".
"""

import ipaddress
import json
import math
import socket
import subprocess
import sys
from typing import Any, NoReturn

NFT = "/usr/sbin/nft"
TABLE = "watchbill_isolation"
FAMILIES = {"ipv4", "ipv6"}
NFT_S = 5
ANSWER_S_MAX = 10


def fail(message: str, code: int = 1) -> NoReturn:
    """End here."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def nft(*words: str) -> list[dict[str, Any]]:
    """What nft lists."""
    done = subprocess.run(
        [NFT, "-j", "list", *words], capture_output=True, text=True, timeout=NFT_S, check=False
    )
    if done.returncode:
        fail(f"nft list {' '.join(words)}: {done.stderr.strip()}")
    found: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return found


def cut() -> dict[str, Any]:
    """As the kernel has it."""
    if not any(one.get("table", {}).get("name") == TABLE for one in nft("tables", "inet")):
        return {"isolated": False, "left_s": 0, "dropped": 0}
    left_s: dict[str, float] = {}
    dropped = 0
    for one in nft("table", "inet", TABLE):
        for element in one.get("set", {}).get("elem", []) if one.get("set", {}).get("name") == "cut" else []:
            # Without a time it stays until somebody opens it.
            known = element["elem"] if isinstance(element, dict) else {"val": element}
            left_s[known["val"]] = known.get("expires", math.inf)
        for part in one.get("rule", {}).get("expr", []):
            dropped += part["counter"]["packets"] if "counter" in part else 0
    isolated = left_s.keys() >= FAMILIES
    shortest_s = min(left_s.values()) if isolated else 0
    return {
        "isolated": isolated,
        "left_s": None if shortest_s == math.inf else shortest_s,
        "dropped": dropped,
    }


def reached(address: str, port: int, answer_s: float) -> bool:
    """Whether anything comes back."""
    try:
        socket.create_connection((address, port), timeout=answer_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """See the module."""
    try:
        address, port, seconds = arguments
        # No names: who answers for them cannot be asked by an isolated host.
        address = str(ipaddress.ip_address(address))
        port_number, answer_s = int(port), float(seconds)
        if not (0 < port_number < 65536 and 0 < answer_s <= ANSWER_S_MAX):
            raise ValueError
    except ValueError:
        fail(__doc__ or "", 2)
    print(json.dumps({**cut(), "reached": reached(address, port_number, answer_s)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
