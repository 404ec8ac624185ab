// Building a model: geometry, the choice of a path for each layer, derivation and packing of weights, the arena.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <numeric>
#include <stdexcept>

#include "model.h"
#include "quantizer.h"

namespace bitgear {
namespace {

std::size_t sz(int n) { return static_cast<std::size_t>(n); }

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Codes of kBlock output channels from `first` on, in the order in which kernels read: [row][tap][tap_channels], zeros
// where there is no channel. Of woven windows of `woven_side` taps each way, the taps of a column follow each other,
// and zeros only fill up the last group. `q8`: master codes of the layer, [channels][in_channels][taps].
class WindowRows {
public:
    WindowRows(const Isa* isa, const std::int8_t* q8, int channels, int in_channels, int taps, int tap_channels,
               int bits, int woven_side = 0)
        : isa_(isa),
          q8_(q8),
          channels_(channels),
          in_channels_(in_channels),
          taps_(taps),
          tap_channels_(tap_channels),
          bits_(bits),
          woven_side_(woven_side),
          codes_(sz(in_channels) * sz(taps)) {}

    std::size_t row_bytes() const { return sz(round_up(taps_ * tap_channels_, kGroup)); }

    // Fills `rows` rows; returns nothing, rows beyond the last channel are zero. `rows` buffer: [count][row_bytes()].
    void fill(int first, int count, std::int8_t* rows) {
        for (int r = 0; r < count; ++r, rows += row_bytes()) {
            if (first + r >= channels_) {
                std::memset(rows, 0, row_bytes());
                continue;
            }
            const std::int8_t* source = q8_ + sz(first + r) * codes_.size();
            if (taps_ == 1) {
                isa_->derive(source, codes_.size(), bits_, rows);
                std::memset(rows + in_channels_, 0, sz(tap_channels_ - in_channels_));
                continue;
            }
            if (bits_ < 8) isa_->derive(source, codes_.size(), bits_, codes_.data());
            const std::int8_t* codes = bits_ < 8 ? codes_.data() : source;
            if (woven_side_ > 0) {
                weave(codes, rows);
                continue;
            }
            isa_->transpose_taps(codes, in_channels_, taps_, sz(tap_channels_), rows);
            if (in_channels_ == tap_channels_) continue;
            for (int t = 0; t < taps_; ++t)
                std::memset(rows + t * tap_channels_ + in_channels_, 0, sz(tap_channels_ - in_channels_));
        }
    }

private:
    void weave(const std::int8_t* codes, std::int8_t* row) const {
        std::int8_t* out = row;
        for (int x = 0; x < woven_side_; ++x) {
            for (int t = x; t < taps_; t += woven_side_) {
                for (int c = 0; c < in_channels_; ++c) *out++ = codes[c * taps_ + t];
            }
        }
        std::fill(out, row + row_bytes(), std::int8_t{0});
    }

