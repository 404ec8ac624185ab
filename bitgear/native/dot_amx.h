// Multiplication by tiles (AMX): 16 rows of 64 bytes and 64 bytes of 16 columns, 16,384 products an instruction.
// Included by isa_avx512.cpp inside its namespace.
//
// Weights packed in groups are such tiles as they lie. Of rows, tiles have kPlaces windows a step apart, some of which
// may be of pixels that nobody asked for, between the end of a row of the picture and the start of the next. The
// processor multiplies tiles beside its other units: sums become bytes while the next ones are made.
//
// Tiles are multiplied faster than weights come from far away. Those of 4 and of 2 bits can be packed two and four to a
// byte, and are made bytes again right before they are multiplied.
#pragma once

constexpr int kPlaces = 16;      // rows of a tile
constexpr int kTileGroups = 16;  // groups of one
constexpr int kTileBytes = kTileGroups * kBlock * kGroup;
constexpr int kTilesAhead = 32;  // whose weights are on their way, where each is read once

// What every thread must tell its processor first.
struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void enter_tiles() {
    static constexpr TileShapes kShapes;
    asm volatile("ldtilecfg %0" : : "m"(kShapes));
}

void leave_tiles() { asm volatile("tilerelease"); }

// The tiles: sums of stretches and blocks, rows, and weights.
constexpr int kSumsTile = 0, kRowsTile = 4, kWeightsTile = 6;

template <int T>
void zero_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}

template <int T>
void load_tile(const std::uint8_t* first, std::size_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(first), "r"(row_bytes), "i"(T) : "memory");
}

// The same of what is not read again soon.
template <int T>
void stream_tile(const std::uint8_t* first, std::size_t row_bytes) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(first), "r"(row_bytes), "i"(T) : "memory");
}

template <int T>
void store_tile(std::int32_t* first, std::size_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(first), "r"(row_bytes), "i"(T) : "memory");
}

template <int SUMS, int ROWS, int WEIGHTS>
void add_tile_products() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ROWS), "i"(WEIGHTS));
}

// Products of S stretches of rows and B blocks with all that is in a step of groups: sums of stretch s and block b are
// in tile s * B + b. Tiles are loaded first, as many as there are left: where another thread shares the core, loads and
// products hardly overlap, and wait for one another each time they alternate.
template <int S, int B>
__attribute__((always_inline)) inline void add_step(const std::uint8_t* const (&rows)[S], std::ptrdiff_t at,
                                                    std::size_t row_step, const std::uint8_t* w,
                                                    std::size_t block_bytes) {
    if constexpr (S == 4) {
        static_assert(B == 1, "there are eight tiles");
        constexpr int kWeights = 7;
        stream_tile<kWeights>(w, kBlock * kGroup);
        load_tile<4>(rows[0] + at, row_step);
        load_tile<5>(rows[1] + at, row_step);
        load_tile<6>(rows[2] + at, row_step);
        add_tile_products<0, 4, kWeights>();
        load_tile<4>(rows[3] + at, row_step);
        add_tile_products<1, 5, kWeights>();
        add_tile_products<2, 6, kWeights>();
        add_tile_products<3, 4, kWeights>();
    } else if constexpr (B == 4) {
        static_assert(S == 1, "there are eight tiles");
        const auto weights = [&](int b) { return w + static_cast<std::size_t>(b) * block_bytes; };
        load_tile<4>(rows[0] + at, row_step);
        load_tile<5>(weights(0), kBlock * kGroup);
        load_tile<6>(weights(1), kBlock * kGroup);
        load_tile<7>(weights(2), kBlock * kGroup);
        add_tile_products<0, 4, 5>();
        load_tile<5>(weights(3), kBlock * kGroup);
        add_tile_products<1, 4, 6>();
        add_tile_products<2, 4, 7>();
        add_tile_products<3, 4, 5>();
    } else {
        load_tile<kRowsTile>(rows[0] + at, row_step);
        load_tile<kWeightsTile>(w, kBlock * kGroup);
        if constexpr (S == 2) load_tile<kRowsTile + 1>(rows[S - 1] + at, row_step);
        if constexpr (B == 2) load_tile<kWeightsTile + 1>(w + block_bytes, kBlock * kGroup);
        add_tile_products<kSumsTile, kRowsTile, kWeightsTile>();
        if constexpr (S == 2) add_tile_products<kSumsTile + B, kRowsTile + 1, kWeightsTile>();
        if constexpr (B == 2) add_tile_products<kSumsTile + 1, kRowsTile, kWeightsTile + 1>();
        if constexpr (S == 2 && B == 2) add_tile_products<kSumsTile + 3, kRowsTile + 1, kWeightsTile + 1>();
    }
}

