// A plain C++ FIX reader in the style of the fast field-iterator libraries, and plain C++ books.
//
// The reader walks the fields one by one, as hffix does: tag by atoi up to '=', value byte by byte up to SOH, every tag
// looked up among those that state the length of a data field, whose value may hold SOH; then the value is converted.
// It assumes no field order. Nothing here is clever; it is what a good C++ programmer writes first, and what
// the figures of this project are compared with. Compiled at run time by `python -m benchmarks`.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "decoder.h"

namespace {

constexpr char SOH = 1;

// FIX 4.4 and 5.0: tags that state the length of the data field after them
int length_tags[] = {90,  93,  95,  212, 348,  350,  352,  354,  356,  358,  360, 362,
                     364, 445, 618, 621, 1184, 1277, 1280, 1282, 1397, 1401, 1404};

// one field at p; returns where the next one starts. A frame ends with SOH, so that no end is needed
inline const char* next_field(const char* p, Field& f) {
    int tag = 0;
    for (; *p != '='; ++p)
        tag = tag * 10 + (*p - '0');
    f.begin = f.end = ++p;
    while (*f.end != SOH)
        ++f.end;
    if (std::find(std::begin(length_tags), std::end(length_tags), tag) != std::end(length_tags)) {
        int64_t n = 0;
        for (p = f.begin; p < f.end; ++p)
            n = n * 10 + (*p - '0');
        for (++p, tag = 0; *p != '='; ++p)
            tag = tag * 10 + (*p - '0');
        f.begin = p + 1, f.end = f.begin + n;
    }
    f.tag = tag;
    return f.end + 1;
}

struct PlainWalk {
    const char *p, *tail;
    bool whole = false;
    char type = 0;

    PlainWalk(const char* at, const char* stop) : p(at), tail(at) {
        if (stop - at <= 20 || std::memcmp(at,
                                           "8=FIX.4.4\x01"
                                           "9=",
                                           12))
            return;
        int64_t length = 0;
        for (p += 12; *p != SOH; ++p)
            length = length * 10 + (*p - '0');
        tail = ++p + length;
        whole = tail + 7 <= stop;
        type = p[3];
    }

    bool next(Field& f) {
        if (p >= tail)
            return false;
        p = next_field(p, f);
        return true;
    }
};

// ---- books ----

struct Level {
    int64_t price, qty;
};

inline bool before(int side, int64_t a, int64_t b) {
    return side ? a > b : a < b;
}  // worse prices first

// scan from the best for a while, then a binary search
template <class Levels>
inline size_t place(const Levels& levels, int side, int64_t price) {
    size_t i = levels.size(), near = i > 8 ? i - 8 : 0;
    while (i > near && !before(side, levels[i - 1].price, price))
        --i;
    if (i > near || near == 0)
        return i;
    size_t low = 0;
    while (low < i) {
        size_t mid = (low + i) / 2;
        if (before(side, levels[mid].price, price))
            low = mid + 1;
        else
            i = mid;
    }
    return i;
}

uint32_t crc_table[256];
bool crc_ready = [] {
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int k = 0; k < 8; ++k)
            c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        crc_table[i] = c;
    }
    return true;
}();

inline uint32_t crc_number(uint32_t crc, int64_t v) {
    char text[20];
    int n = 0;
    for (; v > 0; v /= 10)
        text[n++] = char('0' + v % 10);
    while (n > 0)
        crc = crc_table[(crc ^ uint8_t(text[--n])) & 255] ^ (crc >> 8);
    return crc;
}

