// Steps that keep to their channels: the picture, borders, depthwise convolutions, pooling, resizing, and copies.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pass.h"

namespace bitgear {

namespace {

constexpr std::size_t kDepthwiseStripBytes = 64 * 1024;

}  // namespace

void Model::Pass::fill_borders(const Step& step, int index, int count) const {
    for (const int filled : step.prefill) {
        const Buffer& b = buffer(filled);
        const std::size_t row_bytes = b.row_bytes(), left = sz(b.left) * sz(b.pixel_bytes),
                          right = sz(b.right) * sz(b.pixel_bytes);
        const Range rows = share(b.height, index, count);
        std::uint8_t* p = start(b) + sz(b.top + rows.begin) * row_bytes;
        if (index == 0) std::memset(start(b), b.fill, sz(b.top) * row_bytes);
        for (int y = rows.begin; y < rows.end; ++y, p += row_bytes) {
            std::memset(p, b.fill, left);
            std::memset(p + row_bytes - right, b.fill, right);
        }
        if (index == count - 1) std::memset(p, b.fill, sz(b.bottom) * row_bytes);
    }
}

// Codes of the picture from [channel][row][column] to [row][column][channel], with zero 128.
void Model::Pass::run(const Step& step, const ImageWork&, int index, int count) const {
    const std::size_t plane = sz(step.height) * sz(step.width);
    const Range rows = share(step.height, index, count);
    for (const Output& output : step.outputs) {
        const Buffer& b = buffer(output.buffer);
        for (int y = rows.begin; y < rows.end; ++y) {
            const std::int8_t* red = q_image + sz(y) * sz(step.width);
            model.isa_->interleave(red, red + plane, red + 2 * plane, step.width, start(b) + b.pixel(y, 0));
        }
    }
}

// Whole rows, some at a time: their input stays in the first cache while all channels go over them.
void Model::Pass::run_depthwise_quick(const Step& step, const DepthwiseWork& work, const EpilogueTile& constants,
                                      const Range& rows) const {
    const Buffer& input = buffer(step.input);
    const int stride = work.geometry.stride;
    const int strip = std::max(static_cast<int>(kDepthwiseStripBytes / (sz(stride) * input.row_bytes())), 1);
    Area<std::uint8_t> to[2];
    DepthwiseArea area{};
    area.pixels = step.width;
    area.from = {nullptr, input.row_bytes(), sz(input.pixel_bytes)};
    area.stride = stride;
    area.channels = step.channels;
    area.w = work.packed.data();
    area.to = to;
    for (int y = rows.begin; y < rows.end; y += strip) {
        area.rows = std::min(strip, rows.end - y);
        area.from.first = window(input, stride, {y, 0});
        for (std::size_t o = 0; o < step.outputs.size(); ++o) {
            to[o] = area_from(step.outputs[o].buffer, {y, 0}, step.outputs[o].channel);
        }
        model.isa_->depthwise.run_quick(area, constants);
    }
}

void Model::Pass::run(const Step& step, const DepthwiseWork& work, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Geometry& g = work.geometry;
    const int pixels = step.height * step.width;
    const int padded = ceil_div(step.channels, kBlock) * kBlock;
    Writer writer(*this, step);
    if (writer.quick() && model.isa_->depthwise.run_quick != nullptr && step.values.residual.buffer < 0 &&
        g.kernel == 3 && g.dilation == 1 && g.stride <= 2)
        return run_depthwise_quick(step, work, writer.target(0, step.channels), share(step.height, index, count));
    const Range mine = share(pixels, index, count);
    const std::uint8_t* a[kMaxRows];
    const std::size_t window_step = sz(g.stride) * sz(input.pixel_bytes);
    DepthwiseTile tile{};
    tile.a = a;
    tile.taps = g.kernel * g.kernel;
    tile.tap_offsets = work.tap_offsets.data();
    tile.channels = step.channels;
    tile.w = work.packed.data();
    tile.acc = reinterpret_cast<std::int32_t*>(scratch);
    Position p = position(mine.begin, step.width);
    for (int i = mine.begin; i < mine.end; i += kDepthwisePixels) {
        Pixels where;
        where.add_following(p, std::min(kDepthwisePixels, mine.end - i), step.width);
        where.addresses(*model.isa_, window_step, a,
                        [&](const Position& first) { return window(input, g.stride, first); });
        tile.pixels = where.rows;
        model.isa_->depthwise.run(tile);
        writer.at(where);
        writer.write(0, step.channels, tile.acc, padded);
    }
}

void Model::Pass::run(const Step& step, const SumWork& work, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Range mine = share(step.height * step.width, index, count);
    constexpr int kSources = 64;
    const std::uint8_t* sources[kSources];
    auto* acc = reinterpret_cast<std::int32_t*>(scratch);
    Writer writer(*this, step);
    const int padded = ceil_div(step.channels, kLutColumnsMax) * kLutColumnsMax;
    std::int32_t* part = acc + padded;
    Position p = position(mine.begin, step.width);
    const int taps = work.height * work.width;
    for (int i = mine.begin; i < mine.end; ++i, advance(p, step.width)) {
        const std::uint8_t* corner = window(input, work.stride, p);
        for (int first = 0; first < taps; first += kSources) {
            const int n = std::min(kSources, taps - first);
            for (int s = 0; s < n; ++s) {
                const int wy = (first + s) / work.width, wx = (first + s) % work.width;
                sources[s] = corner + sz(wy) * input.row_bytes() + sz(wx) * sz(input.pixel_bytes);
            }
            model.isa_->weighted_sum(sources, nullptr, n, step.channels, first == 0 ? acc : part);
            if (first == 0) continue;
            for (int c = 0; c < step.channels; ++c) acc[c] += part[c];
        }
        Pixels where;
        where.add(p, 1);
        writer.at(where);
        writer.write(0, step.channels, acc, padded);
    }
}

void Model::Pass::run(const Step& step, const BilinearWork& work, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Range mine = share(step.height * step.width, index, count);
    auto* acc = reinterpret_cast<std::int32_t*>(scratch);
    Writer writer(*this, step);
    Position p = position(mine.begin, step.width);
    for (int i = mine.begin; i < mine.end; ++i, advance(p, step.width)) {
        const Interpolation& v = work.rows[sz(p.y)];
        const Interpolation& h = work.columns[sz(p.x)];
        const std::uint8_t* base = start(input);
        const std::uint8_t* sources[] = {base + input.pixel(v.first, h.first), base + input.pixel(v.first, h.second),
                                         base + input.pixel(v.second, h.first), base + input.pixel(v.second, h.second)};
        const std::int32_t weights[] = {v.first_weight * h.first_weight, v.first_weight * h.second_weight,
                                        v.second_weight * h.first_weight, v.second_weight * h.second_weight};
        model.isa_->weighted_sum(sources, weights, 4, step.channels, acc);
        Pixels where;
        where.add(p, 1);
        writer.at(where);
        writer.write(0, step.channels, acc, 0);
    }
}

void Model::Pass::run(const Step& step, const MaximumWork& work, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Output& output = step.outputs[0];
    const Buffer& target = buffer(output.buffer);
    const int kernel = work.kernel;
    auto** sources = reinterpret_cast<const std::uint8_t**>(scratch);
    const Range mine = share(step.height * step.width, index, count);
    Position p = position(mine.begin, step.width);
    for (int i = mine.begin; i < mine.end; ++i, advance(p, step.width)) {
        const std::uint8_t* corner = window(input, work.stride, p);
        int n = 0;
        for (int ky = 0; ky < kernel; ++ky) {
            for (int kx = 0; kx < kernel; ++kx)
                sources[n++] = corner + sz(ky) * input.row_bytes() + sz(kx) * sz(input.pixel_bytes);
        }
        model.isa_->maximum(sources, n, step.channels, pixel(target, p) + output.channel);
    }
}

void Model::Pass::run(const Step& step, const CopyWork& work, int index, int count) const {
    constexpr int kCopied = 16;  // bytes at a time
    const Buffer& input = buffer(step.input);
    const Output& output = step.outputs[0];
    const Buffer& target = buffer(output.buffer);
    const Range rows = share(step.height, index, count);
    const std::size_t from_bytes = sz(input.pixel_bytes), to_bytes = sz(target.pixel_bytes);
    for (int y = rows.begin; y < rows.end; ++y) {
        const std::uint8_t* const row = start(input) + input.pixel(work.source_y[sz(y)], 0);
        std::uint8_t* to = start(target) + target.pixel(y, 0) + output.channel;
        for (int x = 0; x < step.width; ++x, to += to_bytes) {
            const std::uint8_t* const from = row + sz(work.source_x[sz(x)]) * from_bytes;
            std::uint8_t* out = to;
            if (work.pad_channels > 0) {
                std::memset(out, work.pad_byte, sz(work.pad_channels));
                std::memset(out + work.pad_channels + step.channels, work.pad_byte, sz(work.pad_channels));
                out += work.pad_channels;
            }
            int c = 0;
            for (; c + kCopied <= step.channels; c += kCopied) std::memcpy(out + c, from + c, kCopied);  // no call
            if (c < step.channels) std::memcpy(out + c, from + c, sz(step.channels - c));
        }
    }
}

}  // namespace bitgear
