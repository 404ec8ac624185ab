// x86-64 with AVX-512 VNNI and VBMI: Ice Lake, Zen 4 and later. The same with AMX: Sapphire Rapids and later.
#include "dispatch.h"

#if defined(__x86_64__) && defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#include <immintrin.h>

#define BG_NAMESPACE avx512
#define BG_VECTOR_BYTES 64
#include "generic.h"
#include "pixels.h"

namespace bitgear {
namespace avx512 {
namespace {

#include "depthwise.h"
#include "quick_avx512.h"

// 16 rows of 16 groups to 16 groups of 16 rows.
inline void transpose_groups(__m512i (&v)[kBlock]) {
    __m512i t[kBlock];
    for (int i = 0; i < 8; ++i) {  // pairs of rows
        t[2 * i] = _mm512_maskz_unpacklo_epi32(0xffff, v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {  // fours: v[4 * i + g] has group g of each quarter
        v[4 * i] = _mm512_maskz_unpacklo_epi64(0xff, t[4 * i], t[4 * i + 2]);
        v[4 * i + 1] = _mm512_maskz_unpackhi_epi64(0xff, t[4 * i], t[4 * i + 2]);
        v[4 * i + 2] = _mm512_maskz_unpacklo_epi64(0xff, t[4 * i + 1], t[4 * i + 3]);
        v[4 * i + 3] = _mm512_maskz_unpackhi_epi64(0xff, t[4 * i + 1], t[4 * i + 3]);
    }
    for (int g = 0; g < 4; ++g) {  // a 4 x 4 of quarters for each g
        const __m512i low01 = _mm512_maskz_shuffle_i32x4(0xffff, v[g], v[4 + g], 0x44);
        const __m512i high01 = _mm512_maskz_shuffle_i32x4(0xffff, v[g], v[4 + g], 0xee);
        const __m512i low23 = _mm512_maskz_shuffle_i32x4(0xffff, v[8 + g], v[12 + g], 0x44);
        const __m512i high23 = _mm512_maskz_shuffle_i32x4(0xffff, v[8 + g], v[12 + g], 0xee);
        t[g] = _mm512_maskz_shuffle_i32x4(0xffff, low01, low23, 0x88);
        t[4 + g] = _mm512_maskz_shuffle_i32x4(0xffff, low01, low23, 0xdd);
        t[8 + g] = _mm512_maskz_shuffle_i32x4(0xffff, high01, high23, 0x88);
        t[12 + g] = _mm512_maskz_shuffle_i32x4(0xffff, high01, high23, 0xdd);
    }
    for (int g = 0; g < kBlock; ++g) v[g] = t[g];
}

// `group_bytes`: from group to group in `packed`.
inline void pack_groups(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed,
                        std::ptrdiff_t group_bytes) {
    int g = 0;
    for (; g + kBlock <= groups; g += kBlock) {
        __m512i v[kBlock];
        for (int c = 0; c < kBlock; ++c) {
            v[c] = _mm512_loadu_si512(codes + static_cast<std::size_t>(c) * row_bytes + g * kGroup);
        }
        transpose_groups(v);
        for (int i = 0; i < kBlock; ++i) _mm512_storeu_si512(packed + (g + i) * group_bytes, v[i]);
    }
    for (; g < groups; ++g) {
        for (int c = 0; c < kBlock; ++c) {
            std::memcpy(packed + g * group_bytes + c * kGroup,
                        codes + static_cast<std::size_t>(c) * row_bytes + g * kGroup, kGroup);
        }
    }
}

void pack_bytes(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    pack_groups(codes, row_bytes, groups, packed, kBlock * kGroup);
}

// One row of a tile: broadcast four activations (or two of 16 bits), multiply them with the weights of one or two
// blocks. In assembly, since compilers hoist all broadcasts of a tile and then spill the sums.
struct Bytes {
    static void row1(const std::uint8_t* a, __m512i w0, __m512i& c0) {
        __m512i t;
        asm("vpbroadcastd %[a], %[t]\n\tvpdpbusd %[w0], %[t], %[c0]"
            : [c0] "+v"(c0), [t] "=&v"(t)
            : [a] "m"(*reinterpret_cast<const std::uint32_t (*)[1]>(a)), [w0] "v"(w0));
    }
    static void row2(const std::uint8_t* a, __m512i w0, __m512i w1, __m512i& c0, __m512i& c1) {
        __m512i t;
        asm("vpbroadcastd %[a], %[t]\n\tvpdpbusd %[w0], %[t], %[c0]\n\tvpdpbusd %[w1], %[t], %[c1]"
            : [c0] "+v"(c0), [c1] "+v"(c1), [t] "=&v"(t)
            : [a] "m"(*reinterpret_cast<const std::uint32_t (*)[1]>(a)), [w0] "v"(w0), [w1] "v"(w1));
    }
};

struct Words {
    static void row1(const std::uint8_t* a, __m512i w0, __m512i& c0) {
        __m512i t;
        asm("vpbroadcastd %[a], %[t]\n\tvpdpwssd %[w0], %[t], %[c0]"
            : [c0] "+v"(c0), [t] "=&v"(t)
            : [a] "m"(*reinterpret_cast<const std::uint32_t (*)[1]>(a)), [w0] "v"(w0));
    }
    static void row2(const std::uint8_t* a, __m512i w0, __m512i w1, __m512i& c0, __m512i& c1) {
        __m512i t;
        asm("vpbroadcastd %[a], %[t]\n\tvpdpwssd %[w0], %[t], %[c0]\n\tvpdpwssd %[w1], %[t], %[c1]"
            : [c0] "+v"(c0), [c1] "+v"(c1), [t] "=&v"(t)
            : [a] "m"(*reinterpret_cast<const std::uint32_t (*)[1]>(a)), [w0] "v"(w0), [w1] "v"(w1));
    }
};

constexpr std::ptrdiff_t kAhead = 2048;  // bytes of weights that are on their way from farther caches

// Adds the products of R rows and B blocks of 16 columns. R * B sums, at most 24, stay in registers.
template <class Operand, int R, int B>
__attribute__((always_inline)) inline void add_products(const DotTile& tile, __m512i (&acc)[R][B]) {
    const std::uint8_t* w = tile.w;
    const std::uint8_t* a[R];
    for (int i = 0; i < tile.run_count; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) a[r] = tile.a[r] + tile.runs[i].offset;
        const std::ptrdiff_t end = static_cast<std::ptrdiff_t>(tile.runs[i].groups) * kGroup;
        std::ptrdiff_t k = 0;
        for (; k + 4 * kGroup <= end; k += 4 * kGroup) {
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u, w += 64) {
                const __m512i w0 = _mm512_loadu_si512(w);
                _mm_prefetch(w + kAhead, _MM_HINT_T0);
                if constexpr (B == 2) {
                    const __m512i w1 = _mm512_loadu_si512(w + tile.block_bytes);
                    _mm_prefetch(w + tile.block_bytes + kAhead, _MM_HINT_T0);
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) Operand::row2(a[r] + k + u * kGroup, w0, w1, acc[r][0], acc[r][1]);
                } else {
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) Operand::row1(a[r] + k + u * kGroup, w0, acc[r][0]);
                }
            }
        }
        for (; k < end; k += kGroup, w += 64) {
            const __m512i w0 = _mm512_loadu_si512(w);
            if constexpr (B == 2) {
                const __m512i w1 = _mm512_loadu_si512(w + tile.block_bytes);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) Operand::row2(a[r] + k, w0, w1, acc[r][0], acc[r][1]);
            } else {
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) Operand::row1(a[r] + k, w0, acc[r][0]);
            }
        }
    }
}

