// The command-line program: prints the detections of a model on strips and the latencies of its
// calls, or the differences between two models.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "json_text.h"
#include "strip_detector.h"
#include "strip_tiff.h"

namespace {

using strips::json_of;

constexpr const char* kUsage =
    R"(usage: strip_detect MODEL.onnx STRIP... [--device auto|cpu|cuda] [--threads N]
                    [--threshold T] [--repeat N] [--json]
       strip_detect --compare OLD.onnx NEW.onnx STRIP... [the same]

  MODEL.onnx       a file of export_onnx_fullimage.py
  STRIP            a TIFF file of 3 or 4 channels, with the size of the model's strips
  --device         auto (default): cuda where it can be used, else cpu
  --threads N      CPU threads of a call; default: one per core
  --threshold T    of the heatmap; default: the model's calibrated one
  --repeat N       call N times for each strip, to measure latencies
  --json           print one JSON object per line: each strip, then the latencies
  --compare        list the detections that only the new or only the old model has

Exit codes: 0 all strips were processed; 1 an error in the model or in a strip, which one line
describes; 2 a wrong flag.
)";

// pixels: largest distance between two detections of the same object, as in the Python suite
constexpr double kMatchRadius = 3;

struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Arguments {
    std::vector<std::string> models, strips;
    strips::Options options;
    int repeat = 1;
    bool json = false;
};

int whole_number(const std::string& flag, const std::string& text) {
    std::size_t used = 0;
    int value = 0;
    try {
        value = std::stoi(text, &used);
    } catch (const std::exception&) {
    }
    if (used != text.size() || value < 1) {
        throw UsageError(flag + ": found '" + text + "', expected a whole number from 1 on");
    }
    return value;
}

float number(const std::string& flag, const std::string& text) {
    char* end = nullptr;
    const float value = std::strtof(text.c_str(), &end);
    if (text.empty() || *end || !std::isfinite(value)) {
        throw UsageError(flag + ": found '" + text + "', expected a number");
    }
    return value;
}

strips::Device device(const std::string& text) {
    if (text == "auto") return strips::Device::automatic;
    if (text == "cpu") return strips::Device::cpu;
    if (text == "cuda") return strips::Device::cuda;
    throw UsageError("--device: found '" + text + "', expected auto, cpu or cuda");
}

Arguments parse(const std::vector<std::string>& words) {
    Arguments arguments;
    std::vector<std::string> names;
    std::size_t models = 1;
    for (std::size_t place = 0; place < words.size(); ++place) {
        const std::string& word = words[place];
        const auto value = [&]() -> const std::string& {
            if (place + 1 == words.size()) throw UsageError(word + ": found nothing after it");
            return words[++place];
        };
        if (word == "--device") arguments.options.device = device(value());
        else if (word == "--threads") arguments.options.threads = whole_number(word, value());
        else if (word == "--threshold") arguments.options.threshold = number(word, value());
        else if (word == "--repeat") arguments.repeat = whole_number(word, value());
        else if (word == "--json") arguments.json = true;
        else if (word == "--compare") models = 2;
        else if (word.rfind("--", 0) == 0)
            throw UsageError("found the flag " + word + ", which is not known");
        else names.push_back(word);
    }
    if (names.size() <= models) {
        throw UsageError("found too few files: a model and strips are needed");
    }
    arguments.models.assign(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(models));
    arguments.strips.assign(names.begin() + static_cast<std::ptrdiff_t>(models), names.end());
    return arguments;
}

// The latencies of calls and their percentiles.
class Latencies {
public:
    void add(double milliseconds) { milliseconds_.push_back(milliseconds); }

    std::string text() {
        std::sort(milliseconds_.begin(), milliseconds_.end());
        return std::to_string(milliseconds_.size()) +
               " calls; of each, in ms, without reading the file: p50 " + tenths(at(0.5)) +
               ", p95 " + tenths(at(0.95)) + ", p99 " + tenths(at(0.99)) + ", max " + tenths(at(1));
    }

