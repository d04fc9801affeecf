// Strips of noise for the checks. The same number always gives the same strip.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "strip_detector.h"

// A strip in the type and range of a model's input. It owns its memory.
class RandomStrip {
public:
    RandomStrip(const strips::ModelFacts& facts, unsigned number) : facts_(facts) {
        const std::size_t values =
            static_cast<std::size_t>(facts.channels) * facts.height * facts.width;
        std::mt19937 generator(number);
        if (facts.pixel_type == strips::PixelType::uint8) {
            bytes_.resize(values);
            std::generate(bytes_.begin(), bytes_.end(),
                          [&] { return static_cast<std::uint8_t>(generator()); });
        } else {
            floats_.resize(values);
            std::uniform_real_distribution<float> spread(0, facts.largest_value);
            std::generate(floats_.begin(), floats_.end(), [&] { return spread(generator); });
        }
    }

    const void* pixels() const {
        return bytes_.empty() ? static_cast<const void*>(floats_.data()) : bytes_.data();
    }
    std::size_t bytes() const { return bytes_.size() + floats_.size() * sizeof(float); }
    strips::Strips one() const {
        return {pixels(), facts_.pixel_type, 1, facts_.channels, facts_.height, facts_.width};
    }

private:
    strips::ModelFacts facts_;
    std::vector<float> floats_;
    std::vector<std::uint8_t> bytes_;
};
