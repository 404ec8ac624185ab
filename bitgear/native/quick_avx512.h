// From sums in registers to the bytes of quick readers, for kernels that never store sums. Included by isa_avx512.cpp
// inside its namespace, after generic.h.
#pragma once

// Quotients that lie too near a rounding boundary, four vectors each: their sums are kept until a tile is done. They
// are rare, and nothing is called amid a tile, so that its sums stay in registers.
struct Doubts {
    static constexpr int kMost = 2 * kMaxRows;
    int count = 0;
    struct {
        int output, first;
    } of[kMost];
    __m512i sums[kMost][4];

    // Room for the sums of four vectors, of which the caller calls the first one `first`.
    __m512i* add(int output, int first) {
        of[count] = {output, first};
        return sums[count++];
    }
};

// Where a vector of 16 sums belongs.
struct Place {
    int row, channel;
};

// Goes through the documented chain of operations for all doubts. `place(first, k)`: of vector k.
template <class PlaceOf>
__attribute__((noinline)) void settle(const Doubts& doubts, const EpilogueTile& to, PlaceOf place) {
    for (int i = 0; i < doubts.count; ++i) {
        const auto [output, first] = doubts.of[i];
        for (int k = 0; k < 4; ++k) {
            const Place at = place(first, k);
            const int valid = to.column + to.columns - at.channel;
            if (valid <= 0) continue;
            VecQ bytes;
            exact_bytes(to, *to.quantizers[output], load<VecI>(&doubts.sums[i][k]), at.row, at.channel, &bytes);
            store_bytes(to.out[output * kMaxRows + at.row] + at.channel, bytes, valid < kLanes ? valid : kLanes);
        }
    }
}
