// allocations MODEL: compares the allocations with `new` in our calls with those in bare calls of
// ONNX Runtime. Our code is expected to make none.
//
// Both counts cover the whole process and include ONNX Runtime's own allocations, which vary by one
// now and then. One allocation in each of our calls would add kCalls.
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <new>

#include "bare_call.h"

namespace {

std::atomic<long> allocations{0};
constexpr int kWarmUps = 10, kCalls = 50;

template <typename Call>
long count(const Call& call) {
    for (int number = 0; number < kWarmUps; ++number) call();
    const long before = allocations;
    for (int number = 0; number < kCalls; ++number) call();
    return allocations - before;
}

}  // namespace

void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size ? size : 1)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int word_count, char** words) {
    if (word_count != 2) return 2;
    const strips::StripDetector detector(words[1], {strips::Device::cpu, 1, std::nullopt});
    BareCall bare(words[1], 1, detector.facts());
    const RandomStrip strip(detector.facts(), 0);
    strips::Results results;
    const long in_bare = count([&] { bare(strip); });
    const long in_ours = count([&] { detector.detect(strip.one(), results); });
    std::cout << kCalls << " calls: " << in_ours << " allocations, " << in_bare
              << " of a bare call, " << results.detections(0).size() << " detections\n";
    return in_ours - in_bare < kCalls / 2 ? EXIT_SUCCESS : EXIT_FAILURE;
}
