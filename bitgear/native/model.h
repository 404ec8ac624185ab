// A derived model: a flat list of prepared steps over byte buffers in one arena. Built once, run by any number of
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "aligned.h"
#include "kernels.h"
#include "rates.h"

namespace bitgear {

// Bytes of one reader: [height + borders][width + borders][channels padded to a multiple of 4], borders filled with
// `fill`.
struct Buffer {
    int height, width, channels;
    int top, left, bottom, right;
    int spare_bottom, spare_right;  // part of bottom and right: Winograd's last patches may reach over
    std::uint8_t fill;
    int pixel_bytes = 0;
    std::size_t image_bytes = 0;
    std::size_t offset = 0;  // in the arena
    int first_step = -1, last_step = -1;
    int row_step = 1;  // of its picture, only rows whose number is a multiple of this are read

    int row_pixels() const { return left + width + right; }
    std::size_t row_bytes() const {
        return static_cast<std::size_t>(row_pixels()) * static_cast<std::size_t>(pixel_bytes);
    }
    std::size_t pixel(int y, int x) const {  // y and x count from the picture's corner, borders are negative
        return static_cast<std::size_t>(top + y) * row_bytes() +
               static_cast<std::size_t>(left + x) * static_cast<std::size_t>(pixel_bytes);
    }
};

// A reader of a step's value: where its bytes go, from channel `channel` of the buffer on.
struct Output {
    int buffer;
    int channel;
    Quantizer quantizer;
};

struct Geometry {
    int kernel = 1, stride = 1, dilation = 1, groups = 1;
};

constexpr int kMaxSide = 1 << 16;    // of a value, a border, a padding, and channels
constexpr int kMaxWindow = 255;      // side of a window, and its dilation
constexpr int kMaxTerms = 1 << 16;   // of a convolution's sum: that many products of bytes fit 32 bits
constexpr int kMaxSummed = 1 << 23;  // bytes of a window: their sum does
constexpr int kMaxImages = 1 << 30;  // of a call: 32 bits count them, and those that loops go beyond the last one
constexpr int kMaxPooled = 15;       // largest window of a pooling behind a convolution
constexpr int kMaxPooledStride = 255;

// Max pooling right behind a convolution. No window may lie wholly outside.
struct Pooling {
    int kernel = 0;  // 0: none
    int stride = 1, padding = 0;
    int height = 0, width = 0;  // of the result
};

struct Activation {
    bool relu = false;
    float clip = 0;  // infinity: none
};

struct Residual {
    int buffer = -1;  // -1: none
    float scale = 1;
    std::int32_t zero = 0;
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

enum class Method { dot, lut, pixel_lut, winograd, depthwise };

// Two source positions and their weights, which sum to kInterpolationOne.
struct Interpolation {
    int first, second;
    std::int32_t first_weight, second_weight;
};

constexpr std::int32_t kInterpolationOne = 128;
constexpr std::size_t kStripBytes =
    512 * 1024;  // look-up tables or transformed patches at hand: about half of a core's cache
constexpr int kDepthwisePixels = 8;

// Where a thread's own memory holds what a strip of Winograd's tiles needs, in bytes from its start.
struct WinogradScratch {
    std::size_t patch_bytes = 0, position_bytes = 0;  // patches: [position][tile][channels]
    std::size_t sums = 0;                             // [position][tile][columns]
    std::size_t acc = 0;                              // [pixel][columns]
};

// How the indices of a strip of rows lie in a group's bytes: of a stride, each phase of rows and columns by itself.
struct PixelGrid {
    int row_pixels = 0;                // of a phase
    int phase_rows = 0;                // of a whole strip
    std::vector<std::int32_t> phases;  // [row's][column's]: first byte, or -1: none is read
};

// What belongs to the columns of a tile of look-ups in weights' tables.
struct PixelLutColumns {
    int first_stretch, stretch_count;
    bool narrow;
    std::ptrdiff_t results;  // where tables of their sums' bytes begin; -1: there are none
};

// The tiles of a product: of equal size rather than full ones and a small rest, or, of a path that reads stretches of
// places, as large as its stretches reach.
struct Tiles {
    int pixels = 0, count = 0;
    std::vector<int> starts;  // of a path that reads stretches: the first pixel of each, and one behind the last pixel

