"""Plays Kraken's four market data gateways as a FIX 4.4 acceptor, for tests, demonstrations and chaos runs.

It shares no code with the decoder, the books or the session of this package, so that no mistake is made on both
sides and goes unnoticed: `wire` reads and writes FIX, zlib computes the CRCs.
"""
