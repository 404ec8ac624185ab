// Winograd's multiplication, all positions of a column of patches at a time. Included by isa_avx512.cpp inside its
// namespace.
#pragma once

// Weights of a block: [column][group][position of the column][kBlock * kGroup].
template <int N, int M>
void pack_columns(const std::int8_t* weights, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    constexpr std::ptrdiff_t kDown = N + 2, kAcross = M + 2, kStep = kBlock * kGroup;
    for (std::ptrdiff_t x = 0; x < kAcross; ++x) {
        for (std::ptrdiff_t y = 0; y < kDown; ++y) {
            pack_groups(weights + (y * kAcross + x) * groups * kGroup, row_bytes, groups,
                        packed + (x * groups * kDown + y) * kStep, kDown * kStep);
        }
    }
}

// As many patches as leave their sums, at most 24, in registers.
template <int N, int B>
constexpr int kPatchesAtOnce = 24 / ((N + 2) * B);

// One column, `x` of `columns`, of T patches from patch `first` on.
template <class Operand, int N, int T, int B>
__attribute__((noinline)) void run_column(const WinogradProducts& p, int columns, int x, int first) {
    constexpr int kDown = N + 2;
    const std::size_t below = static_cast<std::size_t>(columns) * p.position_bytes;
    const std::uint8_t* a[kDown];
    std::size_t patch[T];
    __m512i acc[kDown][T][B];
#pragma GCC unroll 6
    for (int y = 0; y < kDown; ++y) {
        a[y] = p.patches + static_cast<std::size_t>(x) * p.position_bytes + static_cast<std::size_t>(y) * below +
               static_cast<std::size_t>(first) * p.patch_bytes;
#pragma GCC unroll 6
        for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) acc[y][t][b] = _mm512_setzero_si512();
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) patch[t] = static_cast<std::size_t>(t) * p.patch_bytes;
    const std::uint8_t* w = p.w + static_cast<std::ptrdiff_t>(x) * p.groups * kDown * kBlock * kGroup;
    for (int g = 0; g < p.groups; ++g) {
#pragma GCC unroll 6
        for (int y = 0; y < kDown; ++y) {
            const __m512i w0 = _mm512_loadu_si512(w + y * kBlock * kGroup);
            if constexpr (B == 2) {
                const __m512i w1 = _mm512_loadu_si512(w + p.block_bytes + y * kBlock * kGroup);
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row2(a[y] + patch[t], w0, w1, acc[y][t][0], acc[y][t][1]);
            } else {
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row1(a[y] + patch[t], w0, acc[y][t][0]);
            }
            a[y] += kGroup;
        }
        w += kDown * kBlock * kGroup;
    }
#pragma GCC unroll 6
    for (int y = 0; y < kDown; ++y) {
        const WinogradExcess& excess = p.excess[y * columns + x];
        for (int e = 0; e < excess.count; ++e) {
            const std::uint8_t* more = a[y] - p.groups * kGroup + excess.runs[e].offset;
            const std::uint8_t* weights = excess.w + e * kBlock * kGroup;
            const __m512i w0 = _mm512_loadu_si512(weights);
            if constexpr (B == 2) {
                const __m512i w1 = _mm512_loadu_si512(weights + excess.block_bytes);
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row2(more + patch[t], w0, w1, acc[y][t][0], acc[y][t][1]);
            } else {
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row1(more + patch[t], w0, acc[y][t][0]);
            }
        }
    }
    std::int32_t* sums = p.sums + static_cast<std::size_t>(x) * p.position_stride + first * B * kBlock;
    const std::size_t sums_below = static_cast<std::size_t>(columns) * p.position_stride;
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) {
            VecU down[kDown], back[N];
#pragma GCC unroll 6
            for (int y = 0; y < kDown; ++y) down[y] = reinterpret_cast<VecU>(acc[y][t][b]);
            winograd_back<N>(down, back);
#pragma GCC unroll 4
            for (int y = 0; y < N; ++y)
                store(sums + static_cast<std::size_t>(y) * sums_below + (t * B + b) * kBlock, back[y]);
        }
    }
}

template <class Operand, int N, int T, int B>
void run_column_left(const WinogradProducts& p, int columns, int x, int first) {
    if constexpr (T > 0) {
        if (p.tiles - first == T) {
            run_column<Operand, N, T, B>(p, columns, x, first);
        } else {
            run_column_left<Operand, N, T - 1, B>(p, columns, x, first);
        }
    }
}

template <class Operand, int N, int B>
void run_blocks(const WinogradProducts& p, int columns) {
    constexpr int kPatches = kPatchesAtOnce<N, B>;
    for (int x = 0; x < columns; ++x) {
        int first = 0;
        for (; first + kPatches <= p.tiles; first += kPatches)
            run_column<Operand, N, kPatches, B>(p, columns, x, first);
        run_column_left<Operand, N, kPatches - 1, B>(p, columns, x, first);
    }
}