    const Isa* isa_;
    const std::int8_t* q8_;
    int channels_, in_channels_, taps_, tap_channels_, bits_;
    int woven_side_;
    std::vector<std::int8_t> codes_;
};

constexpr double kStridedShare = 0.8;                     // of the definition's products: the most for stride 2
constexpr std::size_t kOverrun = 64;                      // codes are read and written in whole vectors
constexpr std::size_t kSumsBytes = 26 * 1024;             // of all positions: most of a core's first cache
constexpr double kFarWeightBytes = 1 << 20;               // what a core's second cache does not keep
constexpr double kAlike = 1.0 / 16;                       // times of layers that differ by less count as equal
constexpr double kWaiting = 1.0 / 3;                      // of the time that bringing weights takes, about
constexpr int kManyPixels = 128;                          // for which looking at weights pays
constexpr std::size_t kNearTablesBytes = 32 * 1024;       // look-up tables that stay in a core's first cache
constexpr std::size_t kColumnBytes = 16 * 1024;           // of weights: half of a core's first cache
constexpr std::size_t kWordsBytes = 5 * 1024 * 1024 / 4;  // of 16 bits: what a core's second cache holds, about

// Whether windows of a convolution are read from woven rows, where they have no padding: of the picture, that is.
bool weaves(const Geometry& g, int in_channels) {
    return g.groups == 1 && g.dilation == 1 && g.kernel > 1 && in_channels < kGroup;
}

// Groups of a window.
int window_groups(const Geometry& g, int in_channels) {
    const int taps = g.kernel * g.kernel;
    return weaves(g, in_channels) ? round_up(taps * in_channels, kGroup) / kGroup
                                  : taps * round_up(in_channels, kGroup) / kGroup;
}

// How Winograd's form multiplies patches of so many groups: all positions of a column at a time, or one by one (null).
const WinogradColumns* winograd_columns(const WinogradForm& form, const WinogradKernels& kernels, const DotPath& dot,
                                        int groups) {
    const std::size_t column_bytes = sz(form.n + 2) * sz(groups) * sz(dot.max_blocks * kBlock * kGroup);
    return column_bytes <= kColumnBytes ? kernels.columns : nullptr;
}

// Sums that a tile leaves.
int sum_positions(const WinogradForm& form, const WinogradColumns* columns) {
    return columns != nullptr ? form.n * form.columns() : form.sums();
}

// Tiles that are multiplied together in Winograd's form.
int winograd_rows(const WinogradForm& form, const WinogradColumns* columns, const DotPath& dot) {
    const std::size_t row_bytes = sz(sum_positions(form, columns) * dot.max_blocks * kBlock) * sizeof(std::int32_t);
    const int unit = columns != nullptr ? columns->patches : 1, most = dot.max_rows;
    return std::clamp(static_cast<int>(kSumsBytes / row_bytes), std::min(8, most), most) / unit * unit;
}

// Tiles whose patches are at hand at the same time.
int winograd_strip(const WinogradForm& form, int channels, int tile_rows) {
    const std::size_t tile_bytes = sz(form.positions()) * sz(round_up(channels * form.operand_bytes, 64));
    const int fitting = static_cast<int>(kStripBytes / 2 / tile_bytes);
    return std::clamp(fitting / tile_rows * tile_rows, tile_rows, 8 * tile_rows);
}

// Whether a window lies inside a buffer and its borders at least once.
bool fits(const Buffer& b, int extent) {
    return extent <= b.top + b.height + b.bottom - b.spare_bottom &&
           extent <= b.left + b.width + b.right - b.spare_right;
}

std::int32_t sum_of(const std::int8_t* row, std::size_t count) {
    constexpr std::size_t kStretch = 128;  // sums in 16 bits: twice as many at a time
    std::int32_t sum = 0;
    for (std::size_t begin = 0; begin < count; begin += kStretch) {
        std::int16_t part = 0;
        for (std::size_t i = begin; i < std::min(begin + kStretch, count); ++i) {
            part = static_cast<std::int16_t>(part + row[i]);
        }
        sum += part;
    }
    return sum;
}

// The larger of the sums of positive and of negative codes, as a magnitude.
std::int32_t largest_sum(const std::int8_t* row, std::size_t count) {
    std::int32_t positive = 0;
    for (std::size_t i = 0; i < count; ++i) positive += std::max<int>(row[i], 0);
    return std::max(positive, positive - sum_of(row, count));
}

constexpr int kResultInputs = 40;  // of a sum that tables may hold, if weights are as large as most
constexpr int kReachSteps = 4;     // groups of which it is known at once how far sums may grow

// Adds to each unit of kReachSteps groups of a tap how far a channel's sum may grow, of a row of 2-bit codes [tap][3 *
// groups]; `reach`: [tap][unit][column]. Returns the sum of the codes' magnitudes.
std::int32_t add_reach(const std::int8_t* row, int taps, int groups, std::uint8_t* reach) {
    constexpr std::uint64_t kLowest = 0x0101010101010101u;
    std::int32_t sum = 0;
    for (int t = 0; t < taps; ++t, row += kPixelLutInputs * groups) {
        for (int g = 0; g < groups; g += kReachSteps, reach += kPixelLutColumns) {
            const std::size_t n = sz(std::min(kReachSteps, groups - g));
            std::uint32_t codes[4] = {};
            for (int i = 0; i < kPixelLutInputs; ++i) std::memcpy(&codes[i], row + i * groups + g, n);
            std::uint64_t words[2];
            std::memcpy(words, codes, sizeof words);
            int magnitude = 0;
            for (const std::uint64_t word : words) {  // codes 0, 1, -2 and -1: of 2 bits, the lower one alone counts 1
                const std::uint64_t low = word & kLowest, high = word >> 1 & kLowest;
                magnitude += __builtin_popcountll(low) + 2 * __builtin_popcountll(high & ~low);
            }
            sum += magnitude;
            *reach = static_cast<std::uint8_t>(kPixelLutMaxAct * magnitude);
        }
    }
    return sum;
}

// How indices of the rows that `rows` rows of a step's output read lie. Of stride 1 whole rows of the input do, borders
// included, so that they are one stretch of pixels.
PixelGrid pixel_grid(const Step& step, const Buffer& input, int rows) {
    const Geometry& g = step.geometry;
    const int reach = g.dilation * (g.kernel - 1);
    PixelGrid grid;
    grid.row_pixels = g.stride == 1 ? input.row_pixels() : step.width + reach / g.stride;
    grid.phase_rows = rows + reach / g.stride;
    grid.phases.assign(sz(g.stride * g.stride), -1);
    for (int y = 0; y <= reach; y += g.dilation) {
        for (int x = 0; x <= reach; x += g.dilation) grid.phases[sz(y % g.stride * g.stride + x % g.stride)] = 0;
    }
    std::int32_t at = 0;
    for (std::int32_t& phase : grid.phases) {
        if (phase < 0) continue;
        phase = at;
        at += grid.phase_rows * grid.row_pixels;
    }
    return grid;
}

// Bytes of a group's indices: vectors reach over the last pixel's, and over those of taps beside it.
std::size_t index_bytes(const PixelGrid& grid) {
    const auto phases = std::count_if(grid.phases.begin(), grid.phases.end(), [](int phase) { return phase >= 0; });
    return (sz(static_cast<int>(phases) * grid.phase_rows * grid.row_pixels) + 2 * kPixelLutLanes - 1) /
           kPixelLutLanes * kPixelLutLanes;
}

bool pixel_lut_fits(const Step& step, const ConvSpec& spec) {
    const double most = double(step.in_channels) * spec.geometry.kernel * spec.geometry.kernel *
                        (1 << (spec.weight_bits - 1)) * kPixelLutMaxAct;  // of a sum
    const bool quick =
        !step.result && step.outputs.size() <= kPixelLutOutputs;  // all else goes through memory, sum by sum
    return (quick || !spec.path.empty()) && spec.weight_bits == kPixelLutBits && spec.act_max <= kPixelLutMaxAct &&
           spec.geometry.stride <= 8 && most <= UINT16_MAX;
}

// What the numbers of the rows that a step reads of its input's picture are multiples of.
int row_step(const Step& step, const Buffer& input) {
    if (step.kind == Step::Kind::conv && step.method == Method::dot && step.geometry.kernel == 1 && input.top == 0)
        return step.geometry.stride;
    if (step.kind != Step::Kind::copy) return 1;
    return std::accumulate(step.source_y.begin(), step.source_y.end(), 0, std::gcd<int, int>);
}

}  // namespace

// Takes back the steps that were begun unless it is told to keep them.
class Model::Undo {
public:
    explicit Undo(Model& model) : model_(model), steps_(model.steps_.size()), resident_bytes_(model.resident_bytes_) {}
    Undo(const Undo&) = delete;
    Undo& operator=(const Undo&) = delete;
    ~Undo() {
        if (kept_) return;
        model_.steps_.erase(model_.steps_.begin() + static_cast<std::ptrdiff_t>(steps_), model_.steps_.end());
        model_.resident_bytes_ = resident_bytes_;
    }
    void keep() { kept_ = true; }

private:
    Model& model_;
    const std::size_t steps_;
    const std::size_t resident_bytes_;
    bool kept_ = false;
};

void Model::check(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

const Buffer& Model::checked_buffer(int index) const {
    check(index >= 0 && index < static_cast<int>(buffers_.size()), "no such buffer");
    return buffers_[sz(index)];
}

// Whatever a step writes or reads beside its input must lie inside the buffers.
void Model::check_step(const Step& step) const {
    check(!finished_, "the model is finished");
    check(step.height >= 1 && step.width >= 1 && step.channels >= 1, "a step makes nothing");
    check(step.outputs.size() <= sz(kMaxOutputs), "a value has too many readers");
    for (const Output& output : step.outputs) {
        const Buffer& b = checked_buffer(output.buffer);
        check(b.height == step.height && b.width == step.width && output.channel >= 0 && output.channel <= b.channels &&
                  step.channels + 2 * step.pad_channels <= b.channels - output.channel,
              "a reader's buffer has another shape than the value");
        check(output.quantizer.low + output.quantizer.zero >= 0 && output.quantizer.high + output.quantizer.zero <= 255,
              "a reader's codes do not fit a byte");
    }
    if (step.residual.buffer >= 0) {
        const Buffer& b = checked_buffer(step.residual.buffer);
        check(b.height == step.height && b.width == step.width && step.channel + step.channels <= b.channels,
              "the residual has another shape than the value");
    }
}

int Model::add_buffer(int height, int width, int channels, int top, int left, int bottom, int right, int spare_bottom,
                      int spare_right, std::uint8_t fill) {
    constexpr int kMax = 1 << 16;
    const auto side = [](int n) { return n >= 0 && n <= kMax; };
    check(!finished_, "the model is finished");
    check(height >= 1 && width >= 1 && channels >= 1 && side(height) && side(width) && side(channels) && side(top) &&
              side(left) && side(bottom) && side(right) && side(spare_bottom) && side(spare_right),
          "a buffer's sizes are out of range");
    Buffer buffer{height,       width,       channels, top, left, bottom + spare_bottom, right + spare_right,
                  spare_bottom, spare_right, fill};
    buffer.pixel_bytes = round_up(channels, kGroup);
    buffer.image_bytes = (sz(top + height + buffer.bottom) * buffer.row_bytes() + kSlackBytes + 63) / 64 * 64;
    buffers_.push_back(buffer);
    return static_cast<int>(buffers_.size()) - 1;
}

Step& Model::push(Step::Kind kind, const std::string& name, int input) {
    steps_.emplace_back();
    Step& step = steps_.back();
    step.kind = kind;
    step.name = name;
    step.input = input;
    return step;
}

// After the step's outputs and residual are known.
void Model::set_constants(Step& step, const Constants& constants, const Activation& activation, double largest_sum) {
    const std::size_t padded = sz(round_up(step.channels, kLutColumnsMax));
    step.multiplier = constants.multiplier;
    step.multiplier.resize(padded);
    step.bias = constants.bias;
    if (!step.bias.empty()) step.bias.resize(padded);
    step.offset.assign(padded, 0);
    step.floor = activation.relu ? 0.0f : -INFINITY;
    step.ceiling = activation.clip;
    step.quick.resize(2 * padded * step.outputs.size());
    float* quick = step.quick.data();
    for (Output& output : step.outputs) {
        Quantizer& q = output.quantizer;
        bound_quantizer(q, step.floor, step.ceiling);
        quicken(q, step.multiplier.data(), step.bias.empty() ? nullptr : step.bias.data(), step.channels,
                static_cast<int>(padded), step.residual.buffer >= 0 ? step.residual.scale : 0.0f, largest_sum, quick,
                quick + padded);
        quick += 2 * padded;
    }
}

void Model::set_result(const Step& step) {
    if (!step.result) return;
    result_height_ = step.height;
    result_width_ = step.width;
    result_channels_ = sz(step.result_channels);
}

void Model::add_image(int buffer) {
    Undo undo(*this);
    const Buffer& b = checked_buffer(buffer);
    check(b.channels == 3, "the image has three channels");
    check(image_height_ == 0 || (image_height_ == b.height && image_width_ == b.width), "the image has one size");
    Step& step = push(Step::Kind::image, "image", -1);
    step.height = image_height_ = b.height;
    step.width = image_width_ = b.width;
    step.channels = b.channels;
    step.outputs.push_back({buffer, 0, {}});
    check_step(step);
    undo.keep();
}

void Model::add_conv(const std::string& name, const ConvSpec& spec, const std::int8_t* q8, std::size_t q8_size) {
    Undo undo(*this);
    const Buffer input = checked_buffer(spec.input);
    const Geometry& g = spec.geometry;
    check(g.kernel >= 1 && g.kernel <= 255 && g.stride >= 1 && g.dilation >= 1 && g.dilation <= 255 && g.groups >= 1 &&
              spec.channels >= 1,
          "a convolution's sizes are out of range");
    check(input.channels % g.groups == 0 && spec.channels % g.groups == 0, "channels are no multiple of groups");
    check(q8_size == sz(spec.channels) * sz(input.channels / g.groups) * sz(g.kernel * g.kernel),
          "weights have another size");
    check(spec.constants.multiplier.size() == sz(spec.channels) &&
              (spec.constants.bias.empty() || spec.constants.bias.size() == sz(spec.channels)),
          "a convolution needs a multiplier, and a bias or none, for each channel");
    check(spec.weight_bits >= 2 && spec.weight_bits <= 8 && spec.act_max >= 1 && spec.act_max <= 255 &&
              spec.zero >= 0 && spec.zero <= spec.act_max,
          "widths are out of range");
    const bool depthwise = g.groups > 1 && g.groups == input.channels && spec.channels == input.channels;
    const int parts = depthwise ? 1 : g.groups;  // any other grouping: a step for each group
    const int in_channels = input.channels / g.groups;
    const int channels = spec.channels / parts;
    for (int part = 0; part < parts; ++part) {
        Step& step = push(Step::Kind::conv, name, spec.input);
        const int extent = g.dilation * (g.kernel - 1) + 1;
        check(fits(input, extent), "a convolution's window is larger than its input");
        step.height = (input.top + input.height + input.bottom - input.spare_bottom - extent) / g.stride + 1;
        step.width = (input.left + input.width + input.right - input.spare_right - extent) / g.stride + 1;
        step.pooling = spec.pooling;
        step.conv_height = step.height;
        step.conv_width = step.width;
        if (spec.pooling.kernel > 0) {
            const Pooling& pool = spec.pooling;
            check(g.groups == 1 && spec.residual.buffer < 0 && pool.kernel <= kMaxPooled && pool.stride >= 1 &&
                      pool.stride <= 255 && pool.padding >= 0 && pool.padding < pool.kernel && pool.height >= 1 &&
                      pool.width >= 1 && pool.height <= (step.conv_height - 1 + pool.padding) / pool.stride + 1 &&
                      pool.width <= (step.conv_width - 1 + pool.padding) / pool.stride + 1,
                  "pooling does not fit its convolution");
            step.height = pool.height;
            step.width = pool.width;
        }
        step.channels = channels;
        step.result_channels = spec.channels;
        step.input_channel = part * in_channels * (parts > 1 ? 1 : 0);
        step.channel = part * channels;
        step.geometry = g;
        step.residual = spec.residual;
        step.act_max = spec.act_max;
        step.outputs = spec.outputs;
        for (Output& output : step.outputs) output.channel += step.channel;
        step.result = spec.result;
        Constants constants;
        const auto slice = [&](const std::vector<float>& all) {
            return all.empty() ? all
                               : std::vector<float>(all.begin() + step.channel, all.begin() + step.channel + channels);
        };
        constants.multiplier = slice(spec.constants.multiplier);
        constants.bias = slice(spec.constants.bias);
        check_step(step);
        set_constants(step, constants, spec.activation,
                      double(in_channels) * g.kernel * g.kernel * spec.act_max * (1 << (spec.weight_bits - 1)));
        step.macs = double(step.conv_height) * step.conv_width * channels * in_channels * g.kernel * g.kernel;
        const std::int8_t* codes = q8 + sz(step.channel) * sz(in_channels) * sz(g.kernel * g.kernel);
        step.in_channels = in_channels;
        if (depthwise) {
            step.method = Method::depthwise;
            prepare_depthwise(step, spec, codes);
        } else {
            const std::vector<Choice> all = choices(step, spec);
            const bool prepared = std::any_of(all.begin(), all.end(),
                                              [&](const Choice& choice) { return prepare(step, spec, codes, choice); });
            check(prepared, "no path multiplies this convolution");
        }
        set_result(step);
    }
    undo.keep();
}

// A way to run a convolution, and the estimated time of one thread for one image, from measured rates
// (docs/kernels.md).
struct Model::Choice {
    Method method;
    double ns;
    const DotPath* dot = nullptr;
    int act_max = 0, weight_max = 0;  // of the operands of `dot`
    const LutPath* lut = nullptr;
    const WinogradForm* form = nullptr;
    double weight_bytes = 0;  // that a pass reads
};

const DotRates& Model::rates_of(const DotPath& dot) const {
    return &dot == isa_->words ? rates_.words : rates_.dots[sz(static_cast<int>(&dot - isa_->dots))];
}

// A multiply-accumulate whose operands reach `act_max` and `weight_max`.
double Model::mac_ns(const DotPath& dot, int act_max, int weight_max) const {
    const DotRates& rates = rates_of(dot);
    return rates.mac + (dot.period == nullptr ? 0.0 : rates.widening / dot.period(act_max, weight_max));
}

// The fastest multiplication that is exact.
const DotPath& Model::dot_path(int act_max, int weight_max) const {
    const DotPath* best = nullptr;
    for (int i = 0; i < isa_->dot_count; ++i) {
        const DotPath& dot = isa_->dots[i];
        if (!dot.exact(act_max, weight_max)) continue;
        if (best == nullptr || mac_ns(dot, act_max, weight_max) < mac_ns(*best, act_max, weight_max)) best = &dot;
    }
    if (best == nullptr) throw std::logic_error("no exact multiplication");  // one of every set is always exact
    return *best;
}

// Of `weights` weights of `bytes` bytes with `rows` rows in `pieces` pieces: the first piece has the weights brought
// from afar, which is mostly done meanwhile.
double Model::product_ns(double weights, double rows, double pieces, double mac, double bytes) const {
    const double first = rows / pieces * mac, brought = bytes * rates_.stream;
    return weights * (std::max(first, brought) + kWaiting * std::min(first, brought) + (rows * mac - first));
}

Model::Choice Model::dot_choice(const Step& step, const ConvSpec& spec, const DotPath& dot) const {
    Choice choice{Method::dot, 0.0, &dot, spec.act_max, 1 << (spec.weight_bits - 1)};
    const int columns = round_up(step.channels, kBlock);
    const double weights = double(columns) * window_groups(spec.geometry, step.in_channels) * kGroup;
    const double pixels = double(step.conv_height) * step.conv_width;
    choice.weight_bytes = weights * dot.group_bytes / (kBlock * kGroup);
    choice.ns = product_ns(weights, pixels, std::ceil(pixels / dot.max_rows),
                           mac_ns(dot, choice.act_max, choice.weight_max), 1) +
                pixels * columns * rates_of(dot).finish;
    return choice;
}

Model::Choice Model::lut_choice(const Step& step, const ConvSpec& spec, const LutPath& lut) const {
    Choice choice{Method::lut, 0.0};
    choice.lut = &lut;
    const LutRates& rates = rates_.luts[sz(static_cast<int>(&lut - isa_->luts))];
    const Buffer& input = buffers_[sz(spec.input)];
    const int taps = spec.geometry.kernel * spec.geometry.kernel, columns = round_up(step.channels, lut.columns);
    const double pixels = double(step.height) * step.width, groups = std::ceil(double(step.in_channels) / lut.inputs);
    const double weights = groups * lut.inputs * columns * taps;
    const double tables = double(input.row_pixels()) * (input.top + input.height + input.bottom) * groups;
    const double pieces = std::ceil(pixels / lut.max_rows), calls = pieces * columns / lut.columns;
    const double bytes = double(lut.group_bytes) / (lut.inputs * lut.columns);
    choice.weight_bytes = weights * bytes;
    choice.ns = product_ns(weights, pixels, pieces, rates.mac, bytes) + tables * rates.table + calls * rates.call +
                pixels * columns * rates.finish;
    return choice;
}

Model::Choice Model::pixel_lut_choice(const Step& step, const ConvSpec& spec) const {
    Choice choice{Method::pixel_lut, 0.0};
    const PixelLutRates& rates = rates_.pixel_lut;
    const Geometry& g = spec.geometry;
    const Buffer& input = buffers_[sz(spec.input)];
    const PixelGrid grid = pixel_grid(step, input, step.height);
    const int groups = round_up(step.in_channels, kPixelLutInputs) / kPixelLutInputs;
    const double vectors = std::ceil(double((step.height - 1) * grid.row_pixels + step.width) / kPixelLutLanes);
    const double phases = std::count_if(grid.phases.begin(), grid.phases.end(), [](int phase) { return phase >= 0; });
    const double indexed = g.stride == 1 ? round_up(grid.phase_rows * grid.row_pixels, kPixelLutLanes)
                                         : phases * grid.phase_rows * round_up(grid.row_pixels, kPixelLutLanes);
    const double columns = round_up(step.channels, kPixelLutChannels);
    const double weights = columns * groups * kPixelLutInputs * g.kernel * g.kernel;
    const bool results = step.in_channels * g.kernel * g.kernel <= kResultInputs && step.residual.buffer < 0;
    choice.weight_bytes = weights / kPixelLutInputs;
    choice.ns = product_ns(weights, vectors * kPixelLutLanes, std::ceil(vectors / kPixelLutVectors),
                           vectors > 1 ? rates.mac : rates.single, 1.0 / kPixelLutInputs) +
                indexed * groups * rates.index +
                vectors * kPixelLutLanes * columns * (results ? rates.results : rates.finish) *
                    double(std::max(step.outputs.size(), std::size_t{1}));
    return choice;
}

Model::Choice Model::winograd_choice(const Step& step, const ConvSpec& spec, const WinogradForm& form) const {
    Choice choice{Method::winograd, 0.0};
    choice.form = &form;
    choice.act_max = form.span() * spec.act_max;
    choice.weight_max = winograd_weight_bound(form, spec.weight_bits);
    choice.dot = form.operand_bytes == 2 ? isa_->words : &dot_path(choice.act_max, choice.weight_max);
    const DotPath& dot = *choice.dot;
    const FormRates& rates = rates_.forms[&form - kWinograd];
    const int positions = form.positions(), columns = round_up(step.channels, kBlock);
    const double tiles = double((step.height + form.n - 1) / form.n) * ((step.width + form.m - 1) / form.m);
    const int groups = round_up(step.in_channels, kGroup) * form.operand_bytes / kGroup;
    const WinogradColumns* by_columns = winograd_columns(form, isa_->winograd[&form - kWinograd], dot, groups);
    const double pieces = std::ceil(tiles / winograd_rows(form, by_columns, dot));
    const double weights = double(columns) * round_up(step.in_channels, kGroup) * positions;
    const double calls = form.sums() * pieces * std::ceil(double(step.channels) / (dot.max_blocks * kBlock));
    const double in_vectors = std::ceil(double(step.in_channels) * form.operand_bytes / isa_->vector_bytes);
    const double out_vectors = columns * double(sizeof(std::int32_t)) / isa_->vector_bytes;
    choice.weight_bytes = weights * form.operand_bytes;
    choice.ns = product_ns(weights, tiles, pieces, mac_ns(dot, choice.act_max, choice.weight_max), form.operand_bytes) +
                (by_columns != nullptr ? 0.0 : calls * rates_of(dot).call) +
                tiles * (positions * rates.patch * in_vectors +
                         form.sums() * (by_columns != nullptr ? rates.columns : rates.sums) * out_vectors) +
                tiles * form.n * form.m * columns * rates_.epilogue;
    return choice;
}

bool Model::winograd_fits(const Step& step, const ConvSpec& spec, const WinogradForm& form) const {
    const Geometry& g = spec.geometry;
    if (g.kernel != 3 || g.stride != form.stride || g.dilation != 1 || step.in_channels > kWinogradMaxChannels)
        return false;
    const Buffer& input = buffers_[sz(spec.input)];
    const bool room = input.spare_bottom >= form.stride * ((form.n - step.height % form.n) % form.n) &&
                      input.spare_right >= form.stride * ((form.m - step.width % form.m) % form.m);
    const std::size_t words = 2 * sz(form.positions()) * sz(step.channels) * sz(step.in_channels);
    // Of small maps tiles of stride 2 reach over the ends, and save too little for nearly three times the weights.
    const int tiles = round_up(step.height, form.n) / form.n * (round_up(step.width, form.m) / form.m);
    const bool saves =
        form.stride == 1 || double(tiles) * form.positions() <= kStridedShare * 9.0 * step.height * step.width;
    return room && (saves || !spec.path.empty()) &&
           (form.operand_bytes == 2 ? isa_->words != nullptr && (words <= kWordsBytes || !spec.path.empty())
                                    : form.span() * spec.act_max <= 255 && spec.weight_bits <= kWinogradMaxWeightBits);
}

// All ways that a layer allows, the fastest one first; the one asked for before all others, which then is the fastest
// multiplication.
std::vector<Model::Choice> Model::choices(const Step& step, const ConvSpec& spec) const {
    const int weight_max = 1 << (spec.weight_bits - 1);
    std::vector<Choice> all;
    for (int i = 0; i < isa_->dot_count; ++i) {
        const DotPath& dot = isa_->dots[i];
        if (spec.path == dot.name && dot.exact(spec.act_max, weight_max)) return {dot_choice(step, spec, dot)};
    }
    all.push_back(dot_choice(step, spec, dot_path(spec.act_max, weight_max)));
    if (spec.geometry.groups > 1 || spec.pooling.kernel > 0) return all;
    const auto wanted = [&](const char* name) { return spec.path.empty() || spec.path == name; };
    for (int i = 0; i < isa_->lut_count; ++i) {
        const LutPath& lut = isa_->luts[i];
        if (wanted(lut.name) && spec.weight_bits == lut.planes && spec.act_max <= lut.max_act)
            all.push_back(lut_choice(step, spec, lut));
    }
    if (isa_->pixel_lut != nullptr && wanted(isa_->pixel_lut->name) && pixel_lut_fits(step, spec))
        all.push_back(pixel_lut_choice(step, spec));
    for (const WinogradForm& form : kWinograd) {
        if (wanted(form.name) && winograd_fits(step, spec, form)) all.push_back(winograd_choice(step, spec, form));
    }
    if (!spec.path.empty()) {
        std::reverse(all.begin(), all.end());
    } else {
        std::stable_sort(all.begin(), all.end(), [](const Choice& a, const Choice& b) { return a.ns < b.ns; });
        if (all[0].weight_bytes > kFarWeightBytes) {
            // How fast they come varies with what else runs on the machine.
            const auto alike = std::find_if(all.begin(), all.end(),
                                            [&](const Choice& each) { return each.ns > (1 + kAlike) * all[0].ns; });
            const auto fewest = std::min_element(
                all.begin(), alike, [](const Choice& a, const Choice& b) { return a.weight_bytes < b.weight_bytes; });
            std::rotate(all.begin(), fewest, fewest + 1);
        }
    }
    return all;
}

void Model::set_dot(Step& step, const DotPath& dot, int act_max, int weight_max) const {
    step.dot = &dot;
    step.period = dot.period != nullptr ? dot.period(act_max, weight_max) : 0;
}

// False if the weights turn out not to allow it.
bool Model::prepare(Step& step, const ConvSpec& spec, const std::int8_t* q8, const Choice& choice) {
    step.method = choice.method;
    if (choice.dot != nullptr) set_dot(step, *choice.dot, choice.act_max, choice.weight_max);
    if (choice.method == Method::lut) {
        step.lut = choice.lut;
        prepare_lut(step, spec, q8);
    } else if (choice.method == Method::pixel_lut) {
        prepare_pixel_lut(step, spec, q8);
    } else if (choice.method == Method::winograd) {
        step.form = choice.form;
        step.transforms = &isa_->winograd[choice.form - kWinograd];
        return prepare_winograd(step, spec, q8);
    } else {
        prepare_dot(step, spec, q8);
    }
    return true;
}

void Model::prepare_dot(Step& step, const ConvSpec& spec, const std::int8_t* q8) {
    const Buffer& input = buffers_[sz(spec.input)];
    const Geometry& g = spec.geometry;
    const bool woven = weaves(g, step.in_channels);
    const bool contiguous = g.groups == 1 && g.dilation == 1;  // a window's row of taps is one stretch of bytes
    const int tap_channels = woven        ? step.in_channels
                             : contiguous ? input.pixel_bytes
                                          : round_up(step.in_channels, kGroup);
    const int taps = g.kernel * g.kernel;
    step.k_groups = window_groups(g, step.in_channels);
    if (woven) step.runs.push_back({0, step.k_groups});
    for (int ky = 0; ky < g.kernel && !woven; ++ky) {
        const auto row = static_cast<std::int32_t>(sz(ky * g.dilation) * input.row_bytes()) + step.input_channel;
        if (contiguous) {
            step.runs.push_back({row, g.kernel * tap_channels / kGroup});
        } else {
            for (int kx = 0; kx < g.kernel; ++kx) {
                step.runs.push_back({row + kx * g.dilation * input.pixel_bytes, tap_channels / kGroup});
            }
        }
    }
    step.block_bytes = sz(step.k_groups) * sz(step.dot->group_bytes) + kBlockTail;
    const int blocks = round_up(step.channels, kBlock) / kBlock;
    step.packed = AlignedBytes(sz(blocks) * step.block_bytes);
    WindowRows rows(isa_, q8, step.channels, step.in_channels, taps, tap_channels, spec.weight_bits,
                    woven ? g.kernel : 0);
    std::vector<std::int8_t> codes(sz(kBlock) * rows.row_bytes());
    // Few pixels gain less by quick quotients in registers than it takes to look at the weights.
    const bool unbounded = step.dot->run_quick != nullptr && step.conv_height * step.conv_width >= kManyPixels &&
                           std::any_of(step.outputs.begin(), step.outputs.end(),
                                       [](const Output& o) { return o.quantizer.quick && !o.quantizer.bounded; });
    std::int32_t largest = 0;  // sum of an output channel's weights of one sign
    for (int b = 0; b < blocks; ++b) {
        rows.fill(b * kBlock, kBlock, codes.data());
        step.dot->pack(codes.data(), rows.row_bytes(), step.k_groups, step.packed.data() + sz(b) * step.block_bytes);
        for (int r = 0; unbounded && r < kBlock; ++r)
            largest = std::max(largest, largest_sum(codes.data() + sz(r) * rows.row_bytes(), rows.row_bytes()));
        if (spec.zero == 0) continue;
        for (int r = 0; r < kBlock; ++r) {
            step.offset[sz(b * kBlock + r)] =
                -spec.zero * sum_of(codes.data() + sz(r) * rows.row_bytes(), rows.row_bytes());
        }
    }
    // Sums of any weights might be too large for quick quotients; those of these weights hardly ever are.
    const double most_act = spec.zero == 0 ? spec.act_max : 2.0 * std::max(spec.zero, spec.act_max - spec.zero);
    if (unbounded) {
        for (Output& output : step.outputs) bound_sums(output.quantizer, largest * most_act);
    }
    step.detail = step.dot->name;
    std::size_t scratch = sizeof(std::int32_t) * kMaxRows * kMaxBlocks * kBlock;
    if (spec.pooling.kernel > 0) {
        step.detail += ", pooled";
        const int columns = step.dot->max_blocks * kBlock;
        step.flip.assign(sz(round_up(step.channels, columns)), 0);
        for (int c = 0; c < step.channels; ++c) step.flip[sz(c)] = step.multiplier[sz(c)] < 0 ? -1 : 0;
        const Pooling& pool = spec.pooling;
        step.pooled_pixels = std::max(pool.padding + step.conv_width, (pool.width - 1) * pool.stride + pool.kernel);
        const std::size_t rings = step.flip.size() * sz(pool.kernel) * sz(step.pooled_pixels);
        scratch = sizeof(std::int32_t) * (rings + sz(columns * kMaxRows));
    }
    if (woven) {
        step.woven = scratch;
        // Those of a tile at most, or of all sums that are pooled together.
        step.woven_rows = spec.pooling.kernel > 0 ? spec.pooling.kernel
                                                  : 1 + (step.dot->max_rows - 2 + step.conv_width) / step.conv_width;
        step.woven_pixels = (step.conv_width - 1) * g.stride + g.kernel;
        step.woven_row_bytes = sz(step.woven_pixels * g.kernel * step.in_channels) + kSlackBytes;
        scratch += sz(step.woven_rows) * step.woven_row_bytes;
    }
    resident_bytes_ += step.packed.size();
    scratch_bytes_ = std::max(scratch_bytes_, scratch);
}

void Model::prepare_lut(Step& step, const ConvSpec& spec, const std::int8_t* q8) {
    const LutPath& lut = *step.lut;
    step.detail = lut.name;
    const Geometry& g = spec.geometry;
    const Buffer& input = buffers_[sz(spec.input)];
    const int tap_channels = round_up(step.in_channels, lut.inputs);
    const int taps = g.kernel * g.kernel;
    step.k_groups = tap_channels / lut.inputs;
    step.block_bytes = sz(taps) * sz(step.k_groups) * sz(lut.group_bytes);
    const int blocks = round_up(step.channels, lut.columns) / lut.columns;
    step.packed = AlignedBytes(sz(blocks) * step.block_bytes);
    WindowRows rows(isa_, q8, step.channels, step.in_channels, taps, tap_channels, spec.weight_bits);
    std::vector<std::int8_t> codes(sz(lut.columns) * rows.row_bytes() + kOverrun);
    // All taps go over some groups before the next ones follow: neighbouring pixels share tables, which by then are
    // still in the first cache.
    const std::size_t window = sz(g.kernel) * (sz(lut.max_rows - 1) * sz(g.stride) + sz(g.kernel));
    const int near = std::max(static_cast<int>(kNearTablesBytes / (window * sz(lut.table_bytes))), 1);
    const int chunks = taps == 1 ? 1 : (step.k_groups + near - 1) / near;
    const auto chunk_begin = [&](int chunk) { return step.k_groups * chunk / chunks; };
    for (int b = 0; b < blocks; ++b) {
        rows.fill(b * lut.columns, lut.columns, codes.data());
        std::uint8_t* packed = step.packed.data() + sz(b) * step.block_bytes;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const int first = chunk_begin(chunk), groups = chunk_begin(chunk + 1) - first;
            for (int t = 0; t < taps; ++t, packed += groups * lut.group_bytes)
                lut.pack(codes.data() + t * tap_channels + first * lut.inputs, rows.row_bytes(), groups, packed);
        }
        if (spec.zero == 0) continue;
        for (int r = 0; r < lut.columns; ++r) {
            step.offset[sz(b * lut.columns + r)] =
                -spec.zero * sum_of(codes.data() + sz(r) * rows.row_bytes(), rows.row_bytes());
        }
    }
    resident_bytes_ += step.packed.size();

    // Tables of the input rows that a strip of output rows reads; as many output rows as have room.
    step.table_pixel_bytes = sz(step.k_groups) * sz(lut.table_bytes);
    step.table_row_bytes = step.table_pixel_bytes * sz(input.row_pixels());
    const int extent = g.dilation * (g.kernel - 1) + 1;
    const auto table_bytes = [&](int rows) { return step.table_row_bytes * sz((rows - 1) * g.stride + extent); };
    step.strip_rows = 1;
    while (step.strip_rows < step.height && table_bytes(step.strip_rows + 1) <= kStripBytes) ++step.strip_rows;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int first = chunk_begin(chunk), groups = chunk_begin(chunk + 1) - first;
        for (int t = 0; t < taps; ++t) {
            const std::size_t tap = sz(t / g.kernel * g.dilation) * step.table_row_bytes +
                                    sz(t % g.kernel * g.dilation) * step.table_pixel_bytes;
            step.runs.push_back({static_cast<std::int32_t>(tap) + first * lut.table_bytes, groups});
        }
    }
    step.table_bytes = (table_bytes(step.strip_rows) + 63) / 64 * 64;
    scratch_bytes_ = std::max(scratch_bytes_, step.table_bytes + sizeof(std::int32_t) * kMaxRows * kLutColumnsMax);
}

