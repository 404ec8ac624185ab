// From sums to the bytes of their readers: by the epilogue, and by multiplications and look-ups that go on to bytes
// themselves.
#include "checks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "support.h"

namespace bitgear::checks {

namespace {

float next(float x, int steps) {
    for (; steps > 0; --steps) x = std::nextafterf(x, std::numeric_limits<float>::infinity());
    for (; steps < 0; ++steps) x = std::nextafterf(x, -std::numeric_limits<float>::infinity());
    return x;
}

// How the values of an epilogue come about.
enum class Values {
    boundary,  // on and next to rounding boundaries (k + 0.5) * scale
    ties,      // exact multiples of half a scale, from sums, biases and residuals
    random,
    large,  // sums beyond 2^24, values beyond every range
};

// Windows and weights of a multiplication, and its sums.
struct Products {
    Products(const DotPath& path, int rows, int columns, bool equal_rows, Input* memory, Random& random) {
        const bool is_long = random.between(0, 15) == 0;  // of several runs, where those are short
        const int groups = is_long ? random.between(10, kMostGroups) : random.between(1, 9), inputs = groups * kGroup;
        const std::size_t pitch = sz(inputs + kGroup * random.between(0, 2));
        const std::size_t gap = path.places > 0 ? sz(random.between(0, 2)) : 0;  // in the middle, of windows
        std::uint8_t* acts = memory[0].place((sz(rows - 1) + gap) * pitch + sz(inputs), row_slack(path, pitch), random);
        for (int r = 0; r < rows; ++r) {
            std::uint8_t* row = acts + (sz(r) + (r > rows / 2 ? gap : 0)) * pitch;
            for (int k = 0; k < inputs; ++k) row[k] = static_cast<std::uint8_t>(random.between(0, is_long ? 3 : 15));
            if (equal_rows) std::memcpy(row, acts, sz(inputs));
            a[r] = row;
        }
        if (rows < kMaxRows) a[rows] = a[rows - 1];
        const int blocks = ceil_div(columns, kBlock), padded = blocks * kBlock;
        std::vector<std::int8_t> weights(sz(padded) * sz(inputs));
        const bool two_bits = !path.exact(15, 4);
        for (int i = 0; i < columns * inputs; ++i)
            weights[sz(i)] = static_cast<std::int8_t>(two_bits ? random.between(-2, 1) : random.between(-3, 3));
        runs = cut(path, {{0, groups}});
        tile.block_bytes = run_bytes(path, {0, groups}) + kBlockTail;
        std::uint8_t* packed = memory[1].place(sz(blocks) * tile.block_bytes, 0, random);
        for (int b = 0; b < blocks; ++b) {
            pack_runs(path, runs, weights.data() + sz(b * kBlock * inputs), sz(inputs),
                      packed + sz(b) * tile.block_bytes);
        }
        tile.rows = rows;
        tile.row_step = pitch;
        tile.alone = random.coin();
        tile.blocks = blocks;
        tile.a = a;
        tile.runs = runs.data();
        tile.run_count = static_cast<int>(runs.size());
        tile.w = packed;
        tile.period = path.period != nullptr ? path.period(15, 3) : 0;
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < padded; ++c) {
                std::int32_t sum = 0;
                for (int k = 0; k < inputs; ++k) sum += a[r][k] * weights[sz(c * inputs + k)];
                sums.push_back(sum);
            }
        }
    }
    Products(const Products&) = delete;
    Products& operator=(const Products&) = delete;

    static int columns_of_block(const DotPath&) { return kBlock; }
    static constexpr int kMostGroups = 48;

    const std::uint8_t* a[kMaxRows];
    std::vector<Run> runs;
    DotTile tile{};
    std::vector<std::int32_t> sums;  // [row][column], padded to whole blocks; at most 48 * 4 * 3 * 3
};

