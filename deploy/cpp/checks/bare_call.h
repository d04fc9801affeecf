// A call of ONNX Runtime without our library: one session, the input read in place, the output
// written into existing memory.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <array>
#include <string>
#include <vector>

#include "random_strips.h"

class BareCall {
public:
    BareCall(const std::string& model, int threads, const strips::ModelFacts& facts)
        : facts_(facts), heatmap_(static_cast<std::size_t>(3) * facts.height * facts.width) {
        Ort::SessionOptions options;
        if (threads > 0) options.SetIntraOpNumThreads(threads);
        session_ = Ort::Session(environment_, model.c_str(), options);
    }

    void operator()(const RandomStrip& strip) {
        const std::array<int64_t, 4> input_shape{1, facts_.channels, facts_.height, facts_.width};
        const std::array<int64_t, 4> output_shape{1, 3, facts_.height, facts_.width};
        const bool is_bytes = facts_.pixel_type == strips::PixelType::uint8;
        const auto type =
            is_bytes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        const auto input = Ort::Value::CreateTensor(memory_, const_cast<void*>(strip.pixels()),
                                                    strip.bytes(), input_shape.data(), 4, type);
        auto output = Ort::Value::CreateTensor<float>(memory_, heatmap_.data(), heatmap_.size(),
                                                      output_shape.data(), 4);
        const char* const input_name = "input";
        const char* const output_name = "output";
        session_.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, &output_name, &output, 1);
    }

private:
    strips::ModelFacts facts_;
    Ort::Env environment_;
    Ort::Session session_{nullptr};
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    std::vector<float> heatmap_;
};
