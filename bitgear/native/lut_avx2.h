// Look-up multiplication for AVX2: one vpshufb finds the sums of four activations for 32 output columns.
// Included by isa_avx2.cpp inside its namespace.
//
// A table has 16 bytes: entry e is the sum of those of four activations whose bit is set in e. The bit plane p of four
// weights of one column, its index, is a byte. Planes count 1 and minus 2. Sums stay bytes for as many look-ups as they
// can hold, then the planes are combined in 16 bits, and those at last in 32.
#pragma once

constexpr int kLutInputs = 4;
constexpr int kLutColumns = 32;
constexpr int kLutTable = 16;  // bytes
constexpr int kLutPlanes = 2;
constexpr int kLutRows = 6;
constexpr int kLutMaxAct = 3;

// Tables by four 2-bit activations.
struct SubsetSums {
    alignas(16) std::uint8_t table[256][kLutTable];
    constexpr SubsetSums() : table{} {
        for (int codes = 0; codes < 256; ++codes) {
            for (int entry = 0; entry < kLutTable; ++entry) {
                int sum = 0;
                for (int i = 0; i < kLutInputs; ++i) {
                    if (entry >> i & 1) sum += codes >> (2 * i) & 3;
                }
                table[codes][entry] = static_cast<std::uint8_t>(sum);
            }
        }
    }
};

// Known to the compiler: nothing of this file may run before the processor has been asked.
constexpr SubsetSums kSubsetSums;

void lut_tables(const std::uint8_t* codes, int pixels, std::size_t pixel_bytes, int groups, std::uint8_t* tables) {
    for (int p = 0; p < pixels; ++p, codes += pixel_bytes) {
        for (int g = 0; g < groups; ++g, tables += kLutTable) {
            std::uint32_t four;
            std::memcpy(&four, codes + g * kLutInputs, sizeof four);
            // Four times two bits side by side in the highest byte. Not pext, which is slow on older processors. What
            // is beyond the last channel may be any byte.
            const std::uint32_t index = ((four & 0x03030303u) * 0x01041040u) >> 24;
            _mm_storeu_si128(reinterpret_cast<__m128i*>(tables),
                             _mm_load_si128(reinterpret_cast<const __m128i*>(kSubsetSums.table[index])));
        }
    }
}

// Bit `plane` of four codes each, side by side in 32 bits.
inline __m256i plane_indices(__m256i codes, int plane) {
    const __m256i bits = _mm256_and_si256(_mm256_srli_epi16(codes, plane), _mm256_set1_epi8(1));
    const __m256i twos = _mm256_maddubs_epi16(bits, _mm256_set1_epi32(0x08040201));
    return _mm256_madd_epi16(twos, _mm256_set1_epi16(1));
}

// Index bytes: [group][plane][column].
void lut_pack(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    int g = 0;
    // Eight groups of 32 columns: four columns' indices in 32 bits, then columns beside columns.
    for (; g + 8 <= groups; g += 8, packed += 8 * kLutPlanes * kLutColumns) {
        for (int p = 0; p < kLutPlanes; ++p) {
            alignas(32) std::uint8_t quads[8][32];
            for (std::size_t q = 0; q < 8; ++q) {
                const std::int8_t* four = codes + 4 * q * row_bytes + g * kLutInputs;
                __m256i quad = plane_indices(load256(four), p);
                quad = _mm256_or_si256(quad, _mm256_slli_epi32(plane_indices(load256(four + row_bytes), p), 8));
                quad = _mm256_or_si256(quad, _mm256_slli_epi32(plane_indices(load256(four + 2 * row_bytes), p), 16));
                quad = _mm256_or_si256(quad, _mm256_slli_epi32(plane_indices(load256(four + 3 * row_bytes), p), 24));
                store256(quads[q], quad);
            }
            transpose_words(quads[0], 32, packed + p * kLutColumns, kLutPlanes * kLutColumns);
        }
    }
    for (; g < groups; ++g) {
        for (int p = 0; p < kLutPlanes; ++p) {
            for (int c = 0; c < kLutColumns; ++c) {
                const std::int8_t* four = codes + static_cast<std::size_t>(c) * row_bytes + g * kLutInputs;
                unsigned index = 0;
                for (int i = 0; i < kLutInputs; ++i) index |= (static_cast<unsigned>(four[i]) >> p & 1u) << i;
                *packed++ = static_cast<std::uint8_t>(index);
            }
        }
    }
}

