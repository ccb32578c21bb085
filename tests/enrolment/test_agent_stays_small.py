"""The agent's daemon asks children to make keys; it never loads the cryptography package itself."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SECOND_USER = 65_534  # nobody, on every system that Watchbill runs on.


def test_what_the_daemon_imports_for_its_identity_loads_no_cryptography() -> None:
    code = (
        "import sys, watchbill_agent.enroll, watchbill_agent.renew, watchbill.identity, watchbill.tls;"
        "print([name for name in ('cryptography', 'grpc', 'nacl', 'numpy') if name in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.strip() == "[]"


def test_root_enrols_as_the_owner_of_the_state_directory() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    state = Path(tempfile.mkdtemp(prefix="watchbill-owner-"))
    try:
        os.chown(state, SECOND_USER, SECOND_USER)
        code = (
            "import os, sys; from pathlib import Path; from watchbill_agent.enroll_child import become_owner;"
            "become_owner(Path(sys.argv[1]) / 'missing'); assert os.geteuid() == 0;"
            "become_owner(Path(sys.argv[1])); print(os.geteuid(), os.getuid(), os.getgid(), os.getgroups())"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, str(state)], capture_output=True, text=True, check=True, timeout=60
        )
        assert said.stdout.split() == [str(SECOND_USER)] * 3 + ["[]"]
    finally:
        shutil.rmtree(state)
