// How a reader's quantisation is prepared.
#pragma once

#include <cmath>

#include "kernels.h"

namespace bitgear {

// Terms of a quick quotient t = acc * m + b + r, each rounded a few times in float32 (2^-24 of its magnitude each
// time): three for the constants and the sums here, four in the documented chain. Let |b| and |r| be at most T. Where t
// is within 256 (beyond, both are clipped alike), |acc * m| is at most 256 + 2 T, so both differ by at most 7 * 2^-24 *
// (256 + 4 T).
inline float quick_error(float largest_term) { return 8.0f / 16777216.0f * (256.0f + 4.0f * largest_term); }
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

// Fills quick_multiplier and quick_bias (bias may be null), and q.error and q.quick.
inline void quicken(Quantizer& q, const float* multiplier, const float* bias, int channels, float residual_scale,
                    float* quick_multiplier, float* quick_bias) {
    float largest = std::fabs(residual_scale / q.scale) * 255.0f;
    bool ordinary = true;
    for (int c = 0; c < channels; ++c) {
        quick_multiplier[c] = multiplier[c] / q.scale;
        quick_bias[c] = bias != nullptr ? bias[c] / q.scale : 0.0f;
        largest = std::fmax(largest, std::fabs(quick_bias[c]));
        // Far from the ends of the range of float32, so that relative errors are what they should be.
        const float magnitude = std::fabs(quick_multiplier[c]);
        ordinary &=
            multiplier[c] == 0.0f || (std::fabs(multiplier[c]) > 1e-30f && magnitude > 1e-30f && magnitude < 1e30f);
    }
    q.multiplier = quick_multiplier;
    q.bias = quick_bias;
    q.residual_scale = residual_scale / q.scale;
    q.error = quick_error(largest);
    q.quick = ordinary && q.error <= kMaxQuickError;
}

}  // namespace bitgear
