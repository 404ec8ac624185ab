// Multiplication of bytes with AVX2. Included by isa_avx2.cpp inside its namespace.
//
// "pairs": vpmaddubsw adds two products in 16 bits, and 16-bit sums take `period` of them before vpmaddwd by ones
// widens them to 32. Exact as long as no 16-bit sum can overflow. "words": activations and weights as 16-bit numbers,
// vpmaddwd straight to 32 bits. Always exact.
#pragma once

constexpr int kDotRows = 6;
constexpr int kDotBlocks = 4;
constexpr std::ptrdiff_t kPackedGroup = kBlock * kGroup;  // bytes

alignas(32) constexpr std::int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// 8 rows of 8 words to 8 columns of 8 words, `out_bytes` apart.
inline void transpose_words(const std::uint8_t* rows, std::size_t row_bytes, std::uint8_t* out, std::size_t out_bytes) {
    __m256i a[8], b[8];
    for (std::size_t i = 0; i < 8; ++i) a[i] = load256(rows + i * row_bytes);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int h = 0; h < 2; ++h) {
            a[i + 2 * h] = _mm256_unpacklo_epi64(b[i + h], b[i + h + 2]);
            a[i + 2 * h + 1] = _mm256_unpackhi_epi64(b[i + h], b[i + h + 2]);
        }
    }
    for (std::size_t i = 0; i < 4; ++i) {
        store256(out + i * out_bytes, _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
        store256(out + (i + 4) * out_bytes, _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
    }
}

// Packed: [group][column][4 codes].
void pack_pairs(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    const auto* rows = reinterpret_cast<const std::uint8_t*>(codes);
    int g = 0;
    for (; g + 8 <= groups; g += 8, rows += 8 * kGroup, packed += 8 * kPackedGroup) {
        transpose_words(rows, row_bytes, packed, kPackedGroup);
        transpose_words(rows + 8 * row_bytes, row_bytes, packed + 32, kPackedGroup);
    }
    for (; g < groups; ++g, rows += kGroup) {
        for (std::size_t c = 0; c < kBlock; ++c, packed += kGroup) std::memcpy(packed, rows + c * row_bytes, kGroup);
    }
}

// One row and one group: broadcast four activations, multiply them with the weights of 16 columns. In assembly, since
// compilers hoist all broadcasts of a tile and then spill the sums.
inline void first_pairs(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& s0, __m256i& s1) {
    asm("vpbroadcastd %[a], %[s1]\n\t"
        "vpmaddubsw %[w0], %[s1], %[s0]\n\t"
        "vpmaddubsw %[w1], %[s1], %[s1]"
        : [s0] "=&x"(s0), [s1] "=&x"(s1)
        : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1));
}

inline void next_pairs(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& s0, __m256i& s1) {
    __m256i t, u;
    asm("vpbroadcastd %[a], %[t]\n\t"
        "vpmaddubsw %[w0], %[t], %[u]\n\t"
        "vpmaddubsw %[w1], %[t], %[t]\n\t"
        "vpaddw %[u], %[s0], %[s0]\n\t"
        "vpaddw %[t], %[s1], %[s1]"
        : [s0] "+x"(s0), [s1] "+x"(s1), [t] "=&x"(t), [u] "=&x"(u)
        : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1));
}

inline void widen(__m256i& s, __m256i& acc) {
    asm("vpmaddwd %[ones], %[s], %[s]\n\tvpaddd %[s], %[acc], %[acc]"
        : [acc] "+x"(acc), [s] "+x"(s)
        : [ones] "m"(kOnes));
}

