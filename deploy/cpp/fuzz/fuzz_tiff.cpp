// Takes any bytes as a TIFF file. It must be read and converted to a model's input, or refused with
// an Error and nothing else.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "expect.h"
#include "strip_tiff.h"

namespace {

// Height and width. Sides of 3 and 4 pixels can be mistaken for channels.
constexpr int kSizes[][2] = {{16, 8}, {5, 4}, {3, 3}};

// A file in memory with a path. All inputs share one, as creating it takes longer than reading it.
class MemoryFile {
public:
    MemoryFile() : descriptor_(memfd_create("strip", 0)) {
        expect(descriptor_ >= 0, "a file in memory can be made");
    }
    void write(const std::uint8_t* bytes, std::size_t count) {
        expect(ftruncate(descriptor_, 0) == 0, "the file can be emptied");
        expect(pwrite(descriptor_, bytes, count, 0) == static_cast<ssize_t>(count),
               "the file can be written");
    }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

private:
    int descriptor_;
};

strips::ModelFacts facts_of(strips::PixelType pixel_type, double input_max, float largest_value,
                            int channels) {
    strips::ModelFacts facts;
    facts.pixel_type = pixel_type;
    facts.input_max = input_max;
    facts.largest_value = largest_value;
    facts.channels = channels;
    return facts;
}

void expect_input(const strips::Image& image, const strips::ModelFacts& facts) {
    try {
        const strips::ModelInput input(image, facts);
        const std::size_t count =
            static_cast<std::size_t>(facts.channels) * image.height * image.width;
        if (facts.pixel_type == strips::PixelType::uint8) {
            unsigned sum = 0;  // reads each byte, so that AddressSanitizer checks the end
            for (std::size_t number = 0; number < count; ++number) {
                sum += static_cast<const std::uint8_t*>(input.pixels())[number];
            }
            expect(sum <= 255 * count, "bytes can be read");
            return;
        }
        const auto* values = static_cast<const float*>(input.pixels());
        for (std::size_t number = 0; number < count; ++number) {
            expect(values[number] >= 0 && values[number] <= facts.largest_value * 1.00001f,
                   "a value is in the input's range");
        }
    } catch (const strips::Error&) {
    }
}

void expect_read(const std::string& path, int height, int width) {
    try {
        const strips::Image image = strips::read_strip(path, height, width);
        expect(image.height == height && image.width == width,
               "the image has the size that was asked for");
        expect(image.channels == 3 || image.channels == 4, "the image has 3 or 4 channels");
        expect(image.values.size() == static_cast<std::size_t>(image.channels) * height * width,
               "there is a value for each pixel");
        expect_input(image, facts_of(strips::PixelType::float32, 255, 1, 3));      // unit
        expect_input(image, facts_of(strips::PixelType::float32, 4095, 4095, 4));  // raw
        expect_input(image, facts_of(strips::PixelType::uint8, 65535, 255, 4));    // uint8
    } catch (const strips::Error&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
    static MemoryFile file;
    static const std::string path = file.path();
    file.write(bytes, count);
    for (const auto& size : kSizes) expect_read(path, size[0], size[1]);
    return 0;
}
