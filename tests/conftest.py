"""What every test may use: real tools by marker, and a check that nothing is left behind."""

import os
import shutil

import pytest

from watchbill.grpc_environment import set_grpc_environment

set_grpc_environment()  # Before any test imports grpc: afterwards it would take TLS 1.2.

IN_CI = os.environ.get("CI") == "true"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose real tool is missing, saying which; where CI=true, fail instead."""
    for marker in item.iter_markers("real"):
        for tool in marker.args:
            if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
                reason = f"needs {tool}, which is not on this machine (scripts/test installs it as root)"
                if IN_CI:
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)
