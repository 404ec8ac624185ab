// Work for each kernel of an instruction set, and how its times follow from those of the pieces.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "aligned.h"
#include "prepare.h"
#include "quantizer.h"
#include "rates.h"

namespace bitgear {

constexpr int kChannels = 128;
constexpr int kTaps = 3;                       // of a row of the window, and rows of it
constexpr int kShort = kChannels / kGroup;     // groups of one tap
constexpr int kLong = kTaps * kTaps * kShort;  // of a whole window
constexpr int kRowPixels = kMaxRows + kTaps;   // of the layer's input

// Pieces of work that are timed in turn, so that none has a worse time of the machine than the others.
class Stopwatch {
public:
    // Adds a piece of work that goes on `times` times in a row. Returns its number.
    std::size_t add(int times, std::function<void()> work) {
        pieces_.push_back({times, std::move(work), INFINITY});
        return pieces_.size() - 1;
    }

    void run(int rounds) {
        using Clock = std::chrono::steady_clock;
        for (int round = 0; round < rounds; ++round) {
            for (Piece& piece : pieces_) {
                const Clock::time_point start = Clock::now();
                for (int i = 0; i < piece.times; ++i) piece.work();
                const std::chrono::duration<double, std::nano> spent = Clock::now() - start;
                piece.least = std::min(piece.least, spent.count() / piece.times);
            }
        }
    }

    // Least nanoseconds of one time.
    double least(std::size_t number) const { return pieces_[number].least; }

private:
    struct Piece {
        int times;
        std::function<void()> work;
        double least;
    };
    std::vector<Piece> pieces_;
};

inline AlignedBytes noise(std::size_t bytes, std::uint8_t mask) {
    AlignedBytes memory(bytes);
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < bytes; ++i) {
        state = state * 1664525u + 1013904223u;
        memory.data()[i] = static_cast<std::uint8_t>(state >> 24) & mask;
    }
    return memory;
}

// An input of kTaps rows, and where a tile's windows begin.
struct Windows {
    AlignedBytes bytes;
    const std::uint8_t* first[kMaxRows + 1];
    Run runs[kTaps];

    Windows(std::size_t pixel_bytes, int groups, int rows, std::uint8_t mask, int row_pixels = kRowPixels)
        : bytes(noise(sz(kTaps * row_pixels) * pixel_bytes + kSlackBytes, mask)) {
        for (int r = 0; r <= rows; ++r) first[r] = bytes.data() + sz(std::min(r, rows - 1)) * pixel_bytes;
        for (int t = 0; t < kTaps; ++t)
            runs[t] = {static_cast<std::int32_t>(sz(t * row_pixels) * pixel_bytes), kTaps * groups};
    }
};

// What an epilogue of one reader needs.
struct Reader {
    static constexpr int kColumns = kMaxBlocks * kBlock;
    Quantizer quantizer{};
    const Quantizer* quantizers[1] = {&quantizer};
    std::vector<float> multiplier = std::vector<float>(kColumns, 1e-4f), quick = std::vector<float>(2 * kColumns);
    std::vector<std::int32_t> offset = std::vector<std::int32_t>(kColumns, 0);
    AlignedBytes bytes{sz((kMaxRows + 1) * kColumns)};
    std::uint8_t* out[kMaxRows + 1];
    EpilogueTile tile{};

    Reader(int rows, int columns) {
        quantizer.scale = 1.0f;
        quantizer.high = 255;
        quicken(quantizer, multiplier.data(), nullptr, kColumns, kColumns, 0.0f, 0, 1e8, quick.data(),
                quick.data() + kColumns);
        for (int r = 0; r <= rows; ++r) out[r] = bytes.data() + std::min(r, rows - 1) * kColumns;
        tile.rows = rows;
        tile.columns = columns;
        tile.acc_stride = columns;
        tile.offset = offset.data();
        tile.multiplier = multiplier.data();
        tile.floor = 0.0f;
        tile.ceiling = INFINITY;
        tile.outputs = 1;
        tile.quantizers = quantizers;
        tile.out = out;
    }
    Reader(const Reader&) = delete;
};