template <class Operand, int N, int M>
void run_columns(const WinogradProducts& p) {
    p.blocks == 2 ? run_blocks<Operand, N, 2>(p, M + 2) : run_blocks<Operand, N, 1>(p, M + 2);
}

// A reader's constants for a vector of channels, and where its pixels begin.
struct TileReader {
    VecF multiplier, bias, residual_scale;
    VecI window;
    VecB low, high;
    Area<std::uint8_t> to;
};

// Bytes of vectors whose quotients lie too near a rounding boundary, of the tile that begins at `left`. Their sums are
// still to be divided.
template <int N, int M, int STRIDE>
__attribute__((noinline)) void settle_tile(const Doubts& doubts, const EpilogueTile& constants,
                                           const WinogradPixels& pixels, int left, int channel) {
    const int valid = std::min(constants.column + constants.columns - channel, kLanes);
    EpilogueTile pixel = constants;
    for (int i = 0; i < doubts.count; ++i) {
        const auto [o, first] = doubts.of[i];
        for (int k = first; k < first + 4 && k < N * M; ++k) {
            const int y = k / M, x = left + k % M;
            if (y >= pixels.rows || x >= pixels.pixels) continue;
            const auto at = [&](const auto& area) {
                return area.first + static_cast<std::size_t>(y) * area.row_bytes +
                       static_cast<std::size_t>(x) * area.pixel_bytes;
            };
            const std::uint8_t* residual = pixel.residual != nullptr ? at(pixels.residual) : nullptr;
            if (pixel.residual != nullptr) pixel.residual = &residual;
            VecQ bytes;
            exact_bytes(pixel, *constants.quantizers[o],
                        winograd_divide<N, M, STRIDE>(load<VecU>(&doubts.sums[i][k - first])), 0, channel, &bytes);
            store_bytes(at(pixels.to[o]) + channel, bytes, valid);
        }
    }
}

// Pixels of a tile to the bytes of OUTPUTS readers, four at a time. `WHOLE`: all pixels exist, and all channels of the
// vector. `sums` are still to be divided, before they become floats (`DIVIDED`) or by the readers' multipliers.
// `valid`: bytes of a pixel.
template <int N, int M, int STRIDE, bool DIVIDED, bool WHOLE, bool RESIDUAL, int OUTPUTS>
__attribute__((always_inline)) inline void quantise_tile(const VecU (&sums)[N * M],
                                                         const TileReader (&readers)[OUTPUTS],
                                                         const Area<const std::uint8_t>& residual, int rows, int across,
                                                         __mmask16 valid, Doubts& doubts) {
    constexpr int kPixels = N * M, kFours = (kPixels + 3) / 4;
    const auto exists = [&](int k) { return WHOLE || (k / M < rows && k % M < across); };
    const auto place = [&](const auto& area, int k) {
        return area.first + static_cast<std::size_t>(k / M) * area.row_bytes +
               static_cast<std::size_t>(k % M) * area.pixel_bytes;
    };
#pragma GCC unroll 4
    for (int four = 0; four < kFours; ++four) {
        VecF value[4], other[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const int k = std::min(4 * four + i, kPixels - 1);
            value[i] = to_float(DIVIDED ? winograd_divide<N, M, STRIDE>(sums[k]) : load<VecI>(&sums[k]));
            if constexpr (RESIDUAL) other[i] = exists(k) ? to_float(load_bytes(place(residual, k))) : VecF{};
        }
#pragma GCC unroll 2
        for (int o = 0; o < OUTPUTS; ++o) {
            const TileReader& reader = readers[o];
            VecI fixed[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                VecF t = multiply_add(value[i], reader.multiplier, reader.bias);
                if constexpr (RESIDUAL) t = multiply_add(other[i], reader.residual_scale, t);
                fixed[i] = reinterpret_cast<VecI>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(t)));
            }
            const VecI least = min_words(min_words(fixed[0], fixed[1]), min_words(fixed[2], fixed[3]));
            if (__builtin_expect(any_low_word(least, reader.window), 0)) {
                __m512i* kept = doubts.add(o, 4 * four);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) store(kept + i, sums[std::min(4 * four + i, kPixels - 1)]);
            }
            const auto bytes = reinterpret_cast<__m512i>(min(max(pack_high(fixed), reader.low), reader.high));
            const __m128i part[] = {load<__m128i>(&bytes), _mm512_maskz_extracti32x4_epi32(0xff, bytes, 1),
                                    _mm512_maskz_extracti32x4_epi32(0xff, bytes, 2),
                                    _mm512_maskz_extracti32x4_epi32(0xff, bytes, 3)};
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const int k = 4 * four + i;
                if (k >= kPixels || !exists(k)) continue;
                if constexpr (WHOLE) {
                    store(place(reader.to, k), part[i]);
                } else {
                    _mm_mask_storeu_epi8(place(reader.to, k), valid, part[i]);
                }
            }
        }
    }
}

