#include "peaks.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace strips {
namespace {

constexpr int kNeighbourhood = 3;  // pixels
constexpr std::size_t kMostPerStrip = 1000;
constexpr double kLogitRange = 18.0;  // float32 tells probabilities apart up to about 1 - 6e-8, a logit of 16.6
constexpr double kTieBreak = 1e-6;    // of the mean margin around a peak, in its score

double logit_margin(float probability) {
    const double p = probability;
    return std::clamp(std::log(p) - std::log1p(-p), -kLogitRange, kLogitRange);
}

bool is_highest(const float* heatmap, int height, int width, int y, int x) {
    const float value = heatmap[static_cast<std::size_t>(y) * width + x];
    const int bottom = std::min(y + kNeighbourhood, height - 1), right = std::min(x + kNeighbourhood, width - 1);
    for (int row = std::max(y - kNeighbourhood, 0); row <= bottom; ++row) {
        const float* pixels = heatmap + static_cast<std::size_t>(row) * width;
        for (int column = std::max(x - kNeighbourhood, 0); column <= right; ++column) {
            if (pixels[column] > value) return false;
        }
    }
    return true;
}

// Of the 3x3 pixels around; beyond the border the nearest pixel.
double mean_margin(const float* heatmap, int height, int width, int y, int x) {
    double sum = 0;
    for (int dy = -1; dy <= 1; ++dy) {
        const std::size_t row = std::clamp(y + dy, 0, height - 1);
        for (int dx = -1; dx <= 1; ++dx) sum += logit_margin(heatmap[row * width + std::clamp(x + dx, 0, width - 1)]);
    }
    return sum / 9;
}

bool is_stronger(const Detection& one, const Detection& other) {
    if (one.score != other.score) return one.score > other.score;
    return one.y != other.y ? one.y < other.y : one.x < other.x;
}

}  // namespace

void PeakFinder::find(const float* heatmap, int height, int width, float threshold, std::vector<Detection>& found) {
    found.clear();
    collect(heatmap, height, width, threshold);
    join_plateaus();
    choose_centers();
    for (std::size_t number = 0; number < candidates_.size(); ++number) {
        const auto [y, x, plateau] = candidates_[number];
        if (plateaus_[plateau].center != number) continue;
        const float peak = heatmap[static_cast<std::size_t>(y) * width + x];
        found.push_back({y, x, peak, logit_margin(peak) + kTieBreak * mean_margin(heatmap, height, width, y, x)});
    }
    std::sort(found.begin(), found.end(), is_stronger);
    if (found.size() > kMostPerStrip) found.resize(kMostPerStrip);
}

void PeakFinder::collect(const float* heatmap, int height, int width, float threshold) {
    candidates_.clear();
    for (int y = 0; y < height; ++y) {
        const float* pixels = heatmap + static_cast<std::size_t>(y) * width;
        for (int x = 0; x < width; ++x) {
            if (!(pixels[x] > threshold) || !is_highest(heatmap, height, width, y, x)) continue;
            candidates_.push_back({y, x, candidates_.size()});
        }
    }
}

// Two candidates within reach of each other are equally high: they are of one plateau. They come row by row.
void PeakFinder::join_plateaus() {
    std::size_t oldest = 0;  // the first candidate that is no more than so many rows above
    for (std::size_t number = 0; number < candidates_.size(); ++number) {
        const Candidate here = candidates_[number];
        while (candidates_[oldest].y < here.y - kNeighbourhood) ++oldest;
        for (std::size_t earlier = oldest; earlier < number; ++earlier) {
            if (std::abs(candidates_[earlier].x - here.x) > kNeighbourhood) continue;
            const std::size_t one = first_of_plateau(earlier), other = first_of_plateau(number);
            candidates_[std::max(one, other)].plateau = std::min(one, other);
        }
    }
}

std::size_t PeakFinder::first_of_plateau(std::size_t number) {
    while (candidates_[number].plateau != number) {
        candidates_[number].plateau = candidates_[candidates_[number].plateau].plateau;  // shorter for the next one
        number = candidates_[number].plateau;
    }
    return number;
}

// The most central pixel stands for a plateau, the first one of several.
void PeakFinder::choose_centers() {
    plateaus_.assign(candidates_.size(), {0, 0, 0, 0, std::numeric_limits<double>::infinity()});
    for (std::size_t number = 0; number < candidates_.size(); ++number) {
        Candidate& here = candidates_[number];
        here.plateau = first_of_plateau(number);
        Plateau& plateau = plateaus_[here.plateau];
        plateau.count += 1;
        plateau.y += here.y;
        plateau.x += here.x;
    }
    for (std::size_t number = 0; number < candidates_.size(); ++number) {
        const Candidate& here = candidates_[number];
        Plateau& plateau = plateaus_[here.plateau];
        const double dy = here.y - plateau.y / plateau.count, dx = here.x - plateau.x / plateau.count;
        if (dy * dy + dx * dx >= plateau.distance) continue;
        plateau.distance = dy * dy + dx * dx;
        plateau.center = number;
    }
}

}  // namespace strips
