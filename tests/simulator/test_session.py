"""The venue's side of a session, over TLS, against a plain client."""

from .venue import Client, running_venue, value, venue  # noqa: F401


def test_logon_list_subscribe(venue):  # noqa: F811
    client = Client(venue, "spot-l2")
    reply = client.logon()
    assert value(reply, 35) == "A" and value(reply, 34) == "1" and value(reply, 141) == "Y"
    client.send("x", [(320, "R1"), (559, 4), (263, 0)])
    listing = client.message()
    assert value(listing, 35) == "y" and value(listing, 560) == "0" and value(listing, 146) == "4"
    client.subscribe("M1", "BTC/USD", "NO/SUCH", "ETH/USD", types=(0, 1, 2))
    kinds = [(value(m, 35), value(m, 55)) for m in (client.message(), client.message(), client.message())]
    assert kinds == [("W", "BTC/USD"), ("Y", "NO/SUCH"), ("W", "ETH/USD")]
    venue.control("resume")
    seen = client.until("X", count=5)
    assert [int(value(m, 34)) for m in seen] == list(range(6, 6 + len(seen)))
    client.close()
