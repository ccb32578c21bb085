"""What checks remember, on disks that are as disks can be."""

from watchbill_agent.checks.memories import Memories


def test_a_disk_that_takes_nothing_ends_nobody(tmp_path):
    memories = Memories(tmp_path)
    (tmp_path / "gone.json").mkdir()  # Neither written nor removed, not even by root.
    memories.keep("gone", {"a": 1})
    memories.forget_others(frozenset())
    assert memories.load("gone") is None
    assert memories.failures == 1