// `groups` groups, at least 1, to 16-bit sums of R rows, then to `acc`.
template <int R, int UNROLL>
inline void pairs_stretch(const std::uint8_t* const* a, std::ptrdiff_t k, const std::uint8_t* w, int groups,
                          __m256i (*acc)[2]) {
    __m256i sums[R][2];
    {
        const __m256i w0 = load256(w), w1 = load256(w + 32);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) first_pairs(a[r] + k, w0, w1, sums[r][0], sums[r][1]);
    }
    int g = 1;
    if constexpr (UNROLL == 0) {
        for (; g < groups; ++g) {
            k += kGroup;
            w += kPackedGroup;
            const __m256i w0 = load256(w), w1 = load256(w + 32);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) next_pairs(a[r] + k, w0, w1, sums[r][0], sums[r][1]);
        }
    } else {
#pragma GCC unroll 16
        for (int u = 1; u < UNROLL; ++u) {
            const __m256i w0 = load256(w + u * kPackedGroup), w1 = load256(w + u * kPackedGroup + 32);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) next_pairs(a[r] + k + u * kGroup, w0, w1, sums[r][0], sums[r][1]);
        }
        for (g = UNROLL; g < groups; g += UNROLL) {
            k += UNROLL * kGroup;
            w += UNROLL * kPackedGroup;
#pragma GCC unroll 16
            for (int u = 0; u < UNROLL; ++u) {
                const __m256i w0 = load256(w + u * kPackedGroup), w1 = load256(w + u * kPackedGroup + 32);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) next_pairs(a[r] + k + u * kGroup, w0, w1, sums[r][0], sums[r][1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        widen(sums[r][0], acc[r][0]);
        widen(sums[r][1], acc[r][1]);
    }
}

// A stretch of `groups` groups for R rows: `windows` and `offset` lead to its activations, `w` to its weights, `out` to
// the sums so far, none if `first`. `period`: groups between two widenings, U or (U = 8) a multiple of it.
template <int R, int U>
void pairs_rows(const std::uint8_t* const* windows, std::ptrdiff_t offset, const std::uint8_t* w, int groups,
                int period, bool first, std::int32_t* out, std::ptrdiff_t out_stride) {
    const std::uint8_t* a[R];
    __m256i acc[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        a[r] = windows[r] + offset;
        acc[r][0] = first ? _mm256_setzero_si256() : load256(out + r * out_stride);
        acc[r][1] = first ? _mm256_setzero_si256() : load256(out + r * out_stride + 8);
    }
    int g = 0;
    for (; g + period <= groups; g += period) {
        pairs_stretch<R, U>(a, static_cast<std::ptrdiff_t>(g) * kGroup, w, period, acc);
        w += period * kPackedGroup;
    }
    // The rest: as much as possible unrolled.
    if constexpr (U == 8) {
        const int whole = (groups - g) / U * U;
        if (whole > 0) {
            pairs_stretch<R, U>(a, static_cast<std::ptrdiff_t>(g) * kGroup, w, whole, acc);
            g += whole;
            w += whole * kPackedGroup;
        }
    }
    if constexpr (U > 1) {
        if (g < groups) pairs_stretch<R, 0>(a, static_cast<std::ptrdiff_t>(g) * kGroup, w, groups - g, acc);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        store256(out + r * out_stride, acc[r][0]);
        store256(out + r * out_stride + 8, acc[r][1]);
    }
}

constexpr int kChunk = 192;  // groups of a block of weights that stay in the first-level cache while rows pass

template <int U>
void pairs_block(const DotTile& tile, const std::uint8_t* w, std::int32_t* acc) {
    const int period = U == 8 ? tile.period / U * U : U;
    const std::ptrdiff_t stride = tile.blocks * kBlock;
    bool first = true;
    for (int i = 0; i < tile.run_count; ++i) {
        std::ptrdiff_t offset = tile.runs[i].offset;
        for (int left = tile.runs[i].groups; left > 0; first = false) {
            const int groups = left < kChunk ? left : kChunk;
            int r = 0;
            for (; r + 3 <= tile.rows; r += 3)
                pairs_rows<3, U>(tile.a + r, offset, w, groups, period, first, acc + r * stride, stride);
            if (tile.rows - r == 2)
                pairs_rows<2, U>(tile.a + r, offset, w, groups, period, first, acc + r * stride, stride);
            if (tile.rows - r == 1)
                pairs_rows<1, U>(tile.a + r, offset, w, groups, period, first, acc + r * stride, stride);
            left -= groups;
            offset += groups * kGroup;
            w += groups * kPackedGroup;
        }
    }
}

// One row and one group straight to 32-bit sums: where a 16-bit sum holds no more than one group.
inline void widened_pairs(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& c0, __m256i& c1) {
    __m256i t, u;
    asm("vpbroadcastd %[a], %[t]\n\t"
        "vpmaddubsw %[w0], %[t], %[u]\n\t"
        "vpmaddubsw %[w1], %[t], %[t]\n\t"
        "vpmaddwd %[ones], %[u], %[u]\n\t"
        "vpmaddwd %[ones], %[t], %[t]\n\t"
        "vpaddd %[u], %[c0], %[c0]\n\t"
        "vpaddd %[t], %[c1], %[c1]"
        : [c0] "+x"(c0), [c1] "+x"(c1), [t] "=&x"(t), [u] "=&x"(u)
        : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1), [ones] "m"(kOnes));
}

