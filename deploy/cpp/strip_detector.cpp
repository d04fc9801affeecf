#include "strip_detector.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "model_hash.h"

// A library older than the headers has no function table of this version: see load_runtime.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace strips {
namespace {

constexpr const char* kOutputs[] = {"output", "alignment"};
constexpr std::size_t kReferences = 2;
constexpr std::size_t kMostStrips = 65536;  // per call: no product of sizes overflows
constexpr int kMostThreads = 1024;
// Values may exceed the input's range by this factor, as the caller's scaling may round up.
constexpr float kRounding = 1 + 1e-5f;

// One environment for the whole process. It is never destroyed, so that a global detector cannot
// outlive it.
Ort::Env& environment() {
    static Ort::Env* const environment = [] {
        auto* created = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "strip_detector");
        created->DisableTelemetryEvents();
        return created;
    }();
    return *environment;
}

// Loads ONNX Runtime's function table and creates its log, without which some errors have no text.
// Throws Error where the library is older than the headers of this build.
void load_runtime() {
    static const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!api) {
        throw Error("found ONNX Runtime " + StripDetector::runtime_version() + ", expected 1." +
                    std::to_string(ORT_API_VERSION) + " or newer");
    }
    static const bool is_set = (Ort::InitApi(api), true);
    static_cast<void>(is_set);
    environment();
}

Ort::SessionOptions session_options(const Options& options) {
    Ort::SessionOptions session_options;
    session_options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    if (options.threads > 0) session_options.SetIntraOpNumThreads(options.threads);
    return session_options;
}

struct CudaOptionsDeleter {
    void operator()(OrtCUDAProviderOptionsV2* options) const {
        Ort::GetApi().ReleaseCUDAProviderOptions(options);
    }
};

void append_cuda(Ort::SessionOptions& session_options) {
    OrtCUDAProviderOptionsV2* created = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&created));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, CudaOptionsDeleter> cuda(created);
    // TF32 would change heatmaps by about 1e-3. cuDNN chooses algorithms by its rules, as in
    // deploy/session.py: those that it finds by timing take up to three times as long.
    const char* keys[] = {"use_tf32", "cudnn_conv_algo_search"};
    const char* values[] = {"0", "HEURISTIC"};
    Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(cuda.get(), keys, values, 2));
    session_options.AppendExecutionProvider_CUDA_V2(*cuda);
}

// The first line of an error's text, without ONNX Runtime's status code.
std::string plain(const std::exception& error) {
    const std::string text = error.what(), line = text.substr(0, text.find('\n'));
    const std::size_t status = line.find("[ONNXRuntimeError] : ");
    const std::size_t name = status == std::string::npos ? status : line.find(" : ", status + 21);
    return name == std::string::npos ? line : line.substr(name + 3);
}

std::map<std::string, std::string> metadata_of(const Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    const Ort::ModelMetadata metadata = session.GetModelMetadata();
    std::map<std::string, std::string> entries;
    for (const auto& key : metadata.GetCustomMetadataMapKeysAllocated(allocator)) {
        if (const auto value = metadata.LookupCustomMetadataMapAllocated(key.get(), allocator)) {
            entries[key.get()] = value.get();
        }
    }
    return entries;
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (const int64_t length : shape) text += (text.empty() ? "" : ", ") + std::to_string(length);
    return "(" + text + ")";
}

void require_tensor(const std::string& name, const Ort::TypeInfo& info,
                    ONNXTensorElementDataType type, std::vector<int64_t> rest) {
    if (info.GetONNXType() != ONNX_TYPE_TENSOR) {
        throw Error("found no tensor as the model's " + name);
    }
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    auto shape = tensor.GetShape();
    const std::string found = shape_text(shape);
    if (!shape.empty()) shape.erase(shape.begin());  // the number of strips is free
    if (tensor.GetElementType() == type && shape == rest) return;
    rest.insert(rest.begin(), -1);
    throw Error("found the model's " + name + " of shape " + found + " and element type " +
                std::to_string(tensor.GetElementType()) + ", expected " + shape_text(rest) +
                " and " + std::to_string(type) + " as its metadata say");
}

