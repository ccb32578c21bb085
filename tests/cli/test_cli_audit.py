"""`watchbill audit verify`, as a process: what it says when nobody can vouch for the end of the history."""


def test_without_any_witness_it_says_so_and_ends_well(admin):
    done = admin("audit", "verify")
    assert done.code == 0
    assert "0 of 0 witnesses agree" in done.out
    assert (
        "no witness: whether somebody with the collector's own key wrote the history anew, nobody can say"
        in (done.out)
    )


def test_a_host_that_was_asked_for_by_name_and_showed_no_head_is_a_failure(admin):
    done = admin("audit", "verify", "--witness", "web1,web2")
    assert done.code == 1
    assert "silent: web1, web2: no head of this audit was shown" in done.out
    document = admin("audit", "verify", "--witness", "web1", "--json")
    assert (document.code, document.json["ok"]) == (1, False)


def test_witnesses_without_a_name_are_a_mistake(admin):
    done = admin("audit", "verify", "--witness", " , ")
    assert done.code == 2
    assert "names no host" in done.err
