// Look-up multiplication for AVX-512 VBMI: one vpermb finds the sums of six activations for 64 output columns.
// Included by isa_avx512.cpp inside its namespace.
//
// A table has 64 bytes: entry e is the sum of those of six activations whose bit is set in e. The bit plane p of six
// weights of one column, its index, is a byte. Planes count 1, 2, .. and the highest one minus: w = -2^(P-1) * top +
// ... + plane 0. Sums stay bytes for kLutSteps look-ups, then the planes are combined in 16 bits, and those at last
// in 32.
#pragma once

constexpr int kLutInputs = 6, kLutColumns = 64;

// Sums of three activations 0..3 fit a table of 8 entries; entry e of the table for index i of three 2-bit codes is
// repeated over the 64 entries for the low and the high three bits of e.
struct SubsetSums {
    alignas(64) std::uint8_t low[64][64];   // [three codes][entry]: sum over the entry's bits 0..2
    alignas(64) std::uint8_t high[64][64];  // bits 3..5
    constexpr SubsetSums() : low{}, high{} {
        for (int codes = 0; codes < 64; ++codes) {
            for (int entry = 0; entry < 64; ++entry) {
                int a = 0, b = 0;
                for (int i = 0; i < 3; ++i) {
                    const int code = codes >> (2 * i) & 3;
                    if (entry >> i & 1) a += code;
                    if (entry >> (3 + i) & 1) b += code;
                }
                low[codes][entry] = static_cast<std::uint8_t>(a);
                high[codes][entry] = static_cast<std::uint8_t>(b);
            }
        }
    }
};

// Known to the compiler: nothing of this file may run before the processor has been asked.
constexpr SubsetSums kSubsetSums;

void lut_tables(const std::uint8_t* codes, int pixels, std::size_t pixel_bytes, int groups, std::uint8_t* tables) {
    for (int p = 0; p < pixels; ++p, codes += pixel_bytes) {
        for (int g = 0; g < groups; ++g, tables += 64) {
            std::uint64_t six;
            std::memcpy(&six, codes + g * kLutInputs, sizeof six);
            const std::uint64_t packed = _pext_u64(six, 0x0000030303030303ull);
            const __m512i sums = _mm512_add_epi8(_mm512_load_si512(kSubsetSums.low[packed & 63]),
                                                 _mm512_load_si512(kSubsetSums.high[packed >> 6]));
            _mm512_storeu_si512(tables, sums);
        }
    }
}

// Index bytes of one group: [plane][column].
void lut_pack(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    constexpr int kChunk = 32;  // groups at a time: rows lie far apart, and in few sets of the cache
    std::uint8_t index[2][kLutColumns][kChunk];
    for (int first = 0; first < groups; first += kChunk) {
        const int n = groups - first < kChunk ? groups - first : kChunk;
        for (int c = 0; c < kLutColumns; ++c) {
            const std::int8_t* code = codes + static_cast<std::size_t>(c) * row_bytes + first * kLutInputs;
            for (int g = 0; g < n; ++g, code += kLutInputs) {
                const auto six = load<std::uint64_t>(code);  // and two more, which the masks leave out
                index[0][c][g] = static_cast<std::uint8_t>(_pext_u64(six, 0x0000010101010101ull));
                index[1][c][g] = static_cast<std::uint8_t>(_pext_u64(six, 0x0000020202020202ull));
            }
        }
        for (int g = 0; g < n; ++g) {
            for (int p = 0; p < 2; ++p) {
                for (int c = 0; c < kLutColumns; ++c) *packed++ = index[p][c][g];
            }
        }
    }
}

// Adds the bytes of two planes, low - 2 * high, to 16-bit sums of 64 columns: even 16-byte lanes' halves interleaved.
inline void combine(__m512i low, __m512i high, __m512i* sums) {
    const __m512i weights = _mm512_set1_epi16(static_cast<short>(0xfe01));  // (1, -2) as signed bytes
    sums[0] = _mm512_add_epi16(sums[0], _mm512_maddubs_epi16(_mm512_unpacklo_epi8(low, high), weights));
    sums[1] = _mm512_add_epi16(sums[1], _mm512_maddubs_epi16(_mm512_unpackhi_epi8(low, high), weights));
}

