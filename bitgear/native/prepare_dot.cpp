// Layers that are multiplied window by window, and depthwise ones: estimates, packed weights, and where windows lie.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "prepare.h"

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
Tiles tiles_of(const Layer& layer, const DotPath& dot, int row_places) {
    const int width = layer.width, pixels = layer.height * width;
    if (dot.places == 0) return {pixels, ceil_div(pixels, dot.max_rows), {}};
    std::vector<int> starts{0};
    const auto place = [&](int pixel) { return std::int64_t{pixel / width} * row_places + pixel % width; };
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

Choice dot_choice(const Layer& layer, const DotPath& dot) {
    const ConvSpec& spec = layer.spec;
    const int columns = round_up(layer.step.channels, kBlock);
    const double weights = double(columns) * window_groups(spec.geometry, layer.in_channels, dot) * kGroup;
    const double pixels = double(layer.height) * layer.width;
    const double mac = mac_ns(layer, dot, spec.act_max, 1 << (spec.weight_bits - 1));
    return {&dot,
            product_ns(layer, weights, pixels, std::ceil(pixels / dot.max_rows), mac, 1) +
                pixels * columns * dot_rates(layer, dot).finish,
            weights * dot.group_bytes / (kBlock * kGroup)};
}

Prepared prepare_dot(const Layer& layer, const DotPath& dot) {
    const ConvSpec& spec = layer.spec;
    const Step& step = layer.step;
    const Buffer& input = layer.input;
    const Geometry& g = spec.geometry;
    const Pooling& pool = spec.pooling;
    const bool woven = weaves(g, layer.in_channels);
    const int tap_channels = woven           ? layer.in_channels
                             : contiguous(g) ? input.pixel_bytes
                                             : round_up(layer.in_channels, kGroup);
    const int taps = g.kernel * g.kernel, pixels = layer.height * layer.width;
    const int k_groups = window_groups(g, layer.in_channels, dot);
    const int blocks = ceil_div(step.channels, kBlock);
    Prepared prepared;
    Product product;
    product.dot = &dot;
    product.period = period_of(dot, spec.act_max, 1 << (spec.weight_bits - 1));
    product.block_bytes = sz(k_groups) * sz(dot.group_bytes) + kBlockTail;
    product.packed = AlignedBytes(sz(blocks) * product.block_bytes);
    const auto add_run = [&](std::size_t offset, int groups) {
        add_runs(dot, {static_cast<std::int32_t>(offset), groups}, product.runs);
    };
    if (woven) add_run(0, round_up(taps * layer.in_channels, kGroup) / kGroup);
    for (int ky = 0; ky < g.kernel && !woven; ++ky) {
        const std::size_t row = sz(ky * g.dilation) * input.row_bytes() + sz(layer.input_channel);
        if (contiguous(g)) {
            add_run(row, g.kernel * tap_channels / kGroup);
        } else {
            for (int kx = 0; kx < g.kernel; ++kx)
                add_run(row + sz(kx * g.dilation) * sz(input.pixel_bytes), tap_channels / kGroup);
        }
    }
    WindowRows rows(layer, taps, tap_channels, woven ? g.kernel : 0);
    std::vector<std::int8_t> codes(sz(kBlock) * rows.row_bytes());
    // Few pixels gain less by quick quotients in registers than it takes to look at the weights.
    const bool unbounded = dot.run_quick != nullptr && pixels >= kManyPixels &&
                           std::any_of(step.outputs.begin(), step.outputs.end(),
                                       [](const Output& o) { return o.quantizer.quick && !o.quantizer.bounded; });
    std::int32_t largest = 0;  // sum of an output channel's weights of one sign
    prepared.offset.resize(sz(blocks * kBlock));
    for (int b = 0; b < blocks; ++b) {
        rows.fill(b * kBlock, kBlock, codes.data());
        std::uint8_t* const block = product.packed.data() + sz(b) * product.block_bytes;
        if (dot.run_groups == 1) {
            dot.pack(codes.data(), rows.row_bytes(), k_groups, block);
        } else {
            pack_runs(dot, product.runs, codes.data(), rows.row_bytes(), block);
        }
        for (int r = 0; unbounded && r < kBlock; ++r)
            largest = std::max(largest, largest_sum(codes.data() + sz(r) * rows.row_bytes(), rows.row_bytes()));
        if (spec.zero == 0) continue;
        for (int r = 0; r < kBlock; ++r) {
            prepared.offset[sz(b * kBlock + r)] =
                -spec.zero * sum_of(codes.data() + sz(r) * rows.row_bytes(), rows.row_bytes());
        }
    }
    // Sums of any weights might be too large for quick quotients; those of these weights hardly ever are.
    const double most_act = spec.zero == 0 ? spec.act_max : 2.0 * std::max(spec.zero, spec.act_max - spec.zero);
    if (unbounded) prepared.largest_sum = largest * most_act;
    // Behind a stretch's last window, what would be the next ones is read, too.
    if (pixels > 1) {
        const std::size_t row_step = sz(g.stride) * sz(woven ? g.kernel * layer.in_channels : input.pixel_bytes);
        prepared.overrun_bytes += sz(dot.places) * row_step + sz(dot.run_groups * kGroup);
    }
    prepared.detail = dot.name;
    prepared.resident_bytes = product.packed.size() + product.runs.size() * sizeof(Run);
    WindowPlaces windows{g.kernel, g.stride, layer.in_channels};
    const auto weave = [&](std::size_t start, int most_rows) {  // returns where something else may begin
        if (!woven) return start;
        windows.woven = start;
        windows.woven_rows = most_rows;
        windows.woven_pixels = (layer.width - 1) * g.stride + g.kernel;
        windows.woven_row_bytes = sz(windows.woven_pixels * g.kernel * layer.in_channels) + kSlackBytes;
        return start + sz(most_rows) * windows.woven_row_bytes;
    };
    if (pool.kernel > 0) {
        prepared.detail += ", pooled";
        const int columns = dot.max_blocks * kBlock;
        std::vector<std::int32_t> flip(sz(round_up(step.channels, columns)));
        for (int c = 0; c < step.channels; ++c) flip[sz(c)] = step.values.multiplier[sz(c)] < 0 ? -1 : 0;
        const int row_pixels = std::max(pool.padding + layer.width, (pool.width - 1) * pool.stride + pool.kernel);
        const std::size_t rings = flip.size() * sz(pool.kernel) * sz(row_pixels);
        prepared.scratch_bytes = weave(sizeof(std::int32_t) * (rings + sz(columns * kMaxRows)), pool.kernel);
        prepared.work =
            PooledWork{std::move(product), windows, pool, layer.height, layer.width, row_pixels, std::move(flip)};
    } else {
        // Woven rows have places of their own.
        Tiles tiles = tiles_of(layer, dot, woven ? std::numeric_limits<int>::max() : input.row_pixels());
        prepared.resident_bytes += tiles.starts.size() * sizeof(int);
        prepared.scratch_bytes = weave(sizeof(std::int32_t) * kMaxRows * kMaxBlocks * kBlock,
                                       1 + (dot.max_rows - 2 + layer.width) / layer.width);  // of a tile at most
        prepared.work = DotWork{std::move(product), windows, std::move(tiles)};
    }
    return prepared;
}

Prepared prepare_depthwise(const Layer& layer) {
    const Step& step = layer.step;
    const Buffer& input = layer.input;
    const Geometry& g = layer.spec.geometry;
    const DepthwisePath& path = layer.isa.depthwise;
    const int taps = g.kernel * g.kernel;
    const int padded = round_up(step.channels, kBlock);
    check(std::int64_t{taps} * padded <= kMostPixels,
          "a depthwise convolution has more weights than the engine counts");
    std::vector<std::int8_t> codes(sz(step.channels) * sz(taps));
    layer.isa.derive(layer.q8, codes.size(), layer.spec.weight_bits, codes.data());
    std::vector<std::int8_t> by_tap(sz(padded) * sz(taps));
    Prepared prepared;
    for (int c = 0; c < step.channels; ++c) {
        for (int t = 0; t < taps; ++t) by_tap[sz(t * padded + c)] = codes[sz(c * taps + t)];
        prepared.offset.push_back(-layer.spec.zero * sum_of(codes.data() + sz(c * taps), sz(taps)));
    }
    DepthwiseWork work{g, AlignedBytes(path.packed_bytes(taps, padded)), {}};
    path.pack(by_tap.data(), taps, padded, work.packed.data());
    for (int ky = 0; ky < g.kernel; ++ky) {
        for (int kx = 0; kx < g.kernel; ++kx) {
            work.tap_offsets.push_back(static_cast<std::int32_t>(sz(ky * g.dilation) * input.row_bytes() +
                                                                 sz(kx * g.dilation) * sz(input.pixel_bytes)));
        }
    }
    prepared.detail = "depthwise";
    prepared.resident_bytes = work.packed.size();
    prepared.scratch_bytes = sizeof(std::int32_t) * kDepthwisePixels * sz(padded);
    prepared.work = std::move(work);
    return prepared;
}

}  // namespace bitgear