// All columns of a block have their carries counted behind the same steps.
void Model::prepare_pixel_lut(Step& step, const ConvSpec& spec, const std::int8_t* q8) {
    const PixelLutPath& lut = *isa_->pixel_lut;
    step.detail = lut.name;
    const Geometry& g = spec.geometry;
    const Buffer& input = buffers_[sz(spec.input)];
    const int tap_channels = round_up(step.in_channels, kPixelLutInputs);
    const int taps = g.kernel * g.kernel;
    step.k_groups = tap_channels / kPixelLutInputs;
    const int steps = taps * step.k_groups;
    // As many rows as have room for their indices.
    step.strip_rows = 1;
    while (step.strip_rows < step.height &&
           sz(step.k_groups) * index_bytes(pixel_grid(step, input, step.strip_rows + 1)) <= kStripBytes / 2)
        ++step.strip_rows;
    step.grid = pixel_grid(step, input, step.strip_rows);
    step.index_group_bytes = index_bytes(step.grid);

    step.block_bytes = sz(steps) * kPixelLutChannels;
    const int columns = round_up(step.channels, kPixelLutChannels);
    step.packed = AlignedBytes(sz(columns / kPixelLutChannels) * step.block_bytes);
    WindowRows rows(isa_, q8, step.channels, step.in_channels, taps, tap_channels, spec.weight_bits);
    std::vector<std::int8_t> codes(sz(kPixelLutChannels) * rows.row_bytes() + kOverrun);
    const int units = taps * ((step.k_groups + kReachSteps - 1) / kReachSteps);
    std::vector<std::uint8_t> reach(sz(units) * kPixelLutColumns);  // [unit][column]
    std::int32_t largest = 0;                                       // sum of an output channel's weights of one sign
    for (int first = 0; first < columns; first += kPixelLutColumns) {
        const int end = std::min(first + kPixelLutColumns, columns);
        std::fill(reach.begin(), reach.end(), std::uint8_t{0});
        for (int c = first; c < end; c += kPixelLutChannels) {
            rows.fill(c, kPixelLutChannels, codes.data());
            lut.pack(codes.data(), rows.row_bytes(), taps, step.k_groups,
                     step.packed.data() + sz(c / kPixelLutChannels) * step.block_bytes);
            for (int r = 0; r < kPixelLutChannels; ++r) {
                const std::int8_t* row = codes.data() + sz(r) * rows.row_bytes();
                const std::int32_t sum = sum_of(row, sz(steps * kPixelLutInputs));
                const std::int32_t magnitudes = add_reach(row, taps, step.k_groups, reach.data() + (c + r - first));
                const std::int32_t negative = (magnitudes - sum) / 2;
                largest = std::max(largest, std::max(negative, negative + sum));
                step.offset[sz(c + r)] = -spec.zero * sum - kPixelLutMaxAct * negative;
            }
        }
        add_stretches(step, reach);
    }
    const double most_act = std::max(spec.zero, spec.act_max - spec.zero);
    for (Output& output : step.outputs) bound_sums(output.quantizer, largest * 2 * most_act);
    add_results(step);
    resident_bytes_ += step.packed.size() + step.stretches.size() * sizeof(PixelLutStretch) + step.results.size();
    step.table_bytes = (sz(step.k_groups) * step.index_group_bytes + kSlackBytes + 63) / 64 * 64;
    const std::size_t sums = 2 * kPixelLutColumns * sz(kPixelLutVectors * kPixelLutLanes);
    scratch_bytes_ = std::max(
        scratch_bytes_, step.table_bytes + sums + step.multiplier.size() + sizeof(std::int32_t) * kPixelLutColumns);
}

