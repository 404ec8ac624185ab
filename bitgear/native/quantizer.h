// How a reader's quantisation is prepared.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels.h"

namespace bitgear {

// How far a quick quotient t = sum * m + b + r is from the documented one, all in steps of the scale, where b contains
// `zero` and less than 1 more, which are taken off t again, and what the zero of the residual's bytes takes off r; |b|
// without the former two and |r| are at most `bias` and `residual`. Both are roundings of the same real number; each
// rounding is off by at most u = 2^-24 of its result. Where the quotient is beyond `range`, which lies a step beyond
// all codes, both are clipped alike. Within, |sum * m| is at most range + bias + residual, and what precedes the
// residual sum at most range + residual. So, in u, with z = zero + 1:
//   documented:  range + bias + residual for the product, range + residual for the first sum, and range for the
//   division;
//                with a residual, residual for its product and range for the second sum;
//   quick:       range + bias + residual for the multiplier, as much for its division where sums are not divided (their
//                floats are exact then, kernels.h) and as much for the product (where it is not fused), bias
//                + z for the bias, range + z + residual for the first sum; with a residual, 2 residual for its scale
//                and product and range + z for the second sum.
// Together 7 range + 5 bias + 2 z and with a residual 9 range + 5 bias + 9 residual + 3 z, and 2 % for terms in u^2. A
// common factor of a power of two, as quick quotients have it, changes nothing.
inline float quick_error(float range, float zero, float bias, float residual) {
    const float without = 7.0f * range + 5.0f * bias + 2.0f * (zero + 1.0f);
    return 1.02f / 16777216.0f * (residual == 0.0f ? without : without + 2.0f * range + 9.0f * residual + zero + 1.0f);
}
constexpr float kMaxQuickError = 1e-3f;  // beyond, the exact chain would be needed too often

inline std::int32_t quantize(float y, const Quantizer& q) {
    const float code = std::nearbyint(y / q.scale);
    return static_cast<std::int32_t>(std::fmin(std::fmax(code, static_cast<float>(q.low)), static_cast<float>(q.high)));
}

// Takes the bounds of the value into the bounds of the codes.
inline void bound_quantizer(Quantizer& q, float floor, float ceiling) {
    const std::int32_t low = quantize(floor, q), high = quantize(ceiling, q);
    q.low = low;
    q.high = high;
}

// Takes note of what a sum is at most.
inline void bound_sums(Quantizer& q, double largest_sum) { q.bounded = q.quick && largest_sum < q.most_sum; }

// Fills quick_multiplier and quick_bias, [padded], and what belongs to them in q. `bias` may be null. `largest_sum`:
// bound of |sum|.
//
// A quick quotient x is a whole number of 65536ths. With error = quick_error() and one 65536th, which x was rounded by
// at most, x / 65536 lies within `error` of Q + 1/2 + error, where Q is the documented quotient plus zero: between Q +
// 1/2 and Q + 1/2 + 2 error. So x >> 16 is Q rounded, unless the lowest 16 bits of x are at most 2 error: only then is
// there a whole number between, or Q a tie.
inline void quicken(Quantizer& q, const float* multiplier, const float* bias, int channels, int padded,
                    float residual_scale, std::int32_t residual_zero, double largest_sum, float* quick_multiplier,
                    float* quick_bias) {
    const double one = kFixedOne / static_cast<double>(q.scale);
    const double largest_residual = std::fabs(residual_scale / static_cast<double>(q.scale)) * 255.0;
    float most_bias = 0.0f, most_multiplier = 0.0f;
    for (int c = 0; c < channels && bias != nullptr; ++c) most_bias = std::fmax(most_bias, std::fabs(bias[c]));
    const double zero_residual = -residual_zero * (residual_scale / static_cast<double>(q.scale));
    const double largest_bias = most_bias / static_cast<double>(q.scale) + std::fabs(zero_residual);
    const float range = static_cast<float>(std::max(std::abs(q.low), std::abs(q.high)) + 1);
    const float error = quick_error(range, static_cast<float>(q.zero), static_cast<float>(largest_bias),
                                    static_cast<float>(largest_residual));
    const double shift = q.zero + 0.5 + error + 1.0 / kFixedOne;
    bool ordinary = true;
    for (int c = 0; c < channels; ++c) {
        quick_multiplier[c] = static_cast<float>(multiplier[c] * one);
        quick_bias[c] =
            static_cast<float>((bias != nullptr ? bias[c] * one : 0.0) + (zero_residual + shift) * kFixedOne);
        // Far from the ends of the range of float32, so that relative errors are what they should be.
        const float magnitude = std::fabs(quick_multiplier[c]);
        ordinary &=
            multiplier[c] == 0.0f || (std::fabs(multiplier[c]) > 1e-30f && magnitude > 1e-30f && magnitude < 1e30f);
        most_multiplier = std::fmax(most_multiplier, magnitude);
    }
    for (int c = channels; c < padded; ++c) {  // whatever they hold must not look like a doubt
        quick_multiplier[c] = 0.0f;
        quick_bias[c] = 0.25f * static_cast<float>(kFixedOne);
    }
    q.inverse = 1.0f / q.scale;
    q.inverse_lack = static_cast<float>(1.0 / static_cast<double>(q.scale) - static_cast<double>(q.inverse));
    q.multiplier = quick_multiplier;
    q.bias = quick_bias;
    q.residual_scale = static_cast<float>(residual_scale * one);
    q.quick = ordinary && error <= kMaxQuickError;
    q.window = q.quick ? static_cast<std::int32_t>(std::ceil(2.0 * (error * kFixedOne + 1.0))) : 0;
    // Less a little for its own roundings.
    q.most_sum = (1.0 - 1e-6) * (kFixedMost - (largest_bias + largest_residual + shift) * kFixedOne) / most_multiplier;
    bound_sums(q, largest_sum);
}

}  // namespace bitgear
