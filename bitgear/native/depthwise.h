// Depthwise convolution for AVX2 and AVX-512 VNNI: taps side by side, so that one instruction multiplies two or four of
// them. Included by isa_avx2.cpp and isa_avx512.cpp inside their namespaces, after generic.h. Exact for any bytes and
// weights.
#pragma once

#if BG_VECTOR_BYTES == 64

constexpr int kTapGroup = 4;  // taps that vpdpbusd sums

// Blocks of 16 channels that go together, of so many left.
inline int depthwise_blocks(int channels) { return channels >= 4 * kBlock ? 4 : channels >= 2 * kBlock ? 2 : 1; }

// Tap k of a group. Of 3 x 3 taps a column is a group, so that neighbouring pixels share what is unpacked. Less than 0:
// there is none.
inline int grouped_tap(int taps, int group, int k) {
    if (taps == 9) return k < 3 ? 3 * k + group : -1;
    const int tap = group * kTapGroup + k;
    return tap < taps ? tap : -1;
}

// Packed: for every 64 channels, and for 32 and 16 of the rest, [group of taps][vector][channel][4 taps]. Unpacking
// leaves in 16-byte lane l of vector i the channels 16 l + 4 i to 16 l + 4 i + 3.
void depthwise_pack(const std::int8_t* w, int taps, int padded, std::uint8_t* packed) {
    for (int c = 0; c < padded;) {
        const int blocks = depthwise_blocks(padded - c);
        for (int t = 0; t < taps; t += kTapGroup) {
            for (int i = 0; i < blocks * kBlock; ++i) {
                const int lane = i / 4 % blocks, vector = i / (4 * blocks);
                const int channel = c + lane * 16 + vector * 4 + i % 4;
                for (int k = 0; k < kTapGroup; ++k) {
                    const int tap = grouped_tap(taps, t / kTapGroup, k);
                    *packed++ = tap >= 0 ? static_cast<std::uint8_t>(w[tap * padded + channel]) : 0;
                }
            }
        }
        c += blocks * kBlock;
    }
}

std::size_t depthwise_bytes(int taps, int padded) {
    return static_cast<std::size_t>((taps + kTapGroup - 1) / kTapGroup) * kTapGroup * static_cast<std::size_t>(padded);
}

// 32 channels: as 64 below, with vectors half as long.
template <int T>
inline void depthwise_half(const DepthwiseTile& tile, int c, int padded, const std::uint8_t* w) {
    const int taps = T > 0 ? T : tile.taps;
    for (int p = 0; p < tile.pixels; ++p) {
        const std::uint8_t* a = tile.a[p] + c;
        __m256i sum[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sum[i] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int t = 0; t < taps; t += kTapGroup) {
            __m256i x[kTapGroup];
            for (int k = 0; k < kTapGroup; ++k) {
                const std::uint8_t* source = a + tile.tap_offsets[std::max(grouped_tap(taps, t / kTapGroup, k), 0)];
                x[k] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
            }
            const __m256i lo01 = _mm256_unpacklo_epi8(x[0], x[1]), hi01 = _mm256_unpackhi_epi8(x[0], x[1]);
            const __m256i lo23 = _mm256_unpacklo_epi8(x[2], x[3]), hi23 = _mm256_unpackhi_epi8(x[2], x[3]);
            const __m256i y[] = {_mm256_unpacklo_epi16(lo01, lo23), _mm256_unpackhi_epi16(lo01, lo23),
                                 _mm256_unpacklo_epi16(hi01, hi23), _mm256_unpackhi_epi16(hi01, hi23)};
            const auto* weights = reinterpret_cast<const __m256i*>(w + t * 2 * kBlock);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) sum[i] = _mm256_dpbusd_epi32(sum[i], y[i], _mm256_loadu_si256(weights + i));
        }
        auto* out = reinterpret_cast<__m256i*>(tile.acc + static_cast<std::ptrdiff_t>(p) * padded + c);
        _mm256_storeu_si256(out, _mm256_permute2x128_si256(sum[0], sum[1], 0x20));
        _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(sum[2], sum[3], 0x20));
        _mm256_storeu_si256(out + 2, _mm256_permute2x128_si256(sum[0], sum[1], 0x31));
        _mm256_storeu_si256(out + 3, _mm256_permute2x128_si256(sum[2], sum[3], 0x31));
    }
}

