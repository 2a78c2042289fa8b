"""kfix-md: Kraken's FIX 4.4 market data as verified books in shared memory."""

__version__ = "0.1.0"
