"""The demo's own application: the page of its collector, looked at by its agent as any shop's front would be."""

from typing import Final

APP: Final = "watchbill"
CHECK: Final = "page"
CHECKS_TOML: Final = """\
# Written by `watchbill demo`: whether its page answers.
[[check]]
name = "{check}"
kind = "http"
app = "{app}"
url = "http://127.0.0.1:{port}/readyz"
interval = "5s"
timeout = "2s"
"""


def configuration(port: int) -> str:
    """What the agent reads."""
    return CHECKS_TOML.format(check=CHECK, app=APP, port=port)
