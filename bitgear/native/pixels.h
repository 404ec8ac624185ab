// The loops over pixels around a network (pictures.h), once for each instruction set: included behind generic.h.
#pragma once

namespace bitgear {
namespace BG_NAMESPACE {
namespace {

constexpr std::int32_t kWeightRounding = kWeightOne / 2;
constexpr int kWeightBits = 2 * kWeightHalf;

#if BG_VECTOR_BYTES == 64
// 16 bytes of a row go together. For every four taps: where 64-byte vectors of the row begin, an index that brings each
// byte's taps together, and three digits of the weights, of which those of 256 and of 1 are signed.
struct AcrossChunk {
    std::uint8_t index[64];
    std::int8_t digits[3][64];
};

constexpr int kChunkBytes = 16;

inline int chunks(int pixels) { return (3 * pixels + kChunkBytes - 1) / kChunkBytes; }
inline int fours(int taps) { return (taps + 3) / 4; }

std::size_t across_bytes(int pixels, int taps) {
    return static_cast<std::size_t>(chunks(pixels) * fours(taps)) * sizeof(AcrossChunk) +
           static_cast<std::size_t>(chunks(pixels)) * sizeof(std::int32_t);
}

void pack_across(const std::int32_t* first, const std::int32_t* weight, int taps, int pixels, std::uint8_t* packed) {
    auto* begin = reinterpret_cast<std::int32_t*>(packed + static_cast<std::size_t>(chunks(pixels) * fours(taps)) *
                                                               sizeof(AcrossChunk));
    for (int i = 0; i < chunks(pixels); ++i) {
        begin[i] = 3 * first[kChunkBytes * i / 3];
        for (int four = 0; four < fours(taps); ++four) {
            AcrossChunk chunk{};
            for (int lane = 0; lane < kChunkBytes; ++lane) {
                const int x = (kChunkBytes * i + lane) / 3, c = (kChunkBytes * i + lane) % 3;
                for (int k = 0; k < 4 && x < pixels && 4 * four + k < taps; ++k) {
                    const std::int32_t w = weight[x * taps + 4 * four + k];
                    const auto low = static_cast<std::int8_t>(w & 255);
                    const std::int32_t rest = (w - low) >> 8;
                    const auto middle = static_cast<std::int8_t>(rest & 255);
                    const int at = 4 * lane + k;
                    chunk.index[at] = static_cast<std::uint8_t>(3 * (first[x] + k) + c - begin[i]);
                    chunk.digits[0][at] = low;
                    chunk.digits[1][at] = middle;
                    chunk.digits[2][at] = static_cast<std::int8_t>((rest - middle) >> 8);
                }
            }
            std::memcpy(packed + static_cast<std::size_t>(i * fours(taps) + four) * sizeof chunk, &chunk, sizeof chunk);
        }
    }
}

void across(const std::uint8_t* row, const std::uint8_t* packed, int taps, int pixels, std::uint8_t* out) {
    const std::uint8_t* begin = packed + static_cast<std::size_t>(chunks(pixels) * fours(taps)) * sizeof(AcrossChunk);
    for (int i = 0; i < chunks(pixels); ++i) {
        std::int32_t offset;
        std::memcpy(&offset, begin + sizeof offset * static_cast<std::size_t>(i), sizeof offset);
        const std::uint8_t* p = row + offset;
        __m512i low = _mm512_set1_epi32(kWeightRounding), middle = _mm512_setzero_si512(), high = middle;
        for (int four = 0; four < fours(taps); ++four, p += 12, packed += sizeof(AcrossChunk)) {
            const __m512i bytes =
                _mm512_permutex2var_epi8(_mm512_loadu_si512(p), _mm512_loadu_si512(packed), _mm512_loadu_si512(p + 64));
            low = _mm512_dpbusd_epi32(low, bytes, _mm512_loadu_si512(packed + 64));
            middle = _mm512_dpbusd_epi32(middle, bytes, _mm512_loadu_si512(packed + 128));
            high = _mm512_dpbusd_epi32(high, bytes, _mm512_loadu_si512(packed + 192));
        }
        middle = _mm512_add_epi32(middle, _mm512_maskz_slli_epi32(0xffff, high, 8));
        low = _mm512_add_epi32(low, _mm512_maskz_slli_epi32(0xffff, middle, 8));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kChunkBytes * i),
                         _mm512_maskz_cvtusepi32_epi8(0xffff, _mm512_maskz_srli_epi32(0xffff, low, kWeightBits)));
    }
}
#else
// Offsets of all pixels, then weights, [pair of taps][pixel][two]: two halves of 11 bits, each of them with the first
// tap in its lower 16 bits and the second tap in the higher ones.
struct TapPair {
    std::uint32_t high, low;
};

inline int even(int pixels) { return (pixels + 1) / 2 * 2; }

std::size_t across_bytes(int pixels, int taps) {
    return static_cast<std::size_t>(even(pixels)) *
           (sizeof(std::int32_t) + static_cast<std::size_t>((taps + 1) / 2) * sizeof(TapPair));
}

void pack_across(const std::int32_t* first, const std::int32_t* weight, int taps, int pixels, std::uint8_t* packed) {
    std::memset(packed, 0, across_bytes(pixels, taps));
    auto* offset = reinterpret_cast<std::int32_t*>(packed);
    auto* pairs = reinterpret_cast<TapPair*>(offset + even(pixels));
    for (int x = 0; x < pixels; ++x) {
        offset[x] = 3 * first[x];
        for (int t = 0; t < taps; ++t) {
            const auto w = static_cast<std::uint32_t>(weight[x * taps + t]);
            TapPair& pair = pairs[t / 2 * even(pixels) + x];
            pair.high |= w >> kWeightHalf << 16 * (t % 2);
            pair.low |= w % (1u << kWeightHalf) << 16 * (t % 2);
        }
    }
}

void across(const std::uint8_t* row, const std::uint8_t* packed, int taps, int pixels, std::uint8_t* out) {
    const auto* offset = reinterpret_cast<const std::int32_t*>(packed);
    const auto* pairs = reinterpret_cast<const TapPair*>(offset + even(pixels));
#if BG_VECTOR_BYTES == 32
    // A pixel takes 128 bits: its bytes come to 16-bit pairs of two taps for each channel, which meet the two taps'
    // weights. Of 12 bytes, four taps: the first two, the last two.
    const __m256i pick[] = {
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1)),
        _mm256_broadcastsi128_si256(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1))};
    const __m256i spread_high = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    const __m256i spread_low = _mm256_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3);
    const __m256i rounding = _mm256_set1_epi32(kWeightRounding), close = _mm256_set1_epi32(0x0c080400);
    for (int x = 0; x < pixels; x += 2) {
        __m256i high = _mm256_setzero_si256(), low = rounding, bytes = high;
        for (int pair = 0; pair < (taps + 1) / 2; ++pair) {
            if (pair % 2 == 0) {
                const auto* p = reinterpret_cast<const __m128i*>(row + 6 * pair + offset[x]);
                const auto* q = reinterpret_cast<const __m128i*>(row + 6 * pair + offset[x + 1]);
                bytes = _mm256_inserti128_si256(_mm256_zextsi128_si256(_mm_loadu_si128(p)), _mm_loadu_si128(q), 1);
            }
            const __m256i weights = _mm256_zextsi128_si256(
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs + pair * even(pixels) + x)));
            const __m256i two = _mm256_shuffle_epi8(bytes, pick[pair % 2]);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(two, _mm256_permutevar8x32_epi32(weights, spread_high)));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(two, _mm256_permutevar8x32_epi32(weights, spread_low)));
        }
        const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kWeightHalf), low);
        const __m256i pixel = _mm256_shuffle_epi8(_mm256_srli_epi32(sum, kWeightBits), close);
        const std::int32_t one = _mm256_extract_epi32(pixel, 0), other = _mm256_extract_epi32(pixel, 4);
        std::memcpy(out + 3 * x, &one, sizeof one);
        std::memcpy(out + 3 * x + 3, &other, sizeof other);
    }
