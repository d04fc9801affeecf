#include "peaks.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace strips {
namespace {

constexpr int kNeighbourhood = 3;  // pixels
constexpr std::size_t kMostPerStrip = 1000;
// float32 resolves probabilities up to about 1 - 6e-8, a logit of 16.6
constexpr double kLogitRange = 18.0;
constexpr double kTieBreak = 1e-6;  // weight of the mean margin around a peak in its margin

double logit_margin(float probability) {
    // NaN becomes 0 as well: the detections need a strict order
    const double p = probability > 0 ? std::min(probability, 1.0f) : 0;
    return std::clamp(std::log(p) - std::log1p(-p), -kLogitRange, kLogitRange);
}

bool is_highest(const float* heatmap, int height, int width, int y, int x) {
    const float value = heatmap[static_cast<std::size_t>(y) * width + x];
    const int bottom = std::min(y + kNeighbourhood, height - 1),
              right = std::min(x + kNeighbourhood, width - 1);
    for (int row = std::max(y - kNeighbourhood, 0); row <= bottom; ++row) {
        const float* pixels = heatmap + static_cast<std::size_t>(row) * width;
        for (int column = std::max(x - kNeighbourhood, 0); column <= right; ++column) {
            if (pixels[column] > value) return false;
        }
    }
    return true;
}

// The mean over the 3x3 pixels around; beyond the border the nearest pixel counts.
double mean_margin(const float* heatmap, int height, int width, int y, int x) {
    double sum = 0;
    for (int dy = -1; dy <= 1; ++dy) {
        const std::size_t row = std::clamp(y + dy, 0, height - 1);
        for (int dx = -1; dx <= 1; ++dx) {
            sum += logit_margin(heatmap[row * width + std::clamp(x + dx, 0, width - 1)]);
        }
    }
    return sum / 9;
}

bool is_stronger(const Detection& one, const Detection& other) {
    if (one.margin != other.margin) return one.margin > other.margin;
    return one.y != other.y ? one.y < other.y : one.x < other.x;
}

}  // namespace

void PeakFinder::find(const float* heatmap, int height, int width, float threshold,
                      std::vector<Detection>& found) {
    found.clear();
    collect(heatmap, height, width, threshold);
    join_plateaus();
    choose_centers();
    for (std::size_t number = 0; number < candidates_.size(); ++number) {
        const auto [y, x, plateau] = candidates_[number];
        if (plateaus_[plateau].center != number) continue;
        const float peak = heatmap[static_cast<std::size_t>(y) * width + x];
        found.push_back(
            {y, x, peak,
             logit_margin(peak) + kTieBreak * mean_margin(heatmap, height, width, y, x)});
    }
    std::sort(found.begin(), found.end(), is_stronger);
    if (found.size() > kMostPerStrip) found.resize(kMostPerStrip);
}

void PeakFinder::collect(const float* heatmap, int height, int width, float threshold) {
    candidates_.clear();
    rows_.assign(1, 0);
    for (int y = 0; y < height; ++y) {
        const float* pixels = heatmap + static_cast<std::size_t>(y) * width;
        for (int x = 0; x < width; ++x) {
            if (!(pixels[x] > threshold) || !is_highest(heatmap, height, width, y, x)) continue;
            candidates_.push_back({y, x, candidates_.size()});
        }
        rows_.push_back(candidates_.size());
    }
}

// Joins candidates within kNeighbourhood of each other: such candidates are equally high and belong
// to one plateau. Each is compared with those within reach only, so that the time does not grow
// with the width of a plateau.
void PeakFinder::join_plateaus() {
    const int height = static_cast<int>(rows_.size()) - 1;
    for (int y = 0; y < height; ++y) {
        for (int row = std::max(y - kNeighbourhood, 0); row <= y; ++row) {
            std::size_t first = rows_[row];  // the first candidate of that row within reach
            for (std::size_t number = rows_[y]; number < rows_[y + 1]; ++number) {
                const int x = candidates_[number].x;
                const std::size_t end = std::min(rows_[row + 1], number);
                while (first < end && candidates_[first].x < x - kNeighbourhood) ++first;
                for (std::size_t other = first;
                     other < end && candidates_[other].x <= x + kNeighbourhood; ++other) {
                    join(other, number);
                }
            }
        }
    }
}

void PeakFinder::join(std::size_t earlier, std::size_t later) {
    if (candidates_[earlier].plateau == candidates_[later].plateau) return;
    const std::size_t one = first_of_plateau(earlier), other = first_of_plateau(later);
    candidates_[std::max(one, other)].plateau = std::min(one, other);
}

std::size_t PeakFinder::first_of_plateau(std::size_t number) {
    while (candidates_[number].plateau != number) {
        // halve the path, which shortens later searches
        candidates_[number].plateau = candidates_[candidates_[number].plateau].plateau;
        number = candidates_[number].plateau;
    }
    return number;
}

// Chooses the most central pixel of each plateau, the first one of several.
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
        const double dy = here.y - plateau.y / plateau.count,
                     dx = here.x - plateau.x / plateau.count;
        if (dy * dy + dx * dx >= plateau.distance) continue;
        plateau.distance = dy * dy + dx * dx;
        plateau.center = number;
    }
}

}  // namespace strips
