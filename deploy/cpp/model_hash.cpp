#include "model_hash.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "model_facts.h"

namespace strips {
namespace {

static_assert(sizeof(unsigned int) == 4, "the words of SHA-256 have 32 bits");

constexpr std::uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// of protocol buffers: the field of ModelProto with the metadata, and the wire types
constexpr std::uint64_t kMetadata = 14;
constexpr std::uint64_t kVarint = 0, kEightBytes = 1, kBytes = 2, kFourBytes = 5;

std::uint32_t rotated(std::uint32_t value, int bits) {
    return (value >> bits) | (value << (32 - bits));
}

Error damaged() { return Error("found a file that is cut short, expected a whole ONNX file"); }

// The number that begins at `place`, which moves behind it.
std::uint64_t varint(const std::vector<unsigned char>& content, std::size_t& place) {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (place >= content.size()) throw damaged();
        const unsigned char byte = content[place++];
        if (shift < 64) value |= static_cast<std::uint64_t>(byte & 127) << shift;
        if (byte < 128) return value;
    }
    throw damaged();
}

}  // namespace

void Sha256::add(const unsigned char* bytes, std::size_t count) {
    total_ += count;
    if (waits_ > 0) {
        const std::size_t taken = std::min(count, sizeof waiting_ - waits_);
        std::memcpy(waiting_ + waits_, bytes, taken);
        waits_ += taken;
        bytes += taken;
        count -= taken;
        if (waits_ < sizeof waiting_) return;
        mix(waiting_);
        waits_ = 0;
    }
    for (; count >= sizeof waiting_; bytes += sizeof waiting_, count -= sizeof waiting_) mix(bytes);
    if (count > 0) std::memcpy(waiting_, bytes, count);
    waits_ = count;
}

std::string Sha256::finish() {
    const unsigned long long bits = 8 * total_;
    const unsigned char one = 0x80, none = 0;
    add(&one, 1);
    while (waits_ != 56) add(&none, 1);
    unsigned char length[8];
    for (int place = 0; place < 8; ++place) {
        length[place] = static_cast<unsigned char>(bits >> (56 - 8 * place));
    }
    add(length, sizeof length);
    std::string text;
    for (const std::uint32_t word : state_) {
        for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
    }
    return text;
}

void Sha256::mix(const unsigned char* block) {
    std::uint32_t words[64];
    for (int i = 0; i < 16; ++i, block += 4) {
        words[i] = static_cast<std::uint32_t>(block[0]) << 24 |
                   static_cast<std::uint32_t>(block[1]) << 16 |
                   static_cast<std::uint32_t>(block[2]) << 8 | block[3];
    }
    for (int i = 16; i < 64; ++i) {
        const std::uint32_t near = words[i - 2], far = words[i - 15];
        words[i] = words[i - 16] + (rotated(far, 7) ^ rotated(far, 18) ^ far >> 3) + words[i - 7] +
                   (rotated(near, 17) ^ rotated(near, 19) ^ near >> 10);
    }
    std::uint32_t v[8];
    std::copy(std::begin(state_), std::end(state_), v);
    for (int i = 0; i < 64; ++i) {
        const std::uint32_t turned = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25);
        const std::uint32_t chosen = (v[4] & v[5]) ^ (~v[4] & v[6]);
        const std::uint32_t first = v[7] + turned + chosen + kRounds[i] + words[i];
        const std::uint32_t other = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
        const std::uint32_t most = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        const std::uint32_t second = other + most;
        std::copy_backward(v, v + 7, v + 8);
        v[4] += first;
        v[0] = first + second;
    }
    for (int i = 0; i < 8; ++i) state_[i] += v[i];
}

std::string graph_hash(const std::filesystem::path& model) {
    std::ifstream file(model, std::ios::binary | std::ios::ate);
    const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
    if (size < 0) throw Error("found a file that cannot be read, expected an ONNX file");
    std::vector<unsigned char> content(static_cast<std::size_t>(size));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(content.data()), size);
    if (!file) throw Error("found a file that cannot be read, expected an ONNX file");
    Sha256 hash;
    for (std::size_t place = 0; place < content.size();) {
        const std::size_t start = place;
        const std::uint64_t key = varint(content, place);
        std::uint64_t skipped = 0;
        switch (key & 7) {
            case kVarint: varint(content, place); break;
            case kEightBytes: skipped = 8; break;
            case kBytes: skipped = varint(content, place); break;
            case kFourBytes: skipped = 4; break;
            default: throw damaged();
        }
        if (skipped > content.size() - place) throw damaged();
        place += static_cast<std::size_t>(skipped);
        if (key >> 3 != kMetadata) hash.add(content.data() + start, place - start);
    }
    return hash.finish();
}

}  // namespace strips
