"""A FIX 4.4 acceptor that plays Kraken's four market data gateways, for tests, demonstrations and chaos runs.

It shares no code with the decoder, the books or the session of this package, so that one mistake cannot
cancel itself: FIX is written and read by `wire`, CRCs are computed by zlib over integers.
"""
