// Look-up multiplication by weights' tables for AVX-512 VBMI: one vpermb finds the sums of three activations of 64
// pixels for one output channel. Included by isa_avx512.cpp inside its namespace, after lut_vbmi.h.
//
// An index byte holds three activations 0..3 of a pixel. Three weights of a channel name one of 64 tables, the same for
// all layers: entry i is the sum of index i's activations times the weights, and as much more as makes the least entry
// 0. Sums are bytes modulo 256; how often they passed 256 is counted before they may have passed it a second time.
#pragma once

struct WeightTables {
    alignas(64) std::uint8_t sums[64][64];  // [three weights of 2 bits][three activations]
    constexpr WeightTables() : sums{} {
        for (int weights = 0; weights < 64; ++weights) {
            for (int codes = 0; codes < 64; ++codes) {
                int sum = 0;
                for (int i = 0; i < kPixelLutInputs; ++i) {
                    const int low = weights >> (2 * i) & 1, high = weights >> (2 * i + 1) & 1, weight = low - 2 * high;
                    sum += (codes >> (2 * i) & 3) * weight + (weight < 0 ? -weight * kPixelLutMaxAct : 0);
                }
                sums[weights][codes] = static_cast<std::uint8_t>(sum);
            }
        }
    }
};

constexpr WeightTables kWeightTables;

// A 4 x 4 of bytes in each 32-bit lane, for 16 rows: four of them to 16 columns, and so on. On return v[4 * part + i]
// has column 16 * l + 4 * part + i of the 64 in its 16-byte lane l: a byte of each row.
__attribute__((always_inline)) inline void transpose_lanes(__m512i (&v)[16]) {
    __m512i t[16];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
        const __m512i low01 = _mm512_unpacklo_epi8(v[4 * q], v[4 * q + 1]);
        const __m512i high01 = _mm512_unpackhi_epi8(v[4 * q], v[4 * q + 1]);
        const __m512i low23 = _mm512_unpacklo_epi8(v[4 * q + 2], v[4 * q + 3]);
        const __m512i high23 = _mm512_unpackhi_epi8(v[4 * q + 2], v[4 * q + 3]);
        t[q] = _mm512_unpacklo_epi16(low01, low23);
        t[4 + q] = _mm512_unpackhi_epi16(low01, low23);
        t[8 + q] = _mm512_unpacklo_epi16(high01, high23);
        t[12 + q] = _mm512_unpackhi_epi16(high01, high23);
    }
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
        const __m512i* x = t + 4 * part;
        const __m512i low01 = _mm512_maskz_unpacklo_epi32(0xffff, x[0], x[1]);
        const __m512i high01 = _mm512_maskz_unpackhi_epi32(0xffff, x[0], x[1]);
        const __m512i low23 = _mm512_maskz_unpacklo_epi32(0xffff, x[2], x[3]);
        const __m512i high23 = _mm512_maskz_unpackhi_epi32(0xffff, x[2], x[3]);
        v[4 * part] = _mm512_maskz_unpacklo_epi64(0xff, low01, low23);
        v[4 * part + 1] = _mm512_maskz_unpackhi_epi64(0xff, low01, low23);
        v[4 * part + 2] = _mm512_maskz_unpacklo_epi64(0xff, high01, high23);
        v[4 * part + 3] = _mm512_maskz_unpackhi_epi64(0xff, high01, high23);
    }
}

// 16 bytes of each of 64 pixels, `part(pixel)`, to 16 vectors of a byte of each pixel.
template <class Part>
__attribute__((always_inline)) inline void gather_lanes(Part part, __m512i (&v)[16]) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
        const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part(i)), part(16 + i), 1);
        const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part(32 + i)), part(48 + i), 1);
        v[i] = _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(low), high, 1);
    }
    transpose_lanes(v);
}

// Three codes of 2 bits each, those of 16 groups, that lie `groups` bytes apart.
inline __m128i three_codes(__m128i first, __m128i second, __m128i third) {
    return _mm_ternarylogic_epi32(first, _mm_slli_epi16(second, 2), _mm_slli_epi16(third, 4), 0xfe);
}

// Of activations. Channels that there are not may follow the last ones.
inline __m128i three_activations(const std::uint8_t* at, std::ptrdiff_t groups) {
    const __m128i third = _mm_and_si128(load<__m128i>(at + 2 * groups), _mm_set1_epi8(3));
    return three_codes(load<__m128i>(at), load<__m128i>(at + groups), third);
}