ONNXTensorElementDataType element_type(PixelType type) {
    return type == PixelType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                      : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

// Throws Error where the file's graph or weights are not those that were exported. Files of earlier
// suites have no hash.
void require_unchanged(const std::filesystem::path& model, const ModelFacts& facts) {
    const auto expected = facts.entries.find("graph_sha256");
    if (expected == facts.entries.end() || expected->second == graph_hash(model)) return;
    throw Error("found a graph or weights that changed since the export, expected the file as "
                "export_onnx_fullimage.py wrote it: export again");
}

// Throws Error where the graph's input and outputs differ from its metadata, whose sizes determine
// the memory that run() passes to ONNX Runtime.
void require_signature(const Ort::Session& session, const ModelFacts& facts) {
    Ort::AllocatorWithDefaultOptions allocator;
    if (session.GetInputCount() != 1 ||
        std::strcmp(session.GetInputNameAllocated(0, allocator).get(), "input") != 0) {
        throw Error(
            "found other inputs than one of the name 'input', expected a file of "
            "export_onnx_fullimage.py");
    }
    require_tensor("input", session.GetInputTypeInfo(0), element_type(facts.pixel_type),
                   {facts.channels, facts.height, facts.width});
    const std::vector<std::vector<int64_t>> rests = {{3, facts.height, facts.width},
                                                     {kReferences, kMeasures}};
    for (std::size_t wanted = 0; wanted < (facts.has_alignment ? 2u : 1u); ++wanted) {
        std::size_t number = 0;
        while (number < session.GetOutputCount() &&
               std::strcmp(session.GetOutputNameAllocated(number, allocator).get(),
                           kOutputs[wanted]) != 0) {
            ++number;
        }
        if (number == session.GetOutputCount()) {
            throw Error(std::string("found no output of the name '") + kOutputs[wanted] + "'");
        }
        require_tensor(kOutputs[wanted], session.GetOutputTypeInfo(number),
                       ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, rests[wanted]);
    }
}

bool are_in_range(const float* values, std::size_t count, float largest) {
    const float limit = largest * kRounding;
    // NaN counts as outside. The loop has no early exit, so that the compiler can vectorize it.
    unsigned outside = 0;
    for (std::size_t number = 0; number < count; ++number) {
        outside |= !(values[number] >= 0 && values[number] <= limit);
    }
    return outside == 0;
}

void require_in_range(const Strips& strips, const ModelFacts& facts) {
    if (strips.pixel_type != PixelType::float32) return;
    const auto* values = static_cast<const float*>(strips.pixels);
    const std::size_t pixels = static_cast<std::size_t>(strips.height) * strips.width,
                      planes = strips.count * strips.channels;
    for (std::size_t plane = 0; plane < planes; ++plane, values += pixels) {
        // the fourth plane is ignored
        if (plane % strips.channels == 3 || are_in_range(values, pixels, facts.largest_value)) {
            continue;
        }
        std::size_t number = 0;
        while (are_in_range(values + number, 1, facts.largest_value)) ++number;
        throw Error("found a value of " + text_of(values[number]) + " in strip " +
                    std::to_string(plane / strips.channels) + ", plane " +
                    std::to_string(plane % strips.channels) + ", at (y, x) = (" +
                    std::to_string(number / strips.width) + ", " +
                    std::to_string(number % strips.width) + "), expected 0 to " +
                    text_of(facts.largest_value));
    }
}

void require_strips(const Strips& strips, const ModelFacts& facts) {
    if (!strips.pixels) throw Error("found no pixels (a null pointer), expected a strip's planes");
    if (strips.pixel_type == PixelType::float32 &&
        reinterpret_cast<std::uintptr_t>(strips.pixels) % alignof(float) != 0) {
        throw Error("found float32 pixels at an odd address, expected one that is a multiple of " +
                    std::to_string(alignof(float)));
    }
    if (strips.pixel_type != facts.pixel_type) {
        const bool is_float = facts.pixel_type == PixelType::float32;
        throw Error(std::string("found pixels of another type, expected ") +
                    (is_float ? "float32" : "uint8") + ": the model's input is '" + facts.input +
                    "'");
    }
    // A fourth plane lies behind those of a single strip and is never read.
    const bool has_spare_plane = strips.count == 1 && strips.channels == 4 && facts.channels == 3;
    const bool has_planes = strips.channels == facts.channels || has_spare_plane;
    if (strips.count < 1 || strips.count > kMostStrips || !has_planes ||
        strips.height != facts.height || strips.width != facts.width) {
        const auto as_text = [](std::size_t count, int channels, int height, int width) {
            return std::to_string(count) + " strips of " + std::to_string(channels) +
                   " planes of " + std::to_string(height) + " x " + std::to_string(width);
        };
        throw Error("found " + as_text(strips.count, strips.channels, strips.height, strips.width) +
                    ", expected 1 to " +
                    as_text(kMostStrips, facts.channels, facts.height, facts.width) +
                    " (height x width)");
    }
    require_in_range(strips, facts);
}

}  // namespace

