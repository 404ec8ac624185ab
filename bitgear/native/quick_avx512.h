// From sums in registers to the bytes of quick readers, for kernels that never store sums. Included by isa_avx512.cpp
// inside its namespace, after generic.h.
#pragma once

// Quotients that lie too near a rounding boundary, four vectors each: their sums are kept until a tile is done. They
// are rare, and nothing is called amid a tile, so that its sums stay in registers.
struct Doubts {
    static constexpr int kMost = 2 * kMaxRows;
    int count = 0;
    struct {
        int output, first;
    } of[kMost];
    __m512i sums[kMost][4];

    // Room for the sums of four vectors, of which the caller calls the first one `first`.
    __m512i* add(int output, int first) {
        of[count] = {output, first};
        return sums[count++];
    }
};

// Where a vector of 16 sums belongs.
struct Place {
    int row, channel;
};

// Goes through the documented chain of operations for all doubts. `place(first, k)`: of vector k.
template <class PlaceOf>
__attribute__((noinline)) void settle(const Doubts& doubts, const EpilogueTile& to, PlaceOf place) {
    for (int i = 0; i < doubts.count; ++i) {
        const auto [output, first] = doubts.of[i];
        for (int k = 0; k < 4; ++k) {
            const Place at = place(first, k);
            const int valid = to.column + to.columns - at.channel;
            if (valid <= 0) continue;
            VecQ bytes;
            exact_bytes(to, *to.quantizers[output], load<VecI>(&doubts.sums[i][k]), at.row, at.channel, &bytes);
            store_bytes(to.out[output * kMaxRows + at.row] + at.channel, bytes, valid < kLanes ? valid : kLanes);
        }
    }
}

