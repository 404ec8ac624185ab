// Pictures: resizing, tables of codes, and masks.
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

namespace {

// Weights of `taps` taps that add up to kWeightOne, or nearly, as rounded ones do.
std::vector<std::int32_t> tap_weights(int taps, int pattern, Random& random) {
    std::vector<std::int32_t> weights(sz(taps));
    if (pattern == 0) {
        weights[sz(random.between(0, taps - 1))] = kWeightOne;
        return weights;
    }
    std::int32_t rest = kWeightOne + random.between(-taps / 2, taps / 2);
    for (int t = 0; t + 1 < taps; ++t)
        rest -= weights[sz(t)] = random.between(0, std::min(rest, kWeightOne / taps * 2));
    weights.back() = std::min(rest, kWeightOne);
    return weights;
}

std::uint8_t weighted_byte(std::uint64_t sum) {
    return static_cast<std::uint8_t>(std::min<std::uint64_t>((sum + kWeightOne / 2) / kWeightOne, 255));
}

}  // namespace

Line check_across(const Isa& isa) {
    Line line(isa.name, "across");
    Random random(31);
    constexpr int kMostPixels = 70, kMostTaps = 12, kMostWidth = kMostPixels * kMostStep + kMostTaps;
    Input input(3 * kMostWidth + 3 * kMostTaps + kPixelSlackBytes);
    for (int pixels = 1; pixels <= kMostPixels; pixels += pixels < 20 ? 1 : 7) {
        for (int taps = 1; taps <= kMostTaps; ++taps) {
            for (int pattern = 0; pattern < 3; ++pattern) {
                std::vector<std::int32_t> first{0}, weight;
                while (first.size() < sz(pixels)) {
                    first.push_back(first.back() + (pattern == 1 ? kMostStep : random.between(0, kMostStep)));
                }
                const int width = first.back() + taps;
                std::uint8_t* row = input.place(3 * sz(width), 3 * sz(taps) + kPixelSlackBytes, random);
                if (pattern == 2) std::memset(row, 255, 3 * sz(width));
                Output out(3 * sz(pixels) + kPixelSlackBytes);
                for (int x = 0; x < pixels; ++x) {
                    const std::vector<std::int32_t> own = tap_weights(taps, pattern, random);
                    weight.insert(weight.end(), own.begin(), own.end());
                    for (int c = 0; c < 3; ++c) {
                        std::uint64_t sum = 0;
                        for (int t = 0; t < taps; ++t)
                            sum += static_cast<std::uint64_t>(own[sz(t)]) * row[3 * (first[sz(x)] + t) + c];
                        out.expect(3 * sz(x) + sz(c), weighted_byte(sum));
                    }
                }
                std::vector<std::uint8_t> packed(isa.pixels.across_bytes(pixels, taps));
                isa.pixels.pack_across(first.data(), weight.data(), taps, pixels, packed.data());
                isa.pixels.across(row, packed.data(), taps, pixels, out.bytes());
                out.any(3 * sz(pixels), 3 * sz(pixels) + kPixelSlackBytes);
                line.check(out.difference(), text({{"pixels", pixels}, {"taps", taps}, {"pattern", pattern}}));
            }
        }
    }
    return line;
}

Line check_down(const Isa& isa) {
    Line line(isa.name, "down");
    Random random(32);
    constexpr int kMostBytes = 300, kMostTaps = 9;
    Input input(sz(kMostTaps) * kMostBytes + kPixelSlackBytes);
    for (int bytes = 1; bytes <= kMostBytes; bytes += bytes < 130 ? 3 : 17) {
        for (int taps = 1; taps <= kMostTaps; ++taps) {
            for (int pattern = 0; pattern < 3; ++pattern) {
                std::uint8_t* a = input.place(sz(taps) * sz(bytes), kPixelSlackBytes, random);
                if (pattern == 2) std::memset(a, 255, sz(taps) * sz(bytes));
                const std::vector<std::int32_t> weight = tap_weights(taps, pattern, random);
                std::vector<const std::uint8_t*> rows(sz(taps));
                for (int t = 0; t < taps; ++t) rows[sz(t)] = a + sz(t) * sz(bytes);
                Output out(sz(bytes) + kPixelSlackBytes);
                isa.pixels.down(rows.data(), weight.data(), taps, bytes, out.bytes());
                for (int i = 0; i < bytes; ++i) {
                    std::uint64_t sum = 0;
                    for (int t = 0; t < taps; ++t) sum += static_cast<std::uint64_t>(weight[sz(t)]) * rows[sz(t)][i];
                    out.expect(sz(i), weighted_byte(sum));
                }
                out.any(sz(bytes), sz(bytes) + kPixelSlackBytes);
                line.check(out.difference(), text({{"bytes", bytes}, {"taps", taps}, {"pattern", pattern}}));
            }
        }
    }
    return line;
}

Line check_look_up(const Isa& isa) {
    Line line(isa.name, "look_up");
    Random random(33);
    constexpr int kMostPixels = 400;
    Input input(3 * kMostPixels), tables(3 * 256);
    for (int pixels = 1; pixels <= kMostPixels; pixels += pixels < 140 ? 1 : 13) {
        const std::uint8_t* row = input.place(3 * sz(pixels), 0, random);
        const auto* table = reinterpret_cast<const std::int8_t*>(tables.place(3 * 256, 0, random));
        Output out(3 * sz(pixels));
        std::int8_t* const planes[] = {out.as<std::int8_t>(), out.as<std::int8_t>() + pixels,
                                       out.as<std::int8_t>() + 2 * pixels};
        isa.pixels.look_up(row, table, pixels, planes);
        for (int x = 0; x < pixels; ++x) {
            for (int c = 0; c < 3; ++c) out.expect(sz(c * pixels + x), table[256 * c + row[3 * x + c]]);
        }
        line.check(out.difference(), text({{"pixels", pixels}}));
    }
    return line;
}