// B: blocks of 16 channels that go together, 1, 2 or 4. T: taps, 0 for any number.
template <int B, int T>
inline void depthwise_channels(const DepthwiseTile& tile, int c, int padded, const std::uint8_t* w) {
    if constexpr (B == 2) return depthwise_half<T>(tile, c, padded, w);
    const int taps = T > 0 ? T : tile.taps;
    for (int p = 0; p < tile.pixels; ++p) {
        const std::uint8_t* a = tile.a[p] + c;
        __m512i sum[B];
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) sum[b] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int t = 0; t < taps; t += kTapGroup) {
            const std::uint8_t* source[kTapGroup];
            // Weights of no tap are zero: any bytes will do.
            for (int k = 0; k < kTapGroup; ++k)
                source[k] = a + tile.tap_offsets[std::max(grouped_tap(taps, t / kTapGroup, k), 0)];
            const std::uint8_t* weights = w + t * kBlock * B;
            if constexpr (B == 4) {
                const __m512i x0 = _mm512_loadu_si512(source[0]), x1 = _mm512_loadu_si512(source[1]);
                const __m512i x2 = _mm512_loadu_si512(source[2]), x3 = _mm512_loadu_si512(source[3]);
                const __m512i lo01 = _mm512_maskz_unpacklo_epi8(~0ull, x0, x1),
                              hi01 = _mm512_maskz_unpackhi_epi8(~0ull, x0, x1);
                const __m512i lo23 = _mm512_maskz_unpacklo_epi8(~0ull, x2, x3),
                              hi23 = _mm512_maskz_unpackhi_epi8(~0ull, x2, x3);
                const __m512i y0 = _mm512_maskz_unpacklo_epi16(~0u, lo01, lo23),
                              y1 = _mm512_maskz_unpackhi_epi16(~0u, lo01, lo23);
                const __m512i y2 = _mm512_maskz_unpacklo_epi16(~0u, hi01, hi23),
                              y3 = _mm512_maskz_unpackhi_epi16(~0u, hi01, hi23);
                sum[0] = _mm512_dpbusd_epi32(sum[0], y0, _mm512_loadu_si512(weights));
                sum[1] = _mm512_dpbusd_epi32(sum[1], y1, _mm512_loadu_si512(weights + 64));
                sum[2] = _mm512_dpbusd_epi32(sum[2], y2, _mm512_loadu_si512(weights + 128));
                sum[3] = _mm512_dpbusd_epi32(sum[3], y3, _mm512_loadu_si512(weights + 192));
            } else {
                const __m128i x0 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source[0]));
                const __m128i x1 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source[1]));
                const __m128i x2 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source[2]));
                const __m128i x3 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source[3]));
                const __m128i lo01 = _mm_unpacklo_epi8(x0, x1), hi01 = _mm_unpackhi_epi8(x0, x1);
                const __m128i lo23 = _mm_unpacklo_epi8(x2, x3), hi23 = _mm_unpackhi_epi8(x2, x3);
                const __m256i y01 = _mm256_setr_m128i(_mm_unpacklo_epi16(lo01, lo23), _mm_unpackhi_epi16(lo01, lo23));
                const __m256i y23 = _mm256_setr_m128i(_mm_unpacklo_epi16(hi01, hi23), _mm_unpackhi_epi16(hi01, hi23));
                const __m512i lower = _mm512_maskz_inserti64x4(0xff, _mm512_setzero_si512(), y01, 0);
                sum[0] = _mm512_dpbusd_epi32(sum[0], _mm512_maskz_inserti64x4(0xff, lower, y23, 1),
                                             _mm512_loadu_si512(weights));
            }
        }
        std::int32_t* out = tile.acc + static_cast<std::ptrdiff_t>(p) * padded + c;
        if constexpr (B == 4) {
            // Transpose the 128-bit lanes.
            const __m512i a01 = _mm512_maskz_shuffle_i64x2(0xff, sum[0], sum[1], 0x44),
                          b01 = _mm512_maskz_shuffle_i64x2(0xff, sum[0], sum[1], 0xee);
            const __m512i a23 = _mm512_maskz_shuffle_i64x2(0xff, sum[2], sum[3], 0x44),
                          b23 = _mm512_maskz_shuffle_i64x2(0xff, sum[2], sum[3], 0xee);
            _mm512_storeu_si512(out, _mm512_maskz_shuffle_i64x2(0xff, a01, a23, 0x88));
            _mm512_storeu_si512(out + 16, _mm512_maskz_shuffle_i64x2(0xff, a01, a23, 0xdd));
            _mm512_storeu_si512(out + 32, _mm512_maskz_shuffle_i64x2(0xff, b01, b23, 0x88));
            _mm512_storeu_si512(out + 48, _mm512_maskz_shuffle_i64x2(0xff, b01, b23, 0xdd));
        } else {
            _mm512_storeu_si512(out, sum[0]);
        }
    }
}