// Where sums go: [stretch][place][column].
struct TileSums {
    std::int32_t* first;
    std::size_t stretch_step, place_step;
};

template <int T, int B>
void store_sums(const TileSums& to) {
    store_tile<T>(to.first + T / B * to.stretch_step + T % B * kBlock, to.place_step * sizeof(std::int32_t));
}

// The bytes of a tile of weights of BITS bits.
template <int BITS>
constexpr int kPackedTileBytes = kTileBytes * BITS / 8;

// Packs 16 * kTileGroups weights of so many codes at a time that each byte has one of each: numbers n, n + 64, ...
template <int BITS>
void pack_tiles(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    constexpr int kTogether = 8 / BITS;
    for (int g = 0; g < groups; g += kTogether, packed += 64) {
        alignas(64) std::uint8_t bytes[kTogether][64] = {};
        pack_groups(codes + g * kGroup, row_bytes, std::min(kTogether, groups - g), bytes[0], 64);
        for (int i = 0; i < 64; ++i) {
            int all = 0;
            for (int k = 0; k < kTogether; ++k) all |= (bytes[k][i] & ((1 << BITS) - 1)) << k * BITS;
            packed[i] = static_cast<std::uint8_t>(all);
        }
    }
}

// Bits `shift` to `shift` + BITS - 1 of each byte, with the highest one as the sign: a matrix of bits times each byte.
template <int BITS>
__m512i signed_bits(__m512i x, int shift) {
    const auto bit = [&](int row) { return std::uint64_t{1} << (shift + std::min(row, BITS - 1)); };
    std::uint64_t matrix = 0;  // the first row is its highest byte
    for (int row = 0; row < 8; ++row) matrix |= bit(row) << 8 * (7 - row);
    __m512i y;
    asm("vgf2p8affineqb $0, %2, %1, %0" : "=v"(y) : "v"(x), "v"(_mm512_set1_epi64(static_cast<long long>(matrix))));
    return y;
}

template <int BITS>
void unpack_tile(const std::uint8_t* packed, std::uint8_t* tile) {
    constexpr int kTogether = 8 / BITS;
#pragma GCC unroll 8
    for (int i = 0; i < kPackedTileBytes<BITS>; i += 64) {
        const __m512i all = _mm512_loadu_si512(packed + i);
#pragma GCC unroll 4
        for (int k = 0; k < kTogether; ++k)
            _mm512_store_si512(tile + i * kTogether + k * 64, signed_bits<BITS>(all, k * BITS));
    }
}

// Sums of S stretches, which begin at `first`, and B blocks of weights of BITS bits from `w` on. Each run is a step;
// calls `between` once for each.
template <int S, int B, int BITS, class Between>
__attribute__((always_inline)) inline void multiply_tiles(const DotTile& tile, const std::uint8_t* const* first,
                                                          const std::uint8_t* w, const TileSums& sums,
                                                          Between between) {
    static_assert(BITS == 8 || B == 1, "one tile of weights is unpacked at a time");
    // Written so long before they are loaded that they have arrived in the cache.
    constexpr int kBefore = 2, kUnpacked = BITS == 8 ? 1 : 4;
    alignas(64) std::uint8_t unpacked[kUnpacked][BITS == 8 ? 1 : kTileBytes];
    [[maybe_unused]] int step = 0, next = 0;
    if constexpr (BITS < 8) {
        for (; step < std::min(kBefore, tile.run_count); ++step, w += kPackedTileBytes<BITS>)
            unpack_tile<BITS>(w, unpacked[step]);
    }
    const std::uint8_t* rows[S];
    for (int s = 0; s < S; ++s) rows[s] = first[s];
    zero_tile<0>();
    if constexpr (S * B > 1) zero_tile<1>();
    if constexpr (S * B > 2) zero_tile<2>();
    if constexpr (S * B > 2) zero_tile<3>();
    const std::size_t row_step = tile.row_step, block_bytes = tile.block_bytes;
    for (const Run *run = tile.runs, *const end = run + tile.run_count; run < end; ++run) {
        if constexpr (BITS < 8) {
            if (step < tile.run_count) unpack_tile<BITS>(w, unpacked[step % kUnpacked]);
            add_step<S, B>(rows, run->offset, row_step, unpacked[next++ % kUnpacked], block_bytes);
            ++step;
        } else {
            add_step<S, B>(rows, run->offset, row_step, w, block_bytes);
        }
        w += kPackedTileBytes<BITS>;
        if constexpr (S == 4) {
            for (int i = 0; i < kPackedTileBytes<BITS>; i += 64)
                _mm_prefetch(w + kTilesAhead * kPackedTileBytes<BITS> + i, _MM_HINT_T1);
        }
        between();
    }
    store_sums<0, B>(sums);
    if constexpr (S * B > 1) store_sums<1, B>(sums);
    if constexpr (S * B > 2) store_sums<2, B>(sums);
    if constexpr (S * B > 2) store_sums<3, B>(sums);
}

