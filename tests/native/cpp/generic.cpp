// What moves codes, pools, sums and rounds.
#include "checks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support.h"

namespace bitgear::checks {

Line check_transpose_taps(const Isa& isa) {
    Line line(isa.name, "transpose_taps");
    Random random(12);
    Input memory(25 * 200);
    for (int channels = 1; channels <= 200; channels += channels < 70 ? 1 : 13) {
        for (const int taps : {1, 4, 9, 25}) {
            const std::size_t row_channels = sz(channels + random.between(0, 40));
            auto* codes = reinterpret_cast<std::int8_t*>(memory.place(sz(channels * taps), 0, random));
            Output out(sz(taps - 1) * row_channels + sz(channels));
            isa.transpose_taps(codes, channels, taps, row_channels, out.as<std::int8_t>());
            for (int t = 0; t < taps; ++t) {
                for (int c = 0; c < channels; ++c) out.expect(sz(t) * row_channels + sz(c), codes[c * taps + t]);
            }
            line.check(out.difference(), text({{"channels", channels}, {"taps", taps}}));
        }
    }
    return line;
}

Line check_interleave(const Isa& isa) {
    Line line(isa.name, "interleave");
    Random random(15);
    Input memory[] = {Input(300), Input(300), Input(300)};
    for (int pixels = 1; pixels <= 300; ++pixels) {
        const std::int8_t* planes[3];
        for (int i = 0; i < 3; ++i)
            planes[i] = reinterpret_cast<const std::int8_t*>(memory[i].place(sz(pixels), 0, random));
        Output out(4 * sz(pixels));
        isa.interleave(planes[0], planes[1], planes[2], pixels, out.bytes());
        for (int x = 0; x < pixels; ++x) {
            for (int i = 0; i < 3; ++i) out.expect(sz(4 * x + i), static_cast<std::uint8_t>(planes[i][x] + 128));
            out.expect(sz(4 * x + 3), std::uint8_t{0});
        }
        line.check(out.difference(), text({{"pixels", pixels}}));
    }
    return line;
}

Line check_weave(const Isa& isa) {
    Line line(isa.name, "weave");
    Random random(21);
    constexpr int kMostPixels = 150, kMostRows = 9;
    Input memory(sz(kMostRows * (kMostPixels + 3) * kGroup) + kSlackBytes);
    for (int rows = 1; rows <= kMostRows; ++rows) {
        for (int channels = 1; channels < kGroup; ++channels) {
            for (int pixels = 1; pixels <= kMostPixels; pixels += pixels < 40 ? 1 : 23) {
                const std::size_t row_bytes = sz((pixels + random.between(0, 3)) * kGroup);
                const std::uint8_t* from =
                    memory.place(sz(rows - 1) * row_bytes + sz(pixels * kGroup), kSlackBytes, random);
                const std::size_t woven = sz(pixels * rows * channels);
                Output out(woven + kSlackBytes);
                isa.weave({rows, channels, pixels, from, row_bytes, out.bytes()});
                for (std::size_t i = 0; i < woven; ++i) {
                    const std::size_t c = i % sz(channels), y = i / sz(channels) % sz(rows);
                    out.expect(i, from[y * row_bytes + i / sz(channels * rows) * kGroup + c]);
                }
                out.any(woven, woven + kSlackBytes);
                line.check(out.difference(), text({{"rows", rows}, {"channels", channels}, {"pixels", pixels}}));
            }
        }
    }
    return line;
}

Line check_maximum(const Isa& isa) {
    Line line(isa.name, "maximum");
    Random random(7);
    constexpr int kMostBytes = 300, kMostSources = 16;
    Input input(sz(kMostSources) * sz(kMostBytes + 4) + kSlackBytes);
    for (int bytes = 1; bytes <= kMostBytes; bytes += bytes < 140 ? 1 : 17) {
        for (const int count : {1, 2, 4, 9, kMostSources}) {
            const std::size_t pitch = sz(bytes + random.between(0, 3));
            std::uint8_t* a = input.place(sz(count - 1) * pitch + sz(bytes), kSlackBytes, random);
            const std::uint8_t* sources[kMostSources] = {};
            for (int s = 0; s < count; ++s) sources[s] = a + sz(s) * pitch;
            Output out(sz(bytes));
            isa.maximum(sources, count, bytes, out.bytes());
            for (int i = 0; i < bytes; ++i) {
                std::uint8_t best = 0;
                for (int s = 0; s < count; ++s) best = std::max(best, sources[s][i]);
                out.expect(sz(i), best);
            }
            line.check(out.difference(), text({{"bytes", bytes}, {"count", count}}));
        }
    }
    return line;
}

Line check_extreme(const Isa& isa) {
    Line line(isa.name, "extreme");
    Random random(11);
    for (int columns = kBlock; columns <= 5 * kBlock; columns += kBlock) {
        for (int i = 0; i < 40; ++i) {
            const bool usual = i % 4 == 0;
            const int kernel = usual ? 3 : random.between(1, 4), stride = usual ? 2 : random.between(1, 3);
            const int rows = random.between(1, kernel);
            const int windows = some_rows(random), pixels = (windows - 1) * stride + kernel;
            std::vector<std::int32_t> values(sz(rows * pixels * columns)), flip(sz(columns));
            for (std::int32_t& v : values)
                v = random.between(0, 3) == 0 ? std::numeric_limits<std::int32_t>::min()
                                              : random.between(-70000, 70000);
            for (std::int32_t& f : flip) f = -random.between(0, 1);
            std::vector<const std::int32_t*> row;
            for (int r = 0; r < rows; ++r) row.push_back(values.data() + r * pixels * columns);
            Output out(sz(windows * columns) * sizeof(std::int32_t));
            isa.extreme({row.data(), rows, kernel, stride, windows, columns, flip.data(), out.as<std::int32_t>()});
            for (int w = 0; w < windows; ++w) {
                for (int c = 0; c < columns; ++c) {
                    std::int32_t best = row[0][w * stride * columns + c];
                    for (int k = 0; k < rows * kernel; ++k) {
                        const std::int32_t v = row[sz(k / kernel)][(w * stride + k % kernel) * columns + c];
                        best = flip[sz(c)] != 0 ? std::min(best, v) : std::max(best, v);
                    }
                    out.expect(sz(w * columns + c), best);
                }
            }
            line.check(out.difference(), text({{"columns", columns}, {"rows", rows}, {"kernel", kernel}}));
        }
    }
    return line;
}

Line check_addresses(const Isa& isa) {
    Line line(isa.name, "addresses");
    Random random(18);
    Input memory(1);
    for (int count = 0; count <= kMaxRows; ++count) {
        const std::size_t step = sz(random.between(0, 5000));
        const std::uint8_t* first = memory.place(1, 0, random);
        Output out(sz(count) * sizeof(std::uintptr_t));
        isa.addresses(first, step, count, out.bytes());
        for (int i = 0; i < count; ++i) out.expect(sz(i), reinterpret_cast<std::uintptr_t>(first) + sz(i) * step);
        line.check(out.difference(), text({{"count", count}, {"step", static_cast<int>(step)}}));
    }
    return line;
}

Line check_weighted_sum(const Isa& isa) {
    Line line(isa.name, "weighted_sum");
    Random random(8);
    constexpr int kMostChannels = 200, kMostSources = 64;
    Input input(sz(kMostSources) * sz(kMostChannels + 4) + kSlackBytes);
    for (int channels = 1; channels <= kMostChannels; channels += channels < 70 ? 1 : 13) {
        for (const int count : {1, 2, 4, 9, 49, kMostSources}) {
            for (const bool weighted : {false, true}) {
                const std::size_t pitch = sz(channels + random.between(0, 3));
                std::uint8_t* a = input.place(sz(count - 1) * pitch + sz(channels), kSlackBytes, random);
                const std::uint8_t* sources[kMostSources] = {};
                std::int32_t weights[kMostSources];
                for (int s = 0; s < count; ++s) {
                    sources[s] = a + sz(s) * pitch;
                    weights[s] = random.between(-(1 << 16), 1 << 16);
                }
                if (!weighted) std::memset(a, channels % 2 == 0 ? 255 : 200, sz(count - 1) * pitch + sz(channels));
                // Whole blocks may be written.
                const int padded = round_up(channels, kBlock);
                Output acc(4 * sz(padded));
                isa.weighted_sum(sources, weighted ? weights : nullptr, count, channels, acc.as<std::int32_t>());
                for (int c = 0; c < channels; ++c) {
                    std::int32_t sum = 0;
                    for (int s = 0; s < count; ++s) sum += sources[s][c] * (weighted ? weights[s] : 1);
                    acc.expect(sz(c), sum);
                }
                acc.any(4 * sz(channels), 4 * sz(padded));
                line.check(acc.difference(), text({{"channels", channels}, {"count", count}, {"weighted", weighted}}));
            }
        }
    }
    return line;
}

Line check_derive(const Isa& isa) {
    Line line(isa.name, "derive");
    Random random(9);
    Input input(1024);
    for (int bits = 2; bits <= 8; ++bits) {
        // All 256 codes, at every alignment of the end, and shorter stretches.
        for (int count = 0; count <= 256 + 40; ++count) {
            auto* q8 = reinterpret_cast<std::int8_t*>(input.place(sz(count), 0, random));
            for (int i = 0; i < count; ++i) q8[i] = static_cast<std::int8_t>(i - 128);
            Output codes(sz(count));
            isa.derive(q8, sz(count), bits, codes.as<std::int8_t>());
            for (int i = 0; i < count; ++i) {
                const double rounded = std::nearbyint(static_cast<double>(q8[i]) / (1 << (8 - bits)));
                const double low = -(1 << (bits - 1)), high = (1 << (bits - 1)) - 1;
                codes.expect(sz(i), static_cast<std::int8_t>(std::min(std::max(rounded, low), high)));
            }
            line.check(codes.difference(), text({{"bits", bits}, {"count", count}}));
        }
    }
    return line;
}

}  // namespace bitgear::checks
