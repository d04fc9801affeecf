// From a heatmap to detections, with the same numbers as evaluation/detections.find_peaks in
// Python.
#pragma once

#include <cstddef>
#include <vector>

#include "strip_detector_export.h"

namespace strips {

// A local maximum of the heatmap: no pixel within three rows and columns is higher. A plateau is
// one detection.
struct Detection {
    int y, x;    // whole pixels
    float peak;  // the heatmap there, 0-1
    // Ranks detections: the logit margin of the peak, plus a millionth of the mean margin around
    // it.
    double margin;
};

// Keeps its memory from call to call. Not for two threads at once.
class STRIP_DETECTOR_API PeakFinder {
public:
    // The local maxima above `threshold` of a heatmap (height, width): strongest first, at most
    // 1,000.
    void find(const float* heatmap, int height, int width, float threshold,
              std::vector<Detection>& found);

private:
    struct Candidate {
        int y, x;
        std::size_t plateau;  // index of the first candidate of its plateau
    };
    struct Plateau {
        double count, y, x;  // number of its pixels, and the sums of their places
        std::size_t center;  // index of the candidate nearest to the mean place
        double distance;     // squared distance of that candidate from the mean place
    };

    void collect(const float* heatmap, int height, int width, float threshold);
    void join_plateaus();
    void join(std::size_t earlier, std::size_t later);
    void choose_centers();
    std::size_t first_of_plateau(std::size_t number);

    std::vector<Candidate> candidates_;
    std::vector<std::size_t> rows_;  // index of each row's first candidate, then their number
    std::vector<Plateau> plateaus_;
};

}  // namespace strips