// The stretches of a block of columns: a tap's groups, or as many as sums have room for.
void Model::add_stretches(Step& step, const std::vector<std::uint8_t>& reach) {
    const Geometry& g = step.geometry;
    const int groups = step.k_groups, steps = g.kernel * g.kernel * groups;
    PixelLutColumns columns{static_cast<int>(step.stretches.size()), 0, true, -1};
    std::vector<int> counts;  // steps before which carries are counted
    std::uint16_t grown[kPixelLutColumns] = {}, most = 0;
    const int tap_units = (groups + kReachSteps - 1) / kReachSteps;
    for (int unit = 0; unit < g.kernel * g.kernel * tap_units; ++unit) {
        const std::uint8_t* more = reach.data() + sz(unit) * kPixelLutColumns;
        most = 0;
        for (int c = 0; c < kPixelLutColumns; ++c) {
            grown[c] = static_cast<std::uint16_t>(grown[c] + more[c]);
            most = std::max(most, grown[c]);
        }
        if (most <= kPixelLutMostSum) continue;
        counts.push_back(unit / tap_units * groups + unit % tap_units * kReachSteps);
        for (int c = 0; c < kPixelLutColumns; ++c) grown[c] = more[c];
    }
    columns.narrow = counts.empty();
    if (columns.narrow && most < kPixelLutResults) columns.results = 0;
    counts.push_back(steps);
    auto next = counts.begin();
    for (int k = 0; k < steps;) {
        const int tap = k / groups, y = tap / g.kernel * g.dilation, x = tap % g.kernel * g.dilation;
        const int end = std::min((tap + 1) * groups, *next);
        const std::int32_t offset = step.grid.phases[sz(y % g.stride * g.stride + x % g.stride)] +
                                    y / g.stride * step.grid.row_pixels + x / g.stride +
                                    (k - tap * groups) * static_cast<std::int32_t>(step.index_group_bytes);
        step.stretches.push_back({offset, end - k, end == *next});
        if (end == *next) ++next;
        k = end;
    }
    columns.stretch_count = static_cast<int>(step.stretches.size()) - columns.first_stretch;
    step.columns_of.push_back(columns);
}

