// Convolutions as products of windows and weights.
#include <algorithm>
#include <cstdint>

#include "pass.h"

namespace bitgear {

// Where the windows of a multiplication are: in the input, or in rows that are woven when they are first asked for.
class Model::Windows {
public:
    Windows(const Pass& pass, const Step& step, const WindowPlaces& places)
        : pass_(pass),
          places_(places),
          input_(pass.buffer(step.input)),
          step_bytes_(sz(places.stride) *
                      (places.woven_rows > 0 ? sz(places.kernel * places.channels) : sz(input_.pixel_bytes))) {
        std::fill(held_, held_ + places.woven_rows, -1);
    }
    Windows(const Windows&) = delete;
    Windows& operator=(const Windows&) = delete;

    std::size_t step_bytes() const { return step_bytes_; }  // from a window to the next one beside it

    // The window of an output pixel. It stays until as many other rows were asked for as a tile of pixels may have.
    const std::uint8_t* at(const Position& p) {
        if (places_.woven_rows == 0) return pass_.window(input_, places_.stride, p);
        const int place = p.y % places_.woven_rows;
        std::uint8_t* row = pass_.scratch + places_.woven + sz(place) * places_.woven_row_bytes;
        if (held_[place] != p.y) {
            pass_.model.isa_->weave({places_.kernel, places_.channels, places_.woven_pixels,
                                     pass_.window(input_, places_.stride, {p.y, 0}), input_.row_bytes(), row});
            held_[place] = p.y;
        }
        return row + sz(p.x) * step_bytes_;
    }

private:
    const Pass& pass_;
    const WindowPlaces& places_;
    const Buffer& input_;
    std::size_t step_bytes_;
    int held_[kMaxRows];  // which row is woven at each place
};

void Model::Pass::run(const Step& step, const DotWork& work, int index, int count) const {
    const Product& product = work.product;
    const DotPath& dot = *product.dot;
    const int blocks = ceil_div(step.channels, kBlock), max_blocks = dot.max_blocks;
    const int groups = ceil_div(blocks, max_blocks);
    const int tiles = work.tiles.count;
    const bool columns = share_columns(tiles, groups, product.packed.size(), count);
    const Range my_groups = columns ? share(groups, index, count) : Range{0, groups};
    const Range my_tiles = columns ? Range{0, tiles} : share(tiles, index, count);
    Windows windows(*this, step, work.windows);
    DotTile tile{};
    tile.row_step = work.tiles.pixels > 1 ? windows.step_bytes() : 0;
    tile.runs = product.runs.data();
    tile.run_count = static_cast<int>(product.runs.size());
    tile.block_bytes = product.block_bytes;
    tile.period = product.period;
    tile.alone = my_tiles.end - my_tiles.begin == 1;
    tile.acc = reinterpret_cast<std::int32_t*>(scratch);
    const std::uint8_t* a[kMaxRows];
    tile.a = a;
    Writer writer(*this, step);
    const bool quick = writer.quick(dot);
    const auto run_group = [&](int group) {
        const int first_block = group * max_blocks;
        tile.blocks = std::min(max_blocks, blocks - first_block);
        tile.w = product.packed.data() + sz(first_block) * product.block_bytes;
        const int column = first_block * kBlock, width = tile.blocks * kBlock;
        if (quick) {
            dot.run_quick(tile, writer.target(column, width));
        } else {
            dot.run(tile);
            writer.write(column, width, tile.acc, width);
        }
    };
    const Passes passes(my_groups, sz(max_blocks) * product.block_bytes);
    for (int pass = 0; pass < passes.count(); ++pass) {
        const Range now = passes.groups(pass);
        int done = work.tiles.start(my_tiles.begin);
        Position p = position(done, step.width);
        for (int t = my_tiles.begin; t < my_tiles.end; ++t) {
            Pixels where;
            const int end = work.tiles.start(t + 1);
            where.add_following(p, end - done, step.width);
            done = end;
            where.addresses(*model.isa_, windows.step_bytes(), a,
                            [&](const Position& first) { return windows.at(first); });
            tile.rows = where.rows;
            writer.at(where);
            if (quick && tile.rows < kMaxRows) {
                a[tile.rows] = a[tile.rows - 1];
                writer.repeat_last();
            }
            for (int group = now.begin; group < now.end; ++group) run_group(group);
        }
    }
}

// A convolution with max pooling behind it: sums of a few rows are kept and pooled, so that scale, bias, ReLU and
// quantisation are computed once for each pooled pixel. All of those are monotone, so the largest value comes from the
// largest sum (or least).
void Model::Pass::run(const Step& step, const PooledWork& work, int index, int count) const {
    const Product& product = work.product;
    const DotPath& dot = *product.dot;
    const Pooling& pool = work.pooling;
    const int blocks = ceil_div(step.channels, kBlock), max_blocks = dot.max_blocks;
    const int groups = ceil_div(blocks, max_blocks);
    const int max_rows = dot.max_rows, tiles = ceil_div(work.conv_width, max_rows);
    Windows windows(*this, step, work.windows);
    const Range mine = share(step.height, index, count);
    auto* acc = reinterpret_cast<std::int32_t*>(scratch);
    auto* rings = acc + sz(kMaxRows * max_blocks * kBlock);  // [group][row % kernel][pixel with borders][column]
    Writer writer(*this, step);
    const std::uint8_t* a[kMaxRows];
    DotTile tile{};
    tile.a = a;
    tile.row_step = work.conv_height * work.conv_width > 1 ? windows.step_bytes() : 0;
    tile.runs = product.runs.data();
    tile.run_count = static_cast<int>(product.runs.size());
    tile.block_bytes = product.block_bytes;
    tile.period = product.period;
    const auto ring_row = [&](int group, int y) {
        return rings + sz(group * pool.kernel + y % pool.kernel) * sz(work.row_pixels * max_blocks * kBlock);
    };
    for (int group = 0; group < groups; ++group) {
        const int columns = std::min(max_blocks, blocks - group * max_blocks) * kBlock;
        const std::int32_t* flip = work.flip.data() + group * max_blocks * kBlock;
        for (int r = 0; r < pool.kernel; ++r) {  // borders never count
            for (int x = 0; x < work.row_pixels; ++x) {
                if (x >= pool.padding && x < pool.padding + work.conv_width) continue;
                for (int c = 0; c < columns; ++c) ring_row(group, r)[x * columns + c] = INT32_MIN ^ flip[c];
            }
        }
    }
    int held_until = 0;  // rows below this one are in the rings
    for (int y = mine.begin; y < mine.end; ++y) {
        const int first = std::max(y * pool.stride - pool.padding, 0);
        const int last = std::min(y * pool.stride - pool.padding + pool.kernel, work.conv_height);
        for (int group = 0; group < groups; ++group) {
            const int first_block = group * max_blocks, column = first_block * kBlock;
            tile.blocks = std::min(max_blocks, blocks - first_block);
            tile.w = product.packed.data() + sz(first_block) * product.block_bytes;
            const int columns = tile.blocks * kBlock;
            const std::int32_t* flip = work.flip.data() + column;
            for (int r = std::max(first, held_until); r < last; ++r) {
                for (int t = 0; t < tiles; ++t) {
                    const Range part = dot.places == 0
                                           ? share(work.conv_width, t, tiles)
                                           : Range{t * max_rows, std::min((t + 1) * max_rows, work.conv_width)};
                    tile.rows = part.end - part.begin;
                    const std::uint8_t* corner = windows.at({r, part.begin});
                    for (int i = 0; i < tile.rows; ++i) a[i] = corner + sz(i) * windows.step_bytes();
                    tile.acc = ring_row(group, r) + (pool.padding + part.begin) * columns;
                    dot.run(tile);
                }
            }
            for (int x = 0; x < step.width; x += kMaxRows) {
                const int pixels = std::min(kMaxRows, step.width - x);
                const std::int32_t* rows[kMaxPooled];
                for (int r = first; r < last; ++r) rows[r - first] = ring_row(group, r) + x * pool.stride * columns;
                model.isa_->extreme({rows, last - first, pool.kernel, pool.stride, pixels, columns, flip, acc});
                Pixels where;
                where.add({y, x}, pixels);
                writer.at(where);
                writer.write(column, columns, acc, columns);
            }
        }
        held_until = last;
    }
}

}  // namespace bitgear
