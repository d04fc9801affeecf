#include "strip_tiff.h"

#include <tiffio.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

namespace strips {
namespace {

constexpr double kGreyLevels = 255;  // largest value in the Python suite, for any camera's range
constexpr tmsize_t kMostTileBytes = 1 << 26;  // 64 MiB: a broken file may state any tile size

thread_local char tiff_error[256] = "";  // libtiff's text for its last error

void keep_error(const char*, const char* format, va_list arguments) {
    // into a fixed buffer, as no exception may pass through libtiff
    std::vsnprintf(tiff_error, sizeof(tiff_error), format, arguments);
}

struct Closer {
    void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using Tiff = std::unique_ptr<TIFF, Closer>;

Tiff open_tiff(const std::filesystem::path& path) {
    TIFFSetWarningHandler(nullptr);
    TIFFSetErrorHandler(keep_error);
    tiff_error[0] = 0;
#ifdef _WIN32
    Tiff tiff(TIFFOpenW(path.c_str(), "rm"));
#else
    Tiff tiff(TIFFOpen(path.c_str(), "rm"));
#endif
    if (!tiff) {
        throw Error(std::string("found no readable TIFF file (") + tiff_error +
                    "), expected a whole one");
    }
    return tiff;
}

// The layout of one page of a file.
struct Page {
    std::uint32_t height = 0, width = 0;
    std::uint16_t samples = 1, bits = 1, format = SAMPLEFORMAT_UINT,
                  configuration = PLANARCONFIG_CONTIG;

    bool is_planar() const { return configuration == PLANARCONFIG_SEPARATE && samples > 1; }
    std::size_t bytes() const { return bits / 8; }
    bool operator==(const Page& other) const {
        return height == other.height && width == other.width && samples == other.samples &&
               bits == other.bits && format == other.format;
    }
};

Page read_page(TIFF* tiff) {
    Page page;
    std::uint16_t photometric = PHOTOMETRIC_MINISBLACK;
    TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &page.height);
    TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &page.width);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &page.samples);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &page.bits);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &page.format);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &page.configuration);
    TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &photometric);
    const bool is_whole = page.format == SAMPLEFORMAT_UINT && (page.bits == 8 || page.bits == 16);
    const bool is_float = page.format == SAMPLEFORMAT_IEEEFP &&
                          (page.bits == 16 || page.bits == 32 || page.bits == 64);
    if (!is_whole && !is_float) {
        throw Error("found pixels of " + std::to_string(page.bits) + " bits and sample format " +
                    std::to_string(page.format) + ", expected uint8, uint16 or floats");
    }
    if (photometric != PHOTOMETRIC_MINISBLACK && photometric != PHOTOMETRIC_MINISWHITE &&
        photometric != PHOTOMETRIC_RGB) {
        throw Error("found photometric interpretation " + std::to_string(photometric) +
                    ", expected grey or RGB");
    }
    return page;
}

float half_to_float(std::uint16_t half) {
    const int exponent = (half >> 10) & 31, fraction = half & 1023;
    const float sign = half & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25)
                            : std::ldexp(static_cast<float>(fraction), -24));
}

template <typename Stored>
Stored stored(const unsigned char* at) {
    Stored value;
    std::memcpy(&value, at, sizeof(value));  // a row of a tile may be unaligned for the type
    return value;
}

float value_at(const unsigned char* at, const Page& page) {
    if (page.bits == 8) return *at;
    if (page.bits == 16) {
        return page.format == SAMPLEFORMAT_UINT ? stored<std::uint16_t>(at)
                                                : half_to_float(stored<std::uint16_t>(at));
    }
    return page.bits == 32 ? stored<float>(at) : static_cast<float>(stored<double>(at));
}

Error unreadable() {
    return Error(std::string("found pixels that cannot be read (") + tiff_error +
                 "), expected a whole TIFF file");
}

// Where the values of a page go: the first one, and the strides of rows, columns and samples.
struct Place {
    float* values;
    std::size_t row, column, sample;
};

void put_row(const unsigned char* bytes, std::size_t columns, const Page& page, int plane,
             float* first, const Place& place) {
    const int samples = plane < 0 ? page.samples : 1;  // values of a pixel that are interleaved
    for (std::size_t column = 0; column < columns; ++column) {
        for (int sample = 0; sample < samples; ++sample, bytes += page.bytes()) {
            first[column * place.column + sample * place.sample] = value_at(bytes, page);
        }
    }
}

void read_tiles(TIFF* tiff, const Page& page, int plane, const Place& place) {
    std::uint32_t tile_width = 0, tile_height = 0;
    TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &tile_width);
    TIFFGetField(tiff, TIFFTAG_TILELENGTH, &tile_height);
    const std::size_t pixel = page.bytes() * (plane < 0 ? page.samples : 1),
                      row_bytes = tile_width * pixel;
    const tmsize_t size = TIFFTileSize(tiff);
    // A tile is padded to its full size, and a broken file may state any size.
    if (size <= 0 || size > kMostTileBytes || tile_width > kMostTileBytes ||
        tile_height > kMostTileBytes || size != static_cast<tmsize_t>(row_bytes * tile_height)) {
        throw Error("found tiles of " + std::to_string(tile_height) + " x " +
                    std::to_string(tile_width) + ", expected some that fit");
    }
    std::vector<unsigned char> tile(size);
    for (std::uint32_t y = 0; y < page.height; y += tile_height) {
        for (std::uint32_t x = 0; x < page.width; x += tile_width) {
            if (TIFFReadTile(tiff, tile.data(), x, y, 0,
                             static_cast<std::uint16_t>(std::max(plane, 0))) != size) {
                throw unreadable();
            }
            for (std::uint32_t row = 0; row < std::min(tile_height, page.height - y); ++row) {
                put_row(&tile[row * row_bytes], std::min(tile_width, page.width - x), page, plane,
                        place.values + (y + row) * place.row + x * place.column, place);
            }
        }
    }
}

