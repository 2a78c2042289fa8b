"""From the moment a session delivers nothing more its books are void, and market data is ignored."""

import pytest

from tests.session.peer import SECOND, TEN_PM, Rig

ENDS = {
    "our Logout": lambda rig: rig.session.logout(rig.now),
    "their Logout": lambda rig: rig.peer("5", (58, "maintenance")),
    "their Logout ahead of a gap": lambda rig: rig.peer("5", seq=9),
    "a fatal fault": lambda rig: rig.peer("0", begin="FIX.4.2"),
    "too low": lambda rig: rig.data(seq=2),
    "silence": lambda rig: rig.wait(150),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_application_hears_of_it_at_once_and_once(end):
    rig = Rig(logout_timeout=500, peer_close_timeout=500).logon()
    rig.data()
    assert rig.app.left == []
    ENDS[end](rig)
    assert rig.app.left == [False] and not rig.session.fast
    opened = rig.events("gap_open")
    assert [event["last"] for event in opened] == [None], "the gap begins here, not when the socket closes"
    rig.session.tick(rig.now)
    rig.session.disconnected(rig.now, "fin")
    assert rig.app.left == [False] and rig.events("gap_open") == opened


def test_near_the_rollover_it_is_planned():
    rig = Rig(now=TEN_PM - 30 * SECOND).logon()
    rig.peer("5", (58, "rollover"))
    assert rig.app.left == [True] and rig.events("gap_open")[0]["cause"] == "rollover"


def test_our_own_logout_is_not_planned_and_leaves_a_restart():
    rig = Rig(now=TEN_PM - 30 * SECOND).logon()
    rig.session.logout(rig.now)
    assert rig.app.left == [False] and rig.events("gap_open")[0]["cause"] == "restart"


def test_each_connection_has_its_own():
    rig = Rig().logon()
    for _ in range(2):
        rig.peer("5")
        rig.session.disconnected(rig.now, "fin")
        rig.session.disconnected(rig.now, "refused")
        rig.seq = 1
        rig.logon()
    assert rig.app.left == [False, False]


def test_a_connection_that_is_lost_needs_no_other_call():
    rig = Rig().logon()
    rig.session.disconnected(rig.now, "rst")
    assert rig.app.left == [] and len(rig.events("gap_open")) == 1


def test_market_data_after_our_logout_is_ignored_and_its_number_kept():
    rig = Rig().logon()
    rig.session.logout(rig.now)
    rig.take()
    assert rig.data() == 4 and rig.peer("W", (55, "BTC/USD"), (262, "1"), (268, 0)) == 4
    assert rig.applied == [] and rig.expected == 4
    assert rig.data(seq=9) == 4
    assert rig.take() == [] and rig.expected == 4, "what is missing now is requested by the next session"
    rig.peer("1", (112, "T"), seq=4)
    rig.peer("4", (123, "Y"), (36, 9), seq=5)
    assert [m["type"] for m in rig.take()] == ["0"] and rig.expected == 9


def test_messages_kept_in_a_gap_are_never_applied_after_a_logout():
    rig = Rig().logon()
    rig.data(seq=5)
    rig.session.logout(rig.now)
    for seq in (2, 3, 4):
        assert rig.data(seq=seq, dup=True) == 4
    assert rig.applied == [] and rig.events("discarded") == [{"type": "discarded", "first": 5, "last": 5}]


def test_a_close_that_we_begin_ends_within_a_second():
    rig = Rig().logon()
    rig.session.logout(rig.now)
    rig.wait(0.9, 0.1)
    assert rig.closed.kind == "logout"