// Vectors of 1, 2 or 4 lanes of 16 bytes.
#define BG_QUICK_VECTOR(NAME, LANES, INTS, FLOATS, PREFIX)                                                            \
    struct NAME {                                                                                                     \
        static constexpr int kLaneCount = LANES, kChannels = 16 * LANES;                                              \
        typedef INTS I;                                                                                               \
        typedef FLOATS F;                                                                                             \
        static I low_bytes(I a, I b) { return PREFIX##_maskz_unpacklo_epi8(~0ull >> (64 - kChannels), a, b); }        \
        static I high_bytes(I a, I b) { return PREFIX##_maskz_unpackhi_epi8(~0ull >> (64 - kChannels), a, b); }       \
        static I low_words(I a, I b) { return PREFIX##_maskz_unpacklo_epi16(~0u >> (32 - kChannels / 2), a, b); }     \
        static I high_words(I a, I b) { return PREFIX##_maskz_unpackhi_epi16(~0u >> (32 - kChannels / 2), a, b); }    \
        static I multiply_add(I sum, I a, I w) { return PREFIX##_dpbusd_epi32(sum, a, w); }                           \
        static F to_float(I x) { return PREFIX##_maskz_cvtepi32_ps(0xffff >> (16 - 4 * LANES), x); }                  \
        static F multiply_add(F a, F b, F c) { return PREFIX##_maskz_fmadd_ps(0xffff >> (16 - 4 * LANES), a, b, c); } \
        static I to_fixed(F x) { return PREFIX##_maskz_cvtps_epi32(0xffff >> (16 - 4 * LANES), x); }                  \
        static I min_words(I a, I b) { return PREFIX##_min_epu16(a, b); }                                             \
        static bool any_low_word(I a, I bound) {                                                                      \
            return PREFIX##_mask_cmple_epu16_mask(0x55555555u >> (32 - kChannels / 2), a, bound) != 0;                \
        }                                                                                                             \
        static I high_of(I a, I order, I b) { return PREFIX##_permutex2var_epi16(a, order, b); }                      \
        static I saturate(I a, I b) { return PREFIX##_maskz_packus_epi16(~0ull >> (64 - kChannels), a, b); }          \
        static I clip(I x, I low, I high) { return PREFIX##_min_epu8(PREFIX##_max_epu8(x, low), high); }              \
        static I words(int x) { return PREFIX##_set1_epi32(x); }                                                      \
        static I bytes(int x) { return PREFIX##_set1_epi8(static_cast<char>(x)); }                                    \
        static void store_part(std::uint8_t* p, int valid, I x) {                                                     \
            PREFIX##_mask_storeu_epi8(p, ~0ull >> (64 - valid), x);                                                   \
        }                                                                                                             \
    }

BG_QUICK_VECTOR(Lanes1, 1, __m128i, __m128, _mm);
BG_QUICK_VECTOR(Lanes2, 2, __m256i, __m256, _mm256);
BG_QUICK_VECTOR(Lanes4, 4, __m512i, __m512, _mm512);
#undef BG_QUICK_VECTOR

// Numbers of 32 bits of channels in the order of sums: lane l of vector i holds channels 16 l + 4 i to 16 l + 4 i + 3.
template <class V, class T>
void spread(const void* channels, T (&vectors)[4]) {
    for (int i = 0; i < 4; ++i) {
        for (int l = 0; l < V::kLaneCount; ++l) {
            std::memcpy(reinterpret_cast<char*>(&vectors[i]) + 16 * l,
                        static_cast<const char*>(channels) + 64 * l + 16 * i, 16);
        }
    }
}

// Three bytes of a column, one below the other, and a zero, for each channel.
template <class V>
__attribute__((always_inline)) inline void unpack_column(const std::uint8_t* a, std::size_t row_bytes,
                                                         typename V::I (&y)[4]) {
    typedef typename V::I I;
    const I top = load<I>(a), middle = load<I>(a + row_bytes), bottom = load<I>(a + 2 * row_bytes), zero = I{};
    const I low = V::low_bytes(top, middle), high = V::high_bytes(top, middle);
    const I low_rest = V::low_bytes(bottom, zero), high_rest = V::high_bytes(bottom, zero);
    y[0] = V::low_words(low, low_rest);
    y[1] = V::high_words(low, low_rest);
    y[2] = V::low_words(high, high_rest);
    y[3] = V::high_words(high, high_rest);
}

// Doubts of pixels side by side, by their numbers.
template <class V>
__attribute__((noinline)) void settle(const Doubts& doubts, const EpilogueTile& constants, int c, int channels,
                                      std::uint8_t* const (&out)[2], const DepthwiseArea& area) {
    for (int i = 0; i < doubts.count; ++i) {
        const auto [o, p] = doubts.of[i];
        for (int l = 0; l < V::kLaneCount && l * kBlock < channels; ++l) {
            VecI sum;
            for (int k = 0; k < 4; ++k) {
                std::memcpy(reinterpret_cast<char*>(&sum) + 16 * k,
                            reinterpret_cast<const char*>(&doubts.sums[i][k]) + 16 * l, 16);
            }
            VecQ bytes;
            exact_bytes(constants, *constants.quantizers[o], sum, 0, c + l * kBlock, &bytes);
            store_bytes(out[o] + static_cast<std::size_t>(p) * area.to[o].pixel_bytes + l * kBlock, bytes,
                        std::min(channels - l * kBlock, kBlock));
        }
    }
}

// V::kChannels channels, or as many as there are, from c on of all pixels.
template <class V, int STRIDE, int OUTPUTS>
void depthwise_area(const DepthwiseArea& area, const EpilogueTile& constants, int c, const std::uint8_t* weights) {
    typedef typename V::I I;
    typedef typename V::F F;
    constexpr int kStretch = Doubts::kMost / 2;
    alignas(64) static constexpr std::int16_t kHigh[32] = {1,  3,  5,  7,  33, 35, 37, 39, 9,  11, 13,
                                                           15, 41, 43, 45, 47, 17, 19, 21, 23, 49, 51,
                                                           53, 55, 25, 27, 29, 31, 57, 59, 61, 63};
    I w[3][4], offset[4], window[OUTPUTS], low[OUTPUTS], high[OUTPUTS], order;
    F multiplier[OUTPUTS][4], bias[OUTPUTS][4];
    std::memcpy(&w, weights, sizeof w);
    spread<V>(constants.offset + c, offset);
    for (int o = 0; o < OUTPUTS; ++o) {
        const Quantizer& q = *constants.quantizers[o];
        spread<V>(q.multiplier + c, multiplier[o]);
        spread<V>(q.bias + c, bias[o]);
        window[o] = V::words(q.window);
        low[o] = V::bytes(q.low + q.zero);
        high[o] = V::bytes(q.high + q.zero);
    }
    // Within a vector of fewer lanes the second source begins at another number, whose higher bits do not count.
    std::int16_t odd[32];
    for (int i = 0; i < 32; ++i) {
        odd[i] = static_cast<std::int16_t>(kHigh[i] >= 32 ? kHigh[i] - 32 + V::kChannels / 2 : kHigh[i]);
    }
    std::memcpy(&order, odd, sizeof order);
    const int valid = std::min(area.channels - c, V::kChannels);
    const std::size_t row_bytes = area.from.row_bytes, pixel_bytes = area.from.pixel_bytes, step = STRIDE * pixel_bytes;
    for (int row = 0; row < area.rows; ++row) {
        for (int first = 0; first < area.pixels; first += kStretch) {
            const int pixels = std::min(area.pixels - first, kStretch);
            const std::uint8_t* a = area.from.first + static_cast<std::size_t>(row) * STRIDE * row_bytes +
                                    static_cast<std::size_t>(first) * step + c;
            std::uint8_t* out[2] = {};
            for (int o = 0; o < OUTPUTS; ++o) {
                const Area<std::uint8_t>& to = area.to[o];
                out[o] = to.first + static_cast<std::size_t>(row) * to.row_bytes +
                         static_cast<std::size_t>(first) * to.pixel_bytes + c;
            }
            Doubts doubts;
            I y[3][4];
            unpack_column<V>(a, row_bytes, y[0]);
            if constexpr (STRIDE == 1) unpack_column<V>(a + pixel_bytes, row_bytes, y[1]);
            for (int p = 0; p < pixels; ++p, a += step) {
                if constexpr (STRIDE == 2) unpack_column<V>(a + pixel_bytes, row_bytes, y[1]);
                unpack_column<V>(a + 2 * pixel_bytes, row_bytes, y[2]);
                I sum[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    sum[i] = V::multiply_add(offset[i], y[0][i], w[0][i]);
                    sum[i] = V::multiply_add(sum[i], y[1][i], w[1][i]);
                    sum[i] = V::multiply_add(sum[i], y[2][i], w[2][i]);
                    if constexpr (STRIDE == 1) y[0][i] = y[1][i];
                    y[2 - STRIDE][i] = y[2][i];
                }
#pragma GCC unroll 2
                for (int o = 0; o < OUTPUTS; ++o) {
                    I fixed[4];
#pragma GCC unroll 4
                    for (int i = 0; i < 4; ++i)
                        fixed[i] = V::to_fixed(V::multiply_add(V::to_float(sum[i]), multiplier[o][i], bias[o][i]));
                    const I least = V::min_words(V::min_words(fixed[0], fixed[1]), V::min_words(fixed[2], fixed[3]));
                    if (__builtin_expect(V::any_low_word(least, window[o]), 0)) {
                        auto* kept = doubts.add(o, p);
#pragma GCC unroll 4
                        for (int i = 0; i < 4; ++i) store(kept + i, sum[i]);
                    }
                    const I bytes = V::clip(
                        V::saturate(V::high_of(fixed[0], order, fixed[1]), V::high_of(fixed[2], order, fixed[3])),
                        low[o], high[o]);
                    std::uint8_t* const at = out[o] + static_cast<std::size_t>(p) * area.to[o].pixel_bytes;
                    if (valid == V::kChannels) {
                        store(at, bytes);
                    } else {
                        V::store_part(at, valid, bytes);
                    }
                }
            }
            if (__builtin_expect(doubts.count > 0, 0)) settle<V>(doubts, constants, c, valid, out, area);
        }
    }
}

template <int STRIDE, int OUTPUTS>
void depthwise_areas(const DepthwiseArea& area, const EpilogueTile& constants) {
    const std::size_t block_bytes = depthwise_bytes(9, kBlock);
    const std::uint8_t* w = area.w;
    for (int c = 0; c < area.channels;) {
        const int blocks = depthwise_blocks((area.channels - c + kBlock - 1) / kBlock * kBlock);
        if (blocks == 4) {
            depthwise_area<Lanes4, STRIDE, OUTPUTS>(area, constants, c, w);
        } else if (blocks == 2) {
            depthwise_area<Lanes2, STRIDE, OUTPUTS>(area, constants, c, w);
        } else {
            depthwise_area<Lanes1, STRIDE, OUTPUTS>(area, constants, c, w);
        }
        c += blocks * kBlock;
        w += static_cast<std::size_t>(blocks) * block_bytes;
    }
}

void depthwise_quick(const DepthwiseArea& area, const EpilogueTile& constants) {
    if (constants.outputs == 1) {
        area.stride == 1 ? depthwise_areas<1, 1>(area, constants) : depthwise_areas<2, 1>(area, constants);
    } else {
        area.stride == 1 ? depthwise_areas<1, 2>(area, constants) : depthwise_areas<2, 2>(area, constants);
    }
}
