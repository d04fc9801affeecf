/* The detector of strip_detector.h for C, and thereby for C#, LabVIEW, HALCON or Python's ctypes.
 *
 * On failure, functions that return a pointer return NULL and functions that return an int return
 * -1; strip_last_error() says why. A detector serves any number of threads at once, each with
 * separate results. Texts are UTF-8. A NULL argument is an error, except for the ..._delete
 * functions, which ignore it.
 */
#ifndef STRIP_DETECTOR_C_H
#define STRIP_DETECTOR_C_H

#include <stddef.h>
#include <stdint.h>

#include "strip_detector_export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct strip_detector strip_detector;
typedef struct strip_results strip_results;

enum { STRIP_DEVICE_AUTOMATIC = 0, STRIP_DEVICE_CPU = 1, STRIP_DEVICE_CUDA = 2 };
enum { STRIP_FLOAT32 = 0, STRIP_UINT8 = 1 };

typedef struct {
    int32_t channels, height, width; /* planes of a strip and their pixels */
    int32_t pixel_type;              /* STRIP_FLOAT32 or STRIP_UINT8 */
    float largest_value;             /* of a pixel in the model's input */
    float threshold;                 /* of the heatmap; every detection exceeds it */
    int32_t device;                  /* STRIP_DEVICE_CPU or STRIP_DEVICE_CUDA */
    int32_t has_alignment;           /* 1 where the model outputs the measures of its alignment */
} strip_facts;

typedef struct {
    int32_t y, x; /* whole pixels */
    float peak;   /* the heatmap there, 0-1 */
    double margin; /* logit margin of the peak, by which detections are ranked */
} strip_detection;

typedef struct {
    float shift_y, shift_x, wander; /* pixels */
    float gain;                     /* Target's contrast divided by the reference's */
    float remainder; /* residual difference: root mean square, as a share of the range */
} strip_alignment;

/* Why the last call of this thread failed; empty after success. Valid until its next call. */
STRIP_DETECTOR_API const char* strip_last_error(void);
/* The version of ONNX Runtime. */
STRIP_DETECTOR_API const char* strip_runtime_version(void);

/* threads: CPU threads for one call, 0 for one per core. threshold: of the heatmap, 0-1, or NaN for
 * the file's calibrated one. */
STRIP_DETECTOR_API strip_detector* strip_detector_new(const char* model_path, int device,
                                                      int threads, float threshold);
STRIP_DETECTOR_API void strip_detector_delete(strip_detector* detector);
STRIP_DETECTOR_API int strip_detector_facts(const strip_detector* detector, strip_facts* facts);
/* An entry of the file's metadata, NULL for an unknown name. It lives as long as the detector. */
STRIP_DETECTOR_API const char* strip_detector_entry(const strip_detector* detector,
                                                    const char* name);

STRIP_DETECTOR_API strip_results* strip_results_new(void);
STRIP_DETECTOR_API void strip_results_delete(strip_results* results);

/* pixels: count x channels x height x width values, one plane after the other, read in place. A
 * single strip may have a fourth plane where the model has three. The call invalidates pointers
 * into the results. Returns 0. */
STRIP_DETECTOR_API int strip_detector_detect(const strip_detector* detector, const void* pixels,
                                             int pixel_type, size_t count, int channels, int height,
                                             int width, strip_results* results);

/* (height, width) defect probabilities 0-1 of a strip. */
STRIP_DETECTOR_API const float* strip_results_heatmap(const strip_results* results, size_t strip);
/* Number of detections of a strip, at most 1,000. A strip with any is defective. */
STRIP_DETECTOR_API int strip_results_count(const strip_results* results, size_t strip);
/* Detection `number` of a strip; the strongest one is 0. Returns 0. */
STRIP_DETECTOR_API int strip_results_detection(const strip_results* results, size_t strip,
                                               size_t number, strip_detection* detection);
/* The alignment of Ref1 (0) or Ref2 (1). Returns 0. */
STRIP_DETECTOR_API int strip_results_alignment(const strip_results* results, size_t strip,
                                               size_t reference, strip_alignment* alignment);

#ifdef __cplusplus
}
#endif

#endif
