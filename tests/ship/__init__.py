"""Replication of journals through a real broker."""
