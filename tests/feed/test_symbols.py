"""Other spellings are understood when the instrument list leaves no doubt, else refused with near matches."""

import pytest

from kfix_md.feed.symbols import SymbolTable, select

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
    assert SymbolTable(SPOT).resolve(text) == [symbol]


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
    assert SymbolTable(DERIVATIVES).resolve(text) == [symbol]


def test_patterns():
    assert SymbolTable(SPOT).resolve("*/USD") == ["BTC/USD", "DOGE/USD", "ETH/USD", "USDT/USD", "XRP/USD"]
    assert SymbolTable(DERIVATIVES).resolve("pf_*") == ["PF_ETHUSD", "PF_XBTUSD"]
    assert SymbolTable(SPOT).resolve("*") == sorted(SPOT)


def test_another_kind_of_product_is_never_guessed():
    with pytest.raises(LookupError, match=r"no instrument 'PI_XBTUSD'; near: .*BTC/USD"):
        SymbolTable(SPOT).resolve("PI_XBTUSD")
    with pytest.raises(LookupError, match=r"near: .*PF_ETHUSD"):
        SymbolTable(DERIVATIVES).resolve("PI_ETHUSD")


def test_doubt_is_refused_with_the_readings():
    table = SymbolTable(["XBT/USD", "BTC/USD", "ABC/DE", "AB/CDE"])
    assert table.resolve("BTC/USD") == ["BTC/USD"]
    with pytest.raises(LookupError, match="may mean BTC/USD or XBT/USD"):
        table.resolve("XXBTZUSD")
    with pytest.raises(LookupError, match="may mean AB/CDE or ABC/DE"):
        table.resolve("ABCDE")


def test_select_keeps_order_excludes_and_complains():
    wanted, complaints = select(["ETH/USD", "*/USD", "!USDT/*", "NO/SUCH", "ETC*"], SPOT)
    assert wanted == ["ETH/USD", "BTC/USD", "DOGE/USD", "XRP/USD"]
    assert len(complaints) == 2
    assert "'NO/SUCH'" in complaints[0] and "'ETC*'" in complaints[1]
