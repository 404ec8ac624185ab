// What a derived model is made of: byte buffers, and steps that go from one to others. Each step holds all that its
// kind of work needs, packed and measured out when the model is built (build.cpp); a pass only reads it (run_*.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "aligned.h"
#include "kernels.h"

namespace bitgear {

// Bytes of one reader: [height + borders][width + borders][channels padded to a multiple of 4], borders filled with
// `fill`.
struct Buffer {
    int height, width, channels;
    int top, left, bottom, right;
    int spare_bottom, spare_right;  // part of bottom and right: Winograd's last patches may reach over
    std::uint8_t fill;
    int pixel_bytes = 0;
    std::size_t image_bytes = 0;
    std::size_t offset = 0;  // in the arena
    int first_step = -1, last_step = -1;
    int row_step = 1;  // of its picture, only rows whose number is a multiple of this are read

    int row_pixels() const { return left + width + right; }
    std::size_t row_bytes() const {
        return static_cast<std::size_t>(row_pixels()) * static_cast<std::size_t>(pixel_bytes);
    }
    std::size_t pixel(int y, int x) const {  // y and x count from the picture's corner, borders are negative
        return static_cast<std::size_t>(top + y) * row_bytes() +
               static_cast<std::size_t>(left + x) * static_cast<std::size_t>(pixel_bytes);
    }
};

// A reader of a step's value: where its bytes go, from channel `channel` of the buffer on.
struct Output {
    int buffer;
    int channel;
    Quantizer quantizer;
};

struct Geometry {
    int kernel = 1, stride = 1, dilation = 1, groups = 1;
};

// Max pooling right behind a convolution. No window may lie wholly outside.
struct Pooling {
    int kernel = 0;  // 0: none
    int stride = 1, padding = 0;
    int height = 0, width = 0;  // of the result
};

struct Residual {
    int buffer = -1;  // -1: none
    float scale = 1;
    std::int32_t zero = 0;
};

// From sums to values. Vectors are padded, with a number for each channel.
struct Values {
    std::vector<float> multiplier, bias;  // bias may be empty
    std::vector<std::int32_t> offset;
    std::vector<float> quick;      // of each output that is quick: multiplier and bias over its scale
    float floor = 0, ceiling = 0;  // of the value
    Residual residual;
};

// Packed weights, and how windows are multiplied by them.
struct Product {
    const DotPath* dot = nullptr;
    int period = 0;  // DotTile::period
    AlignedBytes packed;
    std::size_t block_bytes = 0;  // of one packed block
    std::vector<Run> runs;
};

// Where the windows of a product lie: in the input or, of few channels, in woven rows, in a thread's own memory.
struct WindowPlaces {
    int kernel = 1, stride = 1, channels = 0;
    int woven_rows = 0;    // at hand at the same time; 0: windows lie in the input
    int woven_pixels = 0;  // of a row
    std::size_t woven = 0, woven_row_bytes = 0;
};

// The tiles of a product: of equal size rather than full ones and a small rest, or, of a path that reads stretches of
// places, as large as its stretches reach.
struct Tiles {
    int pixels = 0, count = 0;
    std::vector<int> starts;  // of a path that reads stretches: the first pixel of each, and one behind the last pixel

