// What a decoder does with the fields of a stream, however they are found: numbers, times and ids of every entry.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "convert.h"

struct Field {
    int tag;
    const char *begin, *end;
};

struct Precision {
    int row, price, qty;
};

// Walk(p, stop) is at the message at p: `whole`, whether it ends before stop; `type`, 35=; `tail`, where 10= is; and
// next(field), which is false after the last field
template <class Walk>
struct Decoder {
    std::unordered_map<std::string, Precision> instruments;
    std::string last_symbol;
    Precision last{};
    std::vector<Entry> entries = std::vector<Entry>(64);
    int64_t messages = 0, n_entries = 0, bad = 0;
    uint64_t digest = 0;

    const Precision& precision(std::string_view symbol) {
        if (symbol != last_symbol) {
            last_symbol.assign(symbol);
            auto found = instruments.find(last_symbol);
            last = found == instruments.end() ? Precision{-1, 0, 0} : found->second;
        }
        return last;
    }

    void list(Walk& walk) {  // 35=y
        Field f;
        std::string symbol;
        Precision seen{};
        while (walk.next(f)) {
            if (f.tag == 55)
                symbol.assign(f.begin, f.end);
            if (f.tag == 5010)
                seen.qty = as_int(f.begin, f.end);
            if (f.tag == 2349) {
                seen.price = as_int(f.begin, f.end);
                seen.row = instruments.size();
                instruments[symbol] = seen;
            }
        }
    }

    void market_data(Walk& walk) {  // 35=W, 35=X
        Field f;
        size_t n = 0;
        Entry* e = nullptr;
        Precision precisions{};
        int64_t sending = 0, crc = 0;
        const int starts = walk.type == 'W' ? 269 : 279;
        while (walk.next(f)) {
            if (f.tag == starts) {
                if (n == entries.size())
                    entries.resize(2 * n);
                e = &entries[n++];
                std::memset(e, 0, sizeof *e);
                e->instrument = precisions.row;
            }
            switch (f.tag) {
                case 52:
                    sending = as_stamp_ns(f.begin, f.end);
                    break;
                case 55:
                    precisions = precision({f.begin, size_t(f.end - f.begin)});
                    break;
                case 279:
                    e->action = *f.begin - '0';
                    break;
                case 269:
                    e->side = *f.begin - '0';
                    break;
                case 278:
                    as_id(f.begin, f.end, *e);
                    break;
                case 270:
                    e->price = as_fixed(f.begin, f.end, precisions.price);
                    break;
                case 271:
                    e->qty = as_fixed(f.begin, f.end, precisions.qty);
                    break;
                case 273:
                    e->event_ns = sending - sending % DAY_NS + as_clock_ns(f.begin, f.end);
                    break;
                case 5060:
                    e->event_ns = as_iso_ns(f.begin, f.end);
                    break;
                case 5273:
                    e->queue_ns = as_iso_ns(f.begin, f.end);
                    break;
                case 40:
                    e->ord_type = *f.begin - '0';
                    break;
                case 2446:
                    e->aggressor = *f.begin - '0';
                    break;
                case 5041:
                    crc = as_int(f.begin, f.end);
                    break;
                default:
                    break;
            }
        }
        n_entries += n;
        for (size_t i = 0; i < n; ++i)
            digest += entries[i].price ^ entries[i].qty ^ entries[i].event_ns;
        digest += crc;
    }

    void run(const char* p, int64_t n) {
        for (const char* stop = p + n; p < stop;) {
            Walk walk(p, stop);
            if (!walk.whole)
                break;
            uint8_t sum = 0;
            for (const char* c = p; c < walk.tail; ++c)
                sum += uint8_t(*c);
            bad += as_int(walk.tail + 3, walk.tail + 6) != sum;
            ++messages;
            if (walk.type == 'W' || walk.type == 'X')
                market_data(walk);
            if (walk.type == 'y')
                list(walk);
            p = walk.tail + 7;
        }
    }

    // out: messages, entries, wrong checksums, digest
    void results(int64_t* out) const {
        out[0] = messages, out[1] = n_entries, out[2] = bad, out[3] = int64_t(digest);
    }
};

// what Python calls: a decoder over a Walk, one for each session
#define DECODER_FOR_PYTHON(Walk)                                                            \
    extern "C" void* decoder_new() {                                                        \
        return new Decoder<Walk>;                                                           \
    }                                                                                       \
    extern "C" void decoder_run(void* decoder, const char* data, int64_t n, int64_t* out) { \
        auto* made = static_cast<Decoder<Walk>*>(decoder);                                  \
        made->run(data, n);                                                                 \
        made->results(out);                                                                 \
    }                                                                                       \
    extern "C" void decoder_free(void* decoder) {                                           \
        delete static_cast<Decoder<Walk>*>(decoder);                                        \
    }