#else
    for (int x = 0; x < pixels; ++x) {
        std::uint32_t sum[3] = {kWeightRounding, kWeightRounding, kWeightRounding};
        const std::uint8_t* a = row + offset[x];
        for (int pair = 0; pair < (taps + 1) / 2; ++pair, a += 6) {
            const TapPair w = pairs[pair * even(pixels) + x];
            const std::uint32_t first = ((w.high & 0xffff) << kWeightHalf) + (w.low & 0xffff);
            const std::uint32_t second = (w.high >> 16 << kWeightHalf) + (w.low >> 16);
            for (int c = 0; c < 3; ++c) sum[c] += first * a[c] + second * a[c + 3];
        }
        for (int c = 0; c < 3; ++c) out[3 * x + c] = static_cast<std::uint8_t>(sum[c] >> kWeightBits);
    }
#endif
}
#endif

void down(const std::uint8_t* const* rows, const std::int32_t* weight, int taps, int bytes, std::uint8_t* out) {
    for (int i = 0; i < bytes; i += BG_VECTOR_BYTES) {
        VecI sums[4];
        for (VecI& sum : sums) sum = broadcast(kWeightRounding);
        for (int t = 0; t < taps; ++t) {
            const VecI w = broadcast(weight[t]);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) sums[k] += load_bytes(rows[t] + i + k * kLanes) * w;
        }
        for (VecI& sum : sums) sum = sum >> (kWeightBits - 16);
        store(out + i, pack_high(sums));
    }
}