constexpr int kDepthwiseBlocks = 4;

#else

constexpr int kTapGroup = 2;  // taps that vpmaddwd sums

// Packed: for every 16 channels [pair of taps][channel][2 taps of 16 bits], channels in the order
// 0..3, 8..11, 4..7, 12..15.
void depthwise_pack(const std::int8_t* w, int taps, int padded, std::uint8_t* packed) {
    for (int c = 0; c < padded; c += kBlock) {
        for (int t = 0; t < taps; t += kTapGroup) {
            for (int i = 0; i < kBlock; ++i) {
                const int channel = c + i % 4 + i / 4 % 2 * 8 + i / 8 * 4;
                for (int k = 0; k < kTapGroup; ++k, packed += 2) {
                    const std::int16_t x = t + k < taps ? w[(t + k) * padded + channel] : 0;
                    std::memcpy(packed, &x, sizeof x);
                }
            }
        }
    }
}

std::size_t depthwise_bytes(int taps, int padded) {
    return static_cast<std::size_t>((taps + kTapGroup - 1) / kTapGroup) * kTapGroup * 2 *
           static_cast<std::size_t>(padded);
}

// B: always 1 block of 16 channels. T: taps, 0 for any number.
template <int B, int T>
inline void depthwise_channels(const DepthwiseTile& tile, int c, int padded, const std::uint8_t* w) {
    static_assert(B == 1, "one block at a time");
    const int taps = T > 0 ? T : tile.taps;
    for (int p = 0; p < tile.pixels; ++p) {
        const std::uint8_t* a = tile.a[p] + c;
        __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 8
        for (int t = 0; t < taps; t += kTapGroup) {
            // The weight beyond the last tap is zero: any bytes will do.
            const std::uint8_t* first = a + tile.tap_offsets[t];
            const std::uint8_t* second = a + tile.tap_offsets[t + 1 < taps ? t + 1 : t];
            const __m256i x0 = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first)));
            const __m256i x1 = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(second)));
            const auto* weights = reinterpret_cast<const __m256i*>(w + t * kBlock * 2);
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(x0, x1), _mm256_loadu_si256(weights)));
            high = _mm256_add_epi32(high,
                                    _mm256_madd_epi16(_mm256_unpackhi_epi16(x0, x1), _mm256_loadu_si256(weights + 1)));
        }
        auto* out = reinterpret_cast<__m256i*>(tile.acc + static_cast<std::ptrdiff_t>(p) * padded + c);
        _mm256_storeu_si256(out, _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(low, high, 0x31));
    }
}

constexpr int kDepthwiseBlocks = 1;

#endif

template <int T>
void depthwise_taps(const DepthwiseTile& tile) {
    const int padded = (tile.channels + kBlock - 1) / kBlock * kBlock;
    const std::size_t block_bytes = depthwise_bytes(tile.taps, kBlock);
    const std::uint8_t* w = tile.w;
    int c = 0;
    if constexpr (kDepthwiseBlocks > 1) {
        for (; c + kDepthwiseBlocks * kBlock <= padded;
             c += kDepthwiseBlocks * kBlock, w += kDepthwiseBlocks * block_bytes) {
            depthwise_channels<kDepthwiseBlocks, T>(tile, c, padded, w);
        }
    }
    if constexpr (kDepthwiseBlocks > 2) {
        if (c + 2 * kBlock <= padded) {
            depthwise_channels<2, T>(tile, c, padded, w);
            c += 2 * kBlock;
            w += 2 * block_bytes;
        }
    }
    for (; c < padded; c += kBlock, w += block_bytes) depthwise_channels<1, T>(tile, c, padded, w);
}

// `tile.w` as depthwise_pack made it.
void depthwise(const DepthwiseTile& tile) { tile.taps == 9 ? depthwise_taps<9>(tile) : depthwise_taps<0>(tile); }
