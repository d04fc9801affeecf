// The validated metadata of an ONNX file of export_onnx_fullimage.py; docs/reference/files.md lists
// the entries.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "strip_detector_export.h"

namespace strips {

// Every failure. The text says what was found and what was expected.
class STRIP_DETECTOR_API Error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A number as error texts show it, whatever the locale.
STRIP_DETECTOR_API std::string text_of(double value);

enum class PixelType { float32, uint8 };

constexpr int kNewestSchema = 2;  // newest known schema_version of the metadata
// of a reference's alignment: shift_y, shift_x, wander, gain, remainder
constexpr std::size_t kMeasures = 5;

struct ModelFacts {
    std::map<std::string, std::string> entries;  // all entries of the file, unchanged
    std::string input;                           // unit, raw or uint8
    PixelType pixel_type = PixelType::float32;
    double input_max = 0;       // the camera's largest value
    float largest_value = 0;    // of the input: 1, input_max or 255
    int channels = 0;           // planes of a strip: 3, or 4 of which the last is ignored
    int height = 0, width = 0;  // of a strip, pixels
    // Calibrated; a pixel of the heatmap that exceeds it is defective.
    std::optional<float> threshold;
    bool has_alignment = false;  // whether the file outputs the measures of its alignment
};

// Throws Error for entries that are absent, unusable or of a newer schema.
STRIP_DETECTOR_API ModelFacts read_facts(std::map<std::string, std::string> entries);

}  // namespace strips