inline __m128i three_weights(const std::int8_t* at, std::ptrdiff_t groups) {
    const auto codes = [&](std::ptrdiff_t i) {
        return _mm_and_si128(load<__m128i>(at + i * groups), _mm_set1_epi8(3));
    };
    return three_codes(codes(0), codes(1), codes(2));
}

constexpr int kNarrowBytes = 16, kNarrowGroups = kNarrowBytes / kPixelLutInputs + 1;

// Of pixels of kNarrowBytes, up to kNarrowGroups, whole vectors: four pixels are read at a time.
void index_narrow(const std::uint8_t* codes, int pixels, int groups, std::uint8_t* indices, std::size_t group_bytes) {
    alignas(64) std::uint8_t second_of[kPixelLutLanes], third_of[kPixelLutLanes], order_of[kPixelLutLanes];
    for (int i = 0; i < kPixelLutLanes; ++i) {
        const auto from = [&](int at) {
            return static_cast<std::uint8_t>(at < kNarrowBytes ? at : 0x80);  // 0x80: zero
        };
        second_of[i] = from(i % kNarrowBytes + groups);
        third_of[i] = from(i % kNarrowBytes + 2 * groups);
        order_of[i] = static_cast<std::uint8_t>(i % 4 * kNarrowBytes + i / 4);  // lane l has pixels l, 4 + l, ...
    }
    const __m512i second = _mm512_load_si512(second_of), third = _mm512_load_si512(third_of),
                  order = _mm512_load_si512(order_of);
    for (int first = 0; first < pixels; first += kPixelLutLanes, codes += kPixelLutLanes * kNarrowBytes) {
        __m512i v[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            const __m512i four = _mm512_loadu_si512(codes + 64 * i);
            const __m512i seconds = _mm512_shuffle_epi8(four, second);
            const __m512i thirds = _mm512_and_si512(_mm512_shuffle_epi8(four, third), _mm512_set1_epi8(3));
            v[i] = _mm512_ternarylogic_epi32(four, _mm512_slli_epi16(seconds, 2), _mm512_slli_epi16(thirds, 4), 0xfe);
        }
        transpose_lanes(v);
#pragma GCC unroll 6
        for (int g = 0; g < kNarrowGroups; ++g) {
            if (g < groups)
                _mm512_storeu_si512(indices + static_cast<std::size_t>(g) * group_bytes + first,
                                    _mm512_maskz_permutexvar_epi8(~0ull, order, v[g]));
        }
    }
}

void pixel_lut_index(const std::uint8_t* codes, int pixels, std::size_t pixel_bytes, int groups, std::uint8_t* indices,
                     std::size_t group_bytes) {
    int first = 0;
    if (pixel_bytes == kNarrowBytes && groups <= kNarrowGroups) {
        first = pixels / kPixelLutLanes * kPixelLutLanes;
        index_narrow(codes, first, groups, indices, group_bytes);
    }
    for (codes += static_cast<std::size_t>(first) * pixel_bytes; first < pixels;
         first += kPixelLutLanes, codes += kPixelLutLanes * pixel_bytes) {
        const int last = pixels - 1 - first;
        for (int g = 0; g < groups; g += kPixelLutIndexed) {
            __m512i v[kPixelLutIndexed];
            const std::uint8_t* const at = codes + g;
            if (last >= kPixelLutLanes - 1) {
                gather_lanes(
                    [&](int p) { return three_activations(at + static_cast<unsigned>(p) * pixel_bytes, groups); }, v);
            } else {  // the last one again, where there are no more
                gather_lanes(
                    [&](int p) {
                        return three_activations(at + static_cast<unsigned>(p < last ? p : last) * pixel_bytes, groups);
                    },
                    v);
            }
            const int n = groups - g < kPixelLutIndexed ? groups - g : kPixelLutIndexed;
            for (int i = 0; i < n; ++i)
                _mm512_storeu_si512(indices + static_cast<std::size_t>(g + i) * group_bytes + first, v[i]);
        }
    }
}

