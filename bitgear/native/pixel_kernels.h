// What an instruction set provides for the pixels before and behind a network (pictures.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitgear {

constexpr int kWeightHalf = 11;                            // bits of either half of a weight of a resized pixel
constexpr std::int32_t kWeightOne = 1 << 2 * kWeightHalf;  // the whole of such weights
constexpr int kMostStep = 5;                               // pixels from a resized pixel's first tap to the next one's
constexpr std::size_t kPixelSlackBytes = 128;              // behind a row of pixels
constexpr int kCellSlack = 32;                             // logits behind a row of cells

// A row of pixels of a mask that lies between two rows of cells. Pixels begin[cell]..begin[cell + 1] - 1 lie between a
// cell and the next one. Where cells are `wanted`, `pick` is 255 and the class is that of the largest logit,
// interpolated bilinearly: down by `down_share`, then across by the pixel's share. Elsewhere it is that of `flat`.
// `fine`: there is no cell without pixels between two that have some, and no eight pixels lie in eight cells. `first`:
// of each pixel, the cell before its centre, and of what lies behind the row, that of the last pixel.
// Rows of logits have kCellSlack behind them; first, share, pick, flat and ids have room for kPixelSlackBytes more.
struct MixedRow {
    const float *upper, *lower;
    std::size_t class_stride;
    int classes, cells, pixels;
    float down_share;
    bool fine;
    const int* begin;
    const std::int32_t* first;
    const float* share;
    const std::uint8_t *wanted, *pick, *flat;
    float* lines;       // room for 2 * classes * (cells + kCellSlack)
    std::uint8_t* ids;  // room for a row
};

// Plain functions on plain memory. Rows of pictures are of 3 bytes a pixel.
struct PixelKernels {
    // Packs what each pixel of a row resized across is made of, in `across_bytes` on a multiple of 4: `taps` pixels
    // from the `first` one on, ascending by at most kMostStep pixels, and their weights [pixel][taps], 0..kWeightOne.
    std::size_t (*across_bytes)(int pixels, int taps);
    void (*pack_across)(const std::int32_t* first, const std::int32_t* weight, int taps, int pixels,
                        std::uint8_t* packed);
    // out = (sum over taps of weight * tap) / kWeightOne, to the nearest, halves up. Reads up to 3 * taps +
    // kPixelSlackBytes beyond a row, writes up to kPixelSlackBytes.
    void (*across)(const std::uint8_t* row, const std::uint8_t* packed, int taps, int pixels, std::uint8_t* out);
    // The same down: every byte of `taps` rows with one weight a row.
    void (*down)(const std::uint8_t* const* rows, const std::int32_t* weight, int taps, int bytes, std::uint8_t* out);
    // planes[c][x] = table[c][row[x][c]].
    void (*look_up)(const std::uint8_t* row, const std::int8_t* table, int pixels, std::int8_t* const* planes);
    // Logits bounded to -1e30..1e30; what is no number is the least. Writes up to kCellSlack further.
    void (*bound)(const float* logits, int count, float* out);
    // For each of `count` cells the class of its largest logit, the lowest one of equals. Reads and writes up to
    // kPixelSlackBytes further.
    void (*largest)(const float* logits, std::size_t class_stride, int classes, int count, std::uint8_t* best);
    // The classes of a row of pixels.
    void (*mixed)(const MixedRow& row, std::uint8_t* out);
};

}  // namespace bitgear
