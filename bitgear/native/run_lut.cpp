// Convolutions by look-up.
#include <algorithm>
#include <cstdint>

#include "pass.h"

namespace bitgear {

void Model::Pass::run(const Step& step, const LutWork& work, int index, int count) const {
    const LutPath& lut = *work.lut;
    const Buffer& input = buffer(step.input);
    const Geometry& g = work.geometry;
    const int blocks = ceil_div(step.channels, lut.columns);
    const int rows = step.height;
    const bool columns = share_columns(rows, blocks, work.packed.size(), count);
    const Range my_blocks = columns ? share(blocks, index, count) : Range{0, blocks};
    const Range my_rows = columns ? Range{0, rows} : share(rows, index, count);
    const int extent = g.dilation * (g.kernel - 1) + 1;
    LutTile tile{};
    tile.runs = work.runs.data();
    tile.run_count = static_cast<int>(work.runs.size());
    tile.acc = reinterpret_cast<std::int32_t*>(scratch + work.table_bytes);
    const std::uint8_t* first[kMaxRows];
    tile.tables = first;
    Writer writer(*this, step);
    const bool quick =
        writer.quick() && lut.run_quick != nullptr && g.kernel * g.kernel * work.groups <= lut.quick_groups;
    const auto run_block = [&](int block) {
        tile.w = work.packed.data() + sz(block) * work.block_bytes;
        if (quick) {
            lut.run_quick(tile, writer.target(block * lut.columns, lut.columns));
        } else {
            lut.run(tile);
            writer.write(block * lut.columns, lut.columns, tile.acc, lut.columns);
        }
    };
    const Passes passes(my_blocks, work.block_bytes);
    for (int y = my_rows.begin; y < my_rows.end;) {
        const int strip = std::min(work.strip_rows, my_rows.end - y);  // as many rows as have room for their tables
        for (int r = 0; r < (strip - 1) * g.stride + extent; ++r) {
            lut.tables(start(input) + sz(y * g.stride + r) * input.row_bytes(), input.row_pixels(),
                       sz(input.pixel_bytes), work.groups, scratch + sz(r) * work.table_row_bytes);
        }
        const int pixels = strip * step.width;
        const int tiles = ceil_div(pixels, lut.max_rows);
        for (int pass = 0; pass < passes.count(); ++pass) {
            const Range now = passes.groups(pass);
            Position p{y, 0};
            for (int t = 0; t < tiles; ++t) {
                const Range mine = share(pixels, t, tiles);
                Pixels where;
                where.add_following(p, mine.end - mine.begin, step.width);
                where.addresses(*model.isa_, sz(g.stride) * work.table_pixel_bytes, first, [&](const Position& at) {
                    return scratch + sz((at.y - y) * g.stride) * work.table_row_bytes +
                           sz(at.x * g.stride) * work.table_pixel_bytes;
                });
                tile.rows = where.rows;
                writer.at(where);
                for (int block = now.begin; block < now.end; ++block) run_block(block);
            }
        }
        y += strip;
    }
}

// Indices of what `rows` output rows from `first_row` on read.
void Model::Pass::index_pixels(const Step& step, const PixelLutWork& work, int first_row, int rows) const {
    const Buffer& input = buffer(step.input);
    const Geometry& g = work.geometry;
    const PixelLutPath& lut = *work.lut;
    const int reach = g.dilation * (g.kernel - 1), row_pixels = work.grid.row_pixels;
    const std::uint8_t* from = start(input) + sz(first_row * g.stride) * input.row_bytes();
    const std::size_t pixel_bytes = sz(input.pixel_bytes);
    if (g.stride == 1) {
        lut.index(from, (rows + reach) * row_pixels, pixel_bytes, work.groups, scratch, work.index_group_bytes);
        return;
    }
    for (int py = 0; py < g.stride; ++py) {
        for (int px = 0; px < g.stride; ++px) {
            const std::int32_t phase = work.grid.phases[sz(py * g.stride + px)];
            if (phase < 0) continue;
            const int pixels = step.width + (reach - px) / g.stride;
            for (int y = 0; y < rows + (reach - py) / g.stride; ++y) {
                lut.index(from + sz(y * g.stride + py) * input.row_bytes() + sz(px) * pixel_bytes, pixels,
                          sz(g.stride) * pixel_bytes, work.groups, scratch + phase + y * row_pixels,
                          work.index_group_bytes);
            }
        }
    }
}

// Where each lane of a vector of the grid belongs: from the first pixel of the grid at `corner` on.
void Model::Pass::place_lanes(const Step& step, const PixelGrid& grid, const Position& corner, int rows, int first,
                              std::uint8_t* nowhere, PixelLutPlaces& places) const {
    Position p = position(first, grid.row_pixels);
    for (int lane = 0; lane < kPixelLutLanes; p = {p.y + 1, 0}) {
        const int n = std::min(grid.row_pixels - p.x, kPixelLutLanes - lane);
        const int valid = p.y < rows ? std::clamp(step.width - p.x, 0, n) : 0;
        const auto fill = [&](std::uint8_t** to, const Area<std::uint8_t>& area) {
            for (int i = 0; i < valid; ++i) to[lane + i] = area.first + sz(i) * area.pixel_bytes;
            std::fill(to + lane + valid, to + lane + n, nowhere);
        };
        const Position at{corner.y + p.y, p.x};
        for (std::size_t o = 0; o < step.outputs.size(); ++o)
            fill(places.out[o], area_from(step.outputs[o].buffer, at, step.outputs[o].channel));
        if (step.values.residual.buffer >= 0)
            fill(places.residual, area_from(step.values.residual.buffer, at, step.channel));
        lane += n;
    }
}

// The same by way of 32-bit sums.
void Model::Pass::write_lanes(const Step& step, const PixelGrid& grid, const Position& corner, int rows, int first,
                              const PixelLutSums& sums, int column, std::int32_t* acc, Writer& writer) const {
    Position p = position(first, grid.row_pixels);
    for (int lane = 0; lane < kPixelLutLanes; ++lane, advance(p, grid.row_pixels)) {
        if (p.y >= rows || p.x >= step.width) continue;
        for (int c = 0; c < kPixelLutColumns; ++c) {
            const std::uint8_t* sum = sums.low + sz(c) * sums.stride + lane;
            acc[c] = *sum + (sums.high > 0 ? 256 * sum[sums.high] : 0);
        }
        Pixels where;
        where.add({corner.y + p.y, p.x}, 1);
        writer.at(where);
        writer.write(column, kPixelLutColumns, acc, kPixelLutColumns);
    }
}

void Model::Pass::run(const Step& step, const PixelLutWork& work, int index, int count) const {
    const PixelLutPath& lut = *work.lut;
    constexpr int kBlocks = kPixelLutColumns / kPixelLutChannels;  // of a tile
    const int blocks = ceil_div(step.channels, kPixelLutChannels), groups = ceil_div(blocks, kBlocks);
    const auto vectors_of = [&](int rows) {
        return ceil_div((rows - 1) * work.grid.row_pixels + step.width, kPixelLutLanes);
    };
    const int pieces = std::min(vectors_of(step.height), step.height);
    const bool columns = share_columns(pieces, groups, work.packed.size(), count);
    const Range my_groups = columns ? share(groups, index, count) : Range{0, groups};
    const Range my_rows = columns ? Range{0, step.height} : share(step.height, index, count);
    PixelLutTile tile{};
    tile.group_bytes = work.index_group_bytes;
    tile.block_bytes = work.block_bytes;
    tile.sums = scratch + work.index_bytes;
    std::uint8_t* const nowhere = tile.sums + 2 * kPixelLutColumns * kPixelLutVectors * kPixelLutLanes;
    auto* acc = reinterpret_cast<std::int32_t*>(nowhere + step.values.multiplier.size());
    Writer writer(*this, step);
    const bool fits = step.outputs.size() <= kPixelLutOutputs, quick = writer.quick(kPixelLutOutputs);
    PixelLutPlaces places[kPixelLutVectors];
    const Passes passes(my_groups, sz(kBlocks) * work.block_bytes);
    for (int y = my_rows.begin; y < my_rows.end; y += work.strip_rows) {
        const int strip = std::min(work.strip_rows, my_rows.end - y);
        index_pixels(step, work, y, strip);
        const int vectors = vectors_of(strip), tiles = ceil_div(vectors, kPixelLutVectors);
        for (int pass = 0; pass < passes.count(); ++pass) {
            const Range now = passes.groups(pass);
            for (int t = 0; t < tiles; ++t) {
                const Range mine = share(vectors, t, tiles);
                tile.vectors = mine.end - mine.begin;
                tile.indices = scratch + mine.begin * kPixelLutLanes;
                for (int v = 0; v < tile.vectors && fits; ++v)
                    place_lanes(step, work.grid, {y, 0}, strip, (mine.begin + v) * kPixelLutLanes, nowhere, places[v]);
                for (int group = now.begin; group < now.end; ++group) {
                    tile.blocks = std::min(kBlocks, blocks - group * kBlocks);
                    const PixelLutColumns& of = work.columns_of[sz(group)];
                    tile.narrow = of.narrow;
                    tile.stretches = work.stretches.data() + of.first_stretch;
                    tile.stretch_count = of.stretch_count;
                    tile.w = work.packed.data() + sz(group * kBlocks) * work.block_bytes;
                    lut.run(tile);
                    const std::size_t stride = sz(tile.vectors * kPixelLutLanes);
                    PixelLutSums sums{tile.sums, stride, tile.narrow ? 0 : kPixelLutColumns * stride};
                    const int column = group * kPixelLutColumns;
                    for (int v = 0; v < tile.vectors; ++v, sums.low += kPixelLutLanes) {
                        if (of.results >= 0) {
                            lut.look_up(sums, work.results.data() + of.results, writer.target(column, kPixelLutColumns),
                                        places[v]);
                        } else if (quick) {
                            lut.finish(sums, writer.target(column, kPixelLutColumns), places[v]);
                        } else {
                            write_lanes(step, work.grid, {y, 0}, strip, (mine.begin + v) * kPixelLutLanes, sums, column,
                                        acc, writer);
                        }
                    }
                }
            }
        }
    }
}

}  // namespace bitgear
