// The command-line program: what a model finds on strips, how long a call takes, and what another model would find instead.
#include <algorithm>
#include <chrono>
#include <cmath>
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
    R"(usage: strip_detect MODEL.onnx STRIP... [--device auto|cpu|cuda] [--threads N] [--threshold T] [--repeat N] [--json]
       strip_detect --compare OLD.onnx NEW.onnx STRIP... [the same]

  MODEL.onnx       a file of export_onnx_fullimage.py
  STRIP            a TIFF file of 3 or 4 channels, as large as the model's strips
  --device         auto (default): cuda where it can be used, else cpu
  --threads N      CPU threads of a call; default: one per core
  --threshold T    on the heatmap; default: the model's calibrated one
  --repeat N       call N times for each strip, for the latencies
  --json           one JSON object a line: each strip, then the latencies
  --compare        list the detections that only the new or only the old model has

Exit codes: 0 all strips were looked at; 1 something was wrong with the model or a strip, one line says what; 2 a wrong flag.
)";

constexpr double kMatchRadius = 3;  // pixels between two detections of one thing, as the Python suite counts

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
    if (used != text.size() || value < 1) throw UsageError(flag + ": found '" + text + "', expected a whole number from 1 on");
    return value;
}

float number(const std::string& flag, const std::string& text) {
    char* end = nullptr;
    const float value = std::strtof(text.c_str(), &end);
    if (text.empty() || *end || !std::isfinite(value)) throw UsageError(flag + ": found '" + text + "', expected a number");
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
        else if (word.rfind("--", 0) == 0) throw UsageError("found the flag " + word + ", which is not known");
        else names.push_back(word);
    }
    if (names.size() <= models) throw UsageError("found too few files: a model and strips are needed");
    arguments.models.assign(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(models));
    arguments.strips.assign(names.begin() + static_cast<std::ptrdiff_t>(models), names.end());
    return arguments;
}

std::vector<strips::ReferenceAlignment> alignment_of(const strips::StripDetector& detector, const strips::Results& results) {
    if (!detector.facts().has_alignment) return {};
    return {results.alignment(0, 0), results.alignment(0, 1)};
}

void print_strip(const std::string& name, const strips::StripDetector& detector, const strips::Results& results, bool as_json) {
    const auto& detections = results.detections(0);
    const auto alignment = alignment_of(detector, results);
    if (as_json) {
        std::cout << "{\"strip\": " << json_of(name) << ", \"defective\": " << (results.is_defective(0) ? "true" : "false")
                  << ", \"threshold\": " << json_of(detector.threshold()) << ", \"detections\": " << json_of(detections);
        if (!alignment.empty()) std::cout << ", \"alignment\": " << json_of(alignment);
        std::cout << "}\n";
        return;
    }
    std::cout << name << ": " << (results.is_defective(0) ? "NG" : "OK") << ", " << detections.size() << " detections above "
              << detector.threshold() << '\n';
    for (const auto& detection : detections) {
        std::cout << "  y " << detection.y << "  x " << detection.x << "  heatmap " << detection.peak << "  score " << detection.score << '\n';
    }
    for (std::size_t reference = 0; reference < alignment.size(); ++reference) {
        const auto& found = alignment[reference];
        std::cout << "  Ref" << reference + 1 << ": shift_y " << found.shift_y << "  shift_x " << found.shift_x << "  wander "
                  << found.wander << "  gain " << found.gain << "  remainder " << found.remainder << '\n';
    }
}

class Latencies {
public:
    void add(double milliseconds) { milliseconds_.push_back(milliseconds); }

    void print(const strips::StripDetector& detector, bool as_json) {
        if (milliseconds_.empty()) return;
        std::sort(milliseconds_.begin(), milliseconds_.end());
        const char* device = detector.device() == strips::Device::cuda ? "cuda" : "cpu";
        if (as_json) {
            std::cout << "{\"latency_ms\": {\"calls\": " << milliseconds_.size() << ", \"p50\": " << json_of(at(0.5)) << ", \"p95\": "
                      << json_of(at(0.95)) << ", \"p99\": " << json_of(at(0.99)) << ", \"max\": " << json_of(milliseconds_.back()) << "}, \"device\": \"" << device << "\"}\n";
            return;
        }
        std::cout << milliseconds_.size() << " calls on " << device << " (" << detector.why_device() << "), ONNX Runtime "
                  << strips::StripDetector::runtime_version() << "; of each, in ms, without reading the file: p50 " << at(0.5) << ", p95 "
                  << at(0.95) << ", p99 " << at(0.99) << ", max " << milliseconds_.back() << '\n';
    }

private:
    // The smallest time that so large a share of the calls does not exceed.
    double at(double share) const {
        const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(milliseconds_.size())));
        return milliseconds_[std::max<std::size_t>(rank, 1) - 1];
    }

    std::vector<double> milliseconds_;
};