// `DOWN`: whether sums are to be transformed downwards too. `DIVIDED`: whether they must be divided before they become
// floats; else quotients take the divisor into their multiplier.
template <int N, int M, int STRIDE, bool DOWN, bool DIVIDED, bool RESIDUAL, int OUTPUTS>
void output_tiles(const WinogradSums& from, const EpilogueTile& constants, const WinogradPixels& pixels) {
    constexpr WinogradForm kForm{"", N, M, 1, STRIDE};
    const WinogradSums sums = from;  // whose fields no store of bytes can change
    for (int c = 0; c < sums.columns && c < constants.columns; c += kLanes) {
        const int channel = constants.column + c;
        const bool whole_block = constants.columns - c >= kLanes;
        const auto valid = static_cast<__mmask16>(whole_block ? 0xffff : (1u << (constants.columns - c)) - 1);
        const auto begin = [&](auto area) {
            area.first += channel;
            return area;
        };
        TileReader readers[OUTPUTS];
        for (int o = 0; o < OUTPUTS; ++o) {
            const Quantizer& q = *constants.quantizers[o];
            VecF multiplier = load<VecF>(q.multiplier + channel);
            if constexpr (!DIVIDED) multiplier = multiplier / broadcast(static_cast<float>(kForm.divisor()));
            readers[o] = {multiplier,
                          load<VecF>(q.bias + channel),
                          broadcast(q.residual_scale),
                          broadcast(q.window),
                          VecB{} + static_cast<std::uint8_t>(q.low + q.zero),
                          VecB{} + static_cast<std::uint8_t>(q.high + q.zero),
                          begin(pixels.to[o])};
        }
        Area<const std::uint8_t> residual{};
        if constexpr (RESIDUAL) residual = begin(pixels.residual);
        const std::int32_t* m = sums.m + c;
        for (int tile = 0; tile < sums.tiles; ++tile, m += sums.tile_stride) {
            const int left = tile * M, across = pixels.pixels - left;
            VecU sum[N * M];
            winograd_tile<N, M, STRIDE, DOWN>(sums, m, c, sum);
            Doubts doubts;
            if (whole_block && pixels.rows == N && across >= M) {
                quantise_tile<N, M, STRIDE, DIVIDED, true, RESIDUAL>(sum, readers, residual, pixels.rows, across, valid,
                                                                     doubts);
            } else {
                quantise_tile<N, M, STRIDE, DIVIDED, false, RESIDUAL>(sum, readers, residual, pixels.rows, across,
                                                                      valid, doubts);
            }
            if (__builtin_expect(doubts.count > 0, 0))
                settle_tile<N, M, STRIDE>(doubts, constants, pixels, left, channel);
            const auto next = [](auto& area) { area.first += static_cast<std::size_t>(M) * area.pixel_bytes; };
            for (TileReader& reader : readers) next(reader.to);
            if constexpr (RESIDUAL) next(residual);
        }
    }
}

template <int N, int M, int STRIDE, bool DOWN, bool DIVIDED>
void output_quick(const WinogradSums& sums, const EpilogueTile& constants, const WinogradPixels& pixels) {
    const auto run = [&](auto residual) {
        constexpr bool kResidual = decltype(residual)::value;
        (constants.outputs == 1 ? output_tiles<N, M, STRIDE, DOWN, DIVIDED, kResidual, 1>
                                : output_tiles<N, M, STRIDE, DOWN, DIVIDED, kResidual, 2>)(sums, constants, pixels);
    };
    constants.residual != nullptr ? run(std::true_type()) : run(std::false_type());
}

template <class Operand, int N, int M>
constexpr WinogradColumns kColumns{kPatchesAtOnce<N, 2>, pack_columns<N, M>, run_columns<Operand, N, M>,
                                   winograd_output<N, M, 1, false>,
                                   output_quick<N, M, 1, false, std::is_same_v<Operand, Words>>};

template <int N, int M>
constexpr WinogradKernels kBytesByColumns{winograd_input<N, M>, winograd_output<N, M>, nullptr,
                                          winograd_weights<N, M, std::int8_t>, &kColumns<Bytes, N, M>};
template <int N, int M>
constexpr WinogradKernels kWordsByColumns{winograd_input_words<N, M>, winograd_output<N, M>, nullptr,
                                          winograd_weights<N, M, std::int16_t>, &kColumns<Words, N, M>};
constexpr WinogradKernels kStridedQuick{winograd_input<2, 2, 2>, winograd_output<2, 2, 2>,
                                        output_quick<2, 2, 2, true, false>, winograd_weights<2, 2, std::int8_t, 2>,
                                        nullptr};
