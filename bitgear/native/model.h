// A derived model: a flat list of prepared steps over byte buffers in one arena. Built once, run by any number of
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rates.h"
#include "step.h"

namespace bitgear {

constexpr int kMaxSide = 1 << 16;    // of a value, a border, a padding, and channels
constexpr int kMaxWindow = 255;      // side of a window, and its dilation
constexpr int kMaxTerms = 1 << 16;   // of a convolution's sum: that many products of bytes fit 32 bits
constexpr int kMaxSummed = 1 << 23;  // bytes of a window: their sum does
constexpr int kMaxImages = 1 << 30;  // of a call: 32 bits count them, and those that loops go beyond the last one
constexpr int kMaxPooled = 15;       // largest window of a pooling behind a convolution
constexpr int kMaxPooledStride = 255;

struct Activation {
    bool relu = false;
    float clip = 0;  // infinity: none
};

// Float constants of a step, one for each output channel; bias may be empty.
struct Constants {
    std::vector<float> multiplier;
    std::vector<float> bias;
};

struct ConvSpec {
    int input;
    int channels;
    Geometry geometry;
    int weight_bits;
    int act_max;        // largest byte in the input buffer
    std::int32_t zero;  // byte of code 0
    Constants constants;
    Activation activation;
    Residual residual;
    std::vector<Output> outputs;
    bool result;       // the value is (also) the model's result
    Pooling pooling;   // none, or the outputs take the pooled value: done on sums, before anything else
    std::string path;  // empty: the dispatcher's choice; else a path's name, for tests and measurements
};

// Pixels behind an input's borders over which the tiles of Winograd's forms reach.
struct Spare {
    int bottom = 0, right = 0;
};

// What every form needs that may compute such a convolution.
Spare winograd_spare(const Geometry& geometry, int height, int width);

// Whether convolutions multiply tiles (DotPath::places), beside which Winograd's transforms take longer than what they
// save: such a form is only taken if it is asked for.
bool avoids_winograd(const Isa& isa);

void check(bool holds, const char* message);  // throws std::invalid_argument

struct StepTime {
    std::string name, detail;
    double macs;
    double seconds;
};

class Model {
public:
    Model(const Isa* isa, Rates rates);
    ~Model();

    int add_buffer(int height, int width, int channels, int top, int left, int bottom, int right, int spare_bottom,
                   int spare_right, std::uint8_t fill);
    void add_image(int buffer);
    // q8: the master's codes, [channels][input channels / groups][kernel][kernel].
    void add_conv(const std::string& name, const ConvSpec& spec, const std::int8_t* q8, std::size_t q8_size);
    // Sum over a window of kernel x kernel, or over the whole picture (kernel 0).
    void add_window_sum(const std::string& name, int input, int kernel, int stride, std::int32_t zero,
                        const Constants& constants, const std::vector<Output>& outputs, bool result);
    void add_bilinear(const std::string& name, int input, const std::vector<Interpolation>& rows,
                      const std::vector<Interpolation>& columns, std::int32_t zero, const Constants& constants,
                      const std::vector<Output>& outputs, bool result);
    // Selections: bytes move from a buffer to another, from channel `channel` on.
    void add_maximum(const std::string& name, int input, int output, int channel, int kernel, int stride);
    void add_copy(const std::string& name, int input, int output, int channel, const std::vector<int>& source_y,
                  const std::vector<int>& source_x, int pad_channels, std::uint8_t pad_byte);
    void finish();
    void check_finished() const { check(finished_, "the model is not finished"); }

    std::size_t resident_bytes() const { return resident_bytes_; }
    std::size_t arena_bytes() const { return arena_bytes_; }
    int result_channels() const { return static_cast<int>(result_channels_); }
    int result_height() const { return result_height_; }
    int result_width() const { return result_width_; }
    int image_height() const { return image_height_; }
    int image_width() const { return image_width_; }
    const std::vector<Step>& steps() const { return steps_; }
    bool avoids_winograd() const { return bitgear::avoids_winograd(*isa_); }
    // How often memory for running was allocated: once for each number of calls at the same time, and for more threads.
    std::size_t allocations() const { return allocations_; }

    // q_images: int8 [batch][3][height][width]; results: float32 [batch][channels][height][width].
    void run(const std::int8_t* q_images, int batch, int threads, float* results) const;
    // Seconds that the calling thread spent in every step, medians over `rounds` calls.
    std::vector<StepTime> profile(const std::int8_t* q_images, int batch, int threads, int rounds) const;

private:
    struct Workspace;
    struct Context;
    struct Call;
    struct Pass;
    class Writer;
    class Windows;
    std::size_t image_bytes() const {
        return 3 * static_cast<std::size_t>(image_height_) * static_cast<std::size_t>(image_width_);
    }
    std::unique_ptr<Context> take_context(int threads) const;
    void give_back(std::unique_ptr<Context> context) const;
    void run_call(const std::int8_t* q_images, int batch, int threads, float* results,
                  std::vector<double>* seconds) const;
    const Buffer& checked_buffer(int index) const;
    void check_step(const Step& step) const;
    void set_values(Step& step, const Constants& constants, const Activation& activation, double largest_sum,
                    std::int32_t offset);
    void add(Step step);
    void add(std::vector<Step> steps);

    const Isa* isa_;
    const Rates rates_;
    std::vector<Buffer> buffers_;
    std::vector<Step> steps_;
    bool finished_ = false;
    std::size_t resident_bytes_ = 0, arena_bytes_ = 0, scratch_bytes_ = 0;
    std::size_t overrun_bytes_ = kSlackBytes;  // that may be read behind the arena, and behind a thread's own memory
    std::size_t result_channels_ = 0;
    int result_height_ = 1, result_width_ = 1;
    int image_height_ = 0, image_width_ = 0;
    mutable std::unique_ptr<Context> contexts_;  // a list of those not in use
    mutable std::size_t allocations_ = 0;
};

}  // namespace bitgear
