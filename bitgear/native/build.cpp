// Building a model: the geometry of its steps, their constants, and the arena.
#include <algorithm>
#include <cmath>
#include <iterator>
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
    const auto of_windows = [&](const WindowPlaces& windows) {
        return windows.kernel == 1 && input.top == 0 ? windows.stride : 1;
    };
    if (const auto* dot = std::get_if<DotWork>(&step.work)) return of_windows(dot->windows);
    if (const auto* pooled = std::get_if<PooledWork>(&step.work)) return of_windows(pooled->windows);
    if (const auto* copy = std::get_if<CopyWork>(&step.work))
        return std::accumulate(copy->source_y.begin(), copy->source_y.end(), 0, std::gcd<int, int>);
    return 1;
}

}  // namespace

void check(bool holds, const char* message) {
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
    const auto* copy = std::get_if<CopyWork>(&step.work);
    const int channels = step.channels + (copy != nullptr ? 2 * copy->pad_channels : 0);
    for (const Output& output : step.outputs) {
        const Buffer& b = checked_buffer(output.buffer);
        check(b.height == step.height && b.width == step.width && output.channel >= 0 && output.channel <= b.channels &&
                  channels <= b.channels - output.channel,
              "a reader's buffer has another shape than the value");
        const Quantizer& q = output.quantizer;
        check(q.zero >= 0 && q.zero <= 255 && q.low >= -q.zero && q.high <= 255 - q.zero,
              "a reader's codes do not fit a byte");
    }
    const Residual& residual = step.values.residual;
    if (residual.buffer >= 0) {
        const Buffer& b = checked_buffer(residual.buffer);
        check(b.height == step.height && b.width == step.width && step.channel + step.channels <= b.channels,
              "the residual has another shape than the value");
        check(residual.zero >= 0 && residual.zero <= 255 && (residual.zero & (residual.zero - 1)) == 0,
              "a residual's zero is 0 or a power of two");
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

// After the step's outputs and residual are known.
void Model::set_values(Step& step, const Constants& constants, const Activation& activation, double largest_sum,
                       std::int32_t offset) {
    const std::size_t padded = sz(round_up(step.channels, kLutColumnsMax));
    Values& values = step.values;
    values.multiplier = constants.multiplier;
    values.multiplier.resize(padded);
    values.bias = constants.bias;
    if (!values.bias.empty()) values.bias.resize(padded);
    values.offset.assign(padded, offset);
    values.floor = activation.relu ? 0.0f : -INFINITY;
    values.ceiling = activation.clip;
    values.quick.resize(2 * padded * step.outputs.size());
    float* quick = values.quick.data();
    for (Output& output : step.outputs) {
        Quantizer& q = output.quantizer;
        bound_quantizer(q, values.floor, values.ceiling);
        quicken(q, values.multiplier.data(), values.bias.empty() ? nullptr : values.bias.data(), step.channels,
                static_cast<int>(padded), values.residual.buffer >= 0 ? values.residual.scale : 0.0f,
                values.residual.zero, largest_sum, quick, quick + padded);
        q.inverts = isa_->inverts != nullptr && isa_->inverts(q);
        quick += 2 * padded;
    }
}

// Takes the finished steps of a node.
void Model::add(std::vector<Step> steps) {
    check(!steps.back().result || result_channels_ == 0, "a model has one result");
    steps_.insert(steps_.end(), std::make_move_iterator(steps.begin()), std::make_move_iterator(steps.end()));
    const Step& last = steps_.back();
    if (!last.result) return;
    result_height_ = last.height;
    result_width_ = last.width;
    result_channels_ = sz(last.result_channels);
}

void Model::add(Step step) {
    std::vector<Step> one;
    one.push_back(std::move(step));
    add(std::move(one));
}

void Model::add_image(int buffer) {
    const Buffer& b = checked_buffer(buffer);
    check(b.channels == 3, "the image has three channels");
    check(image_height_ == 0 || (image_height_ == b.height && image_width_ == b.width), "the image has one size");
    Step step;
    step.name = "image";
    step.height = b.height;
    step.width = b.width;
    step.channels = b.channels;
    step.outputs.push_back({buffer, 0, {}});
    check_step(step);
    add(std::move(step));
    image_height_ = b.height;
    image_width_ = b.width;
}

void Model::add_conv(const std::string& name, const ConvSpec& spec, const std::int8_t* q8, std::size_t q8_size) {
    const Buffer& input = checked_buffer(spec.input);
    const Geometry& g = spec.geometry;
    const Pooling& pool = spec.pooling;
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
    const double terms = double(in_channels) * g.kernel * g.kernel;  // of a sum
    check(terms <= kMaxTerms, "a convolution sums more terms than 32 bits hold");
    check(offsets_fit(g, input.row_bytes(), sz(input.pixel_bytes)),
          "a convolution's window spans more than 2 GiB of its input");
    const int extent = g.dilation * (g.kernel - 1) + 1;
    check(fits(input, extent), "a convolution's window is larger than its input");
    const int height = (input.top + input.height + input.bottom - input.spare_bottom - extent) / g.stride + 1;
    const int width = (input.left + input.width + input.right - input.spare_right - extent) / g.stride + 1;
    check(countable(height, width), "a convolution has more pixels than the engine counts");
    check(pool.kernel <= 0 ||
              (g.groups == 1 && spec.residual.buffer < 0 && pool.kernel <= kMaxPooled && pool.stride >= 1 &&
               pool.stride <= kMaxPooledStride && pool.padding >= 0 && pool.padding < pool.kernel && pool.height >= 1 &&
               pool.width >= 1 && pool.height <= (height - 1 + pool.padding) / pool.stride + 1 &&
               pool.width <= (width - 1 + pool.padding) / pool.stride + 1),
          "pooling does not fit its convolution");
    std::vector<Step> steps(sz(parts));
    for (int part = 0; part < parts; ++part) {
        Step& step = steps[sz(part)];
        step.name = name;
        step.input = spec.input;
        step.height = pool.kernel > 0 ? pool.height : height;
        step.width = pool.kernel > 0 ? pool.width : width;
        step.channels = channels;
        step.result_channels = spec.channels;
        step.channel = part * channels;
        step.values.residual = spec.residual;
        step.outputs = spec.outputs;
        for (Output& output : step.outputs) output.channel += step.channel;
        step.result = spec.result;
        check_step(step);
        const auto slice = [&](const std::vector<float>& all) {
            return all.empty() ? all
                               : std::vector<float>(all.begin() + step.channel, all.begin() + step.channel + channels);
        };
        set_values(step, {slice(spec.constants.multiplier), slice(spec.constants.bias)}, spec.activation,
                   terms * spec.act_max * (1 << (spec.weight_bits - 1)), 0);
        step.macs = double(height) * width * channels * terms;
        const std::int8_t* codes = q8 + sz(step.channel) * sz(in_channels) * sz(g.kernel * g.kernel);
        const int input_channel = depthwise ? 0 : part * in_channels;
        const Layer layer{*isa_, rates_, spec, step, input, codes, in_channels, input_channel, height, width};
        Prepared prepared = depthwise ? prepare_depthwise(layer) : prepare(layer);
        step.work = std::move(prepared.work);
        step.detail = std::move(prepared.detail);
        step.resident_bytes = prepared.resident_bytes;
        step.scratch_bytes = prepared.scratch_bytes;
        step.overrun_bytes = prepared.overrun_bytes;
        std::copy(prepared.offset.begin(), prepared.offset.end(), step.values.offset.begin());
        if (prepared.largest_sum) {
            for (Output& output : step.outputs) bound_sums(output.quantizer, *prepared.largest_sum);
        }
    }
    add(std::move(steps));
}

void Model::add_window_sum(const std::string& name, int input, int kernel, int stride, std::int32_t zero,
                           const Constants& constants, const std::vector<Output>& outputs, bool result) {
    const Buffer& b = checked_buffer(input);
    check(kernel >= 0 && kernel <= kMaxWindow && stride >= 1 && fits(b, kernel) &&
              constants.multiplier.size() == sz(b.channels),
          "a window's sizes are out of range");
    const SumWork window{kernel > 0 ? kernel : b.height, kernel > 0 ? kernel : b.width, stride};
    check(std::int64_t{window.height} * window.width <= kMaxSummed, "a window sums more pixels than 32 bits hold");
    Step step;
    step.name = name;
    step.detail = "sum";
    step.input = input;
    step.height = (b.top + b.height + b.bottom - window.height) / stride + 1;
    step.width = (b.left + b.width + b.right - window.width) / stride + 1;
    step.channels = step.result_channels = b.channels;
    step.outputs = outputs;
    step.result = result;
    step.work = window;
    step.scratch_bytes = 2 * sizeof(std::int32_t) * sz(round_up(step.channels, kLutColumnsMax));
    check_step(step);
    set_values(step, constants, {false, INFINITY}, 255.0 * window.height * window.width,
               -zero * window.height * window.width);
    add(std::move(step));
}

void Model::add_bilinear(const std::string& name, int input, const std::vector<Interpolation>& rows,
                         const std::vector<Interpolation>& columns, std::int32_t zero, const Constants& constants,
                         const std::vector<Output>& outputs, bool result) {
    const Buffer& source = checked_buffer(input);
    check(constants.multiplier.size() == sz(source.channels), "a multiplier for each channel is needed");
    const auto inside = [](const std::vector<Interpolation>& axis, int size) {
        return std::all_of(axis.begin(), axis.end(), [size](const Interpolation& i) {
            return i.first >= 0 && i.second >= 0 && i.first < size && i.second < size;
        });
    };
    check(inside(rows, source.height) && inside(columns, source.width), "a resize reads outside its input");
    Step step;
    step.name = name;
    step.detail = "bilinear";
    step.input = input;
    step.height = static_cast<int>(rows.size());
    step.width = static_cast<int>(columns.size());
    step.channels = step.result_channels = source.channels;
    step.outputs = outputs;
    step.result = result;
    step.work = BilinearWork{rows, columns};
    step.scratch_bytes = sizeof(std::int32_t) * sz(round_up(step.channels, kLutColumnsMax));
    check_step(step);
    set_values(step, constants, {false, INFINITY}, 255.0 * kInterpolationOne * kInterpolationOne,
               -zero * kInterpolationOne * kInterpolationOne);
    add(std::move(step));
}

void Model::add_maximum(const std::string& name, int input, int output, int channel, int kernel, int stride) {
    const Buffer& b = checked_buffer(input);
    check(kernel >= 1 && kernel <= kMaxWindow && stride >= 1 && fits(b, kernel), "a window's sizes are out of range");
    Step step;
    step.name = name;
    step.detail = "maximum";
    step.input = input;
    step.height = (b.top + b.height + b.bottom - kernel) / stride + 1;
    step.width = (b.left + b.width + b.right - kernel) / stride + 1;
    step.channels = b.channels;
    step.outputs.push_back({output, channel, {}});
    step.work = MaximumWork{kernel, stride};
    step.scratch_bytes = sizeof(const std::uint8_t*) * sz(kernel * kernel);
    check_step(step);
    add(std::move(step));
}

void Model::add_copy(const std::string& name, int input, int output, int channel, const std::vector<int>& source_y,
                     const std::vector<int>& source_x, int pad_channels, std::uint8_t pad_byte) {
    const Buffer& source = checked_buffer(input);
    const auto inside = [](const std::vector<int>& axis, int size) {
        return std::all_of(axis.begin(), axis.end(), [size](int i) { return i >= 0 && i < size; });
    };
    check(inside(source_y, source.height) && inside(source_x, source.width) && pad_channels >= 0 &&
              pad_channels <= kMaxSide,
          "a copy reads outside its input");
    Step step;
    step.name = name;
    step.detail = "copy";
    step.input = input;
    step.height = static_cast<int>(source_y.size());
    step.width = static_cast<int>(source_x.size());
    step.channels = source.channels;
    step.outputs.push_back({output, channel, {}});
    step.work = CopyWork{source_y, source_x, pad_channels, pad_byte};
    check_step(step);
    add(std::move(step));
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
        uses(step.values.residual.buffer);
        if (step.input >= 0) {
            Buffer& input = buffers_[sz(step.input)];
            input.row_step = std::gcd(input.row_step, row_step(step, input));
        }
        if (step.values.residual.buffer >= 0) buffers_[sz(step.values.residual.buffer)].row_step = 1;
        for (const Output& output : step.outputs) {
            if (buffers_[sz(output.buffer)].first_step < 0) step.prefill.push_back(output.buffer);
            uses(output.buffer);
        }
        const Values& values = step.values;
        resident_bytes_ += step.resident_bytes +
                           (values.multiplier.size() + values.bias.size() + values.quick.size()) * sizeof(float) +
                           values.offset.size() * sizeof(std::int32_t);
        scratch_bytes_ = std::max(scratch_bytes_, step.scratch_bytes);
        overrun_bytes_ = std::max(overrun_bytes_, step.overrun_bytes);
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
