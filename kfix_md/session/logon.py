"""Our Logons: what they carry, and which Logon of the peer confirms one that began a new numbering."""

from collections import deque

from kfix_md.journal.events import LoggedOn
from kfix_md.session import fix
from kfix_md.session.link import Link
from kfix_md.session.message import Message
from kfix_md.session.types import SECOND

#: answered resets in this time that end the session: the peer never stops
_MAX_RESETS, _RESETS_NS = 5, 10 * SECOND


class Logon:
    """The Logon of a connection, and the in-session ones (141=Y) that begin a new numbering."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.requested_reset = True  # our Logon carried 141=Y
        self.session_id = ""
        self._unconfirmed_ns = 0  # an in-session Logon of ours went out then and nothing confirmed it
        self._answered: deque[int] = deque(maxlen=_MAX_RESETS)

    def send(self, reset: bool, now_ns: int) -> None:
        """The first message of a connection."""
        config, sequence = self._link.config, self._link.sequence
        self.requested_reset, self._unconfirmed_ns = reset, 0
        self._answered.clear()
        body = fix.logon(config.heartbeat, reset, sequence.expected if config.next_expected else None)
        if config.api_key:
            key, secret = config.api_key, config.api_secret
            body += fix.credentials(key, secret, sequence.outgoing, config.sender, config.target, now_ns)
        self._link.transmit("A", body + self._more(), now_ns)

    def accepted(self, heartbeat_s: int, now_ns: int) -> None:
        """The peer's Logon answered ours."""
        link, sequence = self._link, self._link.sequence
        stamp = fix.time_text(now_ns).replace(":", "")
        self.session_id = f"{link.config.sender}-{link.config.target}-{stamp}"
        logged_on = LoggedOn(
            self.session_id, heartbeat_s, self.requested_reset, next_in=sequence.expected, next_out=sequence.outgoing
        )
        link.event(now_ns, logged_on)

    def answer_reset(self, heartbeat_s: int, now_ns: int) -> None:
        """Answer an in-session Logon 141=Y by one of ours."""
        self._unconfirmed_ns = now_ns
        self._answered.append(now_ns)
        self._link.transmit("A", fix.logon(heartbeat_s, reset=True) + self._more(), now_ns)

    def confirms(self, m: Message) -> bool:
        """Whether an in-session Logon confirms ours: the first one within logon_timeout of it."""
        window_ns = int(self._link.config.logon_timeout * SECOND)
        if not self._unconfirmed_ns or m.recv_ns - self._unconfirmed_ns > window_ns:
            return False
        if m.get(fix.RESET_SEQ_NUM) != b"Y" and m.seq != self._link.sequence.expected:
            return False
        self._unconfirmed_ns = 0
        return True

    def resets_without_end(self, now_ns: int) -> bool:
        """The peer began a new numbering too often."""
        return len(self._answered) == _MAX_RESETS and now_ns - self._answered[0] < _RESETS_NS

    def _more(self) -> fix.Body:
        return list(self._link.config.logon_fields.items())