void pixel_lut_pack(const std::int8_t* codes, std::size_t row_bytes, int taps, int groups, std::uint8_t* packed) {
    for (int t = 0; t < taps; ++t, codes += groups * kPixelLutInputs) {
        for (int g = 0; g < groups; g += 16) {
            __m128i c[kPixelLutChannels];
            for (int i = 0; i < kPixelLutChannels; ++i)
                c[i] = three_weights(codes + static_cast<std::size_t>(i) * row_bytes + g, groups);
            const __m128i low01 = _mm_unpacklo_epi8(c[0], c[1]), high01 = _mm_unpackhi_epi8(c[0], c[1]);
            const __m128i low23 = _mm_unpacklo_epi8(c[2], c[3]), high23 = _mm_unpackhi_epi8(c[2], c[3]);
            const __m128i all[] = {_mm_unpacklo_epi16(low01, low23), _mm_unpackhi_epi16(low01, low23),
                                   _mm_unpacklo_epi16(high01, high23), _mm_unpackhi_epi16(high01, high23)};
            const int n = groups - g < kPixelLutIndexed ? groups - g : kPixelLutIndexed;
            std::memcpy(packed, all, static_cast<std::size_t>(n * kPixelLutChannels));
            packed += n * kPixelLutChannels;
        }
    }
}

// Sums of V vectors of pixels for B blocks of channels: low bytes and, unless they cannot pass 256, high ones,
// [channel][V][kPixelLutLanes]. The low bytes in memory are those of when carries were last counted.
template <int V, int B>
void pixel_lut_sums(const PixelLutTile& tile, const std::uint8_t* w, std::uint8_t* low, std::uint8_t* high) {
    constexpr int kChannels = B * kPixelLutChannels;
    __m512i sum[kChannels][V];
#pragma GCC unroll 16
    for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[c][v] = _mm512_setzero_si512();
    }
    const std::size_t block_bytes = tile.block_bytes;
    bool first = true;
    for (int s = 0; s < tile.stretch_count; ++s) {
        const PixelLutStretch& stretch = tile.stretches[s];
        const std::uint8_t* a = tile.indices + stretch.offset;
        for (int k = 0; k < stretch.steps; ++k, a += tile.group_bytes, w += kPixelLutChannels) {
            __m512i index[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) index[v] = _mm512_loadu_si512(a + v * kPixelLutLanes);
#pragma GCC unroll 16
            for (int c = 0; c < kChannels; ++c) {
                const std::uint8_t weights = w[c / kPixelLutChannels * block_bytes + c % kPixelLutChannels];
                const __m512i table = _mm512_load_si512(kWeightTables.sums[weights]);
                // In assembly, and all look-ups of a table before their sums: the processor then spreads them best.
                __m512i found[V];
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v)
                    asm("vpermb %[table], %[index], %[found]"
                        : [found] "=v"(found[v])
                        : [table] "v"(table), [index] "v"(index[v]));
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v)
                    asm("vpaddb %[found], %[sum], %[sum]" : [sum] "+v"(sum[c][v]) : [found] "v"(found[v]));
            }
        }
        if (!stretch.counts) continue;
#pragma GCC unroll 16
        for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                std::uint8_t* const l = low + (c * V + v) * kPixelLutLanes;
                std::uint8_t* const h = high + (c * V + v) * kPixelLutLanes;
                if (first) {
                    if (!tile.narrow) _mm512_store_si512(h, _mm512_setzero_si512());
                } else {
                    const __mmask64 carry = _mm512_cmplt_epu8_mask(sum[c][v], _mm512_load_si512(l));
                    const __m512i count = _mm512_load_si512(h);
                    _mm512_store_si512(h, _mm512_mask_sub_epi8(count, carry, count, _mm512_set1_epi8(-1)));
                }
                _mm512_store_si512(l, sum[c][v]);
            }
        }
        first = false;
    }
}

