// Reads strips for the command-line program with libtiff, as the Python suite reads TIFF files
// (data/image_files.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "model_facts.h"

namespace strips {

// A strip as stored in the file: channels x height x width values, not scaled. Its values may be
// infinite or NaN; ModelInput checks them.
struct Image {
    int channels = 0, height = 0, width = 0;  // 3 or 4 channels: Target, Ref1, Ref2, maybe a mask
    std::vector<float> values;

    // Number of values that count: those of Target, Ref1 and Ref2, which come first.
    std::size_t counted() const { return static_cast<std::size_t>(3) * height * width; }
};

// Reads a strip of height x width pixels: unsigned integers of 8 or 16 bits or floats of 16, 32 or
// 64 bits; in strips or tiles, compressed or not, of either byte order; with channels as planes,
// interleaved, or as pages. Throws Error, without the path, for anything else.
Image read_strip(const std::filesystem::path& path, int height, int width);

// A strip as input of a model, with the type, range and number of planes that its metadata state.
class ModelInput {
public:
    // Throws Error for an image with values outside 0 to the camera's largest one, or not finite.
    ModelInput(const Image& image, const ModelFacts& facts);
    const void* pixels() const {
        return bytes_.empty() ? static_cast<const void*>(floats_.data()) : bytes_.data();
    }

private:
    std::vector<float> floats_;        // values of a float32 input
    std::vector<std::uint8_t> bytes_;  // values of a uint8 input
};

}  // namespace strips
