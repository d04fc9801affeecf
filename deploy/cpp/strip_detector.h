// Point defects on strips, by an ONNX file of export_onnx_fullimage.py, in ONNX Runtime.
//
//     strips::StripDetector detector("model_best.onnx");  // by Options on a device, with a threshold
//     strips::Results results;  // one for each thread, used again for every call
//     detector.detect({planes, strips::PixelType::float32, 1, 3, 976, 176}, results);
//     if (results.is_defective(0)) reject(results.detections(0));
//
// Whatever goes wrong is an Error with a text; the next call works. Nothing of ONNX Runtime is in this header.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model_facts.h"
#include "peaks.h"
#include "strip_detector_export.h"

namespace strips {

// automatic: CUDA where ONNX Runtime can use it, else the CPU. cuda: that, or an Error.
enum class Device { automatic, cpu, cuda };

struct Options {
    Device device = Device::automatic;
    int threads = 0;                 // of the CPU for one call, up to 1024; 0: one per core. 1 where several threads call at once
    std::optional<float> threshold;  // on the heatmap; without one the file's calibrated one
};

// Strips in the caller's memory, which is read where it is: count x channels x height x width values, one plane after the other.
// The channels are the model's; of one strip alone there may be a fourth where the model has three.
struct Strips {
    const void* pixels;
    PixelType pixel_type;
    std::size_t count;
    int channels, height, width;
};

// What aligning a reference found.
struct ReferenceAlignment {
    float shift_y, shift_x;  // pixels
    float wander;            // pixels that the shift departs from that along the strip
    float gain;              // Target's contrast divided by the reference's
    float remainder;         // what is left of the difference: root mean square, as a share of the range
};

// What a call found, and the memory for it, which the next call with as many strips uses again. Not for two threads at once. After
// a call that failed there are no strips in it.
class STRIP_DETECTOR_API Results {
public:
    std::size_t count() const { return count_; }
    void clear() { count_ = 0; }

    // (height, width) defect probabilities 0-1.
    const float* heatmap(std::size_t strip) const { return &heatmaps_[at(strip) * 3 * pixels_]; }
    // Local maxima above the threshold, strongest first.
    const std::vector<Detection>& detections(std::size_t strip) const { return detections_[at(strip)]; }
    bool is_defective(std::size_t strip) const { return !detections(strip).empty(); }
    // Of Ref1 (0) or Ref2 (1); for a model whose facts say has_alignment, else an Error.
    ReferenceAlignment alignment(std::size_t strip, std::size_t reference) const;

private:
    friend class StripDetector;
    void make_room(std::size_t strips, const ModelFacts& facts);
    std::size_t at(std::size_t strip) const;

    std::size_t count_ = 0, pixels_ = 0;
    std::vector<float> heatmaps_;    // as the file writes them: (count, 3, height, width), two of three planes are zero
    std::vector<float> alignments_;  // (count, 2, kMeasures)
    std::vector<std::vector<Detection>> detections_;
    PeakFinder finder_;
};

// An opened model. One serves any number of threads at once, each with Results of its own. Of one that was moved from, nothing but
// its end or an assignment may follow.
class STRIP_DETECTOR_API StripDetector {
public:
    // Opens the file and calls it once, as only first calls are slow. Throws Error for a file that is missing, broken, not of
    // export_onnx_fullimage.py or of a newer schema, for one without a threshold where none is given, and for a device that is
    // not there.
    explicit StripDetector(const std::filesystem::path& model, const Options& options = {});
    ~StripDetector();
    StripDetector(StripDetector&&) noexcept;
    StripDetector& operator=(StripDetector&&) noexcept;

    // Throws Error, with empty results, for strips that are not the model's (type, size, planes, values that are not finite or
    // outside the input's range), for a heatmap that is not one, and where memory does not suffice.
    void detect(const Strips& strips, Results& results) const;

    const ModelFacts& facts() const;
    float threshold() const;
    Device device() const;                    // cpu or cuda
    const std::string& why_device() const;    // why automatic took that one
    static std::string runtime_version();     // of ONNX Runtime

private:
    void open(const std::filesystem::path& model, const Options& options);
    void open_on(Device device, const std::filesystem::path& model, const Options& options);

    struct Session;
    std::unique_ptr<Session> session_;
};

}  // namespace strips
