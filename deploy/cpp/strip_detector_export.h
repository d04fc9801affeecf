// Which symbols the library exports. STRIP_DETECTOR_STATIC: it is a static library;
// STRIP_DETECTOR_BUILDING: the library itself is being compiled.
#ifndef STRIP_DETECTOR_EXPORT_H
#define STRIP_DETECTOR_EXPORT_H

#if defined(STRIP_DETECTOR_STATIC)
#define STRIP_DETECTOR_API
#elif defined(_WIN32) && defined(STRIP_DETECTOR_BUILDING)
#define STRIP_DETECTOR_API __declspec(dllexport)
#elif defined(_WIN32)
#define STRIP_DETECTOR_API __declspec(dllimport)
#else
#define STRIP_DETECTOR_API __attribute__((visibility("default")))
#endif

#endif