    int start(int tile) const {
        return starts.empty() ? static_cast<int>(static_cast<std::int64_t>(pixels) * tile / count)
                              : starts[static_cast<std::size_t>(tile)];
    }
};

// What every step has; then, below the name of a kind, what that one has, and those that read it, too.
struct Step {
    enum class Kind { image, conv, sum, bilinear, maximum, copy } kind;
    std::string name;    // of the graph's node
    std::string detail;  // the path taken
    double macs = 0;     // multiply-accumulates for one image
    int input = -1;
    int height = 1, width = 1, channels = 0;  // of the value
    std::vector<Output> outputs;
    std::vector<int> prefill;  // buffers first written here: their borders are filled
    bool result = false;
    int result_channels = 0;
    int channel = 0;  // of the first channel in the value: not 0 in later parts of a grouped convolution

    // Sums to values (conv, sum, bilinear).
    std::vector<float> multiplier, bias;  // padded; bias may be empty
    std::vector<std::int32_t> offset;
    std::vector<float> quick;      // of each output that is quick: multiplier and bias over its scale
    float floor = 0, ceiling = 0;  // of the value
    Residual residual;

    // conv
    Geometry geometry;
    Method method = Method::dot;
    const DotPath* dot = nullptr;
    const LutPath* lut = nullptr;
    AlignedBytes packed;
    int in_channels = 0;
    int input_channel = 0;  // first input channel of a group
    int period = 0;
    Tiles tiles;  // dot, not pooled
    std::vector<Run> runs;
    int k_groups = 0;             // groups of a window (dot), of a pixel (lut, winograd)
    std::size_t block_bytes = 0;  // of one packed block
    std::vector<std::int32_t> tap_offsets;
    // conv whose windows lie in woven rows, in a thread's own memory
    int woven_rows = 0;    // at hand at the same time; 0: windows lie in the input
    int woven_pixels = 0;  // of a row
    std::size_t woven = 0, woven_row_bytes = 0;
    // conv, then pooling
    Pooling pooling;
    int conv_height = 0, conv_width = 0;
    int pooled_pixels = 0;  // of a row of the convolution, with what pooling reads beside it

    std::vector<std::int32_t>
        flip;  // -1 for channels whose multiplier is negative: the largest value has the least sum
    // lut
    int strip_rows = 1;
    std::size_t table_pixel_bytes = 0, table_row_bytes = 0, table_bytes = 0;
    // pixel_lut
    PixelGrid grid;
    std::size_t index_group_bytes = 0;
    std::vector<PixelLutColumns> columns_of;  // of each tile's columns
    std::vector<PixelLutStretch> stretches;
    AlignedBytes results;  // tables of sums' bytes
    // winograd
    const WinogradForm* form = nullptr;
    const WinogradKernels* transforms = nullptr;
    std::uint8_t shifts[kMaxPositions] = {};
    int strip_tiles = 0;
    WinogradScratch scratch;
    int tile_rows = 0;                            // of a multiplication
    std::vector<std::int32_t> correction;         // [group of blocks][n * m pixels][columns]
    const WinogradColumns* by_columns = nullptr;  // null: by positions
    std::vector<WinogradExcess> excess;           // [group of blocks][position]
    std::vector<Run> excess_runs;
    AlignedBytes excess_weights;