void read_rows(TIFF* tiff, const Page& page, int plane, const Place& place) {
    const std::size_t pixel = page.bytes() * (plane < 0 ? page.samples : 1);
    if (TIFFScanlineSize(tiff) != static_cast<tmsize_t>(page.width * pixel)) {
        throw Error("found rows of " + std::to_string(TIFFScanlineSize(tiff)) +
                    " bytes, expected " + std::to_string(page.width * pixel));
    }
    std::vector<unsigned char> row(page.width * pixel);
    for (std::uint32_t y = 0; y < page.height; ++y) {
        if (TIFFReadScanline(tiff, row.data(), y, static_cast<std::uint16_t>(std::max(plane, 0))) !=
            1) {
            throw unreadable();
        }
        put_row(row.data(), page.width, page, plane, place.values + y * place.row, place);
    }
}

// Throws Error for a file without the offsets of its pixels: libtiff would take its first bytes for
// pixels.
void require_offsets(TIFF* tiff) {
    const std::uint32_t count =
        TIFFIsTiled(tiff) ? TIFFNumberOfTiles(tiff) : TIFFNumberOfStrips(tiff);
    for (std::uint32_t number = 0; number < count; ++number) {
        if (TIFFGetStrileOffset(tiff, number) == 0) {
            throw Error("found no place of the pixels in the file, expected a whole TIFF file");
        }
    }
}

void read_values(TIFF* tiff, const Page& page, Place place) {
    require_offsets(tiff);
    const auto read = TIFFIsTiled(tiff) ? read_tiles : read_rows;
    if (!page.is_planar()) return read(tiff, page, -1, place);
    for (int plane = 0; plane < page.samples; ++plane) {
        read(tiff, page, plane, place);
        place.values += place.sample;
    }
}

bool is_channel_count(std::uint32_t count) { return count == 3 || count == 4; }

// false for NaN
bool is_in_range(float value, double largest) { return value >= 0 && value <= largest; }

void require_in_range(const Image& image, double largest) {
    const auto end = image.values.begin() + static_cast<std::ptrdiff_t>(image.counted());
    const auto outside = std::find_if(image.values.begin(), end,
                                      [&](float value) { return !is_in_range(value, largest); });
    if (outside == end) return;
    throw Error("found a value of " + text_of(*outside) + ", expected 0 to " + text_of(largest));
}

}  // namespace

Image read_strip(const std::filesystem::path& path, int height, int width) {
    const Tiff tiff = open_tiff(path);
    const Page page = read_page(tiff.get());
    const auto rows = static_cast<std::uint32_t>(height),
               columns = static_cast<std::uint32_t>(width);
    const std::size_t line = width, plane = line * height;
    const int pages = page.samples == 1 ? static_cast<int>(TIFFNumberOfDirectories(tiff.get())) : 1;
    Image image;
    image.height = height;
    image.width = width;
    const auto require_same = [&](int number) {
        if (number > 0 && !TIFFReadDirectory(tiff.get())) throw unreadable();
        if (!(read_page(tiff.get()) == page)) {
            throw Error(
                "found pages of several sizes or types, expected a strip's channels or rows");
        }
    };
    if (page.height == rows && page.width == columns && is_channel_count(page.samples)) {
        image.channels = page.samples;
        image.values.resize(image.channels * plane);
        read_values(tiff.get(), page, {image.values.data(), line, 1, plane});
    } else if (page.height == rows && page.width == columns && is_channel_count(pages)) {
        image.channels = pages;
        image.values.resize(image.channels * plane);
        for (int channel = 0; channel < pages; ++channel) {
            require_same(channel);
            read_values(tiff.get(), page, {image.values.data() + channel * plane, line, 1, plane});
        }
    } else if (pages == height && page.height == columns &&
               is_channel_count(page.width)) {  // (H, W, C) written page by page
        image.channels = static_cast<int>(page.width);
        image.values.resize(image.channels * plane);
        for (int row = 0; row < pages; ++row) {
            require_same(row);
            read_values(tiff.get(), page, {image.values.data() + row * line, 1, plane, 0});
        }
    } else {
        throw Error("found " + std::to_string(pages) + " pages of " + std::to_string(page.height) +
                    " x " + std::to_string(page.width) + " pixels of " +
                    std::to_string(page.samples) + " samples, expected 3 or 4 channels of " +
                    std::to_string(height) + " x " + std::to_string(width) + " (height x width)");
    }
    return image;
}

ModelInput::ModelInput(const Image& image, const ModelFacts& facts) {
    require_in_range(image, facts.input_max);
    // The same steps in float32 as in Python, to grey levels and then to the input's range, so that
    // both agree to the last bit.
    const auto to_grey_levels = static_cast<float>(kGreyLevels / facts.input_max);
    const auto to_input = static_cast<float>(facts.largest_value / kGreyLevels);
    const std::size_t count = image.counted() / 3 * facts.channels;
    floats_.resize(count);
    for (std::size_t number = 0; number < image.counted(); ++number) {
        const float grey = facts.input_max == kGreyLevels ? image.values[number]
                                                          : image.values[number] * to_grey_levels;
        floats_[number] = grey * to_input;
    }
    if (facts.pixel_type == PixelType::float32) return;
    bytes_.resize(count);
    std::transform(floats_.begin(), floats_.end(), bytes_.begin(),
                   [](float value) { return static_cast<std::uint8_t>(std::nearbyint(value)); });
}

}  // namespace strips