// All rows of a tile at once, with 32-bit sums in registers. Out of line, like all that follow: inlined, the sums of a
// tile would stay in memory.
template <int R>
__attribute__((noinline)) void widened_block(const DotTile& tile, const std::uint8_t* w, std::int32_t* out) {
    const std::ptrdiff_t stride = tile.blocks * kBlock;
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    const std::uint8_t* a[R];
    for (int i = 0; i < tile.run_count; ++i) {
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) a[r] = tile.a[r] + tile.runs[i].offset;
        const std::ptrdiff_t end = static_cast<std::ptrdiff_t>(tile.runs[i].groups) * kGroup;
        for (std::ptrdiff_t k = 0; k < end; k += kGroup, w += kPackedGroup) {
            const __m256i w0 = load256(w), w1 = load256(w + 32);
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) widened_pairs(a[r] + k, w0, w1, acc[r][0], acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        store256(out + r * stride, acc[r][0]);
        store256(out + r * stride + 8, acc[r][1]);
    }
}

// All rows of a tile at once, with 16-bit sums in registers and 32-bit sums in memory. `groups` are at least 1.
template <int R>
__attribute__((noinline)) void rare_stretch(const std::uint8_t* const* a, std::ptrdiff_t k, const std::uint8_t* w,
                                            int groups, bool first, std::int32_t* out, std::ptrdiff_t stride) {
    __m256i sums[R][2];
    {
        const __m256i w0 = load256(w), w1 = load256(w + 32);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) first_pairs(a[r] + k, w0, w1, sums[r][0], sums[r][1]);
    }
    const std::ptrdiff_t end = k + static_cast<std::ptrdiff_t>(groups) * kGroup;
    for (k += kGroup, w += kPackedGroup; k < end; k += kGroup, w += kPackedGroup) {
        const __m256i w0 = load256(w), w1 = load256(w + 32);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) next_pairs(a[r] + k, w0, w1, sums[r][0], sums[r][1]);
    }
    const __m256i ones = load256(kOnes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        std::int32_t* row = out + r * stride;
        const __m256i low = _mm256_madd_epi16(sums[r][0], ones), high = _mm256_madd_epi16(sums[r][1], ones);
        store256(row, first ? low : _mm256_add_epi32(low, load256(row)));
        store256(row + 8, first ? high : _mm256_add_epi32(high, load256(row + 8)));
    }
}

template <int R>
void rare_block(const DotTile& tile, const std::uint8_t* w, std::int32_t* out) {
    bool first = true;
    for (int i = 0; i < tile.run_count; ++i) {
        std::ptrdiff_t offset = tile.runs[i].offset;
        for (int left = tile.runs[i].groups; left > 0; first = false) {
            const int groups = left < tile.period ? left : tile.period;
            rare_stretch<R>(tile.a, offset, w, groups, first, out, tile.blocks * kBlock);
            left -= groups;
            offset += groups * kGroup;
            w += groups * kPackedGroup;
        }
    }
}

using BlockFn = void (*)(const DotTile&, const std::uint8_t*, std::int32_t*);
constexpr BlockFn kWidenedBlocks[kDotRows] = {widened_block<1>, widened_block<2>, widened_block<3>,
                                              widened_block<4>, widened_block<5>, widened_block<6>};
constexpr BlockFn kRareBlocks[kDotRows] = {rare_block<1>, rare_block<2>, rare_block<3>,
                                           rare_block<4>, rare_block<5>, rare_block<6>};

// Sums that are widened rarely can go through memory then, and all rows pass together; else those of three rows stay in
// registers. Measured: a period of 8 is rare enough for short runs.
BlockFn pairs_kernel(const DotTile& tile) {
    const int period = tile.period;
    if (period == 1) return kWidenedBlocks[tile.rows - 1];
    if (period >= 32 || (period >= 8 && tile.runs[0].groups <= 64)) return kRareBlocks[tile.rows - 1];
    if (period >= 8) return pairs_block<8>;
    if (period >= 4) return pairs_block<4>;
    return period == 3 ? pairs_block<3> : pairs_block<2>;
}

void pairs(const DotTile& tile) {
    const BlockFn kernel = pairs_kernel(tile);
    for (int b = 0; b < tile.blocks; ++b)
        kernel(tile, tile.w + static_cast<std::size_t>(b) * tile.block_bytes, tile.acc + b * kBlock);
}