// In which stretch each row of a tile lies, and where in `together` of them.
struct Stretches {
    int count = 0;
    const std::uint8_t* first[kMaxRows + 3];  // window of each; the last one's again
    std::uint8_t begin[kMaxRows + 4];         // first row of each; the number of rows again
    std::uint8_t place[kMaxRows];             // of each row

    Stretches(const DotTile& tile, int together) {
        const __m128i along = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        int r = 0;
        for (; r < tile.rows; ++count) {
            begin[count] = static_cast<std::uint8_t>(r);
            const std::uint8_t* at = first[count] = tile.a[r];
            const int base = count % together * kPlaces;
            if (r + kPlaces <= tile.rows && tile.a[r + kPlaces - 1] == at + (kPlaces - 1) * tile.row_step) {  // mostly
                _mm_storeu_si128(reinterpret_cast<__m128i*>(place + r),
                                 _mm_add_epi8(along, _mm_set1_epi8(static_cast<char>(base))));
                r += kPlaces;
                continue;
            }
            for (int p = 0; p < kPlaces && r < tile.rows; ++p, at += tile.row_step) {
                if (tile.a[r] == at) place[r++] = static_cast<std::uint8_t>(base + p);
            }
        }
        for (int i = 0; i < 4; ++i) begin[count + i] = static_cast<std::uint8_t>(r);
        for (int i = 0; i < 3; ++i) first[count + i] = first[count - 1];
    }
};

// Room for the sums of four tiles.
struct alignas(64) TileMemory {
    std::int32_t sums[4 * kPlaces * kBlock];

    TileSums of(int blocks) {
        const std::size_t columns = static_cast<std::size_t>(blocks) * kBlock;
        return {sums, kPlaces * columns, columns};
    }
};

// What is done with S stretches and B blocks, or with as many as there are, but for four blocks, which go together:
// calls `multiply` with both numbers, as types.
template <int S, int B, class Multiply>
void multiply_some(int stretches, int blocks, Multiply multiply) {
    using std::integral_constant;
    constexpr integral_constant<int, 1> one;
    constexpr integral_constant<int, 2> two;
    if constexpr (B == 4) {
        multiply(one, integral_constant<int, B>());
    } else if (B == 2 && blocks > 1) {
        stretches > 1 ? multiply(two, integral_constant<int, B>()) : multiply(one, integral_constant<int, B>());
    } else if (S == 4 && stretches > 2) {
        multiply(integral_constant<int, S>(), one);
    } else {
        stretches > 1 ? multiply(two, one) : multiply(one, one);
    }
}

template <int S, int B, int BITS>
void dot_by(const DotTile& tile) {
    const Stretches stretches(tile, S);
    TileMemory memory;
    const int columns = tile.blocks * kBlock;
    for (int b = 0; b < tile.blocks; b += B) {
        const int blocks = std::min(tile.blocks - b, B);
        std::int32_t* const acc = tile.acc + b * kBlock;
        for (int s = 0; s < stretches.count; s += S) {
            const int first = stretches.begin[s], end = stretches.begin[s + S];
            const bool direct = end - first == S * kPlaces;  // no places between them
            const TileSums sums = direct ? TileSums{acc + first * columns, static_cast<std::size_t>(kPlaces * columns),
                                                    static_cast<std::size_t>(columns)}
                                         : memory.of(blocks);
            const std::uint8_t* w = tile.w + static_cast<std::size_t>(b) * tile.block_bytes;
            multiply_some<S, B>(stretches.count - s, blocks, [&](auto rows, auto columns_) {
                multiply_tiles<rows(), columns_(), BITS>(tile, stretches.first + s, w, sums, [] {});
            });
            for (int r = first; r < end && !direct; ++r) {
                for (int c = 0; c < blocks * kBlock; c += kBlock) {
                    const __m512i sum = _mm512_load_si512(memory.sums + stretches.place[r] * blocks * kBlock + c);
                    _mm512_storeu_si512(acc + r * columns + c, sum);
                }
            }
        }
    }
}

