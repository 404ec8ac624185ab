// Running a model: each thread takes whole images through the list of steps; those that are left over, fewer than there
// are threads, all threads take through it together, sharing the pixels or the channels of each step.
#include "model.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "pool.h"

namespace bitgear {
namespace {

std::size_t sz(int n) { return static_cast<std::size_t>(n); }

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Part `index` of `count` of 0..n-1.
struct Range {
    int begin, end;
};

Range share(int n, int index, int count) {
    return {static_cast<int>(static_cast<std::int64_t>(n) * index / count),
            static_cast<int>(static_cast<std::int64_t>(n) * (index + 1) / count)};
}

// How busy `count` threads are with n equal pieces, 0..1.
double balance(int n, int count) {
    return n == 0 ? 0.0 : static_cast<double>(n) / (static_cast<double>(ceil_div(n, count)) * count);
}

// Threads share the columns of a layer rather than its pixels where that keeps them busier, or as busy with fewer
// weights each.
bool share_columns(int pixel_pieces, int column_pieces, std::size_t weight_bytes, int count,
                   std::size_t few_bytes = 256 * 1024) {
    if (count == 1) return false;
    const double by_pixels = balance(pixel_pieces, count), by_columns = balance(column_pieces, count);
    return by_columns > by_pixels || (by_columns == by_pixels && weight_bytes > few_bytes);
}

constexpr std::size_t kDepthwiseStripBytes = 64 * 1024;
constexpr int kManyAddresses = 24;                // worth a call
constexpr int kTransposedPixels = 64;             // of the result, at a time
constexpr std::size_t kCachedBytes = 192 * 1024;  // weights that stay in a core's cache beside all else

// Held for moments, of all models' lists of contexts. fork() waits for it: in a child nobody else would give it up.
std::mutex g_contexts_mutex;
const int g_fork_handler = pthread_atfork([] { g_contexts_mutex.lock(); }, [] { g_contexts_mutex.unlock(); },
                                          [] { g_contexts_mutex.unlock(); });

// Pixels are numbered [row][column].
struct Position {
    int y, x;
};

Position position(int index, int width) { return {index / width, index % width}; }

void advance(Position& p, int width) {
    if (++p.x < width) return;
    p.x = 0;
    ++p.y;
}

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

}  // namespace

// Memory of one thread of a call.
struct Model::Workspace {
    AlignedBytes arena;  // of one image
    AlignedBytes scratch;
    std::vector<const std::uint8_t*> sources;  // room for the largest window of a maximum
    std::vector<float> floats;                 // the result, channels last, where it has several pixels
};

// Memory of one call at a time.
struct Model::Context {
    std::vector<Workspace> threads;
    std::unique_ptr<Context> next;
};

Model::Model(const Isa* isa, Rates rates) : isa_(isa), rates_(std::move(rates)) {}
Model::~Model() = default;

// One image on its way through the steps, as one thread of those that work on it sees it.
struct Model::Pass {
    const Model& model;
    std::uint8_t* arena;           // the image's buffers
    std::uint8_t* scratch;         // the thread's own
    const std::uint8_t** sources;  // the thread's own
    const std::int8_t* q_image;
    float* values;  // the result, channels last

    std::uint8_t* start(const Buffer& b) const { return arena + b.offset; }
    const Buffer& buffer(int index) const { return model.buffers_[sz(index)]; }