    // sum
    int window_height = 1, window_width = 1;
    // bilinear
    std::vector<Interpolation> rows, columns;
    // copy
    std::vector<int> source_y, source_x;
    int pad_channels = 0;  // zero channels on both sides
    std::uint8_t pad_byte = 0;
};

// Pixels behind an input's borders over which the tiles of Winograd's forms reach.
struct Spare {
    int bottom = 0, right = 0;
};

// What a form needs for results of that size.
inline Spare spare_of(const WinogradForm& form, int height, int width) {
    const auto missing = [&](int size, int side) { return form.stride * ((side - size % side) % side); };
    return {missing(height, form.n), missing(width, form.m)};
}

// What every form needs that may compute such a convolution.
Spare winograd_spare(const Geometry& geometry, int height, int width);

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
    // Whether convolutions multiply tiles (DotPath::places), beside which Winograd's transforms take longer than what
    // they save: such a form is only taken if it is asked for.
    bool avoids_winograd() const;
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
    class Undo;
    struct Choice;
    std::size_t image_bytes() const {
        return 3 * static_cast<std::size_t>(image_height_) * static_cast<std::size_t>(image_width_);
    }
    std::unique_ptr<Context> take_context(int threads) const;
    void give_back(std::unique_ptr<Context> context) const;
    void run_call(const std::int8_t* q_images, int batch, int threads, float* results,
                  std::vector<double>* seconds) const;
    static void check(bool holds, const char* message);  // throws std::invalid_argument
    const Buffer& checked_buffer(int index) const;
    void check_step(const Step& step) const;
    Step& push(Step::Kind kind, const std::string& name, int input);
    void set_constants(Step& step, const Constants& constants, const Activation& activation, double largest_sum);
    void set_result(const Step& step);
    std::vector<Choice> choices(const Step& step, const ConvSpec& spec) const;
    double mac_ns(const DotPath& dot, int act_max, int weight_max) const;
    const DotRates& rates_of(const DotPath& dot) const;
    double product_ns(double weights, double rows, double pieces, double mac, double bytes) const;
    Choice dot_choice(const Step& step, const ConvSpec& spec, const DotPath& dot) const;
    Choice lut_choice(const Step& step, const ConvSpec& spec, const LutPath& lut) const;
    Choice pixel_lut_choice(const Step& step, const ConvSpec& spec) const;
    Choice winograd_choice(const Step& step, const ConvSpec& spec, const WinogradForm& form, const DotPath& dot) const;
    bool lut_fits(const Step& step, const ConvSpec& spec, const LutPath& lut) const;
    bool pixel_lut_fits(const Step& step, const ConvSpec& spec) const;
    bool winograd_fits(const Step& step, const ConvSpec& spec, const WinogradForm& form) const;
    void set_dot(Step& step, const DotPath& dot, int act_max, int weight_max) const;
    void read_stretches(const DotPath& dot, std::size_t row_step);
    bool prepare(Step& step, const ConvSpec& spec, const std::int8_t* q8, const Choice& choice);
    void prepare_dot(Step& step, const ConvSpec& spec, const std::int8_t* q8);
    void prepare_lut(Step& step, const ConvSpec& spec, const std::int8_t* q8);
    void prepare_pixel_lut(Step& step, const ConvSpec& spec, const std::int8_t* q8);
    static void add_stretches(Step& step, const std::vector<std::uint8_t>& reach);
    void add_results(Step& step) const;
    struct Excess;
    void pack_excess(Step& step, const std::vector<std::vector<Excess>>& excesses, int group_columns) const;
    bool prepare_winograd(Step& step, const ConvSpec& spec, const std::int8_t* q8);
    void prepare_depthwise(Step& step, const ConvSpec& spec, const std::int8_t* q8);

    const Isa* isa_;
    const Rates rates_;
    std::vector<Buffer> buffers_;
    std::vector<Step> steps_;
    bool finished_ = false;
    std::size_t resident_bytes_ = 0, arena_bytes_ = 0, scratch_bytes_ = 0;
    std::size_t overrun_bytes_ = kSlackBytes;  // that may be read behind the arena, and behind a thread's own memory
    std::size_t max_window_ = 1;               // sources of a maximum
    std::size_t result_channels_ = 0;
    int result_height_ = 1, result_width_ = 1;
    int image_height_ = 0, image_width_ = 0;
    mutable std::unique_ptr<Context> contexts_;  // a list of those not in use
    mutable std::size_t allocations_ = 0;
};

}  // namespace bitgear