// Vector `k` of 16 columns of 16-bit sums, as 32-bit ones.
inline __m512i widened(const __m512i* sums, int k) {
    // 16-byte lanes 2 v and 2 v + 1 of both.
    const __m512i order = _mm512_add_epi64(_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_set1_epi64(4 * (k / 2)));
    const __m512i columns = _mm512_permutex2var_epi64(sums[0], order, sums[1]);
    return _mm512_maskz_cvtepi16_epi32(0xffff, k % 2 == 0 ? _mm512_maskz_extracti64x4_epi64(0xff, columns, 0)
                                                          : _mm512_maskz_extracti64x4_epi64(0xff, columns, 1));
}

// 16-bit sums to 32-bit ones in the order of columns, or added to those.
inline void flush(const __m512i* sums, std::int32_t* acc, bool add) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
        std::int32_t* out = acc + kBlock * k;
        __m512i sum = widened(sums, k);
        if (add) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(out));
        _mm512_storeu_si512(out, sum);
    }
}

constexpr int kLutSteps = 255 / (kLutInputs * 3);        // look-ups that a byte can sum: activations 0..3
constexpr int kLutFlush = 32767 / (kLutInputs * 3 * 2);  // groups that 16 bits can sum: low - 2 * high

// Walks the groups of all runs in chunks that bytes can sum.
class Chunks {
public:
    explicit Chunks(const LutTile& tile) : tile_(tile), left_(tile.runs[0].groups), offset_(tile.runs[0].offset) {}
    bool done() const { return run_ == tile_.run_count; }
    // The next stretch of at most `most` groups: its offset in table bytes and its length.
    int next(int most, std::ptrdiff_t* offset) {
        const int n = left_ < most ? left_ : most;
        *offset = offset_;
        left_ -= n;
        offset_ += static_cast<std::ptrdiff_t>(n) * 64;
        if (left_ == 0 && ++run_ < tile_.run_count) {
            left_ = tile_.runs[run_].groups;
            offset_ = tile_.runs[run_].offset;
        }
        return n;
    }

private:
    const LutTile& tile_;
    int run_ = 0;
    int left_;
    std::ptrdiff_t offset_;
};

// What remains to be looked up of a tile.
struct LutRest {
    explicit LutRest(const LutTile& tile) : chunks(tile), w(tile.w) {}
    Chunks chunks;
    const std::uint8_t* w;
};

// Adds to 16-bit sums of R pixels until these are full or nothing is left.
template <int R>
__attribute__((always_inline)) inline void look_up(const LutTile& tile, LutRest& rest, __m512i (&sums)[R][2]) {
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
    Chunks& chunks = rest.chunks;
    const std::uint8_t* w = rest.w;
    const std::uint8_t* tables[R];
    for (int r = 0; r < R; ++r) tables[r] = tile.tables[r];
    for (int summed = 0; summed <= kLutFlush - kLutSteps && !chunks.done(); summed += kLutSteps) {
        __m512i bytes[R][2];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v) bytes[r][v] = _mm512_setzero_si512();
        }
        int room = kLutSteps;
        while (room > 0 && !chunks.done()) {
            std::ptrdiff_t k = 0;
            const int n = chunks.next(room, &k);
            room -= n;
            for (int i = 0; i < n; ++i, k += 64, w += 2 * kLutColumns) {
                const __m512i index0 = _mm512_loadu_si512(w);
                _mm_prefetch(w + kAhead, _MM_HINT_T0);
                const __m512i index1 = _mm512_loadu_si512(w + 64);
                _mm_prefetch(w + 64 + kAhead, _MM_HINT_T0);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    __m512i t0, t1;
                    asm("vmovdqu64 %[table], %[t0]\n\t"
                        "vpermb %[t0], %[i0], %[t1]\n\t"
                        "vpermb %[t0], %[i1], %[t0]\n\t"
                        "vpaddb %[t1], %[low], %[low]\n\t"
                        "vpaddb %[t0], %[high], %[high]"
                        : [low] "+v"(bytes[r][0]), [high] "+v"(bytes[r][1]), [t0] "=&v"(t0), [t1] "=&v"(t1)
                        : [table] "m"(*reinterpret_cast<const std::uint8_t (*)[64]>(tables[r] + k)), [i0] "v"(index0),
                          [i1] "v"(index1));
                }
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) combine(bytes[r][0], bytes[r][1], sums[r]);
    }
    rest.w = w;
}

