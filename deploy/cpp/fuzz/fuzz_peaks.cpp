// Takes any small heatmap, also with values that are no probabilities. The detections must be
// pixels above the threshold, apart from each other and sorted.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "expect.h"
#include "json_text.h"
#include "peaks.h"

namespace {

constexpr std::size_t kLongestSide = 48;  // pixels
constexpr std::size_t kMostPerStrip = 1000;
constexpr int kNeighbourhood = 3;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// A small set of values, which makes plateaus; random floats hardly ever do.
constexpr float kValues[] = {0,     0.25f, 0.5f,   0.75f, 1,     0.99999994f, 1.0000001f, 2,
                             -0.0f, -1,    1e-45f, 1e-6f, 3e38f, kInfinity,   -kInfinity, NAN};

struct Heatmap {
    int height, width;
    float threshold;
    std::vector<float> values;
};

float float_of(const std::uint8_t* bytes) {
    float value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
}

// The input is height, width, threshold and then one byte for each pixel, or four bytes where the
// first bit is set.
Heatmap heatmap_of(const std::uint8_t* bytes, std::size_t count) {
    const bool is_raw = bytes[0] & 0x80;
    const std::size_t size = is_raw ? sizeof(float) : 1,
                      height = 1 + (bytes[0] & 0x7F) % kLongestSide,
                      width = 1 + bytes[1] % kLongestSide;
    Heatmap heatmap{static_cast<int>(height), static_cast<int>(width), kValues[bytes[2] % 6] / 2,
                    std::vector<float>(height * width)};
    const std::size_t given = std::min((count - 3) / size, height * width);
    for (std::size_t number = 0; number < given; ++number) {
        const std::uint8_t* at = bytes + 3 + number * size;
        heatmap.values[number] = is_raw ? float_of(at) : kValues[*at % 16];
    }
    return heatmap;
}

void expect_detections(const Heatmap& heatmap, const std::vector<strips::Detection>& found) {
    const auto is_above = [&](float value) { return value > heatmap.threshold; };
    const bool is_defective = std::any_of(heatmap.values.begin(), heatmap.values.end(), is_above);
    expect(is_defective == !found.empty(),
           "there are detections where a pixel exceeds the threshold");
    expect(found.size() <= kMostPerStrip, "there are not more detections than promised");
    for (std::size_t number = 0; number < found.size(); ++number) {
        const strips::Detection& one = found[number];
        expect(one.y >= 0 && one.y < heatmap.height && one.x >= 0 && one.x < heatmap.width,
               "a detection lies on the heatmap");
        expect(one.peak == heatmap.values[static_cast<std::size_t>(one.y) * heatmap.width + one.x],
               "its peak is the heatmap there");
        expect(is_above(one.peak), "its peak exceeds the threshold");
        expect(std::isfinite(one.margin), "its margin is finite");
        if (number > 0) {
            expect(found[number - 1].margin >= one.margin, "the strongest ones come first");
        }
        for (std::size_t earlier = 0; earlier < number; ++earlier) {
            const int rows = std::abs(found[earlier].y - one.y),
                      columns = std::abs(found[earlier].x - one.x);
            expect(std::max(rows, columns) > kNeighbourhood, "detections stand apart");
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
    if (count < 3) return -1;
    static strips::PeakFinder
        finder;  // reused as in production, with the memory of earlier heatmaps
    const Heatmap heatmap = heatmap_of(bytes, count);
    std::vector<strips::Detection> found;
    finder.find(heatmap.values.data(), heatmap.height, heatmap.width, heatmap.threshold, found);
    expect_detections(heatmap, found);
    const std::string json = strips::json_of(found);
    expect(json.find("nan") == std::string::npos && json.find("inf") == std::string::npos,
           "JSON has no other numbers than its own");
    return 0;
}
