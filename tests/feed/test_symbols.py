"""Other spellings are accepted when the instrument list leaves one reading, else rejected with near matches."""

import pytest

from kfix_md.feed.symbols import SymbolTable

SPOT = ["BTC/USD", "BTC/EUR", "ETH/USD", "ETH/BTC", "DOGE/USD", "XRP/USD", "USDT/USD"]
DERIVATIVES = ["PI_XBTUSD", "PF_XBTUSD", "PF_ETHUSD", "FI_XBTUSD_261225"]


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("BTC/USD", "BTC/USD"),
        ("XBT/USD", "BTC/USD"),
        ("XXBTZUSD", "BTC/USD"),
        ("btc-usd", "BTC/USD"),
        ("XBTUSD", "BTC/USD"),
        ("XETHXXBT", "ETH/BTC"),
        ("XDGUSD", "DOGE/USD"),
        ("XXRPZUSD", "XRP/USD"),
    ],
)
def test_spot_spellings(text, symbol):
    assert SymbolTable(SPOT).resolve(text) == symbol


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("PI_XBTUSD", "PI_XBTUSD"),
        ("pf_xbtusd", "PF_XBTUSD"),
        ("PF_BTCUSD", "PF_XBTUSD"),
        ("FI_BTCUSD_261225", "FI_XBTUSD_261225"),
    ],
)
def test_derivative_spellings(text, symbol):
    assert SymbolTable(DERIVATIVES).resolve(text) == symbol


def test_patterns():
    assert SymbolTable(SPOT).match("*/USD") == (["BTC/USD", "DOGE/USD", "ETH/USD", "USDT/USD", "XRP/USD"], False)
    assert SymbolTable(DERIVATIVES).match("pf_*") == (["PF_ETHUSD", "PF_XBTUSD"], True)
    assert SymbolTable(SPOT).match("*") == (sorted(SPOT), False)


MIXED = ["AAPLx/USD", "AVAX/USD", "TRX/USD", "TSLAx/USD", "PF_AAPLxUSD", "PF_AVAXUSD"]


def test_case_decides_before_it_is_ignored():
    table = SymbolTable(MIXED)
    assert table.match("*x/USD") == (["AAPLx/USD", "TSLAx/USD"], False)
    assert table.match("*X/USD") == (["AVAX/USD", "TRX/USD"], False)
    assert table.match("AAPLx*") == (["AAPLx/USD"], False)
    assert table.match("aapl*") == (["AAPLx/USD"], True)
    found = table.select(["*/USD", "!*x/USD"])
    assert found.symbols == ["AVAX/USD", "TRX/USD"] and not found.warnings and not found.unknown
    found = table.select(["avax/*"])
    assert found.symbols == ["AVAX/USD"] and "matches only when upper and lower case are ignored" in found.warnings[0]


def test_a_name_in_its_own_case_is_preferred():
    table = SymbolTable(["AAPLx/USD", "AAPLX/USD"])
    assert table.resolve("AAPLx/USD") == "AAPLx/USD"
    assert table.resolve("AAPLx-USD") == "AAPLx/USD" and table.resolve("AAPLXUSD") == "AAPLX/USD"
    with pytest.raises(LookupError, match="may mean AAPLX/USD or AAPLx/USD"):
        table.resolve("aaplx/usd")


def test_another_kind_of_product_is_never_guessed():
    with pytest.raises(LookupError, match=r"no instrument 'PI_XBTUSD'; near: .*BTC/USD"):
        SymbolTable(SPOT).resolve("PI_XBTUSD")
    with pytest.raises(LookupError, match=r"near: .*PF_ETHUSD"):
        SymbolTable(DERIVATIVES).resolve("PI_ETHUSD")


def test_doubt_is_refused_with_the_readings():
    table = SymbolTable(["XBT/USD", "BTC/USD", "ABC/DE", "AB/CDE"])
    assert table.resolve("BTC/USD") == "BTC/USD"
    with pytest.raises(LookupError, match="may mean BTC/USD or XBT/USD"):
        table.resolve("XXBTZUSD")
    with pytest.raises(LookupError, match="may mean AB/CDE or ABC/DE"):
        table.resolve("ABCDE")


def test_select_keeps_order_excludes_and_reports():
    found = SymbolTable(SPOT).select(["ETH/USD", "*/USD", "!USDT/*", "NO/SUCH", "ETC*"])
    assert found.symbols == ["ETH/USD", "BTC/USD", "DOGE/USD", "XRP/USD"]
    assert list(found.unknown) == ["NO/SUCH"] and "'NO/SUCH'" in found.unknown["NO/SUCH"]
    assert found.warnings == ["pattern 'ETC*' matches none of 7 instruments"]


def test_symbols_that_are_not_ascii():
    table = SymbolTable(["BTC/USD", "ÄÖ/USD", "ßX/USD"])
    assert table.match("ÄÖ*") == (["ÄÖ/USD"], False) and table.resolve("äö/usd") == "ÄÖ/USD"
    assert table.resolve("ßX/USD") == "ßX/USD"
