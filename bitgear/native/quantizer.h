// How a reader's quantisation is prepared.
#pragma once

#include <cmath>

#include "kernels.h"

namespace bitgear {

// How far a quick quotient t = sum * m + (b + zero) + r is from the documented one plus zero, all in steps of the
// scale, where |b| and |r| are at most `bias` and `residual`. Both are roundings of the same real number; each rounding
// is off by at most u = 2^-24 of its result. Where t is within 256 (beyond, both are clipped alike), |sum * m| is at
// most 256 + bias + residual, and what precedes the residual sum at most 256 + residual. So, in u:
//   documented:  256 + bias + residual for the product, 256 + residual for the first sum, residual for its own product,
//                256 for the second sum, 256 for the division;
//   quick:       256 + bias + residual for the multiplier and as much for the product (where it is not fused), bias and
//                bias + 128 for the bias, 2 residual for the residual's scale and product, 256 + residual and 256 for
//                the sums.
// Together 2176 + 5 bias + 8 residual, and 2 % for terms in u^2.
inline float quick_error(float bias, float residual) {
    return 1.02f / 16777216.0f * (2176.0f + 5.0f * bias + 8.0f * residual);
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

// Fills quick_multiplier and quick_bias (bias may be null), and q.error and q.quick. `largest_sum`: bound of |sum|.
inline void quicken(Quantizer& q, const float* multiplier, const float* bias, int channels, float residual_scale,
                    double largest_sum, float* quick_multiplier, float* quick_bias) {
    const float largest_residual = std::fabs(residual_scale / q.scale) * 255.0f;
    float largest_bias = 0.0f;
    double largest_product = 0.0;
    bool ordinary = true;
    for (int c = 0; c < channels; ++c) {
        quick_multiplier[c] = multiplier[c] / q.scale;
        const float exact_bias = bias != nullptr ? bias[c] / q.scale : 0.0f;
        quick_bias[c] = exact_bias + static_cast<float>(q.zero);
        largest_bias = std::fmax(largest_bias, std::fabs(exact_bias));
        // Far from the ends of the range of float32, so that relative errors are what they should be.
        const float magnitude = std::fabs(quick_multiplier[c]);
        ordinary &=
            multiplier[c] == 0.0f || (std::fabs(multiplier[c]) > 1e-30f && magnitude > 1e-30f && magnitude < 1e30f);
        largest_product = std::fmax(largest_product, static_cast<double>(magnitude) * largest_sum);
    }
    q.multiplier = quick_multiplier;
    q.bias = quick_bias;
    q.residual_scale = residual_scale / q.scale;
    q.error = quick_error(largest_bias, largest_residual);
    // Quotients are rounded to 32-bit integers before they are clipped.
    ordinary &= largest_product + largest_bias + largest_residual < 2147483000.0;
    q.quick = ordinary && q.error <= kMaxQuickError;
}

}  // namespace bitgear