template <int R>
void lut_tile(const LutTile& tile) {
    alignas(64) __m512i sums[R][2];
    LutRest rest(tile);
    for (bool flushed = false; !rest.chunks.done(); flushed = true) {
        look_up<R>(tile, rest, sums);
        for (int r = 0; r < R; ++r) flush(sums[r], tile.acc + r * kLutColumns, flushed);
    }
}

// The same of 64 columns and at most kLutFlush - kLutSteps groups, and bytes straight from the sums.
template <int R>
void lut_quick_tile(const LutTile& tile, const EpilogueTile& to) {
    alignas(64) __m512i sums[R][2];
    LutRest rest(tile);
    look_up<R>(tile, rest, sums);
    Doubts doubts;
    const int channel = to.column;
    const __mmask64 valid = ~0ull >> (64 - to.columns);
    for (int o = 0; o < to.outputs; ++o) {
        const Quantizer& q = *to.quantizers[o];
        VecF multiplier[4], bias[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            multiplier[k] = load<VecF>(q.multiplier + channel + k * kBlock);
            bias[k] = load<VecF>(q.bias + channel + k * kBlock);
        }
        const VecI window = broadcast(q.window);
        const VecB low = VecB{} + static_cast<std::uint8_t>(q.low + q.zero);
        const VecB high = VecB{} + static_cast<std::uint8_t>(q.high + q.zero);
        for (int r = 0; r < R; ++r) {
            VecI sum[4], fixed[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                sum[k] = reinterpret_cast<VecI>(widened(sums[r], k)) + load<VecI>(to.offset + channel + k * kBlock);
                VecF t = multiply_add(to_float(sum[k]), multiplier[k], bias[k]);
                if (to.residual != nullptr) {
                    const VecI other = load_bytes(to.residual[r] + channel + k * kBlock);
                    t = multiply_add(to_float(other), broadcast(q.residual_scale), t);
                }
                fixed[k] = reinterpret_cast<VecI>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(t)));
            }
            const VecI least = min_words(min_words(fixed[0], fixed[1]), min_words(fixed[2], fixed[3]));
            if (__builtin_expect(any_low_word(least, window), 0)) {
                __m512i* kept = doubts.add(o, r);
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) kept[k] = reinterpret_cast<__m512i>(sum[k]);
            }
            const auto bytes = reinterpret_cast<__m512i>(min(max(pack_high(fixed), low), high));
            _mm512_mask_storeu_epi8(to.out[o * kMaxRows + r] + channel, valid, bytes);
        }
    }
    if (__builtin_expect(doubts.count > 0, 0))
        settle(doubts, to, [&](int first, int k) { return Place{first, channel + k * kBlock}; });
}

constexpr int kLutRows = 12;

void lut(const LutTile& tile) {
    using Fn = void (*)(const LutTile&);
    static const Fn table[] = {lut_tile<1>, lut_tile<2>, lut_tile<3>, lut_tile<4>,  lut_tile<5>,  lut_tile<6>,
                               lut_tile<7>, lut_tile<8>, lut_tile<9>, lut_tile<10>, lut_tile<11>, lut_tile<12>};
    table[tile.rows - 1](tile);
}

void lut_quick(const LutTile& tile, const EpilogueTile& to) {
    using Fn = void (*)(const LutTile&, const EpilogueTile&);
    static const Fn table[] = {lut_quick_tile<1>, lut_quick_tile<2>,  lut_quick_tile<3>,  lut_quick_tile<4>,
                               lut_quick_tile<5>, lut_quick_tile<6>,  lut_quick_tile<7>,  lut_quick_tile<8>,
                               lut_quick_tile<9>, lut_quick_tile<10>, lut_quick_tile<11>, lut_quick_tile<12>};
    table[tile.rows - 1](tile, to);
}

constexpr int kLutQuickGroups = kLutFlush - kLutSteps;

const LutPath kLuts[] = {
    {"vpermb-64", 2, kLutColumns, kLutInputs, 64, 2 * kLutColumns, kLutRows, 3, lut_tables, lut_pack, lut,
     kLutQuickGroups, lut_quick},
};
constexpr int kLutCount = 1;
