// Look-up in the tables of weights.
#include "checks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "support.h"

namespace bitgear::checks {

namespace {

// Indices, packed weights and sums of look-ups in the tables of weights.
void check_pixel_lut_case(const PixelLutPath& path, int channels, int taps, int columns, int vectors, int act_max,
                          int patterns, Input* memory, Random& random, Line& line) {
    const int act_pattern = patterns % kPatterns, weight_pattern = patterns / kPatterns % kPatterns;
    const int groups = ceil_div(channels, kPixelLutInputs), steps = taps * groups;
    const int inputs = groups * kPixelLutInputs;  // of a tap, with those that there are not
    const int pixels = vectors * kPixelLutLanes + taps - 1;
    const std::string where = text({{"channels", channels},
                                    {"taps", taps},
                                    {"columns", columns},
                                    {"vectors", vectors},
                                    {"act_max", act_max},
                                    {"act_pattern", act_pattern},
                                    {"weight_pattern", weight_pattern}});

    const std::size_t pixel_bytes = sz(round_up(channels, kGroup) + kGroup * random.between(0, 1));
    std::uint8_t* acts = memory[0].place(sz(pixels) * pixel_bytes, kSlackBytes, random);
    for (int p = 0; p < pixels; ++p) {
        for (int c = 0; c < channels; ++c) {
            const std::size_t i = sz(p) * pixel_bytes + sz(c);
            acts[i] = static_cast<std::uint8_t>(patterned(act_pattern, 0, act_max, i, random));
        }
    }
    const std::size_t group_bytes = sz(round_up(pixels, kPixelLutLanes) + kPixelLutLanes * random.between(0, 2));
    Output indices(sz(groups) * group_bytes);
    path.index(acts, pixels, pixel_bytes, groups, indices.bytes(), group_bytes);
    for (int g = 0; g < groups; ++g) {
        int there = 0;  // bits of inputs that there are
        for (int i = 0; i < kPixelLutInputs; ++i) there |= i * groups + g < channels ? 3 << (2 * i) : 0;
        for (int p = 0; p < pixels; ++p) {
            int index = 0;
            for (int i = 0; i < kPixelLutInputs; ++i)
                index |= acts[sz(p) * pixel_bytes + sz(i * groups + g)] << (2 * i);
            const std::size_t at = sz(g) * group_bytes + sz(p);
            const std::uint8_t others = indices.bytes()[at] & static_cast<std::uint8_t>(~there);
            indices.expect(at, static_cast<std::uint8_t>((index & there) | others));
        }
        indices.any(sz(g) * group_bytes + sz(pixels), sz(g) * group_bytes + sz(round_up(pixels, kPixelLutLanes)));
    }
    line.check(indices.difference(), "indices " + where);

    // Weights: [column][tap][input], 0 for inputs that there are not.
    const int blocks = ceil_div(columns, kPixelLutChannels), rows = blocks * kPixelLutChannels;
    const std::size_t row_bytes = sz(round_up(taps * inputs, kGroup));
    auto* weights = reinterpret_cast<std::int8_t*>(memory[1].place(sz(rows) * row_bytes, 16, random));
    for (int c = 0; c < rows; ++c) {
        for (int k = 0; k < taps * inputs; ++k) {
            const bool none = c >= columns || k % inputs >= channels;
            weights[sz(c) * row_bytes + sz(k)] =
                static_cast<std::int8_t>(none ? 0 : patterned(weight_pattern, -2, 1, sz(k + c / 5), random));
        }
    }
    const std::size_t block_bytes = sz(steps * kPixelLutChannels);
    Output packed(sz(blocks) * block_bytes);
    for (int b = 0; b < blocks; ++b) {
        path.pack(weights + sz(b * kPixelLutChannels) * row_bytes, row_bytes, taps, groups,
                  packed.bytes() + sz(b) * block_bytes);
    }
    packed.any(0, sz(blocks) * block_bytes);
    line.check(packed.difference(), "pack " + where);
    std::uint8_t* w = memory[2].place(sz(blocks) * block_bytes, 0, random);
    std::memcpy(w, packed.bytes(), sz(blocks) * block_bytes);

    // Carries are counted as late as can be.
    const auto weight = [&](int c, int k) { return weights[sz(c) * row_bytes + sz(k)]; };
    std::vector<PixelLutStretch> stretches;
    std::vector<int> grown(sz(rows)), most(sz(rows));
    for (int k = 0; k < steps; ++k) {
        bool full = false;
        std::vector<int> next = grown;
        for (int c = 0; c < rows; ++c) {
            int more = 0;
            for (int i = 0; i < kPixelLutInputs; ++i)
                more += kPixelLutMaxAct * std::abs(weight(c, k / groups * inputs + i * groups + k % groups));
            next[sz(c)] += more;
            most[sz(c)] += more;
            full |= next[sz(c)] > kPixelLutMostSum;
        }
        if (full) {
            stretches.back().counts = true;
            for (int c = 0; c < rows; ++c) next[sz(c)] -= grown[sz(c)];
        }
        grown = next;
        const auto offset = static_cast<std::int32_t>(sz(k % groups) * group_bytes) + k / groups;
        if (full || k % groups == 0) {
            stretches.push_back({offset, 1, false});
        } else {
            ++stretches.back().steps;
        }
    }
    stretches.back().counts = true;
    const bool narrow = *std::max_element(most.begin(), most.end()) <= kPixelLutMostSum;
    const std::size_t stride = sz(vectors * kPixelLutLanes), sums_bytes = kPixelLutColumns * stride;
    Output sums(2 * sums_bytes);
    path.run({vectors, blocks, narrow, indices.bytes(), group_bytes, stretches.data(),
              static_cast<int>(stretches.size()), w, block_bytes, sums.bytes()});
    for (int c = 0; c < rows; ++c) {
        for (int p = 0; p < vectors * kPixelLutLanes; ++p) {
            int sum = 0;
            for (int k = 0; k < taps * inputs; ++k) {
                const int value = weight(c, k);
                if (value == 0) continue;
                sum += acts[sz(p + k / inputs) * pixel_bytes + sz(k % inputs)] * value;
                if (value < 0) sum -= kPixelLutMaxAct * value;
            }
            const std::size_t at = sz(c) * stride + sz(p);
            sums.expect(at, static_cast<std::uint8_t>(sum));
            if (!narrow) sums.expect(sums_bytes + at, static_cast<std::uint8_t>(sum >> 8));
        }
    }
    line.check(sums.difference(), where);
}

}  // namespace

Line check_pixel_lut(const Isa& isa, const PixelLutPath& path) {
    Line line(isa.name, std::string("lut ") + path.name);
    Random random(15);
    constexpr int kMostChannels = 520, kMostTaps = 9, kMostPixels = kPixelLutVectors * kPixelLutLanes + kMostTaps;
    Input memory[] = {Input(sz(kMostPixels) * (kMostChannels + 8) + kSlackBytes),
                      Input(kPixelLutColumns * kMostTaps * sz(kMostChannels + 8) + 16),
                      Input(kPixelLutColumns * kMostTaps * sz(kMostChannels))};
    int patterns = 0;
    for (const int act_max : {1, 2, 3}) {
        for (int channels = 1; channels <= 50; ++channels) {
            check_pixel_lut_case(path, channels, random.pick<int>({1, 1, 4, kMostTaps}),
                                 random.between(1, kPixelLutColumns), random.between(1, kPixelLutVectors), act_max,
                                 patterns++, memory, random, line);
        }
    }
    for (int columns = 1; columns <= kPixelLutColumns; ++columns) {
        for (int vectors = 1; vectors <= kPixelLutVectors; ++vectors)
            check_pixel_lut_case(path, random.between(1, 40), random.pick<int>({1, 2}), columns, vectors, 3, patterns++,
                                 memory, random, line);
    }
    for (int i = 0; i < kPatterns * kPatterns; ++i) {
        check_pixel_lut_case(path, random.between(51, 128), random.pick<int>({1, kMostTaps}),
                             random.between(1, kPixelLutColumns), random.between(1, kPixelLutVectors), 3, patterns++,
                             memory, random, line);
    }
    for (int vectors = 1; vectors <= kPixelLutVectors; ++vectors) {  // the longest sums of extremes
        for (const int extremes : {0, kPatterns, kPatterns * kPatterns - 1})
            check_pixel_lut_case(path, kMostChannels, kMostTaps, 13, vectors, 3, extremes, memory, random, line);
    }
    return line;
}

// Sums to bytes, by the chain of operations and by tables.
Line check_pixel_lut_quick(const Isa& isa, const PixelLutPath& path) {
    Line line(isa.name, std::string("lut ") + path.name + " quick");
    Random random(16);
    constexpr int kMostFirst = 32, kMostChannels = kMostFirst + kPixelLutColumns + kBlock;
    Input words[4] = {Input(4 * kMostChannels), Input(4 * kMostChannels), Input(4 * kMostChannels),
                      Input(8 * kMostChannels)};
    Input residuals(sz(kPixelLutLanes) * (kMostChannels + 8) + kSlackBytes);
    for (int i = 0; i < 4000; ++i) {
        const int columns = i < 4 * kPixelLutColumns ? i / 4 + 1 : random.between(1, kPixelLutColumns);
        const int first = kBlock * random.between(0, kMostFirst / kBlock), channels = first + columns;
        const int padded = round_up(first + kPixelLutColumns, kBlock);
        const bool ties = i % 3 == 0, narrow = random.coin(), with_residual = random.coin();
        const int most = narrow ? 255 : ties ? 600 : 27648, vectors = random.between(1, kPixelLutVectors);
        const std::size_t stride = sz(vectors * kPixelLutLanes);
        Output sums(2 * kPixelLutColumns * stride);
        std::vector<std::int32_t> whole(sz(columns) * kPixelLutLanes);
        for (int c = 0; c < columns; ++c) {
            for (int p = 0; p < kPixelLutLanes; ++p) {
                const int sum = random.between(0, 9) == 0 ? random.pick<int>({0, most}) : random.between(0, most);
                whole[sz(c * kPixelLutLanes + p)] = sum;
                sums.bytes()[sz(c) * stride + sz(p)] = static_cast<std::uint8_t>(sum);
                sums.bytes()[(kPixelLutColumns + sz(c)) * stride + sz(p)] = static_cast<std::uint8_t>(sum >> 8);
            }
        }
        auto* offset = reinterpret_cast<std::int32_t*>(words[0].place(4 * sz(padded), 0, random));
        auto* multiplier = reinterpret_cast<float*>(words[1].place(4 * sz(padded), 0, random));
        auto* bias = reinterpret_cast<float*>(words[2].place(4 * sz(padded), 0, random));
        const float scale = ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
        const float residual_scale = !with_residual ? 0.0f : ties ? 0.5f * scale : 1.462f * scale;
        for (int c = 0; c < padded; ++c) {
            offset[c] = random.between(-most, 0);
            multiplier[c] = ties ? (random.coin() ? 0.5f : -0.5f) * scale : scale * 0.01f * (random.uniform() - 0.3f);
            bias[c] =
                ties ? 0.5f * scale * static_cast<float>(random.between(-9, 99)) : scale * random.uniform() * 50.0f;
        }
        const int outputs = random.between(1, kPixelLutOutputs);
        Quantizer quantizers[kPixelLutOutputs] = {};
        const Quantizer* pointers[kPixelLutOutputs];
        for (int o = 0; o < kPixelLutOutputs; ++o) pointers[o] = &quantizers[o];
        std::vector<float> quick(2 * kPixelLutOutputs * sz(padded));
        const std::int32_t residual_zero = random.coin() ? 0 : 128;
        const bool bounded = quick_readers(quantizers, outputs, scale, multiplier, bias, channels, padded,
                                           residual_scale, residual_zero, most, quick.data(), random);
        line.check(bounded ? "" : "is not bounded", "case " + std::to_string(i));
        if (!bounded) continue;

        const std::size_t residual_pixel = sz(channels + random.between(0, 7));
        std::uint8_t* residual =
            residuals.place((kPixelLutLanes - 1) * residual_pixel + sz(channels), kBlock - 1, random);
        const std::size_t out_pixel = sz(channels + random.between(0, 7));
        const std::size_t out_bytes = out_pixel * kPixelLutLanes;
        Output out(out_bytes * sz(outputs)), looked_up(out_bytes * sz(outputs));
        std::vector<std::uint8_t> nowhere(sz(padded));
        PixelLutPlaces places{}, other_places{};
        std::uint64_t valid = 0;
        for (int p = 0; p < kPixelLutLanes; ++p) {
            const bool is_pixel = random.between(0, 7) > 0;
            valid |= static_cast<std::uint64_t>(is_pixel) << p;
            for (int o = 0; o < outputs; ++o) {
                const std::size_t at = sz(o) * out_bytes + sz(p) * out_pixel;
                places.out[o][p] = is_pixel ? out.bytes() + at : nowhere.data();
                other_places.out[o][p] = is_pixel ? looked_up.bytes() + at : nowhere.data();
            }
            places.residual[p] = residual + sz(p) * residual_pixel;
        }
        const std::uint8_t* some[kMaxRows] = {};
        EpilogueTile constants{};
        constants.column = first;
        constants.columns = columns;
        constants.offset = offset;
        constants.multiplier = multiplier;
        constants.bias = bias;
        constants.residual = with_residual ? some : nullptr;
        constants.residual_scale = residual_scale;
        constants.residual_zero = residual_zero;
        constants.outputs = outputs;
        constants.quantizers = pointers;
        const PixelLutSums of{sums.bytes(), stride, narrow ? 0 : kPixelLutColumns * stride};
        path.finish(of, constants, places);
        const auto byte = [&](int o, int c, int sum, int other) {
            float value = static_cast<float>(sum + offset[first + c]) * multiplier[first + c];
            value = value + bias[first + c];
            if (with_residual) value = value + static_cast<float>(other - constants.residual_zero) * residual_scale;
            return byte_of(value, quantizers[o]);
        };
        Output tables(kPixelLutOutputs * kPixelLutColumns * kPixelLutResults);
        const bool tabled = narrow && !with_residual;
        if (tabled) {
            for (int o = 0; o < outputs; ++o) {
                for (int c = 0; c < columns; ++c) {
                    for (int sum = 0; sum < kPixelLutResults; ++sum)
                        tables.bytes()[(o * kPixelLutColumns + c) * kPixelLutResults + sum] = byte(o, c, sum, 0);
                }
            }
            path.look_up(of, tables.bytes(), constants, other_places);
        }
        for (int p = 0; p < kPixelLutLanes; ++p) {
            if ((valid >> p & 1) == 0) continue;
            for (int o = 0; o < outputs; ++o) {
                for (int c = 0; c < columns; ++c) {
                    const int sum = whole[sz(c * kPixelLutLanes + p)];
                    const std::size_t at = sz(o) * out_bytes + sz(p) * out_pixel + sz(first + c);
                    out.expect(at, byte(o, c, sum, residual[sz(p) * residual_pixel + sz(first + c)]));
                    if (tabled) looked_up.expect(at, byte(o, c, sum % kPixelLutResults, 0));
                }
            }
        }
        const std::string where = text(
            {{"case", i}, {"first", first}, {"columns", columns}, {"narrow", narrow}, {"residual", with_residual}});
        line.check(out.difference(), where);
        line.check(looked_up.difference(), where + " looked up");
    }
    return line;
}

}  // namespace bitgear::checks
