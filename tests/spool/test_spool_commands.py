"""`watchbill-agent spool inspect|verify|repair`, on files as they come."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from watchbill.identity import AgentIdentity, IdentityFile
from watchbill.protocol.client import Fork
from watchbill.protocol.frames import GapReason, RetiredSpool, Stream
from watchbill_agent.cli import main
from watchbill_agent.spool import DiskSpool, Draft, Sizes
from watchbill_agent.spool.segment import segment_name

AGENT = UUID(bytes=b"a" * 16, version=4).bytes
SIZES = Sizes(256 * 1024, 128 * 1024)
BODY = b"\x12\x00" + bytes(10_000)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool with nine records in three segments, of which none is in use."""
    directory = tmp_path / "home/var/agent/spool"
    made = DiskSpool(directory, AGENT, sizes=SIZES)
    for index in range(9):
        made.append(Stream.BULK, Draft(BODY, 7, 1000 * index, 1000 * index + 1))
    made.append(Stream.CRIT, Draft(b"\x22\x00", 0, 1, 1))
    made.notice(GapReason.RESTART, 1, 2)
    assert made.sync()
    made.close()
    return directory


def spoken(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    capsys.readouterr()
    code = main(["spool", *arguments, "--json", "--home", str(tmp_path / "home")])
    return code, json.loads(capsys.readouterr().out)


def test_inspect_says_what_is_there(tmp_path, spool, capsys):
    code, shown = spoken(tmp_path, capsys, "inspect")
    assert code == 0
    assert (shown["format"], shown["in_use"], shown["quarantine"]) == (1, False, [])
    bulk = shown["streams"]["bulk"]
    assert (bulk["records"], bulk["samples"], bulk["first"], bulk["last"]) == (9, 63, 1, 10)
    assert bulk["segments"] == len(list((spool / "bulk").glob("*.seg")))
    assert shown["streams"]["crit"]["records"] == 1
    assert main(["spool", "inspect", "--home", str(tmp_path / "home")]) == 0
    assert "9 records, 63 samples" in capsys.readouterr().out


def test_a_spool_that_is_whole_verifies(tmp_path, spool, capsys):
    code, shown = spoken(tmp_path, capsys, "verify")
    assert (code, shown["ok"], shown["damage"], shown["missing"]) == (0, True, [], [])


def test_damage_is_named_repaired_and_then_gone_and_nothing_readable_with_it(tmp_path, spool, capsys):
    first, *_, last = sorted((spool / "bulk").glob("*.seg"))
    middle = bytearray(first.read_bytes())
    place = len(middle) // 2
    middle[place] ^= 1
    first.write_bytes(middle)
    end = bytearray(last.read_bytes())
    end[-5] ^= 1  # In the frame of the notice, the last there is.
    last.write_bytes(end)
    code, shown = spoken(tmp_path, capsys, "verify")
    assert code == 1
    assert {one["file"] for one in shown["damage"]} == {f"bulk/{first.name}", f"bulk/{last.name}"}
    assert [(one["first"], one["last"]) for one in shown["missing"]][-1] == (10, 10)
    assert len(shown["missing"]) == 2

    before = {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()}
    _, planned = spoken(tmp_path, capsys, "repair", "--dry-run")
    assert {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()} == before
    _, done = spoken(tmp_path, capsys, "repair")
    assert done["done"] == planned["done"]
    assert len(done["done"]) == 2

    code, after = spoken(tmp_path, capsys, "verify")
    assert (code, after["damage"]) == (0, [])
    assert after["missing"] == shown["missing"][:1], "the number at the end is a gap of its own now"
    again = DiskSpool(spool, AGENT, sizes=SIZES)
    try:
        held, seq = [], 0
        while (record := again.held_after(Stream.BULK, seq)) is not None:
            held.append(record)
            seq = record.last
        gaps = [(one.first, one.gap, one.samples) for one in held if one.gap is not None]
        assert gaps == [(gaps[0][0], GapReason.CORRUPT, 7), (10, GapReason.CORRUPT, 0)]
        assert sum(one.gap is None for one in held) == 8
        assert again.append(Stream.BULK, Draft(BODY, 1, 1, 1)) == 11, "no number is used twice"
    finally:
        again.close()
    assert "nothing is damaged" in _text(capsys, "repair", tmp_path)


def test_a_torn_end_is_no_damage_and_repair_cuts_it(tmp_path, spool, capsys):
    *_, last = sorted((spool / "bulk").glob("*.seg"))
    last.write_bytes(last.read_bytes()[:-3])
    code, shown = spoken(tmp_path, capsys, "verify")
    assert (code, [one["harmless"] for one in shown["damage"]]) == (0, [True])
    _, done = spoken(tmp_path, capsys, "repair")
    assert "cut" in done["done"][0]
    assert spoken(tmp_path, capsys, "verify")[1]["damage"] == []


def test_a_damaged_header_is_made_anew(tmp_path, spool, capsys):
    _, second, *_ = sorted((spool / "bulk").glob("*.seg"))
    data = bytearray(second.read_bytes())
    data[20] ^= 255
    second.write_bytes(data)
    code, shown = spoken(tmp_path, capsys, "verify")
    assert (code, [one["what"] for one in shown["damage"]]) == (1, ["the header is damaged"])
    spoken(tmp_path, capsys, "repair")
    code, shown = spoken(tmp_path, capsys, "verify")
    assert (code, shown["missing"]) == (0, [])
    assert spoken(tmp_path, capsys, "inspect")[1]["streams"]["bulk"]["records"] == 9


def test_foreign_files_are_damage_and_go_to_quarantine(tmp_path, spool, capsys):
    other = DiskSpool(tmp_path / "other", b"b" * 16, sizes=SIZES)
    other.append(Stream.BULK, Draft(BODY, 7, 1, 1))
    other.sync()
    other.close()
    (theirs,) = (tmp_path / "other/bulk").glob("*.seg")
    (spool / "bulk" / "00000000000000000555.seg").write_bytes(theirs.read_bytes())
    (spool / "crit" / "00000000000000000556.seg").symlink_to(theirs)
    code, shown = spoken(tmp_path, capsys, "verify")
    assert code == 1
    assert len(shown["damage"]) == 2
    spoken(tmp_path, capsys, "repair")
    code, shown = spoken(tmp_path, capsys, "verify")
    assert (code, shown["damage"]) == (0, [])
    assert len(list((spool / "quarantine").iterdir())) == 2
    assert theirs.exists(), "a link is moved, what it points to is not"


def test_a_running_agents_spool_is_looked_at_and_not_repaired(tmp_path, spool, capsys):
    running = DiskSpool(spool, AGENT, sizes=SIZES)
    try:
        assert spoken(tmp_path, capsys, "inspect")[1]["in_use"]
        assert main(["spool", "repair", "--home", str(tmp_path / "home")]) == 6
        assert "is held by process" in capsys.readouterr().err
    finally:
        running.close()


def test_numbers_are_those_of_the_wire_after_a_fork(tmp_path, spool, capsys):
    forked = DiskSpool(spool, AGENT, sizes=SIZES)
    from watchbill.protocol.client import Release

    forked.obey(Release(Stream.BULK, 4, 1))
    forked.obey(Fork((RetiredSpool(forked.spool_id, Stream.BULK, 9),)))
    assert forked.sync()
    forked.close()
    _, shown = spoken(tmp_path, capsys, "inspect")
    bulk = shown["streams"]["bulk"]
    assert (shown["forks"], bulk["last"], bulk["acked_at_least"]) == (1, 6, 0)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An agent whose agent.toml keeps its identity and its spool in places of their own. Most of what lies in the spool
    is another host's."""
    spool = tmp_path / "flash/spool"
    for directory, agent, count in ((spool, AGENT, 1), (tmp_path / "theirs", b"b" * 16, 9)):
        made = DiskSpool(directory, agent, sizes=SIZES)
        for index in range(count):
            made.append(Stream.BULK, Draft(BODY, 7, 1000 * index, 1000 * index + 1))
        assert made.sync()
        made.close()
    for number, theirs in enumerate((tmp_path / "theirs/bulk").glob("*.seg")):
        (spool / "bulk" / segment_name(500 + number)).write_bytes(theirs.read_bytes())
    IdentityFile(tmp_path / "id").save(
        AgentIdentity(
            agent_id=str(UUID(bytes=AGENT)),
            instance="edge1",
            site="main",
            labels={},
            key_pem=b"",
            chain_pem=b"",
            trust_pem=b"",
            not_before_ms=1,
            not_after_ms=2,
            stream_endpoint="127.0.0.1:1",
            enrol_endpoint="127.0.0.1:1",
            envelope_seed=bytes(32),
            collector_envelope_key=bytes(32),
            command_key=bytes(32),
            token_id="aaaaaaaaaaaa",
            enrolled_ms=1,
        )
    )
    (tmp_path / "home/etc").mkdir(parents=True)
    config = f'identity_dir = "{tmp_path}/id"\n[spool]\ndir = "{spool}"\n'
    (tmp_path / "home/etc/agent.toml").write_text(config)
    return spool


def test_the_spool_is_where_agent_toml_says_and_is_this_hosts(tmp_path, elsewhere, capsys):
    _, shown = spoken(tmp_path, capsys, "inspect")
    assert shown["directory"] == str(elsewhere)
    assert shown["streams"]["bulk"]["records"] == 1
    code, shown = spoken(tmp_path, capsys, "verify")
    strange = [one["what"] for one in shown["damage"]]
    assert (code, {*strange}) == (1, {"a segment of another spool, or of a newer version"})
    _, done = spoken(tmp_path, capsys, "repair")
    assert len(done["done"]) == len(strange)
    assert spoken(tmp_path, capsys, "verify")[0] == 0
    assert spoken(tmp_path, capsys, "inspect")[1]["streams"]["bulk"]["records"] == 1


def test_seal_forgets_an_identity_and_a_spool_that_lie_elsewhere(tmp_path, elsewhere):
    assert not (tmp_path / "home/var").exists()
    assert main(["seal", "--home", str(tmp_path / "home")]) == 0
    assert IdentityFile(tmp_path / "id").load() is None
    assert not elsewhere.exists()


def test_an_agent_toml_that_cannot_be_read_is_no_guess_at_the_spool(tmp_path, spool, capsys):
    (tmp_path / "home/etc").mkdir(parents=True)
    (tmp_path / "home/etc/agent.toml").write_text('[spool]\ndri = "/flash"\n')
    assert main(["spool", "repair", "--home", str(tmp_path / "home")]) == 2
    assert "agent.toml:2: spool.dri" in capsys.readouterr().err
    assert main(["spool", "verify", "--dir", str(spool)]) == 0


def test_no_spool_is_said_with_where_to_look(tmp_path, capsys):
    assert main(["spool", "verify", "--home", str(tmp_path)]) == 2
    assert "spool.dir in agent.toml" in capsys.readouterr().err


def _text(capsys, action, tmp_path):
    capsys.readouterr()
    main(["spool", action, "--home", str(tmp_path / "home")])
    return capsys.readouterr().out
