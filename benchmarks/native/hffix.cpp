// hffix reading the same stream as the plain reader, with the same conversion: frames, checksum, every field of every
// entry. Its headers are found in the folder of KFIX_HFFIX.
#include <hffix.hpp>

#include "decoder.h"

namespace {
struct HffixWalk {
    hffix::message_reader reader;
    hffix::message_reader::const_iterator at;
    const char* tail = nullptr;
    bool whole;
    char type = 0;

    HffixWalk(const char* begin, const char* stop)
        : reader(begin, stop), at(reader.begin()), whole(reader.is_complete() && reader.is_valid()) {
        if (!whole)
            return;
        tail = reader.message_end() - 7;
        type = *at->value().begin();
    }

    bool next(Field& f) {
        if (at == reader.end())
            return false;
        f = {at->tag(), at->value().begin(), at->value().end()};
        ++at;
        return true;
    }
};
}  // namespace

DECODER_FOR_PYTHON(HffixWalk)
