// Layers that are looked up: estimates, packed weights, and where tables or indices go.
#include <cmath>
#include <utility>

#include "prepare.h"

namespace bitgear {
namespace {

constexpr std::size_t kNearTablesBytes = 32 * 1024;  // look-up tables that stay in a core's first cache
constexpr int kResultInputs = 40;                    // of a sum that tables may hold, if weights are as large as most
constexpr int kReachSteps = 4;                       // groups of which it is known at once how far sums may grow

// Adds to each unit of kReachSteps groups of a tap how far a channel's sum may grow, of a row of 2-bit codes [tap][3 *
// groups]; `reach`: [tap][unit][column]. Returns the sum of the codes' magnitudes.
std::int32_t add_reach(const std::int8_t* row, int taps, int groups, std::uint8_t* reach) {
    constexpr std::uint64_t kLowest = 0x0101010101010101u;
    std::int32_t sum = 0;
    for (int t = 0; t < taps; ++t, row += kPixelLutInputs * groups) {
        for (int g = 0; g < groups; g += kReachSteps, reach += kPixelLutColumns) {
            const std::size_t n = sz(std::min(kReachSteps, groups - g));
            std::uint32_t codes[4] = {};
            for (int i = 0; i < kPixelLutInputs; ++i) std::memcpy(&codes[i], row + i * groups + g, n);
            std::uint64_t words[2];
            std::memcpy(words, codes, sizeof words);
            int magnitude = 0;
            for (const std::uint64_t word : words) {  // codes 0, 1, -2 and -1: of 2 bits, the lower one alone counts 1
                const std::uint64_t low = word & kLowest, high = word >> 1 & kLowest;
                magnitude += __builtin_popcountll(low) + 2 * __builtin_popcountll(high & ~low);
            }
            sum += magnitude;
            *reach = static_cast<std::uint8_t>(kPixelLutMaxAct * magnitude);
        }
    }
    return sum;
}

// How indices of the rows that `rows` rows of a step's output read lie. Of stride 1 whole rows of the input do, borders
// included, so that they are one stretch of pixels.
PixelGrid pixel_grid(const Layer& layer, int rows) {
    const Geometry& g = layer.spec.geometry;
    const int reach = g.dilation * (g.kernel - 1);
    PixelGrid grid;
    grid.row_pixels = g.stride == 1 ? layer.input.row_pixels() : layer.width + reach / g.stride;
    grid.phase_rows = rows + reach / g.stride;
    grid.phases.assign(sz(g.stride * g.stride), -1);
    for (int y = 0; y <= reach; y += g.dilation) {
        for (int x = 0; x <= reach; x += g.dilation) grid.phases[sz(y % g.stride * g.stride + x % g.stride)] = 0;
    }
    std::int32_t at = 0;
    for (std::int32_t& phase : grid.phases) {
        if (phase < 0) continue;
        phase = at;
        at += grid.phase_rows * grid.row_pixels;
    }
    return grid;
}

// Phases that are read.
int phase_count(const PixelGrid& grid) {
    return static_cast<int>(
        std::count_if(grid.phases.begin(), grid.phases.end(), [](std::int32_t phase) { return phase >= 0; }));
}

// Bytes of a group's indices: vectors reach over the last pixel's, and over those of taps beside it.
std::size_t index_bytes(const PixelGrid& grid) {
    return sz(round_up(phase_count(grid) * grid.phase_rows * grid.row_pixels + kPixelLutLanes, kPixelLutLanes));
}

// Whether 32 bits count the indices of a picture, and those of all groups that a row of the output reads.
bool indices_fit(const Layer& layer) {
    const Geometry& g = layer.spec.geometry;
    const int reach = g.dilation * (g.kernel - 1) / g.stride;
    const double row = double(g.stride * g.stride) * (g.stride == 1 ? layer.input.row_pixels() : layer.width + reach);
    const double groups = std::ceil(double(layer.in_channels) / kPixelLutInputs);
    return (layer.height + reach) * row <= kMostPixels && groups * (1 + reach) * row <= kMostPixels;
}

// The stretches of a block of columns: a tap's groups, or as many as sums have room for.
void add_stretches(PixelLutWork& work, const std::vector<std::uint8_t>& reach) {
    const Geometry& g = work.geometry;
    const int groups = work.groups, steps = g.kernel * g.kernel * groups;
    PixelLutColumns columns{static_cast<int>(work.stretches.size()), 0, true, -1};
    std::vector<int> counts;  // steps before which carries are counted
    std::uint16_t grown[kPixelLutColumns] = {}, most = 0;
    const int tap_units = (groups + kReachSteps - 1) / kReachSteps;
    for (int unit = 0; unit < g.kernel * g.kernel * tap_units; ++unit) {
        const std::uint8_t* more = reach.data() + sz(unit) * kPixelLutColumns;
        most = 0;
        for (int c = 0; c < kPixelLutColumns; ++c) {
            grown[c] = static_cast<std::uint16_t>(grown[c] + more[c]);
            most = std::max(most, grown[c]);
        }
        if (most <= kPixelLutMostSum) continue;
        counts.push_back(unit / tap_units * groups + unit % tap_units * kReachSteps);
        for (int c = 0; c < kPixelLutColumns; ++c) grown[c] = more[c];
    }
    columns.narrow = counts.empty();
    if (columns.narrow && most < kPixelLutResults) columns.results = 0;
    counts.push_back(steps);
    auto next = counts.begin();
    for (int k = 0; k < steps;) {
        const int tap = k / groups, y = tap / g.kernel * g.dilation, x = tap % g.kernel * g.dilation;
        const int end = std::min((tap + 1) * groups, *next);
        const std::int32_t offset = work.grid.phases[sz(y % g.stride * g.stride + x % g.stride)] +
                                    y / g.stride * work.grid.row_pixels + x / g.stride +
                                    (k - tap * groups) * static_cast<std::int32_t>(work.index_group_bytes);
        work.stretches.push_back({offset, end - k, end == *next});
        if (end == *next) ++next;
        k = end;
    }
    columns.stretch_count = static_cast<int>(work.stretches.size()) - columns.first_stretch;
    work.columns_of.push_back(columns);
}

// Tables of the bytes of all sums that there can be, for columns that have few of them.
void add_results(const Layer& layer, const std::vector<std::int32_t>& offset, PixelLutWork& work) {
    const Values& values = layer.step.values;
    const std::vector<Output>& outputs = layer.step.outputs;
    const bool fits = values.residual.buffer < 0 && !layer.step.result && outputs.size() <= kPixelLutOutputs;
    const std::size_t output_bytes = kPixelLutColumns * kPixelLutResults;
    std::size_t count = 0;
    for (PixelLutColumns& columns : work.columns_of) {
        if (columns.results >= 0)
            columns.results = fits ? static_cast<std::ptrdiff_t>(count++ * outputs.size() * output_bytes) : -1;
    }
    if (count == 0) return;
    work.results = AlignedBytes(count * outputs.size() * output_bytes);
    std::int32_t acc[kPixelLutColumns];
    std::uint8_t bytes[kPixelLutOutputs][kPixelLutColumns];
    std::uint8_t* out[kPixelLutOutputs * kMaxRows] = {};
    const Quantizer* quantizers[kPixelLutOutputs] = {};
    EpilogueTile tile{};
    tile.rows = 1;
    tile.acc = acc;
    tile.offset = offset.data();
    tile.multiplier = values.multiplier.data();
    tile.bias = values.bias.empty() ? nullptr : values.bias.data();
    tile.floor = values.floor;
    tile.ceiling = values.ceiling;
    tile.outputs = static_cast<int>(outputs.size());
    tile.quantizers = quantizers;
    tile.out = out;
    for (std::size_t group = 0; group < work.columns_of.size(); ++group) {
        if (work.columns_of[group].results < 0) continue;
        tile.column = static_cast<int>(group) * kPixelLutColumns;
        tile.columns = std::min(kPixelLutColumns, layer.step.channels - tile.column);
        for (std::size_t o = 0; o < outputs.size(); ++o) {
            quantizers[o] = &outputs[o].quantizer;
            out[o * kMaxRows] = bytes[o] - tile.column;
        }
        for (int sum = 0; sum < kPixelLutResults; ++sum) {
            std::fill(acc, acc + kPixelLutColumns, sum);
            layer.isa.epilogue(tile);
            std::uint8_t* table = work.results.data() + work.columns_of[group].results + sum;
            for (std::size_t o = 0; o < outputs.size(); ++o, table += output_bytes) {
                for (int c = 0; c < tile.columns; ++c) table[c * kPixelLutResults] = bytes[o][c];
            }
        }
    }
}

}  // namespace

bool lut_fits(const Layer& layer, const LutPath& lut) {
    const ConvSpec& spec = layer.spec;
    const std::size_t pixel_bytes = sz(ceil_div(layer.in_channels, lut.inputs)) * sz(lut.table_bytes);
    const std::size_t row_bytes = pixel_bytes * sz(layer.input.row_pixels());
    return spec.weight_bits == lut.planes && spec.act_max <= lut.max_act &&
           offsets_fit(spec.geometry, row_bytes, pixel_bytes);
}

bool pixel_lut_fits(const Layer& layer) {
    const ConvSpec& spec = layer.spec;
    const double most = double(layer.in_channels) * spec.geometry.kernel * spec.geometry.kernel *
                        (1 << (spec.weight_bits - 1)) * kPixelLutMaxAct;  // of a sum
    const bool quick = !layer.step.result &&
                       layer.step.outputs.size() <= kPixelLutOutputs;  // all else goes through memory, sum by sum
    return (quick || !spec.path.empty()) && spec.weight_bits == kPixelLutBits && spec.act_max <= kPixelLutMaxAct &&
           spec.geometry.stride <= 8 && most <= UINT16_MAX && indices_fit(layer);
}

Choice lut_choice(const Layer& layer, const LutPath& lut) {
    const LutRates& rates = layer.rates.luts[sz(static_cast<int>(&lut - layer.isa.luts))];
    const Buffer& input = layer.input;
    const Geometry& g = layer.spec.geometry;
    const int taps = g.kernel * g.kernel, columns = round_up(layer.step.channels, lut.columns);
    const double pixels = double(layer.height) * layer.width;
    const double groups = std::ceil(double(layer.in_channels) / lut.inputs);
    const double weights = groups * lut.inputs * columns * taps;
    const double tables = double(input.row_pixels()) * (input.top + input.height + input.bottom) * groups;
    const double pieces = std::ceil(pixels / lut.max_rows), calls = pieces * columns / lut.columns;
    const double bytes = double(lut.group_bytes) / (lut.inputs * lut.columns);
    return {&lut,
            product_ns(layer, weights, pixels, pieces, rates.mac, bytes) + tables * rates.table + calls * rates.call +
                pixels * columns * rates.finish,
            weights * bytes};
}

Choice pixel_lut_choice(const Layer& layer, const PixelLutPath& lut) {
    const PixelLutRates& rates = layer.rates.pixel_lut;
    const Geometry& g = layer.spec.geometry;
    const bool residual = layer.spec.residual.buffer >= 0;
    const PixelGrid grid = pixel_grid(layer, layer.height);
    const int groups = ceil_div(layer.in_channels, kPixelLutInputs);
    const double vectors = std::ceil(double((layer.height - 1) * grid.row_pixels + layer.width) / kPixelLutLanes);
    const double indexed =
        g.stride == 1 ? round_up(grid.phase_rows * grid.row_pixels, kPixelLutLanes)
                      : double(phase_count(grid)) * grid.phase_rows * round_up(grid.row_pixels, kPixelLutLanes);
    const double columns = round_up(layer.step.channels, kPixelLutChannels);
    const double weights = columns * groups * kPixelLutInputs * g.kernel * g.kernel;
    const bool results = layer.in_channels * g.kernel * g.kernel <= kResultInputs && !residual;
    // Readers, and a residual: each takes about as long as the first reader.
    const std::size_t finished = std::max(layer.step.outputs.size(), std::size_t{1}) + (residual ? 1 : 0);
    return {&lut,
            product_ns(layer, weights, vectors * kPixelLutLanes, std::ceil(vectors / kPixelLutVectors),
                       vectors > 1 ? rates.mac : rates.single, 1.0 / kPixelLutInputs) +
                indexed * round_up(groups, kPixelLutIndexed) * rates.index +
                vectors * kPixelLutLanes * columns * (results ? rates.results : rates.finish) * double(finished),
            weights / kPixelLutInputs};
}

Prepared prepare_lut(const Layer& layer, const LutPath& lut) {
    const Step& step = layer.step;
    const Geometry& g = layer.spec.geometry;
    const std::int32_t zero = layer.spec.zero;
    const int tap_channels = round_up(layer.in_channels, lut.inputs);
    const int taps = g.kernel * g.kernel;
    const int blocks = ceil_div(step.channels, lut.columns);
    Prepared prepared;
    LutWork work;
    work.lut = &lut;
    work.geometry = g;
    work.groups = tap_channels / lut.inputs;
    work.block_bytes = sz(taps) * sz(work.groups) * sz(lut.group_bytes);
    work.packed = AlignedBytes(sz(blocks) * work.block_bytes);
    WindowRows rows(layer, taps, tap_channels);
    std::vector<std::int8_t> codes(sz(lut.columns) * rows.row_bytes() + kOverrun);
    // All taps go over some groups before the next ones follow: neighbouring pixels share tables, which by then are
    // still in the first cache.
    const std::size_t window = sz(g.kernel) * (sz(lut.max_rows - 1) * sz(g.stride) + sz(g.kernel));
    const int near = std::max(static_cast<int>(kNearTablesBytes / (window * sz(lut.table_bytes))), 1);
    const int chunks = taps == 1 ? 1 : (work.groups + near - 1) / near;
    const auto chunk_begin = [&](int chunk) { return work.groups * chunk / chunks; };
    prepared.offset.resize(sz(blocks * lut.columns));
    for (int b = 0; b < blocks; ++b) {
        rows.fill(b * lut.columns, lut.columns, codes.data());
        std::uint8_t* packed = work.packed.data() + sz(b) * work.block_bytes;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const int first = chunk_begin(chunk), groups = chunk_begin(chunk + 1) - first;
            for (int t = 0; t < taps; ++t, packed += groups * lut.group_bytes)
                lut.pack(codes.data() + t * tap_channels + first * lut.inputs, rows.row_bytes(), groups, packed);
        }
        if (zero == 0) continue;
        for (int r = 0; r < lut.columns; ++r) {
            prepared.offset[sz(b * lut.columns + r)] =
                -zero * sum_of(codes.data() + sz(r) * rows.row_bytes(), rows.row_bytes());
        }
    }

