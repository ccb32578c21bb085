"""One PostgreSQL for all tests of a worker, with pgBackRest and barman configured beside it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import POSTGRESQL_BIN, Cluster

REASON = "needs postgresql-15, which is not on this machine (scripts/test installs it as root)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that runs, of which there is no backup yet."""
    if not (POSTGRESQL_BIN / "initdb").exists():
        if os.environ.get("CI") == "true":
            pytest.fail(REASON, pytrace=False)
        pytest.skip(REASON)
    place = Path(tempfile.mkdtemp(prefix="db-"))
    place.chmod(0o711)
    found = Cluster(place)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(place, ignore_errors=True)
