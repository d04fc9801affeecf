#include "model_facts.h"

#include <cmath>
#include <locale>
#include <sstream>
#include <utility>

namespace strips {
namespace {

constexpr char kTool[] = "strip detector";  // whose files this detector reads
// Limits of a strip, above any real image: below them no product of sizes overflows.
constexpr int kLongestSide = 1 << 20;       // pixels
constexpr long long kMostPixels = 1 << 28;  // height x width
// Limits of a camera's range: between them its float32 factors are finite and not 0.
constexpr double kLeast = 1e-30, kMost = 1e30;

const std::string& entry(const ModelFacts& facts, const std::string& name) {
    const auto found = facts.entries.find(name);
    if (found == facts.entries.end()) {
        throw Error(
            "found no " + name +
            " in the model's metadata, expected a file of export_onnx_fullimage.py: export again");
    }
    return found->second;
}

Error refused(const std::string& name, const std::string& text, const std::string& expected) {
    std::string shown = text.substr(0, 100);
    // keep the text on one line and readable in any encoding
    for (char& character : shown) {
        character = character >= ' ' && character <= '~' ? character : '?';
    }
    return Error("found " + name + " '" + shown + "' in the model's metadata, expected " +
                 expected);
}

// Parses the whole of `text` as values separated by blanks, whatever the locale's decimal sign.
// Returns false where the text is anything else.
template <typename Value, typename... More>
bool parse(const std::string& text, Value& first, More&... more) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    stream >> first;
    ((stream >> more), ...);
    if (!stream) return false;
    stream >> std::ws;
    return stream.eof();
}

void read_schema(const ModelFacts& facts) {
    const std::string& text = entry(facts, "schema_version");
    int version = 0;
    if (!parse(text, version) || version < 1) {
        throw refused("schema_version", text, "a whole number from 1 on");
    }
    if (version > kNewestSchema) {
        throw refused("schema_version", text,
                      std::to_string(kNewestSchema) + " at most: a newer suite exported it");
    }
}

// A file without the entry is a strip detector's: there was no other tool.
void read_tool(const ModelFacts& facts) {
    const auto found = facts.entries.find("tool");
    const bool is_ours = found == facts.entries.end() || found->second == kTool;
    if (!is_ours) throw refused("tool", found->second, kTool);
}

double positive(const ModelFacts& facts, const std::string& name) {
    const std::string& text = entry(facts, name);
    double value = 0;
    if (!parse(text, value) || !(value >= kLeast && value <= kMost)) {
        throw refused(name, text, "a number from 1e-30 to 1e30");
    }
    return value;
}

void read_input(ModelFacts& facts) {
    facts.input_max = positive(facts, "input_max");
    facts.input = entry(facts, "input");
    if (facts.input == "unit") {
        facts.largest_value = 1;
    } else if (facts.input == "raw") {
        facts.largest_value = static_cast<float>(facts.input_max);
    } else if (facts.input == "uint8") {
        facts.largest_value = 255;
        facts.pixel_type = PixelType::uint8;
    } else {
        throw refused("input", facts.input, "unit, raw or uint8");
    }
    const std::string& channels = entry(facts, "channels");
    if (channels != "Target Ref1 Ref2" && channels != "Target Ref1 Ref2 ignored") {
        throw refused("channels", channels, "'Target Ref1 Ref2' or 'Target Ref1 Ref2 ignored'");
    }
    facts.channels = channels == "Target Ref1 Ref2" ? 3 : 4;
}

void read_size(ModelFacts& facts) {
    const std::string& text = entry(facts, "image_size");
    const bool is_whole = parse(text, facts.height, facts.width);
    if (!is_whole || facts.height < 1 || facts.width < 1 || facts.height > kLongestSide ||
        facts.width > kLongestSide ||
        static_cast<long long>(facts.height) * facts.width > kMostPixels) {
        throw refused("image_size", text, "height and width in pixels");
    }
}

void read_threshold(ModelFacts& facts) {
    const std::string& text = entry(facts, "threshold");
    if (text == "none") return;
    double value = 0;
    if (!parse(text, value) || !std::isfinite(static_cast<float>(value))) {
        throw refused("threshold", text, "a number, or none");
    }
    facts.threshold = static_cast<float>(value);
}

void read_outputs(ModelFacts& facts) {
    std::istringstream names(entry(facts, "outputs"));
    for (std::string name; names >> name;) {
        facts.has_alignment = facts.has_alignment || name == "alignment";
    }
    if (!facts.has_alignment) return;
    const std::string& columns = entry(facts, "alignment");
    if (columns != "shift_y shift_x wander gain remainder") {
        throw refused("alignment", columns, "shift_y shift_x wander gain remainder");
    }
}

}  // namespace

std::string text_of(double value) {
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text << value;
    return text.str();
}

ModelFacts read_facts(std::map<std::string, std::string> entries) {
    ModelFacts facts;
    facts.entries = std::move(entries);
    read_schema(facts);
    read_tool(facts);
    read_input(facts);
    read_size(facts);
    read_threshold(facts);
    read_outputs(facts);
    return facts;
}

}  // namespace strips
