// Detects point defects on strips: runs an ONNX file of export_onnx_fullimage.py in ONNX Runtime.
//
//     strips::StripDetector detector("model_best.onnx");  // Options choose device and threshold
//     strips::Results results;  // one for each thread, reused by every call
//     detector.detect({planes, strips::PixelType::float32, 1, 3, 976, 176}, results);
//     if (results.is_defective(0)) reject(results.detections(0));
//
// Every failure is an Error with a text, and the next call works. This header needs no header of
// ONNX Runtime.
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

// automatic: CUDA where ONNX Runtime can use it, else the CPU. cuda: CUDA, or an Error.
enum class Device { automatic, cpu, cuda };

struct Options {
    Device device = Device::automatic;
    // CPU threads for one call, up to 1024; 0: one per core. Use 1 where several threads call at
    // once.
    int threads = 0;
    // Of the heatmap, 0-1; the default is the file's calibrated threshold.
    std::optional<float> threshold;
};

// Strips in the caller's memory, which is read in place and not copied: count x channels x height x
// width values, one plane after the other. The channels are those of the model; a single strip may
// have a fourth one where the model has three.
struct Strips {
    const void* pixels;
    PixelType pixel_type;
    std::size_t count;
    int channels, height, width;
};

// The measures of the alignment of one reference.
struct ReferenceAlignment {
    float shift_y, shift_x;  // pixels
    float wander;            // pixels by which the shift varies along the strip
    float gain;              // Target's contrast divided by the reference's
    float remainder;         // residual difference: root mean square, as a share of the range
};

// The results of a call, and their memory, which the next call with as many strips reuses. Not for
// two threads at once. It is empty after a call that failed.
class STRIP_DETECTOR_API Results {
public:
    std::size_t count() const { return count_; }
    void clear() { count_ = 0; }

    // (height, width) defect probabilities 0-1. Throws Error for a strip that is not there, as the
    // other functions do.
    const float* heatmap(std::size_t strip) const { return &heatmaps_[at(strip) * 3 * pixels_]; }
    // Local maxima above the threshold, strongest first.
    const std::vector<Detection>& detections(std::size_t strip) const {
        return detections_[at(strip)];
    }
    bool is_defective(std::size_t strip) const { return !detections(strip).empty(); }
    // Of Ref1 (0) or Ref2 (1). Throws Error for a model whose facts lack has_alignment.
    ReferenceAlignment alignment(std::size_t strip, std::size_t reference) const;

private:
    friend class StripDetector;
    void make_room(std::size_t strips, const ModelFacts& facts);
    std::size_t at(std::size_t strip) const;

    std::size_t count_ = 0, pixels_ = 0;
    std::vector<float> heatmaps_;  // the file's output (count, 3, height, width); planes 1, 2 are 0
    std::vector<float> alignments_;  // (count, 2, kMeasures)
    std::vector<std::vector<Detection>> detections_;
    PeakFinder finder_;
};

// An opened model. One detector serves any number of threads at once, each with separate Results. A
// moved-from detector may only be destroyed or assigned to.
class STRIP_DETECTOR_API StripDetector {
public:
    // Opens the file and calls it once, as only first calls are slow. Throws Error for a file that
    // is missing, broken, not of export_onnx_fullimage.py or of a newer schema, for one without a
    // threshold where none is given, and for a device that cannot be used.
    explicit StripDetector(const std::filesystem::path& model, const Options& options = {});
    ~StripDetector();
    StripDetector(StripDetector&&) noexcept;
    StripDetector& operator=(StripDetector&&) noexcept;

    // Throws Error and leaves the results empty: for strips of another type, size or number of
    // planes than the model's, for values that are not finite or outside the input's range, for a
    // heatmap outside 0 to 1, and where memory is insufficient.
    void detect(const Strips& strips, Results& results) const;

    const ModelFacts& facts() const;
    float threshold() const;
    Device device() const;                  // cpu or cuda
    const std::string& why_device() const;  // the reason for the device
    static std::string runtime_version();   // version of ONNX Runtime

private:
    void open(const std::filesystem::path& model, const Options& options);
    void open_on(Device device, const std::filesystem::path& model, const Options& options);

    struct Session;
    std::unique_ptr<Session> session_;
};

}  // namespace strips