template <class Operand, int R, int B>
void dot_tile(const DotTile& tile) {
    __m512i acc[R][B];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) acc[r][b] = _mm512_setzero_si512();
    }
    add_products<Operand, R, B>(tile, acc);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) _mm512_storeu_si512(tile.acc + (r * B + b) * kBlock, acc[r][b]);
    }
}

using TileFn = void (*)(const DotTile&);

template <class Operand, int B>
TileFn dot_tiles(int rows) {
    static const TileFn table[] = {dot_tile<Operand, 1, B>,  dot_tile<Operand, 2, B>,  dot_tile<Operand, 3, B>,
                                   dot_tile<Operand, 4, B>,  dot_tile<Operand, 5, B>,  dot_tile<Operand, 6, B>,
                                   dot_tile<Operand, 7, B>,  dot_tile<Operand, 8, B>,  dot_tile<Operand, 9, B>,
                                   dot_tile<Operand, 10, B>, dot_tile<Operand, 11, B>, dot_tile<Operand, 12, B>};
    return table[rows - 1];
}

template <class Operand>
void dot(const DotTile& tile) {
    (tile.blocks == 2 ? dot_tiles<Operand, 2>(tile.rows) : dot_tiles<Operand, 1>(tile.rows))(tile);
}

// Products, and bytes straight from the sums, four vectors at a time: of 2 rows or, of one block, of 4.
template <int R, int B, bool RESIDUAL>
void quick_tile(const DotTile& tile, const EpilogueTile& to) {
    constexpr int kDown = 4 / B;
    const int channel = to.column;
    __m512i acc[R][B];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) acc[r][b] = _mm512_loadu_si512(to.offset + channel + b * kBlock);
    }
    add_products<Bytes, R, B>(tile, acc);
    VecI window[2];
    VecB low[2], high[2];
    for (int o = 0; o < to.outputs; ++o) {
        const Quantizer& q = *to.quantizers[o];
        window[o] = broadcast(q.window);
        low[o] = VecB{} + static_cast<std::uint8_t>(q.low + q.zero);
        high[o] = VecB{} + static_cast<std::uint8_t>(q.high + q.zero);
    }
    const bool whole = to.columns == B * kBlock;
    const __mmask32 valid = whole ? ~0u : (1u << to.columns) - 1;
    Doubts doubts;
