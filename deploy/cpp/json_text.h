// JSON, which the command-line program prints for other programs.
#pragma once

#include <string>
#include <vector>

#include "strip_detector.h"

namespace strips {

// Bytes that are not UTF-8 become the replacement character.
std::string json_of(const std::string& text);
// The shortest text that reads back as the same number; null where it is not finite.
std::string json_of(float value);
std::string json_of(double value);
std::string json_of(const Detection& detection);
std::string json_of(const ReferenceAlignment& found);

template <typename Item>
std::string json_of(const std::vector<Item>& items) {
    std::string json;
    for (const Item& item : items) json += (json.empty() ? "" : ", ") + json_of(item);
    return "[" + json + "]";
}

}  // namespace strips
