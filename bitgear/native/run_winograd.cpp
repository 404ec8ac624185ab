// Convolutions by Winograd's transforms.
#include <algorithm>
#include <cstdint>

#include "pass.h"

namespace bitgear {
namespace {

// Winograd's multiplication, a sum at a time: a position, or some that are multiplied to one.
void multiply_positions(const WinogradWork& work, const WinogradProducts& products) {
    const Product& product = work.product;
    const WinogradForm& form = *work.form;
    const int columns = products.blocks * kBlock;
    const std::uint8_t* a[kMaxRows];
    alignas(64) std::int32_t more[kMaxRows * kMaxBlocks * kBlock];
    DotTile tile{};
    tile.rows = products.tiles;
    tile.blocks = products.blocks;
    tile.a = a;
    tile.period = product.period;
    const auto at = [&](int position) {
        const std::uint8_t* v = products.patches + sz(position) * products.position_bytes;
        for (int t = 0; t < products.tiles; ++t) a[t] = v + sz(t) * products.patch_bytes;
    };
    for (int s = 0; s < form.sums(); ++s) {
        const int first = form.first_position(s), end = form.first_position(s + 1);
        std::int32_t* sums = products.sums + sz(s) * products.position_stride;
        at(first);
        tile.runs = product.runs.data() + first;
        tile.run_count = end - first;
        tile.w = products.w + sz(first) * product.block_bytes;
        tile.block_bytes = products.block_bytes;
        tile.acc = sums;
        product.dot->run(tile);
        for (int p = first; p < end; ++p) {
            const WinogradExcess& excess = products.excess[p];
            if (excess.count == 0) continue;
            at(p);
            tile.runs = excess.runs;
            tile.run_count = excess.count;
            tile.w = excess.w;
            tile.block_bytes = excess.block_bytes;
            tile.acc = more;
            product.dot->run(tile);
            for (int i = 0; i < products.tiles * columns; ++i) sums[i] += more[i];
        }
    }
}

}  // namespace

// `rows` x `pixels` pixels from `first` on of all that a step writes, at most two
// outputs, and of its residual.
WinogradPixels Model::Pass::places(const Step& step, const Position& first, int rows, int pixels,
                                   Area<std::uint8_t> (&to)[2]) const {
    WinogradPixels found{rows, pixels, to, {}};
    for (std::size_t o = 0; o < step.outputs.size(); ++o)
        to[o] = area_from(step.outputs[o].buffer, first, step.outputs[o].channel);
    if (step.values.residual.buffer >= 0) {
        const Area<std::uint8_t> residual = area_from(step.values.residual.buffer, first, step.channel);
        found.residual = {residual.first, residual.row_bytes, residual.pixel_bytes};
    }
    return found;
}

void Model::Pass::run(const Step& step, const WinogradWork& work, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const WinogradForm& form = *work.form;
    const int n = form.n, m = form.m, tile_pixels = n * m;
    const int tile_rows = ceil_div(step.height, n), tile_columns = ceil_div(step.width, m);
    const int tiles = tile_rows * tile_columns;
    const int blocks = ceil_div(step.channels, kBlock), max_blocks = work.product.dot->max_blocks,
              max_rows = work.tile_rows;
    const int groups = ceil_div(blocks, max_blocks);
    const int group_columns = max_blocks * kBlock;
    // Threads that share columns make all patches each.
    const bool columns = share_columns(tiles, groups, work.product.packed.size(), count, 512 * 1024);
    const Range my_groups = columns ? share(groups, index, count) : Range{0, groups};
    const Range my_tiles = columns ? Range{0, tiles} : share(tiles, index, count);

    std::uint8_t* patches = scratch;
    auto* sums = reinterpret_cast<std::int32_t*>(scratch + work.scratch.sums);
    auto* acc = reinterpret_cast<std::int32_t*>(scratch + work.scratch.acc);
    WinogradProducts products{};
    products.groups = work.groups;
    products.patch_bytes = work.scratch.patch_bytes;
    products.position_bytes = work.scratch.position_bytes;
    products.block_bytes = sz(form.positions()) * work.product.block_bytes;
    products.sums = sums;
    WinogradSums out{};
    products.position_stride = out.position_stride = sz(max_rows * group_columns);
    out.correction_stride = sz(group_columns);
    out.acc = acc;
    const auto output = work.by_columns != nullptr ? work.by_columns->output : work.transforms->output;
    const int unit = work.by_columns != nullptr ? work.by_columns->patches : 1;  // tiles
    Writer writer(*this, step);
    const WinogradQuick output_quick = !writer.quick()              ? nullptr
                                       : work.by_columns != nullptr ? work.by_columns->output_quick
                                                                    : work.transforms->output_quick;
    Area<std::uint8_t> to[2];

    for (int begin = my_tiles.begin; begin < my_tiles.end; begin += work.strip_tiles) {
        const int strip = std::min(work.strip_tiles, my_tiles.end - begin);
        Position p = position(begin, tile_columns);
        for (int t = 0; t < strip; ++t, advance(p, tile_columns)) {
            const std::uint8_t* corner = window(input, form.stride, {n * p.y, m * p.x});
            work.transforms->input(corner, input.row_bytes(), sz(input.pixel_bytes), input.pixel_bytes, work.shifts,
                                   patches + sz(t) * products.patch_bytes, products.position_bytes);
        }
        const int units = ceil_div(strip, unit), pieces = ceil_div(units, max_rows / unit);
        for (int group = my_groups.begin; group < my_groups.end; ++group) {
            const int column = group * group_columns;
            products.blocks = std::min(max_blocks, blocks - group * max_blocks);
            const int tile_width = products.blocks * kBlock;
            out.columns = tile_width;
            out.tile_stride = out.acc_stride = sz(tile_width);
            out.correction = work.correction.data() + sz(group * tile_pixels * group_columns);
            products.w = work.product.packed.data() + sz(group * max_blocks) * products.block_bytes;
            products.excess = work.excess.data() + sz(group * form.positions());
            for (int piece = 0; piece < pieces; ++piece) {
                const Range mine = share(units, piece, pieces);
                const int first_tile = mine.begin * unit;
                products.tiles = std::min(mine.end * unit, strip) - first_tile;
                products.patches = patches + sz(first_tile) * products.patch_bytes;
                if (work.by_columns != nullptr) {
                    work.by_columns->run(products);
                } else {
                    multiply_positions(work, products);
                }
                // Tiles side by side make a few stretches of pixels, one below the other.
                Position corner = position(begin + first_tile, tile_columns);
                for (int r = 0; r < products.tiles;) {
                    const int beside = std::min({kMaxRows / m, products.tiles - r, tile_columns - corner.x});
                    const Position first{n * corner.y, m * corner.x};
                    out.tiles = beside;
                    out.m = sums + sz(r * tile_width);
                    r += beside;
                    const int valid = std::min(beside * m, step.width - first.x);
                    const int rows = std::min(n, step.height - first.y);
                    if (output_quick != nullptr) {
                        output_quick(out, writer.target(column, tile_width), places(step, first, rows, valid, to));
                    } else {
                        output(out);
                        for (int y = 0; y < rows; ++y) {
                            Pixels where;
                            where.add({first.y + y, first.x}, valid);
                            writer.at(where);
                            writer.write(column, tile_width, acc + sz(y * beside * m * tile_width), tile_width);
                        }
                    }
                    corner.x += beside;
                    if (corner.x < tile_columns) continue;
                    corner.x = 0;
                    ++corner.y;
                }
            }
        }
    }
}

}  // namespace bitgear