#pragma GCC unroll 8
    for (int first = 0; first < R; first += kDown) {
        VecF sum[4], other[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            const int r = first + k / B < R ? first + k / B : R - 1, b = k % B;
            sum[k] = to_float(reinterpret_cast<VecI>(acc[r][b]));
            if constexpr (RESIDUAL) {
                other[k] = to_float(load_bytes(to.residual[r] + channel + b * kBlock));
            }
        }
        for (int o = 0; o < to.outputs; ++o) {
            const Quantizer& q = *to.quantizers[o];
            VecI fixed[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                const int c = channel + k % B * kBlock;
                VecF t = multiply_add(sum[k], load<VecF>(q.multiplier + c), load<VecF>(q.bias + c));
                if constexpr (RESIDUAL) t = multiply_add(other[k], broadcast(q.residual_scale), t);
                fixed[k] = reinterpret_cast<VecI>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(t)));
            }
            const VecI least = min_words(min_words(fixed[0], fixed[1]), min_words(fixed[2], fixed[3]));
            if (__builtin_expect(any_low_word(least, window[o]), 0)) {
                __m512i* kept = doubts.add(o, first);
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) kept[k] = acc[first + k / B < R ? first + k / B : R - 1][k % B];
            }
            const auto rows = reinterpret_cast<__m512i>(min(max(pack_high(fixed), low[o]), high[o]));
            std::uint8_t* const* out = to.out + o * kMaxRows + first;
            if constexpr (B == 2) {
                const __m256i second = _mm512_maskz_extracti64x4_epi64(0xff, rows, 1);
                if (whole) {
                    store(out[0] + channel, load<__m256i>(&rows));
                    store(out[1] + channel, second);
                } else {
                    _mm256_mask_storeu_epi8(out[0] + channel, valid, load<__m256i>(&rows));
                    _mm256_mask_storeu_epi8(out[1] + channel, valid, second);
                }
            } else {
                const __m128i part[] = {load<__m128i>(&rows), _mm512_maskz_extracti32x4_epi32(0xff, rows, 1),
                                        _mm512_maskz_extracti32x4_epi32(0xff, rows, 2),
                                        _mm512_maskz_extracti32x4_epi32(0xff, rows, 3)};
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    if (first + i >= R) continue;
                    if (whole) {
                        store(out[i] + channel, part[i]);
                    } else {
                        _mm_mask_storeu_epi8(out[i] + channel, static_cast<__mmask16>(valid), part[i]);
                    }
                }
            }
        }
    }
    if (__builtin_expect(doubts.count > 0, 0)) {
        settle(doubts, to, [&](int first, int k) {
            const int r = first + k / B;
            return Place{r < R ? r : R - 1, channel + k % B * kBlock};
        });
    }
}

