// Building a model: geometry, the choice of a path for each layer, derivation and packing of weights, the arena.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "prepare.h"
#include "quantizer.h"

namespace bitgear {
namespace {

constexpr double kFarWeightBytes = 1 << 20;                // what a core's second cache does not keep
constexpr double kAlike = 1.0 / 16;                        // times of layers that differ by less count as equal
constexpr double kWaiting = 1.0 / 3;                       // of the time that bringing weights takes, about
constexpr int kManyPixels = 128;                           // for which looking at weights pays
constexpr std::size_t kMostMemory = std::size_t{1} << 31;  // bytes that a thread works in

// Whether windows of a convolution are read from woven rows, where they have no padding: of the picture, that is.
bool weaves(const Geometry& g, int in_channels) {
    return g.groups == 1 && g.dilation == 1 && g.kernel > 1 && in_channels < kGroup;
}

// Whether a row of a window's taps is one stretch of bytes.
bool contiguous(const Geometry& g) { return g.groups == 1 && g.dilation == 1; }

// Groups of packed weights, for a window.
int window_groups(const Geometry& g, int in_channels, const DotPath& dot) {
    const int taps = g.kernel * g.kernel;
    const auto filled = [&](int bytes) { return round_up(round_up(bytes, kGroup) / kGroup, dot.run_groups); };
    if (weaves(g, in_channels)) return filled(taps * in_channels);
    return contiguous(g) ? g.kernel * filled(g.kernel * round_up(in_channels, kGroup)) : taps * filled(in_channels);
}

// Whether a window lies inside a buffer and its borders at least once.
bool fits(const Buffer& b, int extent) {
    return extent <= b.top + b.height + b.bottom - b.spare_bottom &&
           extent <= b.left + b.width + b.right - b.spare_right;
}

bool countable(int height, int width) { return std::int64_t{height} * width <= kMostPixels; }

// What the numbers of the rows that a step reads of its input's picture are multiples of.
int row_step(const Step& step, const Buffer& input) {
    if (step.kind == Step::Kind::conv && step.method == Method::dot && step.geometry.kernel == 1 && input.top == 0)
        return step.geometry.stride;
    if (step.kind != Step::Kind::copy) return 1;
    return std::accumulate(step.source_y.begin(), step.source_y.end(), 0, std::gcd<int, int>);
}

// Packs a block's codes run by run, each filled up with zeros.
void pack_runs(const DotPath& dot, const std::vector<Run>& runs, const std::int8_t* codes, std::size_t row_bytes,
               std::uint8_t* packed) {
    for (const Run& run : runs) {
        const std::size_t bytes = sz(round_up(run.groups, dot.run_groups)) * sz(dot.group_bytes);
        if (run.groups % dot.run_groups != 0) std::memset(packed, 0, bytes);
        dot.pack(codes, row_bytes, run.groups, packed);
        codes += run.groups * kGroup;
        packed += bytes;
    }
}

// `row_places`: of those that a path reads stretches of, how many lie between a pixel and the one below it.
Tiles tiles_of(const Step& step, int row_places) {
    const DotPath& dot = *step.dot;
    const int pixels = step.conv_height * step.conv_width;
    if (dot.places == 0) return {pixels, ceil_div(pixels, dot.max_rows), {}};
    std::vector<int> starts{0};
    const auto place = [&](int pixel) {
        return std::int64_t{pixel / step.conv_width} * row_places + pixel % step.conv_width;
    };
    for (int p = 0; p < pixels;) {
        for (int stretch = 0; stretch < dot.max_rows / dot.places && p < pixels; ++stretch) {
            for (const std::int64_t first = place(p); p < pixels && place(p) < first + dot.places;) ++p;
        }
        starts.push_back(p);
    }
    starts.shrink_to_fit();
    const int count = static_cast<int>(starts.size()) - 1;
    return {pixels, count, std::move(starts)};
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
    check(countable(step.height, step.width), "a value has more pixels than the engine counts");
    check(step.outputs.size() <= sz(kMaxOutputs), "a value has too many readers");
    for (const Output& output : step.outputs) {
        const Buffer& b = checked_buffer(output.buffer);
        check(b.height == step.height && b.width == step.width && output.channel >= 0 && output.channel <= b.channels &&
                  step.channels + 2 * step.pad_channels <= b.channels - output.channel,
              "a reader's buffer has another shape than the value");
        const Quantizer& q = output.quantizer;
        check(q.zero >= 0 && q.zero <= 255 && q.low >= -q.zero && q.high <= 255 - q.zero,
              "a reader's codes do not fit a byte");
    }
    if (step.residual.buffer >= 0) {
        const Buffer& b = checked_buffer(step.residual.buffer);
        check(b.height == step.height && b.width == step.width && step.channel + step.channels <= b.channels,
              "the residual has another shape than the value");
        const std::int32_t zero = step.residual.zero;
        check(zero >= 0 && zero <= 255 && (zero & (zero - 1)) == 0, "a residual's zero is 0 or a power of two");
    }
}

int Model::add_buffer(int height, int width, int channels, int top, int left, int bottom, int right, int spare_bottom,
                      int spare_right, std::uint8_t fill) {
    const auto side = [](int n) { return n >= 0 && n <= kMaxSide; };
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
                static_cast<int>(padded), step.residual.buffer >= 0 ? step.residual.scale : 0.0f, step.residual.zero,
                largest_sum, quick, quick + padded);
        q.inverts = isa_->inverts != nullptr && isa_->inverts(q);
        quick += 2 * padded;
    }
}

