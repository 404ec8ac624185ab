// AArch64 with the dot product extension (armv8.2-a+dotprod): Neoverse N1, Cortex-A76, Apple M1 and later.
#include "dispatch.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#define BG_NAMESPACE neon
#define BG_VECTOR_BYTES 16
#include "generic.h"
#include "pixels.h"

namespace bitgear {
namespace neon {
namespace {

// sdot multiplies signed bytes: it gets a - 128, and 128 * sum(w) makes up for it. Packed: [group][column][4 codes],
// then that constant of each column.
void pack_bytes(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    std::int32_t constants[kBlock];
    for (int c = 0; c < kBlock; ++c) {
        const std::int8_t* row = codes + static_cast<std::size_t>(c) * row_bytes;
        std::int32_t sum = 0;
        for (int g = 0; g < groups; ++g) {
            std::memcpy(packed + (static_cast<std::size_t>(g) * kBlock + static_cast<std::size_t>(c)) * kGroup,
                        row + g * kGroup, kGroup);
            for (int k = 0; k < kGroup; ++k) sum += row[g * kGroup + k];
        }
        constants[c] = 128 * sum;
    }
    std::memcpy(packed + static_cast<std::size_t>(groups) * kBlock * kGroup, constants, sizeof constants);
}

constexpr int kVectors = kBlock / kLanes;                 // of sums of one row
constexpr std::ptrdiff_t kPackedGroup = kBlock * kGroup;  // bytes
constexpr int kLoad = 4;                                  // groups of activations in a register

// Volatile assembly keeps its order: compilers gather the loads of a tile or go row by row, and then spill the sums. 24
// sums and 6 rows leave two registers: the weights at work and the next ones.
inline int8x16_t load_weights(const std::uint8_t* w) {
    int8x16_t x;
    asm volatile("ldr %q[x], %[w]" : [x] "=w"(x) : [w] "m"(*reinterpret_cast<const std::uint8_t (*)[16]>(w)));
    return x;
}

template <int LANE>
inline void multiply(int32x4_t& acc, int8x16_t w, int8x16_t x) {
    asm volatile("sdot %[acc].4s, %[w].16b, %[x].4b[%[lane]]"
                 : [acc] "+w"(acc)
                 : [w] "w"(w), [x] "w"(x), [lane] "i"(LANE));
}

// One group of a tile: lane LANE of each row's activations times the weights of 16 columns.
template <int R, int LANE>
inline void multiply_group(const int8x16_t* x, const std::uint8_t* w, int32x4_t (*acc)[kVectors]) {
    int8x16_t weights = load_weights(w);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
        const int8x16_t next = v + 1 < kVectors ? load_weights(w + 16 * (v + 1)) : weights;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) multiply<LANE>(acc[r][v], weights, x[r]);
        weights = next;
    }
}

// R rows and one block: R * 4 sums, at most 24, stay in registers.
template <int R>
void dot_block(const DotTile& tile, const std::uint8_t* w, std::int32_t* out) {
    int32x4_t acc[R][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[r][v] = vdupq_n_s32(0);
    }
    for (int i = 0; i < tile.run_count; ++i) {
        const std::uint8_t* a[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) a[r] = tile.a[r] + tile.runs[i].offset;
        int8x16_t x[R];
        const auto load_rows = [&](std::ptrdiff_t k) {
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) x[r] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a[r] + k), vdupq_n_u8(0x80)));
        };
        const std::ptrdiff_t end = static_cast<std::ptrdiff_t>(tile.runs[i].groups) * kGroup;
        std::ptrdiff_t k = 0;
        for (; k + kLoad * kGroup <= end; k += kLoad * kGroup, w += kLoad * kPackedGroup) {
            load_rows(k);
            multiply_group<R, 0>(x, w, acc);
            multiply_group<R, 1>(x, w + kPackedGroup, acc);
            multiply_group<R, 2>(x, w + 2 * kPackedGroup, acc);
            multiply_group<R, 3>(x, w + 3 * kPackedGroup, acc);
        }
        if (k == end) continue;
        load_rows(k);  // reads beyond the window's end, within the slack
        multiply_group<R, 0>(x, w, acc);
        if (k + kGroup < end) multiply_group<R, 1>(x, w + kPackedGroup, acc);
        if (k + 2 * kGroup < end) multiply_group<R, 2>(x, w + 2 * kPackedGroup, acc);
        w += (end - k) / kGroup * kPackedGroup;
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
        const int32x4_t constant = vreinterpretq_s32_u8(vld1q_u8(w + 16 * v));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            vst1q_s32(out + r * tile.blocks * kBlock + v * kLanes, vaddq_s32(acc[r][v], constant));
    }
}

constexpr int kDotRows = 6;
constexpr int kDotBlocks = 2;

void dot(const DotTile& tile) {
    using Fn = void (*)(const DotTile&, const std::uint8_t*, std::int32_t*);
    static const Fn table[kDotRows] = {dot_block<1>, dot_block<2>, dot_block<3>,
                                       dot_block<4>, dot_block<5>, dot_block<6>};
    for (int b = 0; b < tile.blocks; ++b) {
        table[tile.rows - 1](tile, tile.w + static_cast<std::size_t>(b) * tile.block_bytes, tile.acc + b * kBlock);
    }
}

const DotPath kDots[] = {{"sdot", kDotRows, kDotBlocks, kPackedGroup, always_exact, nullptr, pack_bytes, dot, nullptr}};

const Isa kIsa = {"neon-dotprod",
                  kDots,
                  1,
                  nullptr,
                  0,
                  nullptr,
                  nullptr,
                  {depthwise_bytes, depthwise_pack, depthwise, nullptr},
                  BG_GENERIC_FUNCTIONS(kBytes, kWords, kStrided),
                  BG_PIXEL_FUNCTIONS};

}  // namespace
}  // namespace neon

const Isa* const kIsaNeon = &neon::kIsa;

}  // namespace bitgear

#else

namespace bitgear {
const Isa* const kIsaNeon = nullptr;
}

#endif
