#include "strip_detector_c.h"

#include <cmath>
#include <exception>
#include <new>
#include <string>

#include "strip_detector.h"

struct strip_detector {
    strips::StripDetector detector;
};

struct strip_results {
    strips::Results results;
};

namespace {

thread_local std::string last_error;

// Runs `work`. No exception may leave a C function: one is kept as text, and `failed` is returned.
template <typename Result, typename Work>
Result guarded(Result failed, const Work& work) noexcept {
    try {
        last_error.clear();
        return work();
    } catch (const std::exception& error) {
        try {
            last_error = error.what();
        } catch (...) {
            last_error = "out of memory";  // short enough to need no allocation
        }
    } catch (...) {
        last_error = "unknown";
    }
    return failed;
}

// The object of a pointer. Throws Error for NULL, naming what was expected.
template <typename Pointer>
Pointer& given(Pointer* pointer, const char* what) {
    if (!pointer) throw strips::Error(std::string("found a null pointer, expected ") + what);
    return *pointer;
}

strips::Device device_of(int number) {
    switch (number) {
        case STRIP_DEVICE_AUTOMATIC: return strips::Device::automatic;
        case STRIP_DEVICE_CPU: return strips::Device::cpu;
        case STRIP_DEVICE_CUDA: return strips::Device::cuda;
        default:
            throw strips::Error("found device " + std::to_string(number) +
                                ", expected one of STRIP_DEVICE_...");
    }
}

strips::PixelType pixel_type_of(int number) {
    switch (number) {
        case STRIP_FLOAT32: return strips::PixelType::float32;
        case STRIP_UINT8: return strips::PixelType::uint8;
        default:
            throw strips::Error("found pixel type " + std::to_string(number) +
                                ", expected STRIP_FLOAT32 or STRIP_UINT8");
    }
}

}  // namespace

const char* strip_last_error(void) { return last_error.c_str(); }

const char* strip_runtime_version(void) {
    return guarded<const char*>(nullptr, [] {
        static const std::string version = strips::StripDetector::runtime_version();
        return version.c_str();
    });
}

strip_detector* strip_detector_new(const char* model_path, int device, int threads,
                                   float threshold) {
    return guarded<strip_detector*>(nullptr, [&] {
        strips::Options options{device_of(device), threads, std::nullopt};
        if (!std::isnan(threshold)) options.threshold = threshold;
        return new strip_detector{strips::StripDetector(
            std::filesystem::u8path(&given(model_path, "a model's path")), options)};
    });
}

void strip_detector_delete(strip_detector* detector) { delete detector; }

int strip_detector_facts(const strip_detector* detector, strip_facts* facts) {
    return guarded(-1, [&] {
        const strips::StripDetector& opened = given(detector, "a detector").detector;
        const strips::ModelFacts& known = opened.facts();
        given(facts, "memory for the facts") = {
            known.channels,
            known.height,
            known.width,
            known.pixel_type == strips::PixelType::float32 ? STRIP_FLOAT32 : STRIP_UINT8,
            known.largest_value,
            opened.threshold(),
            opened.device() == strips::Device::cpu ? STRIP_DEVICE_CPU : STRIP_DEVICE_CUDA,
            known.has_alignment};
        return 0;
    });
}

const char* strip_detector_entry(const strip_detector* detector, const char* name) {
    return guarded<const char*>(nullptr, [&] {
        const auto& entries = given(detector, "a detector").detector.facts().entries;
        const auto found = entries.find(&given(name, "an entry's name"));
        if (found == entries.end()) {
            throw strips::Error(std::string("found no ") + name + " in the model's metadata");
        }
        return found->second.c_str();
    });
}

strip_results* strip_results_new(void) {
    return guarded<strip_results*>(nullptr, [] { return new strip_results; });
}

void strip_results_delete(strip_results* results) { delete results; }

int strip_detector_detect(const strip_detector* detector, const void* pixels, int pixel_type,
                          size_t count, int channels, int height, int width,
                          strip_results* results) {
    return guarded(-1, [&] {
        strips::Results& found = given(results, "results").results;
        found.clear();  // results of an earlier call must not be mistaken for those of this one
        const strips::Strips strips{pixels, pixel_type_of(pixel_type), count, channels, height,
                                    width};
        given(detector, "a detector").detector.detect(strips, found);
        return 0;
    });
}

const float* strip_results_heatmap(const strip_results* results, size_t strip) {
    return guarded<const float*>(nullptr,
                                 [&] { return given(results, "results").results.heatmap(strip); });
}

int strip_results_count(const strip_results* results, size_t strip) {
    return guarded(-1, [&] {
        return static_cast<int>(given(results, "results").results.detections(strip).size());
    });
}

int strip_results_detection(const strip_results* results, size_t strip, size_t number,
                            strip_detection* detection) {
    return guarded(-1, [&] {
        const auto& detections = given(results, "results").results.detections(strip);
        if (number >= detections.size()) {
            throw strips::Error("found no detection " + std::to_string(number) +
                                ", expected one of " + std::to_string(detections.size()));
        }
        const strips::Detection& found = detections[number];
        given(detection, "memory for a detection") = {found.y, found.x, found.peak, found.margin};
        return 0;
    });
}

int strip_results_alignment(const strip_results* results, size_t strip, size_t reference,
                            strip_alignment* alignment) {
    return guarded(-1, [&] {
        const strips::ReferenceAlignment found =
            given(results, "results").results.alignment(strip, reference);
        given(alignment, "memory for an alignment") = {found.shift_y, found.shift_x, found.wander,
                                                       found.gain, found.remainder};
        return 0;
    });
}