// Tables of the bytes of all sums that there can be, for columns that have few of them.
void Model::add_results(Step& step) const {
    const bool fits = step.residual.buffer < 0 && !step.result && step.outputs.size() <= kPixelLutOutputs;
    const std::size_t output_bytes = kPixelLutColumns * kPixelLutResults;
    std::size_t count = 0;
    for (PixelLutColumns& columns : step.columns_of) {
        if (columns.results >= 0)
            columns.results = fits ? static_cast<std::ptrdiff_t>(count++ * step.outputs.size() * output_bytes) : -1;
    }
    if (count == 0) return;
    step.results = AlignedBytes(count * step.outputs.size() * output_bytes);
    std::int32_t acc[kPixelLutColumns];
    std::uint8_t bytes[kPixelLutOutputs][kPixelLutColumns];
    std::uint8_t* out[kPixelLutOutputs * kMaxRows] = {};
    const Quantizer* quantizers[kPixelLutOutputs] = {};
    EpilogueTile tile{};
    tile.rows = 1;
    tile.acc = acc;
    tile.offset = step.offset.data();
    tile.multiplier = step.multiplier.data();
    tile.bias = step.bias.empty() ? nullptr : step.bias.data();
    tile.floor = step.floor;
    tile.ceiling = step.ceiling;
    tile.outputs = static_cast<int>(step.outputs.size());
    tile.quantizers = quantizers;
    tile.out = out;
    for (std::size_t group = 0; group < step.columns_of.size(); ++group) {
        if (step.columns_of[group].results < 0) continue;
        tile.column = static_cast<int>(group) * kPixelLutColumns;
        tile.columns = std::min(kPixelLutColumns, step.channels - tile.column);
        for (std::size_t o = 0; o < step.outputs.size(); ++o) {
            quantizers[o] = &step.outputs[o].quantizer;
            out[o * kMaxRows] = bytes[o] - tile.column;
        }
        for (int sum = 0; sum < kPixelLutResults; ++sum) {
            std::fill(acc, acc + kPixelLutColumns, sum);
            isa_->epilogue(tile);
            std::uint8_t* table = step.results.data() + step.columns_of[group].results + sum;
            for (std::size_t o = 0; o < step.outputs.size(); ++o, table += output_bytes) {
                for (int c = 0; c < tile.columns; ++c) table[c * kPixelLutResults] = bytes[o][c];
            }
        }
    }
}