// Weights that no other tile reads are read once, by all stretches together, and so are those that must be unpacked.
template <int BITS>
void dot_amx(const DotTile& tile) {
    if constexpr (BITS == 8) {
        // Rows that cross lines of the cache take long to load: once for four blocks.
        const bool crossing = tile.row_step % 64 != 0 && tile.blocks % 4 == 0;
        (tile.alone ? dot_by<4, 1, BITS> : crossing ? dot_by<1, 4, BITS> : dot_by<2, 2, BITS>)(tile);
    } else {
        dot_by<4, 1, BITS>(tile);
    }
}

// y / scale, by the inverse and what that lacks.
__attribute__((always_inline)) inline VecF divide(VecF y, VecF inverse, VecF lack) {
    return multiply_add(y, inverse, y * lack);
}

// Whether that serves for division, of all values whose quotient is at most 32767.
//
// With u = 2^-24, inverse and lack together are 1 / scale but for 2 u^2 of it, and the product of y and the lack, at
// most u y / scale, is rounded by u^2 y / scale. So what is rounded last is y / scale but for terms in u^2, and the
// result is less than 2 u y / scale from it, as the documented quotient is. Both are on the same side of a boundary
// between two codes for all y that are three floats or more away from it: such y / scale are at least 2 u y / scale
// away. The others are tried.
bool divides_by_inverse(const Quantizer& q) {
    if (!(q.scale > 1e-30f && q.scale < 1e30f)) return false;
    const VecF scale = broadcast(q.scale), inverse = broadcast(q.inverse), lack = broadcast(q.inverse_lack);
    VecF boundary;
    for (int i = 0; i < kLanes; ++i) boundary[i] = static_cast<float>(q.low + i) + 0.5f;
    for (std::int32_t code = q.low; code < q.high; code += kLanes, boundary = boundary + broadcast(float{kLanes})) {
        const VecF middle = boundary * scale;
        const auto within = static_cast<__mmask16>((1 << std::min(q.high - code, kLanes)) - 1);
        for (int i = -2; i <= 2; ++i) {
            const VecF y = reinterpret_cast<VecF>(reinterpret_cast<VecI>(middle) + i);
            const __m512i ours = _mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(divide(y, inverse, lack)));
            const __m512i documented = _mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(y / scale));
            if (_mm512_mask_cmpneq_epi32_mask(within, ours, documented) != 0) return false;
        }
    }
    return true;
}

// Sums of some rows and P blocks that have yet to become bytes.
struct PendingSums {
    const std::int32_t* sums;
    const std::uint16_t* place;  // of each row
    int first, rows;             // of the tile
    int column, columns;
    bool shifted;  // by an offset that is not 0
};

// From such sums to the bytes of their readers, by the documented chain of operations; its division goes by
// Quantizer::inverse. Nothing is in doubt, and nothing depends on values: where a processor guessed wrongly what comes
// next, products on their way would be lost. Lives in one function, so that constants stay in registers.
template <int P, bool RESIDUAL, int OUTPUTS>
class BytesOf {
public:
    __attribute__((always_inline)) BytesOf(const PendingSums& pending, const EpilogueTile& to)
        : sums_(pending.sums),
          place_(pending.place),
          residual_(RESIDUAL ? to.residual + pending.first : nullptr),
          out_(to.out + pending.first),
          left_(pending.rows),
          column_(pending.column),
          shifted_(pending.shifted),
          valid_((std::uint64_t{1} << pending.columns) - 1) {
#pragma GCC unroll 2
        for (int b = 0; b < P; ++b) {
            const int channel = column_ + (b * kBlock < pending.columns ? b * kBlock : 0);  // a block that there is
            multiplier_[b] = load<VecF>(to.multiplier + channel);
            bias_[b] = to.bias == nullptr ? VecF{} : load<VecF>(to.bias + channel);
            offset_[b] = _mm512_loadu_si512(to.offset + channel);
        }
        residual_scale_ = broadcast(to.residual_scale);
        residual_zero_ = broadcast(-static_cast<float>(to.residual_zero) * to.residual_scale);
#pragma GCC unroll 3
        for (int o = 0; o < OUTPUTS; ++o) {
            const Quantizer& q = *to.quantizers[o];
            inverse_[o] = broadcast(q.inverse);
            lack_[o] = broadcast(q.inverse_lack);
            zero_[o] = _mm512_set1_epi16(static_cast<short>(q.zero));
            low_[o] = VecB{} + static_cast<std::uint8_t>(q.low + q.zero);
            high_[o] = VecB{} + static_cast<std::uint8_t>(q.high + q.zero);
        }
    }

