// Winograd's transforms, and multiplications amid them.
#include "checks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "support.h"

namespace bitgear::checks {

namespace {

int form_factor(const WinogradForm& form, int position, int y, int x) {
    return form.down().patch[form.row(position)][y] * form.across().patch[form.column(position)][x];
}

// All positions that are multiplied to one sum go to outputs alike.
int form_inverse(const WinogradForm& form, int output, int sum) {
    const auto factor = [&](int position) {
        return form.down().inverse[output / form.m][form.row(position)] *
               form.across().inverse[output % form.m][form.column(position)];
    };
    const int first = form.first_position(sum);
    for (int p = first; p < form.first_position(sum + 1); ++p) {
        if (factor(p) == factor(first)) continue;
        std::fprintf(stderr, "check_kernels: positions %d and %d of %s have no common sum\n", first, p, form.name);
        std::exit(2);
    }
    return factor(first);
}

int form_max_act(const WinogradForm& form) { return form.operand_bytes == 1 ? 255 / form.span() : 255; }

int form_divisor(const WinogradForm& form) {
    const auto divisor = [](int m) { return m == 2 ? 2 : m == 3 ? 6 : 24; };
    return form.stride == 2 ? 1 : divisor(form.n) * divisor(form.m);
}

const WinogradKernels& kernels_of(const Isa& isa, const WinogradForm& form) { return isa.winograd[&form - kWinograd]; }

// Operand k of an array of bytes or of 16 bits.
template <class Byte>
int operand(const WinogradForm& form, const void* operands, std::size_t k) {
    if (form.operand_bytes == 1) return static_cast<const Byte*>(operands)[k];
    std::int16_t word;
    std::memcpy(&word, static_cast<const std::int16_t*>(operands) + k, sizeof word);
    return word;
}

void expect_operand(Output& out, const WinogradForm& form, std::size_t k, int value) {
    if (form.operand_bytes == 1) {
        out.expect(k, static_cast<std::uint8_t>(value));
    } else {
        out.expect(k, static_cast<std::int16_t>(value));
    }
}

// A patch that lies somewhere in an image.
struct Patch {
    const std::uint8_t* a;
    std::size_t row_bytes, pixel_bytes;
    int at(int y, int x, int c) const { return a[sz(y) * row_bytes + sz(x) * pixel_bytes + sz(c)]; }
};

void check_winograd_patch(const Isa& isa, const WinogradForm& form, const Patch& patch, int channels, int act_max,
                          Random& random, Line& line) {
    const int positions = form.positions();
    std::uint8_t shifts[kMaxPositions] = {};
    for (int p = 0; p < positions; ++p) {
        int below = 0, above = 0;
        for (int y = 0; y < form.rows(); ++y) {
            for (int x = 0; x < form.columns(); ++x) {
                const int factor = form_factor(form, p, y, x) * act_max;
                (factor < 0 ? below : above) += std::abs(factor);
            }
        }
        const int shift = form.operand_bytes == 1 ? below : 0;
        const bool holds = form.operand_bytes == 1 ? below + above <= 255 : std::max(below, above) <= 32767;
        line.check(holds && shift == winograd_shift(form, p, act_max) ? "" : "does not hold",
                   text({{"an operand holds every transform: n", form.n}, {"m", form.m}, {"position", p}}));
        shifts[p] = static_cast<std::uint8_t>(shift);
    }
    // Bytes are written in 16s at least, and so 16 bits in what a vector holds.
    const std::size_t whole = form.operand_bytes == 1 ? 16 : 64, used = sz(form.operand_bytes * channels);
    const std::size_t room = (used + whole - 1) / whole * whole, position_bytes = room + 16 * sz(random.between(0, 3));
    Output v(sz(positions - 1) * position_bytes + room);
    kernels_of(isa, form).input(patch.a, patch.row_bytes, patch.pixel_bytes, channels, shifts, v.bytes(),
                                position_bytes);
    for (int p = 0; p < positions; ++p) {
        for (int c = 0; c < channels; ++c) {
            int sum = shifts[p];
            for (int y = 0; y < form.rows(); ++y) {
                for (int x = 0; x < form.columns(); ++x) sum += form_factor(form, p, y, x) * patch.at(y, x, c);
            }
            expect_operand(v, form, sz(p) * position_bytes / sz(form.operand_bytes) + sz(c), sum);
        }
        v.any(sz(p) * position_bytes + used, sz(p) * position_bytes + room);
    }
    line.check(
        v.difference(),
        text({{"n", form.n}, {"m", form.m}, {"stride", form.stride}, {"channels", channels}, {"act_max", act_max}}));
}

}  // namespace

Line check_winograd_input(const Isa& isa) {
    Line line(isa.name, "winograd_input");
    Random random(5);
    Input memory(6 * 9 * 300 + kSlackBytes);
    for (const WinogradForm& form : kWinograd) {
        for (int channels = 4; channels <= 264; channels += channels < 80 ? 4 : 20) {
            for (int i = 0; i < 2 * form.positions(); ++i) {
                const int act_max =
                    random.between(0, 3) == 0 ? random.between(1, form_max_act(form)) : form_max_act(form);
                const std::size_t pixel_bytes = sz(channels),
                                  row_bytes = pixel_bytes * sz(random.between(form.columns(), 9));
                const std::size_t bytes = sz(form.rows() - 1) * row_bytes + sz(form.columns()) * pixel_bytes;
                std::uint8_t* a = memory.place(bytes, kSlackBytes, random);
                for (std::size_t k = 0; k < bytes; ++k) a[k] = static_cast<std::uint8_t>(random.between(0, act_max));
                // In half of the channels, what takes a position to its highest or its lowest value.
                for (int y = 0; y < form.rows(); ++y) {
                    for (int x = 0; x < form.columns(); ++x) {
                        const bool high = (form_factor(form, i / 2, y, x) > 0) == (i % 2 == 0);
                        for (int c = 0; c < channels; c += random.between(1, 3)) {
                            a[sz(y) * row_bytes + sz(x) * pixel_bytes + sz(c)] =
                                static_cast<std::uint8_t>(high ? act_max : 0);
                        }
                    }
                }
                check_winograd_patch(isa, form, {a, row_bytes, pixel_bytes}, channels, act_max, random, line);
            }
        }
    }
    return line;
}

Line check_winograd_output(const Isa& isa) {
    Line line(isa.name, "winograd_output");
    Random random(6);
    constexpr int kMostColumns = kMaxBlocks * kBlock;
    Input sums(4 * sz(kMaxPositions * (2 * kMaxRows + 1) * kMostColumns)), corrections(4 * sz(16 * 2 * kMostColumns));
    for (const WinogradForm& form : kWinograd) {
        const int positions = form.sums(), outputs = form.n * form.m, divisor = form_divisor(form);
        for (int columns = kBlock; columns <= kMaxBlocks * kBlock; columns += kBlock) {
            for (int repeat = 0; repeat < 150; ++repeat) {
                // Sums may be beyond 32 bits on the way; a result times a power of two must not.
                const int limit = random.pick<int>({100, 100000, 2000000});
                std::int64_t first_sums[kMaxTileSide * kMaxTileSide], first_results[kMaxTileSide * kMaxTileSide];
                const int tiles = std::max(some_rows(random) / form.m, 1);
                const std::size_t tile_stride = sz(columns * random.between(1, 2));
                const std::size_t position_stride = sz(tiles) * tile_stride + sz(kBlock * random.between(0, 2));
                const std::size_t correction_stride = sz(columns * random.between(1, 2));
                const std::size_t acc_stride = sz(columns + kBlock * random.between(0, 2));
                auto* m = reinterpret_cast<std::int32_t*>(
                    sums.place(4 * (sz(positions) * position_stride + sz(tiles - 1) * tile_stride), 0, random));
                auto* correction = reinterpret_cast<std::int32_t*>(
                    corrections.place(4 * (sz(outputs - 1) * correction_stride + sz(columns)), 0, random));
                Output acc(4 * (sz(tiles * outputs - 1) * acc_stride + sz(columns)));
                for (int c = 0; c < columns; ++c) {
                    for (int t = 0; t < tiles; ++t) {
                        for (int p = 0; p < positions; ++p) {
                            std::int32_t* sum = m + sz(p) * position_stride + sz(t) * tile_stride + c;
                            const int step = t == 0 ? 1 : divisor;  // all tiles leave the same remainders
                            *sum = step *
                                   patterned(repeat % kPatterns, -limit / step, limit / step, sz(p + c + t), random);
                            if (t > 0) *sum += sum[-static_cast<std::ptrdiff_t>(sz(t) * tile_stride)];
                        }
                        for (int i = 0; i < outputs; ++i) {
                            std::int64_t sum = 0;
                            for (int p = 0; p < positions; ++p) {
                                sum += static_cast<std::int64_t>(form_inverse(form, i, p)) *
                                       m[sz(p) * position_stride + sz(t) * tile_stride + sz(c)];
                            }
                            if (t == 0) {  // a correction that leaves a multiple of the divisor, as true ones do
                                first_sums[i] = sum;
                                first_results[i] = random.between(-limit, limit);
                                correction[sz(i) * correction_stride + sz(c)] = static_cast<std::int32_t>(
                                    static_cast<std::uint32_t>(sum - divisor * first_results[i]));
                            }
                            const int pixel = i / form.m * tiles * form.m + t * form.m + i % form.m;
                            acc.expect(sz(pixel) * acc_stride + sz(c),
                                       static_cast<std::int32_t>(first_results[i] + (sum - first_sums[i]) / divisor));
                        }
                    }
                }
                const std::string where = text({{"n", form.n},
                                                {"m", form.m},
                                                {"columns", columns},
                                                {"limit", limit},
                                                {"pattern", repeat % kPatterns}});
                const WinogradKernels& kernels = kernels_of(isa, form);
                WinogradSums out{tiles,
                                 columns,
                                 m,
                                 position_stride,
                                 tile_stride,
                                 correction,
                                 correction_stride,
                                 acc.as<std::int32_t>(),
                                 acc_stride};
                kernels.output(out);
                line.check(acc.difference(), where);
                if (kernels.columns == nullptr) continue;
                std::vector<std::int32_t> down(sz(positions) * position_stride + sz(tiles) * tile_stride);
                for (int t = 0; t < tiles; ++t) {
                    for (int c = 0; c < columns; ++c) {
                        const std::size_t at = sz(t) * tile_stride + sz(c);
                        for (int i = 0; i < form.n * form.columns(); ++i) {
                            std::uint32_t sum = 0;  // wraps around
                            for (int y = 0; y < form.n + 2; ++y) {
                                sum += static_cast<std::uint32_t>(form.down().inverse[i / form.columns()][y]) *
                                       static_cast<std::uint32_t>(
                                           m[sz(y * form.columns() + i % form.columns()) * position_stride + at]);
                            }
                            down[sz(i) * position_stride + at] = static_cast<std::int32_t>(sum);
                        }
                    }
                }
                out.m = down.data();
                kernels.columns->output(out);
                line.check(acc.difference(), "by columns: " + where);
            }
        }
    }
    return line;
}

namespace {

// Sums of tiles at the edges of an image to bytes, with and without a residual, against the chain of operations.
// `kernels`: with `positions` sums of each tile.
template <class Kernels>
void check_winograd_quick_case(const WinogradForm& form, const Kernels& kernels, int positions, int number,
                               Random& random, Line& line) {
    const int tiles = std::max(some_rows(random) / form.m, 1), channels = random.between(1, 2 * kBlock);
    const int padded = round_up(channels, kBlock), rows = random.between(1, form.n),
              pixels = random.between((tiles - 1) * form.m + 1, tiles * form.m);
    const bool ties = number % 3 == 0, with_residual = number % 2 == 0;
    const int divisor = form_divisor(form), most = ties ? 1 : 20;
    std::vector<std::int32_t> m(sz(positions * tiles * padded)), correction(sz(form.n * form.m * padded));
    for (std::int32_t& sum : m) sum = divisor * random.between(-most, most);
    for (std::int32_t& sum : correction) sum = divisor * random.between(-most, most);
    std::vector<std::int32_t> acc(sz(form.n * form.m * tiles * padded));
    const WinogradSums sums{tiles,      padded,     m.data(),  sz(tiles * padded), sz(padded), correction.data(),
                            sz(padded), acc.data(), sz(padded)};
    kernels.output(sums);
    std::int32_t largest = 1;
    for (const std::int32_t sum : acc) largest = std::max(largest, std::abs(sum));

    std::vector<float> multiplier(sz(padded)), bias(sz(padded)), quick(4 * sz(padded));
    const float scale = ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
    const float residual_scale = with_residual ? scale * (ties ? 0.5f : 0.731f) : 0.0f;
    const std::int32_t residual_zero = random.coin() ? 0 : 128;
    for (int c = 0; c < padded; ++c) {
        multiplier[sz(c)] = (random.coin() ? 0.5f : -0.5f) * scale;
        if (!ties) multiplier[sz(c)] = scale * 200.0f / static_cast<float>(largest) * (random.uniform() - 0.3f);
        bias[sz(c)] =
            ties ? 0.5f * scale * static_cast<float>(random.between(-9, 99)) : scale * random.uniform() * 50.0f;
    }
    const int outputs = random.between(1, 2);
    Quantizer quantizers[2] = {};
    const Quantizer* pointers[2] = {&quantizers[0], &quantizers[1]};
    const bool bounded = quick_readers(quantizers, outputs, scale, multiplier.data(), bias.data(), channels, padded,
                                       residual_scale, residual_zero, largest, quick.data(), random);
    line.check(bounded ? "" : "is not bounded", "case " + std::to_string(number));
    if (!bounded) return;

    const std::size_t pixel_bytes = sz(channels + random.between(0, 7)), row_bytes = pixel_bytes * sz(pixels) + 3;
    const std::size_t area_bytes = row_bytes * sz(rows);
    Input memory(area_bytes + kSlackBytes);
    const std::uint8_t* residual = memory.place(area_bytes, kSlackBytes, random);
    Output out(area_bytes * sz(outputs));
    Area<std::uint8_t> to[2];
    for (int o = 0; o < outputs; ++o) to[o] = {out.bytes() + sz(o) * area_bytes, row_bytes, pixel_bytes};
    EpilogueTile constants{};
    constants.columns = channels;
    constants.multiplier = multiplier.data();
    constants.bias = bias.data();
    const std::uint8_t* const present[] = {residual};
    constants.residual = with_residual ? present : nullptr;
    constants.residual_scale = residual_scale;
    constants.residual_zero = residual_zero;
    constants.outputs = outputs;
    constants.quantizers = pointers;
    const WinogradPixels where{rows, pixels, to, {residual, row_bytes, pixel_bytes}};
    kernels.output_quick(sums, constants, where);
    for (int y = 0; y < rows; ++y) {
        for (int x = 0; x < pixels; ++x) {
            for (int c = 0; c < channels; ++c) {
                const std::size_t at = sz(y) * row_bytes + sz(x) * pixel_bytes + sz(c);
                const std::int32_t sum = acc[sz((y * tiles * form.m + x) * padded + c)];
                float value = static_cast<float>(sum) * multiplier[sz(c)];
                value = value + bias[sz(c)];
                if (with_residual) value = value + static_cast<float>(residual[at] - residual_zero) * residual_scale;
                for (int o = 0; o < outputs; ++o) out.expect(sz(o) * area_bytes + at, byte_of(value, quantizers[o]));
            }
        }
    }
    line.check(out.difference(), text({{"case", number},
                                       {"n", form.n},
                                       {"m", form.m},
                                       {"positions", positions},
                                       {"tiles", tiles},
                                       {"channels", channels},
                                       {"rows", rows},
                                       {"pixels", pixels}}));
}

}  // namespace

Line check_winograd_quick(const Isa& isa) {
    Line line(isa.name, "winograd_output quick");
    Random random(15);
    for (const WinogradForm& form : kWinograd) {
        const WinogradKernels& kernels = kernels_of(isa, form);
        for (int i = 0; kernels.output_quick != nullptr && i < 1200; ++i)
            check_winograd_quick_case(form, kernels, form.sums(), i, random, line);
        for (int i = 0; kernels.columns != nullptr && i < 1200; ++i)
            check_winograd_quick_case(form, *kernels.columns, form.n * form.columns(), i, random, line);
    }
    return line;
}

namespace {

// A form's products by columns, with weights that were cut off, against plain sums.
void check_columns_case(const WinogradForm& form, const WinogradColumns& kernels, int blocks, int groups, int patterns,
                        Input& weights_memory, Input& packed_memory, Input& patches_memory, Random& random,
                        Line& line) {
    const int positions = form.positions(), columns = blocks * kBlock, inputs = groups * kGroup / form.operand_bytes;
    const int tiles = random.between(1, 12);
    const int low = form.operand_bytes == 1 ? -kWinogradMaxWeight : -6272, high = -low;  // 7 * 7 * 128
    const std::size_t position_bytes = sz(groups * kGroup), row_bytes = sz(positions) * position_bytes;
    const std::size_t block_bytes = row_bytes * kBlock + kBlock * kGroup * sz(random.between(0, 2));
    std::vector<std::int32_t> weights(sz(columns * positions * inputs));  // [column][position][input]
    std::uint8_t* packed = packed_memory.place(sz(blocks) * block_bytes, 0, random);
    for (int b = 0; b < blocks; ++b) {
        std::uint8_t* codes = weights_memory.place(kBlock * row_bytes, 0, random);
        for (std::size_t k = 0; k < sz(kBlock * positions * inputs); ++k) {
            const int w = patterned(patterns / kPatterns % kPatterns, low, high, k / 5, random);
            weights[sz(b * kBlock * positions * inputs) + k] = w;
            if (form.operand_bytes == 1) {
                codes[k] = static_cast<std::uint8_t>(w);
            } else {
                const auto word = static_cast<std::int16_t>(w);
                std::memcpy(codes + 2 * k, &word, sizeof word);
            }
        }
        Output block(kBlock * row_bytes);
        kernels.pack(reinterpret_cast<const std::int8_t*>(codes), row_bytes, groups, block.bytes());
        block.any(0, kBlock * row_bytes);
        line.check(block.difference(), "pack");
        std::memcpy(packed + sz(b) * block_bytes, block.bytes(), kBlock * row_bytes);
    }
    const std::size_t patch_bytes = position_bytes + sz(4 * random.between(0, 9)),
                      positions_apart = sz(tiles) * patch_bytes + sz(64 * random.between(0, 2));
    const std::size_t patches_bytes =
        sz(positions - 1) * positions_apart + sz(tiles - 1) * patch_bytes + position_bytes;
    std::uint8_t* patches = patches_memory.place(patches_bytes, 0, random);
    if (patterns % kPatterns == 0 && form.operand_bytes == 1) std::fill(patches, patches + patches_bytes, 255);
    const auto input = [&](int p, int t, int k) {
        return operand<std::uint8_t>(form, patches + sz(p) * positions_apart + sz(t) * patch_bytes, sz(k));
    };
    // Groups of some positions have weights a second time, or a third.
    std::vector<std::vector<Run>> runs(sz(positions));
    std::vector<std::vector<std::int8_t>> excess(sz(positions));  // [block][extra group][column of the block][kGroup]
    std::vector<WinogradExcess> excesses(sz(positions));
    for (int p = 0; p < positions; ++p) {
        const int count = form.operand_bytes == 2 || random.coin() ? 0 : random.between(1, 5);
        for (int e = 0; e < count; ++e) runs[sz(p)].push_back({kGroup * random.between(0, groups - 1), 1});
        excess[sz(p)].resize(sz(count * columns * kGroup));
        for (std::int8_t& w : excess[sz(p)]) w = static_cast<std::int8_t>(random.between(-127, 127));
        excesses[sz(p)] = {count, runs[sz(p)].data(), reinterpret_cast<const std::uint8_t*>(excess[sz(p)].data()),
                           sz(count * kBlock * kGroup)};
    }
    const std::size_t position_stride = sz(tiles * columns + kBlock * random.between(0, 2));
    const int sums = form.n * form.columns();
    Output out((sz(sums - 1) * position_stride + sz(tiles * columns)) * sizeof(std::int32_t));
    for (int t = 0; t < tiles; ++t) {
        for (int c = 0; c < columns; ++c) {
            std::vector<std::uint32_t> products(sz(positions));  // wrap around
            for (int p = 0; p < positions; ++p) {
                for (int k = 0; k < inputs; ++k) {
                    products[sz(p)] += static_cast<std::uint32_t>(input(p, t, k)) *
                                       static_cast<std::uint32_t>(weights[sz((c * positions + p) * inputs + k)]);
                }
                const int count = excesses[sz(p)].count;
                for (int e = 0; e < count; ++e) {
                    const std::int8_t* w =
                        excess[sz(p)].data() + ((c / kBlock * count + e) * kBlock + c % kBlock) * kGroup;
                    for (int k = 0; k < kGroup; ++k) {
                        products[sz(p)] +=
                            static_cast<std::uint32_t>(input(p, t, runs[sz(p)][sz(e)].offset + k) * w[k]);
                    }
                }
            }
            for (int i = 0; i < sums; ++i) {
                std::uint32_t sum = 0;
                for (int y = 0; y < form.n + 2; ++y) {
                    sum += static_cast<std::uint32_t>(form.down().inverse[i / form.columns()][y]) *
                           products[sz(y * form.columns() + i % form.columns())];
                }
                out.expect(sz(i) * position_stride + sz(t * columns + c), static_cast<std::int32_t>(sum));
            }
        }
    }
    WinogradProducts products{};
    products.tiles = tiles;
    products.blocks = blocks;
    products.groups = groups;
    products.patches = patches;
    products.patch_bytes = patch_bytes;
    products.position_bytes = positions_apart;
    products.w = packed;
    products.block_bytes = block_bytes;
    products.excess = excesses.data();
    products.sums = out.as<std::int32_t>();
    products.position_stride = position_stride;
    kernels.run(products);
    line.check(out.difference(), text({{"n", form.n},
                                       {"m", form.m},
                                       {"blocks", blocks},
                                       {"groups", groups},
                                       {"tiles", tiles},
                                       {"patterns", patterns}}));
}

}  // namespace

Line check_winograd_columns(const Isa& isa) {
    Line line(isa.name, "winograd_columns");
    Random random(11);
    constexpr std::size_t kLongest = 40 * kGroup;
    Input weights(kBlock * kMaxPositions * kLongest), packed(2 * kBlock * (kMaxPositions * kLongest + 2 * kGroup));
    Input patches(kMaxPositions * (12 * (kLongest + 36) + 128));
    for (const WinogradForm& form : kWinograd) {
        const WinogradColumns* columns = kernels_of(isa, form).columns;
        if (columns == nullptr) continue;
        for (int i = 0; i < 6 * kPatterns * kPatterns; ++i) {
            check_columns_case(form, *columns, 1 + i % 2, random.between(1, 40), i, weights, packed, patches, random,
                               line);
        }
    }
    return line;
}

// Both transforms and the tables of winograd.h, against the definition of a convolution.
Line check_winograd(const Isa& isa) {
    Line line(isa.name, "winograd");
    Random random(10);
    Input memory(6 * 6 * 64 + kSlackBytes);
    for (const WinogradForm& form : kWinograd) {
        const int positions = form.positions(), outputs = form.n * form.m;
        for (int i = 0; i < 2 * kPatterns * kPatterns; ++i) {
            const int channels = 4 * random.between(1, 16),
                      bits = random.between(2, form.operand_bytes == 1 ? kWinogradMaxWeightBits : 8);
            const int act_max = form_max_act(form);
            const std::size_t pixel_bytes = sz(channels), row_bytes = pixel_bytes * sz(form.columns()),
                              rows_bytes = sz(form.rows()) * row_bytes,
                              room = sz(round_up(form.operand_bytes * channels, 64));
            std::uint8_t* a = memory.place(rows_bytes, kSlackBytes, random);
            for (std::size_t k = 0; k < rows_bytes; ++k) {
                a[k] = static_cast<std::uint8_t>(
                    patterned(i % kPatterns, 0, act_max, k / (i % 2 == 0 ? 1 : pixel_bytes), random));
            }
            const Patch patch{a, row_bytes, pixel_bytes};
            std::uint8_t shifts[kMaxPositions] = {};
            for (int p = 0; p < positions; ++p) shifts[p] = static_cast<std::uint8_t>(winograd_shift(form, p, act_max));
            std::vector<std::uint8_t> v(sz(positions) * room);
            kernels_of(isa, form).input(a, row_bytes, pixel_bytes, channels, shifts, v.data(), room);
            constexpr int kMostOutputs = kMaxTileSide * kMaxTileSide;
            std::int32_t m[kMaxPositions * kBlock], correction[kMostOutputs * kBlock], expected[kMostOutputs * kBlock];
            for (int column = 0; column < kBlock; ++column) {
                std::vector<std::int8_t> codes(9 * sz(channels));
                for (std::size_t k = 0; k < codes.size(); ++k) {
                    codes[k] = static_cast<std::int8_t>(patterned(i / kPatterns % kPatterns, -(1 << (bits - 1)),
                                                                  (1 << (bits - 1)) - 1, k + sz(column), random));
                }
                std::int32_t sums[kMaxPositions] = {};
                std::uint32_t product = 0;  // wraps around
                for (int p = 0, s = 0; p < positions; ++p) {
                    if (p == form.first_position(s + 1)) {
                        ++s;
                        product = 0;
                    }
                    for (int c = 0; c < channels; ++c) {
                        const std::int32_t weight = winograd_weight(form, p, codes.data() + c, channels);
                        sums[p] += weight;
                        const int v_c = operand<std::uint8_t>(form, v.data() + sz(p) * room, sz(c));
                        product += static_cast<std::uint32_t>(v_c) * static_cast<std::uint32_t>(weight);
                    }
                    m[s * kBlock + column] = static_cast<std::int32_t>(product);
                }
                for (int o = 0; o < outputs; ++o) {
                    correction[o * kBlock + column] = winograd_correction(form, o, sums, shifts);
                    std::int32_t sum = 0;
                    for (int t = 0; t < 9; ++t) {
                        for (int c = 0; c < channels; ++c) {
                            sum += patch.at(form.stride * (o / form.m) + t / 3, form.stride * (o % form.m) + t % 3, c) *
                                   codes[sz(t * channels + c)];
                        }
                    }
                    expected[o * kBlock + column] = sum;
                }
            }
            Output acc(sz(outputs * kBlock) * sizeof(std::int32_t));
            for (int k = 0; k < outputs * kBlock; ++k) acc.expect(sz(k), expected[k]);
            kernels_of(isa, form).output(
                {1, kBlock, m, kBlock, kBlock, correction, kBlock, acc.as<std::int32_t>(), kBlock});
            line.check(acc.difference(),
                       text({{"n", form.n}, {"m", form.m}, {"channels", channels}, {"bits", bits}, {"patterns", i}}));
        }
    }
    return line;
}

Line check_winograd_weights(const Isa& isa) {
    Line line(isa.name, "winograd_weights");
    Random random(11);
    constexpr int kMostChannels = 320, kWhole = 32;
    Input memory(9 * kMostChannels + kWhole);
    int patterns = 0;
    for (const WinogradForm& form : kWinograd) {
        const int positions = form.positions(), widest = form.operand_bytes == 1 ? kWinogradMaxWeightBits : 8;
        for (int channels = kGroup; channels <= kMostChannels; channels += channels < 136 ? kGroup : 5 * kGroup) {
            for (int bits = 2; bits <= widest; ++bits, ++patterns) {
                const std::size_t beyond = sz(round_up(channels, kWhole) - channels),
                                  bytes = sz(positions * channels * form.operand_bytes);
                auto* codes = reinterpret_cast<std::int8_t*>(memory.place(9 * sz(channels), beyond, random));
                const int low = -(1 << (bits - 1)), high = (1 << (bits - 1)) - 1;
                for (int k = 0; k < 9 * channels; ++k) {
                    // Signs by tap, by channel or at random: each takes other positions to their extremes.
                    const int index = patterns % 3 == 0 ? k / channels : k;
                    codes[k] = static_cast<std::int8_t>(patterned(patterns % kPatterns, low, high, sz(index), random));
                }
                if (patterns % 4 == 1) std::memset(codes, 0, 9 * sz(channels));
                if (patterns % 4 >= 2) codes[random.between(0, 9 * channels - 1)] = static_cast<std::int8_t>(low);
                Output out(bytes + 2 * beyond);
                const int largest = kernels_of(isa, form).weights(codes, channels, out.bytes());
                int must = 0;
                for (int p = 0; p < positions; ++p) {
                    for (int c = 0; c < channels; ++c) {
                        int weight = 0;
                        for (int t = 0; t < 9; ++t) {
                            const int factor =
                                form.down().weights[form.row(p)][t / 3] * form.across().weights[form.column(p)][t % 3];
                            weight += factor * codes[t * channels + c];
                        }
                        must = std::max(must, std::abs(weight));
                        const int most = form.operand_bytes == 1 ? kWinogradMaxWeight : 32767;
                        expect_operand(out, form, sz(p * channels + c), std::min(std::max(weight, -most), most));
                    }
                }
                out.any(bytes, bytes + 2 * beyond);
                const std::string where = text(
                    {{"n", form.n}, {"m", form.m}, {"channels", channels}, {"bits", bits}, {"patterns", patterns}});
                line.check(out.difference(), where);
                line.check(
                    largest == must ? "" : "returns " + std::to_string(largest) + ", must be " + std::to_string(must),
                    where);
            }
        }
    }
    return line;
}

}  // namespace bitgear::checks