// The same of a look-up in tables.
struct LookUps {
    LookUps(const LutPath& path, int rows, int columns, bool equal_rows, Input* memory, Random& random) {
        const int groups = random.between(1, 9), inputs = groups * path.inputs;
        std::uint8_t* acts = memory[0].place(sz(rows) * sz(inputs), kSlackBytes, random);
        for (int r = 0; r < rows; ++r) {
            std::uint8_t* row = acts + sz(r) * sz(inputs);
            for (int k = 0; k < inputs; ++k) row[k] = static_cast<std::uint8_t>(random.between(0, path.max_act));
            if (equal_rows) std::memcpy(row, acts, sz(inputs));
        }
        tables.resize(sz(rows) * sz(groups) * sz(path.table_bytes));
        path.tables(acts, rows, sz(inputs), groups, tables.data());
        for (int r = 0; r < rows; ++r) first[r] = &tables[sz(r) * sz(groups) * sz(path.table_bytes)];
        std::vector<std::int8_t> weights(sz(path.columns) * sz(inputs) + kSlackBytes);
        for (int i = 0; i < columns * inputs; ++i) weights[sz(i)] = static_cast<std::int8_t>(random.between(-2, 1));
        std::uint8_t* packed = memory[1].place(sz(groups) * sz(path.group_bytes), 0, random);
        path.pack(weights.data(), sz(inputs), groups, packed);
        run = {0, groups};
        tile.rows = rows;
        tile.tables = first;
        tile.runs = &run;
        tile.run_count = 1;
        tile.w = packed;
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < path.columns; ++c) {
                std::int32_t sum = 0;
                for (int k = 0; k < inputs; ++k) sum += acts[sz(r * inputs + k)] * weights[sz(c * inputs + k)];
                sums.push_back(sum);
            }
        }
    }
    LookUps(const LookUps&) = delete;
    LookUps& operator=(const LookUps&) = delete;

    static int columns_of_block(const LutPath& path) { return path.columns; }

    std::vector<std::uint8_t> tables;
    const std::uint8_t* first[kMaxRows];
    Run run;
    LutTile tile{};
    std::vector<std::int32_t> sums;  // [row][column of the block]
};

template <class Path>
struct SumsOf;
template <>
struct SumsOf<DotPath> {
    using Type = Products;
};
template <>
struct SumsOf<LutPath> {
    using Type = LookUps;
};

int quick_outputs(const DotPath& path) { return path.quick_outputs; }
int quick_outputs(const LutPath&) { return 2; }
bool needs_inverse(const DotPath& path) { return path.inverts; }
bool needs_inverse(const LutPath&) { return false; }