    void fill_borders(const Step& step, int index, int count) const;
    void run_image(const Step& step, int index, int count) const;
    void run_dot(const Step& step, int index, int count) const;
    void run_pooled(const Step& step, int index, int count) const;
    void run_lut(const Step& step, int index, int count) const;
    void index_pixels(const Step& step, int first_row, int rows) const;
    void place_lanes(const Step& step, const Position& corner, int rows, int first, std::uint8_t* nowhere,
                     PixelLutPlaces& places) const;
    void write_lanes(const Step& step, const Position& corner, int rows, int first, const PixelLutSums& sums,
                     int column, std::int32_t* acc, Writer& writer) const;
    void run_pixel_lut(const Step& step, int index, int count) const;
    void multiply_positions(const Step& step, const WinogradProducts& products) const;
    void run_winograd(const Step& step, int index, int count) const;
    void run_depthwise(const Step& step, int index, int count) const;
    void run_depthwise_quick(const Step& step, const EpilogueTile& constants, const Range& rows) const;
    void run_sum(const Step& step, int index, int count) const;
    void run_bilinear(const Step& step, int index, int count) const;
    void run_maximum(const Step& step, int index, int count) const;
    void run_copy(const Step& step, int index, int count) const;
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
    const std::uint8_t* window(const Step& step, const Buffer& b, const Position& p) const {
        return start(b) + sz(p.y * step.geometry.stride) * b.row_bytes() +
               sz(p.x * step.geometry.stride) * sz(b.pixel_bytes);
    }
    float* result_pixel(const Step& step, const Position& p) const {
        return values + sz(p.y * step.width + p.x) * sz(step.result_channels) + step.channel;
    }
};

// Epilogue and stores of a step: what stays the same is looked up once.
class Model::Writer {
public:
    Writer(const Pass& pass, const Step& step) : pass_(pass), step_(step) {
        tile_.offset = step.offset.data();
        tile_.multiplier = step.multiplier.data();
        tile_.bias = step.bias.empty() ? nullptr : step.bias.data();
        tile_.floor = step.floor;
        tile_.ceiling = step.ceiling;
        if (step.residual.buffer >= 0) {
            tile_.residual = residual_;
            tile_.residual_scale = step.residual.scale;
            tile_.residual_zero = step.residual.zero;
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
            const Buffer& b = pass_.buffer(step_.residual.buffer);
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
void Model::Pass::run_image(const Step& step, int index, int count) const {
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

// Where the windows of a multiplication are: in the input, or in rows that are woven when they are first asked for.
class Model::Windows {
public:
    Windows(const Pass& pass, const Step& step)
        : pass_(pass),
          step_(step),
          input_(pass.buffer(step.input)),
          step_bytes_(sz(step.geometry.stride) *
                      (step.woven_rows > 0 ? sz(step.geometry.kernel * step.in_channels) : sz(input_.pixel_bytes))) {
        std::fill(held_, held_ + step.woven_rows, -1);
    }
    Windows(const Windows&) = delete;
    Windows& operator=(const Windows&) = delete;

    std::size_t step_bytes() const { return step_bytes_; }  // from a window to the next one beside it

    // The window of an output pixel. It stays until as many other rows were asked for as a tile of pixels may have.
    const std::uint8_t* at(const Position& p) {
        if (step_.woven_rows == 0) return pass_.window(step_, input_, p);
        const int place = p.y % step_.woven_rows;
        std::uint8_t* row = pass_.scratch + step_.woven + sz(place) * step_.woven_row_bytes;
        if (held_[place] != p.y) {
            pass_.model.isa_->weave({step_.geometry.kernel, step_.in_channels, step_.woven_pixels,
                                     pass_.window(step_, input_, {p.y, 0}), input_.row_bytes(), row});
            held_[place] = p.y;
        }
        return row + sz(p.x) * step_bytes_;
    }

private:
    const Pass& pass_;
    const Step& step_;
    const Buffer& input_;
    std::size_t step_bytes_;
    int held_[kMaxRows];  // which row is woven at each place
};

void Model::Pass::run_dot(const Step& step, int index, int count) const {
    const int blocks = ceil_div(step.channels, kBlock), max_blocks = step.dot->max_blocks;
    const int groups = ceil_div(blocks, max_blocks);
    const int tiles = static_cast<int>(step.tile_starts.size()) - 1;
    const bool columns = share_columns(tiles, groups, step.packed.size(), count);
    const Range my_groups = columns ? share(groups, index, count) : Range{0, groups};
    const Range my_tiles = columns ? Range{0, tiles} : share(tiles, index, count);
    Windows windows(*this, step);
    DotTile tile{};
    tile.row_step = step.tile_starts.back() > 1 ? windows.step_bytes() : 0;
    tile.runs = step.runs.data();
    tile.run_count = static_cast<int>(step.runs.size());
    tile.block_bytes = step.block_bytes;
    tile.period = step.period;
    tile.alone = my_tiles.end - my_tiles.begin == 1;
    tile.acc = reinterpret_cast<std::int32_t*>(scratch);
    const std::uint8_t* a[kMaxRows];
    tile.a = a;
    Writer writer(*this, step);
    const bool quick = writer.quick(*step.dot);
    const auto run_group = [&](int group) {
        const int first_block = group * max_blocks;
        tile.blocks = std::min(max_blocks, blocks - first_block);
        tile.w = step.packed.data() + sz(first_block) * step.block_bytes;
        const int column = first_block * kBlock, width = tile.blocks * kBlock;
        if (quick) {
            step.dot->run_quick(tile, writer.target(column, width));
        } else {
            step.dot->run(tile);
            writer.write(column, width, tile.acc, width);
        }
    };
    // Few weights stay in the cache while all go over each tile; of many, each group goes over all tiles.
    const bool tile_by_tile = sz(my_groups.end - my_groups.begin) * sz(max_blocks) * step.block_bytes <= kCachedBytes;
    const int passes = tile_by_tile ? 1 : my_groups.end - my_groups.begin;
    for (int pass = 0; pass < passes; ++pass) {
        Position p = position(step.tile_starts[sz(my_tiles.begin)], step.width);
        for (int t = my_tiles.begin; t < my_tiles.end; ++t) {
            Pixels where;
            where.add_following(p, step.tile_starts[sz(t) + 1] - step.tile_starts[sz(t)], step.width);
            where.addresses(*model.isa_, windows.step_bytes(), a,
                            [&](const Position& first) { return windows.at(first); });
            tile.rows = where.rows;
            writer.at(where);
            if (quick && tile.rows < kMaxRows) {
                a[tile.rows] = a[tile.rows - 1];
                writer.repeat_last();
            }
            if (tile_by_tile) {
                for (int group = my_groups.begin; group < my_groups.end; ++group) run_group(group);
            } else {
                run_group(my_groups.begin + pass);
            }
        }
    }
}

// A convolution with max pooling behind it: sums of a few rows are kept and pooled, so that scale, bias, ReLU and
// quantisation are computed once for each pooled pixel. All of those are monotone, so the largest value comes from the
// largest sum (or least).
void Model::Pass::run_pooled(const Step& step, int index, int count) const {
    const Pooling& pool = step.pooling;
    const int blocks = ceil_div(step.channels, kBlock), max_blocks = step.dot->max_blocks;
    const int groups = ceil_div(blocks, max_blocks);
    const int max_rows = step.dot->max_rows, tiles = ceil_div(step.conv_width, max_rows);
    Windows windows(*this, step);
    const Range mine = share(step.height, index, count);
    auto* acc = reinterpret_cast<std::int32_t*>(scratch);
    auto* rings = acc + sz(kMaxRows * max_blocks * kBlock);  // [group][row % kernel][pixel with borders][column]
    Writer writer(*this, step);
    const std::uint8_t* a[kMaxRows];
    DotTile tile{};
    tile.a = a;
    tile.row_step = step.tile_starts.back() > 1 ? windows.step_bytes() : 0;
    tile.runs = step.runs.data();
    tile.run_count = static_cast<int>(step.runs.size());
    tile.block_bytes = step.block_bytes;
    tile.period = step.period;
    const auto ring_row = [&](int group, int y) {
        return rings + sz(group * pool.kernel + y % pool.kernel) * sz(step.pooled_pixels * max_blocks * kBlock);
    };
    for (int group = 0; group < groups; ++group) {
        const int columns = std::min(max_blocks, blocks - group * max_blocks) * kBlock;
        const std::int32_t* flip = step.flip.data() + group * max_blocks * kBlock;
        for (int r = 0; r < pool.kernel; ++r) {  // borders never count
            for (int x = 0; x < step.pooled_pixels; ++x) {
                if (x >= pool.padding && x < pool.padding + step.conv_width) continue;
                for (int c = 0; c < columns; ++c) ring_row(group, r)[x * columns + c] = INT32_MIN ^ flip[c];
            }
        }
    }
    int held_until = 0;  // rows below this one are in the rings
    for (int y = mine.begin; y < mine.end; ++y) {
        const int first = std::max(y * pool.stride - pool.padding, 0);
        const int last = std::min(y * pool.stride - pool.padding + pool.kernel, step.conv_height);
        for (int group = 0; group < groups; ++group) {
            const int first_block = group * max_blocks, column = first_block * kBlock;
            tile.blocks = std::min(max_blocks, blocks - first_block);
            tile.w = step.packed.data() + sz(first_block) * step.block_bytes;
            const int columns = tile.blocks * kBlock;
            const std::int32_t* flip = step.flip.data() + column;
            for (int r = std::max(first, held_until); r < last; ++r) {
                for (int t = 0; t < tiles; ++t) {
                    const Range part = step.dot->places == 0
                                           ? share(step.conv_width, t, tiles)
                                           : Range{t * max_rows, std::min((t + 1) * max_rows, step.conv_width)};
                    tile.rows = part.end - part.begin;
                    const std::uint8_t* corner = windows.at({r, part.begin});
                    for (int i = 0; i < tile.rows; ++i) a[i] = corner + sz(i) * windows.step_bytes();
                    tile.acc = ring_row(group, r) + (pool.padding + part.begin) * columns;
                    step.dot->run(tile);
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

void Model::Pass::run_lut(const Step& step, int index, int count) const {
    const LutPath& lut = *step.lut;
    const Buffer& input = buffer(step.input);
    const Geometry& g = step.geometry;
    const int blocks = ceil_div(step.channels, lut.columns);
    const int rows = step.height;
    const bool columns = share_columns(rows, blocks, step.packed.size(), count);
    const Range my_blocks = columns ? share(blocks, index, count) : Range{0, blocks};
    const Range my_rows = columns ? Range{0, rows} : share(rows, index, count);
    const int extent = g.dilation * (g.kernel - 1) + 1;
    LutTile tile{};
    tile.runs = step.runs.data();
    tile.run_count = static_cast<int>(step.runs.size());
    tile.act_max = step.act_max;
    tile.acc = reinterpret_cast<std::int32_t*>(scratch + step.table_bytes);
    const std::uint8_t* first[kMaxRows];
    tile.tables = first;
    Writer writer(*this, step);
    const bool quick =
        writer.quick() && lut.run_quick != nullptr && g.kernel * g.kernel * step.k_groups <= lut.quick_groups;
    const auto run_block = [&](int block) {
        tile.w = step.packed.data() + sz(block) * step.block_bytes;
        if (quick) {
            lut.run_quick(tile, writer.target(block * lut.columns, lut.columns));
        } else {
            lut.run(tile);
            writer.write(block * lut.columns, lut.columns, tile.acc, lut.columns);
        }
    };
    const bool tile_by_tile = sz(my_blocks.end - my_blocks.begin) * step.block_bytes <= kCachedBytes;
    for (int y = my_rows.begin; y < my_rows.end;) {
        const int strip = std::min(step.strip_rows, my_rows.end - y);  // as many rows as have room for their tables
        for (int r = 0; r < (strip - 1) * g.stride + extent; ++r) {
            lut.tables(start(input) + sz(y * g.stride + r) * input.row_bytes(), input.row_pixels(),
                       sz(input.pixel_bytes), step.k_groups, scratch + sz(r) * step.table_row_bytes);
        }
        const int pixels = strip * step.width;
        const int tiles = ceil_div(pixels, lut.max_rows);
        const int passes = tile_by_tile ? 1 : my_blocks.end - my_blocks.begin;
        for (int pass = 0; pass < passes; ++pass) {
            Position p{y, 0};
            for (int t = 0; t < tiles; ++t) {
                const Range mine = share(pixels, t, tiles);
                Pixels where;
                where.add_following(p, mine.end - mine.begin, step.width);
                where.addresses(*model.isa_, sz(g.stride) * step.table_pixel_bytes, first, [&](const Position& at) {
                    return scratch + sz((at.y - y) * g.stride) * step.table_row_bytes +
                           sz(at.x * g.stride) * step.table_pixel_bytes;
                });
                tile.rows = where.rows;
                writer.at(where);
                if (tile_by_tile) {
                    for (int block = my_blocks.begin; block < my_blocks.end; ++block) run_block(block);
                } else {
                    run_block(my_blocks.begin + pass);
                }
            }
        }
        y += strip;
    }
}

// Indices of what `rows` output rows from `first_row` on read.
void Model::Pass::index_pixels(const Step& step, int first_row, int rows) const {
    const Buffer& input = buffer(step.input);
    const Geometry& g = step.geometry;
    const PixelLutPath& lut = *model.isa_->pixel_lut;
    const int reach = g.dilation * (g.kernel - 1), row_pixels = step.grid.row_pixels;
    const std::uint8_t* from = start(input) + sz(first_row * g.stride) * input.row_bytes();
    const std::size_t pixel_bytes = sz(input.pixel_bytes);
    if (g.stride == 1) {
        lut.index(from, (rows + reach) * row_pixels, pixel_bytes, step.k_groups, scratch, step.index_group_bytes);
        return;
    }
    for (int py = 0; py < g.stride; ++py) {
        for (int px = 0; px < g.stride; ++px) {
            const std::int32_t phase = step.grid.phases[sz(py * g.stride + px)];
            if (phase < 0) continue;
            const int pixels = step.width + (reach - px) / g.stride;
            for (int y = 0; y < rows + (reach - py) / g.stride; ++y) {
                lut.index(from + sz(y * g.stride + py) * input.row_bytes() + sz(px) * pixel_bytes, pixels,
                          sz(g.stride) * pixel_bytes, step.k_groups, scratch + phase + y * row_pixels,
                          step.index_group_bytes);
            }
        }
    }
}

// Where each lane of a vector of the grid belongs: from the first pixel of the grid at `corner` on.
void Model::Pass::place_lanes(const Step& step, const Position& corner, int rows, int first, std::uint8_t* nowhere,
                              PixelLutPlaces& places) const {
    Position p = position(first, step.grid.row_pixels);
    for (int lane = 0; lane < kPixelLutLanes; p = {p.y + 1, 0}) {
        const int n = std::min(step.grid.row_pixels - p.x, kPixelLutLanes - lane);
        const int valid = p.y < rows ? std::clamp(step.width - p.x, 0, n) : 0;
        const auto fill = [&](std::uint8_t** to, const Area<std::uint8_t>& area) {
            for (int i = 0; i < valid; ++i) to[lane + i] = area.first + sz(i) * area.pixel_bytes;
            std::fill(to + lane + valid, to + lane + n, nowhere);
        };
        const Position at{corner.y + p.y, p.x};
        for (std::size_t o = 0; o < step.outputs.size(); ++o)
            fill(places.out[o], area_from(step.outputs[o].buffer, at, step.outputs[o].channel));
        if (step.residual.buffer >= 0) fill(places.residual, area_from(step.residual.buffer, at, step.channel));
        lane += n;
    }
}

// The same by way of 32-bit sums.
void Model::Pass::write_lanes(const Step& step, const Position& corner, int rows, int first, const PixelLutSums& sums,
                              int column, std::int32_t* acc, Writer& writer) const {
    Position p = position(first, step.grid.row_pixels);
    for (int lane = 0; lane < kPixelLutLanes; ++lane, advance(p, step.grid.row_pixels)) {
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

void Model::Pass::run_pixel_lut(const Step& step, int index, int count) const {
    const PixelLutPath& lut = *model.isa_->pixel_lut;
    constexpr int kBlocks = kPixelLutColumns / kPixelLutChannels;  // of a tile
    const int blocks = ceil_div(step.channels, kPixelLutChannels), groups = ceil_div(blocks, kBlocks);
    const auto vectors_of = [&](int rows) {
        return ceil_div((rows - 1) * step.grid.row_pixels + step.width, kPixelLutLanes);
    };
    const int pieces = std::min(vectors_of(step.height), step.height);
    const bool columns = share_columns(pieces, groups, step.packed.size(), count);
    const Range my_groups = columns ? share(groups, index, count) : Range{0, groups};
    const Range my_rows = columns ? Range{0, step.height} : share(step.height, index, count);
    PixelLutTile tile{};
    tile.group_bytes = step.index_group_bytes;
    tile.block_bytes = step.block_bytes;
    tile.sums = scratch + step.table_bytes;
    std::uint8_t* const nowhere = tile.sums + 2 * kPixelLutColumns * kPixelLutVectors * kPixelLutLanes;
    auto* acc = reinterpret_cast<std::int32_t*>(nowhere + step.multiplier.size());
    Writer writer(*this, step);
    const bool fits = step.outputs.size() <= kPixelLutOutputs, quick = writer.quick(kPixelLutOutputs);
    PixelLutPlaces places[kPixelLutVectors];
    const bool tile_by_tile = sz(my_groups.end - my_groups.begin) * sz(kBlocks) * step.block_bytes <= kCachedBytes;
    const int passes = tile_by_tile ? 1 : my_groups.end - my_groups.begin;
    for (int y = my_rows.begin; y < my_rows.end; y += step.strip_rows) {
        const int strip = std::min(step.strip_rows, my_rows.end - y);
        index_pixels(step, y, strip);
        const int vectors = vectors_of(strip), tiles = ceil_div(vectors, kPixelLutVectors);
        for (int pass = 0; pass < passes; ++pass) {
            for (int t = 0; t < tiles; ++t) {
                const Range mine = share(vectors, t, tiles);
                tile.vectors = mine.end - mine.begin;
                tile.indices = scratch + mine.begin * kPixelLutLanes;
                for (int v = 0; v < tile.vectors && fits; ++v)
                    place_lanes(step, {y, 0}, strip, (mine.begin + v) * kPixelLutLanes, nowhere, places[v]);
                const Range now = tile_by_tile ? my_groups : Range{my_groups.begin + pass, my_groups.begin + pass + 1};
                for (int group = now.begin; group < now.end; ++group) {
                    tile.blocks = std::min(kBlocks, blocks - group * kBlocks);
                    const PixelLutColumns& of = step.columns_of[sz(group)];
                    tile.narrow = of.narrow;
                    tile.stretches = step.stretches.data() + of.first_stretch;
                    tile.stretch_count = of.stretch_count;
                    tile.w = step.packed.data() + sz(group * kBlocks) * step.block_bytes;
                    lut.run(tile);
                    const std::size_t stride = sz(tile.vectors * kPixelLutLanes);
                    PixelLutSums sums{tile.sums, stride, tile.narrow ? 0 : kPixelLutColumns * stride};
                    const int column = group * kPixelLutColumns;
                    for (int v = 0; v < tile.vectors; ++v, sums.low += kPixelLutLanes) {
                        if (of.results >= 0) {
                            lut.look_up(sums, step.results.data() + of.results, writer.target(column, kPixelLutColumns),
                                        places[v]);
                        } else if (quick) {
                            lut.finish(sums, writer.target(column, kPixelLutColumns), places[v]);
                        } else {
                            write_lanes(step, {y, 0}, strip, (mine.begin + v) * kPixelLutLanes, sums, column, acc,
                                        writer);
                        }
                    }
                }
            }
        }
    }
}

// Winograd's multiplication, a sum at a time: a position, or some that are multiplied to one.
void Model::Pass::multiply_positions(const Step& step, const WinogradProducts& products) const {
    const int columns = products.blocks * kBlock;
    const std::uint8_t* a[kMaxRows];
    alignas(64) std::int32_t more[kMaxRows * kMaxBlocks * kBlock];
    DotTile tile{};
    tile.rows = products.tiles;
    tile.blocks = products.blocks;
    tile.a = a;
    tile.period = step.period;
    const auto at = [&](int position) {
        const std::uint8_t* v = products.patches + sz(position) * products.position_bytes;
        for (int t = 0; t < products.tiles; ++t) a[t] = v + sz(t) * products.patch_bytes;
    };
    for (int s = 0; s < step.form->sums(); ++s) {
        const int first = step.form->first_position(s), end = step.form->first_position(s + 1);
        std::int32_t* sums = products.sums + sz(s) * products.position_stride;
        at(first);
        tile.runs = step.runs.data() + first;
        tile.run_count = end - first;
        tile.w = products.w + sz(first) * step.block_bytes;
        tile.block_bytes = products.block_bytes;
        tile.acc = sums;
        step.dot->run(tile);
        for (int p = first; p < end; ++p) {
            const WinogradExcess& excess = products.excess[p];
            if (excess.count == 0) continue;
            at(p);
            tile.runs = excess.runs;
            tile.run_count = excess.count;
            tile.w = excess.w;
            tile.block_bytes = excess.block_bytes;
            tile.acc = more;
            step.dot->run(tile);
            for (int i = 0; i < products.tiles * columns; ++i) sums[i] += more[i];
        }
    }
}

// `rows` x `pixels` pixels from `first` on of all that a step writes, at most two
// outputs, and of its residual.
WinogradPixels Model::Pass::places(const Step& step, const Position& first, int rows, int pixels,
                                   Area<std::uint8_t> (&to)[2]) const {
    WinogradPixels found{rows, pixels, to, {}};
    for (std::size_t o = 0; o < step.outputs.size(); ++o)
        to[o] = area_from(step.outputs[o].buffer, first, step.outputs[o].channel);
    if (step.residual.buffer >= 0) {
        const Area<std::uint8_t> residual = area_from(step.residual.buffer, first, step.channel);
        found.residual = {residual.first, residual.row_bytes, residual.pixel_bytes};
    }
    return found;
}

void Model::Pass::run_winograd(const Step& step, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const WinogradForm& form = *step.form;
    const int n = form.n, m = form.m, tile_pixels = n * m;
    const int tile_rows = ceil_div(step.height, n), tile_columns = ceil_div(step.width, m);
    const int tiles = tile_rows * tile_columns;
    const int blocks = ceil_div(step.channels, kBlock), max_blocks = step.dot->max_blocks, max_rows = step.tile_rows;
    const int groups = ceil_div(blocks, max_blocks);
    const int group_columns = max_blocks * kBlock;
    // Threads that share columns make all patches each.
    const bool columns = share_columns(tiles, groups, step.packed.size(), count, 512 * 1024);
    const Range my_groups = columns ? share(groups, index, count) : Range{0, groups};
    const Range my_tiles = columns ? Range{0, tiles} : share(tiles, index, count);

    std::uint8_t* patches = scratch;
    auto* sums = reinterpret_cast<std::int32_t*>(scratch + step.scratch.sums);
    auto* acc = reinterpret_cast<std::int32_t*>(scratch + step.scratch.acc);
    WinogradProducts products{};
    products.groups = step.k_groups;
    products.patch_bytes = step.scratch.patch_bytes;
    products.position_bytes = step.scratch.position_bytes;
    products.block_bytes = sz(form.positions()) * step.block_bytes;
    products.sums = sums;
    WinogradSums out{};
    products.position_stride = out.position_stride = sz(max_rows * group_columns);
    out.correction_stride = sz(group_columns);
    out.acc = acc;
    const auto output = step.by_columns != nullptr ? step.by_columns->output : step.transforms->output;
    const int unit = step.by_columns != nullptr ? step.by_columns->patches : 1;  // tiles
    Writer writer(*this, step);
    const WinogradQuick output_quick = !writer.quick()              ? nullptr
                                       : step.by_columns != nullptr ? step.by_columns->output_quick
                                                                    : step.transforms->output_quick;
    Area<std::uint8_t> to[2];

    for (int begin = my_tiles.begin; begin < my_tiles.end; begin += step.strip_tiles) {
        const int strip = std::min(step.strip_tiles, my_tiles.end - begin);
        Position p = position(begin, tile_columns);
        for (int t = 0; t < strip; ++t, advance(p, tile_columns)) {
            const std::uint8_t* corner = window(step, input, {n * p.y, m * p.x});
            step.transforms->input(corner, input.row_bytes(), sz(input.pixel_bytes), input.pixel_bytes, step.shifts,
                                   patches + sz(t) * products.patch_bytes, products.position_bytes);
        }
        const int units = ceil_div(strip, unit), pieces = ceil_div(units, max_rows / unit);
        for (int group = my_groups.begin; group < my_groups.end; ++group) {
            const int column = group * group_columns;
            products.blocks = std::min(max_blocks, blocks - group * max_blocks);
            const int tile_width = products.blocks * kBlock;
            out.columns = tile_width;
            out.tile_stride = out.acc_stride = sz(tile_width);
            out.correction = step.correction.data() + sz(group * tile_pixels * group_columns);
            products.w = step.packed.data() + sz(group * max_blocks) * products.block_bytes;
            products.excess = step.excess.data() + sz(group * form.positions());
            for (int piece = 0; piece < pieces; ++piece) {
                const Range mine = share(units, piece, pieces);
                const int first_tile = mine.begin * unit;
                products.tiles = std::min(mine.end * unit, strip) - first_tile;
                products.patches = patches + sz(first_tile) * products.patch_bytes;
                if (step.by_columns != nullptr) {
                    step.by_columns->run(products);
                } else {
                    multiply_positions(step, products);
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

// Whole rows, some at a time: their input stays in the first cache while all channels go over them.
void Model::Pass::run_depthwise_quick(const Step& step, const EpilogueTile& constants, const Range& rows) const {
    const Buffer& input = buffer(step.input);
    const int stride = step.geometry.stride;
    const int strip = std::max(static_cast<int>(kDepthwiseStripBytes / (sz(stride) * input.row_bytes())), 1);
    Area<std::uint8_t> to[2];
    DepthwiseArea area{};
    area.pixels = step.width;
    area.from = {nullptr, input.row_bytes(), sz(input.pixel_bytes)};
    area.stride = stride;
    area.channels = step.channels;
    area.w = step.packed.data();
    area.to = to;
    for (int y = rows.begin; y < rows.end; y += strip) {
        area.rows = std::min(strip, rows.end - y);
        area.from.first = window(step, input, {y, 0});
        for (std::size_t o = 0; o < step.outputs.size(); ++o) {
            to[o] = area_from(step.outputs[o].buffer, {y, 0}, step.outputs[o].channel);
        }
        model.isa_->depthwise.run_quick(area, constants);
    }
}

void Model::Pass::run_depthwise(const Step& step, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const int pixels = step.height * step.width;
    const int padded = ceil_div(step.channels, kBlock) * kBlock;
    Writer writer(*this, step);
    if (writer.quick() && model.isa_->depthwise.run_quick != nullptr && step.residual.buffer < 0 &&
        step.geometry.kernel == 3 && step.geometry.dilation == 1 && step.geometry.stride <= 2)
        return run_depthwise_quick(step, writer.target(0, step.channels), share(step.height, index, count));
    const Range mine = share(pixels, index, count);
    const std::uint8_t* a[kMaxRows];
    const std::size_t window_step = sz(step.geometry.stride) * sz(input.pixel_bytes);
    DepthwiseTile tile{};
    tile.a = a;
    tile.taps = step.geometry.kernel * step.geometry.kernel;
    tile.tap_offsets = step.tap_offsets.data();
    tile.channels = step.channels;
    tile.w = step.packed.data();
    tile.acc = reinterpret_cast<std::int32_t*>(scratch);
    Position p = position(mine.begin, step.width);
    for (int i = mine.begin; i < mine.end; i += kDepthwisePixels) {
        Pixels where;
        where.add_following(p, std::min(kDepthwisePixels, mine.end - i), step.width);
        where.addresses(*model.isa_, window_step, a, [&](const Position& first) { return window(step, input, first); });
        tile.pixels = where.rows;
        model.isa_->depthwise.run(tile);
        writer.at(where);
        writer.write(0, step.channels, tile.acc, padded);
    }
}

void Model::Pass::run_sum(const Step& step, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Range mine = share(step.height * step.width, index, count);
    constexpr int kSources = 64;
    const std::uint8_t* sources[kSources];
    auto* acc = reinterpret_cast<std::int32_t*>(scratch);
    Writer writer(*this, step);
    const int padded = ceil_div(step.channels, kLutColumnsMax) * kLutColumnsMax;
    std::int32_t* part = acc + padded;
    Position p = position(mine.begin, step.width);
    const int taps = step.window_height * step.window_width;
    for (int i = mine.begin; i < mine.end; ++i, advance(p, step.width)) {
        const std::uint8_t* corner = window(step, input, p);
        for (int first = 0; first < taps; first += kSources) {
            const int n = std::min(kSources, taps - first);
            for (int s = 0; s < n; ++s) {
                const int wy = (first + s) / step.window_width, wx = (first + s) % step.window_width;
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

void Model::Pass::run_bilinear(const Step& step, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Range mine = share(step.height * step.width, index, count);
    auto* acc = reinterpret_cast<std::int32_t*>(scratch);
    Writer writer(*this, step);
    Position p = position(mine.begin, step.width);
    for (int i = mine.begin; i < mine.end; ++i, advance(p, step.width)) {
        const Interpolation& v = step.rows[sz(p.y)];
        const Interpolation& h = step.columns[sz(p.x)];
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

void Model::Pass::run_maximum(const Step& step, int index, int count) const {
    const Buffer& input = buffer(step.input);
    const Output& output = step.outputs[0];
    const Buffer& target = buffer(output.buffer);
    const int kernel = step.geometry.kernel;
    const Range mine = share(step.height * step.width, index, count);
    Position p = position(mine.begin, step.width);
    for (int i = mine.begin; i < mine.end; ++i, advance(p, step.width)) {
        const std::uint8_t* corner = window(step, input, p);
        int n = 0;
        for (int ky = 0; ky < kernel; ++ky) {
            for (int kx = 0; kx < kernel; ++kx)
                sources[n++] = corner + sz(ky) * input.row_bytes() + sz(kx) * sz(input.pixel_bytes);
        }
        model.isa_->maximum(sources, n, step.channels, pixel(target, p) + output.channel);
    }
}

void Model::Pass::run_copy(const Step& step, int index, int count) const {
    constexpr int kCopied = 16;  // bytes at a time
    const Buffer& input = buffer(step.input);
    const Output& output = step.outputs[0];
    const Buffer& target = buffer(output.buffer);
    const Range rows = share(step.height, index, count);
    const std::size_t from_bytes = sz(input.pixel_bytes), to_bytes = sz(target.pixel_bytes);
    for (int y = rows.begin; y < rows.end; ++y) {
        const std::uint8_t* const row = start(input) + input.pixel(step.source_y[sz(y)], 0);
        std::uint8_t* to = start(target) + target.pixel(y, 0) + output.channel;
        for (int x = 0; x < step.width; ++x, to += to_bytes) {
            const std::uint8_t* const from = row + sz(step.source_x[sz(x)]) * from_bytes;
            std::uint8_t* out = to;
            if (step.pad_channels > 0) {
                std::memset(out, step.pad_byte, sz(step.pad_channels));
                std::memset(out + step.pad_channels + step.channels, step.pad_byte, sz(step.pad_channels));
                out += step.pad_channels;
            }
            int c = 0;
            for (; c + kCopied <= step.channels; c += kCopied) std::memcpy(out + c, from + c, kCopied);  // no call
            if (c < step.channels) std::memcpy(out + c, from + c, sz(step.channels - c));
        }
    }
}

void Model::Pass::run_step(const Step& step, int index, int count) const {
    fill_borders(step, index, count);
    switch (step.kind) {
        case Step::Kind::image:
            return run_image(step, index, count);
        case Step::Kind::sum:
            return run_sum(step, index, count);
        case Step::Kind::bilinear:
            return run_bilinear(step, index, count);
        case Step::Kind::maximum:
            return run_maximum(step, index, count);
        case Step::Kind::copy:
            return run_copy(step, index, count);
        case Step::Kind::conv:
            switch (step.method) {
                case Method::dot:
                    if (step.pooling.kernel > 0) return run_pooled(step, index, count);
                    return run_dot(step, index, count);
                case Method::lut:
                    return run_lut(step, index, count);
                case Method::pixel_lut:
                    return run_pixel_lut(step, index, count);
                case Method::winograd:
                    return run_winograd(step, index, count);
                case Method::depthwise:
                    return run_depthwise(step, index, count);
            }
    }
}

// One call: what its threads share.
struct Model::Call {
    const Model& model;
    Context& context;
    const std::int8_t* q_images;
    int batch;
    float* results;
    Barrier barrier;
    std::vector<double>* seconds;

    void work(int index, int count);
    void take_through(int image, int owner, int index, int count);
};

// What every thread of a call does. The number of threads is known only now: the barrier is told by the first.
void Model::Call::work(int index, int count) {
    if (model.isa_->enter != nullptr) model.isa_->enter();
    const int whole = batch / count * count;
    for (int image = index; image < whole; image += count) take_through(image, index, 0, 1);
    if (whole > 0 && whole < batch && count > 1) barrier.wait(count);  // what follows uses the first thread's arena
    for (int image = whole; image < batch; ++image) take_through(image, 0, index, count);
    if (model.isa_->leave != nullptr) model.isa_->leave();
}

// Takes an image through all steps in the arena of thread `owner`, as thread `index` of the `count` that do so.
void Model::Call::take_through(int image, int owner, int index, int count) {
    Workspace& shared = context.threads[sz(owner)];
    Workspace& own = context.threads[sz(owner + index)];
    const std::size_t pixels = sz(model.result_height_) * sz(model.result_width_), channels = model.result_channels_;
    float* result = results + sz(image) * pixels * channels;
    const Pass pass{model,
                    shared.arena.data(),
                    own.scratch.data(),
                    own.sources.data(),
                    q_images + sz(image) * model.image_bytes(),
                    pixels > 1 ? shared.floats.data() : result};
    using Clock = std::chrono::steady_clock;
    for (std::size_t s = 0; s < model.steps_.size(); ++s) {
        const Clock::time_point start = seconds != nullptr ? Clock::now() : Clock::time_point();
        pass.run_step(model.steps_[s], index, count);
        // After a call's last step there is nothing to meet for: its caller waits for all threads.
        const bool ends = pixels == 1 && s + 1 == model.steps_.size() && image + 1 == batch;
        if (count > 1 && !ends) barrier.wait(count);
        if (seconds != nullptr && owner + index == 0)
            (*seconds)[s] += std::chrono::duration<double>(Clock::now() - start).count();
    }
    if (pixels == 1) return;
    // Some pixels at a time, whose values the first cache holds.
    const Range mine = share(static_cast<int>(pixels), index, count);
    for (int begin = mine.begin; begin < mine.end; begin += kTransposedPixels) {
        const std::size_t first = sz(begin), end = sz(std::min(begin + kTransposedPixels, mine.end));
        for (std::size_t c = 0; c < channels; ++c) {
            for (std::size_t i = first; i < end; ++i) result[c * pixels + i] = pass.values[i * channels + c];
        }
    }
}

std::unique_ptr<Model::Context> Model::take_context(int threads) const {
    std::unique_ptr<Context> context;
    {
        const std::lock_guard<std::mutex> lock(g_contexts_mutex);
        if (contexts_ != nullptr) {
            context = std::move(contexts_);
            contexts_ = std::move(context->next);
        }
    }
    if (context == nullptr) context = std::make_unique<Context>();
    if (context->threads.size() >= sz(threads)) return context;
    while (context->threads.size() < sz(threads)) {
        Workspace& space = context->threads.emplace_back();
        for (auto [bytes, size] : {std::pair{&space.arena, arena_bytes_}, std::pair{&space.scratch, scratch_bytes_}}) {
            *bytes = AlignedBytes(size + overrun_bytes_);
            std::memset(bytes->data(), 0, bytes->size());
        }
        space.sources.resize(max_window_);
        if (result_height_ * result_width_ > 1)
            space.floats.resize(result_channels_ * sz(result_height_) * sz(result_width_));
    }
    const std::lock_guard<std::mutex> lock(g_contexts_mutex);
    ++allocations_;
    return context;
}

void Model::give_back(std::unique_ptr<Context> context) const {
    const std::lock_guard<std::mutex> lock(g_contexts_mutex);
    context->next = std::move(contexts_);
    contexts_ = std::move(context);
}

void Model::run_call(const std::int8_t* q_images, int batch, int threads, float* results,
                     std::vector<double>* seconds) const {
    threads = std::min(threads, max_threads());
    std::unique_ptr<Context> context = take_context(threads);
    Call call{*this, *context, q_images, batch, results, {}, seconds};
    run_parallel(
        threads, [](void* argument, int index, int count) { static_cast<Call*>(argument)->work(index, count); }, &call);
    give_back(std::move(context));
}

void Model::run(const std::int8_t* q_images, int batch, int threads, float* results) const {
    check(finished_, "the model is not finished");
    check(threads >= 1, "a call needs a thread");
    run_call(q_images, batch, threads, results, nullptr);
}

std::vector<StepTime> Model::profile(const std::int8_t* q_images, int batch, int threads, int rounds) const {
    check(finished_, "the model is not finished");
    check(threads >= 1 && batch >= 1 && rounds >= 1, "a measurement needs a thread, an image and a round");
    std::vector<float> results(sz(batch) * result_channels_ * sz(result_height_) * sz(result_width_));
    std::vector<std::vector<double>> all(steps_.size());
    for (int round = 0; round < rounds; ++round) {
        std::vector<double> seconds(steps_.size());
        run_call(q_images, batch, threads, results.data(), &seconds);
        for (std::size_t s = 0; s < steps_.size(); ++s) all[s].push_back(seconds[s]);
    }
    std::vector<StepTime> times;
    for (std::size_t s = 0; s < steps_.size(); ++s) {
        std::nth_element(all[s].begin(), all[s].begin() + rounds / 2, all[s].end());
        times.push_back({steps_[s].name, steps_[s].detail, steps_[s].macs * batch, all[s][sz(rounds / 2)]});
    }
    return times;
}

}  // namespace bitgear