// A piece of work that ends in codes of one reader: in one go, where a path can do that.
template <class Path, class Tile>
void finish(const Path& path, const Isa& isa, const Tile& tile, EpilogueTile& reader) {
    if (path.run_quick != nullptr) {
        path.run_quick(tile, reader);
    } else {
        path.run(tile);
        isa.epilogue(reader);
    }
}

// A tile of full size of one path: a whole window, and one tap of it.
struct DotProbe {
    static constexpr int kWideningPeriod = 8;
    const DotPath& path;
    int inputs;     // activations of a group
    bool finishes;  // whether the path is used to the codes of a reader
    Windows windows;
    std::size_t block_bytes;
    AlignedBytes weights;
    AlignedBytes acc;
    std::vector<Run> runs;
    DotTile whole{}, tap{};
    Run one_tap{0, kShort};
    Reader reader;
    std::size_t whole_piece = 0, tap_piece = 0, widened_piece = 0, finished_piece = 0;

    DotProbe(const DotPath& dot, int group_inputs, bool to_codes)
        : path(dot),
          inputs(group_inputs),
          finishes(to_codes),
          windows(kChannels, kShort, dot.max_rows, 0xff),
          block_bytes(sz(kLong * dot.group_bytes) + kBlockTail),
          weights(noise(sz(dot.max_blocks) * block_bytes, 0xff)),
          acc(sizeof(std::int32_t) * kMaxRows * Reader::kColumns),
          reader(dot.max_rows, columns()) {
        whole.rows = dot.max_rows;
        whole.blocks = dot.max_blocks;
        whole.a = windows.first;
        whole.row_step = kChannels;
        for (const Run& run : windows.runs) add_runs(dot, run, runs);
        whole.runs = runs.data();
        whole.run_count = static_cast<int>(runs.size());
        whole.w = weights.data();
        whole.block_bytes = block_bytes;
        whole.period = dot.period == nullptr ? 0 : dot.period(1, 1);
        whole.acc = reinterpret_cast<std::int32_t*>(acc.data());
        tap = whole;
        if (dot.run_groups == 1) tap.runs = &one_tap;
        tap.run_count = dot.run_groups == 1 ? 1 : ceil_div(kShort, dot.run_groups);
        reader.tile.acc = whole.acc;
    }
    DotProbe(const DotProbe&) = delete;

    void add(Stopwatch& watch, const Isa& isa) {
        whole_piece = watch.add(4, [this] { path.run(whole); });
        tap_piece = watch.add(16, [this] { path.run(tap); });
        if (path.period != nullptr) {
            widened_piece = watch.add(4, [this] {
                DotTile tile = whole;
                tile.period = kWideningPeriod;
                path.run(tile);
            });
        }
        if (finishes) finished_piece = watch.add(16, [this, &isa] { finish(path, isa, tap, reader.tile); });
    }

    DotRates rates(const Stopwatch& watch) const {
        DotRates rates;
        const double macs = sums() * inputs;  // of a group
        const double of_whole = watch.least(whole_piece), of_tap = watch.least(tap_piece);
        rates.mac = (of_whole - of_tap) / (macs * (kLong - kShort));
        rates.call = of_tap - rates.mac * macs * kShort;
        if (path.period != nullptr)
            rates.widening = (watch.least(widened_piece) - of_whole) / (macs * kLong) * kWideningPeriod;
        if (finishes) rates.finish = (watch.least(finished_piece) - rates.mac * macs * kShort) / sums();
        return rates;
    }

    int columns() const { return path.max_blocks * kBlock; }
    double sums() const { return double(path.max_rows) * columns(); }
};

// Tiles side by side, whose tables the first cache does not hold together: they come from the second one, as a layer's
// do.
struct LutProbe {
    static constexpr int kTiles = 4;
    const LutPath& path;
    int groups;  // of a pixel
    AlignedBytes codes;
    Windows windows;
    AlignedBytes weights, acc, tables;
    LutTile whole{}, tap{};
    Run one_tap;
    Reader reader;
    std::size_t tiles_piece = 0, tap_piece = 0, tables_piece = 0, finished_piece = 0;

