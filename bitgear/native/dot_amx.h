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
// in tile s * B + b. All tiles are loaded first: where another thread shares the core, loads and products hardly
// overlap, and wait for one another each time they alternate.
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

// Sums of S stretches, which begin at `first`, and B blocks of weights of BITS bits from `w` on, all of them in `steps`
// steps. Calls `between` once for each step.
template <int S, int B, int BITS, class Between>
void multiply_tiles(const DotTile& tile, const std::uint8_t* const* first, const std::uint8_t* w, int steps,
                    const TileSums& sums, Between between) {
    static_assert(BITS == 8 || B == 1, "one tile of weights is unpacked at a time");
    // Written so long before they are loaded that they have arrived in the cache.
    constexpr int kBefore = 2, kUnpacked = BITS == 8 ? 1 : 4;
    alignas(64) std::uint8_t unpacked[kUnpacked][BITS == 8 ? 1 : kTileBytes];
    [[maybe_unused]] int step = 0, next = 0;
    if constexpr (BITS < 8) {
        for (; step < std::min(kBefore, steps); ++step, w += kPackedTileBytes<BITS>)
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
        for (std::ptrdiff_t at = run->offset, stop = at + run->groups * kGroup; at < stop; at += kTileGroups * kGroup) {
            if constexpr (BITS < 8) {
                if (step < steps) unpack_tile<BITS>(w, unpacked[step % kUnpacked]);
                add_step<S, B>(rows, at, row_step, unpacked[next++ % kUnpacked], block_bytes);
                ++step;
            } else {
                add_step<S, B>(rows, at, row_step, w, block_bytes);
            }
            w += kPackedTileBytes<BITS>;
            if constexpr (S == 4) {
                for (int i = 0; i < kPackedTileBytes<BITS>; i += 64)
                    _mm_prefetch(w + kTilesAhead * kPackedTileBytes<BITS> + i, _MM_HINT_T1);
            }
            between();
        }
    }
    store_sums<0, B>(sums);
    if constexpr (S * B > 1) store_sums<1, B>(sums);
    if constexpr (S * B > 2) store_sums<2, B>(sums);
    if constexpr (S * B > 2) store_sums<3, B>(sums);
}

// In which stretch each row of a tile lies, and where in `together` of them.
struct Stretches {
    int count = 0;
    int steps = 0;                            // of groups
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
        for (int i = 0; i < tile.run_count; ++i) steps += (tile.runs[i].groups + kTileGroups - 1) / kTileGroups;
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

// S stretches and B blocks of weights of BITS bits, or as many as there are.
template <int S, int B, int BITS, class Between>
void multiply_some(const DotTile& tile, const Stretches& stretches, int stretch, int block, const TileSums& sums,
                   Between between) {
    const std::uint8_t* const* first = stretches.first + stretch;
    const std::uint8_t* w = tile.w + static_cast<std::size_t>(block) * tile.block_bytes;
    const int left = stretches.count - stretch, steps = stretches.steps;
    if (B == 2 && block + 1 < tile.blocks) {
        left > 1 ? multiply_tiles<2, B, BITS>(tile, first, w, steps, sums, between)
                 : multiply_tiles<1, B, BITS>(tile, first, w, steps, sums, between);
    } else if (S == 4 && left > 2) {
        multiply_tiles<S, 1, BITS>(tile, first, w, steps, sums, between);
    } else {
        left > 1 ? multiply_tiles<2, 1, BITS>(tile, first, w, steps, sums, between)
                 : multiply_tiles<1, 1, BITS>(tile, first, w, steps, sums, between);
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
            multiply_some<S, B, BITS>(tile, stretches, s, b, sums, [] {});
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
        (tile.alone ? dot_by<4, 1, BITS> : dot_by<2, 2, BITS>)(tile);
    } else {
        dot_by<4, 1, BITS>(tile);
    }
}

// What B blocks of sums become: constants of their columns.
template <int B, int OUTPUTS>
struct QuickTarget {
    EpilogueTile to;
    bool shifted;  // by an offset that is not 0
    __m512i offset[B];
    struct {
        VecF multiplier[B], bias[B], residual_scale;
        VecI window;
        VecB low, high;
    } of[OUTPUTS];

    QuickTarget() = default;
    // Of all columns of `tile`, those from block `block` on.
    QuickTarget(const EpilogueTile& tile, int block) : to(tile), shifted(false) {
        to.column += block * kBlock;
        to.columns = std::min(tile.columns - block * kBlock, B * kBlock);
        for (int b = 0; b < B; ++b) {
            offset[b] = _mm512_loadu_si512(to.offset + to.column + b * kBlock);
            shifted |= _mm512_test_epi32_mask(offset[b], offset[b]) != 0;
        }
        for (int o = 0; o < OUTPUTS; ++o) {
            const Quantizer& q = *to.quantizers[o];
            of[o].window = broadcast(q.window);
            of[o].low = VecB{} + static_cast<std::uint8_t>(q.low + q.zero);
            of[o].high = VecB{} + static_cast<std::uint8_t>(q.high + q.zero);
            of[o].residual_scale = broadcast(q.residual_scale);
            for (int b = 0; b < B; ++b) {
                of[o].multiplier[b] = load<VecF>(q.multiplier + to.column + b * kBlock);
                of[o].bias[b] = load<VecF>(q.bias + to.column + b * kBlock);
            }
        }
    }
};

// Sums of some rows and B blocks on their way to bytes.
template <int B, bool RESIDUAL, int OUTPUTS>
class PendingBytes {
public:
    using Target = QuickTarget<B, OUTPUTS>;

