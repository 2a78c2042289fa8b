"""Journals on other machines: what `kfix ship` sends through a broker, `kfix mirror` stores at the same place."""