    // Tables of the input rows that a strip of output rows reads; as many output rows as have room.
    work.table_pixel_bytes = sz(work.groups) * sz(lut.table_bytes);
    work.table_row_bytes = work.table_pixel_bytes * sz(layer.input.row_pixels());
    const int extent = g.dilation * (g.kernel - 1) + 1;
    const auto table_bytes = [&](int rows) { return work.table_row_bytes * sz((rows - 1) * g.stride + extent); };
    while (work.strip_rows < step.height && table_bytes(work.strip_rows + 1) <= kStripBytes) ++work.strip_rows;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int first = chunk_begin(chunk), groups = chunk_begin(chunk + 1) - first;
        for (int t = 0; t < taps; ++t) {
            const std::size_t tap = sz(t / g.kernel * g.dilation) * work.table_row_bytes +
                                    sz(t % g.kernel * g.dilation) * work.table_pixel_bytes +
                                    sz(first) * sz(lut.table_bytes);
            work.runs.push_back({static_cast<std::int32_t>(tap), groups});
        }
    }
    work.table_bytes = (table_bytes(work.strip_rows) + 63) / 64 * 64;
    prepared.detail = lut.name;
    prepared.resident_bytes = work.packed.size() + work.runs.size() * sizeof(Run);
    prepared.scratch_bytes = work.table_bytes + sizeof(std::int32_t) * kMaxRows * kLutColumnsMax;
    prepared.work = std::move(work);
    return prepared;
}