namespace {

// A logit: often an equal one, now and then what is no number or no end.
float logit(Random& random) {
    static const std::vector<float> odd = {std::numeric_limits<float>::quiet_NaN(),
                                           std::numeric_limits<float>::infinity(),
                                           -std::numeric_limits<float>::infinity(),
                                           3e38f,
                                           -3e38f,
                                           -0.0f};
    if (random.between(0, 30) == 0) return random.pick(odd);
    return random.coin() ? static_cast<float>(random.between(-1, 1)) : random.uniform() - 0.5f;
}

float bounded(float v) { return std::isnan(v) ? -1e30f : std::min(std::max(v, -1e30f), 1e30f); }

}  // namespace

Line check_bound(const Isa& isa) {
    Line line(isa.name, "bound");
    Random random(34);
    constexpr int kMost = 70;
    Input input(kMost * sizeof(float));
    for (int count = 1; count <= kMost; ++count) {
        std::uint8_t* a = input.place(sz(count) * sizeof(float), 0, random);
        Output out(sz(count) * sizeof(float) + kPixelSlackBytes);
        for (int i = 0; i < count; ++i) {
            const float v = logit(random);
            std::memcpy(a + 4 * i, &v, sizeof v);
            out.expect(sz(i), bounded(v));
        }
        isa.pixels.bound(reinterpret_cast<const float*>(a), count, out.as<float>());
        out.any(4 * sz(count), 4 * sz(count) + kPixelSlackBytes);
        line.check(out.difference(), text({{"count", count}}));
    }
    return line;
}

namespace {

std::vector<float> bounded_logits(std::size_t count, Random& random) {
    std::vector<float> logits(count);
    for (float& v : logits) v = bounded(logit(random));
    return logits;
}

}  // namespace

Line check_largest(const Isa& isa) {
    Line line(isa.name, "largest");
    Random random(35);
    for (const int classes : {1, 2, 3, 11, 150, 256}) {
        for (const int count : {1, 3, 15, 16, 17, 64, 100}) {
            const std::size_t stride = sz(count + random.between(0, 5));
            const auto logits = bounded_logits(sz(classes) * stride + kPixelSlackBytes / sizeof(float), random);
            Output best(sz(count) + kPixelSlackBytes);
            isa.pixels.largest(logits.data(), stride, classes, count, best.bytes());
            for (int i = 0; i < count; ++i) {
                int index = 0;
                for (int c = 1; c < classes; ++c) {
                    if (logits[sz(c) * stride + sz(i)] > logits[sz(index) * stride + sz(i)]) index = c;
                }
                best.expect(sz(i), static_cast<std::uint8_t>(index));
            }
            best.any(sz(count), sz(count) + kPixelSlackBytes);
            line.check(best.difference(), text({{"classes", classes}, {"count", count}}));
        }
    }
    return line;
}

Line check_mixed(const Isa& isa) {
    Line line(isa.name, "mixed");
    Random random(36);
    for (const int classes : {1, 2, 11, 256}) {
        for (const int cells : {1, 2, 15, 16, 17, 40}) {
            for (const int widest : {1, 5, 40, 0}) {  // the last one: 2 or 3, so that it is fine
                const std::size_t stride = 2 * sz(cells) + kPixelSlackBytes / sizeof(float);
                const auto logits = bounded_logits(sz(classes) * stride + kPixelSlackBytes / sizeof(float), random);
                std::vector<int> begin{0};
                const bool fine = widest == 0;
                for (int i = 0; i < cells; ++i)
                    begin.push_back(begin.back() + (fine ? random.between(2, 3) : random.between(0, widest)));
                const int pixels = begin.back();
                const std::size_t room = sz(pixels) + kPixelSlackBytes;
                std::vector<float> share(room), lines(2 * sz(classes) * sz(cells + kCellSlack));
                std::vector<std::int32_t> first(room, cells - 1);
                std::vector<std::uint8_t> wanted(sz(cells)), pick(room), flat(room), ids(room);
                Output out(sz(pixels));
                const float down = random.uniform();
                for (int cell = 0; cell < cells; ++cell) {
                    wanted[sz(cell)] = random.coin() ? 255 : 0;
                    for (int x = begin[sz(cell)]; x < begin[sz(cell) + 1]; ++x) {
                        share[sz(x)] = random.uniform();
                        first[sz(x)] = cell;
                        pick[sz(x)] = wanted[sz(cell)];
                        flat[sz(x)] = static_cast<std::uint8_t>(random.bits());
                        int index = 0;
                        float highest = 0;
                        for (int c = 0; c < classes; ++c) {
                            const auto at = [&](int i) {
                                const float* p = &logits[sz(c) * stride + sz(std::min(i, cells - 1))];
                                return p[0] + (p[cells] - p[0]) * down;
                            };
                            const float v = at(cell) + (at(cell + 1) - at(cell)) * share[sz(x)];
                            if (c == 0 || v > highest) {
                                highest = v;
                                index = c;
                            }
                        }
                        out.expect(sz(x), wanted[sz(cell)] != 0 ? static_cast<std::uint8_t>(index) : flat[sz(x)]);
                    }
                }
                isa.pixels.mixed(
                    {logits.data(), logits.data() + cells, stride, classes, cells, pixels, down, fine, begin.data(),
                     first.data(), share.data(), wanted.data(), pick.data(), flat.data(), lines.data(), ids.data()},
                    out.bytes());
                line.check(out.difference(), text({{"classes", classes}, {"cells", cells}, {"pixels", pixels}}));
            }
        }
    }
    return line;
}

}  // namespace bitgear::checks
