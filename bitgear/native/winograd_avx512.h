// Winograd's multiplication, all positions of a column of patches at a time. Included by isa_avx512.cpp inside its
// namespace.
#pragma once

// Weights of a block: [column][group][position of the column][kBlock * kGroup].
template <int N, int M>
void pack_columns(const std::int8_t* weights, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    constexpr std::ptrdiff_t kDown = N + 2, kAcross = M + 2, kStep = kBlock * kGroup;
    for (std::ptrdiff_t x = 0; x < kAcross; ++x) {
        for (std::ptrdiff_t y = 0; y < kDown; ++y) {
            pack_groups(weights + (y * kAcross + x) * groups * kGroup, row_bytes, groups,
                        packed + (x * groups * kDown + y) * kStep, kDown * kStep);
        }
    }
}

// As many patches as leave their sums, at most 24, in registers.
template <int N, int B>
constexpr int kPatchesAtOnce = 24 / ((N + 2) * B);

// One column of T patches from patch `first` on. `weights`, `sums`: of the column.
template <class Operand, int N, int T, int B>
__attribute__((noinline, noclone)) void run_column(const WinogradProducts& p, int columns, int x, int first) {
    constexpr int kDown = N + 2;
    const std::size_t below = static_cast<std::size_t>(columns) * p.position_bytes;
    const std::uint8_t* a[kDown];
    std::size_t patch[T];
    __m512i acc[kDown][T][B];
#pragma GCC unroll 6
    for (int y = 0; y < kDown; ++y) {
        a[y] = p.patches + static_cast<std::size_t>(x) * p.position_bytes + static_cast<std::size_t>(y) * below +
               static_cast<std::size_t>(first) * p.patch_bytes;
#pragma GCC unroll 6
        for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) acc[y][t][b] = _mm512_setzero_si512();
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) patch[t] = static_cast<std::size_t>(t) * p.patch_bytes;
    const std::uint8_t* w = p.w + static_cast<std::ptrdiff_t>(x) * p.groups * kDown * kBlock * kGroup;
    for (int g = 0; g < p.groups; ++g) {
#pragma GCC unroll 6
        for (int y = 0; y < kDown; ++y) {
            const __m512i w0 = _mm512_loadu_si512(w + y * kBlock * kGroup);
            if constexpr (B == 2) {
                const __m512i w1 = _mm512_loadu_si512(w + p.block_bytes + y * kBlock * kGroup);
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row2(a[y] + patch[t], w0, w1, acc[y][t][0], acc[y][t][1]);
            } else {
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row1(a[y] + patch[t], w0, acc[y][t][0]);
            }
            a[y] += kGroup;
        }
        w += kDown * kBlock * kGroup;
    }
#pragma GCC unroll 6
    for (int y = 0; y < kDown; ++y) {
        const WinogradExcess& excess = p.excess[y * columns + x];
        for (int e = 0; e < excess.count; ++e) {
            const std::uint8_t* more = a[y] - p.groups * kGroup + excess.runs[e].offset;
            const std::uint8_t* weights = excess.w + e * kBlock * kGroup;
            const __m512i w0 = _mm512_loadu_si512(weights);
            if constexpr (B == 2) {
                const __m512i w1 = _mm512_loadu_si512(weights + excess.block_bytes);
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row2(more + patch[t], w0, w1, acc[y][t][0], acc[y][t][1]);
            } else {
#pragma GCC unroll 6
                for (int t = 0; t < T; ++t) Operand::row1(more + patch[t], w0, acc[y][t][0]);
            }
        }
    }
    std::int32_t* sums = p.sums + static_cast<std::size_t>(x) * p.position_stride + first * B * kBlock;
    const std::size_t sums_below = static_cast<std::size_t>(columns) * p.position_stride;
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) {
            VecU down[kDown], back[N];
#pragma GCC unroll 6
            for (int y = 0; y < kDown; ++y) down[y] = reinterpret_cast<VecU>(acc[y][t][b]);
            winograd_back<N>(down, back);
#pragma GCC unroll 4
            for (int y = 0; y < N; ++y)
                store(sums + static_cast<std::size_t>(y) * sums_below + (t * B + b) * kBlock, back[y]);
        }
    }
}

template <class Operand, int N, int T, int B>
void run_column_left(const WinogradProducts& p, int columns, int x, int first) {
    if constexpr (T > 0) {
        if (p.tiles - first == T) {
            run_column<Operand, N, T, B>(p, columns, x, first);
        } else {
            run_column_left<Operand, N, T - 1, B>(p, columns, x, first);
        }
    }
}

template <class Operand, int N, int B>
void run_blocks(const WinogradProducts& p, int columns) {
    constexpr int kPatches = kPatchesAtOnce<N, B>;
    for (int x = 0; x < columns; ++x) {
        int first = 0;
        for (; first + kPatches <= p.tiles; first += kPatches)
            run_column<Operand, N, kPatches, B>(p, columns, x, first);
        run_column_left<Operand, N, kPatches - 1, B>(p, columns, x, first);
    }
}

template <class Operand, int N, int M>
void run_columns(const WinogradProducts& p) {
    p.blocks == 2 ? run_blocks<Operand, N, 2>(p, M + 2) : run_blocks<Operand, N, 1>(p, M + 2);
}

template <class Operand, int N, int M>
constexpr WinogradColumns kColumns{kPatchesAtOnce<N, 2>, pack_columns<N, M>, run_columns<Operand, N, M>,
                                   winograd_output<N, M, false>};

template <int N, int M>
constexpr WinogradKernels kBytesByColumns{winograd_input<N, M>, winograd_output<N, M>,
                                          winograd_weights<N, M, std::int8_t>, &kColumns<Bytes, N, M>};
template <int N, int M>
constexpr WinogradKernels kWordsByColumns{winograd_input_words<N, M>, winograd_output<N, M>,
                                          winograd_weights<N, M, std::int16_t>, &kColumns<Words, N, M>};