    explicit LutProbe(const LutPath& lut)
        : path(lut),
          groups(ceil_div(kChannels, lut.inputs)),
          codes(noise(sz(kMaxRows * kChannels) + kSlackBytes, 1)),
          windows(sz(groups * lut.table_bytes), groups, lut.max_rows, 0x07, kTiles * kMaxRows + kTaps),
          weights(noise(sz(kTaps * kTaps * groups * lut.group_bytes), 0x0f)),
          acc(sizeof(std::int32_t) * kMaxRows * kLutColumnsMax),
          tables(sz(kMaxRows * groups * lut.table_bytes)),
          one_tap{0, groups},
          reader(lut.max_rows, lut.columns) {
        whole.rows = lut.max_rows;
        whole.tables = windows.first;
        whole.runs = windows.runs;
        whole.run_count = kTaps;
        whole.w = weights.data();
        whole.acc = reinterpret_cast<std::int32_t*>(acc.data());
        tap = whole;
        tap.runs = &one_tap;
        tap.run_count = 1;
        reader.tile.acc = whole.acc;
    }
    LutProbe(const LutProbe&) = delete;

    void add(Stopwatch& watch, const Isa& isa) {
        tiles_piece = watch.add(1, [this] { run_tiles(); });
        tap_piece = watch.add(16, [this] { path.run(tap); });
        tables_piece = watch.add(4, [this] { path.tables(codes.data(), kMaxRows, kChannels, groups, tables.data()); });
        finished_piece = watch.add(16, [this, &isa] { finish(path, isa, tap, reader.tile); });
    }

    LutRates rates(const Stopwatch& watch) const {
        LutRates rates;
        const double macs = sums() * path.inputs * groups;
        const double of_tap = watch.least(tap_piece);
        rates.mac = (watch.least(tiles_piece) / kTiles - of_tap) / (macs * (kTaps * kTaps - 1));
        rates.call = of_tap - rates.mac * macs;
        rates.finish = std::max(0.0, watch.least(finished_piece) - of_tap) / sums();
        rates.table = watch.least(tables_piece) / (kMaxRows * groups);
        return rates;
    }

    double sums() const { return double(path.max_rows) * path.columns; }

    void run_tiles() {
        const std::uint8_t* first[kMaxRows];
        LutTile tile = whole;
        tile.tables = first;
        for (int t = 0; t < kTiles; ++t) {
            const std::size_t begin = sz(t * path.max_rows * groups * path.table_bytes);
            for (int r = 0; r < path.max_rows; ++r) first[r] = whole.tables[r] + begin;
            path.run(tile);
        }
    }
};

// A tile of full size: a whole window, whose sums are often widened, and one tap of it.
struct PixelLutProbe {
    static constexpr int kPixels = kPixelLutVectors * kPixelLutLanes, kGroups = ceil_div(kChannels, kPixelLutInputs);
    static constexpr int kCounted = 32;  // steps of trained weights that bytes can sum, about
    static constexpr std::size_t kGroupBytes = kPixels + kTaps * kTaps;
    const PixelLutPath& path;
    AlignedBytes codes, indices, weights, sums, bytes, results;
    std::vector<PixelLutStretch> whole_stretches;
    PixelLutStretch tap_stretch{0, kGroups, true};
    PixelLutTile whole{}, tap{}, single{};
    PixelLutPlaces places{};
    Reader reader;
    std::size_t whole_piece = 0, tap_piece = 0, single_piece = 0, finish_piece = 0, results_piece = 0, index_piece = 0;