using QuickFn = void (*)(const DotTile&, const EpilogueTile&);

template <int B, bool RESIDUAL>
QuickFn quick_tiles(int rows) {
    static const QuickFn table[] = {quick_tile<2, B, RESIDUAL>,  quick_tile<4, B, RESIDUAL>,
                                    quick_tile<6, B, RESIDUAL>,  quick_tile<8, B, RESIDUAL>,
                                    quick_tile<10, B, RESIDUAL>, quick_tile<12, B, RESIDUAL>};
    return table[(rows - 1) / 2];
}

void dot_quick(const DotTile& tile, const EpilogueTile& to) {
    if (to.residual != nullptr) {
        (tile.blocks == 2 ? quick_tiles<2, true>(tile.rows) : quick_tiles<1, true>(tile.rows))(tile, to);
    } else {
        (tile.blocks == 2 ? quick_tiles<2, false>(tile.rows) : quick_tiles<1, false>(tile.rows))(tile, to);
    }
}

constexpr DotPath kVnni{"vnni", 12, 2, kBlock * kGroup, always_exact, nullptr, pack_bytes, dot<Bytes>, dot_quick};
constexpr DotPath kDots[] = {kVnni};
constexpr DotPath kWordsPath{"vnni-16", 12, 2, kBlock * kGroup, always_exact, nullptr, pack_bytes, dot<Words>, nullptr};

#include "winograd_avx512.h"

#include "lut_vbmi.h"

#include "lut_pixels_vbmi.h"

constexpr Isa kIsa = {"avx512-vnni",
                      kDots,
                      1,
                      kLuts,
                      kLutCount,
                      &kPixelLut,
                      &kWordsPath,
                      {depthwise_bytes, depthwise_pack, depthwise, depthwise_quick},
                      BG_GENERIC_FUNCTIONS(kBytesByColumns, kWordsByColumns, kStridedQuick),
                      BG_PIXEL_FUNCTIONS};

#ifdef __AMX_INT8__
#include "dot_amx.h"

constexpr DotPath kAmxDots[] = {kVnni, amx_path<2>("amx-2"), amx_path<4>("amx-4"), amx_path<8>("amx")};

constexpr Isa with_tiles() {
    Isa isa = kIsa;
    isa.name = "avx512-amx";
    isa.dots = kAmxDots;
    isa.dot_count = sizeof(kAmxDots) / sizeof(kAmxDots[0]);
    isa.enter = enter_tiles;
    isa.leave = leave_tiles;
    isa.inverts = divides_by_inverse;
    return isa;
}

constexpr Isa kIsaWithTiles = with_tiles();
#endif

}  // namespace
}  // namespace avx512

const Isa* const kIsaAvx512 = &avx512::kIsa;
#ifdef __AMX_INT8__
const Isa* const kIsaAmx = &avx512::kIsaWithTiles;
#else
const Isa* const kIsaAmx = nullptr;
#endif

}  // namespace bitgear

#else

namespace bitgear {
const Isa* const kIsaAvx512 = nullptr;
const Isa* const kIsaAmx = nullptr;
}  // namespace bitgear

#endif
