// Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308) for 3x3 convolutions in whole numbers, exact.
//
// A patch of (N + 2) x (M + 2) activations makes N x M outputs: F(N, 3) down, F(M, 3) across. It takes (N + 2) * (M +
// 2) multiplications where the definition takes 9 * N * M: from 2.25 times fewer for 2 x 2 outputs to 4 times fewer for
// 4 x 4. The textbook's transform of weights has fractions; here each of its rows is multiplied by its denominator, the
// inverse transform makes up for it, and the result is divided exactly at the end. Sums may overflow on the way: they
// are whole numbers modulo 2^32, and what is divided by at last, a power of two and threes, leaves the result right as
// long as result and power of two together fit 32 bits.
//
// Both operands grow in the transform. Bytes hold them where activations have few bits, and the fewer, the larger the
// patch; else they take 16 bits, at half the rate of multiplication.
//   patches:  a row of B^T has absolute sum 2, 6 or 10 for 2, 3 or 4 outputs, and a patch position spans the largest
//             activation as many times as the product of both directions says. In bytes, a shift of each position makes
//             them unsigned.
//   weights:  3 or 7 times as large in each direction. In bytes, what leaves -127..127 is clipped, and what was cut off
//             is multiplied too ("excess"), so that the result is exact for any weights.
//
// A 3x3 convolution of stride 2 is one of the outer taps over even pixels and one of the middle tap over odd ones. For
// two outputs along one direction: (x0 - x2) w0, x2 (w0 + w2), (x4 - x2) w2 and x1 w1, x3 w1: 5 products for 6, 25 for
// 36 in two dimensions. Operands grow twice at most, nothing is divided. The first output alone takes the first product
// and x1 w1, the second one alone the third and x3 w1: such positions are multiplied to one sum, and 9 sums are left.
#pragma once

#include <cstdint>

namespace bitgear {

constexpr int kMaxPatchSide = 6;
constexpr int kMaxPositions = kMaxPatchSide * kMaxPatchSide;
constexpr int kMaxTileSide = 4;
constexpr int kWinogradMaxWeight = 127;
constexpr int kWinogradMaxChannels = 4096;
constexpr int kWinogradMaxWeightBits = 6;  // in bytes
constexpr int kExcessShare = 256;          // weights are worth clipping up to one in so many

// One direction: F(m, 3), or two outputs of stride 2.
struct WinogradAxis {
    int span;           // absolute sum of a row of B^T
    int twos, threes;   // the common denominator is 2^twos * 3^threes
    int patch[6][6];    // B^T
    int weights[6][3];  // G, times denominators
    int inverse[4][6];  // A^T, times the common denominator over each row's
};

// By m - 2. Points 0, 1, -1, infinity; 0, 1, -1, 2, infinity; 0, 1, -1, 2, -2, infinity. Then that of stride 2.
constexpr WinogradAxis kWinogradAxes[] = {
    {2,
     1,
     0,
     {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
     {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}},
     {{2, 1, 1, 0}, {0, 1, -1, -2}}},
    {6,
     1,
     1,
     {{2, -1, -2, 1, 0}, {0, -2, -1, 1, 0}, {0, 2, -3, 1, 0}, {0, -1, 0, 1, 0}, {0, 2, -1, -2, 1}},
     {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {0, 0, 1}},
     {{3, -3, -1, 1, 0}, {0, -3, 1, 2, 0}, {0, -3, -1, 4, 6}}},
    {10,
     3,
     1,
     {{4, 0, -5, 0, 1, 0},
      {0, -4, -4, 1, 1, 0},
      {0, 4, -4, -1, 1, 0},
      {0, -2, -1, 2, 1, 0},
      {0, 2, -1, -2, 1, 0},
      {0, 4, 0, -5, 0, 1}},
     {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}},
     {{6, -4, -4, 1, 1, 0}, {0, -4, 4, 2, -2, 0}, {0, -4, -4, 4, 4, 0}, {0, -4, 4, 8, -8, 24}}},
    {2,
     0,
     0,
     {{1, 0, -1, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, -1, 0, 1}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 0}},
     {{1, 0, 0}, {1, 0, 1}, {0, 0, 1}, {0, 1, 0}, {0, 1, 0}},
     {{1, 1, 0, 1, 0}, {0, 1, 1, 0, 1}}},
};
constexpr int kStridedAxis = 3, kStridedSide = 5, kStridedSums = 9;
// Positions of stride 2 (row * 5 + column), those of each sum together, and where each sum's begin. Sums are numbered
// [first output alone, both, second output alone] in both directions.
constexpr int kStridedOrder[kStridedSide * kStridedSide] = {0, 3, 15, 18, 1,  16, 2,  4,  17, 19, 5,  8, 6,
                                                            7, 9, 10, 13, 20, 23, 11, 21, 12, 14, 22, 24};
