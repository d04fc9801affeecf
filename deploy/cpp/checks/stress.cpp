// stress MODEL THREADS STRIPS ROUNDS: THREADS threads call one detector with STRIPS strips each,
// ROUNDS times.
//
// Every result must equal that of a single thread, bit for bit; exit code 1 where one differs.
// Prints how much memory the process has gained since the first tenth of the rounds.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <thread>

#include "random_strips.h"

namespace {

// The heatmap and the detections of a strip in one vector, for comparison.
std::vector<float> flatten(const strips::StripDetector& detector, const strips::Results& results) {
    const std::size_t pixels =
        static_cast<std::size_t>(detector.facts().height) * detector.facts().width;
    std::vector<float> values(results.heatmap(0), results.heatmap(0) + pixels);
    for (const strips::Detection& found : results.detections(0)) {
        values.insert(values.end(), {static_cast<float>(found.y), static_cast<float>(found.x),
                                     found.peak, static_cast<float>(found.margin)});
    }
    return values;
}

bool are_same(const std::vector<float>& one, const std::vector<float>& other) {
    return one.size() == other.size() &&
           std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

long resident_kilobytes() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        if (word == "VmRSS:") return status >> word ? std::atol(word.c_str()) : 0;
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    if (count != 5) return 2;
    const int thread_count = std::atoi(words[2]), strip_count = std::atoi(words[3]),
              rounds = std::atoi(words[4]);
    const strips::StripDetector detector(words[1], {strips::Device::cpu, 1, std::nullopt});
    std::vector<RandomStrip> strips_of_noise;
    std::vector<std::vector<float>> expected;
    strips::Results results;
    for (int number = 0; number < strip_count; ++number) {
        strips_of_noise.emplace_back(detector.facts(), number);
        detector.detect(strips_of_noise.back().one(), results);
        expected.push_back(flatten(detector, results));
    }
    std::atomic<long> calls{0}, different{0};
    const auto work = [&](int first, int round_count) {
        strips::Results thread_results;
        for (int call = 0; call < strip_count * round_count; ++call, ++calls) {
            const std::size_t number = (call + first) % strip_count;
            detector.detect(strips_of_noise[number].one(), thread_results);
            if (!are_same(flatten(detector, thread_results), expected[number])) ++different;
        }
    };
    const auto in_threads = [&](int round_count) {
        std::vector<std::thread> threads;
        for (int number = 0; number < thread_count; ++number) {
            threads.emplace_back(work, 7 * number, round_count);
        }
        for (std::thread& thread : threads) thread.join();
    };
    in_threads((rounds + 9) / 10);
    const long before = resident_kilobytes();
    in_threads(rounds);
    std::cout << calls << " calls, " << different << " different answers, gained "
              << resident_kilobytes() - before << " kB\n";
    return different == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
