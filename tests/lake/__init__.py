"""Captures as Delta tables."""
