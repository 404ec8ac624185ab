// What the steps of a pass have in common, whichever kind they are. For run_*.cpp and model.cpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "integers.h"
#include "model.h"

namespace bitgear {

// Part `index` of `count` of 0..n-1.
struct Range {
    int begin, end;
};

inline Range share(int n, int index, int count) {
    return {static_cast<int>(static_cast<std::int64_t>(n) * index / count),
            static_cast<int>(static_cast<std::int64_t>(n) * (index + 1) / count)};
}

// How busy `count` threads are with n equal pieces, 0..1.
inline double balance(int n, int count) {
    return n == 0 ? 0.0 : static_cast<double>(n) / (static_cast<double>(ceil_div(n, count)) * count);
}

// Threads share the columns of a layer rather than its pixels where that keeps them busier, or as busy with fewer
// weights each.
inline bool share_columns(int pixel_pieces, int column_pieces, std::size_t weight_bytes, int count,
                          std::size_t few_bytes = 256 * 1024) {
    if (count == 1) return false;
    const double by_pixels = balance(pixel_pieces, count), by_columns = balance(column_pieces, count);
    return by_columns > by_pixels || (by_columns == by_pixels && weight_bytes > few_bytes);
}

constexpr std::size_t kCachedBytes = 192 * 1024;  // weights that stay in a core's cache beside all else

// Which columns go over the tiles at a time. Few weights stay in the cache while all go over each tile; of many, each
// group goes over all tiles.
class Passes {
public:
    Passes(const Range& groups, std::size_t group_bytes)
        : groups_(groups), together_(sz(groups.end - groups.begin) * group_bytes <= kCachedBytes) {}
    int count() const { return together_ ? 1 : groups_.end - groups_.begin; }
    Range groups(int pass) const { return together_ ? groups_ : Range{groups_.begin + pass, groups_.begin + pass + 1}; }

private:
    Range groups_;
    bool together_;
};

// Pixels are numbered [row][column].
struct Position {
    int y, x;
};

inline Position position(int index, int width) { return {index / width, index % width}; }

inline void advance(Position& p, int width) {
    if (++p.x < width) return;
    p.x = 0;
    ++p.y;
}

constexpr int kManyAddresses = 24;  // worth a call

// Pixels of a tile, as stretches of rows.
struct Pixels {
    struct Stretch {
        Position first;
        int count;
    };
    int rows = 0;
    int stretches = 0;
    Stretch list[kMaxRows];

    void add(const Position& first, int count) {
        list[stretches++] = {first, count};
        rows += count;
    }

    // Adds the next `count` pixels from `p` on, which is moved behind them.
    void add_following(Position& p, int count, int width) {
        while (count > 0) {
            const int n = std::min(count, width - p.x);
            add(p, n);
            count -= n;
            p.x += n;
            if (p.x < width) continue;
            p.x = 0;
            ++p.y;
        }
    }

    // Whether any lies in a row whose number is a multiple of `step`, or, of 0, in the first one.
    bool in_rows(int step) const {
        return std::any_of(list, list + stretches,
                           [&](const Stretch& s) { return step == 0 ? s.first.y == 0 : s.first.y % step == 0; });
    }

    // An address for each pixel: that of a stretch's first, given its position, and `pixel_bytes` more for each next
    // one.
    template <class Item, class First>
    void addresses(const Isa& isa, std::size_t pixel_bytes, Item** out, First first) const {
        for (int s = 0; s < stretches; ++s) {
            const int n = list[s].count;
            Item* p = first(list[s].first);
            if (n >= kManyAddresses) {
                isa.addresses(p, pixel_bytes, n, out);
            } else {
                for (int i = 0; i < n; ++i)
                    out[i] = reinterpret_cast<Item*>(reinterpret_cast<std::uintptr_t>(p) + sz(i) * pixel_bytes);
            }
            out += n;
        }
    }
};

// One image on its way through the steps, as one thread of those that work on it sees it.
struct Model::Pass {
    const Model& model;
    std::uint8_t* arena;    // the image's buffers
    std::uint8_t* scratch;  // the thread's own
    const std::int8_t* q_image;
    float* values;  // the result, channels last

    std::uint8_t* start(const Buffer& b) const { return arena + b.offset; }
    const Buffer& buffer(int index) const { return model.buffers_[sz(index)]; }

