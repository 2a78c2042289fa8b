"""Which Logout texts (58) are about identity or limits, where no quick retry helps, and what to do about each."""

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """What a text is about, and what an operator can do."""

    topic: str  # credentials, whitelist, comp_id, limit, suspended
    advice: str


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


#: the first pattern that matches counts
_REFUSALS: tuple[tuple[re.Pattern[str], Refusal], ...] = (
    (
        _pattern(r"white.?list|allow.?list|\bip\b.{0,40}(address|allowed|permitted|registered|blocked)"),
        Refusal("whitelist", "the venue does not accept this machine's IP address: have it whitelisted for the CompID"),
    ),
    (
        _pattern(r"suspend|disabled|deactivat|revoked|expired|\bbann?ed\b|\bban\b|locked\b|block(ed|ing)?\b"),
        Refusal("suspended", "the venue has suspended or blocked this identity: ask Kraken support why"),
    ),
    (
        _pattern(
            r"rate.?limit|too many|limit (exceeded|reached)|exceed\w*.{0,20}limit|throttl|flood|max\w*.{0,20}connection"
        ),
        Refusal(
            "limit", "the venue limits connections or messages: check that nothing else uses this CompID, then wait"
        ),
    ),
    (
        _pattern(
            r"(unknown|invalid|unrecogni[sz]ed|incorrect|wrong|no such|unauthori[sz]ed|not found).{0,24}"
            r"(comp|sender|target|account|client|session)"
            r"|(comp.?id|sender|target|account|client).{0,24}"
            r"(not found|unknown|invalid|not (configured|recogni[sz]ed|registered))"
        ),
        Refusal(
            "comp_id", "the venue does not know this CompID: compare sender_comp_id and target_comp_id with Kraken's"
        ),
    ),
    (
        _pattern(
            r"auth|credential|signature|api.?key|password|nonce|permission|denied|not (permitted|allowed)"
            r"|(unknown|invalid).{0,24}key"
        ),
        Refusal("credentials", "the venue does not accept this identity: check sender_comp_id, api_key and api_secret"),
    ),
)
#: a text that names a passing state: near the rollover it is no statement about identity
_PASSING = _pattern(r"rollover|roll.over|maintenance|restart|reset|try again|retry|later|not (yet )?(available|ready)")


def refusal_of(text: str, near_rollover: bool = False) -> Refusal | None:
    """What a Logout text refuses for good, None when a retry may help.

    `near_rollover`: inside the window of the planned reset, where a text that names a passing state is one.
    """
    if near_rollover and _PASSING.search(text):
        return None
    return next((refusal for pattern, refusal in _REFUSALS if pattern.search(text)), None)


def explain(text: str) -> str:
    """Plain advice for an operator about a Logout text; "" when there is none."""
    refusal = refusal_of(text)
    return refusal.advice if refusal else ""
