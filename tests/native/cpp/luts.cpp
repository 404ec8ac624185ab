// Look-up in tables of activations.
#include "checks.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "support.h"

namespace bitgear::checks {

namespace {

struct LutShape {
    int channels, kernel, dilation;
};

void check_lut_case(const LutPath& path, const LutShape& shape, int act_max, int patterns, Input& codes_memory,
                    Input& packed_memory, Input& act_memory, Random& random, Line& line) {
    const int act_pattern = patterns % kPatterns, weight_pattern = patterns / kPatterns % kPatterns;
    const int pixel_bytes = round_up(shape.channels, kGroup);
    const int groups = ceil_div(shape.channels, path.inputs), padded = groups * path.inputs;
    const int taps = shape.kernel * shape.kernel, extent = shape.dilation * (shape.kernel - 1) + 1;
    const int pixels = path.max_rows + extent - 1;  // a row of the image
    const auto where = [&](int rows) {
        return text({{"channels", shape.channels},
                     {"kernel", shape.kernel},
                     {"dilation", shape.dilation},
                     {"act_max", act_max},
                     {"rows", rows},
                     {"act_pattern", act_pattern},
                     {"weight_pattern", weight_pattern}});
    };

    // Bytes of padding channels may hold anything: their weights are 0.
    const std::size_t image_bytes = sz(extent) * sz(pixels) * sz(pixel_bytes);
    std::uint8_t* acts = act_memory.place(image_bytes, kSlackBytes, random);
    for (int p = 0; p < extent * pixels; ++p) {
        for (int c = 0; c < shape.channels; ++c) {
            const std::size_t i = sz(p) * sz(pixel_bytes) + sz(c);
            acts[i] = static_cast<std::uint8_t>(patterned(act_pattern, 0, act_max, i, random));
        }
    }
    const std::size_t table_row = sz(pixels) * sz(groups) * sz(path.table_bytes);
    Output tables(sz(extent) * table_row);
    for (int y = 0; y < extent; ++y) {
        path.tables(acts + sz(y * pixels) * sz(pixel_bytes), pixels, sz(pixel_bytes), groups,
                    tables.bytes() + sz(y) * table_row);
    }
    tables.any(0, sz(extent) * table_row);
    line.check(tables.difference(), "tables " + where(0));

    // Weights: [column][tap][channel].
    const int low = -(1 << (path.planes - 1)), high = (1 << (path.planes - 1)) - 1;
    const std::size_t row_bytes = sz(taps) * sz(padded);
    auto* weights = reinterpret_cast<std::int8_t*>(codes_memory.place(sz(path.columns) * row_bytes, 64, random));
    for (int c = 0; c < path.columns; ++c) {
        for (std::size_t k = 0; k < row_bytes; ++k) {
            const bool padding = k % sz(padded) >= sz(shape.channels);
            weights[sz(c) * row_bytes + k] =
                static_cast<std::int8_t>(padding ? 0 : patterned(weight_pattern, low, high, k + sz(c / 5), random));
        }
    }
    const std::size_t packed_bytes = sz(taps * groups) * sz(path.group_bytes);
    Output block(packed_bytes);
    path.pack(weights, row_bytes, taps * groups, block.bytes());
    block.any(0, packed_bytes);
    line.check(block.difference(), "pack " + where(0));
    std::uint8_t* packed = packed_memory.place(packed_bytes, 0, random);
    std::memcpy(packed, block.bytes(), packed_bytes);

    std::vector<Run> runs;
    for (int y = 0; y < shape.kernel; ++y) {
        const auto row = static_cast<std::int32_t>(table_row) * y * shape.dilation;
        if (shape.dilation == 1) {
            runs.push_back({row, shape.kernel * groups});
        } else {
            for (int x = 0; x < shape.kernel; ++x)
                runs.push_back({row + x * shape.dilation * groups * path.table_bytes, groups});
        }
    }
    const std::uint8_t* first[kMaxRows] = {};
    for (int r = 0; r < path.max_rows; ++r) first[r] = tables.bytes() + sz(r) * sz(groups) * sz(path.table_bytes);

    std::vector<std::int32_t> sums(sz(path.max_rows) * sz(path.columns));
    for (int r = 0; r < path.max_rows; ++r) {
        for (int c = 0; c < path.columns; ++c) {
            std::int32_t sum = 0;
            for (int t = 0; t < taps; ++t) {
                const int y = t / shape.kernel * shape.dilation, x = t % shape.kernel * shape.dilation;
                const std::uint8_t* a = acts + sz(y * pixels + r + x) * sz(pixel_bytes);
                const std::int8_t* w = weights + sz(c) * row_bytes + sz(t) * sz(padded);
                for (int k = 0; k < shape.channels; ++k) sum += a[k] * w[k];
            }
            sums[sz(r) * sz(path.columns) + sz(c)] = sum;
        }
    }
    for (int rows = 1; rows <= path.max_rows; ++rows) {
        Output acc(sz(rows * path.columns) * sizeof(std::int32_t));
        for (int i = 0; i < rows * path.columns; ++i) acc.expect(sz(i), sums[sz(i)]);
        LutTile tile{};
        tile.rows = rows;
        tile.tables = first;
        tile.runs = runs.data();
        tile.run_count = static_cast<int>(runs.size());
        tile.w = packed;
        tile.acc = acc.as<std::int32_t>();
        path.run(tile);
        line.check(acc.difference(), where(rows));
    }
}

}  // namespace

Line check_lut(const Isa& isa, const LutPath& path) {
    Line line(isa.name, std::string("lut ") + path.name);
    Random random(2);
    constexpr int kMostChannels = 1024;
    Input codes(sz(path.columns) * 9 * sz(kMostChannels + 8)), packed(9 * sz(kMostChannels) * sz(path.group_bytes));
    Input acts(3 * sz(kMaxRows + 2) * sz(kMostChannels) + 5 * sz(kMaxRows + 4) * 128 + kSlackBytes);
    int patterns = 0;
    for (int act_max = 1; act_max <= path.max_act; act_max = 2 * act_max + 1) {
        for (int channels = 1; channels <= 24; ++channels) {
            for (const int kernel : {1, 3}) {
                check_lut_case(path, {channels, kernel, kernel == 1 ? 1 : random.between(1, 2)}, act_max, patterns++,
                               codes, packed, acts, random, line);
            }
        }
        for (int i = 0; i < kPatterns * kPatterns; ++i) {
            check_lut_case(path, {random.between(25, 128), random.pick<int>({1, 3}), random.between(1, 2)}, act_max,
                           patterns++, codes, packed, acts, random, line);
        }
        // Long sums of extremes: bytes and 16-bit sums must be widened in time.
        for (const int channels : {256, 512, kMostChannels}) {
            for (const int extremes : {0, kPatterns, kPatterns * 3, kPatterns * kPatterns - 1}) {
                check_lut_case(path, {channels, 3, 1}, act_max, extremes, codes, packed, acts, random, line);
            }
        }
    }
    return line;
}

}  // namespace bitgear::checks