    explicit PixelLutProbe(const PixelLutPath& lut)
        : path(lut),
          codes(noise(sz(kPixels * kChannels) + kSlackBytes, 3)),
          indices(noise(sz(kGroups) * kGroupBytes + kSlackBytes, 63)),
          weights(noise(sz(kTaps * kTaps * kGroups * kPixelLutColumns), 63)),
          sums(sz(2 * kPixels * kPixelLutColumns)),
          bytes(sz(kPixelLutLanes * kPixelLutColumns)),
          results(noise(sz(kPixelLutColumns * kPixelLutResults), 0xff)),
          reader(1, kPixelLutColumns) {
        for (int i = 0; i < kPixelLutLanes; ++i) places.out[0][i] = bytes.data() + i * kPixelLutColumns;
        for (int t = 0; t < kTaps * kTaps; ++t) {
            whole_stretches.push_back({t, kCounted, true});
            whole_stretches.push_back({t + kCounted * static_cast<int>(kGroupBytes), kGroups - kCounted, false});
        }
        whole_stretches.back().counts = true;
        whole.vectors = kPixelLutVectors;
        whole.blocks = kPixelLutColumns / kPixelLutChannels;
        whole.indices = indices.data();
        whole.group_bytes = kGroupBytes;
        whole.stretches = whole_stretches.data();
        whole.stretch_count = static_cast<int>(whole_stretches.size());
        whole.w = weights.data();
        whole.block_bytes = sz(kTaps * kTaps * kGroups * kPixelLutChannels);
        whole.sums = sums.data();
        tap = single = whole;
        tap.stretches = &tap_stretch;
        tap.stretch_count = 1;
        single.vectors = 1;
    }
    PixelLutProbe(const PixelLutProbe&) = delete;

    void add(Stopwatch& watch) {
        whole_piece = watch.add(1, [this] { path.run(whole); });
        tap_piece = watch.add(4, [this] { path.run(tap); });
        finish_piece = watch.add(4, [this] { finish(); });
        results_piece = watch.add(4, [this] { look_up(); });
        single_piece = watch.add(1, [this] { path.run(single); });
        index_piece = watch.add(
            4, [this] { path.index(codes.data(), kPixels, kChannels, kGroups, indices.data(), kGroupBytes); });
    }

    PixelLutRates rates(const Stopwatch& watch) const {
        PixelLutRates rates;
        const double macs = sums_made() * kGroups * kPixelLutInputs;  // of a tap
        const double of_tap = watch.least(tap_piece);
        rates.mac = (watch.least(whole_piece) - of_tap) / (macs * (kTaps * kTaps - 1));
        const double run = std::max(0.0, of_tap - rates.mac * macs);  // all but look-ups
        rates.finish = (run + watch.least(finish_piece)) / sums_made();
        rates.results = (run + watch.least(results_piece)) / sums_made();
        rates.single = (watch.least(single_piece) * kPixelLutVectors - run) / (macs * kTaps * kTaps);
        rates.index = watch.least(index_piece) / (kPixels * ceil_div(kGroups, kPixelLutIndexed) * kPixelLutIndexed);
        return rates;
    }

    static double sums_made() { return double(kPixels) * kPixelLutColumns; }

    void finish() {
        for (int v = 0; v < kPixelLutVectors; ++v) {
            path.finish({whole.sums + v * kPixelLutLanes, kPixels, kPixelLutColumns * kPixels}, reader.tile, places);
        }
    }

    void look_up() {
        for (int v = 0; v < kPixelLutVectors; ++v)
            path.look_up({whole.sums + v * kPixelLutLanes, kPixels, 0}, results.data(), reader.tile, places);
    }
};

// A form of Winograd's: patches side by side, and sums of tiles side by side.
struct FormProbe {
    static constexpr int kPatches = 8, kPixels = 16, kColumns = 2 * kBlock;
    const WinogradForm& form;
    const WinogradKernels& kernels;
    std::size_t patch_bytes;
    AlignedBytes input, patches, sums, correction, acc;
    std::uint8_t shifts[kMaxPositions] = {};
    WinogradSums out{};
    // Products of a column of weights that the first cache holds.
    static constexpr int kColumnChannels = kChannels / 2;
    AlignedBytes weights;
    WinogradExcess no_excess[kMaxPositions] = {};
    WinogradProducts products{};
    std::size_t patches_piece = 0, sums_piece = 0, products_piece = 0, output_piece = 0;