    // Of some more rows, `count` times four vectors.
    __attribute__((always_inline)) void advance(int count) {
        for (; count > 0 && left_ >= kDown; --count) write<kDown>();
    }

    // Of all that are left.
    __attribute__((always_inline)) void finish() {
        while (left_ >= kDown) write<kDown>();
        if (kDown > 2 && left_ > 1) write<kDown / 2>();
        if (left_ > 0) write<1>();
    }

private:
    static constexpr int kDown = 4 / P;

    // Of ROWS rows. Where those are fewer than four vectors, the last one is gone through again.
    template <int ROWS>
    __attribute__((always_inline)) void write() {
        VecF value[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            constexpr int kLast = ROWS - 1;
            const int r = std::min(k / P, kLast), column = k % P * kBlock;
            __m512i sum = _mm512_load_si512(sums_ + place_[r] + column);
            if (shifted_) sum = _mm512_add_epi32(sum, offset_[k % P]);  // of no block: whatever it is
            value[k] = to_float(reinterpret_cast<VecI>(sum)) * multiplier_[k % P] + bias_[k % P];
            if constexpr (RESIDUAL) {
                // The zero is a power of two, or 0: its product is exact, and the sum is rounded as the difference's
                // product.
                const VecF other = to_float(load_bytes(residual_[r] + column_ + column));
                value[k] = value[k] + multiply_add(other, residual_scale_, residual_zero_);
            }
        }
#pragma GCC unroll 3
        for (int o = 0; o < OUTPUTS; ++o) {
            __m512i code[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                const VecF quotient = divide(value[k], inverse_[o], lack_[o]);
                code[k] = _mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(quotient));
            }
            const __m512i low_half =
                _mm512_maskz_adds_epi16(0xffffffff, _mm512_maskz_packs_epi32(0xffffffff, code[0], code[1]), zero_[o]);
            const __m512i high_half =
                _mm512_maskz_adds_epi16(0xffffffff, _mm512_maskz_packs_epi32(0xffffffff, code[2], code[3]), zero_[o]);
            const __m512i in_order = _mm512_maskz_permutexvar_epi32(
                0xffff, _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                _mm512_maskz_packus_epi16(~0ull, low_half, high_half));
            const auto bytes = reinterpret_cast<__m512i>(min(max(reinterpret_cast<VecB>(in_order), low_[o]), high_[o]));
#pragma GCC unroll 4
            for (int i = 0; i < ROWS; ++i) {
                std::uint8_t* const at = out_[o * kMaxRows + i] + column_;
                if constexpr (P == 2) {
                    const __m256i part =
                        i == 0 ? load<__m256i>(&bytes) : _mm512_maskz_extracti64x4_epi64(0xff, bytes, 1);
                    _mm256_mask_storeu_epi8(at, static_cast<__mmask32>(valid_), part);
                } else {
                    _mm512_mask_storeu_epi8(at - i * kBlock, valid_ << i * kBlock, bytes);
                }
            }
        }
        place_ += ROWS;
        out_ += ROWS;
        if constexpr (RESIDUAL) residual_ += ROWS;
        left_ -= ROWS;
    }

    const std::int32_t* sums_;
    const std::uint16_t* place_;
    const std::uint8_t* const* residual_;
    std::uint8_t* const* out_;
    int left_, column_;
    bool shifted_;
    __m512i offset_[P];
    std::uint64_t valid_;
    VecF multiplier_[P], bias_[P], residual_scale_, residual_zero_, inverse_[OUTPUTS], lack_[OUTPUTS];
    __m512i zero_[OUTPUTS];
    VecB low_[OUTPUTS], high_[OUTPUTS];
};