int pairs_period(int act_max, int weight_max) {
    return act_max * weight_max == 0 ? 32767 : 32767 / (2 * act_max * weight_max);
}

bool pairs_exact(int act_max, int weight_max) { return pairs_period(act_max, weight_max) >= 1; }

// Packed: [group][inputs 0 and 2, inputs 1 and 3][column][2 codes].
void pack_words(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    for (int g = 0; g < groups; ++g) {
        for (int half = 0; half < 2; ++half) {
            for (int c = 0; c < kBlock; ++c, packed += 2) {
                const std::int8_t* code = codes + static_cast<std::size_t>(c) * row_bytes + g * kGroup + half;
                packed[0] = static_cast<std::uint8_t>(code[0]);
                packed[1] = static_cast<std::uint8_t>(code[2]);
            }
        }
    }
}

alignas(32) constexpr std::uint8_t kEvenBytes[32] = {0xff, 0,    0xff, 0,    0xff, 0,    0xff, 0,    0xff, 0,    0xff,
                                                     0,    0xff, 0,    0xff, 0,    0xff, 0,    0xff, 0,    0xff, 0,
                                                     0xff, 0,    0xff, 0,    0xff, 0,    0xff, 0,    0xff, 0};

// Four activations are broadcast and taken apart in registers: bytes 0 and 2 by a mask, 1 and 3 by a shift. Widening
// them into memory first takes fewer instructions, but its stores stall loads whose addresses end in the same twelve
// bits.
inline void multiply_even(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& c0, __m256i& c1) {
    __m256i t, u;
    asm("vpbroadcastd %[a], %[t]\n\t"
        "vpand %[mask], %[t], %[t]\n\t"
        "vpmaddwd %[w0], %[t], %[u]\n\t"
        "vpmaddwd %[w1], %[t], %[t]\n\t"
        "vpaddd %[u], %[c0], %[c0]\n\t"
        "vpaddd %[t], %[c1], %[c1]"
        : [c0] "+x"(c0), [c1] "+x"(c1), [t] "=&x"(t), [u] "=&x"(u)
        : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [mask] "m"(kEvenBytes), [w0] "x"(w0), [w1] "x"(w1));
}

inline void multiply_odd(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& c0, __m256i& c1) {
    __m256i t, u;
    asm("vpbroadcastd %[a], %[t]\n\t"
        "vpsrlw $8, %[t], %[t]\n\t"
        "vpmaddwd %[w0], %[t], %[u]\n\t"
        "vpmaddwd %[w1], %[t], %[t]\n\t"
        "vpaddd %[u], %[c0], %[c0]\n\t"
        "vpaddd %[t], %[c1], %[c1]"
        : [c0] "+x"(c0), [c1] "+x"(c1), [t] "=&x"(t), [u] "=&x"(u)
        : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1));
}

inline __m256i load_words(const std::uint8_t* w) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
}

template <int R>
void words_block(const DotTile& tile, const std::uint8_t* w, std::int32_t* out) {
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    const std::uint8_t* a[R];
    for (int i = 0; i < tile.run_count; ++i) {
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) a[r] = tile.a[r] + tile.runs[i].offset;
        const std::ptrdiff_t end = static_cast<std::ptrdiff_t>(tile.runs[i].groups) * kGroup;
        for (std::ptrdiff_t k = 0; k < end; k += kGroup, w += kPackedGroup) {
            {
                const __m256i w0 = load_words(w), w1 = load_words(w + 16);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) multiply_even(a[r] + k, w0, w1, acc[r][0], acc[r][1]);
            }
            const __m256i w0 = load_words(w + 32), w1 = load_words(w + 48);
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) multiply_odd(a[r] + k, w0, w1, acc[r][0], acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        store256(out + r * tile.blocks * kBlock, acc[r][0]);
        store256(out + r * tile.blocks * kBlock + 8, acc[r][1]);
    }
}

void words(const DotTile& tile) {
    using Fn = void (*)(const DotTile&, const std::uint8_t*, std::int32_t*);
    static constexpr Fn kTiles[kDotRows] = {words_block<1>, words_block<2>, words_block<3>,
                                            words_block<4>, words_block<5>, words_block<6>};
    for (int b = 0; b < tile.blocks; ++b) {
        kTiles[tile.rows - 1](tile, tile.w + static_cast<std::size_t>(b) * tile.block_bytes, tile.acc + b * kBlock);
    }
}

