"""Settings of a session and of its subscriptions, from their section of the configuration."""

from __future__ import annotations

from kfix_md.config import ServiceSection
from kfix_md.feed.checks import read_secret
from kfix_md.feed.pacing import SubscriptionSpec
from kfix_md.session.types import SessionConfig


def session_config(section: ServiceSection, rollover_s: int) -> SessionConfig:
    """Settings of the session of a [[service]]. Secrets are read here; UsageError when one is missing."""
    return SessionConfig(
        sender=section.sender_comp_id,
        target=str(section.target_comp_id),
        heartbeat=section.heartbeat_s,
        reset_on_logon=section.reset_seq_num,
        logon_timeout=section.logon_timeout_s,
        gap_timeout=section.gap_timeout_s,
        sending_time_limit=section.sending_time_limit_s,
        rollover_at=rollover_s,
        api_key=read_secret(section.api_key) if section.api_key else "",
        api_secret=read_secret(section.api_secret) if section.api_secret else "",
        logon_fields={int(tag): text for tag, text in section.logon_fields.items()},
    )


def subscription_spec(section: ServiceSection) -> SubscriptionSpec:
    """What a [[service]] subscribes."""
    return SubscriptionSpec(
        tuple(section.symbols),
        section.level,
        section.depth,
        bool(section.trades),
        section.spot,
        tuple(section.securities),
    )