// All columns of a block have their carries counted behind the same steps.
Prepared prepare_pixel_lut(const Layer& layer, const PixelLutPath& lut) {
    const ConvSpec& spec = layer.spec;
    const Step& step = layer.step;
    const Geometry& g = spec.geometry;
    const int tap_channels = round_up(layer.in_channels, kPixelLutInputs);
    const int taps = g.kernel * g.kernel;
    const int columns = round_up(step.channels, kPixelLutChannels);
    Prepared prepared;
    PixelLutWork work;
    work.lut = &lut;
    work.geometry = g;
    work.groups = tap_channels / kPixelLutInputs;
    const int steps = taps * work.groups;
    // As many rows as have room for their indices.
    while (work.strip_rows < step.height &&
           sz(work.groups) * index_bytes(pixel_grid(layer, work.strip_rows + 1)) <= kStripBytes / 2)
        ++work.strip_rows;
    work.grid = pixel_grid(layer, work.strip_rows);
    work.index_group_bytes = index_bytes(work.grid);
    work.index_bytes = (sz(work.groups) * work.index_group_bytes + kSlackBytes + 63) / 64 * 64;

    work.block_bytes = sz(steps) * kPixelLutChannels;
    work.packed = AlignedBytes(sz(columns / kPixelLutChannels) * work.block_bytes);
    WindowRows rows(layer, taps, tap_channels);
    std::vector<std::int8_t> codes(sz(kPixelLutChannels) * rows.row_bytes() + kOverrun);
    const int units = taps * ((work.groups + kReachSteps - 1) / kReachSteps);
    std::vector<std::uint8_t> reach(sz(units) * kPixelLutColumns);  // [unit][column]
    std::int32_t largest = 0;                                       // sum of an output channel's weights of one sign
    prepared.offset.resize(step.values.offset.size());
    for (int first = 0; first < columns; first += kPixelLutColumns) {
        const int end = std::min(first + kPixelLutColumns, columns);
        std::fill(reach.begin(), reach.end(), std::uint8_t{0});
        for (int c = first; c < end; c += kPixelLutChannels) {
            rows.fill(c, kPixelLutChannels, codes.data());
            lut.pack(codes.data(), rows.row_bytes(), taps, work.groups,
                     work.packed.data() + sz(c / kPixelLutChannels) * work.block_bytes);
            for (int r = 0; r < kPixelLutChannels; ++r) {
                const std::int8_t* row = codes.data() + sz(r) * rows.row_bytes();
                const std::int32_t sum = sum_of(row, sz(steps * kPixelLutInputs));
                const std::int32_t magnitudes = add_reach(row, taps, work.groups, reach.data() + (c + r - first));
                const std::int32_t negative = (magnitudes - sum) / 2;
                largest = std::max(largest, std::max(negative, negative + sum));
                prepared.offset[sz(c + r)] = -spec.zero * sum - kPixelLutMaxAct * negative;
            }
        }
        add_stretches(work, reach);
    }
    prepared.largest_sum = largest * 2.0 * std::max(spec.zero, spec.act_max - spec.zero);
    add_results(layer, prepared.offset, work);
    prepared.detail = lut.name;
    prepared.resident_bytes =
        work.packed.size() + work.stretches.size() * sizeof(PixelLutStretch) + work.results.size();
    const std::size_t sums = 2 * kPixelLutColumns * sz(kPixelLutVectors * kPixelLutLanes);
    prepared.scratch_bytes =
        work.index_bytes + sums + step.values.multiplier.size() + sizeof(std::int32_t) * kPixelLutColumns;
    prepared.work = std::move(work);
    return prepared;
}

}  // namespace bitgear