struct FlatBook {  // L2
    std::vector<Level> sides[2];
    FlatBook() {
        sides[0].reserve(4096), sides[1].reserve(4096);
    }
    void clear() {
        sides[0].clear(), sides[1].clear();
    }
    void apply(const Entry& e) {
        if (e.side > 1)
            return;
        auto& levels = sides[e.side];
        size_t i = place(levels, e.side, e.price);
        bool there = i < levels.size() && levels[i].price == e.price;
        if (e.action >= 2 || e.qty == 0) {
            if (there)
                levels.erase(levels.begin() + i);
        } else if (there) {
            levels[i].qty = e.qty;
        } else {
            levels.insert(levels.begin() + i, Level{e.price, e.qty});
        }
    }
    uint32_t crc() const {
        uint32_t c = 0xFFFFFFFFu;
        for (int side : {1, 0}) {
            const auto& levels = sides[side];
            for (size_t k = 0; k < std::min<size_t>(10, levels.size()); ++k) {
                const Level& level = levels[levels.size() - 1 - k];
                c = crc_number(crc_number(c, level.price), level.qty);
            }
        }
        return c ^ 0xFFFFFFFFu;
    }
    uint64_t digest() const {
        return (sides[0].empty() ? 0 : sides[0].back().price) ^ (sides[1].empty() ? 0 : sides[1].back().qty);
    }
};

struct Order {
    int64_t price, qty, queue_ns;
    uint64_t hi, lo;
    int32_t prev, next;
    uint8_t side;
};

struct Queue {
    int64_t price, qty;
    int32_t head, tail, count;
};

struct Key {
    uint64_t hi, lo;
    bool operator==(const Key& o) const {
        return hi == o.hi && lo == o.lo;
    }
};

struct OrderBook {  // L3: open addressing from id to slab row, flat levels, a linked queue per level
    std::vector<Queue> sides[2];
    std::vector<Order> slab;
    std::vector<int32_t> free_rows, table = std::vector<int32_t>(1 << 16, -1);
    size_t live = 0;

