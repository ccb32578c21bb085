"""Why nobody can listen at an address, in words that end with what to do: gRPC says that it failed and no more."""

import contextlib
import socket


def cannot_listen(what: str, address: str, key: str) -> str:
    """The message for `what` that cannot be had at `host:port`; `key` is where the configuration says it."""
    what_to_do = f"`ss -ltnp` says who has it; {key} is where to change it"
    return f"{what} {address} cannot be used: {_reason(address)}; {what_to_do}"


def _reason(address: str) -> str:
    """The system's own word, by trying once more."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
    except (OSError, ValueError) as exc:
        return str(getattr(exc, "strerror", None) or exc).lower()
    return "it was taken for a moment"
