// What preparing layers has in common, whichever path they take. For prepare*.cpp and rates.cpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "integers.h"
#include "model.h"

namespace bitgear {

constexpr std::size_t kStripBytes =
    512 * 1024;                       // look-up tables or transformed patches at hand: about half of a core's cache
constexpr int kMostPixels = 1 << 30;  // of a value: 32 bits count them, and those that loops go beyond the last one

// Whether 32-bit offsets from a window's first byte lead to its last one.
inline bool offsets_fit(const Geometry& g, std::size_t row_bytes, std::size_t pixel_bytes) {
    const std::size_t last = sz(g.dilation * (g.kernel - 1));
    return last * row_bytes + (last + 1) * pixel_bytes <= INT32_MAX;
}

inline int period_of(const DotPath& dot, int act_max, int weight_max) {
    return dot.period != nullptr ? dot.period(act_max, weight_max) : 0;
}

// Adds a run, in pieces if the path wants them short.
inline void add_runs(const DotPath& dot, const Run& run, std::vector<Run>& runs) {
    const int most = dot.run_groups == 1 ? run.groups : dot.run_groups;
    for (int done = 0; done < run.groups; done += most)
        runs.push_back({run.offset + done * kGroup, std::min(most, run.groups - done)});
}

constexpr std::size_t kOverrun = 64;  // codes are read and written in whole vectors

// A convolution, or one group of it, that a path is sought for.
struct Layer {
    const Isa& isa;
    const Rates& rates;
    const ConvSpec& spec;
    const Step& step;  // all of it but what a path makes
    const Buffer& input;
    const std::int8_t* q8;  // master codes, [step.channels][in_channels][kernel][kernel]
    int in_channels;
    int input_channel;  // the first one
    int height, width;  // of the convolution, before pooling
};

// Codes of kBlock output channels from `first` on, in the order in which kernels read: [row][tap][tap_channels], zeros
// where there is no channel. Of woven windows of `woven_side` taps each way, the taps of a column follow each other,
// and zeros only fill up the last group.
class WindowRows {
public:
    WindowRows(const Layer& layer, int taps, int tap_channels, int woven_side = 0)
        : isa_(layer.isa),
          q8_(layer.q8),
          channels_(layer.step.channels),
          in_channels_(layer.in_channels),
          taps_(taps),
          tap_channels_(tap_channels),
          bits_(layer.spec.weight_bits),
          woven_side_(woven_side),
          codes_(sz(layer.in_channels) * sz(taps)) {}

    std::size_t row_bytes() const { return sz(round_up(taps_ * tap_channels_, kGroup)); }

    // Fills `rows`, [count][row_bytes()]; rows beyond the last channel are zero.
    void fill(int first, int count, std::int8_t* rows) {
        for (int r = 0; r < count; ++r, rows += row_bytes()) {
            if (first + r >= channels_) {
                std::memset(rows, 0, row_bytes());
                continue;
            }
            const std::int8_t* source = q8_ + sz(first + r) * codes_.size();
            if (taps_ == 1) {
                isa_.derive(source, codes_.size(), bits_, rows);
                std::memset(rows + in_channels_, 0, sz(tap_channels_ - in_channels_));
                continue;
            }
            if (bits_ < 8) isa_.derive(source, codes_.size(), bits_, codes_.data());
            const std::int8_t* codes = bits_ < 8 ? codes_.data() : source;
            if (woven_side_ > 0) {
                weave(codes, rows);
                continue;
            }
            isa_.transpose_taps(codes, in_channels_, taps_, sz(tap_channels_), rows);
            if (in_channels_ == tap_channels_) continue;
            for (int t = 0; t < taps_; ++t)
                std::memset(rows + t * tap_channels_ + in_channels_, 0, sz(tap_channels_ - in_channels_));
        }
    }

private:
    void weave(const std::int8_t* codes, std::int8_t* row) const {
        std::int8_t* out = row;
        for (int x = 0; x < woven_side_; ++x) {
            for (int t = x; t < taps_; t += woven_side_) {
                for (int c = 0; c < in_channels_; ++c) *out++ = codes[c * taps_ + t];
            }
        }
        std::fill(out, row + row_bytes(), std::int8_t{0});
    }

    const Isa& isa_;
    const std::int8_t* q8_;
    int channels_, in_channels_, taps_, tap_channels_, bits_;
    int woven_side_;
    std::vector<std::int8_t> codes_;
};

inline std::int32_t sum_of(const std::int8_t* row, std::size_t count) {
    constexpr std::size_t kStretch = 128;  // sums in 16 bits: twice as many at a time
    std::int32_t sum = 0;
    for (std::size_t begin = 0; begin < count; begin += kStretch) {
        std::int16_t part = 0;
        for (std::size_t i = begin; i < std::min(begin + kStretch, count); ++i) {
            part = static_cast<std::int16_t>(part + row[i]);
        }
        sum += part;
    }
    return sum;
}

// The larger of the sums of positive and of negative codes, as a magnitude.
inline std::int32_t largest_sum(const std::int8_t* row, std::size_t count) {
    std::int32_t positive = 0;
    for (std::size_t i = 0; i < count; ++i) positive += std::max<int>(row[i], 0);
    return std::max(positive, positive - sum_of(row, count));
}

// What a path makes of a layer.
struct Prepared {
    Work work;
    std::string detail;
    std::vector<std::int32_t> offset;   // as far as there is one
    std::optional<double> largest_sum;  // a better bound of |sum|, where the weights were looked at for it
    std::size_t resident_bytes = 0;
    std::size_t scratch_bytes = 0;
    std::size_t overrun_bytes = kSlackBytes;
};

struct WinogradPath {
    const WinogradForm* form;
    const DotPath* dot;
};

// A way to run a convolution, and the estimated time of one thread for one image, from measured rates
// (docs/kernels.md).
struct Choice {
    std::variant<const DotPath*, const LutPath*, const PixelLutPath*, WinogradPath> path;
    double ns = 0;
    double weight_bytes = 0;  // that a pass reads
};

// The path that is estimated to be the fastest of those that the layer and its weights allow, or the one asked for.
Prepared prepare(const Layer& layer);

// For estimates, in nanoseconds: a multiply-accumulate whose operands reach `act_max` and `weight_max`.
double mac_ns(const Layer& layer, const DotPath& dot, int act_max, int weight_max);
const DotRates& dot_rates(const Layer& layer, const DotPath& dot);
// Of `weights` weights of `bytes` bytes with `rows` rows in `pieces` pieces.
double product_ns(const Layer& layer, double weights, double rows, double pieces, double mac, double bytes);

// Of each kind of path: whether a layer allows it, the estimate, and the work.
Choice dot_choice(const Layer& layer, const DotPath& dot);
Prepared prepare_dot(const Layer& layer, const DotPath& dot);
bool lut_fits(const Layer& layer, const LutPath& lut);
Choice lut_choice(const Layer& layer, const LutPath& lut);
Prepared prepare_lut(const Layer& layer, const LutPath& lut);
bool pixel_lut_fits(const Layer& layer);
Choice pixel_lut_choice(const Layer& layer, const PixelLutPath& lut);
Prepared prepare_pixel_lut(const Layer& layer, const PixelLutPath& lut);
bool winograd_fits(const Layer& layer, const WinogradForm& form);
Choice winograd_choice(const Layer& layer, const WinogradForm& form, const DotPath& dot);
// Nothing if the weights turn out not to allow it.
std::optional<Prepared> prepare_winograd(const Layer& layer, const WinogradForm& form, const DotPath& dot);
Prepared prepare_depthwise(const Layer& layer);

}  // namespace bitgear
