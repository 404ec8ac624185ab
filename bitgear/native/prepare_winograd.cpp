// Layers that take a form of Winograd's: estimates, transformed weights, and what is cut off from them.
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "prepare.h"

namespace bitgear {
namespace {

constexpr double kStridedShare = 0.8;                     // of the definition's products: the most for stride 2
constexpr std::size_t kSumsBytes = 26 * 1024;             // of all positions: most of a core's first cache
constexpr std::size_t kColumnBytes = 16 * 1024;           // of weights: half of a core's first cache
constexpr double kFloatWhole = 16777216.0;                // up to which all whole numbers are floats
constexpr std::size_t kWordsBytes = 5 * 1024 * 1024 / 4;  // of 16 bits: what a core's second cache holds, about

// How Winograd's form multiplies patches of so many groups: all positions of a column at a time, or one by one (null).
const WinogradColumns* winograd_columns(const WinogradForm& form, const WinogradKernels& kernels, const DotPath& dot,
                                        int groups) {
    const std::size_t column_bytes = sz(form.n + 2) * sz(groups) * sz(dot.max_blocks * kBlock * kGroup);
    return column_bytes <= kColumnBytes ? kernels.columns : nullptr;
}

// Sums that a tile leaves.
int sum_positions(const WinogradForm& form, const WinogradColumns* columns) {
    return columns != nullptr ? form.n * form.columns() : form.sums();
}

// Tiles that are multiplied together in Winograd's form.
int winograd_rows(const WinogradForm& form, const WinogradColumns* columns, const DotPath& dot) {
    const std::size_t row_bytes = sz(sum_positions(form, columns) * dot.max_blocks * kBlock) * sizeof(std::int32_t);
    const int unit = columns != nullptr ? columns->patches : 1, most = dot.max_rows;
    return std::clamp(static_cast<int>(kSumsBytes / row_bytes), std::min(8, most), most) / unit * unit;
}

// Tiles whose patches are at hand at the same time.
int winograd_strip(const WinogradForm& form, int channels, int tile_rows) {
    const std::size_t tile_bytes = sz(form.positions()) * sz(round_up(channels * form.operand_bytes, 64));
    const int fitting = static_cast<int>(kStripBytes / 2 / tile_bytes);
    return std::clamp(fitting / tile_rows * tile_rows, tile_rows, 8 * tile_rows);
}

bool suits(const WinogradForm& form, const Geometry& g) {
    return g.kernel == 3 && g.stride == form.stride && g.dilation == 1;
}

// What a form needs for results of that size.
Spare spare_of(const WinogradForm& form, int height, int width) {
    const auto missing = [&](int size, int side) { return form.stride * ((side - size % side) % side); };
    return {missing(height, form.n), missing(width, form.m)};
}

// What was cut off from a weight.
struct Excess {
    int column, channel, value;
};

// Groups of channels with weights that were cut off, for each group of columns and position; a group again where 127
// does not hold what was cut off. `excesses`: by position, columns ascending.
void pack_excess(WinogradWork& work, int channels, const std::vector<std::vector<Excess>>& excesses,
                 int group_columns) {
    const int positions = work.form->positions(), groups = ceil_div(channels, group_columns);
    const DotPath& dot = *work.product.dot;
    std::vector<std::size_t> starts;  // of weights and runs
    std::vector<std::uint8_t> weights;
    for (int group = 0; group < groups; ++group) {
        const int first = group * group_columns;
        const int blocks = std::min(group_columns, round_up(channels, kBlock) - first) / kBlock;
        for (int p = 0; p < positions; ++p) {
            std::map<int, std::vector<Excess>> by_group;  // of channels
            for (const Excess& e : excesses[sz(p)]) {
                if (e.column / group_columns == group) by_group[e.channel / kGroup].push_back(e);
            }
            std::vector<std::int8_t> codes;  // [extra group][column][kGroup]
            const std::size_t size = sz(group_columns * kGroup);
            const std::size_t first_run = work.excess_runs.size();
            for (auto& [input_group, left] : by_group) {
                while (!left.empty()) {
                    work.excess_runs.push_back({input_group * kGroup, 1});
                    codes.resize(codes.size() + size);
                    std::int8_t* extra = codes.data() + codes.size() - size;
                    std::vector<Excess> again;
                    for (Excess e : left) {
                        const int part = std::clamp(e.value, -kWinogradMaxWeight, kWinogradMaxWeight);
                        extra[(e.column - first) * kGroup + e.channel % kGroup] = static_cast<std::int8_t>(part);
                        if ((e.value -= part) != 0) again.push_back(e);
                    }
                    left = std::move(again);
                }
            }
            const int count = static_cast<int>(work.excess_runs.size() - first_run);
            const std::size_t block_bytes = count == 0 ? 0 : sz(count * dot.group_bytes) + kBlockTail;
            work.excess.push_back({count, nullptr, nullptr, block_bytes});
            starts.push_back(first_run);
            starts.push_back(weights.size());
            std::vector<std::int8_t> row(sz(kBlock * count * kGroup) + kOverrun);
            for (int b = 0; b < blocks && count > 0; ++b) {
                for (int c = 0; c < kBlock; ++c) {
                    for (int e = 0; e < count; ++e) {
                        std::memcpy(row.data() + (c * count + e) * kGroup,
                                    codes.data() + sz(e) * size + (b * kBlock + c) * kGroup, kGroup);
                    }
                }
                weights.resize(weights.size() + block_bytes);
                dot.pack(row.data(), sz(count * kGroup), count, weights.data() + weights.size() - block_bytes);
            }
        }
    }
    work.excess_weights = AlignedBytes(weights.size());
    std::copy(weights.begin(), weights.end(), work.excess_weights.data());
    for (std::size_t i = 0; i < work.excess.size(); ++i) {
        work.excess[i].runs = work.excess_runs.data() + starts[2 * i];
        work.excess[i].w = work.excess_weights.data() + starts[2 * i + 1];
    }
}

}  // namespace

Spare winograd_spare(const Geometry& geometry, int height, int width) {
    Spare most;
    for (const WinogradForm& form : kWinograd) {
        if (!suits(form, geometry)) continue;
        const Spare spare = spare_of(form, height, width);
        most = {std::max(most.bottom, spare.bottom), std::max(most.right, spare.right)};
    }
    return most;
}

Choice winograd_choice(const Layer& layer, const WinogradForm& form, const DotPath& dot) {
    const Isa& isa = layer.isa;
    const ConvSpec& spec = layer.spec;
    const FormRates& rates = layer.rates.forms[&form - kWinograd];
    const double mac = mac_ns(layer, dot, form.span() * spec.act_max, winograd_weight_bound(form, spec.weight_bits));
    const int positions = form.positions(), columns = round_up(layer.step.channels, kBlock);
    const double tiles = double((layer.height + form.n - 1) / form.n) * ((layer.width + form.m - 1) / form.m);
    const int groups = round_up(layer.in_channels, kGroup) * form.operand_bytes / kGroup;
    const WinogradColumns* by_columns = winograd_columns(form, isa.winograd[&form - kWinograd], dot, groups);
    const double pieces = std::ceil(tiles / winograd_rows(form, by_columns, dot));
    const double weights = double(columns) * round_up(layer.in_channels, kGroup) * positions;
    const double calls = form.sums() * pieces * std::ceil(double(layer.step.channels) / (dot.max_blocks * kBlock));
    const double in_vectors = std::ceil(double(layer.in_channels) * form.operand_bytes / isa.vector_bytes);
    const double out_vectors = columns * double(sizeof(std::int32_t)) / isa.vector_bytes;
    return {WinogradPath{&form, &dot},
            product_ns(layer, weights, tiles, pieces, mac, form.operand_bytes) +
                (by_columns != nullptr ? 0.0 : calls * dot_rates(layer, dot).call) +
                tiles * (positions * rates.patch * in_vectors +
                         form.sums() * (by_columns != nullptr ? rates.columns : rates.sums) * out_vectors) +
                tiles * form.n * form.m * columns * layer.rates.epilogue,
            weights * form.operand_bytes};
}

bool winograd_fits(const Layer& layer, const WinogradForm& form) {
    const ConvSpec& spec = layer.spec;
    const Buffer& input = layer.input;
    if (!suits(form, spec.geometry) || layer.in_channels > kWinogradMaxChannels) return false;
    const Spare spare = spare_of(form, layer.height, layer.width);
    const bool room = input.spare_bottom >= spare.bottom && input.spare_right >= spare.right;
    const std::size_t words = 2 * sz(form.positions()) * sz(layer.step.channels) * sz(layer.in_channels);
    // Of small maps tiles of stride 2 reach over the ends, and save too little for nearly three times the weights.
    const int tiles = round_up(layer.height, form.n) / form.n * (round_up(layer.width, form.m) / form.m);
    const bool saves =
        form.stride == 1 || double(tiles) * form.positions() <= kStridedShare * 9.0 * layer.height * layer.width;
    // Sums that are divided as floats must be whole there.
    const double most =
        double(form.odd_divisor()) * spec.act_max * (1 << (spec.weight_bits - 1)) * 9 * layer.in_channels;
    return room && (saves || !spec.path.empty()) &&
           (form.operand_bytes == 2 ? layer.isa.words != nullptr && (words <= kWordsBytes || !spec.path.empty())
                                    : form.span() * spec.act_max <= 255 && spec.weight_bits <= kWinogradMaxWeightBits &&
                                          most <= kFloatWhole);
}

std::optional<Prepared> prepare_winograd(const Layer& layer, const WinogradForm& form, const DotPath& dot) {
    const ConvSpec& spec = layer.spec;
    const Step& step = layer.step;
    const int positions = form.positions(), tile_pixels = form.n * form.m;
    // What a sum may be at most, in sums of positive or of negative weights.
    const double most = std::ldexp(1.0, 31 - form.twos()) / spec.act_max;
    const bool bounded = 9.0 * layer.in_channels * (1 << (spec.weight_bits - 1)) < most;
    WinogradWork work;
    work.form = &form;
    work.transforms = &layer.isa.winograd[&form - kWinograd];
    int largest = 0;
    for (int p = 0; p < positions; ++p) {
        const int shift = winograd_shift(form, p, spec.act_max);
        work.shifts[p] = static_cast<std::uint8_t>(shift);
        largest = std::max(largest, shift + winograd_reach(form, p, spec.act_max));
    }
    const int channels = layer.input.pixel_bytes;
    const int blocks = ceil_div(step.channels, kBlock);
    work.groups = channels * form.operand_bytes / kGroup;
    work.by_columns = winograd_columns(form, *work.transforms, dot, work.groups);
    Product& product = work.product;
    product.dot = &dot;
    product.block_bytes = sz(work.groups) * sz(dot.group_bytes) + kBlockTail;
    product.packed = AlignedBytes(sz(blocks * positions) * product.block_bytes);
    WindowRows rows(layer, 9, channels);
    std::vector<std::int8_t> codes(rows.row_bytes() + kOverrun);
    const std::size_t row_bytes = sz(positions * form.operand_bytes) * sz(channels);
    std::vector<std::int8_t> transformed(sz(kBlock) * row_bytes + kOverrun);
    std::vector<std::int32_t> sums(sz(blocks * kBlock * positions)), offset(sz(blocks * kBlock));
    std::vector<std::vector<Excess>> excesses(sz(positions));
    std::size_t excess_count = 0;
    int weight_max = 1;
    for (int b = 0; b < blocks; ++b) {
        for (int r = 0; r < kBlock; ++r) {
            const int o = b * kBlock + r;
            rows.fill(o, 1, codes.data());
            std::int8_t* row = transformed.data() + sz(r) * row_bytes;
            const int extreme = work.transforms->weights(codes.data(), channels, row);
            weight_max = std::max(weight_max, std::min(extreme, kWinogradMaxWeight));
            std::int32_t tap_sums[9];
            for (int t = 0; t < 9; ++t) tap_sums[t] = sum_of(codes.data() + t * channels, sz(channels));
            if (!bounded && largest_sum(codes.data(), sz(9 * channels)) >= most) return std::nullopt;
            if (spec.zero != 0) offset[sz(o)] = -spec.zero * std::accumulate(tap_sums, tap_sums + 9, 0);
            for (int p = 0; p < positions; ++p) sums[sz(o * positions + p)] = winograd_weight(form, p, tap_sums, 1);
            if (form.operand_bytes == 2 || extreme <= kWinogradMaxWeight) continue;
            for (int p = 0; p < positions; ++p) {
                const std::int8_t* weights = row + p * channels;
                bool any = false;  // hardly ever
                for (int c = 0; c < channels; ++c)
                    any |= weights[c] == kWinogradMaxWeight || weights[c] == -kWinogradMaxWeight;
                if (!any) continue;
                for (int c = 0; c < channels; ++c) {
                    if (std::abs(weights[c]) != kWinogradMaxWeight) continue;
                    const int excess = winograd_weight(form, p, codes.data() + c, channels) - weights[c];
                    if (excess == 0) continue;
                    excesses[sz(p)].push_back({o, c, excess});
                    ++excess_count;
                }
            }
        }
        if (excess_count * kExcessShare > sz(step.channels) * row_bytes) return std::nullopt;  // not worth it
        if (work.by_columns != nullptr) {
            work.by_columns->pack(transformed.data(), row_bytes, work.groups,
                                  product.packed.data() + sz(b * positions) * product.block_bytes);
            continue;
        }
        for (int s = 0; s < form.sums(); ++s) {
            const int p = form.first_position(s), together = form.first_position(s + 1) - p;
            dot.pack(transformed.data() + sz(p * channels * form.operand_bytes), row_bytes, together * work.groups,
                     product.packed.data() + sz(b * positions + p) * product.block_bytes);
        }
    }
    product.period = period_of(dot, largest, weight_max);
    work.tile_rows = winograd_rows(form, work.by_columns, dot);
    const int group_columns = dot.max_blocks * kBlock;
    const int groups = ceil_div(step.channels, group_columns);
    work.correction.assign(sz(groups * tile_pixels * group_columns), 0);
    for (int o = 0; o < step.channels; ++o) {
        for (int i = 0; i < tile_pixels; ++i) {
            work.correction[sz((o / group_columns * tile_pixels + i) * group_columns + o % group_columns)] =
                static_cast<std::int32_t>(winograd_correction(form, i, sums.data() + sz(o * positions), work.shifts) -
                                          std::int64_t{form.divisor()} * offset[sz(o)]);  // modulo 2^32
        }
    }
    pack_excess(work, step.channels, excesses, group_columns);

    work.strip_tiles = winograd_strip(form, channels, work.tile_rows);
    WinogradScratch& scratch = work.scratch;
    scratch.patch_bytes = sz(round_up(channels * form.operand_bytes, 64));
    scratch.position_bytes = scratch.patch_bytes * sz(work.strip_tiles) + kPositionGap;
    for (int s = 0; s < form.sums(); ++s) {
        for (int p = form.first_position(s); p < form.first_position(s + 1); ++p)
            product.runs.push_back(
                {(p - form.first_position(s)) * static_cast<int>(scratch.position_bytes), work.groups});
    }
    scratch.sums = sz(positions) * scratch.position_bytes + kSlackBytes;
    scratch.acc =
        scratch.sums + sizeof(std::int32_t) * sz(sum_positions(form, work.by_columns) * work.tile_rows * group_columns);
    Prepared prepared;
    prepared.detail = std::string(form.name) + " " + dot.name;
    prepared.resident_bytes = product.packed.size() + work.correction.size() * sizeof(std::int32_t) +
                              work.excess_weights.size() + product.runs.size() * sizeof(Run);
    prepared.scratch_bytes = scratch.acc + sizeof(std::int32_t) * sz(form.n * kMaxRows * group_columns);
    prepared.work = std::move(work);
    return prepared;
}

}  // namespace bitgear