struct StripDetector::Session {
    ModelFacts facts;
    Device device = Device::cpu;
    std::string why;
    float threshold = 0;
    Ort::Session session{nullptr};
    Ort::MemoryInfo memory{nullptr};

    // Throws Ort::Exception, or Error for a file that is not of export_onnx_fullimage.py.
    void open(const std::filesystem::path& model, const Options& options, Device on) {
        Ort::SessionOptions chosen = session_options(options);
        if (on == Device::cuda) append_cuda(chosen);
        session = Ort::Session(environment(), model.c_str(), chosen);
        memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
        device = on;
        facts = read_facts(metadata_of(session));
        require_unchanged(model, facts);
        require_signature(session, facts);
        const std::optional<float> given = options.threshold ? options.threshold : facts.threshold;
        if (!given) throw Error("found no calibrated threshold in it, expected one to be given");
        if (!std::isfinite(*given)) {
            throw Error("found a threshold that is not finite, expected a number");
        }
        threshold = *given;
    }

    // Writes the outputs into existing memory. Throws Ort::Exception.
    void run(const Strips& strips, float* heatmaps, float* alignments) {
        const auto count = static_cast<int64_t>(strips.count);
        const std::array<int64_t, 4> input_shape{count, facts.channels, facts.height, facts.width};
        const std::array<int64_t, 4> heatmap_shape{count, 3, facts.height, facts.width};
        const std::array<int64_t, 3> alignment_shape{count, kReferences, kMeasures};
        const std::size_t pixels =
            static_cast<std::size_t>(facts.height) * facts.width * strips.count;
        const std::size_t bytes =
            pixels * facts.channels * (facts.pixel_type == PixelType::float32 ? sizeof(float) : 1);
        const char* const input_name = "input";
        // ONNX Runtime only reads an input
        const Ort::Value input = Ort::Value::CreateTensor(
            memory, const_cast<void*>(strips.pixels), bytes, input_shape.data(), input_shape.size(),
            element_type(facts.pixel_type));
        Ort::Value outputs[] = {
            Ort::Value::CreateTensor<float>(memory, heatmaps, 3 * pixels, heatmap_shape.data(),
                                            heatmap_shape.size()),
            Ort::Value{nullptr}};
        if (facts.has_alignment) {
            outputs[1] = Ort::Value::CreateTensor<float>(
                memory, alignments, strips.count * kReferences * kMeasures, alignment_shape.data(),
                alignment_shape.size());
        }
        session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, kOutputs, outputs,
                    facts.has_alignment ? 2 : 1);
    }
};

// The function table must be loaded before a session exists, as even its destructor uses it.
StripDetector::StripDetector(const std::filesystem::path& model, const Options& options)
    : session_((load_runtime(), std::make_unique<Session>())) {
    if (options.threads < 0 || options.threads > kMostThreads) {
        throw Error("found " + std::to_string(options.threads) + " threads, expected 0 to " +
                    std::to_string(kMostThreads));
    }
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(model, ignored)) {
        throw Error(model.u8string() +
                    ": found no such regular file, expected an ONNX file written by "
                    "export_onnx_fullimage.py");
    }
    try {
        open(model, options);
    } catch (const std::exception& error) {
        throw Error(model.u8string() + ": " + plain(error));
    }
}