inline void look_up(const std::uint8_t* table, __m256i index0, __m256i index1, __m256i& low, __m256i& high) {
    __m256i t, u;
    asm("vbroadcasti128 %[table], %[t]\n\t"
        "vpshufb %[i0], %[t], %[u]\n\t"
        "vpshufb %[i1], %[t], %[t]\n\t"
        "vpaddb %[u], %[low], %[low]\n\t"
        "vpaddb %[t], %[high], %[high]"
        : [low] "+x"(low), [high] "+x"(high), [t] "=&x"(t), [u] "=&x"(u)
        : [table] "m"(*reinterpret_cast<const std::uint8_t (*)[16]>(table)), [i0] "x"(index0), [i1] "x"(index1));
}

// 16-bit sums of 32 columns: [0] has columns 0..7 and 16..23, [1] has 8..15 and 24..31. Adds them to `acc`.
inline void flush(__m256i* sums, std::int32_t* acc) {
    for (int i = 0; i < 2; ++i) {
        const __m128i first = _mm256_castsi256_si128(sums[i]), second = _mm256_extracti128_si256(sums[i], 1);
        std::int32_t* out = acc + 8 * i;
        store256(out, _mm256_add_epi32(load256(out), _mm256_cvtepi16_epi32(first)));
        store256(out + 16, _mm256_add_epi32(load256(out + 16), _mm256_cvtepi16_epi32(second)));
        sums[i] = _mm256_setzero_si256();
    }
}

constexpr int kLutSteps = 255 / (kLutInputs * kLutMaxAct);        // look-ups that a byte can sum
constexpr int kLutFlush = 32767 / (2 * kLutInputs * kLutMaxAct);  // look-ups that 16 bits can sum

template <int R>
void lut_tile(const LutTile& tile) {
    std::memset(tile.acc, 0, sizeof(std::int32_t) * R * kLutColumns);
    __m256i sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    const __m256i factors = _mm256_set1_epi16(static_cast<short>(0xfe01));  // 1, -2
    const std::uint8_t* w = tile.w;
    int summed = 0;
    int run = 0, left = tile.runs[0].groups;
    std::ptrdiff_t k = tile.runs[0].offset;
    const std::uint8_t* tables[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) tables[r] = tile.tables[r];
    while (run < tile.run_count) {
        __m256i low[R], high[R];
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) low[r] = high[r] = _mm256_setzero_si256();
        int room = kLutSteps;
        while (room > 0 && run < tile.run_count) {
            const int n = left < room ? left : room;
            for (int i = 0; i < n; ++i, k += kLutTable, w += kLutPlanes * kLutColumns) {
                const __m256i index0 = load256(w), index1 = load256(w + kLutColumns);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) look_up(tables[r] + k, index0, index1, low[r], high[r]);
            }
            room -= n;
            left -= n;
            if (left == 0 && ++run < tile.run_count) {
                left = tile.runs[run].groups;
                k = tile.runs[run].offset;
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            sums[r][0] =
                _mm256_add_epi16(sums[r][0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low[r], high[r]), factors));
            sums[r][1] =
                _mm256_add_epi16(sums[r][1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low[r], high[r]), factors));
        }
        summed += kLutSteps;
        if (summed > kLutFlush - kLutSteps || run == tile.run_count) {
            for (int r = 0; r < R; ++r) flush(sums[r], tile.acc + r * kLutColumns);
            summed = 0;
        }
    }
}

void lut(const LutTile& tile) {
    using Fn = void (*)(const LutTile&);
    static constexpr Fn kTiles[kLutRows] = {lut_tile<1>, lut_tile<2>, lut_tile<3>,
                                            lut_tile<4>, lut_tile<5>, lut_tile<6>};
    kTiles[tile.rows - 1](tile);
}

const LutPath kLuts[] = {
    {"pshufb", kLutPlanes, kLutColumns, kLutInputs, kLutTable, kLutPlanes * kLutColumns, kLutRows, kLutMaxAct,
     lut_tables, lut_pack, lut, 0, nullptr},
};
constexpr int kLutCount = 1;
