// What a good C++ programmer writes first to make integers of FIX text: decimals, times, order ids.
#pragma once
#include <cstdint>

struct Entry {  // the same 64 bytes as kfix_md's MDEntry
    int64_t price, qty;
    uint64_t id_hi, id_lo;
    int64_t event_ns, queue_ns;
    int32_t instrument;
    uint8_t side, action, id_kind, flags, ord_type, aggressor;
    uint16_t decimals;
    uint32_t spare1;
};
static_assert(sizeof(Entry) == 64);

inline int64_t as_int(const char* p, const char* end) {
    int64_t v = 0;
    for (; p < end; ++p)
        v = v * 10 + (*p - '0');
    return v;
}

// decimal text to an integer with `precision` digits after the point
inline int64_t as_fixed(const char* p, const char* end, int precision) {
    int64_t mantissa = 0;
    int decimals = 0;
    bool negative = p < end && *p == '-', point = false;
    for (p += negative; p < end; ++p) {
        if (*p == '.') {
            point = true;
        } else {
            mantissa = mantissa * 10 + (*p - '0');
            decimals += point;
        }
    }
    for (; decimals < precision; ++decimals)
        mantissa *= 10;
    for (; decimals > precision; --decimals)
        mantissa /= 10;
    return negative ? -mantissa : mantissa;
}

inline int two(const char* p) {
    return (p[0] - '0') * 10 + (p[1] - '0');
}

// HH:MM:SS[.fraction]
inline int64_t as_clock_ns(const char* p, const char* end) {
    int64_t ns = ((two(p) * 60 + two(p + 3)) * 60ll + two(p + 6)) * 1000000000ll;
    if (p + 8 < end && p[8] == '.') {
        int64_t scale = 100000000;
        for (p += 9; p < end; ++p, scale /= 10)
            ns += (*p - '0') * scale;
    }
    return ns;
}

inline int64_t days(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = y / 400, yoe = y - era * 400, doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

constexpr int64_t DAY_NS = 86400000000000ll;

inline int64_t as_stamp_ns(const char* p, const char* end) {  // YYYYMMDD-HH:MM:SS.mmm
    return days(as_int(p, p + 4), two(p + 4), two(p + 6)) * DAY_NS + as_clock_ns(p + 9, end);
}

inline int64_t as_iso_ns(const char* p, const char* end) {  // YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ
    return days(as_int(p, p + 4), two(p + 5), two(p + 8)) * DAY_NS + as_clock_ns(p + 11, end - 1);
}

inline void as_id(const char* p, const char* end, Entry& e) {
    if (end - p == 36) {  // UUID
        uint64_t word[2] = {0, 0};
        int digits = 0;
        for (; p < end; ++p) {
            if (*p == '-')
                continue;
            uint64_t v = *p <= '9' ? *p - '0' : *p - 'a' + 10;
            uint64_t& w = word[digits++ >> 4 & 1];
            w = w << 4 | v;
        }
        e.id_hi = word[0], e.id_lo = word[1], e.id_kind = 1;
        return;
    }
    if (end - p == 19 && *p == 'O') {  // OXXXXX-XXXXX-XXXXXX
        uint64_t word[2] = {0, 0};
        int digits = 0;
        for (++p; p < end; ++p) {
            if (*p == '-')
                continue;
            uint64_t v = *p <= '9' ? *p - '0' : *p - 'A' + 10;
            uint64_t& w = word[digits++ >> 3 & 1];
            w = w * 36 + v;
        }
        e.id_hi = word[0], e.id_lo = word[1], e.id_kind = 2;
        return;
    }
    e.id_hi = e.id_lo = 0, e.id_kind = 0;
}
