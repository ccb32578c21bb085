"""What gRPC reads from the environment, and only once, when it is first imported.

Python's gRPC has no switch for the lowest TLS version and takes 1.2 by default. Its list of cipher suites
concerns TLS 1.2 alone, so a list that only an RSA certificate could serve leaves our ECDSA certificates with
1.3 (tried: set after the first import of grpc it does nothing). Its C core also logs every failed handshake,
which would let anybody who can reach the port fill the log; and its fork handlers have deadlocked processes
that start children.

Both daemons' packages call `set_grpc_environment` when they are imported. This module imports nothing heavy.
"""

import os
import sys
from typing import Final

CIPHER_SUITES: Final = "ECDHE-RSA-AES128-GCM-SHA256"
_FORCED: Final = {"GRPC_SSL_CIPHER_SUITES": CIPHER_SUITES, "GRPC_ENABLE_FORK_SUPPORT": "0"}
_DEFAULTS: Final = {
    "GRPC_VERBOSITY": "NONE",  # Somebody who debugs may set it; nobody else wants those lines.
    # The older listener wakes two threads for a message that arrives alone, the newer four: 185 us of CPU
    # against 300 with 1,000 connections.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
}

_too_late = False


def set_grpc_environment() -> None:
    """Set what gRPC will read; does nothing the second time."""
    # Module state, because the question is about the process: had gRPC read its environment before us?
    global _too_late
    if os.environ.get("GRPC_SSL_CIPHER_SUITES") != CIPHER_SUITES and "grpc" in sys.modules:
        _too_late = True
    os.environ.update(_FORCED)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def tls_1_2_is_off() -> bool:
    """False when grpc was imported before its environment was set: then it would take TLS 1.2."""
    return not _too_late and os.environ.get("GRPC_SSL_CIPHER_SUITES") == CIPHER_SUITES