// What was cut off from a weight.
struct Model::Excess {
    int column, channel, value;
};

// Groups of channels with weights that were cut off, for each group of columns and position; a group again where 127
// does not hold what was cut off. `excesses`: by position, columns ascending.
void Model::pack_excess(Step& step, const std::vector<std::vector<Excess>>& excesses, int group_columns) const {
    const int positions = step.form->positions(), groups = round_up(step.channels, group_columns) / group_columns;
    const DotPath& dot = *step.dot;
    std::vector<std::size_t> starts;  // of weights and runs
    std::vector<std::uint8_t> weights;
    for (int group = 0; group < groups; ++group) {
        const int first = group * group_columns;
        const int blocks = std::min(group_columns, round_up(step.channels, kBlock) - first) / kBlock;
        for (int p = 0; p < positions; ++p) {
            std::map<int, std::vector<Excess>> by_group;  // of channels
            for (const Excess& e : excesses[sz(p)]) {
                if (e.column / group_columns == group) by_group[e.channel / kGroup].push_back(e);
            }
            std::vector<std::int8_t> codes;  // [extra group][column][kGroup]
            const std::size_t size = sz(group_columns * kGroup);
            const std::size_t first_run = step.excess_runs.size();
            for (auto& [channels, left] : by_group) {
                while (!left.empty()) {
                    step.excess_runs.push_back({channels * kGroup, 1});
                    codes.resize(codes.size() + size);
                    std::int8_t* extra = codes.data() + codes.size() - size;
                    std::vector<Excess> again;
                    for (Excess e : left) {
                        const int part = std::clamp(e.value, -kWinogradMaxWeight, kWinogradMaxWeight);
                        extra[(e.column - first) * kGroup + e.channel % kGroup] = static_cast<std::int8_t>(part);
                        if ((e.value -= part) != 0) again.push_back(e);
                    }
                    left = std::move(again);
                }
            }
            const int count = static_cast<int>(step.excess_runs.size() - first_run);
            const std::size_t block_bytes = count == 0 ? 0 : sz(count * dot.group_bytes) + kBlockTail;
            step.excess.push_back({count, nullptr, nullptr, block_bytes});
            starts.push_back(first_run);
            starts.push_back(weights.size());
            std::vector<std::int8_t> row(sz(kBlock * count * kGroup) + kOverrun);
            for (int b = 0; b < blocks && count > 0; ++b) {
                for (int c = 0; c < kBlock; ++c) {
                    for (int e = 0; e < count; ++e) {
                        std::memcpy(row.data() + (c * count + e) * kGroup,
                                    codes.data() + sz(e) * size + (b * kBlock + c) * kGroup, kGroup);
                    }
                }
                weights.resize(weights.size() + block_bytes);
                dot.pack(row.data(), sz(count * kGroup), count, weights.data() + weights.size() - block_bytes);
            }
        }
    }
    step.excess_weights = AlignedBytes(weights.size());
    std::copy(weights.begin(), weights.end(), step.excess_weights.data());
    for (std::size_t i = 0; i < step.excess.size(); ++i) {
        step.excess[i].runs = step.excess_runs.data() + starts[2 * i];
        step.excess[i].w = step.excess_weights.data() + starts[2 * i + 1];
    }
}

