"""Streams of our own in Kraken's dialect: seeded, with books that follow: for tests and benchmarks."""

from tests.streams.generate import SERVICES, Stream, generate
from tests.streams.market import Instrument, L2Market, L3Market, Row

__all__ = ["SERVICES", "Instrument", "L2Market", "L3Market", "Row", "Stream", "generate"]