// `path`: null, or the multiplication that makes the sums and is to quantise them as well.
template <class Path>
void check_epilogue_case(const Isa& isa, const Path* path, int rows, int columns, Values values, int options,
                         Input* memory, Random& random, Line& line) {
    const bool exact_value = values == Values::boundary;
    const bool with_bias = !exact_value && (options & 1) != 0, with_residual = !exact_value && (options & 2) != 0;
    const bool relu = (options & 4) != 0, with_clip = (options & 8) != 0,
               with_floats = path == nullptr && (options & 16) != 0;
    int outputs = random.coin() ? random.between(0, 3) : random.pick<int>({1, 1, 1, kMaxOutputs});
    if (path != nullptr) outputs = random.between(1, quick_outputs(*path));
    using Sums = typename SumsOf<Path>::Type;
    const int padded = round_up(columns, path != nullptr ? Sums::columns_of_block(*path) : kBlock);

    Quantizer quantizers[kMaxOutputs] = {};
    const Quantizer* pointers[kMaxOutputs];
    for (int o = 0; o < kMaxOutputs; ++o) pointers[o] = &quantizers[o];
    const float scale = values == Values::ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
    for (int o = 0; o < outputs; ++o) {
        Quantizer& q = quantizers[o];
        q.scale = o == 0 ? scale : scale * (values == Values::ties ? 2.0f : 0.5f + 2.0f * random.uniform());
        if (values == Values::large) q.scale = random.power_of_two(-100, 100);
        const int bits = random.between(2, 8);
        q.zero = random.coin() ? 0 : 1 << (bits - 1);
        q.low = -q.zero;
        q.high = (1 << bits) - 1 - q.zero;
    }

    const int stride = padded + kBlock * random.between(0, 2);
    const auto ints = [&](Input& m, int count) {
        return reinterpret_cast<std::int32_t*>(m.place(sz(count) * 4, 0, random));
    };
    std::int32_t* acc = ints(memory[0], (rows - 1) * stride + padded);
    std::int32_t* offset = ints(memory[1], padded);
    auto* multiplier = reinterpret_cast<float*>(ints(memory[2], padded));
    auto* bias = reinterpret_cast<float*>(ints(memory[3], padded));
    const std::size_t residual_pitch = sz(columns) + sz(random.between(0, 5));
    std::uint8_t* residual = memory[4].place(sz(rows - 1) * residual_pitch + sz(columns), kSlackBytes, random);
    const std::uint8_t* residual_rows[kMaxRows] = {};
    for (int r = 0; r < rows; ++r) residual_rows[r] = residual + sz(r) * residual_pitch;

    std::optional<Sums> products;
    if (path != nullptr) products.emplace(*path, rows, columns, exact_value, memory + 5, random);

    const std::int32_t residual_zero = random.coin() ? 0 : 128;
    float residual_scale = 0.0f, clip = std::numeric_limits<float>::infinity();
    if (with_clip) clip = random.coin() ? 6.0f : scale * static_cast<float>(random.between(1, 260));
    for (int c = 0; c < padded; ++c) {
        offset[c] = random.coin() ? 0 : random.between(-1000000, 1000000);
        bias[c] = scale * (random.uniform() - 0.5f) * 20.0f;
        const float sign = random.coin() ? 1.0f : -1.0f;
        int low = -2000, high = 2000;
        switch (values) {
            case Values::boundary: {
                const int k = random.between(0, 3) == 0 ? random.between(-1030, 1030) : random.between(-140, 270);
                multiplier[c] = next((static_cast<float>(k) + (random.between(0, 7) == 0 ? 0.0f : 0.5f)) * scale,
                                     random.between(-3, 3));
                low = high = 1;  // the value is the multiplier
                break;
            }
            case Values::ties:
                multiplier[c] = sign * scale * 0.5f;
                bias[c] = scale * 0.5f * static_cast<float>(random.between(-9, 9));
                residual_scale = scale * 0.5f;
                low = -300, high = 300;
                break;
            case Values::random:
                multiplier[c] = sign * scale * 0.2f * random.uniform();
                residual_scale = scale * 2.0f * 0.731f;
                break;
            case Values::large:
                multiplier[c] = random.between(0, 9) == 0 ? 0.0f : sign * random.power_of_two(-100, 100);
                residual_scale = random.power_of_two(-100, 100);
                low = -2000000000, high = 2000000000;
                break;
        }
        if (products) offset[c] = exact_value ? 1 - products->sums[sz(c)] : random.between(-300, 300);
        for (int r = 0; r < rows; ++r) {
            acc[r * stride + c] = products ? products->sums[sz(r * padded + c)] : random.between(low, high) - offset[c];
        }
    }

    // As a model is prepared. Every quantizer that may be quick is, but for some that are not told.
    const float floor = relu ? 0.0f : -std::numeric_limits<float>::infinity();
    std::vector<float> quick(2 * sz(padded) * sz(std::max(outputs, 1)));
    const bool told = random.between(0, 3) > 0;
    for (int o = 0; o < outputs; ++o) {
        Quantizer& q = quantizers[o];
        float* quick_multiplier = quick.data() + 2 * sz(padded) * sz(o);
        bound_quantizer(q, floor, clip);
        quicken(q, multiplier, with_bias ? bias : nullptr, columns, padded, with_residual ? residual_scale : 0.0f,
                residual_zero, values == Values::large ? 2000000000.0 : 2000.0, quick_multiplier,
                quick_multiplier + padded);
        q.quick &= told;
        q.inverts = isa.inverts != nullptr && isa.inverts(q);
        if (path != nullptr && !q.bounded) return;
        if (path != nullptr && needs_inverse(*path) && !q.inverts) return;
    }

    // Rows of outputs stand in one buffer with bytes of others between them.
    const std::size_t out_pitch = sz(columns) + sz(random.between(0, 7));
    Output bytes(sz(std::max(outputs, 1) * rows) * out_pitch + 1);
    Output floats(sz(rows) * out_pitch * sizeof(float));
    std::uint8_t* out[kMaxOutputs * kMaxRows] = {};
    float* float_rows[kMaxRows] = {};
    for (int r = 0; r < rows; ++r) {
        float_rows[r] = floats.as<float>() + sz(r) * out_pitch;
        for (int o = 0; o < outputs; ++o) out[o * kMaxRows + r] = bytes.bytes() + sz(o * rows + r) * out_pitch + 1;
    }

    EpilogueTile tile{};
    tile.rows = rows;
    tile.columns = columns;
    tile.acc = acc;
    tile.acc_stride = stride;
    tile.offset = offset;
    tile.multiplier = multiplier;
    tile.bias = with_bias ? bias : nullptr;
    tile.residual = with_residual ? residual_rows : nullptr;
    tile.residual_scale = residual_scale;
    tile.residual_zero = residual_zero;
    tile.floor = floor;
    tile.ceiling = clip;
    tile.outputs = outputs;
    tile.quantizers = pointers;
    tile.out = out;
    tile.floats = with_floats ? float_rows : nullptr;
    if (products) {
        if (rows < kMaxRows) {
            residual_rows[rows] = residual_rows[rows - 1];
            for (int o = 0; o < outputs; ++o) out[o * kMaxRows + rows] = out[o * kMaxRows + rows - 1];
        }
        path->run_quick(products->tile, tile);
    } else {
        isa.epilogue(tile);
    }

    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
            float y = static_cast<float>(acc[r * stride + c] + offset[c]) * multiplier[c];
            if (with_bias) y = y + bias[c];
            if (with_residual) y = y + static_cast<float>(residual_rows[r][c] - residual_zero) * residual_scale;
            if (relu) y = y > 0.0f ? y : 0.0f;
            y = y < clip ? y : clip;
            if (with_floats) floats.expect(sz(r) * out_pitch + sz(c), y);
            for (int o = 0; o < outputs; ++o) {
                bytes.expect(sz(o * rows + r) * out_pitch + 1 + sz(c), byte_of(y, quantizers[o]));
            }
        }
    }
    const std::string where = text({{"rows", rows},
                                    {"columns", columns},
                                    {"values", static_cast<int>(values)},
                                    {"bias", with_bias},
                                    {"residual", with_residual},
                                    {"relu", relu},
                                    {"clip", with_clip},
                                    {"floats", with_floats},
                                    {"outputs", outputs}});
    line.check(bytes.difference(), where + " bytes");
    line.check(floats.difference(), where + " floats");
}

}  // namespace