void detect(const strips::StripDetector& detector, const std::string& name, int repeat, strips::Results& results, Latencies& latencies) {
    const strips::ModelFacts& facts = detector.facts();
    const strips::ModelInput input(strips::read_strip(name, facts.height, facts.width), facts);
    for (int call = 0; call < repeat; ++call) {
        const auto started = std::chrono::steady_clock::now();
        detector.detect({input.pixels(), facts.pixel_type, 1, facts.channels, facts.height, facts.width}, results);
        latencies.add(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count());
    }
}

// Does `work` for every strip; one that cannot be used is a line on stderr, and the others go on.
template <typename Work>
int for_each_strip(const std::vector<std::string>& names, const Work& work) {
    int exit_code = EXIT_SUCCESS;
    for (const std::string& name : names) {
        try {
            work(name);
        } catch (const std::exception& error) {
            std::cerr << "error: " << name << ": " << error.what() << '\n';
            exit_code = EXIT_FAILURE;
        }
        std::cout.flush();
    }
    return exit_code;
}

int detect_all(const Arguments& arguments) {
    const strips::StripDetector detector(arguments.models[0], arguments.options);
    strips::Results results;
    Latencies latencies;
    const int exit_code = for_each_strip(arguments.strips, [&](const std::string& name) {
        detect(detector, name, arguments.repeat, results, latencies);
        print_strip(name, detector, results, arguments.json);
    });
    latencies.print(detector, arguments.json);
    return exit_code;
}

// The detections of `some` that none of `others` is near to.
std::vector<strips::Detection> alone(const std::vector<strips::Detection>& some, const std::vector<strips::Detection>& others) {
    std::vector<strips::Detection> found;
    std::copy_if(some.begin(), some.end(), std::back_inserter(found), [&](const auto& one) {
        return std::none_of(others.begin(), others.end(),
                            [&](const auto& other) { return std::hypot(one.y - other.y, one.x - other.x) <= kMatchRadius; });
    });
    return found;
}

int compare_all(const Arguments& arguments) {
    const strips::StripDetector before(arguments.models[0], arguments.options);
    const strips::StripDetector after(arguments.models[1], arguments.options);
    strips::Results results[2];
    Latencies latencies[2];
    std::size_t looked_at = 0, added = 0, lost = 0, changed = 0;
    const int exit_code = for_each_strip(arguments.strips, [&](const std::string& name) {
        detect(before, name, arguments.repeat, results[0], latencies[0]);
        detect(after, name, arguments.repeat, results[1], latencies[1]);
        const auto only_after = alone(results[1].detections(0), results[0].detections(0));
        const auto only_before = alone(results[0].detections(0), results[1].detections(0));
        looked_at += 1;
        added += only_after.size();
        lost += only_before.size();
        changed += results[0].is_defective(0) != results[1].is_defective(0);
        if (arguments.json) {
            std::cout << "{\"strip\": " << json_of(name) << ", \"new\": " << json_of(only_after)
                      << ", \"lost\": " << json_of(only_before) << "}\n";
            return;
        }
        for (const auto& one : only_after) std::cout << name << ": new  y " << one.y << "  x " << one.x << "  heatmap " << one.peak << '\n';
        for (const auto& one : only_before) std::cout << name << ": lost  y " << one.y << "  x " << one.x << "  heatmap " << one.peak << '\n';
    });
    if (arguments.json) {
        std::cout << "{\"strips\": " << looked_at << ", \"new\": " << added << ", \"lost\": " << lost << ", \"verdicts_changed\": " << changed
                  << "}\n";
    } else {
        std::cout << looked_at << " strips: " << added << " new detections, " << lost << " lost, " << changed << " verdicts changed\n";
    }
    latencies[0].print(before, arguments.json);
    latencies[1].print(after, arguments.json);
    return exit_code;
}

}  // namespace

int main(int count, char** words) {
    try {
        const std::vector<std::string> given(words + (count > 0), words + count);
        if (std::find_if(given.begin(), given.end(), [](const auto& word) { return word == "--help" || word == "-h"; }) != given.end()) {
            std::cout << kUsage;
            return EXIT_SUCCESS;
        }
        const Arguments arguments = parse(given);
        const int exit_code = arguments.models.size() == 2 ? compare_all(arguments) : detect_all(arguments);
        if (!std::cout.flush()) throw strips::Error("found that the output cannot be written");
        return exit_code;
    } catch (const UsageError& error) {
        std::cerr << "error: " << error.what() << "\n" << kUsage;
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return EXIT_FAILURE;
    }
}
