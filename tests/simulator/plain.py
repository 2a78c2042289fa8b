"""The plainest book a test can compare a stream with: Decimals in dicts, zlib over text."""

import zlib
from decimal import Decimal


def groups(message, first):
    """Repeating groups of a message that start with tag `first`, as dicts."""
    found = []
    for tag, text in message:
        if tag == first:
            found.append({})
        if found and tag not in (5041, 10):
            found[-1][tag] = text
    return found


def places(number):
    """Decimals of a Decimal as it was written."""
    return max(0, -number.as_tuple().exponent)


class PlainBook:
    """What one subscription shows. Keys are order ids on L3 and (side, price) on L2."""

    def __init__(self, level, price_precision, qty_precision):
        self.level, self.price_precision, self.qty_precision = level, price_precision, qty_precision
        self.rows = {}
        self.trades, self.others, self.trims = [], [], False
        self.checked = 0

    def apply(self, message, check_crc=True, rule="order"):
        """Apply one W or X; the CRC is asserted unless `check_crc` is false."""
        kind = dict(message)[35]
        if kind == "W":
            self.rows.clear()
        entries = groups(message, 279 if kind == "X" else 269)
        assert len(entries) == int(dict(message)[268])
        for entry in entries:
            self.take(entry)
        crc = dict(message).get(5041)
        if crc and check_crc:
            assert self.crc(rule) == int(crc), message
            self.checked += 1

    def take(self, entry):
        """Apply one entry."""
        side, price, qty = entry[269], Decimal(entry[270]), Decimal(entry[271])
        if side == "2":
            self.trades.append((price, qty, entry[40], entry[2446]))
            return
        if side not in "01":
            self.others.append(side)
            return
        key = entry[278] if self.level == "L3" else (side, price)
        action = entry.get(279, "0")
        if action == "2" and self.trims and key not in self.rows:
            return
        assert (key in self.rows) == (action != "0"), f"279={action} of {key}"
        if action == "2":
            assert self.rows[key][:2] == (side, price)
            del self.rows[key]
        else:
            assert qty > 0
            self.rows[key] = (side, price, qty, entry.get(5273, ""))

    def trim(self, depth):
        """Drop what is beyond `depth` levels a side, as a client does when the venue sends no delete for it."""
        self.trims = True
        for side in "01":
            inside = {price for price, _ in self.side(side)[:depth]}
            self.rows = {k: row for k, row in self.rows.items() if row[0] != side or row[1] in inside}

    def side(self, side):
        """[(price, [quantities in queue order])], best first. Numbers keep the decimals they were sent with."""
        levels = {}
        for where, price, qty, _ in sorted(self.rows.values(), key=lambda row: row[3]):
            if where == side:
                levels.setdefault(price, []).append(qty)
        return sorted(levels.items(), reverse=side == "0")

    def crc(self, rule="order"):
        """5041 as protocol text: digits, no dot, no leading zeros; `rule` is a value of `--vary checksum=`."""
        sides = ("0", "1") if rule == "unknown" else ("1", "0")
        text = ""
        for side in sides:
            for price, queue in self.side(side)[:10]:
                quantities = queue
                if not rule.startswith("order"):
                    most = max(places(qty) for qty in queue)
                    quantities = [sum(queue).quantize(Decimal(1).scaleb(-most))]
                for qty in quantities:
                    at, of = self.digits(price, self.price_precision, rule), self.digits(qty, self.qty_precision, rule)
                    text += of + at if rule == "unknown" else at + of
        return zlib.crc32(text.encode())

    def digits(self, number, precision, rule):
        """A number printed at the precision, or as sent."""
        return str(int(number.scaleb(places(number) if rule.endswith("-sent") else precision)))

    def totals(self, depth=None):
        """((price, quantity, orders) of bids, of offers), best first; orders is 0 on L2."""
        return tuple(
            [(price, sum(qty), len(qty) if self.level == "L3" else 0) for price, qty in self.side(side)[:depth]]
            for side in ("0", "1")
        )

    def same_as(self, truth, depth=None):
        """Whether a `truth` answer has the same levels."""
        wanted = tuple([(Decimal(p), Decimal(q), n) for p, q, n in truth[name][:depth]] for name in ("bids", "offers"))
        return wanted == self.totals(depth)