// Quantizers that are said to go by their inverse do so for all values near the boundaries of their codes, and those
// that do not for one next to a boundary are not said to.
Line check_inverts(const Isa& isa) {
    Line line(isa.name, "inverts");
    Random random(17);
    constexpr int kNear = 24, kNext = 2;
    int inverting = 0, refused = 0;
    for (int i = 0; i < 600; ++i) {
        Quantizer q{};
        const int bits = random.between(2, 8);
        q.scale = random.power_of_two(-20, 20);
        q.zero = random.coin() ? 0 : 1 << (bits - 1);
        q.low = -q.zero;
        q.high = (1 << bits) - 1 - q.zero;
        if (random.coin()) q.low = std::max(q.low, 0);
        const float one = 1.0f;
        float quick[2];
        quicken(q, &one, nullptr, 1, 1, 0.0f, 0, 1.0, quick, quick + 1);
        if (i % 3 == 1) q.inverse_lack = 0.0f;
        if (i % 3 == 2) q.inverse = next(q.inverse, random.coin() ? 1 : -1);
        const bool inverts = isa.inverts(q);
        bool near = true, next_to = true;
        for (int code = q.low; code < q.high; ++code) {
            const auto boundary = static_cast<float>((code + 0.5) * static_cast<double>(q.scale));
            for (int step = -kNear; step <= kNear; ++step) {
                const float y = next(boundary, step);
                if (std::nearbyintf(std::fma(y, q.inverse, y * q.inverse_lack)) == std::nearbyintf(y / q.scale))
                    continue;
                near = false;
                next_to &= std::abs(step) > kNext;
            }
        }
        inverting += inverts;
        refused += !inverts;
        const std::string where = text({{"bits", bits}, {"zero", q.zero}, {"spoilt", i % 3}});
        line.check(inverts && !near ? "said to" : "", where);
        line.check(!inverts && next_to ? "said not to" : "", where);
    }
    for (const float scale : {0.0f, 1e-35f, 1e35f, std::numeric_limits<float>::infinity()}) {
        Quantizer q{};
        q.scale = scale;
        q.inverse = 1.0f / scale;
        q.high = 3;
        line.check(isa.inverts(q) ? "said to" : "", "a scale out of range");
    }
    line.check(inverting >= 200 && refused >= 100 ? "" : "one answer alone", "all");
    return line;
}