    void fill_borders(const Step& step, int index, int count) const;
    void run(const Step& step, const ImageWork& work, int index, int count) const;
    void run(const Step& step, const DotWork& work, int index, int count) const;
    void run(const Step& step, const PooledWork& work, int index, int count) const;
    void run(const Step& step, const LutWork& work, int index, int count) const;
    void run(const Step& step, const PixelLutWork& work, int index, int count) const;
    void run(const Step& step, const WinogradWork& work, int index, int count) const;
    void run(const Step& step, const DepthwiseWork& work, int index, int count) const;
    void run(const Step& step, const SumWork& work, int index, int count) const;
    void run(const Step& step, const BilinearWork& work, int index, int count) const;
    void run(const Step& step, const MaximumWork& work, int index, int count) const;
    void run(const Step& step, const CopyWork& work, int index, int count) const;
    void index_pixels(const Step& step, const PixelLutWork& work, int first_row, int rows) const;
    void place_lanes(const Step& step, const PixelGrid& grid, const Position& corner, int rows, int first,
                     std::uint8_t* nowhere, PixelLutPlaces& places) const;
    void write_lanes(const Step& step, const PixelGrid& grid, const Position& corner, int rows, int first,
                     const PixelLutSums& sums, int column, std::int32_t* acc, Writer& writer) const;
    void run_depthwise_quick(const Step& step, const DepthwiseWork& work, const EpilogueTile& constants,
                             const Range& rows) const;
    void run_step(const Step& step, int index, int count) const;
    std::uint8_t* pixel(const Buffer& b, const Position& p) const { return start(b) + b.pixel(p.y, p.x); }
    // From a pixel of a buffer on, and a channel.
    Area<std::uint8_t> area_from(int index, const Position& p, int channel) const {
        const Buffer& b = buffer(index);
        return {pixel(b, p) + channel, b.row_bytes(), sz(b.pixel_bytes)};
    }
    WinogradPixels places(const Step& step, const Position& first, int rows, int pixels,
                          Area<std::uint8_t> (&to)[2]) const;
    // First byte of the window of an output pixel.
    const std::uint8_t* window(const Buffer& b, int stride, const Position& p) const {
        return start(b) + sz(p.y * stride) * b.row_bytes() + sz(p.x * stride) * sz(b.pixel_bytes);
    }
    float* result_pixel(const Step& step, const Position& p) const {
        return values + sz(p.y * step.width + p.x) * sz(step.result_channels) + step.channel;
    }
};

// Epilogue and stores of a step: what stays the same is looked up once.
class Model::Writer {
public:
    Writer(const Pass& pass, const Step& step) : pass_(pass), step_(step) {
        const Values& values = step.values;
        tile_.offset = values.offset.data();
        tile_.multiplier = values.multiplier.data();
        tile_.bias = values.bias.empty() ? nullptr : values.bias.data();
        tile_.floor = values.floor;
        tile_.ceiling = values.ceiling;
        if (values.residual.buffer >= 0) {
            tile_.residual = residual_;
            tile_.residual_scale = values.residual.scale;
            tile_.residual_zero = values.residual.zero;
        }
        tile_.outputs = static_cast<int>(step.outputs.size());
        for (int o = 0; o < tile_.outputs; ++o) {
            quantizers_[o] = &step.outputs[sz(o)].quantizer;
            inverts_ &= quantizers_[o]->inverts;
            leaves_out_ |= pass.buffer(step.outputs[sz(o)].buffer).row_step == 1;
        }
        tile_.quantizers = quantizers_;
        tile_.out = out_;
        if (step.result) tile_.floats = floats_;
        bounded_ =
            !step.result && tile_.outputs > 0 &&
            std::all_of(step.outputs.begin(), step.outputs.end(), [](const Output& o) { return o.quantizer.bounded; });
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    // Which pixels the next sums are of. Readers that read none of their rows are left out, unless no reader needs all.
    void at(const Pixels& pixels) {
        const Isa& isa = *pass_.model.isa_;
        tile_.rows = pixels.rows;
        if (tile_.residual != nullptr) {
            const Buffer& b = pass_.buffer(step_.values.residual.buffer);
            pixels.addresses(isa, sz(b.pixel_bytes), residual_,
                             [&](const Position& p) { return pass_.pixel(b, p) + step_.channel; });
        }
        tile_.outputs = 0;
        for (const Output& output : step_.outputs) {
            const Buffer& b = pass_.buffer(output.buffer);
            if (leaves_out_ && b.row_step != 1 && !pixels.in_rows(b.row_step)) continue;
            pixels.addresses(isa, sz(b.pixel_bytes), out_ + tile_.outputs * kMaxRows,
                             [&](const Position& p) { return pass_.pixel(b, p) + output.channel; });
            quantizers_[tile_.outputs++] = &output.quantizer;
        }
        if (step_.result) {
            pixels.addresses(isa, sz(step_.result_channels) * sizeof(float), floats_,
                             [&](const Position& p) { return pass_.result_pixel(step_, p); });
        }
    }

    // Whether kernels that quantise by themselves may be used, if they do so for up to `most` outputs.
    bool quick(std::size_t most = 2) const { return bounded_ && step_.outputs.size() <= most; }
    bool quick(const DotPath& dot) const {
        return dot.run_quick != nullptr && quick(sz(dot.quick_outputs)) && (inverts_ || !dot.inverts);
    }

    // For kernels that take a row more than there is: the last one a second time.
    void repeat_last() {
        const int rows = tile_.rows;
        if (tile_.residual != nullptr) residual_[rows] = residual_[rows - 1];
        for (int o = 0; o < tile_.outputs; ++o) out_[o * kMaxRows + rows] = out_[o * kMaxRows + rows - 1];
    }

    // Where channels from `column` on go, as many as there are, up to `columns`.
    const EpilogueTile& target(int column, int columns) {
        tile_.column = column;
        tile_.columns = std::min(columns, step_.channels - column);
        return tile_;
    }

    // Their sums.
    void write(int column, int columns, const std::int32_t* acc, int acc_stride) {
        target(column, columns);
        tile_.acc = acc;
        tile_.acc_stride = acc_stride;
        pass_.model.isa_->epilogue(tile_);
    }

private:
    const Pass& pass_;
    const Step& step_;
    EpilogueTile tile_{};
    bool bounded_;
    bool inverts_ = true;
    bool leaves_out_ = false;
    const Quantizer* quantizers_[kMaxOutputs];
    const std::uint8_t* residual_[kMaxRows];
    std::uint8_t* out_[kMaxOutputs * kMaxRows];
    float* floats_[kMaxRows];
};

}  // namespace bitgear
