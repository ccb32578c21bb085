"""`watchbill notify`, as a process."""


def test_a_channel_that_works(admin, served):
    done = admin("notify", "test", "ops")
    assert (done.code, done.out) == (0, "Delivered by email in 0.1 s: 250 accepted\n")
    assert served.twins.channels.tested[-1][0] == "ops"
    document = admin("notify", "test", "ops", "--json").json
    assert document["delivered"] is True
    assert document["detail"] == "250 accepted"


def test_a_channel_that_does_not(admin):
    done = admin("notify", "test", "broken")
    assert done.code == 1
    assert (
        "not delivered: https://hooks.example: connection refused (it may work when tried again)" in done.err
    )
    assert "try: check the address" in done.err
    document = admin("notify", "test", "broken", "--json")
    assert (document.code, document.json["delivered"]) == (1, False)


def test_a_channel_that_is_not_there(admin):
    done = admin("notify", "test", "opps")
    assert done.code == 1
    assert "there are: broken, ops" in done.err


def test_a_test_needs_more_than_reading(ask, served):
    before = len(served.twins.channels.tested)
    done = ask("notify", "test", "ops")
    assert done.code == 6
    assert len(served.twins.channels.tested) == before
