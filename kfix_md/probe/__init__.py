"""Finds out what a real gateway does where its documentation is silent: `kfix probe`."""
