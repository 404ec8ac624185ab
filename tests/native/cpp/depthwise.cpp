// Depthwise convolutions.
#include "checks.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "support.h"

namespace bitgear::checks {

Line check_depthwise(const Isa& isa) {
    Line line(isa.name, "depthwise");
    Random random(4);
    constexpr int kMostTaps = 25, kMostChannels = 200, kMostPixels = kMaxRows;
    Input acts(sz(kMostPixels + kMostTaps) * sz(kMostChannels + 4) + kSlackBytes);
    Input weights(sz(kMostTaps) * sz(kMostChannels + kBlock));
    int patterns = 0;
    for (const int channels : {1, 3, 4, 8, 12, 15, 16, 17, 20, 32, 33, 48, 64, 72, 100, 144, kMostChannels}) {
        for (const int taps : {1, 4, 9, 9, 9, kMostTaps}) {
            for (int pixels = 1; pixels <= kMostPixels; ++pixels, ++patterns) {
                const int pixel_bytes = round_up(channels, kGroup), padded = round_up(channels, kBlock);
                const std::size_t bytes = sz(pixels - 1 + taps - 1) * sz(pixel_bytes) + sz(channels);
                std::uint8_t* a = acts.place(bytes, kSlackBytes, random);
                for (std::size_t i = 0; i < bytes; ++i) {
                    a[i] = static_cast<std::uint8_t>(patterned(patterns % kPatterns, 0, 255, i, random));
                }
                auto* w = reinterpret_cast<std::int8_t*>(weights.place(sz(taps * padded), 0, random));
                for (int i = 0; i < taps * padded; ++i) {
                    w[i] =
                        static_cast<std::int8_t>(patterned(patterns / kPatterns % kPatterns, -128, 127, sz(i), random));
                }
                std::vector<std::int32_t> tap_offsets;
                for (int t = 0; t < taps; ++t) tap_offsets.push_back((t * 7 % taps) * pixel_bytes);
                const std::uint8_t* a_rows[kMostPixels] = {};
                for (int p = 0; p < pixels; ++p) a_rows[p] = a + sz(p) * sz(pixel_bytes);
                Output acc(sz(pixels * padded) * sizeof(std::int32_t));
                Output packed(isa.depthwise.packed_bytes(taps, padded));
                isa.depthwise.pack(w, taps, padded, packed.bytes());
                isa.depthwise.run(
                    {pixels, a_rows, taps, tap_offsets.data(), channels, packed.bytes(), acc.as<std::int32_t>()});
                for (int p = 0; p < pixels; ++p) {
                    for (int c = 0; c < channels; ++c) {
                        std::int32_t sum = 0;
                        for (int t = 0; t < taps; ++t) sum += a_rows[p][tap_offsets[sz(t)] + c] * w[t * padded + c];
                        acc.expect(sz(p * padded + c), sum);
                    }
                    acc.any(sz(p * padded + channels) * 4, sz((p + 1) * padded) * 4);
                }
                line.check(acc.difference(),
                           text({{"channels", channels}, {"taps", taps}, {"pixels", pixels}, {"patterns", patterns}}));
            }
        }
    }
    return line;
}

Line check_depthwise_quick(const Isa& isa) {
    Line line(isa.name, "depthwise quick");
    Random random(14);
    constexpr int kMostChannels = 144, kMostRows = 3, kMostPixels = 40, kMostSide = 2 * kMostPixels + 1;
    Input acts(sz(2 * kMostRows + 1) * sz(kMostSide) * sz(kMostChannels + 4) + kSlackBytes);
    Input weights(9 * sz(kMostChannels + kBlock)), words[4] = {Input(4 * kMostChannels), Input(4 * kMostChannels),
                                                               Input(4 * kMostChannels), Input(8 * kMostChannels)};
    for (int i = 0; i < 3000; ++i) {
        const int channels = i < 2 * kMostChannels ? i / 2 + 1 : random.between(1, kMostChannels);
        const int stride = i % 2 + 1, rows = random.between(1, kMostRows), pixels = random.between(1, kMostPixels);
        const int side = stride * (pixels - 1) + 3, padded = round_up(channels, kBlock);
        const bool ties = i % 3 == 0, extremes = i % 3 == 1;
        const std::size_t pixel_bytes = sz(round_up(channels, kGroup) + kGroup * random.between(0, 1));
        const std::size_t row_bytes = pixel_bytes * sz(side);
        const std::size_t bytes = sz(stride * (rows - 1) + 2) * row_bytes + sz(side - 1) * pixel_bytes + sz(channels);
        std::uint8_t* a = acts.place(bytes, kSlackBytes, random);
        const int act_pattern = random.between(0, kPatterns - 1), weight_pattern = random.between(0, kPatterns - 1);
        for (std::size_t k = 0; k < bytes; ++k) {
            a[k] = static_cast<std::uint8_t>(extremes ? patterned(act_pattern, 0, 255, k, random)
                                                      : random.between(0, ties ? 3 : 255));
        }
        auto* w = reinterpret_cast<std::int8_t*>(weights.place(sz(9 * padded), 0, random));
        for (int k = 0; k < 9 * padded; ++k) {
            w[k] = static_cast<std::int8_t>(extremes ? patterned(weight_pattern, -128, 127, sz(k), random)
                                                     : random.between(ties ? -2 : -128, ties ? 2 : 127));
            if (k % padded >= channels) w[k] = 0;
        }
        Output packed(isa.depthwise.packed_bytes(9, padded));
        isa.depthwise.pack(w, 9, padded, packed.bytes());

        auto* offset = reinterpret_cast<std::int32_t*>(words[0].place(4 * sz(padded), 0, random));
        auto* multiplier = reinterpret_cast<float*>(words[1].place(4 * sz(padded), 0, random));
        auto* bias = reinterpret_cast<float*>(words[2].place(4 * sz(padded), 0, random));
        const float scale = ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
        for (int c = 0; c < padded; ++c) {
            offset[c] = random.between(-40, 40);
            multiplier[c] = ties ? (random.coin() ? 0.5f : -0.5f) * scale : scale * 0.01f * (random.uniform() - 0.3f);
            bias[c] =
                ties ? 0.5f * scale * static_cast<float>(random.between(-9, 99)) : scale * random.uniform() * 50.0f;
        }
        const int outputs = random.between(1, 2);
        Quantizer quantizers[2] = {};
        const Quantizer* pointers[2] = {&quantizers[0], &quantizers[1]};
        std::vector<float> quick(4 * sz(padded));
        const bool bounded = quick_readers(quantizers, outputs, scale, multiplier, bias, channels, padded, 0.0f, 0,
                                           ties ? 100.0 : 300000.0, quick.data(), random);
        line.check(bounded ? "" : "is not bounded", "case " + std::to_string(i));
        if (!bounded) continue;

        const std::size_t out_pixel = sz(channels + random.between(0, 7)), out_row = out_pixel * sz(pixels) + 3;
        const std::size_t out_bytes = out_row * sz(rows);
        Output out(out_bytes * sz(outputs));
        Area<std::uint8_t> to[2];
        for (int o = 0; o < outputs; ++o) to[o] = {out.bytes() + sz(o) * out_bytes, out_row, out_pixel};
        EpilogueTile constants{};
        constants.offset = offset;
        constants.multiplier = multiplier;
        constants.bias = bias;
        constants.outputs = outputs;
        constants.quantizers = pointers;
        isa.depthwise.run_quick({rows, pixels, {a, row_bytes, pixel_bytes}, stride, channels, packed.bytes(), to},
                                constants);
        for (int y = 0; y < rows; ++y) {
            for (int x = 0; x < pixels; ++x) {
                for (int c = 0; c < channels; ++c) {
                    std::int32_t sum = offset[c];
                    for (int t = 0; t < 9; ++t) {
                        sum += a[sz(y * stride + t / 3) * row_bytes + sz(x * stride + t % 3) * pixel_bytes + sz(c)] *
                               w[t * padded + c];
                    }
                    float value = static_cast<float>(sum) * multiplier[c];
                    value = value + bias[c];
                    for (int o = 0; o < outputs; ++o) {
                        out.expect(sz(o) * out_bytes + sz(y) * out_row + sz(x) * out_pixel + sz(c),
                                   byte_of(value, quantizers[o]));
                    }
                }
            }
        }
        line.check(out.difference(),
                   text({{"case", i}, {"channels", channels}, {"stride", stride}, {"pixels", pixels}}));
    }
    return line;
}

}  // namespace bitgear::checks
