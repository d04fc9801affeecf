// latency MODEL THREADS: reads one request per line and answers each with a line of milliseconds.
//
//     bare N          N calls of ONNX Runtime without our library
//     ours N          N calls of our library
//     callers T N     T threads that call one detector N times each: the times of all calls, then
//                     the time of the whole request
//
// benchmarks/cpp.py sends the requests. THREADS are the CPU threads of a call; 0: one per core.
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
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started)
        .count();
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
        std::istringstream request(line);
        std::string what;
        int callers = 1, calls = 0;
        request >> what;
        if (what == "callers") request >> callers;
        request >> calls;
        std::vector<double> times;
        if (what == "callers") {
            std::vector<std::vector<double>> caller_times(callers);
            const auto work = [&](std::vector<double>& measured) {
                strips::Results caller_results;
                for (int call = 0; call < calls; ++call) {
                    measured.push_back(
                        milliseconds_of([&] { detector.detect(strip.one(), caller_results); }));
                }
            };
            const double elapsed = milliseconds_of([&] {
                std::vector<std::thread> running;
                for (auto& measured : caller_times) running.emplace_back(work, std::ref(measured));
                for (auto& thread : running) thread.join();
            });
            for (const auto& measured : caller_times) {
                times.insert(times.end(), measured.begin(), measured.end());
            }
            times.push_back(elapsed);
        } else {
            for (int call = 0; call < calls; ++call) {
                times.push_back(milliseconds_of(
                    [&] { what == "bare" ? bare(strip) : detector.detect(strip.one(), results); }));
            }
        }
        print(times);
    }
}
