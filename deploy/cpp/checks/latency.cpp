// latency MODEL THREADS: times calls as it is told on its input, a line each, and answers with a line of milliseconds.
//
//     bare N          N calls of ONNX Runtime alone          ours N          the same of our library
//     callers T N     T threads that call one detector N times each: the times of all calls, and last what all of it took
//
// benchmarks/cpp.py takes turns with it. THREADS are those of a call; 0: one per core.
#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <sstream>
#include <thread>

#include "bare_call.h"

namespace {

template <typename Work>
double milliseconds_of(const Work& work) {
    const auto started = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count();
}

void print(const std::vector<double>& milliseconds) {
    for (const double value : milliseconds) std::cout << value << ' ';
    std::cout << std::endl;
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) return 2;
    const int threads = std::atoi(words[2]);
    const strips::StripDetector detector(words[1], {strips::Device::cpu, threads, 0.5f});
    BareCall bare(words[1], threads, detector.facts());
    const RandomStrip strip(detector.facts(), 0);
    strips::Results results;
    bare(strip);
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream told(line);
        std::string what;
        int callers = 1, calls = 0;
        told >> what;
        if (what == "callers") told >> callers;
        told >> calls;
        std::vector<double> times;
        if (what == "callers") {
            std::vector<std::vector<double>> of_each(callers);
            const auto work = [&](std::vector<double>& mine) {
                strips::Results own;
                for (int call = 0; call < calls; ++call) mine.push_back(milliseconds_of([&] { detector.detect(strip.one(), own); }));
            };
            const double all = milliseconds_of([&] {
                std::vector<std::thread> running;
                for (auto& mine : of_each) running.emplace_back(work, std::ref(mine));
                for (auto& thread : running) thread.join();
            });
            for (const auto& mine : of_each) times.insert(times.end(), mine.begin(), mine.end());
            times.push_back(all);
        } else {
            for (int call = 0; call < calls; ++call) {
                times.push_back(milliseconds_of([&] { what == "bare" ? bare(strip) : detector.detect(strip.one(), results); }));
            }
        }
        print(times);
    }
}
