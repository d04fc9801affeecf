// A condition that must hold for every input. Where it does not, the fuzz target aborts and
// libFuzzer keeps the input.
#pragma once

#include <cstdio>
#include <cstdlib>

inline void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}