constexpr int kStridedFirst[kStridedSums + 1] = {0, 4, 6, 10, 12, 13, 15, 19, 21, 25};

struct WinogradForm {
    const char* name;
    int n, m;           // outputs down and across
    int operand_bytes;  // 1 or 2
    int stride;         // 1, or 2: 2 x 2 outputs

    constexpr const WinogradAxis& down() const { return kWinogradAxes[stride == 2 ? kStridedAxis : n - 2]; }
    constexpr const WinogradAxis& across() const { return kWinogradAxes[stride == 2 ? kStridedAxis : m - 2]; }
    constexpr int rows() const { return stride == 2 ? kStridedSide : n + 2; }  // of a patch, in pixels and in positions
    constexpr int columns() const { return stride == 2 ? kStridedSide : m + 2; }
    constexpr int positions() const { return rows() * columns(); }
    // Where a position is, in the patch.
    constexpr int row(int position) const { return (stride == 2 ? kStridedOrder[position] : position) / columns(); }
    constexpr int column(int position) const { return (stride == 2 ? kStridedOrder[position] : position) % columns(); }
    // What is left of the positions of a tile after the multiplication, and the first position that goes to a sum: they
    // follow each other.
    constexpr int sums() const { return stride == 2 ? kStridedSums : positions(); }
    constexpr int first_position(int sum) const { return stride == 2 ? kStridedFirst[sum] : sum; }
    constexpr int span() const { return down().span * across().span; }  // of a patch position, in largest activations
    // What a sum is divided by: 2^twos * 3^threes.
    constexpr int twos() const { return down().twos + across().twos; }
    constexpr int threes() const { return down().threes + across().threes; }
    constexpr int odd_divisor() const { return threes() == 0 ? 1 : threes() == 1 ? 3 : 9; }
    constexpr int divisor() const { return odd_divisor() << twos(); }
};

constexpr int kWinogradForms = 7;
// In the order of Isa::winograd. Where estimates are equal the first wins.
inline constexpr WinogradForm kWinograd[kWinogradForms] = {
    {"winograd-3x4", 3, 4, 1, 1},    {"winograd-3x3", 3, 3, 1, 1}, {"winograd-2x4", 2, 4, 1, 1},
    {"winograd-2x3", 2, 3, 1, 1},    {"winograd-2x2", 2, 2, 1, 1}, {"winograd-4x4", 4, 4, 2, 1},
    {"winograd-strided", 2, 2, 1, 2}};

// The weight of one position, given the nine codes (or sums of codes) of a kernel, `stride` apart.
template <class T>
inline std::int32_t winograd_weight(const WinogradForm& form, int position, const T* codes, std::ptrdiff_t stride) {
    const int* down = form.down().weights[form.row(position)];
    const int* across = form.across().weights[form.column(position)];
    std::int32_t sum = 0;
    for (int t = 0; t < 9; ++t) sum += down[t / 3] * across[t % 3] * codes[t * stride];
    return sum;
}

// The largest that a weight of `bits` bits can become, or be clipped to.
inline int winograd_weight_bound(const WinogradForm& form, int bits) {
    const auto growth = [&](int m) { return form.stride == 2 ? 2 : m == 2 ? 3 : 7; };  // the largest sum of a row
    const int bound = growth(form.n) * growth(form.m) << (bits - 1);
    return form.operand_bytes == 2 || bound < kWinogradMaxWeight ? bound : kWinogradMaxWeight;
}

// How far a patch position can reach above zero for activations 0..act_max (sign 1), or below (sign -1).
inline int winograd_reach(const WinogradForm& form, int position, int act_max, int sign = 1) {
    const int* down = form.down().patch[form.row(position)];
    const int* across = form.across().patch[form.column(position)];
    int total = 0;
    for (int y = 0; y < form.rows(); ++y) {
        for (int x = 0; x < form.columns(); ++x) {
            const int factor = sign * down[y] * across[x];
            if (factor > 0) total += factor;
        }
    }
    return total * act_max;
}

// What has to be added to a patch position so that it is never negative; nothing in 16 bits.
inline int winograd_shift(const WinogradForm& form, int position, int act_max) {
    return form.operand_bytes == 1 ? winograd_reach(form, position, act_max, -1) : 0;
}

// What the shifts add to an output, before the division, given the sum of the weights of every position.
inline std::int32_t winograd_correction(const WinogradForm& form, int output, const std::int32_t* sums,
                                        const std::uint8_t* shifts) {
    std::int32_t total = 0;
    for (int p = 0; p < form.positions(); ++p) {
        const int factor =
            form.down().inverse[output / form.m][form.row(p)] * form.across().inverse[output % form.m][form.column(p)];
        total += factor * shifts[p] * sums[p];
    }
    return total;
}

}  // namespace bitgear
