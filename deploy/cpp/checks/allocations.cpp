// allocations MODEL: what a call allocates with `new`, beyond what ONNX Runtime itself does in a bare call. Expected: nothing.
//
// The count is of this whole process: ONNX Runtime's own are in both numbers, and once in a while it has one more or less. One that
// we made in every call would be kCalls more.
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

int main(int count_of_words, char** words) {
    if (count_of_words != 2) return 2;
    const strips::StripDetector detector(words[1], {strips::Device::cpu, 1, std::nullopt});
    BareCall bare(words[1], 1, detector.facts());
    const RandomStrip strip(detector.facts(), 0);
    strips::Results results;
    const long of_bare = count([&] { bare(strip); }), of_ours = count([&] { detector.detect(strip.one(), results); });
    std::cout << kCalls << " calls: " << of_ours << " allocations, " << of_bare << " of a bare call, " << results.detections(0).size()
              << " detections\n";
    return of_ours - of_bare < kCalls / 2 ? EXIT_SUCCESS : EXIT_FAILURE;
}
