// Whether an ONNX file is as it was exported: the hash of its graph and weights, which its metadata
// carry. ONNX Runtime does not notice a changed weight.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace strips {

// SHA-256 (FIPS 180-4) of bytes that come in pieces.
class Sha256 {
public:
    void add(const unsigned char* bytes, std::size_t count);

    // The hash in hexadecimal. Nothing can be added afterwards.
    std::string finish();

private:
    void mix(const unsigned char* block);

    unsigned int state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char waiting_[64] = {};
    std::size_t waits_ = 0;          // bytes that wait for a whole block
    unsigned long long total_ = 0;   // bytes that were added
};

// SHA-256 of a file's fields but for the metadata, in hexadecimal, as graph_hash in
// deploy/onnx_file.py. Throws Error for a file that cannot be read or is no protocol buffer.
std::string graph_hash(const std::filesystem::path& model);

}  // namespace strips
