/* consumer MODEL: runs the detector on one black strip, in plain C. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "strip_detector_c.h"

int main(int count, char** words) {
    strip_facts facts;
    strip_detector* detector =
        count == 2 ? strip_detector_new(words[1], STRIP_DEVICE_CPU, 1, NAN) : NULL;
    strip_results* results = strip_results_new();
    if (!detector || !results || strip_detector_facts(detector, &facts) != 0) {
        fprintf(stderr, "error: %s\n", strip_last_error());
        return 1;
    }
    void* black = calloc((size_t)facts.channels * facts.height * facts.width, sizeof(float));
    const int failed = strip_detector_detect(detector, black, facts.pixel_type, 1, facts.channels,
                                             facts.height, facts.width, results);
    printf("%d x %d pixels, %d detections, ONNX Runtime %s\n", facts.height, facts.width,
           strip_results_count(results, 0), strip_runtime_version());
    free(black);
    strip_results_delete(results);
    strip_detector_delete(detector);
    return failed ? 1 : 0;
}
