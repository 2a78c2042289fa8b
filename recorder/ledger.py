"""Hides how session events and admin messages become rows on what is held, what is missing and how it healed."""

import json
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from kfix_md.instruments import Instrument
from kfix_md.trading_day import session_bounds, session_date

TRADING_STATUS = {"0": "unknown", "1": "maintenance", "2": "online", "101": "cancel_only", "102": "post_only"}
GOOD = ("LIVE", "EMPTY", "HALTED")


class Ledger:
    """Rows of sessions, gaps, status and instruments, in the order of the journal.

    Its whole memory is `state`, plain JSON, so that a restarted recorder goes on where it stood:
      sessions: by the feed's session number, the current logon and its service
      gaps: open gaps by id, each with the symbols that have yet to come back
      next_session, last_ns
    """

    def __init__(self, state: dict | None = None):
        self.state = state or {"sessions": {}, "gaps": {}, "next_session": 1, "last_ns": 0, "status": {}}
        self.rows: dict[str, list[dict]] = defaultdict(list)
        self.unknown_events = 0

    def take(self) -> dict[str, list[dict]]:
        """Rows by table since the last call."""
        self._restate(self.state["last_ns"])
        rows, self.rows = self.rows, defaultdict(list)
        return rows

    def session(self, number: int) -> dict:
        """The current logon of a feed session."""
        key = str(number)
        if key not in self.state["sessions"]:
            self.state["sessions"][key] = {"service": f"session-{number}", "session": None, "books": {}}
        return self.state["sessions"][key]

    def ordinal(self, number: int, recv_ns: int) -> int:
        """Number of the current logon; one begins where the journal shows data without a logon."""
        current = self.session(number)
        if current["session"] is None:
            self._begin(current, recv_ns, {})
        return current["session"]

    # ---- events of the feed ----

    def event(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        """One event of the journal."""
        self.state["last_ns"] = recv_ns
        kind = str(event.get("type", ""))
        handler = getattr(self, f"_on_{kind}", None)
        if handler is None:
            self.unknown_events += 1
        else:
            handler(number, recv_ns, position, event)
        if kind not in ("book", "session", "released", "discarded"):
            self._status(recv_ns, number, None, "feed", kind, event.get("cause"), event)

    def _on_session(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        current = self.session(event.get("number", number))
        for key in ("service", "level", "host", "port", "sender", "target"):
            if event.get(key) is not None:
                current[key] = event[key]

    def _on_logged_on(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        current = self.session(number)
        if current["session"] is not None and not current["last_seq"] and not current["session_id"]:
            current["session_id"] = event.get("session_id")  # begun a moment ago, by a reset or by its own frames
            return self._session_row(current, None, None)
        self._end(current, recv_ns, "logged on again")
        self._begin(current, recv_ns, event)

    def _begin(self, current: dict, recv_ns: int, event: dict) -> None:
        current.update(
            session=self.state["next_session"],
            session_id=event.get("session_id"),
            started_ns=recv_ns,
            messages=0,
            rows=0,
            ignored=0,
            last_seq=None,
        )
        self.state["next_session"] += 1
        self._session_row(current, None, None)

    def _end(self, current: dict, ended_ns: int, reason: str) -> None:
        if current["session"] is not None:
            self._session_row(current, ended_ns, reason)
            current["last_session"], current["session"] = current["session"], None

    def _session_row(self, current: dict, ended_ns: int | None, reason: str | None) -> None:
        keys = (
            "session",
            "session_id",
            "service",
            "level",
            "host",
            "port",
            "sender",
            "target",
            "started_ns",
            "messages",
            "rows",
            "ignored",
            "last_seq",
        )
        self.rows["sessions"].append({k: current.get(k) for k in keys} | {"ended_ns": ended_ns, "reason": reason})

    def _on_disconnected(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        """The feed opens the gap of a lost session itself."""
        self._end(self.session(number), recv_ns, str(event.get("reason") or event.get("cause") or "disconnected"))

    def _on_reset(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        """Numbers begin anew inside one connection: a session of its own."""
        current = self.session(number)
        if current["session"] is not None and current["last_seq"]:
            self._end(current, recv_ns, f"sequence reset ({event.get('form')})")
            self._begin(current, recv_ns, {"session_id": current.get("session_id")})

    def _on_started(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        """A feed process began: whatever session was on died with the one before."""
        found = event.get("recovered") or {}
        lost = (found.get("torn_bytes") or 0) + (found.get("damaged_bytes") or 0)
        torn = f"; {lost} bytes of the journal behind its last sound record were lost" if lost else ""
        self._feed_down(recv_ns, position, f"the feed process was killed{torn}")

    def _on_stopped(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        self._feed_down(recv_ns, position, "the feed was stopped")

    def _feed_down(self, recv_ns: int, position: int, reason: str) -> None:
        for key, current in self.state["sessions"].items():
            since = max(current.get("last_ns") or 0, current.get("started_ns") or 0) or recv_ns
            waiting = [s for s, state in current["books"].items() if state != "INIT"]
            for row in self.state["gaps"].values():  # what the dead process had open, the next one heals
                if row["number"] == int(key) and not row["waiting"]:
                    row["waiting"], row["healed"] = list(waiting), "reconnect"
            if current["session"] is not None:
                self._open(position + int(key), int(key), since, "RESTART", waiting, detail=reason, healed="reconnect")
            self._end(current, since, reason)
            current["books"] = {}

    def _on_gap_open(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        symbols = event.get("symbols") or []
        self._open(
            position,
            number,
            recv_ns,
            str(event.get("cause") or "LOST").upper(),
            [],
            event.get("first"),
            event.get("last"),
            feed_id=event.get("id"),
            detail=event.get("detail"),
            symbol=symbols[0] if len(symbols) == 1 else None,
        )

    def _on_gap_close(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        for gap, row in list(self.state["gaps"].items()):
            if row["number"] == number and row.get("feed_id") == event.get("id") and row.get("feed_id") is not None:
                row["healed"] = event.get("healed") or "snapshot"
                for key, name in (("first_seq", "first"), ("last_seq", "last")):
                    row[key] = event.get(name, row[key])
                self._close(gap, recv_ns)

    def _on_book(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        symbol, state = event.get("symbol"), str(event.get("state", "")).upper()
        cause = str(event.get("cause") or "NONE").upper()
        current = self.session(number)
        before = current["books"].get(symbol, "INIT")
        current["books"][symbol] = state
        if before != state or cause != "NONE":
            self._status(recv_ns, number, symbol, "book", state, cause, event)
        if state in GOOD:
            self._back(number, symbol, recv_ns)
        elif state == "INIT":  # unsubscribed
            self._back(number, symbol, recv_ns)
            current["books"].pop(symbol, None)

    def _back(self, number: int, symbol: str, recv_ns: int) -> None:
        for gap, row in list(self.state["gaps"].items()):
            if row["number"] == number and symbol in row["waiting"]:
                row["waiting"].remove(symbol)
                if not row["waiting"]:
                    self._close(gap, recv_ns)

    # what else a feed may say: recorded in status, no further meaning here
    def _on_connected(self, *_: Any) -> None: ...

    def _on_subscribed(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        self.session(number)["books"].setdefault(event.get("symbol"), "SYNCING")
        for gap, row in list(self.state["gaps"].items()):  # a session that had no book yet is back with its first
            if row["number"] == number and row["healed"] == "reconnect" and not row["waiting"]:
                self._close(gap, recv_ns)

    def _on_unsubscribed(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        self._back(number, str(event.get("symbol")), recv_ns)
        self.session(number)["books"].pop(event.get("symbol"), None)

    _on_rollover = _on_released = _on_discarded = _on_checksum_rule = _on_refused = _on_connected
    _on_trading_status = _on_garbled = _on_clock_warning = _on_connected

    # ---- the journal itself ----

    def _on_journal_lost(self, number: int, recv_ns: int, position: int, event: dict) -> None:
        self._open(
            position,
            number,
            event.get("first", recv_ns),
            "JOURNAL_LOST",
            [],
            lost=event.get("count"),
            detail=f"{event.get('count')} records were not stored: no room",
            session=None,
        )
        self._close(str(position), event.get("last", recv_ns))

    def damage(self, position: int, skipped: int, text: str) -> None:
        """Bytes of the journal that cannot be read."""
        now = self.state["last_ns"]
        self._open(position, -1, now, "JOURNAL_DAMAGE", [], lost=skipped, detail=text, session=None)
        self._close(str(position), now)

    # ---- gaps ----

    def _open(
        self,
        position: int,
        number: int,
        ns: int,
        cause: str,
        waiting: list,
        first: int | None = None,
        last: int | None = None,
        *,
        symbol: str | None = None,
        feed_id: Any = None,
        lost: int | None = None,
        detail: str | None = None,
        healed: str | None = None,
        session: int | None = -1,
    ) -> None:
        current = self.session(number) if number >= 0 else {"service": None, "session": None}
        if session == -1:  # the feed tells of a lost session's gap right behind its end
            session = current["session"] if current["session"] is not None else current.get("last_session")
        row = {
            "number": number,
            "session": session,
            "service": current["service"],
            "symbol": symbol,
            "cause": cause,
            "planned": cause == "ROLLOVER",
            "opened_ns": ns,
            "first_seq": first,
            "last_seq": last,
            "lost": lost,
            "detail": detail,
            "waiting": list(waiting),
            "feed_id": feed_id,
            "healed": healed,
        }
        while str(position) in self.state["gaps"]:
            position += 1  # records are 8 bytes apart at least: numbers in between are free
        self.state["gaps"][str(position)] = row
        self._gap_row(str(position), row, None)

    def _close(self, gap: str, ns: int) -> None:
        row = self.state["gaps"].pop(gap)
        row["healed"] = row["healed"] or ("snapshot" if row["waiting"] or row["symbol"] else None)
        self._gap_row(gap, row, ns)

    def _gap_row(self, gap: str, row: dict, closed_ns: int | None) -> None:
        shown = {k: v for k, v in row.items() if k not in ("number", "waiting", "feed_id")}
        healed = row["healed"] if closed_ns is not None else None
        self.rows["gaps"].append(shown | {"gap": int(gap), "closed_ns": closed_ns, "healed": healed})

    # ---- messages ----

    def instruments(self, number: int, recv_ns: int, listed: list[Instrument], level: str | None) -> None:
        """Instruments of a 35=y: a row for each that is new or not as it was."""
        self._restate(recv_ns)
        ordinal = self.ordinal(number, recv_ns)
        self.session(number)["listed_level"] = level
        known = self.session(number).setdefault("instruments", {})
        for one in listed:
            row = asdict(one) | {"status": one.status.name.lower()}
            symbol, before = row["symbol"], known.get(row["symbol"])
            if before == row:
                continue
            known[symbol] = row
            self.rows["instruments"].append(row | {"recv_ns": recv_ns, "session": ordinal, "level": level})
            if before is None or before["status"] != row["status"]:
                self._status(recv_ns, number, symbol, "instrument", row["status"], None, row)

    def _restate(self, now_ns: int) -> None:
        """Every session date begins with all that was known of instruments: none has to be looked up in another."""
        start = session_bounds(session_date(now_ns))[0]
        if start > self.state.get("stated_ns", start):
            for current in self.state["sessions"].values():
                ordinal = current["session"] if current["session"] is not None else current.get("last_session")
                told = {"recv_ns": start, "session": ordinal, "level": current.get("listed_level")}
                self.rows["instruments"] += [row | told for row in current.get("instruments", {}).values()]
        self.state["stated_ns"] = max(start, self.state.get("stated_ns", start))

    def trading_status(self, number: int, recv_ns: int, fields: dict[int, str]) -> None:
        """35=h TradingSessionStatus."""
        state = fields.get(340)
        self._status(recv_ns, number, None, "trading_session", TRADING_STATUS.get(state or "", state), None, fields)

    def counted(self, number: int, messages: int, rows: int, ignored: int, last_seq: int, last_ns: int) -> None:
        """What the decoder of a feed session has seen since it was asked last."""
        current = self.session(number)
        if not messages:
            return
        self.ordinal(number, last_ns)
        current["messages"] += messages
        current["rows"] += rows
        current["ignored"] += ignored
        current["last_seq"] = max(current["last_seq"] or 0, last_seq) or None
        current["last_ns"] = last_ns
        self.state["last_ns"] = max(self.state["last_ns"], last_ns)

    def _status(
        self, recv_ns: int, number: int, symbol: str | None, kind: str, state: str | None, cause: Any, detail: dict
    ) -> None:
        current = self.session(number)
        self.rows["status"].append(
            {
                "recv_ns": recv_ns,
                "session": current["session"],
                "service": current["service"],
                "symbol": symbol,
                "kind": kind,
                "state": state,
                "cause": None if cause is None else str(cause),
                "detail": json.dumps(detail),
            }
        )