bool Model::prepare_winograd(Step& step, const ConvSpec& spec, const std::int8_t* q8) {
    const Buffer& input = buffers_[sz(spec.input)];
    const WinogradForm& form = *step.form;
    const DotPath& dot = *step.dot;
    const int positions = form.positions(), tile_pixels = form.n * form.m;
    // What a sum may be at most, in sums of positive or of negative weights.
    const double most = std::ldexp(1.0, 31 - form.twos()) / spec.act_max;
    const bool bounded = 9.0 * step.in_channels * (1 << (spec.weight_bits - 1)) < most;
    int largest = 0;
    for (int p = 0; p < positions; ++p) {
        const int shift = winograd_shift(form, p, spec.act_max);
        step.shifts[p] = static_cast<std::uint8_t>(shift);
        largest = std::max(largest, shift + winograd_reach(form, p, spec.act_max));
    }
    const int channels = input.pixel_bytes;
    const int blocks = round_up(step.channels, kBlock) / kBlock;
    const int k_groups = channels * form.operand_bytes / kGroup;
    const std::size_t block_bytes = sz(k_groups) * sz(dot.group_bytes) + kBlockTail;
    step.by_columns = winograd_columns(form, *step.transforms, dot, k_groups);
    AlignedBytes packed(sz(blocks * positions) * block_bytes);
    WindowRows rows(isa_, q8, step.channels, step.in_channels, 9, channels, spec.weight_bits);
    std::vector<std::int8_t> codes(rows.row_bytes() + kOverrun);
    const std::size_t row_bytes = sz(positions * form.operand_bytes) * sz(channels);
    std::vector<std::int8_t> transformed(sz(kBlock) * row_bytes + kOverrun);
    std::vector<std::int32_t> sums(sz(blocks * kBlock * positions)), offset(sz(blocks * kBlock));
    std::vector<std::vector<Excess>> excesses(sz(positions));
    std::size_t excess_count = 0;
    int weight_max = 1;
    for (int b = 0; b < blocks; ++b) {
        for (int r = 0; r < kBlock; ++r) {
            const int o = b * kBlock + r;
            rows.fill(o, 1, codes.data());
            std::int8_t* row = transformed.data() + sz(r) * row_bytes;
            const int extreme = step.transforms->weights(codes.data(), channels, row);
            weight_max = std::max(weight_max, std::min(extreme, kWinogradMaxWeight));
            std::int32_t tap_sums[9];
            for (int t = 0; t < 9; ++t) tap_sums[t] = sum_of(codes.data() + t * channels, sz(channels));
            if (!bounded && largest_sum(codes.data(), sz(9 * channels)) >= most) return false;
            if (spec.zero != 0) offset[sz(o)] = -spec.zero * std::accumulate(tap_sums, tap_sums + 9, 0);
            for (int p = 0; p < positions; ++p) sums[sz(o * positions + p)] = winograd_weight(form, p, tap_sums, 1);
            if (form.operand_bytes == 2 || extreme <= kWinogradMaxWeight) continue;
            for (int p = 0; p < positions; ++p) {
                const std::int8_t* weights = row + p * channels;
                bool any = false;  // hardly ever
                for (int c = 0; c < channels; ++c)
                    any |= weights[c] == kWinogradMaxWeight || weights[c] == -kWinogradMaxWeight;
                if (!any) continue;
                for (int c = 0; c < channels; ++c) {
                    if (std::abs(weights[c]) != kWinogradMaxWeight) continue;
                    const int excess = winograd_weight(form, p, codes.data() + c, channels) - weights[c];
                    if (excess == 0) continue;
                    excesses[sz(p)].push_back({o, c, excess});
                    ++excess_count;
                }
            }
        }
        if (excess_count * kExcessShare > sz(step.channels) * row_bytes) return false;  // not worth it
        if (step.by_columns != nullptr) {
            step.by_columns->pack(transformed.data(), row_bytes, k_groups,
                                  packed.data() + sz(b * positions) * block_bytes);
            continue;
        }
        for (int s = 0; s < form.sums(); ++s) {
            const int p = form.first_position(s), together = form.first_position(s + 1) - p;
            dot.pack(transformed.data() + sz(p * channels * form.operand_bytes), row_bytes, together * k_groups,
                     packed.data() + sz(b * positions + p) * block_bytes);
        }
    }
    std::copy(offset.begin(), offset.begin() + step.channels, step.offset.begin());
    step.packed = std::move(packed);
    step.block_bytes = block_bytes;
    step.k_groups = k_groups;
    set_dot(step, dot, largest, weight_max);
    step.tile_rows = winograd_rows(form, step.by_columns, dot);
    const int group_columns = step.dot->max_blocks * kBlock;
    const int groups = round_up(step.channels, group_columns) / group_columns;
    step.correction.assign(sz(groups * tile_pixels * group_columns), 0);
    for (int o = 0; o < step.channels; ++o) {
        for (int i = 0; i < tile_pixels; ++i) {
            step.correction[sz((o / group_columns * tile_pixels + i) * group_columns + o % group_columns)] =
                winograd_correction(form, i, sums.data() + sz(o * positions), step.shifts);
        }
    }
    pack_excess(step, excesses, group_columns);
    step.detail = std::string(form.name) + " " + step.dot->name;
    resident_bytes_ += step.packed.size() + step.correction.size() * sizeof(std::int32_t) + step.excess_weights.size();

    step.strip_tiles = winograd_strip(form, channels, step.tile_rows);
    WinogradScratch& scratch = step.scratch;
    scratch.patch_bytes = sz(round_up(channels * form.operand_bytes, 64));
    scratch.position_bytes = scratch.patch_bytes * sz(step.strip_tiles) + kPositionGap;
    for (int s = 0; s < form.sums(); ++s) {
        for (int p = form.first_position(s); p < form.first_position(s + 1); ++p)
            step.runs.push_back({(p - form.first_position(s)) * static_cast<int>(scratch.position_bytes), k_groups});
    }
    scratch.sums = sz(positions) * scratch.position_bytes + kSlackBytes;
    scratch.acc =
        scratch.sums + sizeof(std::int32_t) * sz(sum_positions(form, step.by_columns) * step.tile_rows * group_columns);
    scratch_bytes_ =
        std::max(scratch_bytes_, scratch.acc + sizeof(std::int32_t) * sz(form.n * kMaxRows * group_columns));
    return true;
}

