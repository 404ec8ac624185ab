// What an instruction set provides: plain functions on plain memory, no Python, no allocation, no state.
//
// Everything is written once in generic.h and compiled once for each instruction set; what takes most of the time has
// hand-written versions beside it: multiplications, what makes bytes of their sums, Winograd's transforms, pictures. An
// instruction set is chosen at run time (dispatch.h).
//
// Activations are bytes, [row][column][channel], channels padded to a multiple of 4. A byte holds `code + zero`,
// where `zero` is 0 for unsigned codes and 2^(bits-1) for signed ones; the constant `zero * sum of weights` is taken
// off again in the epilogue (`offset`). Buffers have kSlackBytes readable bytes behind them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pixel_kernels.h"
#include "winograd.h"

namespace bitgear {

constexpr int kGroup = 4;                 // input channels that one 32-bit lane multiplies
constexpr int kBlock = 16;                // output channels that are packed together
constexpr std::size_t kSlackBytes = 128;  // readable behind every buffer: vectors may read past the last channel
constexpr int kMaxRows = 64;              // pixels of a tile, at most
constexpr int kMaxBlocks = 8;             // kBlock-wide columns of a tile, at most
constexpr int kMaxOutputs = 16;           // readers of one value, at most
constexpr int kLutColumnsMax = 64;        // output channels of a look-up tile, at most
// Between the positions of patches: without it they often lie a multiple of 4096 bytes apart, in one set of the cache.
constexpr std::size_t kPositionGap = 64;
constexpr std::size_t kBlockTail =
    kBlock * sizeof(std::int32_t);  // room behind the groups of a packed block, the path's own

// One reader of a value: byte = clip(round_half_even(y / scale), low, high) + zero. A ReLU and a clip of the value are
// in the bounds: quantisation is monotone, so clip(q(y)) = q(clip(y)).
//
// sum * multiplier + bias + residual byte * residual_scale, rounded to a whole number of 65536ths x, is the quick
// quotient: x >> 16, clipped, is the byte unless the lowest 16 bits of x are at most `window`, which means that it lies
// so near a rounding boundary that the documented chain of operations must be gone through (quantizer.h proves it).
// Where `quick` is false that holds for no useful window. `bounded`: no x exceeds kFixedMost, since no |sum| reaches
// `most_sum`. `inverts`: of all y, y * inverse + y * inverse_lack, the latter rounded first, rounds to the same code as
// y / scale does; together they are as near 1 / scale as two floats can be.
struct Quantizer {
    float scale, inverse, inverse_lack;
    std::int32_t low, high, zero;
    bool quick, bounded;
    bool inverts;
    std::int32_t window;
    double most_sum;
    const float* multiplier;  // of each channel, in 65536ths of the scale
    const float* bias;
    float residual_scale;
};

constexpr double kFixedOne = 65536.0;
constexpr float kFixedMost = 2147418112.0f;  // 32767 * 65536

// From sums to the bytes of the readers, docs/format.md "Arithmetic". Channel arrays are padded to kBlock and, like the
// pointers to pixels, begin with channel 0; `acc` begins with channel `column`.
// y = float(acc + offset) * multiplier [+ bias] [+ float(residual byte - residual_zero) * residual_scale]. The zero of
// a residual is 0 or a power of two.
struct EpilogueTile {
    int rows;
    int column;   // first channel
    int columns;  // valid channels
    const std::int32_t* acc;
    int acc_stride;
    const std::int32_t* offset;
    const float* multiplier;
    const float* bias;                    // null: none
    const std::uint8_t* const* residual;  // a pointer for each row; null: none
    float residual_scale;
    std::int32_t residual_zero;
    float floor, ceiling;  // of values written as floats
    int outputs;
    const Quantizer* const* quantizers;
    std::uint8_t* const* out;  // [output][kMaxRows] pointers
    float* const* floats;      // a pointer for each row; null: none
};

// A contiguous stretch of a window: `groups` groups from `offset` bytes behind the window's first byte.
struct Run {
    std::int32_t offset;
    std::int32_t groups;
};

// Multiplication of bytes: acc[r][c] = sum over all groups g and k < 4 of a[r][g][k] * w[c][g][k], exactly.
// `a`: `rows` pointers to windows, ascending; `row_step`: from a window to the one of the next pixel in its row of the
// picture, 0 if there is one pixel; `w`: `blocks` packed blocks, `block_bytes` apart; `acc`: [rows][blocks * kBlock].
// `period`: after how many groups 16-bit sums must be widened (paths with such sums only).
struct DotTile {
    int rows;
    int blocks;
    const std::uint8_t* const* a;
    std::size_t row_step;
    const Run* runs;
    int run_count;
    const std::uint8_t* w;
    std::size_t block_bytes;
    int period;
    bool alone;  // no other tile is multiplied with these weights
    std::int32_t* acc;
};

struct DotPath {
    const char* name;
    int max_rows;
    int max_blocks;
    int group_bytes;  // packed bytes of one group of one block
    // Whether the path is exact for activation bytes 0..act_max and weights -weight_max..weight_max (weight_max up to
    // 128); where weights take less than a byte (group_bytes), which are then codes, up to weight_max - 1.
    bool (*exact)(int act_max, int weight_max);
    // Groups that may be summed before widening; 0: the path has no period.
    int (*period)(int act_max, int weight_max);
    // Packs `groups` groups of kBlock rows of codes, `row_bytes` apart.
    void (*pack)(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed);
    void (*run)(const DotTile& tile);
    // The same and the epilogue of `to`, whose sums are those of `tile`: they stay near by, `acc` of neither counts.
    // For up to `quick_outputs` outputs, all bounded, and no floats. May read and write a row more: the pointers to
    // rows, of both, end with the last row's a second time if there is room. Null: there is no such function.
    void (*run_quick)(const DotTile& tile, const EpilogueTile& to);
    // 0: windows may lie anywhere. Else they are read in stretches of so many, `row_step` apart; a stretch is read to
    // its end wherever its last row is.
    int places = 0;
    // To how many groups packed weights fill up each run, with zeros, if that is more than one; no run has more. As
    // many of each window are read.
    int run_groups = 1;
    int quick_outputs = 2;
    bool inverts = false;  // run_quick goes by Quantizer::inverse, which all must allow
};

// Multiplication by table look-up, for weights of `planes` bits and activation bytes 0..max_act: a table holds the sums
// of all subsets of `inputs` activations, a weight's bit plane is an index into it. Tables:
// [pixel][group][table_bytes]. Packed weights: [column block][group][group_bytes].
struct LutTile {
    int rows;
    const std::uint8_t* const* tables;  // first table of each window
    const Run* runs;                    // offset in table bytes, groups of `inputs`
    int run_count;
    const std::uint8_t* w;  // one column block
    std::int32_t* acc;      // [rows][columns]
};

struct LutPath {
    const char* name;
    int planes;
    int columns;
    int inputs;
    int table_bytes;
    int group_bytes;  // packed bytes of one group of one column block
    int max_rows;
    int max_act;  // largest activation byte
    void (*tables)(const std::uint8_t* codes, int pixels, std::size_t pixel_bytes, int groups, std::uint8_t* tables);
    // Packs `groups` groups of `columns` rows of codes, `row_bytes` apart; `inputs` codes a group. May read 64 bytes
    // further.
    void (*pack)(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed);
    void (*run)(const LutTile& tile);
    // The same and the epilogue of `to`, as DotPath's, of at most `quick_groups` groups in all. Null: there is none.
    int quick_groups;
    void (*run_quick)(const LutTile& tile, const EpilogueTile& to);
};

// Multiplication by look-up in the tables of weights, for weights of 2 bits and activation bytes 0..3: lanes are
// pixels. Three activations of a pixel are an index byte: group g of G has those of input channels g, G + g and 2 G +
// g. Indices lie in rows of pixels, one for each group. Packed weights: [block of channels][step], steps being
// [tap][group].
constexpr int kPixelLutBits = 2, kPixelLutMaxAct = 3;
constexpr int kPixelLutInputs = 3;     // activations of an index byte
constexpr int kPixelLutLanes = 64;     // pixels of a vector
constexpr int kPixelLutVectors = 3;    // of a tile, at most
constexpr int kPixelLutChannels = 4;   // of a block, a byte of each in a step
constexpr int kPixelLutIndexed = 16;   // groups whose indices are made together
constexpr int kPixelLutColumns = 64;   // output channels of a tile, at most
constexpr int kPixelLutMostSum = 255;  // what sums may grow by between two counts of their carries
constexpr int kPixelLutOutputs = 4;    // that sums become bytes for at once
constexpr int kPixelLutResults = 128;  // sums of a channel whose bytes a table may hold

// Steps from one group to the next.
struct PixelLutStretch {
    std::int32_t offset;  // of the first one's indices, in bytes
    std::int32_t steps;
    bool counts;  // carries must be counted behind it; the last one's are
};

struct PixelLutTile {
    int vectors;
    int blocks;
    bool narrow;                  // no sum passes 255: high bytes are left alone
    const std::uint8_t* indices;  // of the first pixel
    std::size_t group_bytes;      // from group to group
    const PixelLutStretch* stretches;
    int stretch_count;
    const std::uint8_t* w;
    std::size_t block_bytes;
    std::uint8_t* sums;  // low bytes [kPixelLutColumns][vectors][kPixelLutLanes], then high ones; on a multiple of 64
};

// Sums of a vector of pixels, on multiples of 64.
struct PixelLutSums {
    const std::uint8_t* low;
    std::size_t stride;  // from channel to channel
    std::size_t high;    // from low bytes to high ones; 0: there are none
};

// Where the bytes of each lane go, and where its residual is if there is one: from channel 0 on. Lanes that are no
// pixels of the result have a place of their own.
struct PixelLutPlaces {
    std::uint8_t* out[kPixelLutOutputs][kPixelLutLanes];
    std::uint8_t* residual[kPixelLutLanes];
};

// Sums are those of products, and kPixelLutMaxAct times what is negative of a channel's weights more.
struct PixelLutPath {
    const char* name;
    // Index bytes of some pixels, whole vectors of them. Of inputs that there are not any bytes may be read, and an
    // index's bits are of any value, as its two highest ones are.
    void (*index)(const std::uint8_t* codes, int pixels, std::size_t pixel_bytes, int groups, std::uint8_t* indices,
                  std::size_t group_bytes);
    // Packs a block: kPixelLutChannels rows of codes [tap][3 * groups]. May read 16 bytes further.
    void (*pack)(const std::int8_t* codes, std::size_t row_bytes, int taps, int groups, std::uint8_t* packed);
    void (*run)(const PixelLutTile& tile);
    // From sums to bytes, of a vector. Of the epilogue, columns, constants and quantizers count: up to
    // kPixelLutOutputs, all bounded; no floats; with a residual if its pointer is not null. May read 15 bytes more of
    // that.
    void (*finish)(const PixelLutSums& sums, const EpilogueTile& to, const PixelLutPlaces& places);
    // The same of sums that have tables, [output][kPixelLutColumns][kPixelLutResults]; of the epilogue, columns and the
    // number of outputs count.
    void (*look_up)(const PixelLutSums& sums, const std::uint8_t* tables, const EpilogueTile& to,
                    const PixelLutPlaces& places);
};

// Depthwise convolution: acc[p][c] = sum over taps of a[p][tap_offsets[tap] + c] * w[tap][c]. In acc, channels are
// padded to kBlock.
struct DepthwiseTile {
    int pixels;
    const std::uint8_t* const* a;
    int taps;
    const std::int32_t* tap_offsets;
    int channels;
    const std::uint8_t* w;  // packed
    std::int32_t* acc;      // [pixels][padded channels]
};

// Rows of a picture of few channels, below each other, to one: [pixel][row][channel]. A window over all of these rows
// is then one stretch of bytes, without padding.
struct Weaving {
    int rows, channels, pixels;
    const std::uint8_t* from;  // pixels of kGroup bytes; up to 32 bytes more are read
    std::size_t row_bytes;
    std::uint8_t* out;  // up to kSlackBytes more are written
};

// Where the bytes of an area of pixels are.
template <class Byte>
struct Area {
    Byte* first;
    std::size_t row_bytes, pixel_bytes;  // from row to row and from pixel to pixel
};

// An area of a depthwise convolution of 3 x 3 taps, and where its bytes go.
struct DepthwiseArea {
    int rows, pixels;               // pixels of each row
    Area<const std::uint8_t> from;  // begins with the window of the first pixel
    int stride;
    int channels;
    const std::uint8_t* w;         // packed
    const Area<std::uint8_t>* to;  // of each output
};

struct DepthwisePath {
    std::size_t (*packed_bytes)(int taps, int padded);
    // Packs [taps][padded] weights.
    void (*pack)(const std::int8_t* w, int taps, int padded, std::uint8_t* packed);
    void (*run)(const DepthwiseTile& tile);
    // Sums and bytes at once. Of the epilogue, constants and quantizers count: one or two, all bounded; no residual and
    // no floats; stride 1 or 2. Null: there is no such function.
    void (*run_quick)(const DepthwiseArea& area, const EpilogueTile& constants);
};

// Max pooling of sums, of windows side by side. `rows`: [pixel][columns], each begins with the first window. Of some
// columns the least is wanted: there `flip` is -1, else 0.
struct SumsPooling {
    const std::int32_t* const* rows;
    int row_count;       // up to `kernel`: fewer where windows reach beyond the borders
    int kernel, stride;  // pixels of a window, and from one to the next
    int windows;
    int columns;  // a multiple of kBlock
    const std::int32_t* flip;
    std::int32_t* out;  // [window][columns]
};

// What was cut off from the weights of one position, of the blocks that are multiplied together: groups of channels
// with weights of their own, one more for some of those that a patch position has.
struct WinogradExcess {
    int count;
    const Run* runs;        // one group each
    const std::uint8_t* w;  // packed for the multiplication, as a DotTile's
    std::size_t block_bytes;
};

// The multiplication amid a form of Winograd's, of patches of some tiles.
struct WinogradProducts {
    int tiles;   // up to kMaxRows
    int blocks;  // up to the multiplication's max_blocks
    int groups;  // of a patch position
    const std::uint8_t* patches;
    std::size_t patch_bytes, position_bytes;  // from tile to tile, from position to position
    const std::uint8_t* w;
    std::size_t block_bytes;       // of all positions of a block
    const WinogradExcess* excess;  // of each position
    std::int32_t* sums;            // [of a tile][tiles][blocks * kBlock]; by columns [n][m + 2] of a tile
    std::size_t position_stride;   // of those of a tile
};

// Such sums of tiles side by side to the pixels that they make: acc [n][tiles * m][columns]. `correction`: [n *
// m][columns], taken off before the division; it holds the offset too.
struct WinogradSums {
    int tiles;
    int columns;
    const std::int32_t* m;
    std::size_t position_stride, tile_stride;
    const std::int32_t* correction;
    std::size_t correction_stride;
    std::int32_t* acc;
    std::size_t acc_stride;
};

// The pixels that tiles side by side make, as many as there are, and where their bytes go.
struct WinogradPixels {
    int rows, pixels;              // up to n, up to tiles * m
    const Area<std::uint8_t>* to;  // of each output
    Area<const std::uint8_t> residual;
};

// Sums to bytes without a way through memory. Of the epilogue, constants but its offset count, and quantizers: one or
// two, all bounded; no floats; with a residual if its pointer is not null. Where operands are bytes, no sum times the
// odd part of the divisor leaves 2^24.
using WinogradQuick = void (*)(const WinogradSums& sums, const EpilogueTile& constants, const WinogradPixels& pixels);

// Multiplication of all positions of a column of patches at a time, which transforms their sums back downwards while
// they are in registers: n rows of sums leave it instead of n + 2. For layers whose weights of a column the first cache
// holds.
struct WinogradColumns {
    int patches;  // that are multiplied at once; tiles had better be a multiple of it
    // Packs weights of kBlock channels, `row_bytes` apart, each [position][groups].
    void (*pack)(const std::int8_t* weights, std::size_t row_bytes, int groups, std::uint8_t* packed);
    void (*run)(const WinogradProducts& products);
    void (*output)(const WinogradSums& sums);
    WinogradQuick output_quick;
};

// Winograd's transforms for one form of winograd.h, of (n + 2) * (m + 2) positions; operands are bytes or 16 bits.
struct WinogradKernels {
    // A patch of `channels` bytes a pixel to its positions, `position_bytes` apart, each with its shift added (bytes
    // only). Reads and writes whole vectors: up to 32 bytes further, and whole 64 bytes.
    void (*input)(const std::uint8_t* a, std::size_t row_bytes, std::size_t pixel_bytes, int channels,
                  const std::uint8_t* shifts, std::uint8_t* v, std::size_t position_bytes);
    void (*output)(const WinogradSums& sums);  // all of a tile's
    WinogradQuick output_quick;                // null: there is no such function
    // Codes [9][channels] to weights [position][channels]; bytes are clipped to -127..127. Returns the largest
    // magnitude before clipping. Channels are a multiple of kGroup; reads and writes up to 64 bytes further.
    int (*weights)(const std::int8_t* codes, int channels, void* out);
    const WinogradColumns* columns;  // null: there is no such way
};

// An instruction set. For Winograd's transforms see winograd.h.
struct Isa {
    const char* name;
    const DotPath* dots;
    int dot_count;
    const LutPath* luts;
    int lut_count;
    const PixelLutPath* pixel_lut;  // null: there is none
    const DotPath* words;  // multiplies signed 16-bit operands, kGroup bytes are two of them; null: there is none
    DepthwisePath depthwise;
    void (*epilogue)(const EpilogueTile& tile);
    WinogradKernels winograd[kWinogradForms];
    // Codes of a row of the picture from planes to pixels of 4 bytes, the last one 0, with zero 128.
    void (*interleave)(const std::int8_t* red, const std::int8_t* green, const std::int8_t* blue, int pixels,
                       std::uint8_t* out);
    void (*weave)(const Weaving& weaving);
    // out[i] = max over `count` sources.
    void (*maximum)(const std::uint8_t* const* sources, int count, int bytes, std::uint8_t* out);
    // The same for sums, of windows side by side.
    void (*extreme)(const SumsPooling& pooling);
    // acc[i] = sum over `count` sources of weights[s] * source[s][i]; weights null: all 1.
    void (*weighted_sum)(const std::uint8_t* const* sources, const std::int32_t* weights, int count, int channels,
                         std::int32_t* acc);
    // Double rounding of master codes to a width (bitgear/rounding.py).
    void (*derive)(const std::int8_t* q8, std::size_t count, int bits, std::int8_t* codes);
    // From codes [channels][taps] to [taps][row_channels]; what lies beyond `channels` is left alone.
    void (*transpose_taps)(const std::int8_t* codes, int channels, int taps, std::size_t row_channels,
                           std::int8_t* out);
    // Pointers to `count` places `step` bytes apart.
    void (*addresses)(const void* first, std::size_t step, int count, void* out);
    int vector_bytes;
    PixelKernels pixels;
    // What a thread calls before it multiplies and when it is done. Null: nothing.
    void (*enter)() = nullptr;
    void (*leave)() = nullptr;
    // Whether a quantizer may go by its inverse (Quantizer::inverts). Null: no function asks for that.
    bool (*inverts)(const Quantizer& quantizer) = nullptr;
};

}  // namespace bitgear