    int start(int tile) const {
        return starts.empty() ? static_cast<int>(static_cast<std::int64_t>(pixels) * tile / count)
                              : starts[static_cast<std::size_t>(tile)];
    }
};

struct DotWork {
    Product product;
    WindowPlaces windows;
    Tiles tiles;
};

// A product, then pooling.
struct PooledWork {
    Product product;
    WindowPlaces windows;
    Pooling pooling;
    int conv_height = 0, conv_width = 0;
    int row_pixels = 0;              // of a row of the convolution, with what pooling reads beside it
    std::vector<std::int32_t> flip;  // -1 for channels whose largest value has the least sum
};

struct LutWork {
    const LutPath* lut = nullptr;
    Geometry geometry;
    AlignedBytes packed;
    int groups = 0;  // of a pixel
    std::size_t block_bytes = 0;
    std::vector<Run> runs;
    int strip_rows = 1;
    std::size_t table_pixel_bytes = 0, table_row_bytes = 0, table_bytes = 0;
};

// How the indices of a strip of rows lie in a group's bytes: of a stride, each phase of rows and columns by itself.
struct PixelGrid {
    int row_pixels = 0;                // of a phase
    int phase_rows = 0;                // of a whole strip
    std::vector<std::int32_t> phases;  // [row's][column's]: first byte, or -1: none is read
};

// What belongs to the columns of a tile of look-ups in weights' tables.
struct PixelLutColumns {
    int first_stretch, stretch_count;
    bool narrow;
    std::ptrdiff_t results;  // where tables of their sums' bytes begin; -1: there are none
};

struct PixelLutWork {
    const PixelLutPath* lut = nullptr;
    Geometry geometry;
    AlignedBytes packed;
    int groups = 0;  // of a pixel
    std::size_t block_bytes = 0;
    int strip_rows = 1;
    PixelGrid grid;
    std::size_t index_group_bytes = 0, index_bytes = 0;
    std::vector<PixelLutColumns> columns_of;  // of each tile's columns
    std::vector<PixelLutStretch> stretches;
    AlignedBytes results;  // tables of sums' bytes
};

// Where a thread's own memory holds what a strip of Winograd's tiles needs, in bytes from its start.
struct WinogradScratch {
    std::size_t patch_bytes = 0, position_bytes = 0;  // patches: [position][tile][channels]
    std::size_t sums = 0;                             // [position][tile][columns]
    std::size_t acc = 0;                              // [pixel][columns]
};

struct WinogradWork {
    const WinogradForm* form = nullptr;
    const WinogradKernels* transforms = nullptr;
    const WinogradColumns* by_columns = nullptr;  // null: by positions
    Product product;
    int groups = 0;  // of a patch position
    std::uint8_t shifts[kMaxPositions] = {};
    int strip_tiles = 0;
    int tile_rows = 0;  // of a multiplication
    WinogradScratch scratch;
    std::vector<std::int32_t> correction;  // [group of blocks][n * m pixels][columns]
    std::vector<WinogradExcess> excess;    // [group of blocks][position]
    std::vector<Run> excess_runs;
    AlignedBytes excess_weights;
};

constexpr int kDepthwisePixels = 8;  // of a tile

struct DepthwiseWork {
    Geometry geometry;
    AlignedBytes packed;
    std::vector<std::int32_t> tap_offsets;
};

// Over a window.
struct SumWork {
    int height = 1, width = 1, stride = 1;
};

// Two source positions and their weights, which sum to kInterpolationOne.
struct Interpolation {
    int first, second;
    std::int32_t first_weight, second_weight;
};

constexpr std::int32_t kInterpolationOne = 128;

struct BilinearWork {
    std::vector<Interpolation> rows, columns;
};

// Codes of the picture, to bytes.
struct ImageWork {};

struct MaximumWork {
    int kernel = 1, stride = 1;
};

struct CopyWork {
    std::vector<int> source_y, source_x;
    int pad_channels = 0;  // zero channels on both sides
    std::uint8_t pad_byte = 0;
};

using Work = std::variant<ImageWork, DotWork, PooledWork, LutWork, PixelLutWork, WinogradWork, DepthwiseWork, SumWork,
                          BilinearWork, MaximumWork, CopyWork>;

struct Step {
    std::string name;    // of the graph's node
    std::string detail;  // the path taken
    double macs = 0;     // multiply-accumulates for one image
    int input = -1;
    int height = 1, width = 1, channels = 0;  // of the value
    int channel = 0;  // of the first channel in the value: not 0 in later parts of a grouped convolution
    std::vector<Output> outputs;
    std::vector<int> prefill;  // buffers first written here: their borders are filled
    bool result = false;
    int result_channels = 0;
    Values values;
    Work work;
    std::size_t resident_bytes = 0;           // of what the work was packed into
    std::size_t scratch_bytes = 0;            // of a thread's own memory
    std::size_t overrun_bytes = kSlackBytes;  // that may be read behind the arena, and behind a thread's own memory
};

}  // namespace bitgear
