// Strips on disk for the command-line program: TIFF files as the Python suite reads them (dataloader.py), by libtiff.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "model_facts.h"

namespace strips {

// A strip as the file has it: channels x height x width values, not scaled. Finite or not, they are the detector's to check.
struct Image {
    int channels = 0, height = 0, width = 0;  // 3 or 4: Target, Ref1, Ref2 and, perhaps, a mask
    std::vector<float> values;

    // How many values count: those of Target, Ref1 and Ref2, which come first.
    std::size_t counted() const { return static_cast<std::size_t>(3) * height * width; }
};

// Reads a strip of height x width pixels: 8 or 16 bits without sign or floats of 16, 32 or 64 bits; in strips or tiles, compressed
// or not, of either byte order; its channels as planes, interleaved, or as pages. Throws Error, without the path, for anything else.
Image read_strip(const std::filesystem::path& path, int height, int width);

// What the model takes: the type, range and number of planes that its metadata ask for.
class ModelInput {
public:
    // Throws Error for an image of values outside 0 to the camera's largest one, or not finite.
    ModelInput(const Image& image, const ModelFacts& facts);
    const void* pixels() const { return bytes_.empty() ? static_cast<const void*>(floats_.data()) : bytes_.data(); }

private:
    std::vector<float> floats_;        // of a float32 input,
    std::vector<std::uint8_t> bytes_;  // of a uint8 one
};

}  // namespace strips
