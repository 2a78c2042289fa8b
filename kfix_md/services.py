"""The venue's market data services: name, port, TargetCompID, market and level of each, written once."""

from __future__ import annotations

from typing import Literal, NamedTuple

Market = Literal["spot", "derivatives"]
Level = Literal["L2", "L3"]


class ServiceSpec(NamedTuple):
    """One FIX market data service of the venue, as Kraken's documentation lists it (page "FIX API")."""

    name: str
    port: int  # TCP port of the gateway
    target_comp_id: str  # 56 of what we send
    market: Market
    level: Level


#: Every service by name. Ports 4001 and 4003 are order entry and not part of this project.
SERVICES: dict[str, ServiceSpec] = {
    spec.name: spec
    for spec in (
        ServiceSpec("spot-l2", 4000, "KRAKEN-MD", "spot", "L2"),
        ServiceSpec("derivatives-l2", 4002, "KRAKEN-DRV-MD", "derivatives", "L2"),
        ServiceSpec("derivatives-l3", 4004, "KRAKEN-DRV-MD", "derivatives", "L3"),
        ServiceSpec("spot-l3", 4005, "KRAKEN-MD", "spot", "L3"),
    )
}

#: Lowest port of the venue; `kfix simulate --port-base` replaces it.
PORT_BASE = min(spec.port for spec in SERVICES.values())
