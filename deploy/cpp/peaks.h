// From a heatmap to detections: evaluation/detections.find_peaks of the Python suite, number for number.
#pragma once

#include <cstddef>
#include <vector>

#include "strip_detector_export.h"

namespace strips {

// A local maximum of the heatmap: no pixel within three rows and columns is higher, and a plateau is one detection.
struct Detection {
    int y, x;      // whole pixels
    float peak;    // the heatmap there, 0-1
    double score;  // logit margin of the peak, and a millionth of the mean margin around it: what detections are ranked by
};

// Keeps its memory from call to call. Not for two threads at once.
class STRIP_DETECTOR_API PeakFinder {
public:
    // The local maxima above `threshold` of a heatmap (height, width), strongest first, at most 1,000.
    void find(const float* heatmap, int height, int width, float threshold, std::vector<Detection>& found);

private:
    struct Candidate {
        int y, x;
        std::size_t plateau;  // number of the first candidate of its plateau
    };
    struct Plateau {
        double count, y, x;  // sums of its pixels' places
        std::size_t center;  // number of the candidate nearest to their mean,
        double distance;     // and how far from it that one is, squared
    };

    void collect(const float* heatmap, int height, int width, float threshold);
    void join_plateaus();
    void join(std::size_t earlier, std::size_t later);
    void choose_centers();
    std::size_t first_of_plateau(std::size_t number);

    std::vector<Candidate> candidates_;
    std::vector<std::size_t> rows_;  // number of the first candidate of each row, and how many there are
    std::vector<Plateau> plateaus_;
};

}  // namespace strips