// Rows of 64 bytes, 16 * FOURTHS of them, to 64 rows of 16 * FOURTHS bytes: `row(i)` gives one, `store(i, bytes)` takes
// one, in the low bytes.
template <int FOURTHS, class Row, class Store>
__attribute__((always_inline)) inline void transpose_bytes(Row row, Store store) {
    static_assert(FOURTHS == 1 || FOURTHS == 2 || FOURTHS == 4);
    alignas(64) __m512i lanes[FOURTHS][16];
    for (int f = 0; f < FOURTHS; ++f) {
        __m512i v[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) v[i] = row(16 * f + i);
        transpose_lanes(v);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) lanes[f][i] = v[i];
    }
    for (int i = 0; i < 16; ++i) {
        if constexpr (FOURTHS == 1) {
            store(i, lanes[0][i]);
            store(16 + i, _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[0][i], 0x55));
            store(32 + i, _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[0][i], 0xaa));
            store(48 + i, _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[0][i], 0xff));
        } else if constexpr (FOURTHS == 2) {
            const __m512i low = _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[1][i], 0x44);  // 0 1, 0 1
            const __m512i high = _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[1][i], 0xee);
            store(i, _mm512_maskz_shuffle_i32x4(0xffff, low, low, 0x88));
            store(16 + i, _mm512_maskz_shuffle_i32x4(0xffff, low, low, 0xdd));
            store(32 + i, _mm512_maskz_shuffle_i32x4(0xffff, high, high, 0x88));
            store(48 + i, _mm512_maskz_shuffle_i32x4(0xffff, high, high, 0xdd));
        } else {
            const __m512i low01 = _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[1][i], 0x44);
            const __m512i high01 = _mm512_maskz_shuffle_i32x4(0xffff, lanes[0][i], lanes[1][i], 0xee);
            const __m512i low23 = _mm512_maskz_shuffle_i32x4(0xffff, lanes[2][i], lanes[3][i], 0x44);
            const __m512i high23 = _mm512_maskz_shuffle_i32x4(0xffff, lanes[2][i], lanes[3][i], 0xee);
            store(i, _mm512_maskz_shuffle_i32x4(0xffff, low01, low23, 0x88));
            store(16 + i, _mm512_maskz_shuffle_i32x4(0xffff, low01, low23, 0xdd));
            store(32 + i, _mm512_maskz_shuffle_i32x4(0xffff, high01, high23, 0x88));
            store(48 + i, _mm512_maskz_shuffle_i32x4(0xffff, high01, high23, 0xdd));
        }
    }
}

template <int V>
void pixel_lut_tile(const PixelLutTile& tile) {
    constexpr int kMostBlocks = V == 1 ? 3 : V == 2 ? 2 : 1;
    constexpr std::size_t kStride = V * kPixelLutLanes;
    std::uint8_t* const low = tile.sums;
    std::uint8_t* const high = tile.sums + kPixelLutColumns * kStride;
    for (int b = 0; b < tile.blocks;) {
        const std::uint8_t* w = tile.w + static_cast<std::size_t>(b) * tile.block_bytes;
        const std::size_t at = static_cast<std::size_t>(b * kPixelLutChannels) * kStride;
        const int n = tile.blocks - b < kMostBlocks ? tile.blocks - b : kMostBlocks;
        if constexpr (kMostBlocks >= 3) {
            if (n == 3) pixel_lut_sums<V, 3>(tile, w, low + at, high + at);
        }
        if constexpr (kMostBlocks >= 2) {
            if (n == 2) pixel_lut_sums<V, 2>(tile, w, low + at, high + at);
        }
        if (n == 1) pixel_lut_sums<V, 1>(tile, w, low + at, high + at);
        b += n;
    }
}

void pixel_lut_run(const PixelLutTile& tile) {
    if (tile.vectors == 1) {
        pixel_lut_tile<1>(tile);
    } else if (tile.vectors == 2) {
        pixel_lut_tile<2>(tile);
    } else {
        pixel_lut_tile<3>(tile);
    }
}

// Bytes of four vectors of 16 pixels, vector k those of pixels 4 i + k, whose quotients are in 65536ths.
inline __m512i pixel_bytes(const __m512i (&fixed)[4], __m512i low, __m512i high) {
    const __m512i order = _mm512_set4_epi32(0x0f0e0706, 0x0d0c0504, 0x0b0a0302, 0x09080100);
    const auto words = [](__m512i even, __m512i odd) {
        return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_maskz_srli_epi32(0xffff, even, 16), odd);
    };
    const __m512i bytes = _mm512_maskz_packus_epi16(~0ull, words(fixed[0], fixed[1]), words(fixed[2], fixed[3]));
    return _mm512_min_epu8(_mm512_max_epu8(_mm512_shuffle_epi8(bytes, order), low), high);
}

// Bytes as numbers of 32 bits: vector k has every fourth one from k on.
inline void every_fourth(__m512i bytes, __m512i (&v)[4]) {
    const __m512i byte = _mm512_set1_epi32(0xff);
    v[0] = _mm512_and_si512(bytes, byte);
    v[1] = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, bytes, 8), byte);
    v[2] = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, bytes, 16), byte);
    v[3] = _mm512_maskz_srli_epi32(0xffff, bytes, 24);
}