void look_up(const std::uint8_t* row, const std::int8_t* table, int pixels, std::int8_t* const* planes) {
    int x = 0;
#if BG_VECTOR_BYTES == 64
    // Each channel's bytes of 64 pixels together, then 256 entries: two tables of 128, chosen by the highest bit.
    static constexpr auto kChannel = [] {
        struct {
            std::uint8_t index[3][2][64];
        } all{};
        for (int c = 0; c < 3; ++c) {
            for (int i = 0; i < 64; ++i) {
                const int at = 3 * i + c;  // the first step takes from 0..127, the second what lies in 128..191
                all.index[c][0][i] = static_cast<std::uint8_t>(at < 128 ? at : i);
                all.index[c][1][i] = static_cast<std::uint8_t>(at < 128 ? i : at - 128 + 64);
            }
        }
        return all;
    }();
    for (; x + 64 <= pixels; x += 64) {
        const std::uint8_t* p = row + 3 * x;
        const __m512i first = _mm512_loadu_si512(p), second = _mm512_loadu_si512(p + 64);
        const __m512i third = _mm512_loadu_si512(p + 128);
        for (int c = 0; c < 3; ++c) {
            const std::int8_t* t = table + 256 * c;
            const __m512i near = _mm512_permutex2var_epi8(first, _mm512_loadu_si512(kChannel.index[c][0]), second);
            const __m512i bytes = _mm512_permutex2var_epi8(near, _mm512_loadu_si512(kChannel.index[c][1]), third);
            const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(t), bytes, _mm512_loadu_si512(t + 64));
            const __m512i high =
                _mm512_permutex2var_epi8(_mm512_loadu_si512(t + 128), bytes, _mm512_loadu_si512(t + 192));
            _mm512_storeu_si512(planes[c] + x, _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high));
        }
    }
#endif
    for (; x < pixels; ++x) {
        for (int c = 0; c < 3; ++c) planes[c][x] = table[256 * c + row[3 * x + c]];
    }
}

constexpr float kLargestLogit = 1e30f;

void bound(const float* logits, int count, float* out) {
    const VecF least = broadcast(-kLargestLogit), most = broadcast(kLargestLogit);
    int i = 0;
    // max gives the second one for what is no number.
    for (; i + kLanes <= count; i += kLanes) store(out + i, min(max(load<VecF>(logits + i), least), most));
    VecF v = {};
    for (int k = 0; i + k < count; ++k) v[k] = logits[i + k];
    store(out + i, min(max(v, least), most));
}

// Takes the lanes in which a class has more than all before it.
inline void challenge(VecF v, int class_id, VecF& highest, VecI& index) {
#if BG_VECTOR_BYTES == 64
    const __mmask16 more =
        _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(highest), _CMP_GT_OQ);
    index = reinterpret_cast<VecI>(_mm512_mask_set1_epi32(reinterpret_cast<__m512i>(index), more, class_id));
#else
    const VecI more = v > highest;
    index = (index & ~more) | (broadcast(class_id) & more);
#endif
    highest = max(v, highest);
}

void largest(const float* logits, std::size_t class_stride, int classes, int count, std::uint8_t* best) {
    for (int i = 0; i < count; i += kLanes) {
        VecF highest = load<VecF>(logits + i);
        VecI index = {};
        for (int c = 1; c < classes; ++c)
            challenge(load<VecF>(logits + static_cast<std::size_t>(c) * class_stride + i), c, highest, index);
        store(best + i, narrow(index));
    }
}

#if BG_VECTOR_BYTES >= 32
// Lanes of a vector in another order.
inline VecF permute(VecF v, VecI lanes) {
#if BG_VECTOR_BYTES == 64
    return reinterpret_cast<VecF>(
        _mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(lanes), reinterpret_cast<__m512>(v)));
