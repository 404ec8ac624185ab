// Layers that are multiplied window by window, and depthwise ones: estimates, packed weights, and where windows lie.
#include <algorithm>
#include <cmath>
#include <limits>

#include "prepare.h"
#include "quantizer.h"

namespace bitgear {
namespace {

constexpr int kManyPixels = 128;  // for which looking at weights pays

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

// Behind a stretch's last window, what would be the next ones is read, too.
void Model::read_stretches(const DotPath& dot, std::size_t row_step) {
    overrun_bytes_ = std::max(overrun_bytes_, sz(dot.places) * row_step + sz(dot.run_groups * kGroup) + kSlackBytes);
}

void Model::set_dot(Step& step, const DotPath& dot, int act_max, int weight_max) const {
    step.dot = &dot;
    step.period = dot.period != nullptr ? dot.period(act_max, weight_max) : 0;
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

}  // namespace bitgear