    std::string json() {
        std::sort(milliseconds_.begin(), milliseconds_.end());
        return "{\"calls\": " + std::to_string(milliseconds_.size()) +
               ", \"p50\": " + json_of(at(0.5)) + ", \"p95\": " + json_of(at(0.95)) +
               ", \"p99\": " + json_of(at(0.99)) + ", \"max\": " + json_of(at(1)) + "}";
    }

private:
    // The shortest time that a share of at least `share` of the calls does not exceed.
    double at(double share) const {
        const auto rank =
            static_cast<std::size_t>(std::ceil(share * static_cast<double>(milliseconds_.size())));
        return milliseconds_.empty() ? 0 : milliseconds_[std::max<std::size_t>(rank, 1) - 1];
    }

    static std::string tenths(double milliseconds) {
        char text[32];
        std::snprintf(text, sizeof(text), "%.1f", milliseconds);
        return text;
    }

    std::vector<double> milliseconds_;
};

// An opened model with the results and latencies of its calls.
struct Model {
    Model(const std::string& name, const Arguments& arguments)
        : path(name),
          detector(name, arguments.options),
          repeat(arguments.repeat),
          json(arguments.json) {}

    const strips::ModelFacts& facts() const { return detector.facts(); }
    const std::vector<strips::Detection>& found() const { return results.detections(0); }

    void look_at(const strips::Image& image) {
        const strips::ModelInput input(image, facts());
        for (int call = 0; call < repeat; ++call) {
            const auto started = std::chrono::steady_clock::now();
            detector.detect({input.pixels(), facts().pixel_type, 1, facts().channels,
                             facts().height, facts().width},
                            results);
            latencies.add(std::chrono::duration<double, std::milli>(
                              std::chrono::steady_clock::now() - started)
                              .count());
        }
    }

    void print_latencies() {
        const std::string device = detector.device() == strips::Device::cuda ? "cuda" : "cpu";
        if (json) {
            std::cout << "{\"model\": " << json_of(path) << ", \"device\": " << json_of(device)
                      << ", \"latency_ms\": " << latencies.json() << "}\n";
            return;
        }
        std::cout << path << " on " << device << " (" << detector.why_device() << "), ONNX Runtime "
                  << strips::StripDetector::runtime_version() << ": " << latencies.text() << '\n';
    }

    std::string path;
    strips::StripDetector detector;
    strips::Results results;
    Latencies latencies;
    int repeat;
    bool json;
};

void print_strip(const std::string& name, const Model& model) {
    std::vector<strips::ReferenceAlignment> alignment;
    if (model.facts().has_alignment) {
        alignment = {model.results.alignment(0, 0), model.results.alignment(0, 1)};
    }
    const bool is_defective = model.results.is_defective(0);
    if (model.json) {
        std::cout << "{\"strip\": " << json_of(name)
                  << ", \"defective\": " << (is_defective ? "true" : "false")
                  << ", \"threshold\": " << json_of(model.detector.threshold())
                  << ", \"detections\": " << json_of(model.found());
        if (!alignment.empty()) std::cout << ", \"alignment\": " << json_of(alignment);
        std::cout << "}\n";
        return;
    }
    std::cout << name << ": " << (is_defective ? "NG" : "OK") << ", " << model.found().size()
              << " detections above " << model.detector.threshold() << '\n';
    for (const auto& one : model.found()) {
        std::cout << "  y " << one.y << "  x " << one.x << "  heatmap " << one.peak << "  margin "
                  << one.margin << '\n';
    }
    for (std::size_t reference = 0; reference < alignment.size(); ++reference) {
        const auto& found = alignment[reference];
        std::cout << "  Ref" << reference + 1 << ": shift_y " << found.shift_y << "  shift_x "
                  << found.shift_x << "  wander " << found.wander << "  gain " << found.gain
                  << "  remainder " << found.remainder << '\n';
    }
}