void Model::set_result(const Step& step) {
    if (!step.result) return;
    check(result_channels_ == 0, "a model has one result");
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
    check(g.kernel >= 1 && g.kernel <= kMaxWindow && g.stride >= 1 && g.dilation >= 1 && g.dilation <= kMaxWindow &&
              g.groups >= 1 && spec.channels >= 1,
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
    check(std::int64_t{in_channels} * g.kernel * g.kernel <= kMaxTerms,
          "a convolution sums more terms than 32 bits hold");
    check(offsets_fit(g, input.row_bytes(), sz(input.pixel_bytes)),
          "a convolution's window spans more than 2 GiB of its input");
    for (int part = 0; part < parts; ++part) {
        Step& step = push(Step::Kind::conv, name, spec.input);
        const int extent = g.dilation * (g.kernel - 1) + 1;
        check(fits(input, extent), "a convolution's window is larger than its input");
        step.height = (input.top + input.height + input.bottom - input.spare_bottom - extent) / g.stride + 1;
        step.width = (input.left + input.width + input.right - input.spare_right - extent) / g.stride + 1;
        step.pooling = spec.pooling;
        step.conv_height = step.height;
        step.conv_width = step.width;
        check(countable(step.conv_height, step.conv_width), "a convolution has more pixels than the engine counts");
        if (spec.pooling.kernel > 0) {
            const Pooling& pool = spec.pooling;
            check(g.groups == 1 && spec.residual.buffer < 0 && pool.kernel <= kMaxPooled && pool.stride >= 1 &&
                      pool.stride <= kMaxPooledStride && pool.padding >= 0 && pool.padding < pool.kernel &&
                      pool.height >= 1 && pool.width >= 1 &&
                      pool.height <= (step.conv_height - 1 + pool.padding) / pool.stride + 1 &&
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
    }
    set_result(steps_.back());  // of all parts together
    undo.keep();
}

const DotRates& Model::rates_of(const DotPath& dot) const {
    return &dot == isa_->words ? rates_.words : rates_.dots[sz(static_cast<int>(&dot - isa_->dots))];
}

// A multiply-accumulate whose operands reach `act_max` and `weight_max`.
double Model::mac_ns(const DotPath& dot, int act_max, int weight_max) const {
    const DotRates& rates = rates_of(dot);
    return rates.mac + (dot.period == nullptr ? 0.0 : rates.widening / dot.period(act_max, weight_max));
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
    const double weights = double(columns) * window_groups(spec.geometry, step.in_channels, dot) * kGroup;
    const double pixels = double(step.conv_height) * step.conv_width;
    choice.weight_bytes = weights * dot.group_bytes / (kBlock * kGroup);
    choice.ns = product_ns(weights, pixels, std::ceil(pixels / dot.max_rows),
                           mac_ns(dot, choice.act_max, choice.weight_max), 1) +
                pixels * columns * rates_of(dot).finish;
    return choice;
}

// All ways that a layer allows, the fastest one first; those asked for before all others.
std::vector<Model::Choice> Model::choices(const Step& step, const ConvSpec& spec) const {
    const int weight_max = 1 << (spec.weight_bits - 1);
    std::vector<Choice> all;
    for (int i = 0; i < isa_->dot_count; ++i) {
        const DotPath& dot = isa_->dots[i];
        if (spec.path == dot.name && dot.exact(spec.act_max, weight_max)) return {dot_choice(step, spec, dot)};
    }
    const auto faster = [](const Choice& a, const Choice& b) { return a.ns < b.ns; };
    for (int i = 0; i < isa_->dot_count; ++i) {  // one of every set is always exact
        const DotPath& dot = isa_->dots[i];
        // What unpacking weights takes pays where they are read once: of few pixels.
        const bool pays = dot.group_bytes >= kBlock * kGroup || step.conv_height * step.conv_width <= dot.max_rows;
        if (pays && dot.exact(spec.act_max, weight_max)) all.push_back(dot_choice(step, spec, dot));
    }
    if (spec.geometry.groups > 1 || spec.pooling.kernel > 0) {
        std::stable_sort(all.begin(), all.end(), faster);
        return all;
    }
    const auto wanted = [&](const std::string& name) { return spec.path.empty() || spec.path == name; };
    for (int i = 0; i < isa_->lut_count; ++i) {
        const LutPath& lut = isa_->luts[i];
        if (wanted(lut.name) && lut_fits(step, spec, lut)) all.push_back(lut_choice(step, spec, lut));
    }
    if (isa_->pixel_lut != nullptr && wanted(isa_->pixel_lut->name) && pixel_lut_fits(step, spec))
        all.push_back(pixel_lut_choice(step, spec));
    for (const WinogradForm& form : kWinograd) {
        if (!wanted(form.name) || (spec.path.empty() && avoids_winograd()) || !winograd_fits(step, spec, form))
            continue;
        const auto add = [&](const DotPath& dot) {
            if (dot.exact(form.span() * spec.act_max, winograd_weight_bound(form, spec.weight_bits)))
                all.push_back(winograd_choice(step, spec, form, dot));
        };
        if (form.operand_bytes == 2) {
            add(*isa_->words);
        } else {
            std::for_each(isa_->dots, isa_->dots + isa_->dot_count, [&](const DotPath& dot) {
                if (dot.places == 0) add(dot);
            });
        }
    }
    std::stable_sort(all.begin(), all.end(), faster);
    if (!spec.path.empty()) {
        std::stable_partition(all.begin(), all.end(), [](const Choice& each) { return each.method != Method::dot; });
    } else {
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

bool Model::avoids_winograd() const {
    return std::any_of(isa_->dots, isa_->dots + isa_->dot_count, [](const DotPath& dot) { return dot.places > 0; });
}

// Behind a stretch's last window, what would be the next ones is read, too.
void Model::read_stretches(const DotPath& dot, std::size_t row_step) {
    overrun_bytes_ = std::max(overrun_bytes_, sz(dot.places) * row_step + sz(dot.run_groups * kGroup) + kSlackBytes);
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
    const int tap_channels = woven           ? step.in_channels
                             : contiguous(g) ? input.pixel_bytes
                                             : round_up(step.in_channels, kGroup);
    const int taps = g.kernel * g.kernel;
    step.k_groups = window_groups(g, step.in_channels, *step.dot);
    const auto add_run = [&](std::size_t offset, int groups) {
        add_runs(*step.dot, {static_cast<std::int32_t>(offset), groups}, step.runs);
    };
    if (woven) add_run(0, round_up(taps * step.in_channels, kGroup) / kGroup);
    for (int ky = 0; ky < g.kernel && !woven; ++ky) {
        const std::size_t row = sz(ky * g.dilation) * input.row_bytes() + sz(step.input_channel);
        if (contiguous(g)) {
            add_run(row, g.kernel * tap_channels / kGroup);
        } else {
            for (int kx = 0; kx < g.kernel; ++kx)
                add_run(row + sz(kx * g.dilation) * sz(input.pixel_bytes), tap_channels / kGroup);
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
        std::uint8_t* const block = step.packed.data() + sz(b) * step.block_bytes;
        if (step.dot->run_groups == 1) {
            step.dot->pack(codes.data(), rows.row_bytes(), step.k_groups, block);
        } else {
            pack_runs(*step.dot, step.runs, codes.data(), rows.row_bytes(), block);
        }
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
    if (spec.pooling.kernel == 0)  // woven rows have places of their own
        step.tiles = tiles_of(step, woven ? std::numeric_limits<int>::max() : input.row_pixels());
    if (step.conv_height * step.conv_width > 1)
        read_stretches(*step.dot, sz(g.stride) * sz(woven ? g.kernel * step.in_channels : input.pixel_bytes));
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
    resident_bytes_ += step.packed.size() + step.tiles.starts.size() * sizeof(int);
    scratch_bytes_ = std::max(scratch_bytes_, scratch);
}

void Model::prepare_depthwise(Step& step, const ConvSpec& spec, const std::int8_t* q8) {
    const Buffer& input = buffers_[sz(spec.input)];
    const Geometry& g = spec.geometry;
    const int taps = g.kernel * g.kernel;
    const int padded = round_up(step.channels, kBlock);
    check(std::int64_t{taps} * padded <= kMostPixels,
          "a depthwise convolution has more weights than the engine counts");
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
            step.tap_offsets.push_back(static_cast<std::int32_t>(sz(ky * g.dilation) * input.row_bytes() +
                                                                 sz(kx * g.dilation) * sz(input.pixel_bytes)));
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
    check(kernel >= 0 && kernel <= kMaxWindow && stride >= 1 && fits(b, kernel) &&
              constants.multiplier.size() == sz(b.channels),
          "a window's sizes are out of range");
    Step& step = push(Step::Kind::sum, name, input);
    step.channels = step.result_channels = b.channels;
    step.geometry.kernel = kernel;
    step.geometry.stride = stride;
    step.window_height = kernel > 0 ? kernel : b.height;
    step.window_width = kernel > 0 ? kernel : b.width;
    check(std::int64_t{step.window_height} * step.window_width <= kMaxSummed,
          "a window sums more pixels than 32 bits hold");
    step.height = (b.top + b.height + b.bottom - step.window_height) / stride + 1;
    step.width = (b.left + b.width + b.right - step.window_width) / stride + 1;
    step.outputs = outputs;
    step.result = result;
    check_step(step);
    set_constants(step, constants, {false, INFINITY}, 255.0 * step.window_height * step.window_width);
    std::fill(step.offset.begin(), step.offset.end(), -zero * step.window_height * step.window_width);
    step.detail = "sum";
    set_result(step);
    undo.keep();
    scratch_bytes_ = std::max(scratch_bytes_, 2 * sizeof(std::int32_t) * sz(round_up(step.channels, kLutColumnsMax)));
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
    check_step(step);
    set_constants(step, constants, {false, INFINITY}, 255.0 * kInterpolationOne * kInterpolationOne);
    std::fill(step.offset.begin(), step.offset.end(), -zero * kInterpolationOne * kInterpolationOne);
    step.detail = "bilinear";
    set_result(step);
    undo.keep();
    scratch_bytes_ = std::max(scratch_bytes_, sizeof(std::int32_t) * sz(round_up(step.channels, kLutColumnsMax)));
}

void Model::add_maximum(const std::string& name, int input, int output, int channel, int kernel, int stride) {
    Undo undo(*this);
    const Buffer& b = checked_buffer(input);
    check(kernel >= 1 && kernel <= kMaxWindow && stride >= 1 && fits(b, kernel), "a window's sizes are out of range");
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
              pad_channels <= kMaxSide,
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
                           step.offset.size() * sizeof(std::int32_t) + step.runs.size() * sizeof(Run);
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
    // Calls allocate what a thread works in, so a model that needs too much must not become one that runs.
    check(arena_bytes_ <= kMostMemory && scratch_bytes_ + 2 * overrun_bytes_ <= kMostMemory - arena_bytes_,
          "the codes that live at the same time, and what is computed beside them, take more than 2 GiB for a picture");
    finished_ = true;
}

}  // namespace bitgear
