// Multiplication of bytes and of 16-bit numbers.
#include "checks.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "support.h"

namespace bitgear::checks {

namespace {

void check_dot_case(const DotPath& path, const Bounds& bounds, int groups, int run_count, int patterns,
                    Input& codes_memory, Input& packed_memory, Input& act_memory, Random& random, Line& line) {
    const int period = path.period != nullptr ? path.period(bounds.act_max, bounds.weight_max) : 0;
    const int act_pattern = patterns % kPatterns, weight_pattern = patterns / kPatterns % kPatterns;
    const int inputs = groups * kGroup;
    const int all_columns = path.max_blocks * kBlock;
    const auto where = [&](int rows, int blocks) {
        return text({{"act_max", bounds.act_max},
                     {"weight_max", bounds.weight_max},
                     {"groups", groups},
                     {"runs", run_count},
                     {"rows", rows},
                     {"blocks", blocks},
                     {"act_pattern", act_pattern},
                     {"weight_pattern", weight_pattern},
                     {"period", period}});
    };

    // Weights: [column][input], rows some bytes apart, no slack behind the last one.
    const std::size_t row_bytes = sz(inputs) + sz(random.coin() ? 0 : 4 * random.between(1, 9));
    const bool codes_alone = path.group_bytes < kBlock * kGroup;
    const int low = -bounds.weight_max, high = std::min(bounds.weight_max - (codes_alone ? 1 : 0), 127);
    std::vector<Run> runs;
    const std::size_t window = split(groups, run_count, kGroup, random.between(0, 3), random, &runs);
    runs = cut(path, runs);
    std::size_t used_bytes = kBlockTail;
    for (const Run& run : runs) used_bytes += run_bytes(path, run);
    const std::size_t block_bytes = used_bytes * (random.coin() ? 1 : 3);
    const std::size_t packed_bytes = sz(path.max_blocks - 1) * block_bytes + used_bytes;
    std::uint8_t* packed = packed_memory.place(packed_bytes, 0, random);
    std::vector<std::int8_t> weights(sz(all_columns) * sz(inputs));
    for (int b = 0; b < path.max_blocks; ++b) {
        auto* codes =
            reinterpret_cast<std::int8_t*>(codes_memory.place(sz(kBlock - 1) * row_bytes + sz(inputs), 0, random));
        for (int c = 0; c < kBlock; ++c) {
            for (int k = 0; k < inputs; ++k) {
                const auto w = static_cast<std::int8_t>(patterned(weight_pattern, low, high, sz(k + c / 7), random));
                codes[sz(c) * row_bytes + sz(k)] = w;
                weights[sz(b * kBlock + c) * sz(inputs) + sz(k)] = w;
            }
        }
        Output block(used_bytes);
        pack_runs(path, runs, codes, row_bytes, block.bytes());
        block.any(0, used_bytes);
        line.check(block.difference(), "pack " + where(0, b));
        std::memcpy(packed + sz(b) * block_bytes, block.bytes(), used_bytes);
    }

    // Windows, some bytes apart and overlapping; what runs skip may hold anything. Where windows are read in stretches,
    // there may be some between them that count for nothing.
    const std::size_t pitch = random.coin() ? window + sz(random.between(0, 9)) : kGroup * sz(random.between(1, 8));
    std::size_t place[kMaxRows] = {};
    const int gaps = path.places > 0 ? random.between(0, 3) : 0, most_gap = random.pick<int>({1, 2, 20});
    for (int r = 1; r < path.max_rows; ++r)
        place[r] = place[r - 1] + (random.between(1, 8) <= gaps ? sz(random.between(1, most_gap)) : 0) + 1;
    const std::size_t act_bytes = place[path.max_rows - 1] * pitch + window;
    std::uint8_t* acts = act_memory.place(act_bytes, row_slack(path, pitch), random);
    for (std::size_t i = 0; i < act_bytes; ++i) {
        acts[i] = static_cast<std::uint8_t>(patterned(act_pattern, 0, bounds.act_max, i, random));
    }
    const std::uint8_t* a[kMaxRows] = {};
    for (int r = 0; r < path.max_rows; ++r) a[r] = acts + place[r] * pitch;

    std::vector<std::int32_t> sums(sz(path.max_rows) * sz(all_columns));
    for (int r = 0; r < path.max_rows; ++r) {
        for (int c = 0; c < all_columns; ++c) {
            std::int32_t sum = 0;
            const std::int8_t* w = weights.data() + sz(c) * sz(inputs);
            for (const Run& run : runs) {
                for (int k = 0; k < run.groups * kGroup; ++k) sum += a[r][run.offset + k] * *w++;
            }
            sums[sz(r) * sz(all_columns) + sz(c)] = sum;
        }
    }
    for (const int rows : sizes(path.max_rows, kBlock)) {
        for (int blocks = 1; blocks <= path.max_blocks; blocks += path.places > 0 ? random.between(1, 3) : 1) {
            const int columns = blocks * kBlock;
            Output acc(sz(rows * columns) * sizeof(std::int32_t));
            for (int r = 0; r < rows; ++r) {
                for (int c = 0; c < columns; ++c)
                    acc.expect(sz(r * columns + c), sums[sz(r) * sz(all_columns) + sz(c)]);
            }
            DotTile tile{};
            tile.rows = rows;
            tile.blocks = blocks;
            tile.a = a;
            tile.row_step = pitch;
            tile.runs = runs.data();
            tile.run_count = static_cast<int>(runs.size());
            tile.w = packed;
            tile.block_bytes = block_bytes;
            tile.period = period;
            tile.alone = random.coin();
            tile.acc = acc.as<std::int32_t>();
            path.run(tile);
            line.check(acc.difference(), where(rows, blocks));
        }
    }
}

}  // namespace

Line check_dot(const Isa& isa, const DotPath& path) {
    Line line(isa.name, std::string("dot ") + path.name);
    Random random(1);
    constexpr int kLongest = 1300;
    // Of windows far from one another there are gaps of up to 20.
    Input codes(sz(kBlock) * sz(kLongest * kGroup + 64)),
        acts(sz(path.places > 0 ? 20 : 1) * sz(kMaxRows) * sz(2 * kLongest * kGroup) + kSlackBytes);
    Input packed(3 * sz(path.max_blocks) * (sz(kLongest + 9 * path.run_groups) * sz(path.group_bytes) + kBlockTail) +
                 kSlackBytes);
    int patterns = 0;
    // Codes of 1..8 bits, signed and unsigned, and Winograd's patches of them.
    for (const int act_max : {1, 3, 7, 15, 31, 63, 127, 255, 12, 28, 60, 124, 252}) {
        for (const int weight_max : {1, 2, 4, 8, 16, 32, 64, 127, 128}) {
            const Bounds bounds{act_max, weight_max};
            if (!path.exact(act_max, weight_max)) continue;
            const int period = path.period != nullptr ? path.period(act_max, weight_max) : 0;
            // All sums at their extremes, then the pairs of patterns in turn, at lengths from one group up.
            for (const int extremes : {0, kPatterns}) {
                check_dot_case(path, bounds, random.between(1, 80), 1, extremes, codes, packed, acts, random, line);
            }
            for (int i = 0; i < 22; ++i) {
                const int groups = i < 12 ? i + 1 : random.between(1, 80);
                check_dot_case(path, bounds, groups, i % 3 == 0 ? 1 : std::min(groups, random.pick<int>({2, 3, 9})),
                               patterns++, codes, packed, acts, random, line);
            }
            // Around the widening of sums, with all sums at their extremes.
            if (period > 0 && period < kLongest) {
                for (const int groups : {period - 1, period, period + 1, 2 * period, 2 * period + 1}) {
                    if (groups < 1 || groups > kLongest) continue;
                    for (const int extremes : {0, kPatterns, 5, kPatterns + 5}) {
                        check_dot_case(path, bounds, groups, std::min(groups, random.pick<int>({1, 3})), extremes,
                                       codes, packed, acts, random, line);
                    }
                }
            }
        }
    }
    for (const int act_max : {3, 15, 63, 255}) {
        for (const int weight_max : {2, 8, 32, 128}) {
            if (!path.exact(act_max, weight_max)) continue;
            for (const int extremes : {0, kPatterns, kPatterns * 3}) {
                check_dot_case(path, {act_max, weight_max}, kLongest, random.pick<int>({1, 3}), extremes, codes, packed,
                               acts, random, line);
            }
        }
    }
    return line;
}

// Sums of 16-bit products, which may wrap around.
Line check_words(const Isa& isa, const DotPath& path) {
    Line line(isa.name, std::string("dot ") + path.name);
    Random random(14);
    for (int i = 0; i < 40 * kPatterns * kPatterns; ++i) {
        const int groups = random.between(1, 70), rows = random.between(1, path.max_rows),
                  blocks = random.between(1, path.max_blocks), inputs = 2 * groups;
        const int act_most = random.pick<int>({3, 255, 25500, 32767}),
                  weight_most = random.pick<int>({1, 98, 6272, 32767});
        const std::size_t row_bytes = sz(groups * kGroup), block_bytes = sz(groups * path.group_bytes) + kBlockTail;
        std::vector<std::int16_t> weights(sz(blocks * kBlock * inputs)), acts(sz(rows * inputs));
        for (std::size_t k = 0; k < weights.size(); ++k) {
            weights[k] =
                static_cast<std::int16_t>(patterned(i / kPatterns % kPatterns, -weight_most, weight_most, k, random));
        }
        for (std::size_t k = 0; k < acts.size(); ++k) {
            acts[k] = static_cast<std::int16_t>(patterned(i % kPatterns, -act_most, act_most, k, random));
        }
        std::vector<std::uint8_t> packed(sz(blocks) * block_bytes);
        for (int b = 0; b < blocks; ++b) {
            path.pack(reinterpret_cast<const std::int8_t*>(weights.data() + b * kBlock * inputs), row_bytes, groups,
                      packed.data() + sz(b) * block_bytes);
        }
        const std::uint8_t* a[kMaxRows];
        for (int r = 0; r < rows; ++r) a[r] = reinterpret_cast<const std::uint8_t*>(acts.data() + r * inputs);
        const Run run{0, groups};
        Output acc(sz(rows * blocks * kBlock) * sizeof(std::int32_t));
        path.run({rows, blocks, a, row_bytes, &run, 1, packed.data(), block_bytes, 0, false, acc.as<std::int32_t>()});
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < blocks * kBlock; ++c) {
                std::uint32_t sum = 0;
                for (int k = 0; k < inputs; ++k) {
                    sum += static_cast<std::uint32_t>(acts[sz(r * inputs + k)] * weights[sz(c * inputs + k)]);
                }
                acc.expect(sz(r * blocks * kBlock + c), static_cast<std::int32_t>(sum));
            }
        }
        line.check(acc.difference(), text({{"groups", groups}, {"rows", rows}, {"blocks", blocks}, {"patterns", i}}));
    }
    return line;
}

}  // namespace bitgear::checks