Line check_epilogue(const Isa& isa) {
    Line line(isa.name, "epilogue");
    Random random(3);
    constexpr int kMostColumns = 80;
    Input memory[] = {Input(4 * sz(kMaxRows) * (kMostColumns + 3 * kBlock)), Input(4 * kMostColumns),
                      Input(4 * kMostColumns), Input(4 * kMostColumns),
                      Input(sz(kMaxRows) * (kMostColumns + 8) + kSlackBytes)};
    for (const Values values : {Values::boundary, Values::ties, Values::random, Values::large}) {
        for (int options = 0; options < 32; ++options) {
            for (const int columns : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 47, 48, 64, 65, 80}) {
                check_epilogue_case<DotPath>(isa, nullptr, some_rows(random), columns, values, options, memory, random,
                                             line);
            }
        }
    }
    // Many more boundaries: all that a quotient of 8 bits can meet.
    for (int i = 0; i < 1500; ++i)
        check_epilogue_case<DotPath>(isa, nullptr, 1, kMostColumns, Values::boundary, 16, memory, random, line);
    return line;
}

namespace {

// `most` columns at once, of packed weights of so many bytes.
template <class Path>
void check_quick(const Isa& isa, const Path& path, int most, std::size_t packed_bytes, Line& line) {
    Random random(13);
    Input memory[] = {Input(4 * sz(kMaxRows) * sz(most + 3 * kBlock)),
                      Input(4 * sz(most)),
                      Input(4 * sz(most)),
                      Input(4 * sz(most)),
                      Input(sz(kMaxRows) * sz(most + 8) + kSlackBytes),
                      Input(2 * sz(kMaxRows) * sz(Products::kMostGroups * kGroup) + kSlackBytes),
                      Input(packed_bytes)};
    for (const Values values : {Values::boundary, Values::ties, Values::random}) {
        for (int options = 0; options < 16; ++options) {
            for (const int rows : sizes(path.max_rows, kBlock)) {
                for (const int columns : sizes(most, 4 * kBlock))
                    check_epilogue_case(isa, &path, rows, columns, values, options, memory, random, line);
            }
        }
    }
}

}  // namespace

Line check_dot_quick(const Isa& isa, const DotPath& path) {
    Line line(isa.name, "dot " + std::string(path.name) + " quick");
    check_quick(isa, path, path.max_blocks * kBlock,
                sz(path.max_blocks) *
                    (sz(round_up(Products::kMostGroups, path.run_groups)) * sz(path.group_bytes) + kBlockTail),
                line);
    return line;
}

Line check_lut_quick(const Isa& isa, const LutPath& path) {
    Line line(isa.name, "lut " + std::string(path.name) + " quick");
    check_quick(isa, path, path.columns, 9 * sz(path.group_bytes), line);
    return line;
}

}  // namespace bitgear::checks