void Model::prepare_depthwise(Step& step, const ConvSpec& spec, const std::int8_t* q8) {
    const Buffer& input = buffers_[sz(spec.input)];
    const Geometry& g = spec.geometry;
    const int taps = g.kernel * g.kernel;
    const int padded = round_up(step.channels, kBlock);
    std::vector<std::int8_t> codes(sz(step.channels) * sz(taps));
    isa_->derive(q8, codes.size(), spec.weight_bits, codes.data());
    std::vector<std::int8_t> by_tap(sz(padded) * sz(taps));
    for (int c = 0; c < step.channels; ++c) {
        for (int t = 0; t < taps; ++t) by_tap[sz(t * padded + c)] = codes[sz(c * taps + t)];
        step.offset[sz(c)] = -spec.zero * sum_of(codes.data() + sz(c * taps), sz(taps));
    }
    step.packed = AlignedBytes(isa_->depthwise.packed_bytes(taps, padded));
    isa_->depthwise.pack(by_tap.data(), taps, padded, step.packed.data());
    for (int ky = 0; ky < g.kernel; ++ky) {
        for (int kx = 0; kx < g.kernel; ++kx) {
            step.tap_offsets.push_back(static_cast<std::int32_t>(sz(ky * g.dilation) * input.row_bytes()) +
                                       kx * g.dilation * input.pixel_bytes);
        }
    }
    step.detail = "depthwise";
    resident_bytes_ += step.packed.size();
    scratch_bytes_ = std::max(scratch_bytes_, sizeof(std::int32_t) * kDepthwisePixels * sz(padded));
}

void Model::add_window_sum(const std::string& name, int input, int kernel, int stride, std::int32_t zero,
                           const Constants& constants, const std::vector<Output>& outputs, bool result) {
    Undo undo(*this);
    const Buffer& b = checked_buffer(input);
    check(
        kernel >= 0 && kernel <= 255 && stride >= 1 && fits(b, kernel) && constants.multiplier.size() == sz(b.channels),
        "a window's sizes are out of range");
    Step& step = push(Step::Kind::sum, name, input);
    step.channels = step.result_channels = b.channels;
    step.geometry.kernel = kernel;
    step.geometry.stride = stride;
    step.window_height = kernel > 0 ? kernel : b.height;
    step.window_width = kernel > 0 ? kernel : b.width;
    step.height = (b.top + b.height + b.bottom - step.window_height) / stride + 1;
    step.width = (b.left + b.width + b.right - step.window_width) / stride + 1;
    step.outputs = outputs;
    step.result = result;
    set_constants(step, constants, {false, INFINITY}, 255.0 * step.window_height * step.window_width);
    std::fill(step.offset.begin(), step.offset.end(), -zero * step.window_height * step.window_width);
    step.detail = "sum";
    check_step(step);
    undo.keep();
    scratch_bytes_ = std::max(scratch_bytes_, 2 * sizeof(std::int32_t) * sz(round_up(step.channels, kLutColumnsMax)));
    set_result(step);
}

void Model::add_bilinear(const std::string& name, int input, const std::vector<Interpolation>& rows,
                         const std::vector<Interpolation>& columns, std::int32_t zero, const Constants& constants,
                         const std::vector<Output>& outputs, bool result) {
    Undo undo(*this);
    const Buffer& source = checked_buffer(input);
    check(constants.multiplier.size() == sz(source.channels), "a multiplier for each channel is needed");
    const auto inside = [](const std::vector<Interpolation>& axis, int size) {
        return std::all_of(axis.begin(), axis.end(), [size](const Interpolation& i) {
            return i.first >= 0 && i.second >= 0 && i.first < size && i.second < size;
        });
    };
    check(inside(rows, source.height) && inside(columns, source.width), "a resize reads outside its input");
    Step& step = push(Step::Kind::bilinear, name, input);
    step.channels = step.result_channels = buffers_[sz(input)].channels;
    step.height = static_cast<int>(rows.size());
    step.width = static_cast<int>(columns.size());
    step.rows = rows;
    step.columns = columns;
    step.outputs = outputs;
    step.result = result;
    set_constants(step, constants, {false, INFINITY}, 255.0 * kInterpolationOne * kInterpolationOne);
    std::fill(step.offset.begin(), step.offset.end(), -zero * kInterpolationOne * kInterpolationOne);
    step.detail = "bilinear";
    check_step(step);
    undo.keep();
    scratch_bytes_ = std::max(scratch_bytes_, sizeof(std::int32_t) * sz(round_up(step.channels, kLutColumnsMax)));
    set_result(step);
}

void Model::add_maximum(const std::string& name, int input, int output, int channel, int kernel, int stride) {
    Undo undo(*this);
    const Buffer& b = checked_buffer(input);
    check(kernel >= 1 && kernel <= 255 && stride >= 1 && fits(b, kernel), "a window's sizes are out of range");
    Step& step = push(Step::Kind::maximum, name, input);
    step.channels = b.channels;
    step.geometry.kernel = kernel;
    step.geometry.stride = stride;
    step.height = (b.top + b.height + b.bottom - kernel) / stride + 1;
    step.width = (b.left + b.width + b.right - kernel) / stride + 1;
    step.outputs.push_back({output, channel, {}});
    step.detail = "maximum";
    check_step(step);
    undo.keep();
    max_window_ = std::max(max_window_, sz(kernel) * sz(kernel));
}

void Model::add_copy(const std::string& name, int input, int output, int channel, const std::vector<int>& source_y,
                     const std::vector<int>& source_x, int pad_channels, std::uint8_t pad_byte) {
    Undo undo(*this);
    const Buffer& source = checked_buffer(input);
    const auto inside = [](const std::vector<int>& axis, int size) {
        return std::all_of(axis.begin(), axis.end(), [size](int i) { return i >= 0 && i < size; });
    };
    check(inside(source_y, source.height) && inside(source_x, source.width) && pad_channels >= 0 &&
              pad_channels <= (1 << 16),
          "a copy reads outside its input");
    Step& step = push(Step::Kind::copy, name, input);
    step.channels = source.channels;
    step.height = static_cast<int>(source_y.size());
    step.width = static_cast<int>(source_x.size());
    step.source_y = source_y;
    step.source_x = source_x;
    step.pad_channels = pad_channels;
    step.pad_byte = pad_byte;
    step.outputs.push_back({output, channel, {}});
    step.detail = "copy";
    check_step(step);
    undo.keep();
}

void Model::finish() {
    check(!finished_, "the model is finished");
    check(image_height_ > 0 && result_channels_ > 0, "a model needs an image and a result");
    finished_ = true;
    for (Buffer& b : buffers_) b.row_step = 0;
    for (std::size_t s = 0; s < steps_.size(); ++s) {
        Step& step = steps_[s];
        const int index = static_cast<int>(s);
        const auto uses = [&](int b) {
            if (b < 0) return;
            if (buffers_[sz(b)].first_step < 0) buffers_[sz(b)].first_step = index;
            buffers_[sz(b)].last_step = index;
        };
        uses(step.input);
        uses(step.residual.buffer);
        if (step.input >= 0) {
            Buffer& input = buffers_[sz(step.input)];
            input.row_step = std::gcd(input.row_step, row_step(step, input));
        }
        if (step.residual.buffer >= 0) buffers_[sz(step.residual.buffer)].row_step = 1;
        for (const Output& output : step.outputs) {
            if (buffers_[sz(output.buffer)].first_step < 0) step.prefill.push_back(output.buffer);
            uses(output.buffer);
        }
        resident_bytes_ += (step.multiplier.size() + step.bias.size() + step.quick.size()) * sizeof(float) +
                           step.offset.size() * sizeof(std::int32_t);
    }
    // First fit, largest first: buffers that live at the same time get separate places.
    std::vector<Buffer*> order;
    for (Buffer& b : buffers_) order.push_back(&b);
    std::stable_sort(order.begin(), order.end(),
                     [](const Buffer* a, const Buffer* b) { return a->image_bytes > b->image_bytes; });
    std::vector<Buffer*> placed;
    for (Buffer* b : order) {
        std::vector<const Buffer*> neighbours;
        for (const Buffer* other : placed) {
            if (other->first_step <= b->last_step && b->first_step <= other->last_step) neighbours.push_back(other);
        }
        std::sort(neighbours.begin(), neighbours.end(),
                  [](const Buffer* a, const Buffer* c) { return a->offset < c->offset; });
        std::size_t place = 0;
        for (const Buffer* other : neighbours) {
            if (place + b->image_bytes <= other->offset) break;
            place = std::max(place, other->offset + other->image_bytes);
        }
        b->offset = place;
        arena_bytes_ = std::max(arena_bytes_, place + b->image_bytes);
        placed.push_back(b);
    }
}

}  // namespace bitgear
