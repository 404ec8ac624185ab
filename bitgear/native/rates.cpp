// Measuring the kernels of an instruction set, as a 3x3 layer over 128 channels sees them.
#include "rates.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>

#include "aligned.h"
#include "prepare.h"
#include "quantizer.h"

namespace bitgear {
namespace {

constexpr int kChannels = 128;
constexpr int kTaps = 3;                                     // of a row of the window, and rows of it
constexpr int kShort = kChannels / kGroup;                   // groups of one tap
constexpr int kLong = kTaps * kTaps * kShort;                // of a whole window
constexpr int kRowPixels = kMaxRows + kTaps;                 // of the layer's input
constexpr std::size_t kStreamBytes = std::size_t{32} << 20;  // more than caches keep of a model that others run beside
constexpr int kEpilogueRows = 8;
constexpr int kRounds = 32;
constexpr int kStreamRounds = 3;

// Visits all times of a set with their names.
template <class R, class Visit>
void each(const Isa& isa, R& rates, Visit visit) {
    const auto of_dot = [&](const DotPath& path, auto& dot) {
        const std::string name = path.name;
        visit(name + " mac", dot.mac);
        if (path.period != nullptr) visit(name + " widening", dot.widening);
        visit(name + " call", dot.call);
    };
    for (int i = 0; i < isa.dot_count; ++i) {
        of_dot(isa.dots[i], rates.dots[sz(i)]);
        visit(std::string(isa.dots[i].name) + " finish", rates.dots[sz(i)].finish);
    }
    if (isa.words != nullptr) of_dot(*isa.words, rates.words);
    for (int i = 0; i < isa.lut_count; ++i) {
        const std::string name = isa.luts[i].name;
        visit(name + " mac", rates.luts[sz(i)].mac);
        visit(name + " table", rates.luts[sz(i)].table);
        visit(name + " call", rates.luts[sz(i)].call);
        visit(name + " finish", rates.luts[sz(i)].finish);
    }
    if (isa.pixel_lut != nullptr) {
        const std::string name = isa.pixel_lut->name;
        visit(name + " mac", rates.pixel_lut.mac);
        visit(name + " single", rates.pixel_lut.single);
        visit(name + " index", rates.pixel_lut.index);
        visit(name + " finish", rates.pixel_lut.finish);
        visit(name + " results", rates.pixel_lut.results);
    }
    for (int i = 0; i < kWinogradForms; ++i) {
        const std::string name = kWinograd[i].name;
        visit(name + " patch", rates.forms[i].patch);
        visit(name + " sums", rates.forms[i].sums);
        if (isa.winograd[i].columns != nullptr) visit(name + " columns", rates.forms[i].columns);
    }
    visit("epilogue", rates.epilogue);
    visit("stream", rates.stream);
}

Rates empty(const Isa& isa) {
    Rates rates;
    rates.dots.resize(sz(isa.dot_count));
    rates.luts.resize(sz(isa.lut_count));
    return rates;
}

// To three digits, which is more than two measurements agree in.
double rounded(double ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", std::max(ns, 0.0));
    return std::strtod(text, nullptr);
}

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

AlignedBytes noise(std::size_t bytes, std::uint8_t mask) {
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

// A tile of full size of one path: a whole window, and one tap of it.
struct DotProbe {
    const DotPath& path;
    Windows windows;
    std::size_t block_bytes;
    AlignedBytes weights;
    AlignedBytes acc;
    std::vector<Run> runs;
    DotTile whole{}, tap{};
    Run one_tap{0, kShort};
    Reader reader;

    explicit DotProbe(const DotPath& dot)
        : path(dot),
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

    int columns() const { return path.max_blocks * kBlock; }
    double sums() const { return double(path.max_rows) * columns(); }
};

constexpr int kWideningPeriod = 8;

// How the times of a path follow from those of its pieces, whose numbers are here.
struct DotPieces {
    std::size_t whole, tap, widened, finished;
};

DotPieces add_dot(Stopwatch& watch, const Isa& isa, DotProbe& probe, bool finishes) {
    DotPieces pieces{};
    pieces.whole = watch.add(4, [&probe] { probe.path.run(probe.whole); });
    pieces.tap = watch.add(16, [&probe] { probe.path.run(probe.tap); });
    if (probe.path.period != nullptr) {
        pieces.widened = watch.add(4, [&probe] {
            DotTile tile = probe.whole;
            tile.period = kWideningPeriod;
            probe.path.run(tile);
        });
    }
    if (finishes) {
        pieces.finished = watch.add(16, [&probe, &isa] {
            if (probe.path.run_quick != nullptr) {
                probe.path.run_quick(probe.tap, probe.reader.tile);
            } else {
                probe.path.run(probe.tap);
                isa.epilogue(probe.reader.tile);
            }
        });
    }
    return pieces;
}

// `inputs`: activations of a group.
DotRates dot_rates(const Stopwatch& watch, const DotProbe& probe, const DotPieces& pieces, int inputs, bool finishes) {
    DotRates rates;
    const double macs = probe.sums() * inputs;  // of a group
    const double whole = watch.least(pieces.whole), tap = watch.least(pieces.tap);
    rates.mac = (whole - tap) / (macs * (kLong - kShort));
    rates.call = tap - rates.mac * macs * kShort;
    if (probe.path.period != nullptr)
        rates.widening = (watch.least(pieces.widened) - whole) / (macs * kLong) * kWideningPeriod;
    if (finishes) rates.finish = (watch.least(pieces.finished) - rates.mac * macs * kShort) / probe.sums();
    return rates;
}

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
        whole.act_max = 1;
        whole.acc = reinterpret_cast<std::int32_t*>(acc.data());
        tap = whole;
        tap.runs = &one_tap;
        tap.run_count = 1;
        reader.tile.acc = whole.acc;
    }
    LutProbe(const LutProbe&) = delete;

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

}  // namespace

NamedTimes named(const Isa& isa, const Rates& rates) {
    NamedTimes times;
    each(isa, rates, [&](const std::string& name, double ns) { times[name] = ns; });
    return times;
}

Rates rates_of(const Isa& isa, const NamedTimes& times) {
    NamedTimes left = times;
    Rates rates = empty(isa);
    each(isa, rates, [&](const std::string& name, double& ns) {
        const auto found = left.find(name);
        if (found == left.end() || !(found->second >= 0) || !std::isfinite(found->second))
            throw std::invalid_argument("the rate '" + name + "' is missing or no time");
        ns = found->second;
        left.erase(found);
    });
    if (!left.empty()) throw std::invalid_argument("the rate '" + left.begin()->first + "' is unknown");
    return rates;
}

Rates measure_rates(const Isa& isa) {
    if (isa.enter != nullptr) isa.enter();
    Stopwatch watch;
    std::vector<std::unique_ptr<DotProbe>> dots;
    std::vector<DotPieces> dot_pieces;
    std::vector<std::unique_ptr<LutProbe>> luts;
    std::vector<std::size_t> lut_pieces;  // the first one of each
    std::unique_ptr<PixelLutProbe> pixel_lut;
    std::size_t pixel_lut_pieces = 0;
    std::vector<std::unique_ptr<FormProbe>> forms;
    std::vector<std::size_t> form_pieces;
    for (int i = 0; i < isa.dot_count; ++i) {
        dots.push_back(std::make_unique<DotProbe>(isa.dots[i]));
        dot_pieces.push_back(add_dot(watch, isa, *dots.back(), true));
    }
    if (isa.words != nullptr) {
        dots.push_back(std::make_unique<DotProbe>(*isa.words));
        dot_pieces.push_back(add_dot(watch, isa, *dots.back(), false));
    }
    for (int i = 0; i < isa.lut_count; ++i) {
        luts.push_back(std::make_unique<LutProbe>(isa.luts[i]));
        LutProbe* probe = luts.back().get();
        lut_pieces.push_back(watch.add(1, [probe] { probe->run_tiles(); }));
        watch.add(16, [probe] { probe->path.run(probe->tap); });
        watch.add(4, [probe] {
            probe->path.tables(probe->codes.data(), kMaxRows, kChannels, probe->groups, probe->tables.data());
        });
        watch.add(16, [probe, &isa] {
            if (probe->path.run_quick != nullptr) {
                probe->path.run_quick(probe->tap, probe->reader.tile);
            } else {
                probe->path.run(probe->tap);
                isa.epilogue(probe->reader.tile);
            }
        });
    }
    if (isa.pixel_lut != nullptr) {
        pixel_lut = std::make_unique<PixelLutProbe>(*isa.pixel_lut);
        PixelLutProbe* probe = pixel_lut.get();
        pixel_lut_pieces = watch.add(1, [probe] { probe->path.run(probe->whole); });
        watch.add(4, [probe] { probe->path.run(probe->tap); });
        watch.add(4, [probe] { probe->finish(); });
        watch.add(4, [probe] { probe->look_up(); });
        watch.add(1, [probe] { probe->path.run(probe->single); });
        watch.add(4, [probe] {
            probe->path.index(probe->codes.data(), PixelLutProbe::kPixels, kChannels, PixelLutProbe::kGroups,
                              probe->indices.data(), PixelLutProbe::kGroupBytes);
        });
    }
    for (int i = 0; i < kWinogradForms; ++i) {
        forms.push_back(std::make_unique<FormProbe>(kWinograd[i], isa.winograd[i]));
        FormProbe* probe = forms.back().get();
        form_pieces.push_back(watch.add(4, [probe] { probe->transform_patches(); }));
        watch.add(16, [probe] { probe->kernels.output(probe->out); });
        if (probe->kernels.columns == nullptr) continue;
        watch.add(4, [probe] { probe->kernels.columns->run(probe->products); });
        watch.add(16, [probe] { probe->kernels.columns->output(probe->out); });
    }
    DotProbe& first = *dots.front();
    Reader reader(kEpilogueRows, 2 * kBlock);
    reader.tile.acc = first.whole.acc;
    const std::size_t epilogue = watch.add(32, [&] { isa.epilogue(reader.tile); });
    watch.run(kRounds);

    // One row leaves nothing else to wait for than the weights.
    Stopwatch slow;
    const std::size_t step = sz(first.path.max_blocks) * first.block_bytes;
    const AlignedBytes far(kStreamBytes);
    std::memset(far.data(), 1, far.size());
    const std::size_t stream = slow.add(1, [&] {
        DotTile tile = first.whole;
        tile.rows = 1;
        for (std::size_t at = 0; at + step <= kStreamBytes; at += step) {
            tile.w = far.data() + at;
            first.path.run(tile);
        }
    });
    slow.run(kStreamRounds);
    if (isa.leave != nullptr) isa.leave();

    Rates rates = empty(isa);
    for (int i = 0; i < isa.dot_count; ++i)
        rates.dots[sz(i)] = dot_rates(watch, *dots[sz(i)], dot_pieces[sz(i)], kGroup, true);
    if (isa.words != nullptr) rates.words = dot_rates(watch, *dots.back(), dot_pieces.back(), kGroup / 2, false);
    for (int i = 0; i < isa.lut_count; ++i) {
        const LutProbe& probe = *luts[sz(i)];
        const std::size_t at = lut_pieces[sz(i)];
        const double macs = probe.sums() * probe.path.inputs * probe.groups;
        LutRates& lut = rates.luts[sz(i)];
        lut.mac = (watch.least(at) / LutProbe::kTiles - watch.least(at + 1)) / (macs * (kTaps * kTaps - 1));
        lut.call = watch.least(at + 1) - lut.mac * macs;
        lut.finish = std::max(0.0, watch.least(at + 3) - watch.least(at + 1)) / probe.sums();
        lut.table = watch.least(at + 2) / (kMaxRows * probe.groups);
    }
    if (pixel_lut != nullptr) {
        const std::size_t at = pixel_lut_pieces;
        const double macs = PixelLutProbe::sums_made() * PixelLutProbe::kGroups * kPixelLutInputs;  // of a tap
        PixelLutRates& lut = rates.pixel_lut;
        lut.mac = (watch.least(at) - watch.least(at + 1)) / (macs * (kTaps * kTaps - 1));
        const double run = std::max(0.0, watch.least(at + 1) - lut.mac * macs);  // all but look-ups
        lut.finish = (run + watch.least(at + 2)) / PixelLutProbe::sums_made();
        lut.results = (run + watch.least(at + 3)) / PixelLutProbe::sums_made();
        lut.single = (watch.least(at + 4) * kPixelLutVectors - run) / (macs * kTaps * kTaps);
        lut.index = watch.least(at + 5) /
                    (PixelLutProbe::kPixels * ceil_div(PixelLutProbe::kGroups, kPixelLutIndexed) * kPixelLutIndexed);
    }
    for (int i = 0; i < kWinogradForms; ++i) {
        const FormProbe& probe = *forms[sz(i)];
        const std::size_t at = form_pieces[sz(i)];
        FormRates& form = rates.forms[i];
        form.patch = watch.least(at) / probe.patch_vectors(isa.vector_bytes);
        form.sums = watch.least(at + 1) / probe.sum_vectors(isa.vector_bytes, probe.out.tiles);
        if (isa.winograd[i].columns == nullptr) continue;
        const double mac = kWinograd[i].operand_bytes == 2 ? rates.words.mac : rates.dots[0].mac;
        form.columns = (watch.least(at + 2) - mac * probe.column_macs()) /
                           probe.sum_vectors(isa.vector_bytes, probe.products.tiles) +
                       watch.least(at + 3) / probe.sum_vectors(isa.vector_bytes, probe.out.tiles);
    }
    rates.epilogue = watch.least(epilogue) / (reader.tile.rows * reader.tile.columns);
    rates.stream = slow.least(stream) / double(kStreamBytes / step * step);
    each(isa, rates, [](const std::string&, double& ns) { ns = rounded(ns); });
    return rates;
}

}  // namespace bitgear
