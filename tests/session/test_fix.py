"""What we send: framing, times, the signed Logon, and the requests of market data."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfix_md.errors import UsageError
from kfix_md.session import fix
from kfix_md.session.types import SessionConfig
from tests.session.peer import NOON, Rig, frame_again, parse, stamp

KEY, SECRET = "key/abc", base64.b64encode(bytes(range(64))).decode()


def test_encode_gives_the_bytes_of_the_guide():
    # Kraken's own example of an instrument list request, its checksum included
    body = fix.instrument_list_request("SLS1000002", symbol="BTC/USD")
    sent = 1697104455_316_000_000
    guide = (
        "8=FIX.4.4|9=90|35=x|34=3|49=CLIENT|52=20231012-09:54:15.316|56=KRAKEN-MD|55=BTC/USD|"
        "320=SLS1000002|559=0|10=026|"
    )
    assert fix.encode("x", 3, "CLIENT", "KRAKEN-MD", sent, body) == guide.replace("|", "\x01").encode()


def test_a_rendered_body_gives_the_same_frame():
    body = [(55, "A\\xffB"), (320, b"7"), (559, 0), (58, "\u20ac"), (263, -1)]
    content = fix.render(iter(body))
    assert content == b"55=A\xffB\x01320=7\x01559=0\x0158=\xe2\x82\xac\x01263=-1\x01"
    assert fix.encode("x", 3, "A", "B", 0, content) == fix.encode("x", 3, "A", "B", 0, body)


def test_subscription_matches_the_guide():
    # the guide's sample was edited by hand: its 9 and 10 do not fit its own text
    raw = fix.encode("V", 3, "MYCOMPID", "KRAKEN-MD", 1688737341_000_000_000, fix.market_data_request("1", ["BTC/USD"]))
    guide = (
        "35=V|34=3|49=MYCOMPID|52=20230707-13:42:21.000|56=KRAKEN-MD|146=1|55=BTC/USD|"
        "262=1|263=1|264=0|265=1|267=3|269=0|269=1|269=2|"
    )
    assert raw.split(b"\x01", 2)[2].rpartition(b"10=")[0] == guide.replace("|", "\x01").encode()


def test_subscription_of_orders_asks_for_no_trades():
    body = fix.market_data_request("9", ["PF_ETHUSD", "PF_XBTUSD"], depth=10, level3=True)
    assert body[:5] == [(146, 2), (55, "PF_ETHUSD"), (55, "PF_XBTUSD"), (262, "9"), (263, 1)]
    assert body[5:] == [(264, 10), (265, 1), (266, "N"), (267, 2), (269, 0), (269, 1)]
    assert (263, 2) in fix.market_data_request("9", ["A"], unsubscribe=True)


def test_instrument_lists():
    assert fix.instrument_list_request("1") == [(320, "1"), (559, 4)]
    assert fix.instrument_list_request("1", security_type="FUT", updates=1) == [
        (320, "1"),
        (559, 1),
        (167, "FUT"),
        (263, 1),
    ]
    with pytest.raises(UsageError, match="not both"):
        fix.instrument_list_request("1", "BTC/USD", "CASH")
    with pytest.raises(UsageError, match="at least one symbol"):
        fix.market_data_request("1", [])


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_times_go_there_and_back(ns):
    text = fix.time_text(ns)
    assert text == stamp(ns)
    assert fix.parse_time(text.encode()) == ns // 10**6 * 10**6


@given(st.binary(max_size=30))
def test_any_bytes_are_a_time_or_none(data):
    assert fix.parse_time(data) is None or len(data) >= 17


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"20260310-12:00:00", NOON),
        (b"20260310-12:00:00.5", NOON + 500_000_000),
        (b"20260310-12:00:00.123456789", NOON + 123_456_789),
        (b"20260310-12:00:00.1234567899", NOON + 123_456_789),
        (b"20260310-12:00:00.123456789012", NOON + 123_456_789),
        (b"20260310-12:00:00." + b"0" * 5000 + b"1", NOON),
        (b"20260310-11:59:60.000", NOON),
        (b"20260230-12:00:00", None),
        (b"19600101-00:00:00", None),
        (b"20260310-24:00:00", None),
        (None, None),
    ],
)
def test_times_are_read_exactly(text, ns):
    assert fix.parse_time(text) == ns


def signature_by_hand(header, nonce):
    digest = hashlib.sha256(header.replace("|", "\x01").encode() + str(nonce).encode()).digest()
    return base64.b64encode(hmac.new(base64.b64decode(SECRET), digest, hashlib.sha512).digest()).decode()


def test_logon_signature_by_hand():
    header = f"35=A|34=1|49=CLIENT|56=KRAKEN-MD|553={KEY}|"
    expected = signature_by_hand(header, 1_773_144_000_000)
    assert fix.logon_signature(SECRET, KEY, 1, "CLIENT", "KRAKEN-MD", 1_773_144_000_000) == expected


def test_logon_signature_known_answer():
    # written down once from `openssl dgst` so that a change of both sides is seen
    known = fix.logon_signature(SECRET, KEY, 1, "CLIENT", "KRAKEN-MD", 1_773_144_000_000)
    assert known == ("yRaEbrUnA2TmiVHKSFIJ3qXKo0J4J3riJLwnb6pmak/vTkzPXLqpLwD2BCQXM7Z249uotPi/m2g2gTIqdr8z5Q==")


def test_signed_logon_on_the_wire():
    rig = Rig(api_key=KEY, api_secret=SECRET).connect()
    (logon,) = rig.take()
    assert logon[553] == KEY and logon[5025] == str(NOON // 10**6)
    assert logon[554] == signature_by_hand(f"35=A|34=1|49=CLIENT|56=KRAKEN-MD|553={KEY}|", logon[5025])
    assert logon["type"] == "A" and logon[141] == "Y"


def test_secret_that_is_not_base64():
    with pytest.raises(UsageError, match="not base64"):
        fix.logon_signature("not base64!", KEY, 1, "A", "B", 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"heartbeat": 0},
        {"heartbeat": 4000},
        {"api_key": "k"},
        {"api_secret": "s"},
        {"gap_timeout": 0},
        {"max_gap_messages": 0},
        {"sender": ""},
        {"sender": "A\x01B"},
        {"target": "A=B"},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UsageError):
        SessionConfig(**({"sender": "A", "target": "B"} | settings))


@pytest.mark.parametrize("value", ["", "a\x01b", b"\x01"])
def test_values_that_would_break_a_frame(value):
    with pytest.raises(UsageError):
        fix.encode("V", 1, "A", "B", NOON, [(262, value)])


@given(
    st.lists(
        st.tuples(st.integers(1, 99999), st.text(st.characters(codec="utf-8", exclude_characters="\x01"), min_size=1)),
        max_size=8,
    )
)
def test_every_frame_is_sound(body):
    raw = fix.encode("V", 7, "A", "B", NOON, body)
    fields = parse(raw)
    assert raw == frame_again(fields)
    assert fields[7:-1] == [(tag, value.encode()) for tag, value in body]
