// QuickFIX reading the same messages: length and checksum verified, groups by dialect.xml, numbers, times and ids
// converted.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include <quickfix/DataDictionary.h>
#include <quickfix/Group.h>
#include <quickfix/Message.h>

#include "convert.h"

namespace {
// the digits as sent, without the point: no precision is at hand here
int64_t units(const std::string& text) {
    int64_t v = 0;
    for (char c : text)
        if (c != '.')
            v = v * 10 + (c - '0');
    return v;
}

void convert(const FIX::Group& group, Entry& e) {
    const std::string &id = group.getField(278), &time = group.getField(273);
    e.action = group.getField(279)[0] - '0';
    e.side = group.getField(269)[0] - '0';
    as_id(id.data(), id.data() + id.size(), e);
    e.price = units(group.getField(270));
    e.qty = units(group.getField(271));
    e.event_ns = as_clock_ns(time.data(), time.data() + time.size());
    if (group.isSetField(5060)) {
        const std::string& event = group.getField(5060);
        e.event_ns = as_iso_ns(event.data(), event.data() + event.size());
    }
    if (group.isSetField(5273)) {
        const std::string& queue = group.getField(5273);
        e.queue_ns = as_iso_ns(queue.data(), queue.data() + queue.size());
    }
}
}  // namespace

// data: messages of type X; returns how many were read, entries in *entries
extern "C" int64_t quickfix_decode(const char* data, int64_t n, const char* dictionary, int64_t* entries) {
    static const FIX::DataDictionary dialect{std::string(dictionary)};
    int64_t count = 0, digest = 0;
    const char *p = data, *stop = data + n;
    FIX::Message message;
    *entries = 0;
    while (stop - p > 20) {
        const char* q = p + 12;
        int64_t length = 0;
        for (; *q != 1; ++q)
            length = length * 10 + (*q - '0');
        const char* end = q + 1 + length + 7;
        if (end > stop)
            break;
        message.clear();
        message.setString(std::string(p, end), true, &dialect, &dialect);
        int groups = std::atoi(message.getField(268).c_str());
        FIX::Group group(268, 279);
        for (int i = 1; i <= groups; ++i) {
            message.getGroup(i, group);
            Entry e{};
            convert(group, e);
            digest += e.price ^ e.qty ^ e.event_ns ^ e.queue_ns ^ int64_t(e.id_lo) ^ (e.action + e.side);
            ++*entries;
        }
        ++count;
        p = end;
    }
    return digest == -1 ? -1 : count;
}
