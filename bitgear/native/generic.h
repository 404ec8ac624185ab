// All of an instruction set that compilers do well by themselves, over GCC and Clang vector types. Included by each
// isa_*.cpp, which defines BG_NAMESPACE (its own, so that no linker can mix code of two instruction sets),
// BG_VECTOR_BYTES and includes its intrinsics first.
#pragma once

#include <cmath>
#include <cstring>

#include "quantizer.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bitgear {
namespace BG_NAMESPACE {
namespace {

constexpr int kLanes = BG_VECTOR_BYTES / 4;
static_assert(kBlock % kLanes == 0, "a block is a whole number of vectors");

typedef float VecF __attribute__((vector_size(BG_VECTOR_BYTES)));
typedef std::int32_t VecI __attribute__((vector_size(BG_VECTOR_BYTES)));
typedef std::uint32_t VecU __attribute__((vector_size(BG_VECTOR_BYTES)));     // numbers modulo 2^32
typedef std::uint8_t VecB __attribute__((vector_size(BG_VECTOR_BYTES)));      // bytes, a full vector
typedef std::int8_t VecS __attribute__((vector_size(BG_VECTOR_BYTES)));       // signed ones
typedef std::uint8_t VecQ __attribute__((vector_size(BG_VECTOR_BYTES / 4)));  // as many bytes as floats in a vector

// Of multiplications whose sums never overflow (DotPath::exact).
constexpr bool always_exact(int, int) { return true; }

template <class V>
inline V load(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class V>
inline void store(void* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

inline VecF broadcast(float x) { return VecF{} + x; }
inline VecI broadcast(std::int32_t x) { return VecI{} + x; }
inline VecF to_float(VecI v) { return __builtin_convertvector(v, VecF); }

// Bytes to 32-bit lanes. GCC 12 takes __builtin_convertvector of bytes apart lane by lane.
inline VecI load_bytes(const std::uint8_t* p) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecI>(
        _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif BG_VECTOR_BYTES == 32
    return reinterpret_cast<VecI>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    return __builtin_convertvector(load<VecQ>(p), VecI);
#endif
}

// Vector types alone compile to a comparison and a blend.
#if BG_VECTOR_BYTES == 64
inline VecF max(VecF a, VecF b) {
    return reinterpret_cast<VecF>(
        _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline VecF min(VecF a, VecF b) {
    return reinterpret_cast<VecF>(
        _mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline VecI max(VecI a, VecI b) {
    return reinterpret_cast<VecI>(
        _mm512_maskz_max_epi32(0xffff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
inline VecI min(VecI a, VecI b) {
    return reinterpret_cast<VecI>(
        _mm512_maskz_min_epi32(0xffff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
#elif BG_VECTOR_BYTES == 32
inline VecF max(VecF a, VecF b) {
    return reinterpret_cast<VecF>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline VecF min(VecF a, VecF b) {
    return reinterpret_cast<VecF>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline VecI max(VecI a, VecI b) {
    return reinterpret_cast<VecI>(_mm256_max_epi32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
inline VecI min(VecI a, VecI b) {
    return reinterpret_cast<VecI>(_mm256_min_epi32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#else
inline VecF max(VecF a, VecF b) { return a > b ? a : b; }
inline VecF min(VecF a, VecF b) { return a < b ? a : b; }
inline VecI max(VecI a, VecI b) { return a > b ? a : b; }
inline VecI min(VecI a, VecI b) { return a < b ? a : b; }
#endif

inline VecI load_signed_bytes(const std::int8_t* p) {
    typedef std::int8_t Signed __attribute__((vector_size(BG_VECTOR_BYTES / 4)));
    return __builtin_convertvector(load<Signed>(p), VecI);
}

// Signed bytes to 16-bit lanes and back.
constexpr int kWide = BG_VECTOR_BYTES / 2;
typedef std::int16_t Wide __attribute__((vector_size(BG_VECTOR_BYTES)));
typedef std::int8_t Narrow __attribute__((vector_size(kWide)));

inline Wide load_wide(const std::int8_t* p) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<Wide>(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif BG_VECTOR_BYTES == 32
    return reinterpret_cast<Wide>(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    return __builtin_convertvector(load<Narrow>(p), Wide);
#endif
}

inline Wide load_wide_bytes(const std::uint8_t* p) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<Wide>(_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif BG_VECTOR_BYTES == 32
    return reinterpret_cast<Wide>(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    typedef std::uint8_t Bytes __attribute__((vector_size(kWide)));
    return __builtin_convertvector(load<Bytes>(p), Wide);
#endif
}

inline void store_narrow(std::int8_t* p, Wide v) {
#if BG_VECTOR_BYTES == 64
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_maskz_cvtepi16_epi8(~__mmask32{0}, reinterpret_cast<__m512i>(v)));
#elif BG_VECTOR_BYTES == 32
    const __m256i packed = _mm256_packs_epi16(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0xd8)));
#else
    store(p, __builtin_convertvector(v, Narrow));
#endif
}

inline Wide max(Wide a, Wide b) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<Wide>(_mm512_max_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif BG_VECTOR_BYTES == 32
    return reinterpret_cast<Wide>(_mm256_max_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    return a > b ? a : b;
#endif
}

inline VecB max(VecB a, VecB b) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecB>(_mm512_max_epu8(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
    return a > b ? a : b;
#endif
}

inline VecQ narrow(VecI v) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecQ>(_mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(v)));
#elif BG_VECTOR_BYTES == 32
    const __m256i bytes = _mm256_shuffle_epi8(
        reinterpret_cast<__m256i>(v), _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                                       4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const std::uint64_t low = static_cast<std::uint32_t>(_mm256_extract_epi32(bytes, 0));
    const std::uint64_t high = static_cast<std::uint32_t>(_mm256_extract_epi32(bytes, 4));
    const std::uint64_t both = low | high << 32;
    return load<VecQ>(&both);
#else
    return __builtin_convertvector(v, VecQ);
#endif
}

inline VecF multiply_add(VecF a, VecF b, VecF c) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecF>(
        _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#else
    return a * b + c;
#endif
}

inline void store_bytes(std::uint8_t* out, VecQ bytes, int valid) {
    if (valid == kLanes) {
        store(out, bytes);
    } else {
        std::memcpy(out, &bytes, static_cast<std::size_t>(valid));
    }
}

inline void store_floats(float* out, VecF values, int valid) {
#if BG_VECTOR_BYTES == 64
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(0xffff >> (kLanes - valid)), reinterpret_cast<__m512>(values));
#else
    std::memcpy(out, &values, static_cast<std::size_t>(valid) * sizeof(float));
#endif
}

// 1.5 * 2^23: adding it to a float below 2^22 leaves the float rounded half to even, its integer in the low bits.
constexpr float kRounder = 12582912.0f;
constexpr std::int32_t kRounderBits = 0x4b400000;

// One reader's constants in registers. clip(round(q)) = round(clip(q)), since the bounds are whole numbers.
struct Rounder {
    VecF low, high;
    VecI bits_of_zero;
    explicit Rounder(const Quantizer& q)
        : low(broadcast(static_cast<float>(q.low))),
          high(broadcast(static_cast<float>(q.high))),
          bits_of_zero(broadcast(kRounderBits - q.zero)) {}
    VecQ bytes(VecF quotient) const {
        const VecF shifted = min(max(quotient, low), high) + broadcast(kRounder);
        return narrow(load<VecI>(&shifted) - bits_of_zero);
    }
};

// Whole numbers that are off by at most one. What is beyond the range of int32 less 2^16 gets some number beyond it.
inline VecI to_fixed(VecF v) {
    v = min(v, broadcast(kFixedMost));
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecI>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(v)));
#elif BG_VECTOR_BYTES == 32
    return reinterpret_cast<VecI>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(v)));
#else
    return __builtin_convertvector(max(v, broadcast(-kFixedMost)), VecI);
#endif
}

// The lesser of unsigned words of 16 bits.
inline VecI min_words(VecI a, VecI b) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecI>(_mm512_min_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif BG_VECTOR_BYTES == 32
    return reinterpret_cast<VecI>(_mm256_min_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    typedef std::uint16_t Words __attribute__((vector_size(BG_VECTOR_BYTES)));
    const Words x = load<Words>(&a), y = load<Words>(&b), least = x < y ? x : y;
    return load<VecI>(&least);
#endif
}

// Whether the low word of any lane is at most that of `bound`, whose high words are 0.
inline bool any_low_word(VecI v, VecI bound) {
#if BG_VECTOR_BYTES == 64
    return _mm512_mask_cmple_epu16_mask(0x55555555, reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(bound)) !=
           0;
#elif BG_VECTOR_BYTES == 32
    const __m256i least = _mm256_min_epu16(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(bound));
    const __m256i same = _mm256_cmpeq_epi16(least, reinterpret_cast<__m256i>(v));
    return (_mm256_movemask_epi8(same) & 0x33333333) != 0;
#elif defined(__ARM_NEON)
    return vminvq_u32(vandq_u32(reinterpret_cast<uint32x4_t>(v), vdupq_n_u32(0xffff))) <=
           static_cast<std::uint32_t>(bound[0]);
#else
    bool any = false;
    for (int i = 0; i < kLanes; ++i) any |= (v[i] & 0xffff) <= bound[i];
    return any;
#endif
}

// The high words of four vectors, one behind the other, clipped to bytes 0..255.
inline VecB pack_high(const VecI (&v)[4]) {
#if BG_VECTOR_BYTES == 64
    const auto* x = reinterpret_cast<const __m512i*>(v);
    alignas(64) static constexpr std::int16_t kHigh[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                           23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                           45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i high = _mm512_load_si512(kHigh);
    const __m512i low_half = _mm512_permutex2var_epi16(x[0], high, x[1]);
    const __m512i high_half = _mm512_permutex2var_epi16(x[2], high, x[3]);
    return reinterpret_cast<VecB>(_mm512_maskz_permutexvar_epi64(
        0xff, _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_maskz_packus_epi16(~0ull, low_half, high_half)));
#elif BG_VECTOR_BYTES == 32
    const auto* x = reinterpret_cast<const __m256i*>(v);
    const __m256i low = _mm256_packs_epi32(_mm256_srai_epi32(x[0], 16), _mm256_srai_epi32(x[1], 16));
    const __m256i high = _mm256_packs_epi32(_mm256_srai_epi32(x[2], 16), _mm256_srai_epi32(x[3], 16));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return reinterpret_cast<VecB>(_mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
#elif defined(__ARM_NEON)
    const auto* x = reinterpret_cast<const int32x4_t*>(v);
    const int16x8_t low = vcombine_s16(vshrn_n_s32(x[0], 16), vshrn_n_s32(x[1], 16));
    const int16x8_t high = vcombine_s16(vshrn_n_s32(x[2], 16), vshrn_n_s32(x[3], 16));
    return reinterpret_cast<VecB>(vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
#else
    VecB bytes;
    for (int k = 0; k < 4; ++k) {
        const VecQ part = narrow(min(max(v[k] >> 16, broadcast(0)), broadcast(255)));
        std::memcpy(reinterpret_cast<char*>(&bytes) + k * kLanes, &part, sizeof part);
    }
    return bytes;
#endif
}

inline VecB min(VecB a, VecB b) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecB>(_mm512_min_epu8(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
    return a < b ? a : b;
#endif
}

// Sums with their offset; c counts from the tile's first channel.
inline VecI whole_sum(const EpilogueTile& tile, int r, int c) {
    return load<VecI>(tile.acc + static_cast<std::ptrdiff_t>(r) * tile.acc_stride + c) +
           load<VecI>(tile.offset + tile.column + c);
}

// The documented chain of operations up to the value. `sum`: with its offset.
inline VecF value(const EpilogueTile& tile, VecI sum, int r, int channel) {
    VecF y = to_float(sum) * load<VecF>(tile.multiplier + channel);
    if (tile.bias != nullptr) y = y + load<VecF>(tile.bias + channel);
    if (tile.residual != nullptr) {
        y = y + to_float(load_bytes(tile.residual[r] + channel) - broadcast(tile.residual_zero)) *
                    broadcast(tile.residual_scale);
    }
    return y;
}

// Out of line: once in dozens of vectors.
__attribute__((noinline)) void exact_bytes(const EpilogueTile& tile, const Quantizer& q, VecI sum, int r, int channel,
                                           void* bytes) {
    store(bytes, Rounder(q).bytes(value(tile, sum, r, channel) / broadcast(q.scale)));
}

// One or two readers, all quick. Four vectors go together: ACROSS of a pixel, of 4 / ACROSS pixels. `valid`: how many
// of a pixel's channels there are.
template <bool RESIDUAL, int OUTPUTS, int ACROSS>
inline void quick_columns(const EpilogueTile& tile, int c, int valid) {
    constexpr int kDown = 4 / ACROSS;
    const std::ptrdiff_t acc_stride = tile.acc_stride;
    const std::uint8_t* const* residual = tile.residual;
    const int rows = tile.rows, channel = tile.column + c;
    const std::int32_t* acc = tile.acc + c;
    VecI offset[ACROSS];
    VecF multiplier[OUTPUTS][ACROSS], bias[OUTPUTS][ACROSS], scale[OUTPUTS];
    VecI window[OUTPUTS];
    VecB low[OUTPUTS], high[OUTPUTS];
    for (int j = 0; j < ACROSS; ++j) offset[j] = load<VecI>(tile.offset + channel + j * kLanes);
    for (int o = 0; o < OUTPUTS; ++o) {
        const Quantizer& q = *tile.quantizers[o];
        for (int j = 0; j < ACROSS; ++j) {
            multiplier[o][j] = load<VecF>(q.multiplier + channel + j * kLanes);
            bias[o][j] = load<VecF>(q.bias + channel + j * kLanes);
        }
        scale[o] = broadcast(q.residual_scale);
        window[o] = broadcast(q.window);
        low[o] = VecB{} + static_cast<std::uint8_t>(q.low + q.zero);
        high[o] = VecB{} + static_cast<std::uint8_t>(q.high + q.zero);
    }
    for (int r = 0; r < rows; r += kDown) {
        int row[kDown];  // a last row may be there several times
        for (int i = 0; i < kDown; ++i) row[i] = r + i < rows ? r + i : rows - 1;
        VecF sum[4], other[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            const int i = row[k / ACROSS], j = k % ACROSS;
            sum[k] = to_float(load<VecI>(acc + i * acc_stride + j * kLanes) + offset[j]);
            if constexpr (RESIDUAL) other[k] = to_float(load_bytes(residual[i] + channel + j * kLanes));
        }
#pragma GCC unroll 2
        for (int o = 0; o < OUTPUTS; ++o) {
            VecI fixed[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                VecF t = multiply_add(sum[k], multiplier[o][k % ACROSS], bias[o][k % ACROSS]);
                if constexpr (RESIDUAL) t = multiply_add(other[k], scale[o], t);
                fixed[k] = to_fixed(t);
            }
            VecB bytes = min(max(pack_high(fixed), low[o]), high[o]);
            const VecI least = min_words(min_words(fixed[0], fixed[1]), min_words(fixed[2], fixed[3]));
            if (__builtin_expect(any_low_word(least, window[o]), 0)) {
                for (int k = 0; k < 4; ++k) {
                    const int i = row[k / ACROSS], j = c + k % ACROSS * kLanes;
                    exact_bytes(tile, *tile.quantizers[o], whole_sum(tile, i, j), i, tile.column + j,
                                reinterpret_cast<char*>(&bytes) + k * kLanes);
                }
            }
            std::uint8_t* const* out = tile.out + o * kMaxRows;
            const char* from = reinterpret_cast<const char*>(&bytes);
#pragma GCC unroll 4
            for (int i = 0; i < kDown; ++i, from += ACROSS * kLanes) {
                if (valid == ACROSS * kLanes) {
                    std::memcpy(out[row[i]] + channel, from, ACROSS * kLanes);
                } else {
                    std::memcpy(out[row[i]] + channel, from, static_cast<std::size_t>(valid));
                }
            }
        }
    }
}

template <bool RESIDUAL, int OUTPUTS>
void quick_epilogue(const EpilogueTile& tile) {
    int c = 0;
    for (; c + 2 * kLanes <= tile.columns; c += 2 * kLanes) {
        quick_columns<RESIDUAL, OUTPUTS, 2>(tile, c, 2 * kLanes);
    }
    for (; c < tile.columns; c += kLanes) {
        quick_columns<RESIDUAL, OUTPUTS, 1>(tile, c, tile.columns - c < kLanes ? tile.columns - c : kLanes);
    }
}

void plain_epilogue(const EpilogueTile& tile) {
    for (int c = 0; c < tile.columns; c += kLanes) {
        const int valid = tile.columns - c < kLanes ? tile.columns - c : kLanes;
        for (int r = 0; r < tile.rows; ++r) {
            const VecF y = value(tile, whole_sum(tile, r, c), r, tile.column + c);
            if (tile.floats != nullptr) {
                const VecF bounded = min(max(y, broadcast(tile.floor)), broadcast(tile.ceiling));
                store_floats(tile.floats[r] + tile.column + c, bounded, valid);
            }
            for (int o = 0; o < tile.outputs; ++o) {
                const Quantizer& q = *tile.quantizers[o];
                store_bytes(tile.out[o * kMaxRows + r] + tile.column + c, Rounder(q).bytes(y / broadcast(q.scale)),
                            valid);
            }
        }
    }
}

void epilogue(const EpilogueTile& tile) {
    bool quick = tile.floats == nullptr;
    for (int o = 0; quick && o < tile.outputs; ++o) quick = tile.quantizers[o]->quick;
    if (!quick) return plain_epilogue(tile);
    EpilogueTile part = tile;  // two readers at a time
    for (int left = tile.outputs; left > 0; left -= 2, part.quantizers += 2, part.out += 2 * kMaxRows) {
        if (tile.residual != nullptr) {
            left == 1 ? quick_epilogue<true, 1>(part) : quick_epilogue<true, 2>(part);
        } else {
            left == 1 ? quick_epilogue<false, 1>(part) : quick_epilogue<false, 2>(part);
        }
    }
}

#if BG_VECTOR_BYTES == 16  // the others have their own
std::size_t depthwise_bytes(int taps, int padded) {
    return static_cast<std::size_t>(taps) * static_cast<std::size_t>(padded);
}

void depthwise_pack(const std::int8_t* w, int taps, int padded, std::uint8_t* packed) {
    std::memcpy(packed, w, depthwise_bytes(taps, padded));
}

void depthwise(const DepthwiseTile& tile) {
    const int padded = (tile.channels + kBlock - 1) / kBlock * kBlock;
    const auto* w = reinterpret_cast<const std::int8_t*>(tile.w);
    for (int p = 0; p < tile.pixels; ++p) {
        const std::uint8_t* a = tile.a[p];
        for (int c = 0; c < padded; c += kLanes) {
            VecI sum = {};
            for (int t = 0; t < tile.taps; ++t) {
                sum += load_bytes(a + tile.tap_offsets[t] + c) *
                       load_signed_bytes(w + static_cast<std::ptrdiff_t>(t) * padded + c);
            }
            store(tile.acc + static_cast<std::ptrdiff_t>(p) * padded + c, sum);
        }
    }
}
#endif

// Of a form of winograd.h, along one direction: pixels and positions of a patch, and sums that its product leaves.
constexpr int winograd_side(int m, int stride) { return stride == 2 ? kStridedSide : m + 2; }
constexpr int winograd_sums(int m, int stride) { return stride == 2 ? 3 : m + 2; }

// Where a position is kept.
struct StridedPlaces {
    int of[kStridedSide * kStridedSide] = {};
    constexpr StridedPlaces() {
        for (int i = 0; i < kStridedSide * kStridedSide; ++i) of[kStridedOrder[i]] = i;
    }
};
constexpr StridedPlaces kStridedPlaces;
constexpr int winograd_place(int position, int stride) { return stride == 2 ? kStridedPlaces.of[position] : position; }

// B^T of winograd.h along one direction. Bytes are modulo 256: every true result plus its shift lies in 0..255.
template <int M, int STRIDE, class V>
inline void winograd_patch(const V* d, V* v) {
    if constexpr (STRIDE == 2) {
        v[0] = d[0] - d[2];
        v[1] = d[2];
        v[2] = d[4] - d[2];
        v[3] = d[1];
        v[4] = d[3];
    } else if constexpr (M == 2) {
        v[0] = d[0] - d[2];
        v[1] = d[1] + d[2];
        v[2] = d[2] - d[1];
        v[3] = d[1] - d[3];
    } else if constexpr (M == 3) {
        const V twice1 = d[1] + d[1], twice2 = d[2] + d[2];
        v[3] = d[3] - d[1];
        v[0] = d[0] + d[0] - twice2 + v[3];
        v[1] = d[3] - d[2] - twice1;
        v[2] = d[3] - d[2] - twice2 + twice1;
        v[4] = twice1 - d[2] - d[3] - d[3] + d[4];
    } else {
        const V even = d[4] - d[2], odd = d[3] - d[1], twice = odd + odd;
        const V sum = d[1] + d[2], difference = d[1] - d[2];
        const V sum2 = sum + sum, difference2 = difference + difference, first2 = d[0] - d[2] + d[0] - d[2];
        v[0] = first2 + first2 + even;                   // 4 d0 - 5 d2 + d4
        v[1] = d[3] + d[4] - sum2 - sum2;                // -4 (d1 + d2) + d3 + d4
        v[2] = d[4] - d[3] + difference2 + difference2;  // 4 (d1 - d2) + d4 - d3
        v[3] = even + twice;                             // 2 (d3 - d1) + d4 - d2
        v[4] = even - twice;
        v[5] = d[5] - d[3] - twice - twice;  // 4 d1 - 5 d3 + d5
    }
}

template <int N, int M, int STRIDE, class V, class Load>
inline void winograd_input_chunk(const std::uint8_t* a, std::size_t row_bytes, std::size_t pixel_bytes,
                                 const std::uint8_t* shifts, std::uint8_t* v, std::size_t position_bytes, Load read) {
    constexpr int kDown = winograd_side(N, STRIDE), kAcross = winograd_side(M, STRIDE);
    V d[kDown][kAcross];
    for (int x = 0; x < kAcross; ++x) {
        const std::uint8_t* column = a + static_cast<std::size_t>(x) * pixel_bytes;
        V r[kDown], t[kDown];
        for (int y = 0; y < kDown; ++y) r[y] = read(column + static_cast<std::size_t>(y) * row_bytes);
        winograd_patch<N, STRIDE, V>(r, t);
        for (int y = 0; y < kDown; ++y) d[y][x] = t[y];
    }
    for (int y = 0; y < kDown; ++y) {
        V row[kAcross];
        winograd_patch<M, STRIDE, V>(d[y], row);
        for (int x = 0; x < kAcross; ++x) {
            const int p = winograd_place(y * kAcross + x, STRIDE);
            if constexpr (sizeof row[x][0] == 1) row[x] = row[x] + shifts[p];
            store(v + static_cast<std::size_t>(p) * position_bytes, row[x]);
        }
    }
}

template <int N, int M, int STRIDE = 1>
void winograd_input(const std::uint8_t* a, std::size_t row_bytes, std::size_t pixel_bytes, int channels,
                    const std::uint8_t* shifts, std::uint8_t* v, std::size_t position_bytes) {
    typedef std::uint8_t Chunk __attribute__((vector_size(16)));
    int c = 0;
    for (; c + BG_VECTOR_BYTES <= channels; c += BG_VECTOR_BYTES) {
        winograd_input_chunk<N, M, STRIDE, VecB>(a + c, row_bytes, pixel_bytes, shifts, v + c, position_bytes,
                                                 load<VecB>);
    }
    if constexpr (BG_VECTOR_BYTES == 64) {
        typedef std::uint8_t Half __attribute__((vector_size(32)));
        if (c + 32 <= channels) {
            winograd_input_chunk<N, M, STRIDE, Half>(a + c, row_bytes, pixel_bytes, shifts, v + c, position_bytes,
                                                     load<Half>);
            c += 32;
        }
    }
    for (; c < channels; c += 16) {
        winograd_input_chunk<N, M, STRIDE, Chunk>(a + c, row_bytes, pixel_bytes, shifts, v + c, position_bytes,
                                                  load<Chunk>);
    }
}

// To 16 bits, without shifts.
template <int N, int M>
void winograd_input_words(const std::uint8_t* a, std::size_t row_bytes, std::size_t pixel_bytes, int channels,
                          const std::uint8_t* shifts, std::uint8_t* v, std::size_t position_bytes) {
    for (int c = 0; c < channels; c += kWide) {
        winograd_input_chunk<N, M, 1, Wide>(a + c, row_bytes, pixel_bytes, shifts, v + 2 * c, position_bytes,
                                            load_wide_bytes);
    }
}

// x / (2^twos * 3^threes) where that is exact: the inverse of the threes modulo 2^32, then a shift that keeps the sign.
template <int N, int M, int STRIDE>
inline VecI winograd_divide(VecU x) {
    constexpr WinogradForm kForm{"", N, M, 1, STRIDE};
    if constexpr (kForm.threes() > 0) x = x * (kForm.threes() == 1 ? 0xaaaaaaabu : 0x38e38e39u);
    return load<VecI>(&x) >> kForm.twos();
}

// A^T of winograd.h along one direction. Sums in 16-bit forms leave 32 bits on the way.
template <int M, int STRIDE = 1>
inline void winograd_back(const VecU* m, VecU* y) {
    if constexpr (STRIDE == 2) {
        y[0] = m[0] + m[1];
        y[1] = m[1] + m[2];
    } else if constexpr (M == 2) {
        y[0] = m[0] + m[0] + m[1] + m[2];
        y[1] = m[1] - m[2] - m[3] - m[3];
    } else if constexpr (M == 3) {
        const VecU three1 = m[1] + m[1] + m[1], three4 = m[4] + m[4] + m[4], twice3 = m[3] + m[3];
        y[0] = m[0] + m[0] + m[0] - three1 - m[2] + m[3];
        y[1] = m[2] + twice3 - three1;
        y[2] = twice3 + twice3 - three1 - m[2] + three4 + three4;
    } else {
        const VecU sum12 = (m[1] + m[2]) << 2, difference12 = (m[2] - m[1]) << 2, sum34 = m[3] + m[4],
                   difference34 = (m[3] - m[4]) << 1;
        const VecU three0 = m[0] + m[0] + m[0], three5 = m[5] + m[5] + m[5];
        y[0] = three0 + three0 - sum12 + sum34;
        y[1] = difference12 + difference34;
        y[2] = (sum34 << 2) - sum12;
        y[3] = difference12 + (difference34 << 2) + (three5 << 3);
    }
}

// Sums of a tile, of channels from `c` on, to its pixels, which are left to be divided. `DOWN`: whether they are to be
// transformed downwards too.
template <int N, int M, int STRIDE, bool DOWN>
inline void winograd_tile(const WinogradSums& sums, const std::int32_t* m, int c, VecU (&pixels)[N * M]) {
    constexpr int kDown = winograd_sums(N, STRIDE), kAcross = winograd_sums(M, STRIDE);
    VecU t[N][kAcross];
    for (int x = 0; x < kAcross; ++x) {
        const auto sum = [&](int y) {
            return load<VecU>(m + static_cast<std::size_t>(y * kAcross + x) * sums.position_stride);
        };
        if constexpr (DOWN) {
            VecU column[kDown], back[N];
            for (int y = 0; y < kDown; ++y) column[y] = sum(y);
            winograd_back<N, STRIDE>(column, back);
            for (int y = 0; y < N; ++y) t[y][x] = back[y];
        } else {
            for (int y = 0; y < N; ++y) t[y][x] = sum(y);
        }
    }
    for (int y = 0; y < N; ++y) {
        VecU row[M];
        winograd_back<M, STRIDE>(t[y], row);
        for (int x = 0; x < M; ++x) {
            const int i = y * M + x;
            const auto correction =
                load<VecU>(sums.correction + static_cast<std::size_t>(i) * sums.correction_stride + c);
            pixels[i] = row[x] - correction;
        }
    }
}

template <int N, int M, int STRIDE = 1, bool DOWN = true>
void winograd_output(const WinogradSums& sums) {
    const auto tile_acc = static_cast<std::size_t>(M) * sums.acc_stride;
    const std::size_t below = static_cast<std::size_t>(sums.tiles) * tile_acc;
    for (int c = 0; c < sums.columns; c += kLanes) {
        const std::int32_t* m = sums.m + c;
        std::int32_t* acc = sums.acc + c;
        for (int tile = 0; tile < sums.tiles; ++tile, m += sums.tile_stride, acc += tile_acc) {
            VecU pixels[N * M];
            winograd_tile<N, M, STRIDE, DOWN>(sums, m, c, pixels);
            for (int y = 0; y < N; ++y) {
                for (int x = 0; x < M; ++x) {
                    store(acc + static_cast<std::size_t>(y) * below + static_cast<std::size_t>(x) * sums.acc_stride,
                          winograd_divide<N, M, STRIDE>(pixels[y * M + x]));
                }
            }
        }
    }
}

void interleave(const std::int8_t* red, const std::int8_t* green, const std::int8_t* blue, int pixels,
                std::uint8_t* out) {
    const std::int8_t* const planes[] = {red, green, blue};
    int x = 0;
    for (; x + kLanes <= pixels; x += kLanes) {
        VecI pixel = {};
        for (int i = 0; i < 3; ++i)
            pixel |= load_bytes(reinterpret_cast<const std::uint8_t*>(planes[i] + x)) << (8 * i);
        store(out + 4 * x, pixel ^ broadcast(0x808080));
    }
    for (; x < pixels; ++x) {
        for (int i = 0; i < 3; ++i) out[4 * x + i] = static_cast<std::uint8_t>(planes[i][x] ^ 0x80);
        out[4 * x + 3] = 0;
    }
}

#if BG_VECTOR_BYTES == 64
// ROWS rows of three channels: some bytes of each, in two vectors, to as many woven pixels.
template <int ROWS>
struct WeavingOrder {
    static constexpr int kRead = 128 / (ROWS > 4 ? 8 : 4), kPixels = kRead / kGroup, kWritten = kPixels * 3 * ROWS;
    alignas(64) std::uint8_t bytes[2 * 64] = {};
    constexpr WeavingOrder() {
        for (int i = 0; i < kWritten; ++i) {
            const int pixel = i / (3 * ROWS), row = i / 3 % ROWS;
            bytes[i] = static_cast<std::uint8_t>(kRead * row + kGroup * pixel + i % 3);
        }
    }
};

template <int ROWS>
void weave_three(const Weaving& w) {
    using Order = WeavingOrder<ROWS>;
    static constexpr Order kOrder;
    const __m512i order[] = {_mm512_load_si512(kOrder.bytes), _mm512_load_si512(kOrder.bytes + 64)};
    std::uint8_t* out = w.out;
    for (int x = 0; x < w.pixels; x += Order::kPixels, out += Order::kWritten) {
        const auto row = [&](int y) {
            return w.from + static_cast<std::size_t>(y < ROWS ? y : ROWS - 1) * w.row_bytes + x * kGroup;
        };
        const auto half = [&](int i) {
            if constexpr (Order::kRead == 32) return load<__m256i>(row(i));
            return _mm256_inserti128_si256(_mm256_castsi128_si256(load<__m128i>(row(2 * i))),
                                           load<__m128i>(row(2 * i + 1)), 1);
        };
        const __m512i first = _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(half(0)), half(1), 1);
        const __m512i second = _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(half(2)), half(3), 1);
        store(out, _mm512_permutex2var_epi8(first, order[0], second));
        const __m512i rest = _mm512_permutex2var_epi8(first, order[1], second);
        store(out + 64, load<__m256i>(&rest));
    }
}
#endif

void weave(const Weaving& w) {
#if BG_VECTOR_BYTES == 64
    if (w.channels == 3 && w.rows == 3) return weave_three<3>(w);
    if (w.channels == 3 && w.rows == 7) return weave_three<7>(w);
#endif
    std::uint8_t* out = w.out;
    for (int x = 0; x < w.pixels; ++x) {
        const std::uint8_t* from = w.from + x * kGroup;
        for (int y = 0; y < w.rows; ++y, from += w.row_bytes, out += w.channels) std::memcpy(out, from, kGroup);
    }
}

void maximum(const std::uint8_t* const* sources, int count, int bytes, std::uint8_t* out) {
    for (int i = 0; i < bytes; i += BG_VECTOR_BYTES) {
        VecB best = load<VecB>(sources[0] + i);
        for (int s = 1; s < count; ++s) best = max(best, load<VecB>(sources[s] + i));
        if (bytes - i >= BG_VECTOR_BYTES) {
            store(out + i, best);
        } else {
            std::memcpy(out + i, &best, static_cast<std::size_t>(bytes - i));
        }
    }
}

// Windows of 3 x 3 pixels, two apart, of so many vectors of columns from `column` on. The pixels that two windows share
// are reduced once; of fewer rows the last one counts again.
template <int VECTORS>
void extreme_of_nine(const SumsPooling& pooling, int column) {
    const std::int32_t* rows[3];
    for (int r = 0; r < 3; ++r) rows[r] = pooling.rows[std::min(r, pooling.row_count - 1)] + column;
    VecI mask[VECTORS], shared[VECTORS];
    const auto largest = [&](int pixel, int v) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(pixel) * pooling.columns + v * kLanes;
        const auto of = [&](int r) { return load<VecI>(rows[r] + at) ^ mask[v]; };
        return max(max(of(0), of(1)), of(2));
    };
    for (int v = 0; v < VECTORS; ++v) {
        mask[v] = load<VecI>(pooling.flip + column + v * kLanes);
        shared[v] = largest(0, v);
    }
    std::int32_t* out = pooling.out + column;
    for (int w = 0; w < pooling.windows; ++w, out += pooling.columns) {
        for (int v = 0; v < VECTORS; ++v) {
            const VecI before = max(shared[v], largest(2 * w + 1, v));
            shared[v] = largest(2 * w + 2, v);
            store(out + v * kLanes, max(before, shared[v]) ^ mask[v]);
        }
    }
}

void extreme_of_any(const SumsPooling& pooling) {
    for (int w = 0; w < pooling.windows; ++w) {
        const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(w) * pooling.stride * pooling.columns;
        for (int c = 0; c < pooling.columns; c += kLanes) {
            const VecI mask = load<VecI>(pooling.flip + c);
            VecI best = broadcast(INT32_MIN);
            for (int k = 0; k < pooling.kernel; ++k) {
                for (int r = 0; r < pooling.row_count; ++r)
                    best = max(best, load<VecI>(pooling.rows[r] + first + k * pooling.columns + c) ^ mask);
            }
            store(pooling.out + static_cast<std::ptrdiff_t>(w) * pooling.columns + c, best ^ mask);
        }
    }
}

// A mask of ones turns the order of whole numbers.
void extreme(const SumsPooling& pooling) {
    if (pooling.kernel != 3 || pooling.stride != 2) return extreme_of_any(pooling);  // unusual
    constexpr int kVectors = 4;
    int column = 0;
    for (; column + kVectors * kLanes <= pooling.columns; column += kVectors * kLanes)
        extreme_of_nine<kVectors>(pooling, column);
    for (; column < pooling.columns; column += kLanes) extreme_of_nine<1>(pooling, column);
}

void addresses(const void* first, std::size_t step, int count, void* out) {
    typedef std::uint64_t Numbers __attribute__((vector_size(BG_VECTOR_BYTES)));
    static_assert(sizeof(void*) == 8, "a pointer is such a number");
    constexpr int kTogether = BG_VECTOR_BYTES / 8;
    const auto begin = reinterpret_cast<std::uintptr_t>(first);
    auto* to = static_cast<char*>(out);
    Numbers next;
    for (int i = 0; i < kTogether; ++i) next[i] = begin + static_cast<std::size_t>(i) * step;
    int i = 0;
    for (; i + kTogether <= count; i += kTogether, next += kTogether * step) store(to + i * 8, next);
    for (std::uintptr_t left = begin + static_cast<std::size_t>(i) * step; i < count; ++i, left += step)
        store(to + i * 8, std::uint64_t{left});
}

void weighted_sum(const std::uint8_t* const* sources, const std::int32_t* weights, int count, int channels,
                  std::int32_t* acc) {
    for (int c = 0; c < channels; c += kLanes) {
        VecI sum = {};
        for (int s = 0; s < count; ++s) {
            const VecI x = load_bytes(sources[s] + c);
            sum += weights != nullptr ? x * broadcast(weights[s]) : x;
        }
        store(acc + c, sum);
    }
}

// Shifts of bytes, which no instruction set has, in words of 16 bits.
inline VecB shift_right(VecB v, int distance) {
    typedef std::uint16_t Words __attribute__((vector_size(BG_VECTOR_BYTES)));
    const Words shifted = load<Words>(&v) >> static_cast<std::uint16_t>(distance);
    const auto mask = static_cast<std::uint8_t>(0xff >> distance);
    return load<VecB>(&shifted) & (VecB{} + mask);
}

void derive(const std::int8_t* q8, std::size_t count, int bits, std::int8_t* codes) {
    const int distance = 8 - bits;
    if (distance == 0) {
        std::memcpy(codes, q8, count);
        return;
    }
    const int half = 1 << (distance - 1);
    const int high = (1 << (bits - 1)) - 1;  // the lower end is never exceeded
    // What is larger than `most` is `high` in any case, and so is `most`; up to there no sum leaves a byte.
    const auto below = static_cast<std::int8_t>(127 - half);
    const auto top = static_cast<std::uint8_t>(0x80 >> distance), rest = static_cast<std::uint8_t>(half - 1);
    const VecS most = VecS{} + below;
    const VecB sign = VecB{} + top, less = VecB{} + rest, one = VecB{} + std::uint8_t{1};
    std::size_t i = 0;
    for (; i + BG_VECTOR_BYTES <= count; i += BG_VECTOR_BYTES) {
        const auto x = load<VecS>(q8 + i);
        const VecS bounded = x < most ? x : most;
        const VecB odd = shift_right(load<VecB>(&bounded), distance) & one;
        const VecB sum = load<VecB>(&bounded) + odd + less;
        store(codes + i, (shift_right(sum, distance) ^ sign) - sign);
    }
    for (; i < count; ++i) {
        const int x = q8[i], rounded = (x + half - 1 + ((x >> distance) & 1)) >> distance;
        codes[i] = static_cast<std::int8_t>(rounded > high ? high : rounded);
    }
}

#if BG_VECTOR_BYTES == 64
// 3 x 3 taps of seven channels at a time: a permutation brings each tap's together. Returns how many were done; a store
// reaches over by a channel, which the next ones write.
int transpose_nine_taps(const std::int8_t* codes, int channels, std::size_t row_channels, std::int8_t* out) {
    constexpr int kTaps = 9, kTogether = 7;
    alignas(64) static constexpr std::uint8_t kOrder[64] = {
        0,  9,  18, 27, 36, 45, 54, 1,  10, 19, 28, 37, 46, 55, 2,  11, 20, 29, 38, 47, 56, 3,
        12, 21, 30, 39, 48, 57, 4,  13, 22, 31, 40, 49, 58, 5,  14, 23, 32, 41, 50, 59, 6,  15,
        24, 33, 42, 51, 60, 7,  16, 25, 34, 43, 52, 61, 8,  17, 26, 35, 44, 53, 62, 63};
    const __m512i order = _mm512_load_si512(kOrder);
    int c = 0;
    for (; c + kTogether + 1 <= channels; c += kTogether) {
        alignas(64) std::uint8_t taps[64];
        _mm512_store_si512(taps, _mm512_maskz_permutexvar_epi8(~0ull, order, _mm512_loadu_si512(codes + c * kTaps)));
        for (int t = 0; t < kTaps; ++t)
            std::memcpy(out + static_cast<std::size_t>(t) * row_channels + c, taps + t * kTogether, 8);
    }
    return c;
}
#endif

void transpose_taps(const std::int8_t* codes, int channels, int taps, std::size_t row_channels, std::int8_t* out) {
    int done = 0;
#if BG_VECTOR_BYTES == 64
    if (taps == 9) done = transpose_nine_taps(codes, channels, row_channels, out);
#endif
    for (int t = 0; t < taps; ++t) {
        const std::int8_t* code = codes + done * taps + t;
        std::int8_t* row = out + static_cast<std::size_t>(t) * row_channels;
        int c = done;
        // Four at a time: the stores are the bottleneck.
        for (; c + 4 <= channels; c += 4, code += 4 * taps) {
            std::uint32_t four = static_cast<std::uint8_t>(code[0]);
            four |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(code[taps])) << 8;
            four |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(code[2 * taps])) << 16;
            four |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(code[3 * taps])) << 24;
            std::memcpy(row + c, &four, sizeof four);
        }
        for (; c < channels; ++c, code += taps) row[c] = *code;
    }
}

// G of winograd.h along one direction, in 16 bits.
template <int M, int STRIDE>
inline void winograd_weights_line(const Wide* g, Wide* u) {
    u[0] = g[0];
    if constexpr (STRIDE == 2) {
        u[1] = g[0] + g[2];
        u[2] = g[2];
        u[3] = u[4] = g[1];
        return;
    }
    u[1] = g[0] + g[1] + g[2];
    u[2] = g[0] - g[1] + g[2];
    if constexpr (M >= 3) u[3] = g[0] + (g[1] << 1) + (g[2] << 2);
    if constexpr (M == 4) u[4] = g[0] - (g[1] << 1) + (g[2] << 2);
    u[M + 1] = g[2];
}

inline void store_weight(std::int16_t* out, Wide u) { store(out, u); }

inline void store_weight(std::int8_t* out, Wide u) {
    const Wide bound = Wide{} + static_cast<std::int16_t>(kWinogradMaxWeight);
    store_narrow(out, -max(-max(u, -bound), -bound));
}

template <int N, int M, class Weight, int STRIDE = 1>
int winograd_weights(const std::int8_t* codes, int channels, void* out) {
    constexpr int kDown = winograd_side(N, STRIDE), kAcross = winograd_side(M, STRIDE);
    Wide peak = {};
    for (int next = 0; next < channels; next += kWide) {
        // The last chunk overlaps the one before: beyond the last channel lie the first ones of the next position.
        const int c = channels >= kWide && next > channels - kWide ? channels - kWide : next;
        Wide t[kDown][3];
        for (int x = 0; x < 3; ++x) {
            Wide g[3], u[kDown];
            for (int y = 0; y < 3; ++y) g[y] = load_wide(codes + static_cast<std::ptrdiff_t>(3 * y + x) * channels + c);
            winograd_weights_line<N, STRIDE>(g, u);
            for (int y = 0; y < kDown; ++y) t[y][x] = u[y];
        }
        // Of fewer channels than lanes, the rest is another tap's: the next position overwrites it, and it does not
        // count.
        const int valid = channels - c < kWide ? channels - c : kWide;
        const auto keep = [&](int position, Wide weight) {
            Wide magnitude = max(weight, -weight);
            if (valid < kWide) {
                for (int i = valid; i < kWide; ++i) magnitude[i] = 0;
            }
            peak = max(peak, magnitude);
            store_weight(static_cast<Weight*>(out) + static_cast<std::ptrdiff_t>(position) * channels + c, weight);
        };
        Wide u[kDown * kAcross];
        for (int y = 0; y < kDown; ++y) {
            winograd_weights_line<M, STRIDE>(t[y], u + y * kAcross);
            for (int p = y * kAcross; STRIDE == 1 && p < (y + 1) * kAcross; ++p) keep(p, u[p]);
        }
        for (int p = 0; STRIDE == 2 && p < kDown * kAcross; ++p) keep(p, u[kStridedOrder[p]]);
    }
    int largest = 0;
    for (int i = 0; i < kWide; ++i) largest = peak[i] > largest ? peak[i] : largest;
    return largest;
}

template <int N, int M>
constexpr WinogradKernels kBytes{winograd_input<N, M>, winograd_output<N, M>, nullptr,
                                 winograd_weights<N, M, std::int8_t>, nullptr};
template <int N, int M>
constexpr WinogradKernels kWords{winograd_input_words<N, M>, winograd_output<N, M>, nullptr,
                                 winograd_weights<N, M, std::int16_t>, nullptr};
constexpr WinogradKernels kStrided{winograd_input<2, 2, 2>, winograd_output<2, 2, 2>, nullptr,
                                   winograd_weights<2, 2, std::int8_t, 2>, nullptr};

// BYTES, WORDS and STRIDED: kBytes, kWords and kStrided, or what a set has instead.
#define BG_GENERIC_FUNCTIONS(BYTES, WORDS, STRIDED)                                                                \
    epilogue, {BYTES<3, 4>, BYTES<3, 3>, BYTES<2, 4>, BYTES<2, 3>, BYTES<2, 2>, WORDS<4, 4>, STRIDED}, interleave, \
        weave, maximum, extreme, weighted_sum, derive, transpose_taps, addresses, BG_VECTOR_BYTES

}  // namespace
}  // namespace BG_NAMESPACE
}  // namespace bitgear
