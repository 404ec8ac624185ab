// Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308) for 3x3 convolutions in whole numbers, exact.
//
// A patch of 4 x (M + 2) activations makes 2 x M outputs: F(2, 3) down, F(M, 3) across, M = 2, 3 or 4. It takes 4 * (M
// + 2) multiplications where the definition takes 18 * M: 2.25, 2.7 or 3 times fewer. The textbook's transform of
// weights has fractions; here each of its rows is multiplied by its denominator, the inverse transform makes up for it,
// and the result is divided exactly at the end, by 4, 12 or 48.
//
// Both operands grow in the transform, and must fit 8 bits. That is why fewer bits are faster: the fewer, the larger
// the M.
//   patches:  a row of B^T has absolute sum 2 down and 4/2, 6 or 10 across, so a patch position spans up to 4, 12 or 20
//   times
//             the largest activation: at most 63, 21 or 12 fit. A shift of each position makes all bytes unsigned.
//   weights:  up to 9 (M = 2) or 21 times as large in a few positions. What leaves -127..127 is clipped, and what was
//   cut off
//             is multiplied separately ("outliers"), so that the result is exact for any weights.
#pragma once

#include <cstdint>

namespace bitgear {

constexpr int kMaxPatchColumns = 6;
constexpr int kMaxPositions = 4 * kMaxPatchColumns;
constexpr int kWinogradMaxWeight = 127;
constexpr int kWinogradMaxChannels = 4096;  // four, twelve, 48 times a sum stay below 2^31
constexpr int kWinogradMaxWeightBits = 6;
constexpr int kOutlierShare = 256;  // outliers are worth it up to one in so many weights

struct WinogradForm {
    int m;              // output columns
    int span;           // of a patch position, in largest activations: the product fits a byte
    int patch[6][6];    // B^T across
    int weights[6][3];  // G across, times denominators
    int inverse[4][6];  // A^T across, times the common denominator over each row's
};

constexpr int kDownPatch[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
constexpr int kDownWeights[4][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}};
constexpr int kDownInverse[2][4] = {{2, 1, 1, 0}, {0, 1, -1, -2}};

// Points 0, 1, -1, infinity; 0, 1, -1, 2, infinity; 0, 1, -1, 2, -2, infinity. The fastest first.
constexpr WinogradForm kWinogradForms[] = {
    {4,
     20,
     {{4, 0, -5, 0, 1, 0},
      {0, -4, -4, 1, 1, 0},
      {0, 4, -4, -1, 1, 0},
      {0, -2, -1, 2, 1, 0},
      {0, 2, -1, -2, 1, 0},
      {0, 4, 0, -5, 0, 1}},
     {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}},
     {{6, -4, -4, 1, 1, 0}, {0, -4, 4, 2, -2, 0}, {0, -4, -4, 4, 4, 0}, {0, -4, 4, 8, -8, 24}}},
    {3,
     12,
     {{2, -1, -2, 1, 0}, {0, -2, -1, 1, 0}, {0, 2, -3, 1, 0}, {0, -1, 0, 1, 0}, {0, 2, -1, -2, 1}},
     {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {0, 0, 1}},
     {{3, -3, -1, 1, 0}, {0, -3, 1, 2, 0}, {0, -3, -1, 4, 6}}},
    {2,
     4,
     {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
     {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}},
     {{2, 1, 1, 0}, {0, 1, -1, -2}}},
};

// The weight of one position, given the nine codes (or sums of codes) of a kernel, `stride` apart.
template <class T>
inline std::int32_t winograd_weight(const WinogradForm& form, int position, const T* codes, std::ptrdiff_t stride) {
    const int* down = kDownWeights[position / (form.m + 2)];
    const int* across = form.weights[position % (form.m + 2)];
    std::int32_t sum = 0;
    for (int t = 0; t < 9; ++t) sum += down[t / 3] * across[t % 3] * codes[t * stride];
    return sum;
}

// The largest that a weight of `bits` bits can become, or be clipped to.
inline int winograd_weight_bound(const WinogradForm& form, int bits) {
    const int growth = 3 * (form.m == 2 ? 3 : 7);  // absolute sums of the largest rows
    return growth << (bits - 1) < kWinogradMaxWeight ? growth << (bits - 1) : kWinogradMaxWeight;
}

// How far a patch position can reach above zero for activations 0..act_max (sign 1), or below (sign -1).
inline int winograd_reach(const WinogradForm& form, int position, int act_max, int sign = 1) {
    const int* down = kDownPatch[position / (form.m + 2)];
    const int* across = form.patch[position % (form.m + 2)];
    int total = 0;
    for (int y = 0; y < 4; ++y) {
        for (int x = 0; x < form.m + 2; ++x) {
            const int factor = sign * down[y] * across[x];
            if (factor > 0) total += factor;
        }
    }
    return total * act_max;
}

// What has to be added to a patch position so that it is never negative.
inline int winograd_shift(const WinogradForm& form, int position, int act_max) {
    return winograd_reach(form, position, act_max, -1);
}

// What the shifts add to an output, before the division, given the sum of the weights of every position.
inline std::int32_t winograd_correction(const WinogradForm& form, int output, const std::int32_t* sums,
                                        const std::uint8_t* shifts) {
    std::int32_t total = 0;
    for (int p = 0; p < 4 * (form.m + 2); ++p) {
        const int factor =
            kDownInverse[output / form.m][p / (form.m + 2)] * form.inverse[output % form.m][p % (form.m + 2)];
        total += factor * shifts[p] * sums[p];
    }
    return total;
}

}  // namespace bitgear