template <int P, bool RESIDUAL, int OUTPUTS>
__attribute__((noinline)) void write_bytes(const PendingSums& pending, const EpilogueTile& to) {
    BytesOf<P, RESIDUAL, OUTPUTS>(pending, to).finish();
}

// Products of S stretches and B blocks of weights of BITS bits, and meanwhile the bytes of what is pending.
template <int S, int B, int BITS, int P, bool RESIDUAL, int OUTPUTS>
__attribute__((noinline)) void multiply_and_write(const DotTile& tile, const std::uint8_t* const* first,
                                                  const std::uint8_t* w, const TileSums& sums,
                                                  const PendingSums& pending, const EpilogueTile& to) {
    BytesOf<P, RESIDUAL, OUTPUTS> bytes(pending, to);
    const int each = (kPlaces + tile.run_count - 1) / tile.run_count;  // times four vectors, for a step
    multiply_tiles<S, B, BITS>(tile, first, w, sums, [&]() __attribute__((always_inline)) { bytes.advance(each); });
    bytes.finish();
}

// Goes through a tile by S stretches and B blocks.
template <int S, int B, int BITS, bool RESIDUAL, int OUTPUTS>
void quick_by(const DotTile& tile, const EpilogueTile& to) {
    const Stretches stretches(tile, S);
    TileMemory memory[2];
    std::uint16_t place[kMaxRows];
    for (int r = 0; r < tile.rows; ++r) place[r] = static_cast<std::uint16_t>(stretches.place[r] * B * kBlock);
    const std::int32_t* const offset = to.offset + to.column;
    const bool shifted = std::any_of(offset, offset + tile.blocks * kBlock, [](std::int32_t x) { return x != 0; });
    PendingSums pending{memory[0].sums, place, 0, 0, to.column, 0, shifted};
    int turn = 0;
    for (int b = 0; b < tile.blocks; b += B) {
        const std::uint8_t* w = tile.w + static_cast<std::size_t>(b) * tile.block_bytes;
        for (int s = 0; s < stretches.count; s += S) {
            turn ^= 1;
            multiply_some<S, B>(stretches.count - s, tile.blocks - b, [&](auto rows, auto blocks) {
                multiply_and_write<rows(), blocks(), BITS, B, RESIDUAL, OUTPUTS>(tile, stretches.first + s, w,
                                                                                 memory[turn].of(B), pending, to);
            });
            const int at = stretches.begin[s];
            pending = {memory[turn].sums,
                       place + at,
                       at,
                       stretches.begin[s + S] - at,
                       to.column + b * kBlock,
                       std::min(to.columns - b * kBlock, B * kBlock),
                       shifted};
        }
    }
    write_bytes<B, RESIDUAL, OUTPUTS>(pending, to);
}

template <int BITS, bool RESIDUAL, int OUTPUTS>
void quick_amx(const DotTile& tile, const EpilogueTile& to) {
    if constexpr (BITS == 8) {
        (tile.alone ? quick_by<4, 1, BITS, RESIDUAL, OUTPUTS> : quick_by<2, 2, BITS, RESIDUAL, OUTPUTS>)(tile, to);
    } else {
        quick_by<4, 1, BITS, RESIDUAL, OUTPUTS>(tile, to);
    }
}

constexpr int kTileOutputs = 3;

template <int BITS>
void dot_amx_quick(const DotTile& tile, const EpilogueTile& to) {
    using Function = void (*)(const DotTile&, const EpilogueTile&);
    static constexpr Function kPlain[] = {quick_amx<BITS, false, 1>, quick_amx<BITS, false, 2>,
                                          quick_amx<BITS, false, 3>};
    static constexpr Function kWithResidual[] = {quick_amx<BITS, true, 1>, quick_amx<BITS, true, 2>,
                                                 quick_amx<BITS, true, 3>};
    (to.residual == nullptr ? kPlain : kWithResidual)[to.outputs - 1](tile, to);
}

template <int BITS>
bool fits_bits(int, int weight_max) {
    return weight_max <= 1 << (BITS - 1);
}

template <int BITS>
constexpr DotPath amx_path(const char* name) {
    return {name,
            kMaxRows,
            8,
            kPackedTileBytes<BITS> / kTileGroups,
            fits_bits<BITS>,
            nullptr,
            BITS == 8 ? pack_bytes : pack_tiles<BITS>,
            dot_amx<BITS>,
            dot_amx_quick<BITS>,
            kPlaces,
            kTileGroups,
            kTileOutputs,
            true};
}