// A row and a group of signed 16-bit operands, two of them in a group.
struct Words {
    static void multiply(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& c0, __m256i& c1) {
        __m256i t, u;
        asm("vpbroadcastd %[a], %[t]\n\t"
            "vpmaddwd %[w0], %[t], %[u]\n\t"
            "vpmaddwd %[w1], %[t], %[t]\n\t"
            "vpaddd %[u], %[c0], %[c0]\n\t"
            "vpaddd %[t], %[c1], %[c1]"
            : [c0] "+x"(c0), [c1] "+x"(c1), [t] "=&x"(t), [u] "=&x"(u)
            : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1));
    }
};

#ifdef BITGEAR_AVX_VNNI
// The same, and of bytes, for processors that add products up in one instruction.
struct VnniWords {
    static void multiply(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& c0, __m256i& c1) {
        __m256i t;
        asm("vpbroadcastd %[a], %[t]\n\t%{vex%} vpdpwssd %[w0], %[t], %[c0]\n\t%{vex%} vpdpwssd %[w1], %[t], %[c1]"
            : [c0] "+x"(c0), [c1] "+x"(c1), [t] "=&x"(t)
            : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1));
    }
};

struct VnniBytes {
    static void multiply(const std::uint8_t* a, __m256i w0, __m256i w1, __m256i& c0, __m256i& c1) {
        __m256i t;
        asm("vpbroadcastd %[a], %[t]\n\t%{vex%} vpdpbusd %[w0], %[t], %[c0]\n\t%{vex%} vpdpbusd %[w1], %[t], %[c1]"
            : [c0] "+x"(c0), [c1] "+x"(c1), [t] "=&x"(t)
            : [a] "m"(*reinterpret_cast<const std::uint8_t (*)[4]>(a)), [w0] "x"(w0), [w1] "x"(w1));
    }
};
#endif

// Winograd's weights of 16 bits are many and are read in order: bytes to ask for ahead.
constexpr std::ptrdiff_t kAhead = 4096;

template <class Operand, int R>
__attribute__((noinline)) void sums_block(const DotTile& tile, const std::uint8_t* w, std::int32_t* out) {
    const std::ptrdiff_t stride = tile.blocks * kBlock;
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    const std::uint8_t* a[R];
    for (int i = 0; i < tile.run_count; ++i) {
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) a[r] = tile.a[r] + tile.runs[i].offset;
        const std::ptrdiff_t end = static_cast<std::ptrdiff_t>(tile.runs[i].groups) * kGroup;
        for (std::ptrdiff_t k = 0; k < end; k += kGroup, w += kPackedGroup) {
            _mm_prefetch(reinterpret_cast<const char*>(w + kAhead), _MM_HINT_T0);
            const __m256i w0 = load256(w), w1 = load256(w + 32);
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) Operand::multiply(a[r] + k, w0, w1, acc[r][0], acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        store256(out + r * stride, acc[r][0]);
        store256(out + r * stride + 8, acc[r][1]);
    }
}

template <class Operand>
void sums(const DotTile& tile) {
    static constexpr BlockFn kTiles[kDotRows] = {sums_block<Operand, 1>, sums_block<Operand, 2>,
                                                 sums_block<Operand, 3>, sums_block<Operand, 4>,
                                                 sums_block<Operand, 5>, sums_block<Operand, 6>};
    for (int b = 0; b < tile.blocks; ++b)
        kTiles[tile.rows - 1](tile, tile.w + static_cast<std::size_t>(b) * tile.block_bytes, tile.acc + b * kBlock);
}

const DotPath kDots[] = {
    {"pairs", kDotRows, kDotBlocks, kPackedGroup, pairs_exact, pairs_period, pack_pairs, pairs, nullptr},
    {"words", kDotRows, kDotBlocks, kPackedGroup, always_exact, nullptr, pack_words, words, nullptr},
};
constexpr int kDotCount = 2;
const DotPath kWordsPath{"words-16", kDotRows,   kDotBlocks,  kPackedGroup, always_exact,
                         nullptr,    pack_pairs, sums<Words>, nullptr};

#ifdef BITGEAR_AVX_VNNI
const DotPath kVnniDots[] = {
    {"vnni", kDotRows, kDotBlocks, kPackedGroup, always_exact, nullptr, pack_pairs, sums<VnniBytes>, nullptr},
};
const DotPath kVnniWords{"vnni-16", kDotRows,   kDotBlocks,      kPackedGroup, always_exact,
                         nullptr,   pack_pairs, sums<VnniWords>, nullptr};
#endif
