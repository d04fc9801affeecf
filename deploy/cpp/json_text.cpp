#include "json_text.h"

#include <charconv>
#include <cmath>

namespace strips {
namespace {

// Number of bytes of the UTF-8 character that begins at `place`; 0 where none begins there.
std::size_t character_length(const std::string& text, std::size_t place) {
    const auto byte = static_cast<unsigned char>(text[place]);
    const std::size_t length = byte < 0x80   ? 1
                               : byte < 0xC2 ? 0
                               : byte < 0xE0 ? 2
                               : byte < 0xF0 ? 3
                               : byte < 0xF5 ? 4
                                             : 0;
    if (place + length > text.size()) return 0;
    if (length >
        2) {  // overlong forms, halves of UTF-16 pairs, and values beyond the last character
        const auto second = static_cast<unsigned char>(text[place + 1]);
        if ((byte == 0xE0 && second < 0xA0) || (byte == 0xED && second > 0x9F)) return 0;
        if ((byte == 0xF0 && second < 0x90) || (byte == 0xF4 && second > 0x8F)) return 0;
    }
    for (std::size_t next = 1; next < length; ++next) {
        if ((static_cast<unsigned char>(text[place + next]) & 0xC0) != 0x80) return 0;
    }
    return length;
}

template <typename Number>
std::string shortest(Number value) {
    if (!std::isfinite(value)) return "null";  // JSON has no such number
    char text[32];
    return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

std::string member(const std::string& name, const std::string& json) {
    return json_of(name) + ": " + json;
}

}  // namespace

std::string json_of(const std::string& text) {
    constexpr const char* kDigits = "0123456789abcdef";
    std::string json = "\"";
    for (std::size_t place = 0; place < text.size();) {
        const auto byte = static_cast<unsigned char>(text[place]);
        const std::size_t length = character_length(text, place);
        if (length == 0) {
            json += "\\ufffd";
        } else if (byte < 0x20) {
            json += std::string("\\u00") + kDigits[byte >> 4] + kDigits[byte & 15];
        } else {
            if (byte == '"' || byte == '\\') json += '\\';
            json += text.substr(place, length);
        }
        place += length ? length : 1;
    }
    return json + '"';
}

std::string json_of(float value) { return shortest(value); }
std::string json_of(double value) { return shortest(value); }

std::string json_of(const Detection& found) {
    return "{" + member("y", std::to_string(found.y)) + ", " +
           member("x", std::to_string(found.x)) + ", " + member("peak", json_of(found.peak)) +
           ", " + member("margin", json_of(found.margin)) + ", " +
           // the name of version 1.0, for one more version
           member("score", json_of(found.margin)) + "}";
}

std::string json_of(const ReferenceAlignment& found) {
    return "{" + member("shift_y", json_of(found.shift_y)) + ", " +
           member("shift_x", json_of(found.shift_x)) + ", " +
           member("wander", json_of(found.wander)) + ", " + member("gain", json_of(found.gain)) +
           ", " + member("remainder", json_of(found.remainder)) + "}";
}

}  // namespace strips