// Copied where they are asked for, hardly ever, so that they stay in registers everywhere else.
struct Quotients {
    explicit Quotients(const __m512i (&from)[4]) : v{from[0], from[1], from[2], from[3]} {}
    __m512i v[4];
};

// What lies too near a rounding boundary goes through the documented chain of operations.
__attribute__((noinline)) void settle_pixels(const Quotients& fixed, const Quotients& sums, const EpilogueTile& to,
                                             int output, int c, const PixelLutPlaces& places, std::uint8_t* bytes) {
    const Quantizer& q = *to.quantizers[output];
    const int channel = to.column + c, first = channel / kBlock * kBlock;
    for (int k = 0; k < 4; ++k) {
        std::uint32_t doubts = _mm512_mask_cmple_epu16_mask(0x55555555, fixed.v[k], _mm512_set1_epi32(q.window));
        for (; doubts != 0; doubts &= doubts - 1) {
            const int lane = __builtin_ctz(doubts) / 2, pixel = 4 * lane + k;
            alignas(64) std::int32_t whole[kBlock] = {};
            alignas(64) std::int32_t all[kBlock];
            _mm512_store_si512(all, sums.v[k]);
            whole[channel - first] = all[lane];
            EpilogueTile one = to;
            const std::uint8_t* const residual = places.residual[pixel];
            if (to.residual != nullptr) one.residual = &residual;
            alignas(64) std::uint8_t exact[kBlock];
            exact_bytes(one, q, load<VecI>(whole), 0, first, exact);
            bytes[pixel] = exact[channel - first];
        }
    }
}

// Bytes of the columns of a tile, a vector of pixels each, to the pixels' places.
inline void store_pixels(const std::uint8_t (&bytes)[kPixelLutColumns][kPixelLutLanes], const EpilogueTile& to,
                         std::uint8_t* const* out) {
    const int column = to.column;
    const __mmask64 valid = ~0ull >> (64 - to.columns);
    const auto row = [&](int i) { return _mm512_load_si512(bytes[i]); };
    const auto part = [&](int i, __m512i x) { _mm512_mask_storeu_epi8(out[i] + column, valid, x); };
    if (to.columns == 4 * kBlock) {
        transpose_bytes<4>(row, [&](int i, __m512i x) { _mm512_storeu_si512(out[i] + column, x); });
    } else if (to.columns > 2 * kBlock) {
        transpose_bytes<4>(row, part);
    } else if (to.columns == 2 * kBlock) {
        transpose_bytes<2>(row, [&](int i, __m512i x) { store(out[i] + column, load<__m256i>(&x)); });
    } else if (to.columns > kBlock) {
        transpose_bytes<2>(row, part);
    } else if (to.columns == kBlock) {
        transpose_bytes<1>(row, [&](int i, __m512i x) { store(out[i] + column, load<__m128i>(&x)); });
    } else {
        transpose_bytes<1>(row, part);
    }
}

// The other way round: 16 columns from `column` on of each pixel to a vector of pixels for each column.
inline void load_pixels(const std::uint8_t* const* from, int column, std::uint8_t (*bytes)[kPixelLutLanes]) {
    __m512i v[16];
    gather_lanes([&](int pixel) { return load<__m128i>(from[pixel] + column); }, v);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(bytes[i], v[i]);
}

