// Building a model: the geometry of its steps, their constants, and the arena.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "prepare.h"
#include "quantizer.h"

namespace bitgear {
namespace {

constexpr std::size_t kMostMemory = std::size_t{1} << 31;  // bytes that a thread works in

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
