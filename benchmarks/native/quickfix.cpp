// QuickFIX reading the same messages: length and checksum verified, groups by dialect.xml, prices to int64.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include <quickfix/DataDictionary.h>
#include <quickfix/Group.h>
#include <quickfix/Message.h>

namespace {
int64_t fixed(const std::string &text) {  // digits as they stand, without the point
    int64_t v = 0;
    for (char c : text)
        if (c != '.') v = v * 10 + (c - '0');
    return v;
}
}  // namespace

// data: messages of type X; returns how many were read, entries in *entries
extern "C" int64_t quickfix_decode(const char *data, int64_t n, const char *dictionary, int64_t *entries) {
    static const FIX::DataDictionary dialect{std::string(dictionary)};
    int64_t count = 0, digest = 0;
    const char *p = data, *stop = data + n;
    FIX::Message message;
    *entries = 0;
    while (stop - p > 20) {
        const char *q = p + 12;
        int64_t length = 0;
        for (; *q != 1; ++q) length = length * 10 + (*q - '0');
        const char *end = q + 1 + length + 7;
        if (end > stop) break;
        message.clear();
        message.setString(std::string(p, end), true, &dialect, &dialect);
        int groups = std::atoi(message.getField(268).c_str());
        FIX::Group group(268, 279);
        for (int i = 1; i <= groups; ++i) {
            message.getGroup(i, group);
            digest += fixed(group.getField(270)) ^ fixed(group.getField(271));
            digest += group.getField(269)[0] + group.getField(279)[0] + group.getField(278).size();
            ++*entries;
        }
        ++count;
        p = end;
    }
    return digest == -1 ? -1 : count;
}