    static uint64_t hash(uint64_t hi, uint64_t lo) {
        return (hi ^ lo * 0x9E3779B97F4A7C15ull) * 0xD6E8FEB86659FD93ull >> 32;
    }
    size_t mask() const {
        return table.size() - 1;
    }
    int32_t find(uint64_t hi, uint64_t lo, size_t& at) const {
        for (at = hash(hi, lo) & mask(); table[at] >= 0; at = (at + 1) & mask())
            if (slab[table[at]].hi == hi && slab[table[at]].lo == lo)
                return table[at];
        return -1;
    }
    void clear() {
        sides[0].clear(), sides[1].clear(), slab.clear(), free_rows.clear();
        std::fill(table.begin(), table.end(), -1);
        live = 0;
    }
    void grow() {
        std::vector<int32_t> old = std::move(table);
        table.assign(old.size() * 2, -1);
        for (int32_t row : old) {
            if (row < 0)
                continue;
            size_t at = hash(slab[row].hi, slab[row].lo) & mask();
            while (table[at] >= 0)
                at = (at + 1) & mask();
            table[at] = row;
        }
    }
    void unlink(size_t hole) {
        for (size_t at = (hole + 1) & mask(); table[at] >= 0; at = (at + 1) & mask()) {
            size_t home = hash(slab[table[at]].hi, slab[table[at]].lo) & mask();
            if (((at - home) & mask()) >= ((at - hole) & mask()))
                table[hole] = table[at], hole = at;
        }
        table[hole] = -1;
    }
    void remove(int32_t row, size_t at) {
        Order& o = slab[row];
        auto& levels = sides[o.side];
        size_t i = place(levels, o.side, o.price);
        Queue& q = levels[i];
        (o.prev >= 0 ? slab[o.prev].next : q.head) = o.next;
        (o.next >= 0 ? slab[o.next].prev : q.tail) = o.prev;
        q.qty -= o.qty;
        unlink(at);
        if (--q.count == 0)
            levels.erase(levels.begin() + i);
        free_rows.push_back(row);
        --live;
    }
    void add(const Entry& e) {
        if (live * 2 >= table.size())
            grow();
        int32_t row;
        if (free_rows.empty()) {
            row = slab.size();
            slab.emplace_back();
        } else {
            row = free_rows.back();
            free_rows.pop_back();
        }
        auto& levels = sides[e.side];
        size_t i = place(levels, e.side, e.price);
        if (i == levels.size() || levels[i].price != e.price)
            levels.insert(levels.begin() + i, Queue{e.price, 0, -1, -1, 0});
        Queue& q = levels[i];
        int32_t after = q.tail;
        while (after >= 0 && slab[after].queue_ns > e.queue_ns)
            after = slab[after].prev;
        int32_t next = after >= 0 ? slab[after].next : q.head;
        slab[row] = Order{e.price, e.qty, e.queue_ns, e.id_hi, e.id_lo, after, next, e.side};
        (after >= 0 ? slab[after].next : q.head) = row;
        (next >= 0 ? slab[next].prev : q.tail) = row;
        q.qty += e.qty;
        ++q.count;
        ++live;
        size_t at = hash(e.id_hi, e.id_lo) & mask();
        while (table[at] >= 0)
            at = (at + 1) & mask();
        table[at] = row;
    }
    void apply(const Entry& e) {
        if (e.side > 1)
            return;
        size_t at;
        int32_t row = find(e.id_hi, e.id_lo, at);
        if (e.action >= 2 || e.qty == 0) {
            if (row >= 0)
                remove(row, at);
            return;
        }
        if (row >= 0 && slab[row].price == e.price && slab[row].side == e.side && slab[row].queue_ns == e.queue_ns) {
            auto& levels = sides[e.side];
            levels[place(levels, e.side, e.price)].qty += e.qty - slab[row].qty;
            slab[row].qty = e.qty;
            return;
        }
        if (row >= 0)
            remove(row, at);
        add(e);
    }
    uint32_t crc() const {
        uint32_t c = 0xFFFFFFFFu;
        for (int side : {1, 0}) {
            const auto& levels = sides[side];
            for (size_t k = 0; k < std::min<size_t>(10, levels.size()); ++k) {
                const Queue& q = levels[levels.size() - 1 - k];
                for (int32_t row = q.head; row >= 0; row = slab[row].next)
                    c = crc_number(crc_number(c, q.price), slab[row].qty);
            }
        }
        return c ^ 0xFFFFFFFFu;
    }
    uint64_t digest() const {
        return (sides[0].empty() ? 0 : sides[0].back().price) ^ (sides[1].empty() ? 0 : sides[1].back().qty);
    }
};

FlatBook flat_book;
OrderBook order_book;

template <class Book>
void open_book(Book& book, const Entry* entries, int64_t n) {
    book.clear();
    for (int64_t i = 0; i < n; ++i)
        book.apply(entries[i]);
}

template <class Book>
uint64_t run_book(Book& book, const Entry* entries, const int64_t* ends, int64_t messages, int with_crc) {
    uint64_t digest = 0;
    int64_t at = 0;
    for (int64_t m = 0; m < messages; ++m) {
        for (; at < ends[m]; ++at)
            book.apply(entries[at]);
        digest += with_crc ? book.crc() : book.digest();
    }
    return digest;
}

}  // namespace

DECODER_FOR_PYTHON(PlainWalk)

extern "C" {

// a book that holds these entries and nothing else
uint64_t reference_book_open(int level, const void* entries, int64_t n) {
    auto e = static_cast<const Entry*>(entries);
    level == 3 ? open_book(order_book, e, n) : open_book(flat_book, e, n);
    return 0;
}

// applies entries message by message (ends[m]: one past the last entry of message m); the sum of the CRCs
// after each message, or, without CRC, of something of the best levels
uint64_t reference_book_run(int level, const void* entries, const int64_t* ends, int64_t messages, int with_crc) {
    auto e = static_cast<const Entry*>(entries);
    return level == 3 ? run_book(order_book, e, ends, messages, with_crc)
                      : run_book(flat_book, e, ends, messages, with_crc);
}
}