#else
    return reinterpret_cast<VecF>(
        _mm256_permutevar8x32_ps(reinterpret_cast<__m256>(v), reinterpret_cast<__m256i>(lanes)));
#endif
}

// The ids of pixels that are wanted, of a row that is fine: a vector of pixels lies in cells that are one vector too.
void ids_of_pixels(const MixedRow& row) {
    const VecF down_share = broadcast(row.down_share);
    for (int x = 0; x < row.pixels; x += kLanes) {
        std::uint64_t wanted[kLanes / 8], any = 0;
        std::memcpy(wanted, row.pick + x, sizeof wanted);
        for (const std::uint64_t eight : wanted) any |= eight;
        if (any == 0) continue;
        const int cell = row.first[x];
        const VecI left = load<VecI>(row.first + x) - broadcast(cell);
        const VecI right = min(left + broadcast(1), broadcast(row.cells - 1 - cell));
        const VecF share = load<VecF>(row.share + x);
        VecF highest;
        VecI index = {};
        for (int c = 0; c < row.classes; ++c) {
            const std::size_t at = static_cast<std::size_t>(c) * row.class_stride + static_cast<std::size_t>(cell);
            const VecF upper = load<VecF>(row.upper + at), lower = load<VecF>(row.lower + at);
            const VecF line = upper + (lower - upper) * down_share;
            const VecF from = permute(line, left), value = from + (permute(line, right) - from) * share;
            if (c == 0) {
                highest = value;
            } else {
                challenge(value, c, highest, index);
            }
        }
        store(row.ids + x, narrow(index));
    }
}
#endif

// The ids of pixels that are wanted, cell by cell: first down the columns, then along the row.
void ids_of_cells(const MixedRow& row) {
    // Lines: [class][cell], values, then differences to the next ones.
    const int cells = row.cells, classes = row.classes;
    const std::ptrdiff_t stride = (cells / kLanes + 1) * kLanes, steps = classes * stride;
    const VecF down_share = broadcast(row.down_share);
    for (int c = 0; c < classes; ++c) {
        float* line = row.lines + c * stride;
        const std::size_t at = static_cast<std::size_t>(c) * row.class_stride;
        for (int i = 0; i < cells; i += kLanes) {
            const VecF upper = load<VecF>(row.upper + at + i), lower = load<VecF>(row.lower + at + i);
            store(line + i, upper + (lower - upper) * down_share);
        }
        line[cells] = line[cells - 1];
    }
    for (int c = 0; c < classes; ++c) {
        float* line = row.lines + c * stride;
        for (int i = 0; i < cells; i += kLanes)
            store(line + steps + i, load<VecF>(line + i + 1) - load<VecF>(line + i));
    }
    for (int cell = 0; cell < cells; ++cell) {
        if (row.wanted[cell] == 0) continue;
        for (int x = row.begin[cell]; x < row.begin[cell + 1]; x += kLanes) {
            const VecF share = load<VecF>(row.share + x);
            const float* at = row.lines + cell;
            VecF highest = broadcast(at[0]) + broadcast(at[steps]) * share;
            VecI index = {};
            for (int c = 1; c < classes; ++c) {
                at += stride;
                challenge(broadcast(at[0]) + broadcast(at[steps]) * share, c, highest, index);
            }
            store(row.ids + x, narrow(index));  // what lies beyond the cell is written by the next one, or not picked
        }
    }
}

void mixed(const MixedRow& row, std::uint8_t* out) {
#if BG_VECTOR_BYTES >= 32
    (row.fine ? ids_of_pixels : ids_of_cells)(row);
#else
    ids_of_cells(row);
#endif
    const auto ids = [&](int x) {
        const VecB pick = load<VecB>(row.pick + x);
        return (load<VecB>(row.ids + x) & pick) | (load<VecB>(row.flat + x) & ~pick);
    };
    int x = 0;
    for (; x + BG_VECTOR_BYTES <= row.pixels; x += BG_VECTOR_BYTES) store(out + x, ids(x));
    const VecB rest = ids(x);
    std::memcpy(out + x, &rest, static_cast<std::size_t>(row.pixels - x));
}

#define BG_PIXEL_FUNCTIONS {across_bytes, pack_across, across, down, look_up, bound, largest, mixed}

}  // namespace
}  // namespace BG_NAMESPACE
}  // namespace bitgear