    PendingBytes() = default;
    PendingBytes(const TileMemory& memory, const std::uint8_t* place, int first, int end, const Target& target,
                 Doubts& doubts)
        : target_(&target), doubts_(&doubts), sums_(memory.sums), place_(place), next_(first), end_(end) {}

    // Some more of them, `count` times four vectors.
    __attribute__((noinline)) void advance(int count) {
        if (next_ == end_) return;
        const Target target = *target_;  // which writing bytes cannot change
        for (; count > 0 && next_ + kDown <= end_; --count, next_ += kDown) write<true>(target, next_);
        if (count > 0 && next_ < end_) {
            write<false>(target, next_);
            next_ = end_;
        }
    }

    void finish() {
        if (next_ < end_) advance(kMaxRows);
        if (doubts_ == nullptr || __builtin_expect(doubts_->count == 0, 1)) return;
        settle(*doubts_, target_->to, [&](int first, int k) {
            return Place{std::min(first + k / B, end_ - 1), target_->to.column + k % B * kBlock};
        });
        doubts_->count = 0;
    }

private:
    static constexpr int kDown = 4 / B;
    // Of kDown rows from `first` on. ALL: there are so many. Where there are not, the last one is gone through again.
    template <bool ALL>
    __attribute__((always_inline)) void write(const Target& target, int first) {
        const int channel = target.to.column, rows = ALL ? kDown : end_ - first;
        __m512i sums[4];
        VecF sum[4], other[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            const int r = first + (ALL || k / B < rows ? k / B : rows - 1);
            sums[k] = _mm512_load_si512(sums_ + (place_[r] * B + k % B) * kBlock);
            if (target.shifted) sums[k] = _mm512_add_epi32(sums[k], target.offset[k % B]);
            sum[k] = to_float(reinterpret_cast<VecI>(sums[k]));
            if constexpr (RESIDUAL) other[k] = to_float(load_bytes(target.to.residual[r] + channel + k % B * kBlock));
        }
#pragma GCC unroll 3
        for (int o = 0; o < OUTPUTS; ++o) {
            const auto& with = target.of[o];
            VecI fixed[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                VecF t = multiply_add(sum[k], with.multiplier[k % B], with.bias[k % B]);
                if constexpr (RESIDUAL) t = multiply_add(other[k], with.residual_scale, t);
                fixed[k] = reinterpret_cast<VecI>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(t)));
            }
            const VecI least = min_words(min_words(fixed[0], fixed[1]), min_words(fixed[2], fixed[3]));
            if (__builtin_expect(any_low_word(least, with.window), 0)) {
                __m512i* kept = doubts_->add(o, first);
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) kept[k] = sums[k];
            }
            const auto bytes = reinterpret_cast<__m512i>(min(max(pack_high(fixed), with.low), with.high));
            std::uint8_t* const* const out = target.to.out + o * kMaxRows + first;
            const bool whole = target.to.columns == B * kBlock;
            const auto valid = static_cast<__mmask32>((std::uint64_t{1} << target.to.columns) - 1);
#pragma GCC unroll 4
            for (int i = 0; i < kDown; ++i) {
                if (!ALL && i >= rows) break;
                std::uint8_t* const at = out[i] + channel;
                if constexpr (B == 2) {
                    const __m256i part =
                        i == 0 ? load<__m256i>(&bytes) : _mm512_maskz_extracti64x4_epi64(0xff, bytes, 1);
                    whole ? store(at, part) : _mm256_mask_storeu_epi8(at, valid, part);
                } else {
                    _mm512_mask_storeu_epi8(at - i * kBlock, static_cast<__mmask64>(valid) << i * kBlock, bytes);
                }
            }
        }
    }

    const Target* target_ = nullptr;
    Doubts* doubts_ = nullptr;
    const std::int32_t* sums_ = nullptr;
    const std::uint8_t* place_ = nullptr;
    int next_ = 0, end_ = 0;
};

// Goes through a tile by S stretches and B blocks.
template <int S, int B, int BITS, bool RESIDUAL, int OUTPUTS>
void quick_by(const DotTile& tile, const EpilogueTile& to) {
    const Stretches stretches(tile, S);
    TileMemory memory[2];
    QuickTarget<B, OUTPUTS> targets[2];
    Doubts doubts;
    PendingBytes<B, RESIDUAL, OUTPUTS> pending;
    const int each = (kPlaces + stretches.steps - 1) / stretches.steps;  // times four vectors, for a step
    int turn = 0;
    const auto multiply = [&](int s, int b, int blocks) {
        turn ^= 1;
        multiply_some<S, B, BITS>(tile, stretches, s, b, memory[turn].of(blocks), [&] { pending.advance(each); });
        pending.finish();
    };
    int b = 0;
    for (; b + B <= tile.blocks; b += B) {
        auto& target = targets[b / B % 2] = {to, b};
        for (int s = 0; s < stretches.count; s += S) {
            multiply(s, b, B);
            pending = {memory[turn], stretches.place, stretches.begin[s], stretches.begin[s + S], target, doubts};
        }
    }
    for (int s = 0; b < tile.blocks && s < stretches.count; s += S) {  // a last block
        const QuickTarget<1, OUTPUTS> target(to, b);
        multiply(s, b, 1);
        PendingBytes<1, RESIDUAL, OUTPUTS>(memory[turn], stretches.place, stretches.begin[s], stretches.begin[s + S],
                                           target, doubts)
            .finish();
    }
    pending.finish();
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
            kTileOutputs};
}