template <bool RESIDUAL, bool NARROW>
void finish_pixels(const PixelLutSums& from, const EpilogueTile& to, const PixelLutPlaces& places) {
    alignas(64) std::uint8_t bytes[kPixelLutOutputs][kPixelLutColumns][kPixelLutLanes];
    alignas(64) std::uint8_t others[kPixelLutColumns][kPixelLutLanes];
    if constexpr (RESIDUAL) {
        for (int c = 0; c < to.columns; c += kBlock) load_pixels(places.residual, to.column + c, others + c);
    }
    const __m512i word = _mm512_set1_epi32(0xffff);
    const int outputs = to.outputs;
    const float* multipliers[kPixelLutOutputs];
    const float* biases[kPixelLutOutputs];
    __m512i window[kPixelLutOutputs], lowest[kPixelLutOutputs], highest[kPixelLutOutputs];
    VecF residual_scale[kPixelLutOutputs];
    for (int o = 0; o < outputs; ++o) {
        const Quantizer& q = *to.quantizers[o];
        multipliers[o] = q.multiplier + to.column;
        biases[o] = q.bias + to.column;
        window[o] = _mm512_set1_epi32(q.window);
        lowest[o] = _mm512_set1_epi8(static_cast<char>(q.low + q.zero));
        highest[o] = _mm512_set1_epi8(static_cast<char>(q.high + q.zero));
        residual_scale[o] = broadcast(q.residual_scale);
    }
    const std::int32_t* const offsets = to.offset + to.column;
    for (int c = 0; c < to.columns; ++c) {
        const std::uint8_t* const at = from.low + static_cast<std::size_t>(c) * from.stride;
        const __m512i low = _mm512_load_si512(at);
        __m512i sums[4];
        if constexpr (NARROW) {
            every_fourth(low, sums);
        } else {
            const __m512i high = _mm512_load_si512(at + from.high);
            // Words of the even pixels, then of the odd ones.
            const __m512i even =
                _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, low, _mm512_maskz_slli_epi16(~0u, high, 8));
            const __m512i odd =
                _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, _mm512_maskz_srli_epi16(~0u, low, 8), high);
            sums[0] = _mm512_and_si512(even, word);
            sums[1] = _mm512_and_si512(odd, word);
            sums[2] = _mm512_maskz_srli_epi32(0xffff, even, 16);
            sums[3] = _mm512_maskz_srli_epi32(0xffff, odd, 16);
        }
        const __m512i offset = _mm512_set1_epi32(offsets[c]);
        VecF sum[4], other[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            sums[k] = _mm512_add_epi32(sums[k], offset);
            sum[k] = to_float(reinterpret_cast<VecI>(sums[k]));
        }
        if constexpr (RESIDUAL) {
            __m512i wide[4];
            every_fourth(_mm512_load_si512(others[c]), wide);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) other[k] = to_float(reinterpret_cast<VecI>(wide[k]));
        }
        for (int o = 0; o < outputs; ++o) {
            const VecF multiplier = broadcast(multipliers[o][c]), bias = broadcast(biases[o][c]);
            __m512i fixed[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                VecF t = multiply_add(sum[k], multiplier, bias);
                if constexpr (RESIDUAL) t = multiply_add(other[k], residual_scale[o], t);
                fixed[k] = _mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(t));
            }
            _mm512_store_si512(bytes[o][c], pixel_bytes(fixed, lowest[o], highest[o]));
            const __m512i least =
                _mm512_min_epu16(_mm512_min_epu16(fixed[0], fixed[1]), _mm512_min_epu16(fixed[2], fixed[3]));
            if (__builtin_expect(_mm512_mask_cmple_epu16_mask(0x55555555, least, window[o]) != 0, 0))
                settle_pixels(Quotients(fixed), Quotients(sums), to, o, c, places, bytes[o][c]);
        }
    }
    for (int o = 0; o < to.outputs; ++o) store_pixels(bytes[o], to, places.out[o]);
}

void pixel_lut_finish(const PixelLutSums& sums, const EpilogueTile& to, const PixelLutPlaces& places) {
    if (to.residual != nullptr) {
        (sums.high == 0 ? finish_pixels<true, true> : finish_pixels<true, false>)(sums, to, places);
    } else {
        (sums.high == 0 ? finish_pixels<false, true> : finish_pixels<false, false>)(sums, to, places);
    }
}

void pixel_lut_look_up(const PixelLutSums& sums, const std::uint8_t* tables, const EpilogueTile& to,
                       const PixelLutPlaces& places) {
    alignas(64) std::uint8_t bytes[kPixelLutColumns][kPixelLutLanes];
    for (int o = 0; o < to.outputs; ++o, tables += kPixelLutColumns * kPixelLutResults) {
        for (int c = 0; c < to.columns; ++c) {
            const __m512i sum = _mm512_load_si512(sums.low + static_cast<std::size_t>(c) * sums.stride);
            const std::uint8_t* table = tables + c * kPixelLutResults;
            _mm512_store_si512(bytes[c], _mm512_permutex2var_epi8(_mm512_load_si512(table), sum,
                                                                  _mm512_load_si512(table + kPixelLutLanes)));
        }
        store_pixels(bytes, to, places.out[o]);
    }
}

const PixelLutPath kPixelLut = {"vpermb-pixels", pixel_lut_index,  pixel_lut_pack,
                                pixel_lut_run,   pixel_lut_finish, pixel_lut_look_up};