    FormProbe(const WinogradForm& f, const WinogradKernels& k)
        : form(f),
          kernels(k),
          patch_bytes(sz(kChannels * f.operand_bytes)),
          input(noise(sz((kMaxPatchSide + 1) * kPatches * kMaxTileSide * kChannels) + kSlackBytes, 1)),
          patches(sz(f.positions()) * position_bytes() + kSlackBytes),
          sums(noise(sizeof(std::int32_t) * sz(f.positions() * kPixels * kColumns), 1)),
          correction(noise(sizeof(std::int32_t) * sz(f.n * f.m * kColumns), 0)),
          acc(sizeof(std::int32_t) * sz(f.n * kMaxRows * kColumns)),
          weights(noise(sz(f.positions() * kColumnChannels * f.operand_bytes * kColumns), 0xff)) {
        out.tiles = kPixels / f.m;
        out.columns = kColumns;
        out.m = reinterpret_cast<const std::int32_t*>(sums.data());
        out.position_stride = sz(kPixels * kColumns);
        out.tile_stride = out.acc_stride = kColumns;
        out.correction = reinterpret_cast<const std::int32_t*>(correction.data());
        out.correction_stride = kColumns;
        out.acc = reinterpret_cast<std::int32_t*>(acc.data());
        products.tiles = k.columns == nullptr ? 0 : kPatches / k.columns->patches * k.columns->patches;
        products.blocks = kColumns / kBlock;
        products.groups = kColumnChannels * f.operand_bytes / kGroup;
        products.patches = patches.data();
        products.patch_bytes = patch_bytes;
        products.position_bytes = position_bytes();
        products.w = weights.data();
        products.block_bytes = sz(f.positions() * products.groups * kBlock * kGroup);
        products.excess = no_excess;
        products.sums = reinterpret_cast<std::int32_t*>(sums.data());
        products.position_stride = out.position_stride;
    }
    FormProbe(const FormProbe&) = delete;

    void add(Stopwatch& watch) {
        patches_piece = watch.add(4, [this] { transform_patches(); });
        sums_piece = watch.add(16, [this] { kernels.output(out); });
        if (kernels.columns == nullptr) return;
        products_piece = watch.add(4, [this] { kernels.columns->run(products); });
        output_piece = watch.add(16, [this] { kernels.columns->output(out); });
    }

    // `mac`: nanoseconds of a multiplication by itself.
    FormRates rates(const Stopwatch& watch, int vector_bytes, double mac) const {
        FormRates rates;
        rates.patch = watch.least(patches_piece) / patch_vectors(vector_bytes);
        rates.sums = watch.least(sums_piece) / sum_vectors(vector_bytes, out.tiles);
        if (kernels.columns == nullptr) return rates;
        rates.columns =
            (watch.least(products_piece) - mac * column_macs()) / sum_vectors(vector_bytes, products.tiles) +
            watch.least(output_piece) / sum_vectors(vector_bytes, out.tiles);
        return rates;
    }

    std::size_t position_bytes() const { return kPatches * patch_bytes + kPositionGap; }
    void transform_patches() {
        const std::size_t row_bytes = sz((kPatches + 1) * kMaxTileSide * kChannels);
        for (int i = 0; i < kPatches; ++i) {
            kernels.input(input.data() + sz(i * form.m * form.stride * kChannels), row_bytes, kChannels, kChannels,
                          shifts, patches.data() + sz(i) * patch_bytes, position_bytes());
        }
    }
    double patch_vectors(int vector_bytes) const {
        return double(kPatches * form.positions()) * ceil_div(kChannels * form.operand_bytes, vector_bytes);
    }
    double column_macs() const { return double(products.tiles * form.positions()) * kColumns * kColumnChannels; }
    double sum_vectors(int vector_bytes, int tiles) const {
        return double(tiles * form.sums()) * kColumns * double(sizeof(std::int32_t)) / vector_bytes;
    }
};

}  // namespace bitgear
