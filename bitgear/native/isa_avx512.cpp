// x86-64 with AVX-512 VNNI and VBMI: Ice Lake, Zen 4 and later.
#include "dispatch.h"

#if defined(__x86_64__) && defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#include <immintrin.h>

#define BG_NAMESPACE avx512
#define BG_VECTOR_BYTES 64
#include "generic.h"

namespace bitgear {
namespace avx512 {
namespace {

void pack_bytes(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    for (int g = 0; g < groups; ++g) {
        for (int c = 0; c < kBlock; ++c) {
            std::memcpy(packed + (g * kBlock + c) * kGroup,
                        codes + static_cast<std::size_t>(c) * row_bytes + g * kGroup, kGroup);
        }
    }
}

// One row of a tile: broadcast four activations, multiply them with the weights of one or two blocks. In assembly,
// since compilers hoist all broadcasts of a tile and then spill the sums.
inline void row1(const std::uint8_t* a, __m512i w0, __m512i& c0) {
    __m512i t;
    asm("vpbroadcastd %[a], %[t]\n\tvpdpbusd %[w0], %[t], %[c0]"
        : [c0] "+v"(c0), [t] "=&v"(t)
        : [a] "m"(*reinterpret_cast<const std::uint32_t (*)[1]>(a)), [w0] "v"(w0));
}

inline void row2(const std::uint8_t* a, __m512i w0, __m512i w1, __m512i& c0, __m512i& c1) {
    __m512i t;
    asm("vpbroadcastd %[a], %[t]\n\tvpdpbusd %[w0], %[t], %[c0]\n\tvpdpbusd %[w1], %[t], %[c1]"
        : [c0] "+v"(c0), [c1] "+v"(c1), [t] "=&v"(t)
        : [a] "m"(*reinterpret_cast<const std::uint32_t (*)[1]>(a)), [w0] "v"(w0), [w1] "v"(w1));
}

// R rows and B blocks of 16 columns. R * B sums, at most 24, stay in registers.
template <int R, int B>
void dot_tile(const DotTile& tile) {
    __m512i acc[R][B];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) acc[r][b] = _mm512_setzero_si512();
    }
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
                if constexpr (B == 2) {
                    const __m512i w1 = _mm512_loadu_si512(w + tile.block_bytes);
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) row2(a[r] + k + u * kGroup, w0, w1, acc[r][0], acc[r][1]);
                } else {
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) row1(a[r] + k + u * kGroup, w0, acc[r][0]);
                }
            }
        }
        for (; k < end; k += kGroup, w += 64) {
            const __m512i w0 = _mm512_loadu_si512(w);
            if constexpr (B == 2) {
                const __m512i w1 = _mm512_loadu_si512(w + tile.block_bytes);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) row2(a[r] + k, w0, w1, acc[r][0], acc[r][1]);
            } else {
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) row1(a[r] + k, w0, acc[r][0]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) _mm512_storeu_si512(tile.acc + (r * B + b) * kBlock, acc[r][b]);
    }
}

using TileFn = void (*)(const DotTile&);

template <int B>
TileFn dot_tiles(int rows) {
    static const TileFn table[] = {dot_tile<1, B>, dot_tile<2, B>,  dot_tile<3, B>,  dot_tile<4, B>,
                                   dot_tile<5, B>, dot_tile<6, B>,  dot_tile<7, B>,  dot_tile<8, B>,
                                   dot_tile<9, B>, dot_tile<10, B>, dot_tile<11, B>, dot_tile<12, B>};
    return table[rows - 1];
}

void dot(const DotTile& tile) { (tile.blocks == 2 ? dot_tiles<2>(tile.rows) : dot_tiles<1>(tile.rows))(tile); }

bool always_exact(int, int) { return true; }

const DotPath kDots[] = {{"vnni", 12, 2, kBlock * kGroup, always_exact, nullptr, pack_bytes, dot, 56, 0}};

#include "depthwise.h"
#include "lut_vbmi.h"

const Isa kIsa = {"avx512-vnni",        kDots, 1, kLuts, kLutCount, {depthwise_bytes, depthwise_pack, depthwise},
                  BG_GENERIC_FUNCTIONS, 9};

}  // namespace
}  // namespace avx512

const Isa* const kIsaAvx512 = &avx512::kIsa;

}  // namespace bitgear

#else

namespace bitgear {
const Isa* const kIsaAvx512 = nullptr;
}

#endif