void StripDetector::open(const std::filesystem::path& model, const Options& options) {
    session_->why = "as asked";
    if (options.device == Device::cpu) return open_on(Device::cpu, model, options);
    try {
        open_on(Device::cuda, model, options);
        session_->why = "CUDA can be used";
    } catch (const std::exception& error) {
        session_->why = "CUDA cannot be used: " + plain(error);
        // A broken file fails on the CPU too, and its own error is then reported.
        open_on(Device::cpu, model, options);
        if (options.device == Device::cuda) throw Error("found that " + session_->why);
    }
}

void StripDetector::open_on(Device device, const std::filesystem::path& model,
                            const Options& options) {
    session_->open(model, options, device);
    const ModelFacts& facts = session_->facts;
    // of float32, and therefore large enough for uint8 as well
    const std::vector<float> black(static_cast<std::size_t>(facts.channels) * facts.height *
                                   facts.width);
    Results results;
    detect({black.data(), facts.pixel_type, 1, facts.channels, facts.height, facts.width}, results);
}

StripDetector::~StripDetector() = default;
StripDetector::StripDetector(StripDetector&&) noexcept = default;
StripDetector& StripDetector::operator=(StripDetector&&) noexcept = default;

void StripDetector::detect(const Strips& strips, Results& results) const {
    const ModelFacts& facts = session_->facts;
    results.clear();
    require_strips(strips, facts);
    try {
        results.make_room(strips.count, facts);
        session_->run(strips, results.heatmaps_.data(), results.alignments_.data());
        for (std::size_t strip = 0; strip < strips.count; ++strip) {
            const float* heatmap = &results.heatmaps_[strip * 3 * results.pixels_];
            if (!are_in_range(heatmap, results.pixels_, 1)) {
                throw Error("found a heatmap beyond 0 to 1: the model cannot be trusted");
            }
            results.finder_.find(heatmap, facts.height, facts.width, session_->threshold,
                                 results.detections_[strip]);
        }
    } catch (const Ort::Exception& error) {
        throw Error("found that ONNX Runtime cannot compute it (" + plain(error) + ")");
    } catch (const std::bad_alloc&) {
        throw Error("found too little memory for " + std::to_string(strips.count) + " strips");
    }
    results.count_ = strips.count;
}

const ModelFacts& StripDetector::facts() const { return session_->facts; }
float StripDetector::threshold() const { return session_->threshold; }
Device StripDetector::device() const { return session_->device; }
const std::string& StripDetector::why_device() const { return session_->why; }
std::string StripDetector::runtime_version() { return OrtGetApiBase()->GetVersionString(); }

void Results::make_room(std::size_t strips, const ModelFacts& facts) {
    pixels_ = static_cast<std::size_t>(facts.height) * facts.width;
    heatmaps_.resize(strips * 3 * pixels_);
    alignments_.resize(facts.has_alignment ? strips * kReferences * kMeasures : 0);
    if (detections_.size() < strips) detections_.resize(strips);
}

std::size_t Results::at(std::size_t strip) const {
    // moved-from results have a count but no detections
    if (strip < count_ && strip < detections_.size()) return strip;
    throw Error("found no strip " + std::to_string(strip) + " in the results, expected one of " +
                std::to_string(count_));
}

ReferenceAlignment Results::alignment(std::size_t strip, std::size_t reference) const {
    at(strip);
    if (alignments_.empty()) {
        throw Error(
            "found a model that does not tell how it aligned, expected --outputs "
            "heatmap,alignment");
    }
    if (reference >= kReferences) {
        throw Error("found reference " + std::to_string(reference) + ", expected 0 or 1");
    }
    const float* measures = &alignments_[(strip * kReferences + reference) * kMeasures];
    return {measures[0], measures[1], measures[2], measures[3], measures[4]};
}

}  // namespace strips