// Calls `work` with every strip's name and image, and returns the exit code. A strip that cannot be
// used becomes a line on stderr, and the others follow. Throws Error where all strips lie within 0
// to 1 but the camera's range is larger: they are then in another scale.
template <typename Work>
int for_each_strip(const Arguments& arguments, const strips::ModelFacts& facts, const Work& work) {
    int exit_code = EXIT_SUCCESS;
    float brightest = 0;
    std::size_t read = 0;
    for (const std::string& name : arguments.strips) {
        try {
            const strips::Image image = strips::read_strip(name, facts.height, facts.width);
            work(name, image);
            brightest = std::max(
                brightest,
                *std::max_element(image.values.data(), image.values.data() + image.counted()));
            read += 1;
        } catch (const std::exception& error) {
            std::cerr << "error: " << name << ": " << error.what() << '\n';
            exit_code = EXIT_FAILURE;
        }
        if (!std::cout.flush()) throw strips::Error("found that the output cannot be written");
    }
    if (read == 0 || brightest > 1 || facts.input_max <= 1) return exit_code;
    throw strips::Error("found no value above " + strips::text_of(brightest) +
                        " in any strip, expected 0 to " + strips::text_of(facts.input_max) +
                        ": what was found there means nothing");
}

int detect_all(const Arguments& arguments) {
    Model model(arguments.models[0], arguments);
    const int exit_code = for_each_strip(arguments, model.facts(),
                                         [&](const std::string& name, const strips::Image& image) {
                                             model.look_at(image);
                                             print_strip(name, model);
                                         });
    model.print_latencies();
    return exit_code;
}

// The detections of `some` that have none of `others` within kMatchRadius.
std::vector<strips::Detection> alone(const std::vector<strips::Detection>& some,
                                     const std::vector<strips::Detection>& others) {
    std::vector<strips::Detection> found;
    std::copy_if(some.begin(), some.end(), std::back_inserter(found), [&](const auto& one) {
        return std::none_of(others.begin(), others.end(), [&](const auto& other) {
            return std::hypot(one.y - other.y, one.x - other.x) <= kMatchRadius;
        });
    });
    return found;
}

void print_alone(const std::string& name, const std::string& what,
                 const std::vector<strips::Detection>& found) {
    for (const auto& one : found) {
        std::cout << name << ": " << what << "  y " << one.y << "  x " << one.x << "  heatmap "
                  << one.peak << '\n';
    }
}

int compare_all(const Arguments& arguments) {
    Model before(arguments.models[0], arguments), after(arguments.models[1], arguments);
    const strips::ModelFacts &one = before.facts(), &other = after.facts();
    if (one.height != other.height || one.width != other.width ||
        one.input_max != other.input_max) {
        throw strips::Error(
            "found models for strips of another size or camera, expected two of a kind");
    }
    std::size_t looked_at = 0, added = 0, lost = 0, changed = 0;
    const int exit_code =
        for_each_strip(arguments, one, [&](const std::string& name, const strips::Image& image) {
            before.look_at(image);
            after.look_at(image);
            const auto only_after = alone(after.found(), before.found()),
                       only_before = alone(before.found(), after.found());
            looked_at += 1;
            added += only_after.size();
            lost += only_before.size();
            changed += before.results.is_defective(0) != after.results.is_defective(0);
            if (arguments.json) {
                std::cout << "{\"strip\": " << json_of(name) << ", \"new\": " << json_of(only_after)
                          << ", \"lost\": " << json_of(only_before) << "}\n";
                return;
            }
            print_alone(name, "new", only_after);
            print_alone(name, "lost", only_before);
        });
    if (arguments.json) {
        std::cout << "{\"strips\": " << looked_at << ", \"new\": " << added
                  << ", \"lost\": " << lost << ", \"verdicts_changed\": " << changed << "}\n";
    } else {
        std::cout << looked_at << " strips: " << added << " new detections, " << lost << " lost, "
                  << changed << " verdicts changed\n";
    }
    before.print_latencies();
    after.print_latencies();
    return exit_code;
}

}  // namespace

int main(int count, char** words) {
    try {
        const std::vector<std::string> given(words + (count > 0), words + count);
        if (std::any_of(given.begin(), given.end(),
                        [](const auto& word) { return word == "--help" || word == "-h"; })) {
            std::cout << kUsage;
            return EXIT_SUCCESS;
        }
        const Arguments arguments = parse(given);
        const int exit_code =
            arguments.models.size() == 2 ? compare_all(arguments) : detect_all(arguments);
        if (!std::cout.flush()) throw strips::Error("found that the output cannot be written");
        return exit_code;
    } catch (const UsageError& error) {
        std::cerr << "error: " << error.what() << "; strip_detect --help lists what there is\n";
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return EXIT_FAILURE;
    }
}
