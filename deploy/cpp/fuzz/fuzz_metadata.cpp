// Takes any text as the metadata of a model, `name=value` on each line. read_facts must return
// usable facts or throw an Error and nothing else. Each value as JSON must be one string of valid
// UTF-8.
#include <cmath>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>

#include "expect.h"
#include "json_text.h"
#include "model_facts.h"

namespace {

std::map<std::string, std::string> entries_of(const std::string& text) {
    std::map<std::string, std::string> entries;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t end = line.find('=');
        if (end != std::string::npos) entries[line.substr(0, end)] = line.substr(end + 1);
    }
    return entries;
}

void expect_facts(const std::map<std::string, std::string>& entries) {
    try {
        const strips::ModelFacts facts = strips::read_facts(entries);
        expect(facts.entries == entries, "all entries are kept");
        expect(facts.height > 0 && facts.width > 0, "a strip has pixels");
        expect(facts.channels == 3 || facts.channels == 4, "a strip has 3 or 4 planes");
        expect(std::isfinite(facts.input_max) && facts.input_max > 0,
               "the camera's largest value is one");
        expect(std::isfinite(facts.largest_value) && facts.largest_value > 0,
               "the input's largest value is one");
        expect(std::isfinite(static_cast<float>(255 / facts.input_max)),
               "what makes grey levels of a pixel is finite");
        expect(!facts.threshold || std::isfinite(*facts.threshold), "a threshold is finite");
        expect((facts.pixel_type == strips::PixelType::uint8) == (facts.input == "uint8"),
               "the pixel type is that of the input");
    } catch (const strips::Error&) {
    }
}

// The bytes that Unicode's table of well-formed byte sequences allows after a first byte.
struct Sequence {
    int more;                  // their number; -1 where no character begins with the first byte
    unsigned lowest, highest;  // limits of the second byte
};

Sequence sequence_of(unsigned first) {
    if (first < 0x80) return {0, 0, 0};
    if (first < 0xC2) return {-1, 0, 0};
    if (first < 0xE0) return {1, 0x80, 0xBF};
    if (first < 0xF0) return {2, first == 0xE0 ? 0xA0u : 0x80u, first == 0xED ? 0x9Fu : 0xBFu};
    if (first < 0xF5) return {3, first == 0xF0 ? 0x90u : 0x80u, first == 0xF4 ? 0x8Fu : 0xBFu};
    return {-1, 0, 0};
}

bool is_utf8(const std::string& text) {
    for (std::size_t place = 0; place < text.size();) {
        const Sequence sequence = sequence_of(static_cast<unsigned char>(text[place++]));
        if (sequence.more < 0 || text.size() - place < static_cast<std::size_t>(sequence.more)) {
            return false;
        }
        for (int next = 0; next < sequence.more; ++next, ++place) {
            const unsigned byte = static_cast<unsigned char>(text[place]);
            if (byte < (next ? 0x80 : sequence.lowest) || byte > (next ? 0xBF : sequence.highest)) {
                return false;
            }
        }
    }
    return true;
}

bool is_one_string(const std::string& json) {
    if (json.size() < 2 || json.front() != '"' || json.back() != '"') return false;
    for (std::size_t place = 1; place + 1 < json.size(); ++place) {
        if (json[place] == '"' || static_cast<unsigned char>(json[place]) < 0x20) return false;
        if (json[place] == '\\' && ++place + 1 >= json.size()) return false;
    }
    return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
    const auto entries = entries_of(std::string(reinterpret_cast<const char*>(bytes), count));
    expect_facts(entries);
    for (const auto& [name, value] : entries) {
        const std::string json = strips::json_of(value);
        expect(is_utf8(json), "JSON is UTF-8");
        expect(is_one_string(json), "JSON is one string");
    }
    return 0;
}
