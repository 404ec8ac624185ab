// From a picture to what a network reads, and from its logits to a mask: the loops over pixels around a network.
#pragma once

#include "pixel_kernels.h"

namespace bitgear {

constexpr int kMostShrinking = 4;

// A picture resized into an input and looked up: the whole of Letterbox.place and InputRecord.encode
// (bitgear/tasks/letterbox.py, bitgear/inputs.py).
struct Placement {
    const std::uint8_t* pixels;  // RGB, [height][width][3]
    int height, width;
    float box_height, box_width;  // of the picture, what is shown: from its upper left corner;
                                  // at most kMostShrinking times the content
    int content_height, content_width;
    int top, left;  // where the content lies in the input
    int input_height, input_width;
    const std::int8_t* table;  // codes [3][256]
    std::uint8_t bar[3];       // pixel around the content
};

// Writes codes, [3][input_height][input_width].
//
// Resizing is Pillow's bilinear filter (Resample.c), to the bit: weights in double precision, rounded to multiples of
// 2^-22, first across, then down, each pass rounded to bytes.
void place_picture(const PixelKernels& kernels, const Placement& placement, std::int8_t* codes);

// A picture averaged in blocks of `across` by `down` pixels, of which the last ones of a row and of a column may have
// less: Pillow's Image.reduce (Reduce.c), to the bit.
struct Reduction {
    const std::uint8_t* pixels;  // RGB, [height][width][3]
    int height, width;
    int across, down;  // at least 1; across * down at most kMostAveraged
};

constexpr int kMostAveraged = 1 << 24;  // 255 times as much is less than 2^32

// Writes [ceil(height / down)][ceil(width / across)][3].
void reduce_picture(const Reduction& reduction, std::uint8_t* averages);

// Along one axis of a mask, for each pixel: the cell before its centre, and how far it is towards the next one.
struct Samples {
    int pixels, cells;
    const std::int32_t* first;  // ascending, 0..cells - 1
    const float* share;
};

// Writes the class of every pixel, [y.pixels][x.pixels], of logits [classes][y.cells][x.cells]: class_mask of
// bitgear/tasks/segment.py.
void paint_mask(const PixelKernels& kernels, const float* logits, int classes, const Samples& y, const Samples& x,
                std::uint8_t* mask);

// Adds to counts[id], of 256 ids, how often each one stands in a mask.
void count_ids(const std::uint8_t* mask, std::size_t pixels, std::int64_t* counts);

}  // namespace bitgear
