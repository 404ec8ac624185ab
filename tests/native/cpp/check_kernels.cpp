// Checks every function of every instruction set that this processor runs against plain loops written here.
//
//   check_kernels [--require NAME] [--refuse NAME]
//
// --require: fail unless the instruction set NAME was checked; --refuse: fail if it is offered.
// Prints a line for each function and leaves with 1 if a result differs. Results must be equal to the bit. Inputs end
// right before an inaccessible page (plus the slack that the interface grants), so that a read too far ends the
// program.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../../../bitgear/native/dispatch.h"
#include "../../../bitgear/native/quantizer.h"
#include "../../../bitgear/native/winograd.h"

namespace bitgear {
namespace {

std::size_t sz(int n) { return static_cast<std::size_t>(n); }
int ceil_div(int a, int b) { return (a + b - 1) / b; }
int round_up(int a, int b) { return ceil_div(a, b) * b; }

// splitmix64: the same numbers everywhere.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t bits() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return z ^ z >> 31;
    }
    int between(int low, int high) {
        const auto count = static_cast<std::uint64_t>(static_cast<std::int64_t>(high) - low + 1);
        return static_cast<int>(low + static_cast<std::int64_t>(bits() % count));
    }
    bool coin() { return (bits() >> 32 & 1) != 0; }
    float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }
    float power_of_two(int low, int high) { return std::ldexp(1.0f + uniform(), between(low, high)); }
    template <class T>
    const T& pick(const std::vector<T>& values) {
        return values[bits() % values.size()];
    }

private:
    std::uint64_t state_;
};

// Mostly few, as most paths take; at times as many as there may be.
int some_rows(Random& random) { return random.between(1, random.between(0, 9) == 0 ? kMaxRows : 16); }

// Memory in front of an inaccessible page.
class Input {
public:
    explicit Input(std::size_t capacity) : capacity_((capacity + kPage - 1) / kPage * kPage) {
        void* p = mmap(nullptr, capacity_ + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(static_cast<std::uint8_t*>(p) + capacity_, kPage, PROT_NONE) != 0) {
            std::perror("check_kernels: mmap");
            std::exit(2);
        }
        base_ = static_cast<std::uint8_t*>(p);
    }
    Input(const Input&) = delete;
    Input& operator=(const Input&) = delete;
    ~Input() { munmap(base_, capacity_ + kPage); }

    // `bytes` bytes, of any value, with `slack` readable bytes behind them and nothing more.
    std::uint8_t* place(std::size_t bytes, std::size_t slack, Random& random) {
        if (bytes + slack > capacity_) {
            std::fprintf(stderr, "check_kernels: an input of %zu bytes is too long\n", bytes);
            std::exit(2);
        }
        std::uint8_t* p = base_ + capacity_ - bytes - slack;
        for (std::size_t i = 0; i < bytes + slack; ++i) p[i] = static_cast<std::uint8_t>(random.bits());
        return p;
    }

private:
    static constexpr std::size_t kPage = 65536;  // a multiple of every page size in use
    std::size_t capacity_;
    std::uint8_t* base_ = nullptr;
};

// Memory that a function writes, inside a margin of known bytes, and what it must hold afterwards. Starts on 64 bytes.
class Output {
public:
    explicit Output(std::size_t bytes)
        : bytes_(bytes), memory_(bytes + 2 * kMargin + 64, kCanary), expected_(bytes, kCanary) {
        const std::size_t address = reinterpret_cast<std::uintptr_t>(memory_.data()) + kMargin;
        start_ = kMargin + (64 - address % 64) % 64;
    }
    std::uint8_t* bytes() { return memory_.data() + start_; }
    template <class T>
    T* as() {
        return reinterpret_cast<T*>(bytes());
    }
    template <class T>
    void expect(std::size_t index, T value) {
        std::memcpy(expected_.data() + index * sizeof(T), &value, sizeof(T));
    }
    // Bytes that may hold anything.
    void any(std::size_t begin, std::size_t end) {
        std::copy(bytes() + begin, bytes() + end, expected_.begin() + static_cast<std::ptrdiff_t>(begin));
    }
    // What differs, or an empty string.
    std::string difference() {
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            const bool inside = i >= start_ && i < start_ + bytes_;
            if (inside ? memory_[i] == expected_[i - start_] : memory_[i] == kCanary) continue;
            if (!inside) {
                return "wrote " + (i < start_ ? std::to_string(start_ - i) + " bytes before the start"
                                              : std::to_string(i - start_ - bytes_) + " bytes behind the end");
            }
            const std::size_t word = (i - start_) / 4 * 4;
            std::int32_t was = 0, must = 0;
            if (word + 4 <= bytes_) {
                std::memcpy(&was, bytes() + word, 4);
                std::memcpy(&must, expected_.data() + word, 4);
            }
            return "byte " + std::to_string(i - start_) + " is " + std::to_string(memory_[i]) + ", must be " +
                   std::to_string(expected_[i - start_]) + " (as a word " + std::to_string(was) + ", must be " +
                   std::to_string(must) + ")";
        }
        return {};
    }

private:
    static constexpr std::size_t kMargin = 512;
    static constexpr std::uint8_t kCanary = 0xa5;
    std::size_t bytes_;
    std::vector<std::uint8_t> memory_, expected_;
    std::size_t start_;
};

// The result of one function: a line of the report.
class Line {
public:
    Line(const char* isa, std::string function) : isa_(isa), function_(std::move(function)) {}
    void check(const std::string& difference, const std::string& where) {
        ++cases_;
        if (difference.empty()) return;
        if (failures_++ < 3) details_ += "    " + where + ": " + difference + "\n";
    }
    bool print() const {
        std::printf("%-4s %-13s %-28s %ld cases", failures_ == 0 ? "ok" : "FAIL", isa_, function_.c_str(), cases_);
        if (failures_ != 0)
            std::printf(", %ld differ\n%s", failures_, details_.c_str());
        else
            std::printf("\n");
        std::fflush(stdout);
        return failures_ == 0 && cases_ > 0;
    }

private:
    const char* isa_;
    std::string function_;
    long cases_ = 0, failures_ = 0;
    std::string details_;
};

std::string text(std::initializer_list<std::pair<const char*, long>> values) {
    std::string s;
    for (const auto& [name, value] : values)
        s += (s.empty() ? "" : " ") + std::string(name) + "=" + std::to_string(value);
    return s;
}

// Adversarial numbers: all the highest, all the lowest, alternating at several distances, random, random extremes.
constexpr int kPatterns = 7;
int patterned(int pattern, int low, int high, std::size_t index, Random& random) {
    switch (pattern) {
        case 0:
            return high;
        case 1:
            return low;
        case 2:
            return index % 2 == 0 ? high : low;
        case 3:
            return index / 4 % 2 == 0 ? low : high;
        case 4:
            return random.coin() ? high : low;
        case 5:
            return index % 5 == 0 ? low : high;
        default:
            return random.between(low, high);
    }
}

// Splits `groups` into runs; each starts some bytes behind the end of the one before. Returns the window's length in
// bytes.
std::size_t split(int groups, int count, std::size_t group_bytes, int gap, Random& random, std::vector<Run>* runs) {
    runs->clear();
    std::size_t offset = 0;
    for (int i = 0; i < count && groups > 0; ++i) {
        const int left = count - i - 1;
        const int n =
            left == 0 ? groups : random.between(1, std::max(1, std::min(groups - left, 2 * groups / (left + 1))));
        runs->push_back({static_cast<std::int32_t>(offset), n});
        groups -= n;
        offset += sz(n) * group_bytes + sz(gap) * group_bytes;
    }
    return offset - sz(gap) * group_bytes;
}

// The same runs, none longer than the path allows.
std::vector<Run> cut(const DotPath& path, const std::vector<Run>& runs) {
    if (path.run_groups == 1) return runs;
    std::vector<Run> pieces;
    for (const Run& run : runs) {
        for (int done = 0; done < run.groups; done += path.run_groups)
            pieces.push_back({run.offset + done * kGroup, std::min(path.run_groups, run.groups - done)});
    }
    return pieces;
}

struct Bounds {
    int act_max, weight_max;
};

// Bytes of a run's packed weights, of a block.
std::size_t run_bytes(const DotPath& path, const Run& run) {
    return sz(round_up(run.groups, path.run_groups)) * sz(path.group_bytes);
}

// Packs a block's codes as a model does: run by run if runs are filled up.
void pack_runs(const DotPath& path, std::vector<Run> runs, const std::int8_t* codes, std::size_t row_bytes,
               std::uint8_t* packed) {
    if (path.run_groups == 1) {
        int groups = 0;
        for (const Run& run : runs) groups += run.groups;
        runs = {{0, groups}};
    }
    for (const Run& run : runs) {
        if (run.groups % path.run_groups != 0) std::memset(packed, 0, run_bytes(path, run));
        path.pack(codes, row_bytes, run.groups, packed);
        codes += run.groups * kGroup;
        packed += run_bytes(path, run);
    }
}

// What may be read behind the last window.
std::size_t row_slack(const DotPath& path, std::size_t row_step) {
    return kSlackBytes + sz(path.places) * row_step + sz(path.run_groups * kGroup);
}

// All numbers up to `most` of what few take; a choice of those that tiles take.
std::vector<int> sizes(int most, int few) {
    std::vector<int> all;
    for (int n = 1; n <= most; ++n) {
        const int past = n % 16;
        if (most <= few || n < 4 || n == most || past < 2 || past == 15) all.push_back(n);
    }
    return all;
}

void check_dot_case(const DotPath& path, const Bounds& bounds, int groups, int run_count, int patterns,
                    Input& codes_memory, Input& packed_memory, Input& act_memory, Random& random, Line& line) {
    const int period = path.period != nullptr ? path.period(bounds.act_max, bounds.weight_max) : 0;
    const int act_pattern = patterns % kPatterns, weight_pattern = patterns / kPatterns % kPatterns;
    const int inputs = groups * kGroup;
    const int all_columns = path.max_blocks * kBlock;
    const auto where = [&](int rows, int blocks) {
        return text({{"act_max", bounds.act_max},
                     {"weight_max", bounds.weight_max},
                     {"groups", groups},
                     {"runs", run_count},
                     {"rows", rows},
                     {"blocks", blocks},
                     {"act_pattern", act_pattern},
                     {"weight_pattern", weight_pattern},
                     {"period", period}});
    };

    // Weights: [column][input], rows some bytes apart, no slack behind the last one.
    const std::size_t row_bytes = sz(inputs) + sz(random.coin() ? 0 : 4 * random.between(1, 9));
    const bool codes_alone = path.group_bytes < kBlock * kGroup;
    const int low = -bounds.weight_max, high = std::min(bounds.weight_max - (codes_alone ? 1 : 0), 127);
    std::vector<Run> runs;
    const std::size_t window = split(groups, run_count, kGroup, random.between(0, 3), random, &runs);
    runs = cut(path, runs);
    std::size_t used_bytes = kBlockTail;
    for (const Run& run : runs) used_bytes += run_bytes(path, run);
    const std::size_t block_bytes = used_bytes * (random.coin() ? 1 : 3);
    const std::size_t packed_bytes = sz(path.max_blocks - 1) * block_bytes + used_bytes;
    std::uint8_t* packed = packed_memory.place(packed_bytes, 0, random);
    std::vector<std::int8_t> weights(sz(all_columns) * sz(inputs));
    for (int b = 0; b < path.max_blocks; ++b) {
        auto* codes =
            reinterpret_cast<std::int8_t*>(codes_memory.place(sz(kBlock - 1) * row_bytes + sz(inputs), 0, random));
        for (int c = 0; c < kBlock; ++c) {
            for (int k = 0; k < inputs; ++k) {
                const auto w = static_cast<std::int8_t>(patterned(weight_pattern, low, high, sz(k + c / 7), random));
                codes[sz(c) * row_bytes + sz(k)] = w;
                weights[sz(b * kBlock + c) * sz(inputs) + sz(k)] = w;
            }
        }
        Output block(used_bytes);
        pack_runs(path, runs, codes, row_bytes, block.bytes());
        block.any(0, used_bytes);
        line.check(block.difference(), "pack " + where(0, b));
        std::memcpy(packed + sz(b) * block_bytes, block.bytes(), used_bytes);
    }

    // Windows, some bytes apart and overlapping; what runs skip may hold anything. Where windows are read in stretches,
    // there may be some between them that count for nothing.
    const std::size_t pitch = random.coin() ? window + sz(random.between(0, 9)) : kGroup * sz(random.between(1, 8));
    std::size_t place[kMaxRows] = {};
    const int gaps = path.places > 0 ? random.between(0, 3) : 0, most_gap = random.pick<int>({1, 2, 20});
    for (int r = 1; r < path.max_rows; ++r)
        place[r] = place[r - 1] + (random.between(1, 8) <= gaps ? sz(random.between(1, most_gap)) : 0) + 1;
    const std::size_t act_bytes = place[path.max_rows - 1] * pitch + window;
    std::uint8_t* acts = act_memory.place(act_bytes, row_slack(path, pitch), random);
    for (std::size_t i = 0; i < act_bytes; ++i) {
        acts[i] = static_cast<std::uint8_t>(patterned(act_pattern, 0, bounds.act_max, i, random));
    }
    const std::uint8_t* a[kMaxRows] = {};
    for (int r = 0; r < path.max_rows; ++r) a[r] = acts + place[r] * pitch;

    std::vector<std::int32_t> sums(sz(path.max_rows) * sz(all_columns));
    for (int r = 0; r < path.max_rows; ++r) {
        for (int c = 0; c < all_columns; ++c) {
            std::int32_t sum = 0;
            const std::int8_t* w = weights.data() + sz(c) * sz(inputs);
            for (const Run& run : runs) {
                for (int k = 0; k < run.groups * kGroup; ++k) sum += a[r][run.offset + k] * *w++;
            }
            sums[sz(r) * sz(all_columns) + sz(c)] = sum;
        }
    }
    for (const int rows : sizes(path.max_rows, kBlock)) {
        for (int blocks = 1; blocks <= path.max_blocks; blocks += path.places > 0 ? random.between(1, 3) : 1) {
            const int columns = blocks * kBlock;
            Output acc(sz(rows * columns) * sizeof(std::int32_t));
            for (int r = 0; r < rows; ++r) {
                for (int c = 0; c < columns; ++c)
                    acc.expect(sz(r * columns + c), sums[sz(r) * sz(all_columns) + sz(c)]);
            }
            DotTile tile{};
            tile.rows = rows;
            tile.blocks = blocks;
            tile.a = a;
            tile.row_step = pitch;
            tile.runs = runs.data();
            tile.run_count = static_cast<int>(runs.size());
            tile.w = packed;
            tile.block_bytes = block_bytes;
            tile.period = period;
            tile.alone = random.coin();
            tile.acc = acc.as<std::int32_t>();
            path.run(tile);
            line.check(acc.difference(), where(rows, blocks));
        }
    }
}

Line check_dot(const Isa& isa, const DotPath& path) {
    Line line(isa.name, std::string("dot ") + path.name);
    Random random(1);
    constexpr int kLongest = 1300;
    // Of windows far from one another there are gaps of up to 20.
    Input codes(sz(kBlock) * sz(kLongest * kGroup + 64)),
        acts(sz(path.places > 0 ? 20 : 1) * sz(kMaxRows) * sz(2 * kLongest * kGroup) + kSlackBytes);
    Input packed(3 * sz(path.max_blocks) * (sz(kLongest + 9 * path.run_groups) * sz(path.group_bytes) + kBlockTail) +
                 kSlackBytes);
    int patterns = 0;
    // Codes of 1..8 bits, signed and unsigned, and Winograd's patches of them.
    for (const int act_max : {1, 3, 7, 15, 31, 63, 127, 255, 12, 28, 60, 124, 252}) {
        for (const int weight_max : {1, 2, 4, 8, 16, 32, 64, 127, 128}) {
            const Bounds bounds{act_max, weight_max};
            if (!path.exact(act_max, weight_max)) continue;
            const int period = path.period != nullptr ? path.period(act_max, weight_max) : 0;
            // All sums at their extremes, then the pairs of patterns in turn, at lengths from one group up.
            for (const int extremes : {0, kPatterns}) {
                check_dot_case(path, bounds, random.between(1, 80), 1, extremes, codes, packed, acts, random, line);
            }
            for (int i = 0; i < 22; ++i) {
                const int groups = i < 12 ? i + 1 : random.between(1, 80);
                check_dot_case(path, bounds, groups, i % 3 == 0 ? 1 : std::min(groups, random.pick<int>({2, 3, 9})),
                               patterns++, codes, packed, acts, random, line);
            }
            // Around the widening of sums, with all sums at their extremes.
            if (period > 0 && period < kLongest) {
                for (const int groups : {period - 1, period, period + 1, 2 * period, 2 * period + 1}) {
                    if (groups < 1 || groups > kLongest) continue;
                    for (const int extremes : {0, kPatterns, 5, kPatterns + 5}) {
                        check_dot_case(path, bounds, groups, std::min(groups, random.pick<int>({1, 3})), extremes,
                                       codes, packed, acts, random, line);
                    }
                }
            }
        }
    }
    for (const int act_max : {3, 15, 63, 255}) {
        for (const int weight_max : {2, 8, 32, 128}) {
            if (!path.exact(act_max, weight_max)) continue;
            for (const int extremes : {0, kPatterns, kPatterns * 3}) {
                check_dot_case(path, {act_max, weight_max}, kLongest, random.pick<int>({1, 3}), extremes, codes, packed,
                               acts, random, line);
            }
        }
    }
    return line;
}

// Sums of 16-bit products, which may wrap around.
Line check_words(const Isa& isa, const DotPath& path) {
    Line line(isa.name, std::string("dot ") + path.name);
    Random random(14);
    for (int i = 0; i < 40 * kPatterns * kPatterns; ++i) {
        const int groups = random.between(1, 70), rows = random.between(1, path.max_rows),
                  blocks = random.between(1, path.max_blocks), inputs = 2 * groups;
        const int act_most = random.pick<int>({3, 255, 25500, 32767}),
                  weight_most = random.pick<int>({1, 98, 6272, 32767});
        const std::size_t row_bytes = sz(groups * kGroup), block_bytes = sz(groups * path.group_bytes) + kBlockTail;
        std::vector<std::int16_t> weights(sz(blocks * kBlock * inputs)), acts(sz(rows * inputs));
        for (std::size_t k = 0; k < weights.size(); ++k) {
            weights[k] =
                static_cast<std::int16_t>(patterned(i / kPatterns % kPatterns, -weight_most, weight_most, k, random));
        }
        for (std::size_t k = 0; k < acts.size(); ++k) {
            acts[k] = static_cast<std::int16_t>(patterned(i % kPatterns, -act_most, act_most, k, random));
        }
        std::vector<std::uint8_t> packed(sz(blocks) * block_bytes);
        for (int b = 0; b < blocks; ++b) {
            path.pack(reinterpret_cast<const std::int8_t*>(weights.data() + b * kBlock * inputs), row_bytes, groups,
                      packed.data() + sz(b) * block_bytes);
        }
        const std::uint8_t* a[kMaxRows];
        for (int r = 0; r < rows; ++r) a[r] = reinterpret_cast<const std::uint8_t*>(acts.data() + r * inputs);
        const Run run{0, groups};
        Output acc(sz(rows * blocks * kBlock) * sizeof(std::int32_t));
        path.run({rows, blocks, a, row_bytes, &run, 1, packed.data(), block_bytes, 0, false, acc.as<std::int32_t>()});
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < blocks * kBlock; ++c) {
                std::uint32_t sum = 0;
                for (int k = 0; k < inputs; ++k) {
                    sum += static_cast<std::uint32_t>(acts[sz(r * inputs + k)] * weights[sz(c * inputs + k)]);
                }
                acc.expect(sz(r * blocks * kBlock + c), static_cast<std::int32_t>(sum));
            }
        }
        line.check(acc.difference(), text({{"groups", groups}, {"rows", rows}, {"blocks", blocks}, {"patterns", i}}));
    }
    return line;
}

struct LutShape {
    int channels, kernel, dilation;
};

void check_lut_case(const LutPath& path, const LutShape& shape, int act_max, int patterns, Input& codes_memory,
                    Input& packed_memory, Input& act_memory, Random& random, Line& line) {
    const int act_pattern = patterns % kPatterns, weight_pattern = patterns / kPatterns % kPatterns;
    const int pixel_bytes = round_up(shape.channels, kGroup);
    const int groups = ceil_div(shape.channels, path.inputs), padded = groups * path.inputs;
    const int taps = shape.kernel * shape.kernel, extent = shape.dilation * (shape.kernel - 1) + 1;
    const int pixels = path.max_rows + extent - 1;  // a row of the image
    const auto where = [&](int rows) {
        return text({{"channels", shape.channels},
                     {"kernel", shape.kernel},
                     {"dilation", shape.dilation},
                     {"act_max", act_max},
                     {"rows", rows},
                     {"act_pattern", act_pattern},
                     {"weight_pattern", weight_pattern}});
    };

    // Bytes of padding channels may hold anything: their weights are 0.
    const std::size_t image_bytes = sz(extent) * sz(pixels) * sz(pixel_bytes);
    std::uint8_t* acts = act_memory.place(image_bytes, kSlackBytes, random);
    for (int p = 0; p < extent * pixels; ++p) {
        for (int c = 0; c < shape.channels; ++c) {
            const std::size_t i = sz(p) * sz(pixel_bytes) + sz(c);
            acts[i] = static_cast<std::uint8_t>(patterned(act_pattern, 0, act_max, i, random));
        }
    }
    const std::size_t table_row = sz(pixels) * sz(groups) * sz(path.table_bytes);
    Output tables(sz(extent) * table_row);
    for (int y = 0; y < extent; ++y) {
        path.tables(acts + sz(y * pixels) * sz(pixel_bytes), pixels, sz(pixel_bytes), groups,
                    tables.bytes() + sz(y) * table_row);
    }
    tables.any(0, sz(extent) * table_row);
    line.check(tables.difference(), "tables " + where(0));

    // Weights: [column][tap][channel].
    const int low = -(1 << (path.planes - 1)), high = (1 << (path.planes - 1)) - 1;
    const std::size_t row_bytes = sz(taps) * sz(padded);
    auto* weights = reinterpret_cast<std::int8_t*>(codes_memory.place(sz(path.columns) * row_bytes, 64, random));
    for (int c = 0; c < path.columns; ++c) {
        for (std::size_t k = 0; k < row_bytes; ++k) {
            const bool padding = k % sz(padded) >= sz(shape.channels);
            weights[sz(c) * row_bytes + k] =
                static_cast<std::int8_t>(padding ? 0 : patterned(weight_pattern, low, high, k + sz(c / 5), random));
        }
    }
    const std::size_t packed_bytes = sz(taps * groups) * sz(path.group_bytes);
    Output block(packed_bytes);
    path.pack(weights, row_bytes, taps * groups, block.bytes());
    block.any(0, packed_bytes);
    line.check(block.difference(), "pack " + where(0));
    std::uint8_t* packed = packed_memory.place(packed_bytes, 0, random);
    std::memcpy(packed, block.bytes(), packed_bytes);

    std::vector<Run> runs;
    for (int y = 0; y < shape.kernel; ++y) {
        const auto row = static_cast<std::int32_t>(table_row) * y * shape.dilation;
        if (shape.dilation == 1) {
            runs.push_back({row, shape.kernel * groups});
        } else {
            for (int x = 0; x < shape.kernel; ++x)
                runs.push_back({row + x * shape.dilation * groups * path.table_bytes, groups});
        }
    }
    const std::uint8_t* first[kMaxRows] = {};
    for (int r = 0; r < path.max_rows; ++r) first[r] = tables.bytes() + sz(r) * sz(groups) * sz(path.table_bytes);

    std::vector<std::int32_t> sums(sz(path.max_rows) * sz(path.columns));
    for (int r = 0; r < path.max_rows; ++r) {
        for (int c = 0; c < path.columns; ++c) {
            std::int32_t sum = 0;
            for (int t = 0; t < taps; ++t) {
                const int y = t / shape.kernel * shape.dilation, x = t % shape.kernel * shape.dilation;
                const std::uint8_t* a = acts + sz(y * pixels + r + x) * sz(pixel_bytes);
                const std::int8_t* w = weights + sz(c) * row_bytes + sz(t) * sz(padded);
                for (int k = 0; k < shape.channels; ++k) sum += a[k] * w[k];
            }
            sums[sz(r) * sz(path.columns) + sz(c)] = sum;
        }
    }
    for (int rows = 1; rows <= path.max_rows; ++rows) {
        Output acc(sz(rows * path.columns) * sizeof(std::int32_t));
        for (int i = 0; i < rows * path.columns; ++i) acc.expect(sz(i), sums[sz(i)]);
        LutTile tile{};
        tile.rows = rows;
        tile.tables = first;
        tile.runs = runs.data();
        tile.run_count = static_cast<int>(runs.size());
        tile.w = packed;
        tile.acc = acc.as<std::int32_t>();
        path.run(tile);
        line.check(acc.difference(), where(rows));
    }
}

Line check_lut(const Isa& isa, const LutPath& path) {
    Line line(isa.name, std::string("lut ") + path.name);
    Random random(2);
    constexpr int kMostChannels = 1024;
    Input codes(sz(path.columns) * 9 * sz(kMostChannels + 8)), packed(9 * sz(kMostChannels) * sz(path.group_bytes));
    Input acts(3 * sz(kMaxRows + 2) * sz(kMostChannels) + 5 * sz(kMaxRows + 4) * 128 + kSlackBytes);
    int patterns = 0;
    for (int act_max = 1; act_max <= path.max_act; act_max = 2 * act_max + 1) {
        for (int channels = 1; channels <= 24; ++channels) {
            for (const int kernel : {1, 3}) {
                check_lut_case(path, {channels, kernel, kernel == 1 ? 1 : random.between(1, 2)}, act_max, patterns++,
                               codes, packed, acts, random, line);
            }
        }
        for (int i = 0; i < kPatterns * kPatterns; ++i) {
            check_lut_case(path, {random.between(25, 128), random.pick<int>({1, 3}), random.between(1, 2)}, act_max,
                           patterns++, codes, packed, acts, random, line);
        }
        // Long sums of extremes: bytes and 16-bit sums must be widened in time.
        for (const int channels : {256, 512, kMostChannels}) {
            for (const int extremes : {0, kPatterns, kPatterns * 3, kPatterns * kPatterns - 1}) {
                check_lut_case(path, {channels, 3, 1}, act_max, extremes, codes, packed, acts, random, line);
            }
        }
    }
    return line;
}

float next(float x, int steps) {
    for (; steps > 0; --steps) x = std::nextafterf(x, std::numeric_limits<float>::infinity());
    for (; steps < 0; ++steps) x = std::nextafterf(x, -std::numeric_limits<float>::infinity());
    return x;
}

// The documented chain of operations, from a value to its reader's byte.
std::uint8_t byte_of(float value, const Quantizer& q) {
    const float code = std::nearbyintf(value / q.scale);
    const float clipped = std::min(std::max(code, static_cast<float>(q.low)), static_cast<float>(q.high));
    return static_cast<std::uint8_t>(static_cast<int>(clipped) + q.zero);
}

// One or two readers of any width, with scales `scale` and twice that. `quick`: room for 2 * padded numbers of each.
// Returns whether all are bounded.
bool quick_readers(Quantizer* quantizers, int outputs, float scale, const float* multiplier, const float* bias,
                   int channels, int padded, float residual_scale, std::int32_t residual_zero, double largest_sum,
                   float* quick, Random& random) {
    bool bounded = true;
    for (int o = 0; o < outputs; ++o) {
        Quantizer& q = quantizers[o];
        const int bits = random.between(2, 8);
        q.scale = std::ldexp(scale, o);
        q.zero = random.coin() ? 0 : 1 << (bits - 1);
        q.low = -q.zero;
        q.high = (1 << bits) - 1 - q.zero;
        float* quick_multiplier = quick + 2 * o * padded;
        quicken(q, multiplier, bias, channels, padded, residual_scale, residual_zero, largest_sum, quick_multiplier,
                quick_multiplier + padded);
        bounded &= q.bounded;
    }
    return bounded;
}

// How the values of an epilogue come about.
enum class Values {
    boundary,  // on and next to rounding boundaries (k + 0.5) * scale
    ties,      // exact multiples of half a scale, from sums, biases and residuals
    random,
    large,  // sums beyond 2^24, values beyond every range
};

// Windows and weights of a multiplication, and its sums.
struct Products {
    Products(const DotPath& path, int rows, int columns, bool equal_rows, Input* memory, Random& random) {
        const bool is_long = random.between(0, 15) == 0;  // of several runs, where those are short
        const int groups = is_long ? random.between(10, kMostGroups) : random.between(1, 9), inputs = groups * kGroup;
        const std::size_t pitch = sz(inputs + kGroup * random.between(0, 2));
        const std::size_t gap = path.places > 0 ? sz(random.between(0, 2)) : 0;  // in the middle, of windows
        std::uint8_t* acts = memory[0].place((sz(rows - 1) + gap) * pitch + sz(inputs), row_slack(path, pitch), random);
        for (int r = 0; r < rows; ++r) {
            std::uint8_t* row = acts + (sz(r) + (r > rows / 2 ? gap : 0)) * pitch;
            for (int k = 0; k < inputs; ++k) row[k] = static_cast<std::uint8_t>(random.between(0, is_long ? 3 : 15));
            if (equal_rows) std::memcpy(row, acts, sz(inputs));
            a[r] = row;
        }
        if (rows < kMaxRows) a[rows] = a[rows - 1];
        const int blocks = ceil_div(columns, kBlock), padded = blocks * kBlock;
        std::vector<std::int8_t> weights(sz(padded) * sz(inputs));
        const bool two_bits = !path.exact(15, 4);
        for (int i = 0; i < columns * inputs; ++i)
            weights[sz(i)] = static_cast<std::int8_t>(two_bits ? random.between(-2, 1) : random.between(-3, 3));
        runs = cut(path, {{0, groups}});
        tile.block_bytes = run_bytes(path, {0, groups}) + kBlockTail;
        std::uint8_t* packed = memory[1].place(sz(blocks) * tile.block_bytes, 0, random);
        for (int b = 0; b < blocks; ++b) {
            pack_runs(path, runs, weights.data() + sz(b * kBlock * inputs), sz(inputs),
                      packed + sz(b) * tile.block_bytes);
        }
        tile.rows = rows;
        tile.row_step = pitch;
        tile.alone = random.coin();
        tile.blocks = blocks;
        tile.a = a;
        tile.runs = runs.data();
        tile.run_count = static_cast<int>(runs.size());
        tile.w = packed;
        tile.period = path.period != nullptr ? path.period(15, 3) : 0;
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < padded; ++c) {
                std::int32_t sum = 0;
                for (int k = 0; k < inputs; ++k) sum += a[r][k] * weights[sz(c * inputs + k)];
                sums.push_back(sum);
            }
        }
    }
    Products(const Products&) = delete;
    Products& operator=(const Products&) = delete;

    static int columns_of_block(const DotPath&) { return kBlock; }
    static constexpr int kMostGroups = 48;

    const std::uint8_t* a[kMaxRows];
    std::vector<Run> runs;
    DotTile tile{};
    std::vector<std::int32_t> sums;  // [row][column], padded to whole blocks; at most 48 * 4 * 3 * 3
};

// The same of a look-up in tables.
struct LookUps {
    LookUps(const LutPath& path, int rows, int columns, bool equal_rows, Input* memory, Random& random) {
        const int groups = random.between(1, 9), inputs = groups * path.inputs;
        std::uint8_t* acts = memory[0].place(sz(rows) * sz(inputs), kSlackBytes, random);
        for (int r = 0; r < rows; ++r) {
            std::uint8_t* row = acts + sz(r) * sz(inputs);
            for (int k = 0; k < inputs; ++k) row[k] = static_cast<std::uint8_t>(random.between(0, path.max_act));
            if (equal_rows) std::memcpy(row, acts, sz(inputs));
        }
        tables.resize(sz(rows) * sz(groups) * sz(path.table_bytes));
        path.tables(acts, rows, sz(inputs), groups, tables.data());
        for (int r = 0; r < rows; ++r) first[r] = &tables[sz(r) * sz(groups) * sz(path.table_bytes)];
        std::vector<std::int8_t> weights(sz(path.columns) * sz(inputs) + kSlackBytes);
        for (int i = 0; i < columns * inputs; ++i) weights[sz(i)] = static_cast<std::int8_t>(random.between(-2, 1));
        std::uint8_t* packed = memory[1].place(sz(groups) * sz(path.group_bytes), 0, random);
        path.pack(weights.data(), sz(inputs), groups, packed);
        run = {0, groups};
        tile.rows = rows;
        tile.tables = first;
        tile.runs = &run;
        tile.run_count = 1;
        tile.w = packed;
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < path.columns; ++c) {
                std::int32_t sum = 0;
                for (int k = 0; k < inputs; ++k) sum += acts[sz(r * inputs + k)] * weights[sz(c * inputs + k)];
                sums.push_back(sum);
            }
        }
    }
    LookUps(const LookUps&) = delete;
    LookUps& operator=(const LookUps&) = delete;

    static int columns_of_block(const LutPath& path) { return path.columns; }

    std::vector<std::uint8_t> tables;
    const std::uint8_t* first[kMaxRows];
    Run run;
    LutTile tile{};
    std::vector<std::int32_t> sums;  // [row][column of the block]
};

template <class Path>
struct SumsOf;
template <>
struct SumsOf<DotPath> {
    using Type = Products;
};
template <>
struct SumsOf<LutPath> {
    using Type = LookUps;
};

int quick_outputs(const DotPath& path) { return path.quick_outputs; }
int quick_outputs(const LutPath&) { return 2; }
bool needs_inverse(const DotPath& path) { return path.inverts; }
bool needs_inverse(const LutPath&) { return false; }

// `path`: null, or the multiplication that makes the sums and is to quantise them as well.
template <class Path>
void check_epilogue_case(const Isa& isa, const Path* path, int rows, int columns, Values values, int options,
                         Input* memory, Random& random, Line& line) {
    const bool exact_value = values == Values::boundary;
    const bool with_bias = !exact_value && (options & 1) != 0, with_residual = !exact_value && (options & 2) != 0;
    const bool relu = (options & 4) != 0, with_clip = (options & 8) != 0,
               with_floats = path == nullptr && (options & 16) != 0;
    int outputs = random.coin() ? random.between(0, 3) : random.pick<int>({1, 1, 1, kMaxOutputs});
    if (path != nullptr) outputs = random.between(1, quick_outputs(*path));
    using Sums = typename SumsOf<Path>::Type;
    const int padded = round_up(columns, path != nullptr ? Sums::columns_of_block(*path) : kBlock);

    Quantizer quantizers[kMaxOutputs] = {};
    const Quantizer* pointers[kMaxOutputs];
    for (int o = 0; o < kMaxOutputs; ++o) pointers[o] = &quantizers[o];
    const float scale = values == Values::ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
    for (int o = 0; o < outputs; ++o) {
        Quantizer& q = quantizers[o];
        q.scale = o == 0 ? scale : scale * (values == Values::ties ? 2.0f : 0.5f + 2.0f * random.uniform());
        if (values == Values::large) q.scale = random.power_of_two(-100, 100);
        const int bits = random.between(2, 8);
        q.zero = random.coin() ? 0 : 1 << (bits - 1);
        q.low = -q.zero;
        q.high = (1 << bits) - 1 - q.zero;
    }

    const int stride = padded + kBlock * random.between(0, 2);
    const auto ints = [&](Input& m, int count) {
        return reinterpret_cast<std::int32_t*>(m.place(sz(count) * 4, 0, random));
    };
    std::int32_t* acc = ints(memory[0], (rows - 1) * stride + padded);
    std::int32_t* offset = ints(memory[1], padded);
    auto* multiplier = reinterpret_cast<float*>(ints(memory[2], padded));
    auto* bias = reinterpret_cast<float*>(ints(memory[3], padded));
    const std::size_t residual_pitch = sz(columns) + sz(random.between(0, 5));
    std::uint8_t* residual = memory[4].place(sz(rows - 1) * residual_pitch + sz(columns), kSlackBytes, random);
    const std::uint8_t* residual_rows[kMaxRows] = {};
    for (int r = 0; r < rows; ++r) residual_rows[r] = residual + sz(r) * residual_pitch;

    std::optional<Sums> products;
    if (path != nullptr) products.emplace(*path, rows, columns, exact_value, memory + 5, random);

    const std::int32_t residual_zero = random.coin() ? 0 : 128;
    float residual_scale = 0.0f, clip = std::numeric_limits<float>::infinity();
    if (with_clip) clip = random.coin() ? 6.0f : scale * static_cast<float>(random.between(1, 260));
    for (int c = 0; c < padded; ++c) {
        offset[c] = random.coin() ? 0 : random.between(-1000000, 1000000);
        bias[c] = scale * (random.uniform() - 0.5f) * 20.0f;
        const float sign = random.coin() ? 1.0f : -1.0f;
        int low = -2000, high = 2000;
        switch (values) {
            case Values::boundary: {
                const int k = random.between(0, 3) == 0 ? random.between(-1030, 1030) : random.between(-140, 270);
                multiplier[c] = next((static_cast<float>(k) + (random.between(0, 7) == 0 ? 0.0f : 0.5f)) * scale,
                                     random.between(-3, 3));
                low = high = 1;  // the value is the multiplier
                break;
            }
            case Values::ties:
                multiplier[c] = sign * scale * 0.5f;
                bias[c] = scale * 0.5f * static_cast<float>(random.between(-9, 9));
                residual_scale = scale * 0.5f;
                low = -300, high = 300;
                break;
            case Values::random:
                multiplier[c] = sign * scale * 0.2f * random.uniform();
                residual_scale = scale * 2.0f * 0.731f;
                break;
            case Values::large:
                multiplier[c] = random.between(0, 9) == 0 ? 0.0f : sign * random.power_of_two(-100, 100);
                residual_scale = random.power_of_two(-100, 100);
                low = -2000000000, high = 2000000000;
                break;
        }
        if (products) offset[c] = exact_value ? 1 - products->sums[sz(c)] : random.between(-300, 300);
        for (int r = 0; r < rows; ++r) {
            acc[r * stride + c] = products ? products->sums[sz(r * padded + c)] : random.between(low, high) - offset[c];
        }
    }

    // As a model is prepared. Every quantizer that may be quick is, but for some that are not told.
    const float floor = relu ? 0.0f : -std::numeric_limits<float>::infinity();
    std::vector<float> quick(2 * sz(padded) * sz(std::max(outputs, 1)));
    const bool told = random.between(0, 3) > 0;
    for (int o = 0; o < outputs; ++o) {
        Quantizer& q = quantizers[o];
        float* quick_multiplier = quick.data() + 2 * sz(padded) * sz(o);
        bound_quantizer(q, floor, clip);
        quicken(q, multiplier, with_bias ? bias : nullptr, columns, padded, with_residual ? residual_scale : 0.0f,
                residual_zero, values == Values::large ? 2000000000.0 : 2000.0, quick_multiplier,
                quick_multiplier + padded);
        q.quick &= told;
        q.inverts = isa.inverts != nullptr && isa.inverts(q);
        if (path != nullptr && !q.bounded) return;
        if (path != nullptr && needs_inverse(*path) && !q.inverts) return;
    }

    // Rows of outputs stand in one buffer with bytes of others between them.
    const std::size_t out_pitch = sz(columns) + sz(random.between(0, 7));
    Output bytes(sz(std::max(outputs, 1) * rows) * out_pitch + 1);
    Output floats(sz(rows) * out_pitch * sizeof(float));
    std::uint8_t* out[kMaxOutputs * kMaxRows] = {};
    float* float_rows[kMaxRows] = {};
    for (int r = 0; r < rows; ++r) {
        float_rows[r] = floats.as<float>() + sz(r) * out_pitch;
        for (int o = 0; o < outputs; ++o) out[o * kMaxRows + r] = bytes.bytes() + sz(o * rows + r) * out_pitch + 1;
    }

    EpilogueTile tile{};
    tile.rows = rows;
    tile.columns = columns;
    tile.acc = acc;
    tile.acc_stride = stride;
    tile.offset = offset;
    tile.multiplier = multiplier;
    tile.bias = with_bias ? bias : nullptr;
    tile.residual = with_residual ? residual_rows : nullptr;
    tile.residual_scale = residual_scale;
    tile.residual_zero = residual_zero;
    tile.floor = floor;
    tile.ceiling = clip;
    tile.outputs = outputs;
    tile.quantizers = pointers;
    tile.out = out;
    tile.floats = with_floats ? float_rows : nullptr;
    if (products) {
        if (rows < kMaxRows) {
            residual_rows[rows] = residual_rows[rows - 1];
            for (int o = 0; o < outputs; ++o) out[o * kMaxRows + rows] = out[o * kMaxRows + rows - 1];
        }
        path->run_quick(products->tile, tile);
    } else {
        isa.epilogue(tile);
    }

    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
            float y = static_cast<float>(acc[r * stride + c] + offset[c]) * multiplier[c];
            if (with_bias) y = y + bias[c];
            if (with_residual) y = y + static_cast<float>(residual_rows[r][c] - residual_zero) * residual_scale;
            if (relu) y = y > 0.0f ? y : 0.0f;
            y = y < clip ? y : clip;
            if (with_floats) floats.expect(sz(r) * out_pitch + sz(c), y);
            for (int o = 0; o < outputs; ++o) {
                bytes.expect(sz(o * rows + r) * out_pitch + 1 + sz(c), byte_of(y, quantizers[o]));
            }
        }
    }
    const std::string where = text({{"rows", rows},
                                    {"columns", columns},
                                    {"values", static_cast<int>(values)},
                                    {"bias", with_bias},
                                    {"residual", with_residual},
                                    {"relu", relu},
                                    {"clip", with_clip},
                                    {"floats", with_floats},
                                    {"outputs", outputs}});
    line.check(bytes.difference(), where + " bytes");
    line.check(floats.difference(), where + " floats");
}

// Quantizers that are said to go by their inverse do so for all values near the boundaries of their codes, and those
// that do not for one next to a boundary are not said to.
Line check_inverts(const Isa& isa) {
    Line line(isa.name, "inverts");
    Random random(17);
    constexpr int kNear = 24, kNext = 2;
    int inverting = 0, refused = 0;
    for (int i = 0; i < 600; ++i) {
        Quantizer q{};
        const int bits = random.between(2, 8);
        q.scale = random.power_of_two(-20, 20);
        q.zero = random.coin() ? 0 : 1 << (bits - 1);
        q.low = -q.zero;
        q.high = (1 << bits) - 1 - q.zero;
        if (random.coin()) q.low = std::max(q.low, 0);
        const float one = 1.0f;
        float quick[2];
        quicken(q, &one, nullptr, 1, 1, 0.0f, 0, 1.0, quick, quick + 1);
        if (i % 3 == 1) q.inverse_lack = 0.0f;
        if (i % 3 == 2) q.inverse = next(q.inverse, random.coin() ? 1 : -1);
        const bool inverts = isa.inverts(q);
        bool near = true, next_to = true;
        for (int code = q.low; code < q.high; ++code) {
            const auto boundary = static_cast<float>((code + 0.5) * static_cast<double>(q.scale));
            for (int step = -kNear; step <= kNear; ++step) {
                const float y = next(boundary, step);
                if (std::nearbyintf(std::fma(y, q.inverse, y * q.inverse_lack)) == std::nearbyintf(y / q.scale))
                    continue;
                near = false;
                next_to &= std::abs(step) > kNext;
            }
        }
        inverting += inverts;
        refused += !inverts;
        const std::string where = text({{"bits", bits}, {"zero", q.zero}, {"spoilt", i % 3}});
        line.check(inverts && !near ? "said to" : "", where);
        line.check(!inverts && next_to ? "said not to" : "", where);
    }
    for (const float scale : {0.0f, 1e-35f, 1e35f, std::numeric_limits<float>::infinity()}) {
        Quantizer q{};
        q.scale = scale;
        q.inverse = 1.0f / scale;
        q.high = 3;
        line.check(isa.inverts(q) ? "said to" : "", "a scale out of range");
    }
    line.check(inverting >= 200 && refused >= 100 ? "" : "one answer alone", "all");
    return line;
}

Line check_epilogue(const Isa& isa) {
    Line line(isa.name, "epilogue");
    Random random(3);
    constexpr int kMostColumns = 80;
    Input memory[] = {Input(4 * sz(kMaxRows) * (kMostColumns + 3 * kBlock)), Input(4 * kMostColumns),
                      Input(4 * kMostColumns), Input(4 * kMostColumns),
                      Input(sz(kMaxRows) * (kMostColumns + 8) + kSlackBytes)};
    for (const Values values : {Values::boundary, Values::ties, Values::random, Values::large}) {
        for (int options = 0; options < 32; ++options) {
            for (const int columns : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 47, 48, 64, 65, 80}) {
                check_epilogue_case<DotPath>(isa, nullptr, some_rows(random), columns, values, options, memory, random,
                                             line);
            }
        }
    }
    // Many more boundaries: all that a quotient of 8 bits can meet.
    for (int i = 0; i < 1500; ++i)
        check_epilogue_case<DotPath>(isa, nullptr, 1, kMostColumns, Values::boundary, 16, memory, random, line);
    return line;
}

// `most` columns at once, of packed weights of so many bytes.
template <class Path>
void check_quick(const Isa& isa, const Path& path, int most, std::size_t packed_bytes, Line& line) {
    Random random(13);
    Input memory[] = {Input(4 * sz(kMaxRows) * sz(most + 3 * kBlock)),
                      Input(4 * sz(most)),
                      Input(4 * sz(most)),
                      Input(4 * sz(most)),
                      Input(sz(kMaxRows) * sz(most + 8) + kSlackBytes),
                      Input(2 * sz(kMaxRows) * sz(Products::kMostGroups * kGroup) + kSlackBytes),
                      Input(packed_bytes)};
    for (const Values values : {Values::boundary, Values::ties, Values::random}) {
        for (int options = 0; options < 16; ++options) {
            for (const int rows : sizes(path.max_rows, kBlock)) {
                for (const int columns : sizes(most, 4 * kBlock))
                    check_epilogue_case(isa, &path, rows, columns, values, options, memory, random, line);
            }
        }
    }
}

Line check_dot_quick(const Isa& isa, const DotPath& path) {
    Line line(isa.name, "dot " + std::string(path.name) + " quick");
    check_quick(isa, path, path.max_blocks * kBlock,
                sz(path.max_blocks) *
                    (sz(round_up(Products::kMostGroups, path.run_groups)) * sz(path.group_bytes) + kBlockTail),
                line);
    return line;
}

Line check_lut_quick(const Isa& isa, const LutPath& path) {
    Line line(isa.name, "lut " + std::string(path.name) + " quick");
    check_quick(isa, path, path.columns, 9 * sz(path.group_bytes), line);
    return line;
}

Line check_depthwise(const Isa& isa) {
    Line line(isa.name, "depthwise");
    Random random(4);
    constexpr int kMostTaps = 25, kMostChannels = 200, kMostPixels = kMaxRows;
    Input acts(sz(kMostPixels + kMostTaps) * sz(kMostChannels + 4) + kSlackBytes);
    Input weights(sz(kMostTaps) * sz(kMostChannels + kBlock));
    int patterns = 0;
    for (const int channels : {1, 3, 4, 8, 12, 15, 16, 17, 20, 32, 33, 48, 64, 72, 100, 144, kMostChannels}) {
        for (const int taps : {1, 4, 9, 9, 9, kMostTaps}) {
            for (int pixels = 1; pixels <= kMostPixels; ++pixels, ++patterns) {
                const int pixel_bytes = round_up(channels, kGroup), padded = round_up(channels, kBlock);
                const std::size_t bytes = sz(pixels - 1 + taps - 1) * sz(pixel_bytes) + sz(channels);
                std::uint8_t* a = acts.place(bytes, kSlackBytes, random);
                for (std::size_t i = 0; i < bytes; ++i) {
                    a[i] = static_cast<std::uint8_t>(patterned(patterns % kPatterns, 0, 255, i, random));
                }
                auto* w = reinterpret_cast<std::int8_t*>(weights.place(sz(taps * padded), 0, random));
                for (int i = 0; i < taps * padded; ++i) {
                    w[i] =
                        static_cast<std::int8_t>(patterned(patterns / kPatterns % kPatterns, -128, 127, sz(i), random));
                }
                std::vector<std::int32_t> tap_offsets;
                for (int t = 0; t < taps; ++t) tap_offsets.push_back((t * 7 % taps) * pixel_bytes);
                const std::uint8_t* a_rows[kMostPixels] = {};
                for (int p = 0; p < pixels; ++p) a_rows[p] = a + sz(p) * sz(pixel_bytes);
                Output acc(sz(pixels * padded) * sizeof(std::int32_t));
                Output packed(isa.depthwise.packed_bytes(taps, padded));
                isa.depthwise.pack(w, taps, padded, packed.bytes());
                isa.depthwise.run(
                    {pixels, a_rows, taps, tap_offsets.data(), channels, packed.bytes(), acc.as<std::int32_t>()});
                for (int p = 0; p < pixels; ++p) {
                    for (int c = 0; c < channels; ++c) {
                        std::int32_t sum = 0;
                        for (int t = 0; t < taps; ++t) sum += a_rows[p][tap_offsets[sz(t)] + c] * w[t * padded + c];
                        acc.expect(sz(p * padded + c), sum);
                    }
                    acc.any(sz(p * padded + channels) * 4, sz((p + 1) * padded) * 4);
                }
                line.check(acc.difference(),
                           text({{"channels", channels}, {"taps", taps}, {"pixels", pixels}, {"patterns", patterns}}));
            }
        }
    }
    return line;
}

Line check_depthwise_quick(const Isa& isa) {
    Line line(isa.name, "depthwise quick");
    Random random(14);
    constexpr int kMostChannels = 144, kMostRows = 3, kMostPixels = 40, kMostSide = 2 * kMostPixels + 1;
    Input acts(sz(2 * kMostRows + 1) * sz(kMostSide) * sz(kMostChannels + 4) + kSlackBytes);
    Input weights(9 * sz(kMostChannels + kBlock)), words[4] = {Input(4 * kMostChannels), Input(4 * kMostChannels),
                                                               Input(4 * kMostChannels), Input(8 * kMostChannels)};
    for (int i = 0; i < 3000; ++i) {
        const int channels = i < 2 * kMostChannels ? i / 2 + 1 : random.between(1, kMostChannels);
        const int stride = i % 2 + 1, rows = random.between(1, kMostRows), pixels = random.between(1, kMostPixels);
        const int side = stride * (pixels - 1) + 3, padded = round_up(channels, kBlock);
        const bool ties = i % 3 == 0, extremes = i % 3 == 1;
        const std::size_t pixel_bytes = sz(round_up(channels, kGroup) + kGroup * random.between(0, 1));
        const std::size_t row_bytes = pixel_bytes * sz(side);
        const std::size_t bytes = sz(stride * (rows - 1) + 2) * row_bytes + sz(side - 1) * pixel_bytes + sz(channels);
        std::uint8_t* a = acts.place(bytes, kSlackBytes, random);
        const int act_pattern = random.between(0, kPatterns - 1), weight_pattern = random.between(0, kPatterns - 1);
        for (std::size_t k = 0; k < bytes; ++k) {
            a[k] = static_cast<std::uint8_t>(extremes ? patterned(act_pattern, 0, 255, k, random)
                                                      : random.between(0, ties ? 3 : 255));
        }
        auto* w = reinterpret_cast<std::int8_t*>(weights.place(sz(9 * padded), 0, random));
        for (int k = 0; k < 9 * padded; ++k) {
            w[k] = static_cast<std::int8_t>(extremes ? patterned(weight_pattern, -128, 127, sz(k), random)
                                                     : random.between(ties ? -2 : -128, ties ? 2 : 127));
            if (k % padded >= channels) w[k] = 0;
        }
        Output packed(isa.depthwise.packed_bytes(9, padded));
        isa.depthwise.pack(w, 9, padded, packed.bytes());

        auto* offset = reinterpret_cast<std::int32_t*>(words[0].place(4 * sz(padded), 0, random));
        auto* multiplier = reinterpret_cast<float*>(words[1].place(4 * sz(padded), 0, random));
        auto* bias = reinterpret_cast<float*>(words[2].place(4 * sz(padded), 0, random));
        const float scale = ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
        for (int c = 0; c < padded; ++c) {
            offset[c] = random.between(-40, 40);
            multiplier[c] = ties ? (random.coin() ? 0.5f : -0.5f) * scale : scale * 0.01f * (random.uniform() - 0.3f);
            bias[c] =
                ties ? 0.5f * scale * static_cast<float>(random.between(-9, 99)) : scale * random.uniform() * 50.0f;
        }
        const int outputs = random.between(1, 2);
        Quantizer quantizers[2] = {};
        const Quantizer* pointers[2] = {&quantizers[0], &quantizers[1]};
        std::vector<float> quick(4 * sz(padded));
        const bool bounded = quick_readers(quantizers, outputs, scale, multiplier, bias, channels, padded, 0.0f, 0,
                                           ties ? 100.0 : 300000.0, quick.data(), random);
        line.check(bounded ? "" : "is not bounded", "case " + std::to_string(i));
        if (!bounded) continue;

        const std::size_t out_pixel = sz(channels + random.between(0, 7)), out_row = out_pixel * sz(pixels) + 3;
        const std::size_t out_bytes = out_row * sz(rows);
        Output out(out_bytes * sz(outputs));
        Area<std::uint8_t> to[2];
        for (int o = 0; o < outputs; ++o) to[o] = {out.bytes() + sz(o) * out_bytes, out_row, out_pixel};
        EpilogueTile constants{};
        constants.offset = offset;
        constants.multiplier = multiplier;
        constants.bias = bias;
        constants.outputs = outputs;
        constants.quantizers = pointers;
        isa.depthwise.run_quick({rows, pixels, {a, row_bytes, pixel_bytes}, stride, channels, packed.bytes(), to},
                                constants);
        for (int y = 0; y < rows; ++y) {
            for (int x = 0; x < pixels; ++x) {
                for (int c = 0; c < channels; ++c) {
                    std::int32_t sum = offset[c];
                    for (int t = 0; t < 9; ++t) {
                        sum += a[sz(y * stride + t / 3) * row_bytes + sz(x * stride + t % 3) * pixel_bytes + sz(c)] *
                               w[t * padded + c];
                    }
                    float value = static_cast<float>(sum) * multiplier[c];
                    value = value + bias[c];
                    for (int o = 0; o < outputs; ++o) {
                        out.expect(sz(o) * out_bytes + sz(y) * out_row + sz(x) * out_pixel + sz(c),
                                   byte_of(value, quantizers[o]));
                    }
                }
            }
        }
        line.check(out.difference(),
                   text({{"case", i}, {"channels", channels}, {"stride", stride}, {"pixels", pixels}}));
    }
    return line;
}

// Indices, packed weights and sums of look-ups in the tables of weights.
void check_pixel_lut_case(const PixelLutPath& path, int channels, int taps, int columns, int vectors, int act_max,
                          int patterns, Input* memory, Random& random, Line& line) {
    const int act_pattern = patterns % kPatterns, weight_pattern = patterns / kPatterns % kPatterns;
    const int groups = ceil_div(channels, kPixelLutInputs), steps = taps * groups;
    const int inputs = groups * kPixelLutInputs;  // of a tap, with those that there are not
    const int pixels = vectors * kPixelLutLanes + taps - 1;
    const std::string where = text({{"channels", channels},
                                    {"taps", taps},
                                    {"columns", columns},
                                    {"vectors", vectors},
                                    {"act_max", act_max},
                                    {"act_pattern", act_pattern},
                                    {"weight_pattern", weight_pattern}});

    const std::size_t pixel_bytes = sz(round_up(channels, kGroup) + kGroup * random.between(0, 1));
    std::uint8_t* acts = memory[0].place(sz(pixels) * pixel_bytes, kSlackBytes, random);
    for (int p = 0; p < pixels; ++p) {
        for (int c = 0; c < channels; ++c) {
            const std::size_t i = sz(p) * pixel_bytes + sz(c);
            acts[i] = static_cast<std::uint8_t>(patterned(act_pattern, 0, act_max, i, random));
        }
    }
    const std::size_t group_bytes = sz(round_up(pixels, kPixelLutLanes) + kPixelLutLanes * random.between(0, 2));
    Output indices(sz(groups) * group_bytes);
    path.index(acts, pixels, pixel_bytes, groups, indices.bytes(), group_bytes);
    for (int g = 0; g < groups; ++g) {
        int there = 0;  // bits of inputs that there are
        for (int i = 0; i < kPixelLutInputs; ++i) there |= i * groups + g < channels ? 3 << (2 * i) : 0;
        for (int p = 0; p < pixels; ++p) {
            int index = 0;
            for (int i = 0; i < kPixelLutInputs; ++i)
                index |= acts[sz(p) * pixel_bytes + sz(i * groups + g)] << (2 * i);
            const std::size_t at = sz(g) * group_bytes + sz(p);
            const std::uint8_t others = indices.bytes()[at] & static_cast<std::uint8_t>(~there);
            indices.expect(at, static_cast<std::uint8_t>((index & there) | others));
        }
        indices.any(sz(g) * group_bytes + sz(pixels), sz(g) * group_bytes + sz(round_up(pixels, kPixelLutLanes)));
    }
    line.check(indices.difference(), "indices " + where);

    // Weights: [column][tap][input], 0 for inputs that there are not.
    const int blocks = ceil_div(columns, kPixelLutChannels), rows = blocks * kPixelLutChannels;
    const std::size_t row_bytes = sz(round_up(taps * inputs, kGroup));
    auto* weights = reinterpret_cast<std::int8_t*>(memory[1].place(sz(rows) * row_bytes, 16, random));
    for (int c = 0; c < rows; ++c) {
        for (int k = 0; k < taps * inputs; ++k) {
            const bool none = c >= columns || k % inputs >= channels;
            weights[sz(c) * row_bytes + sz(k)] =
                static_cast<std::int8_t>(none ? 0 : patterned(weight_pattern, -2, 1, sz(k + c / 5), random));
        }
    }
    const std::size_t block_bytes = sz(steps * kPixelLutChannels);
    Output packed(sz(blocks) * block_bytes);
    for (int b = 0; b < blocks; ++b) {
        path.pack(weights + sz(b * kPixelLutChannels) * row_bytes, row_bytes, taps, groups,
                  packed.bytes() + sz(b) * block_bytes);
    }
    packed.any(0, sz(blocks) * block_bytes);
    line.check(packed.difference(), "pack " + where);
    std::uint8_t* w = memory[2].place(sz(blocks) * block_bytes, 0, random);
    std::memcpy(w, packed.bytes(), sz(blocks) * block_bytes);

    // Carries are counted as late as can be.
    const auto weight = [&](int c, int k) { return weights[sz(c) * row_bytes + sz(k)]; };
    std::vector<PixelLutStretch> stretches;
    std::vector<int> grown(sz(rows)), most(sz(rows));
    for (int k = 0; k < steps; ++k) {
        bool full = false;
        std::vector<int> next = grown;
        for (int c = 0; c < rows; ++c) {
            int more = 0;
            for (int i = 0; i < kPixelLutInputs; ++i)
                more += kPixelLutMaxAct * std::abs(weight(c, k / groups * inputs + i * groups + k % groups));
            next[sz(c)] += more;
            most[sz(c)] += more;
            full |= next[sz(c)] > kPixelLutMostSum;
        }
        if (full) {
            stretches.back().counts = true;
            for (int c = 0; c < rows; ++c) next[sz(c)] -= grown[sz(c)];
        }
        grown = next;
        const auto offset = static_cast<std::int32_t>(sz(k % groups) * group_bytes) + k / groups;
        if (full || k % groups == 0) {
            stretches.push_back({offset, 1, false});
        } else {
            ++stretches.back().steps;
        }
    }
    stretches.back().counts = true;
    const bool narrow = *std::max_element(most.begin(), most.end()) <= kPixelLutMostSum;
    const std::size_t stride = sz(vectors * kPixelLutLanes), sums_bytes = kPixelLutColumns * stride;
    Output sums(2 * sums_bytes);
    path.run({vectors, blocks, narrow, indices.bytes(), group_bytes, stretches.data(),
              static_cast<int>(stretches.size()), w, block_bytes, sums.bytes()});
    for (int c = 0; c < rows; ++c) {
        for (int p = 0; p < vectors * kPixelLutLanes; ++p) {
            int sum = 0;
            for (int k = 0; k < taps * inputs; ++k) {
                const int value = weight(c, k);
                if (value == 0) continue;
                sum += acts[sz(p + k / inputs) * pixel_bytes + sz(k % inputs)] * value;
                if (value < 0) sum -= kPixelLutMaxAct * value;
            }
            const std::size_t at = sz(c) * stride + sz(p);
            sums.expect(at, static_cast<std::uint8_t>(sum));
            if (!narrow) sums.expect(sums_bytes + at, static_cast<std::uint8_t>(sum >> 8));
        }
    }
    line.check(sums.difference(), where);
}

Line check_pixel_lut(const Isa& isa, const PixelLutPath& path) {
    Line line(isa.name, std::string("lut ") + path.name);
    Random random(15);
    constexpr int kMostChannels = 520, kMostTaps = 9, kMostPixels = kPixelLutVectors * kPixelLutLanes + kMostTaps;
    Input memory[] = {Input(sz(kMostPixels) * (kMostChannels + 8) + kSlackBytes),
                      Input(kPixelLutColumns * kMostTaps * sz(kMostChannels + 8) + 16),
                      Input(kPixelLutColumns * kMostTaps * sz(kMostChannels))};
    int patterns = 0;
    for (const int act_max : {1, 2, 3}) {
        for (int channels = 1; channels <= 50; ++channels) {
            check_pixel_lut_case(path, channels, random.pick<int>({1, 1, 4, kMostTaps}),
                                 random.between(1, kPixelLutColumns), random.between(1, kPixelLutVectors), act_max,
                                 patterns++, memory, random, line);
        }
    }
    for (int columns = 1; columns <= kPixelLutColumns; ++columns) {
        for (int vectors = 1; vectors <= kPixelLutVectors; ++vectors)
            check_pixel_lut_case(path, random.between(1, 40), random.pick<int>({1, 2}), columns, vectors, 3, patterns++,
                                 memory, random, line);
    }
    for (int i = 0; i < kPatterns * kPatterns; ++i) {
        check_pixel_lut_case(path, random.between(51, 128), random.pick<int>({1, kMostTaps}),
                             random.between(1, kPixelLutColumns), random.between(1, kPixelLutVectors), 3, patterns++,
                             memory, random, line);
    }
    for (int vectors = 1; vectors <= kPixelLutVectors; ++vectors) {  // the longest sums of extremes
        for (const int extremes : {0, kPatterns, kPatterns * kPatterns - 1})
            check_pixel_lut_case(path, kMostChannels, kMostTaps, 13, vectors, 3, extremes, memory, random, line);
    }
    return line;
}

// Sums to bytes, by the chain of operations and by tables.
Line check_pixel_lut_quick(const Isa& isa, const PixelLutPath& path) {
    Line line(isa.name, std::string("lut ") + path.name + " quick");
    Random random(16);
    constexpr int kMostFirst = 32, kMostChannels = kMostFirst + kPixelLutColumns + kBlock;
    Input words[4] = {Input(4 * kMostChannels), Input(4 * kMostChannels), Input(4 * kMostChannels),
                      Input(8 * kMostChannels)};
    Input residuals(sz(kPixelLutLanes) * (kMostChannels + 8) + kSlackBytes);
    for (int i = 0; i < 4000; ++i) {
        const int columns = i < 4 * kPixelLutColumns ? i / 4 + 1 : random.between(1, kPixelLutColumns);
        const int first = kBlock * random.between(0, kMostFirst / kBlock), channels = first + columns;
        const int padded = round_up(first + kPixelLutColumns, kBlock);
        const bool ties = i % 3 == 0, narrow = random.coin(), with_residual = random.coin();
        const int most = narrow ? 255 : ties ? 600 : 27648, vectors = random.between(1, kPixelLutVectors);
        const std::size_t stride = sz(vectors * kPixelLutLanes);
        Output sums(2 * kPixelLutColumns * stride);
        std::vector<std::int32_t> whole(sz(columns) * kPixelLutLanes);
        for (int c = 0; c < columns; ++c) {
            for (int p = 0; p < kPixelLutLanes; ++p) {
                const int sum = random.between(0, 9) == 0 ? random.pick<int>({0, most}) : random.between(0, most);
                whole[sz(c * kPixelLutLanes + p)] = sum;
                sums.bytes()[sz(c) * stride + sz(p)] = static_cast<std::uint8_t>(sum);
                sums.bytes()[(kPixelLutColumns + sz(c)) * stride + sz(p)] = static_cast<std::uint8_t>(sum >> 8);
            }
        }
        auto* offset = reinterpret_cast<std::int32_t*>(words[0].place(4 * sz(padded), 0, random));
        auto* multiplier = reinterpret_cast<float*>(words[1].place(4 * sz(padded), 0, random));
        auto* bias = reinterpret_cast<float*>(words[2].place(4 * sz(padded), 0, random));
        const float scale = ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
        const float residual_scale = !with_residual ? 0.0f : ties ? 0.5f * scale : 1.462f * scale;
        for (int c = 0; c < padded; ++c) {
            offset[c] = random.between(-most, 0);
            multiplier[c] = ties ? (random.coin() ? 0.5f : -0.5f) * scale : scale * 0.01f * (random.uniform() - 0.3f);
            bias[c] =
                ties ? 0.5f * scale * static_cast<float>(random.between(-9, 99)) : scale * random.uniform() * 50.0f;
        }
        const int outputs = random.between(1, kPixelLutOutputs);
        Quantizer quantizers[kPixelLutOutputs] = {};
        const Quantizer* pointers[kPixelLutOutputs];
        for (int o = 0; o < kPixelLutOutputs; ++o) pointers[o] = &quantizers[o];
        std::vector<float> quick(2 * kPixelLutOutputs * sz(padded));
        const std::int32_t residual_zero = random.coin() ? 0 : 128;
        const bool bounded = quick_readers(quantizers, outputs, scale, multiplier, bias, channels, padded,
                                           residual_scale, residual_zero, most, quick.data(), random);
        line.check(bounded ? "" : "is not bounded", "case " + std::to_string(i));
        if (!bounded) continue;

        const std::size_t residual_pixel = sz(channels + random.between(0, 7));
        std::uint8_t* residual =
            residuals.place((kPixelLutLanes - 1) * residual_pixel + sz(channels), kBlock - 1, random);
        const std::size_t out_pixel = sz(channels + random.between(0, 7));
        const std::size_t out_bytes = out_pixel * kPixelLutLanes;
        Output out(out_bytes * sz(outputs)), looked_up(out_bytes * sz(outputs));
        std::vector<std::uint8_t> nowhere(sz(padded));
        PixelLutPlaces places{}, other_places{};
        std::uint64_t valid = 0;
        for (int p = 0; p < kPixelLutLanes; ++p) {
            const bool is_pixel = random.between(0, 7) > 0;
            valid |= static_cast<std::uint64_t>(is_pixel) << p;
            for (int o = 0; o < outputs; ++o) {
                const std::size_t at = sz(o) * out_bytes + sz(p) * out_pixel;
                places.out[o][p] = is_pixel ? out.bytes() + at : nowhere.data();
                other_places.out[o][p] = is_pixel ? looked_up.bytes() + at : nowhere.data();
            }
            places.residual[p] = residual + sz(p) * residual_pixel;
        }
        const std::uint8_t* some[kMaxRows] = {};
        EpilogueTile constants{};
        constants.column = first;
        constants.columns = columns;
        constants.offset = offset;
        constants.multiplier = multiplier;
        constants.bias = bias;
        constants.residual = with_residual ? some : nullptr;
        constants.residual_scale = residual_scale;
        constants.residual_zero = residual_zero;
        constants.outputs = outputs;
        constants.quantizers = pointers;
        const PixelLutSums of{sums.bytes(), stride, narrow ? 0 : kPixelLutColumns * stride};
        path.finish(of, constants, places);
        const auto byte = [&](int o, int c, int sum, int other) {
            float value = static_cast<float>(sum + offset[first + c]) * multiplier[first + c];
            value = value + bias[first + c];
            if (with_residual) value = value + static_cast<float>(other - constants.residual_zero) * residual_scale;
            return byte_of(value, quantizers[o]);
        };
        Output tables(kPixelLutOutputs * kPixelLutColumns * kPixelLutResults);
        const bool tabled = narrow && !with_residual;
        if (tabled) {
            for (int o = 0; o < outputs; ++o) {
                for (int c = 0; c < columns; ++c) {
                    for (int sum = 0; sum < kPixelLutResults; ++sum)
                        tables.bytes()[(o * kPixelLutColumns + c) * kPixelLutResults + sum] = byte(o, c, sum, 0);
                }
            }
            path.look_up(of, tables.bytes(), constants, other_places);
        }
        for (int p = 0; p < kPixelLutLanes; ++p) {
            if ((valid >> p & 1) == 0) continue;
            for (int o = 0; o < outputs; ++o) {
                for (int c = 0; c < columns; ++c) {
                    const int sum = whole[sz(c * kPixelLutLanes + p)];
                    const std::size_t at = sz(o) * out_bytes + sz(p) * out_pixel + sz(first + c);
                    out.expect(at, byte(o, c, sum, residual[sz(p) * residual_pixel + sz(first + c)]));
                    if (tabled) looked_up.expect(at, byte(o, c, sum % kPixelLutResults, 0));
                }
            }
        }
        const std::string where = text(
            {{"case", i}, {"first", first}, {"columns", columns}, {"narrow", narrow}, {"residual", with_residual}});
        line.check(out.difference(), where);
        line.check(looked_up.difference(), where + " looked up");
    }
    return line;
}

int form_factor(const WinogradForm& form, int position, int y, int x) {
    return form.down().patch[form.row(position)][y] * form.across().patch[form.column(position)][x];
}

// All positions that are multiplied to one sum go to outputs alike.
int form_inverse(const WinogradForm& form, int output, int sum) {
    const auto factor = [&](int position) {
        return form.down().inverse[output / form.m][form.row(position)] *
               form.across().inverse[output % form.m][form.column(position)];
    };
    const int first = form.first_position(sum);
    for (int p = first; p < form.first_position(sum + 1); ++p) {
        if (factor(p) == factor(first)) continue;
        std::fprintf(stderr, "check_kernels: positions %d and %d of %s have no common sum\n", first, p, form.name);
        std::exit(2);
    }
    return factor(first);
}

int form_max_act(const WinogradForm& form) { return form.operand_bytes == 1 ? 255 / form.span() : 255; }

int form_divisor(const WinogradForm& form) {
    const auto divisor = [](int m) { return m == 2 ? 2 : m == 3 ? 6 : 24; };
    return form.stride == 2 ? 1 : divisor(form.n) * divisor(form.m);
}

const WinogradKernels& kernels_of(const Isa& isa, const WinogradForm& form) { return isa.winograd[&form - kWinograd]; }

// Operand k of an array of bytes or of 16 bits.
template <class Byte>
int operand(const WinogradForm& form, const void* operands, std::size_t k) {
    if (form.operand_bytes == 1) return static_cast<const Byte*>(operands)[k];
    std::int16_t word;
    std::memcpy(&word, static_cast<const std::int16_t*>(operands) + k, sizeof word);
    return word;
}

void expect_operand(Output& out, const WinogradForm& form, std::size_t k, int value) {
    if (form.operand_bytes == 1) {
        out.expect(k, static_cast<std::uint8_t>(value));
    } else {
        out.expect(k, static_cast<std::int16_t>(value));
    }
}

// A patch that lies somewhere in an image.
struct Patch {
    const std::uint8_t* a;
    std::size_t row_bytes, pixel_bytes;
    int at(int y, int x, int c) const { return a[sz(y) * row_bytes + sz(x) * pixel_bytes + sz(c)]; }
};

void check_winograd_patch(const Isa& isa, const WinogradForm& form, const Patch& patch, int channels, int act_max,
                          Random& random, Line& line) {
    const int positions = form.positions();
    std::uint8_t shifts[kMaxPositions] = {};
    for (int p = 0; p < positions; ++p) {
        int below = 0, above = 0;
        for (int y = 0; y < form.rows(); ++y) {
            for (int x = 0; x < form.columns(); ++x) {
                const int factor = form_factor(form, p, y, x) * act_max;
                (factor < 0 ? below : above) += std::abs(factor);
            }
        }
        const int shift = form.operand_bytes == 1 ? below : 0;
        const bool holds = form.operand_bytes == 1 ? below + above <= 255 : std::max(below, above) <= 32767;
        line.check(holds && shift == winograd_shift(form, p, act_max) ? "" : "does not hold",
                   text({{"an operand holds every transform: n", form.n}, {"m", form.m}, {"position", p}}));
        shifts[p] = static_cast<std::uint8_t>(shift);
    }
    // Bytes are written in 16s at least, and so 16 bits in what a vector holds.
    const std::size_t whole = form.operand_bytes == 1 ? 16 : 64, used = sz(form.operand_bytes * channels);
    const std::size_t room = (used + whole - 1) / whole * whole, position_bytes = room + 16 * sz(random.between(0, 3));
    Output v(sz(positions - 1) * position_bytes + room);
    kernels_of(isa, form).input(patch.a, patch.row_bytes, patch.pixel_bytes, channels, shifts, v.bytes(),
                                position_bytes);
    for (int p = 0; p < positions; ++p) {
        for (int c = 0; c < channels; ++c) {
            int sum = shifts[p];
            for (int y = 0; y < form.rows(); ++y) {
                for (int x = 0; x < form.columns(); ++x) sum += form_factor(form, p, y, x) * patch.at(y, x, c);
            }
            expect_operand(v, form, sz(p) * position_bytes / sz(form.operand_bytes) + sz(c), sum);
        }
        v.any(sz(p) * position_bytes + used, sz(p) * position_bytes + room);
    }
    line.check(
        v.difference(),
        text({{"n", form.n}, {"m", form.m}, {"stride", form.stride}, {"channels", channels}, {"act_max", act_max}}));
}

Line check_winograd_input(const Isa& isa) {
    Line line(isa.name, "winograd_input");
    Random random(5);
    Input memory(6 * 9 * 300 + kSlackBytes);
    for (const WinogradForm& form : kWinograd) {
        for (int channels = 4; channels <= 264; channels += channels < 80 ? 4 : 20) {
            for (int i = 0; i < 2 * form.positions(); ++i) {
                const int act_max =
                    random.between(0, 3) == 0 ? random.between(1, form_max_act(form)) : form_max_act(form);
                const std::size_t pixel_bytes = sz(channels),
                                  row_bytes = pixel_bytes * sz(random.between(form.columns(), 9));
                const std::size_t bytes = sz(form.rows() - 1) * row_bytes + sz(form.columns()) * pixel_bytes;
                std::uint8_t* a = memory.place(bytes, kSlackBytes, random);
                for (std::size_t k = 0; k < bytes; ++k) a[k] = static_cast<std::uint8_t>(random.between(0, act_max));
                // In half of the channels, what takes a position to its highest or its lowest value.
                for (int y = 0; y < form.rows(); ++y) {
                    for (int x = 0; x < form.columns(); ++x) {
                        const bool high = (form_factor(form, i / 2, y, x) > 0) == (i % 2 == 0);
                        for (int c = 0; c < channels; c += random.between(1, 3)) {
                            a[sz(y) * row_bytes + sz(x) * pixel_bytes + sz(c)] =
                                static_cast<std::uint8_t>(high ? act_max : 0);
                        }
                    }
                }
                check_winograd_patch(isa, form, {a, row_bytes, pixel_bytes}, channels, act_max, random, line);
            }
        }
    }
    return line;
}

Line check_winograd_output(const Isa& isa) {
    Line line(isa.name, "winograd_output");
    Random random(6);
    constexpr int kMostColumns = kMaxBlocks * kBlock;
    Input sums(4 * sz(kMaxPositions * (2 * kMaxRows + 1) * kMostColumns)), corrections(4 * sz(16 * 2 * kMostColumns));
    for (const WinogradForm& form : kWinograd) {
        const int positions = form.sums(), outputs = form.n * form.m, divisor = form_divisor(form);
        for (int columns = kBlock; columns <= kMaxBlocks * kBlock; columns += kBlock) {
            for (int repeat = 0; repeat < 150; ++repeat) {
                // Sums may be beyond 32 bits on the way; a result times a power of two must not.
                const int limit = random.pick<int>({100, 100000, 2000000});
                std::int64_t first_sums[kMaxTileSide * kMaxTileSide], first_results[kMaxTileSide * kMaxTileSide];
                const int tiles = std::max(some_rows(random) / form.m, 1);
                const std::size_t tile_stride = sz(columns * random.between(1, 2));
                const std::size_t position_stride = sz(tiles) * tile_stride + sz(kBlock * random.between(0, 2));
                const std::size_t correction_stride = sz(columns * random.between(1, 2));
                const std::size_t acc_stride = sz(columns + kBlock * random.between(0, 2));
                auto* m = reinterpret_cast<std::int32_t*>(
                    sums.place(4 * (sz(positions) * position_stride + sz(tiles - 1) * tile_stride), 0, random));
                auto* correction = reinterpret_cast<std::int32_t*>(
                    corrections.place(4 * (sz(outputs - 1) * correction_stride + sz(columns)), 0, random));
                Output acc(4 * (sz(tiles * outputs - 1) * acc_stride + sz(columns)));
                for (int c = 0; c < columns; ++c) {
                    for (int t = 0; t < tiles; ++t) {
                        for (int p = 0; p < positions; ++p) {
                            std::int32_t* sum = m + sz(p) * position_stride + sz(t) * tile_stride + c;
                            const int step = t == 0 ? 1 : divisor;  // all tiles leave the same remainders
                            *sum = step *
                                   patterned(repeat % kPatterns, -limit / step, limit / step, sz(p + c + t), random);
                            if (t > 0) *sum += sum[-static_cast<std::ptrdiff_t>(sz(t) * tile_stride)];
                        }
                        for (int i = 0; i < outputs; ++i) {
                            std::int64_t sum = 0;
                            for (int p = 0; p < positions; ++p) {
                                sum += static_cast<std::int64_t>(form_inverse(form, i, p)) *
                                       m[sz(p) * position_stride + sz(t) * tile_stride + sz(c)];
                            }
                            if (t == 0) {  // a correction that leaves a multiple of the divisor, as true ones do
                                first_sums[i] = sum;
                                first_results[i] = random.between(-limit, limit);
                                correction[sz(i) * correction_stride + sz(c)] = static_cast<std::int32_t>(
                                    static_cast<std::uint32_t>(sum - divisor * first_results[i]));
                            }
                            const int pixel = i / form.m * tiles * form.m + t * form.m + i % form.m;
                            acc.expect(sz(pixel) * acc_stride + sz(c),
                                       static_cast<std::int32_t>(first_results[i] + (sum - first_sums[i]) / divisor));
                        }
                    }
                }
                const std::string where = text({{"n", form.n},
                                                {"m", form.m},
                                                {"columns", columns},
                                                {"limit", limit},
                                                {"pattern", repeat % kPatterns}});
                const WinogradKernels& kernels = kernels_of(isa, form);
                WinogradSums out{tiles,
                                 columns,
                                 m,
                                 position_stride,
                                 tile_stride,
                                 correction,
                                 correction_stride,
                                 acc.as<std::int32_t>(),
                                 acc_stride};
                kernels.output(out);
                line.check(acc.difference(), where);
                if (kernels.columns == nullptr) continue;
                std::vector<std::int32_t> down(sz(positions) * position_stride + sz(tiles) * tile_stride);
                for (int t = 0; t < tiles; ++t) {
                    for (int c = 0; c < columns; ++c) {
                        const std::size_t at = sz(t) * tile_stride + sz(c);
                        for (int i = 0; i < form.n * form.columns(); ++i) {
                            std::uint32_t sum = 0;  // wraps around
                            for (int y = 0; y < form.n + 2; ++y) {
                                sum += static_cast<std::uint32_t>(form.down().inverse[i / form.columns()][y]) *
                                       static_cast<std::uint32_t>(
                                           m[sz(y * form.columns() + i % form.columns()) * position_stride + at]);
                            }
                            down[sz(i) * position_stride + at] = static_cast<std::int32_t>(sum);
                        }
                    }
                }
                out.m = down.data();
                kernels.columns->output(out);
                line.check(acc.difference(), "by columns: " + where);
            }
        }
    }
    return line;
}

// Sums of tiles at the edges of an image to bytes, with and without a residual, against the chain of operations.
// `kernels`: with `positions` sums of each tile.
template <class Kernels>
void check_winograd_quick_case(const WinogradForm& form, const Kernels& kernels, int positions, int number,
                               Random& random, Line& line) {
    const int tiles = std::max(some_rows(random) / form.m, 1), channels = random.between(1, 2 * kBlock);
    const int padded = round_up(channels, kBlock), rows = random.between(1, form.n),
              pixels = random.between((tiles - 1) * form.m + 1, tiles * form.m);
    const bool ties = number % 3 == 0, with_residual = number % 2 == 0;
    const int divisor = form_divisor(form), most = ties ? 1 : 20;
    std::vector<std::int32_t> m(sz(positions * tiles * padded)), correction(sz(form.n * form.m * padded));
    for (std::int32_t& sum : m) sum = divisor * random.between(-most, most);
    for (std::int32_t& sum : correction) sum = divisor * random.between(-most, most);
    std::vector<std::int32_t> acc(sz(form.n * form.m * tiles * padded));
    const WinogradSums sums{tiles,      padded,     m.data(),  sz(tiles * padded), sz(padded), correction.data(),
                            sz(padded), acc.data(), sz(padded)};
    kernels.output(sums);
    std::int32_t largest = 1;
    for (const std::int32_t sum : acc) largest = std::max(largest, std::abs(sum));

    std::vector<float> multiplier(sz(padded)), bias(sz(padded)), quick(4 * sz(padded));
    const float scale = ties ? std::ldexp(1.0f, random.between(-9, 3)) : random.power_of_two(-14, 6);
    const float residual_scale = with_residual ? scale * (ties ? 0.5f : 0.731f) : 0.0f;
    const std::int32_t residual_zero = random.coin() ? 0 : 128;
    for (int c = 0; c < padded; ++c) {
        multiplier[sz(c)] = (random.coin() ? 0.5f : -0.5f) * scale;
        if (!ties) multiplier[sz(c)] = scale * 200.0f / static_cast<float>(largest) * (random.uniform() - 0.3f);
        bias[sz(c)] =
            ties ? 0.5f * scale * static_cast<float>(random.between(-9, 99)) : scale * random.uniform() * 50.0f;
    }
    const int outputs = random.between(1, 2);
    Quantizer quantizers[2] = {};
    const Quantizer* pointers[2] = {&quantizers[0], &quantizers[1]};
    const bool bounded = quick_readers(quantizers, outputs, scale, multiplier.data(), bias.data(), channels, padded,
                                       residual_scale, residual_zero, largest, quick.data(), random);
    line.check(bounded ? "" : "is not bounded", "case " + std::to_string(number));
    if (!bounded) return;

    const std::size_t pixel_bytes = sz(channels + random.between(0, 7)), row_bytes = pixel_bytes * sz(pixels) + 3;
    const std::size_t area_bytes = row_bytes * sz(rows);
    Input memory(area_bytes + kSlackBytes);
    const std::uint8_t* residual = memory.place(area_bytes, kSlackBytes, random);
    Output out(area_bytes * sz(outputs));
    Area<std::uint8_t> to[2];
    for (int o = 0; o < outputs; ++o) to[o] = {out.bytes() + sz(o) * area_bytes, row_bytes, pixel_bytes};
    EpilogueTile constants{};
    constants.columns = channels;
    constants.multiplier = multiplier.data();
    constants.bias = bias.data();
    const std::uint8_t* const present[] = {residual};
    constants.residual = with_residual ? present : nullptr;
    constants.residual_scale = residual_scale;
    constants.residual_zero = residual_zero;
    constants.outputs = outputs;
    constants.quantizers = pointers;
    const WinogradPixels where{rows, pixels, to, {residual, row_bytes, pixel_bytes}};
    kernels.output_quick(sums, constants, where);
    for (int y = 0; y < rows; ++y) {
        for (int x = 0; x < pixels; ++x) {
            for (int c = 0; c < channels; ++c) {
                const std::size_t at = sz(y) * row_bytes + sz(x) * pixel_bytes + sz(c);
                const std::int32_t sum = acc[sz((y * tiles * form.m + x) * padded + c)];
                float value = static_cast<float>(sum) * multiplier[sz(c)];
                value = value + bias[sz(c)];
                if (with_residual) value = value + static_cast<float>(residual[at] - residual_zero) * residual_scale;
                for (int o = 0; o < outputs; ++o) out.expect(sz(o) * area_bytes + at, byte_of(value, quantizers[o]));
            }
        }
    }
    line.check(out.difference(), text({{"case", number},
                                       {"n", form.n},
                                       {"m", form.m},
                                       {"positions", positions},
                                       {"tiles", tiles},
                                       {"channels", channels},
                                       {"rows", rows},
                                       {"pixels", pixels}}));
}

Line check_winograd_quick(const Isa& isa) {
    Line line(isa.name, "winograd_output quick");
    Random random(15);
    for (const WinogradForm& form : kWinograd) {
        const WinogradKernels& kernels = kernels_of(isa, form);
        for (int i = 0; kernels.output_quick != nullptr && i < 1200; ++i)
            check_winograd_quick_case(form, kernels, form.sums(), i, random, line);
        for (int i = 0; kernels.columns != nullptr && i < 1200; ++i)
            check_winograd_quick_case(form, *kernels.columns, form.n * form.columns(), i, random, line);
    }
    return line;
}

// A form's products by columns, with weights that were cut off, against plain sums.
void check_columns_case(const WinogradForm& form, const WinogradColumns& kernels, int blocks, int groups, int patterns,
                        Input& weights_memory, Input& packed_memory, Input& patches_memory, Random& random,
                        Line& line) {
    const int positions = form.positions(), columns = blocks * kBlock, inputs = groups * kGroup / form.operand_bytes;
    const int tiles = random.between(1, 12);
    const int low = form.operand_bytes == 1 ? -kWinogradMaxWeight : -6272, high = -low;  // 7 * 7 * 128
    const std::size_t position_bytes = sz(groups * kGroup), row_bytes = sz(positions) * position_bytes;
    const std::size_t block_bytes = row_bytes * kBlock + kBlock * kGroup * sz(random.between(0, 2));
    std::vector<std::int32_t> weights(sz(columns * positions * inputs));  // [column][position][input]
    std::uint8_t* packed = packed_memory.place(sz(blocks) * block_bytes, 0, random);
    for (int b = 0; b < blocks; ++b) {
        std::uint8_t* codes = weights_memory.place(kBlock * row_bytes, 0, random);
        for (std::size_t k = 0; k < sz(kBlock * positions * inputs); ++k) {
            const int w = patterned(patterns / kPatterns % kPatterns, low, high, k / 5, random);
            weights[sz(b * kBlock * positions * inputs) + k] = w;
            if (form.operand_bytes == 1) {
                codes[k] = static_cast<std::uint8_t>(w);
            } else {
                const auto word = static_cast<std::int16_t>(w);
                std::memcpy(codes + 2 * k, &word, sizeof word);
            }
        }
        Output block(kBlock * row_bytes);
        kernels.pack(reinterpret_cast<const std::int8_t*>(codes), row_bytes, groups, block.bytes());
        block.any(0, kBlock * row_bytes);
        line.check(block.difference(), "pack");
        std::memcpy(packed + sz(b) * block_bytes, block.bytes(), kBlock * row_bytes);
    }
    const std::size_t patch_bytes = position_bytes + sz(4 * random.between(0, 9)),
                      positions_apart = sz(tiles) * patch_bytes + sz(64 * random.between(0, 2));
    const std::size_t patches_bytes =
        sz(positions - 1) * positions_apart + sz(tiles - 1) * patch_bytes + position_bytes;
    std::uint8_t* patches = patches_memory.place(patches_bytes, 0, random);
    if (patterns % kPatterns == 0 && form.operand_bytes == 1) std::fill(patches, patches + patches_bytes, 255);
    const auto input = [&](int p, int t, int k) {
        return operand<std::uint8_t>(form, patches + sz(p) * positions_apart + sz(t) * patch_bytes, sz(k));
    };
    // Groups of some positions have weights a second time, or a third.
    std::vector<std::vector<Run>> runs(sz(positions));
    std::vector<std::vector<std::int8_t>> excess(sz(positions));  // [block][extra group][column of the block][kGroup]
    std::vector<WinogradExcess> excesses(sz(positions));
    for (int p = 0; p < positions; ++p) {
        const int count = form.operand_bytes == 2 || random.coin() ? 0 : random.between(1, 5);
        for (int e = 0; e < count; ++e) runs[sz(p)].push_back({kGroup * random.between(0, groups - 1), 1});
        excess[sz(p)].resize(sz(count * columns * kGroup));
        for (std::int8_t& w : excess[sz(p)]) w = static_cast<std::int8_t>(random.between(-127, 127));
        excesses[sz(p)] = {count, runs[sz(p)].data(), reinterpret_cast<const std::uint8_t*>(excess[sz(p)].data()),
                           sz(count * kBlock * kGroup)};
    }
    const std::size_t position_stride = sz(tiles * columns + kBlock * random.between(0, 2));
    const int sums = form.n * form.columns();
    Output out((sz(sums - 1) * position_stride + sz(tiles * columns)) * sizeof(std::int32_t));
    for (int t = 0; t < tiles; ++t) {
        for (int c = 0; c < columns; ++c) {
            std::vector<std::uint32_t> products(sz(positions));  // wrap around
            for (int p = 0; p < positions; ++p) {
                for (int k = 0; k < inputs; ++k) {
                    products[sz(p)] += static_cast<std::uint32_t>(input(p, t, k)) *
                                       static_cast<std::uint32_t>(weights[sz((c * positions + p) * inputs + k)]);
                }
                const int count = excesses[sz(p)].count;
                for (int e = 0; e < count; ++e) {
                    const std::int8_t* w =
                        excess[sz(p)].data() + ((c / kBlock * count + e) * kBlock + c % kBlock) * kGroup;
                    for (int k = 0; k < kGroup; ++k) {
                        products[sz(p)] +=
                            static_cast<std::uint32_t>(input(p, t, runs[sz(p)][sz(e)].offset + k) * w[k]);
                    }
                }
            }
            for (int i = 0; i < sums; ++i) {
                std::uint32_t sum = 0;
                for (int y = 0; y < form.n + 2; ++y) {
                    sum += static_cast<std::uint32_t>(form.down().inverse[i / form.columns()][y]) *
                           products[sz(y * form.columns() + i % form.columns())];
                }
                out.expect(sz(i) * position_stride + sz(t * columns + c), static_cast<std::int32_t>(sum));
            }
        }
    }
    WinogradProducts products{};
    products.tiles = tiles;
    products.blocks = blocks;
    products.groups = groups;
    products.patches = patches;
    products.patch_bytes = patch_bytes;
    products.position_bytes = positions_apart;
    products.w = packed;
    products.block_bytes = block_bytes;
    products.excess = excesses.data();
    products.sums = out.as<std::int32_t>();
    products.position_stride = position_stride;
    kernels.run(products);
    line.check(out.difference(), text({{"n", form.n},
                                       {"m", form.m},
                                       {"blocks", blocks},
                                       {"groups", groups},
                                       {"tiles", tiles},
                                       {"patterns", patterns}}));
}

Line check_winograd_columns(const Isa& isa) {
    Line line(isa.name, "winograd_columns");
    Random random(11);
    constexpr std::size_t kLongest = 40 * kGroup;
    Input weights(kBlock * kMaxPositions * kLongest), packed(2 * kBlock * (kMaxPositions * kLongest + 2 * kGroup));
    Input patches(kMaxPositions * (12 * (kLongest + 36) + 128));
    for (const WinogradForm& form : kWinograd) {
        const WinogradColumns* columns = kernels_of(isa, form).columns;
        if (columns == nullptr) continue;
        for (int i = 0; i < 6 * kPatterns * kPatterns; ++i) {
            check_columns_case(form, *columns, 1 + i % 2, random.between(1, 40), i, weights, packed, patches, random,
                               line);
        }
    }
    return line;
}

// Both transforms and the tables of winograd.h, against the definition of a convolution.
Line check_winograd(const Isa& isa) {
    Line line(isa.name, "winograd");
    Random random(10);
    Input memory(6 * 6 * 64 + kSlackBytes);
    for (const WinogradForm& form : kWinograd) {
        const int positions = form.positions(), outputs = form.n * form.m;
        for (int i = 0; i < 2 * kPatterns * kPatterns; ++i) {
            const int channels = 4 * random.between(1, 16),
                      bits = random.between(2, form.operand_bytes == 1 ? kWinogradMaxWeightBits : 8);
            const int act_max = form_max_act(form);
            const std::size_t pixel_bytes = sz(channels), row_bytes = pixel_bytes * sz(form.columns()),
                              rows_bytes = sz(form.rows()) * row_bytes,
                              room = sz(round_up(form.operand_bytes * channels, 64));
            std::uint8_t* a = memory.place(rows_bytes, kSlackBytes, random);
            for (std::size_t k = 0; k < rows_bytes; ++k) {
                a[k] = static_cast<std::uint8_t>(
                    patterned(i % kPatterns, 0, act_max, k / (i % 2 == 0 ? 1 : pixel_bytes), random));
            }
            const Patch patch{a, row_bytes, pixel_bytes};
            std::uint8_t shifts[kMaxPositions] = {};
            for (int p = 0; p < positions; ++p) shifts[p] = static_cast<std::uint8_t>(winograd_shift(form, p, act_max));
            std::vector<std::uint8_t> v(sz(positions) * room);
            kernels_of(isa, form).input(a, row_bytes, pixel_bytes, channels, shifts, v.data(), room);
            constexpr int kMostOutputs = kMaxTileSide * kMaxTileSide;
            std::int32_t m[kMaxPositions * kBlock], correction[kMostOutputs * kBlock], expected[kMostOutputs * kBlock];
            for (int column = 0; column < kBlock; ++column) {
                std::vector<std::int8_t> codes(9 * sz(channels));
                for (std::size_t k = 0; k < codes.size(); ++k) {
                    codes[k] = static_cast<std::int8_t>(patterned(i / kPatterns % kPatterns, -(1 << (bits - 1)),
                                                                  (1 << (bits - 1)) - 1, k + sz(column), random));
                }
                std::int32_t sums[kMaxPositions] = {};
                std::uint32_t product = 0;  // wraps around
                for (int p = 0, s = 0; p < positions; ++p) {
                    if (p == form.first_position(s + 1)) {
                        ++s;
                        product = 0;
                    }
                    for (int c = 0; c < channels; ++c) {
                        const std::int32_t weight = winograd_weight(form, p, codes.data() + c, channels);
                        sums[p] += weight;
                        const int v_c = operand<std::uint8_t>(form, v.data() + sz(p) * room, sz(c));
                        product += static_cast<std::uint32_t>(v_c) * static_cast<std::uint32_t>(weight);
                    }
                    m[s * kBlock + column] = static_cast<std::int32_t>(product);
                }
                for (int o = 0; o < outputs; ++o) {
                    correction[o * kBlock + column] = winograd_correction(form, o, sums, shifts);
                    std::int32_t sum = 0;
                    for (int t = 0; t < 9; ++t) {
                        for (int c = 0; c < channels; ++c) {
                            sum += patch.at(form.stride * (o / form.m) + t / 3, form.stride * (o % form.m) + t % 3, c) *
                                   codes[sz(t * channels + c)];
                        }
                    }
                    expected[o * kBlock + column] = sum;
                }
            }
            Output acc(sz(outputs * kBlock) * sizeof(std::int32_t));
            for (int k = 0; k < outputs * kBlock; ++k) acc.expect(sz(k), expected[k]);
            kernels_of(isa, form).output(
                {1, kBlock, m, kBlock, kBlock, correction, kBlock, acc.as<std::int32_t>(), kBlock});
            line.check(acc.difference(),
                       text({{"n", form.n}, {"m", form.m}, {"channels", channels}, {"bits", bits}, {"patterns", i}}));
        }
    }
    return line;
}

Line check_winograd_weights(const Isa& isa) {
    Line line(isa.name, "winograd_weights");
    Random random(11);
    constexpr int kMostChannels = 320, kWhole = 32;
    Input memory(9 * kMostChannels + kWhole);
    int patterns = 0;
    for (const WinogradForm& form : kWinograd) {
        const int positions = form.positions(), widest = form.operand_bytes == 1 ? kWinogradMaxWeightBits : 8;
        for (int channels = kGroup; channels <= kMostChannels; channels += channels < 136 ? kGroup : 5 * kGroup) {
            for (int bits = 2; bits <= widest; ++bits, ++patterns) {
                const std::size_t beyond = sz(round_up(channels, kWhole) - channels),
                                  bytes = sz(positions * channels * form.operand_bytes);
                auto* codes = reinterpret_cast<std::int8_t*>(memory.place(9 * sz(channels), beyond, random));
                const int low = -(1 << (bits - 1)), high = (1 << (bits - 1)) - 1;
                for (int k = 0; k < 9 * channels; ++k) {
                    // Signs by tap, by channel or at random: each takes other positions to their extremes.
                    const int index = patterns % 3 == 0 ? k / channels : k;
                    codes[k] = static_cast<std::int8_t>(patterned(patterns % kPatterns, low, high, sz(index), random));
                }
                if (patterns % 4 == 1) std::memset(codes, 0, 9 * sz(channels));
                if (patterns % 4 >= 2) codes[random.between(0, 9 * channels - 1)] = static_cast<std::int8_t>(low);
                Output out(bytes + 2 * beyond);
                const int largest = kernels_of(isa, form).weights(codes, channels, out.bytes());
                int must = 0;
                for (int p = 0; p < positions; ++p) {
                    for (int c = 0; c < channels; ++c) {
                        int weight = 0;
                        for (int t = 0; t < 9; ++t) {
                            const int factor =
                                form.down().weights[form.row(p)][t / 3] * form.across().weights[form.column(p)][t % 3];
                            weight += factor * codes[t * channels + c];
                        }
                        must = std::max(must, std::abs(weight));
                        const int most = form.operand_bytes == 1 ? kWinogradMaxWeight : 32767;
                        expect_operand(out, form, sz(p * channels + c), std::min(std::max(weight, -most), most));
                    }
                }
                out.any(bytes, bytes + 2 * beyond);
                const std::string where = text(
                    {{"n", form.n}, {"m", form.m}, {"channels", channels}, {"bits", bits}, {"patterns", patterns}});
                line.check(out.difference(), where);
                line.check(
                    largest == must ? "" : "returns " + std::to_string(largest) + ", must be " + std::to_string(must),
                    where);
            }
        }
    }
    return line;
}

Line check_transpose_taps(const Isa& isa) {
    Line line(isa.name, "transpose_taps");
    Random random(12);
    Input memory(25 * 200);
    for (int channels = 1; channels <= 200; channels += channels < 70 ? 1 : 13) {
        for (const int taps : {1, 4, 9, 25}) {
            const std::size_t row_channels = sz(channels + random.between(0, 40));
            auto* codes = reinterpret_cast<std::int8_t*>(memory.place(sz(channels * taps), 0, random));
            Output out(sz(taps - 1) * row_channels + sz(channels));
            isa.transpose_taps(codes, channels, taps, row_channels, out.as<std::int8_t>());
            for (int t = 0; t < taps; ++t) {
                for (int c = 0; c < channels; ++c) out.expect(sz(t) * row_channels + sz(c), codes[c * taps + t]);
            }
            line.check(out.difference(), text({{"channels", channels}, {"taps", taps}}));
        }
    }
    return line;
}

Line check_interleave(const Isa& isa) {
    Line line(isa.name, "interleave");
    Random random(15);
    Input memory[] = {Input(300), Input(300), Input(300)};
    for (int pixels = 1; pixels <= 300; ++pixels) {
        const std::int8_t* planes[3];
        for (int i = 0; i < 3; ++i)
            planes[i] = reinterpret_cast<const std::int8_t*>(memory[i].place(sz(pixels), 0, random));
        Output out(4 * sz(pixels));
        isa.interleave(planes[0], planes[1], planes[2], pixels, out.bytes());
        for (int x = 0; x < pixels; ++x) {
            for (int i = 0; i < 3; ++i) out.expect(sz(4 * x + i), static_cast<std::uint8_t>(planes[i][x] + 128));
            out.expect(sz(4 * x + 3), std::uint8_t{0});
        }
        line.check(out.difference(), text({{"pixels", pixels}}));
    }
    return line;
}

Line check_weave(const Isa& isa) {
    Line line(isa.name, "weave");
    Random random(21);
    constexpr int kMostPixels = 150, kMostRows = 9;
    Input memory(sz(kMostRows * (kMostPixels + 3) * kGroup) + kSlackBytes);
    for (int rows = 1; rows <= kMostRows; ++rows) {
        for (int channels = 1; channels < kGroup; ++channels) {
            for (int pixels = 1; pixels <= kMostPixels; pixels += pixels < 40 ? 1 : 23) {
                const std::size_t row_bytes = sz((pixels + random.between(0, 3)) * kGroup);
                const std::uint8_t* from =
                    memory.place(sz(rows - 1) * row_bytes + sz(pixels * kGroup), kSlackBytes, random);
                const std::size_t woven = sz(pixels * rows * channels);
                Output out(woven + kSlackBytes);
                isa.weave({rows, channels, pixels, from, row_bytes, out.bytes()});
                for (std::size_t i = 0; i < woven; ++i) {
                    const std::size_t c = i % sz(channels), y = i / sz(channels) % sz(rows);
                    out.expect(i, from[y * row_bytes + i / sz(channels * rows) * kGroup + c]);
                }
                out.any(woven, woven + kSlackBytes);
                line.check(out.difference(), text({{"rows", rows}, {"channels", channels}, {"pixels", pixels}}));
            }
        }
    }
    return line;
}

Line check_maximum(const Isa& isa) {
    Line line(isa.name, "maximum");
    Random random(7);
    constexpr int kMostBytes = 300, kMostSources = 16;
    Input input(sz(kMostSources) * sz(kMostBytes + 4) + kSlackBytes);
    for (int bytes = 1; bytes <= kMostBytes; bytes += bytes < 140 ? 1 : 17) {
        for (const int count : {1, 2, 4, 9, kMostSources}) {
            const std::size_t pitch = sz(bytes + random.between(0, 3));
            std::uint8_t* a = input.place(sz(count - 1) * pitch + sz(bytes), kSlackBytes, random);
            const std::uint8_t* sources[kMostSources] = {};
            for (int s = 0; s < count; ++s) sources[s] = a + sz(s) * pitch;
            Output out(sz(bytes));
            isa.maximum(sources, count, bytes, out.bytes());
            for (int i = 0; i < bytes; ++i) {
                std::uint8_t best = 0;
                for (int s = 0; s < count; ++s) best = std::max(best, sources[s][i]);
                out.expect(sz(i), best);
            }
            line.check(out.difference(), text({{"bytes", bytes}, {"count", count}}));
        }
    }
    return line;
}

Line check_extreme(const Isa& isa) {
    Line line(isa.name, "extreme");
    Random random(11);
    for (int columns = kBlock; columns <= 5 * kBlock; columns += kBlock) {
        for (int i = 0; i < 40; ++i) {
            const bool usual = i % 4 == 0;
            const int kernel = usual ? 3 : random.between(1, 4), stride = usual ? 2 : random.between(1, 3);
            const int rows = random.between(1, kernel);
            const int windows = some_rows(random), pixels = (windows - 1) * stride + kernel;
            std::vector<std::int32_t> values(sz(rows * pixels * columns)), flip(sz(columns));
            for (std::int32_t& v : values)
                v = random.between(0, 3) == 0 ? std::numeric_limits<std::int32_t>::min()
                                              : random.between(-70000, 70000);
            for (std::int32_t& f : flip) f = -random.between(0, 1);
            std::vector<const std::int32_t*> row;
            for (int r = 0; r < rows; ++r) row.push_back(values.data() + r * pixels * columns);
            Output out(sz(windows * columns) * sizeof(std::int32_t));
            isa.extreme({row.data(), rows, kernel, stride, windows, columns, flip.data(), out.as<std::int32_t>()});
            for (int w = 0; w < windows; ++w) {
                for (int c = 0; c < columns; ++c) {
                    std::int32_t best = row[0][w * stride * columns + c];
                    for (int k = 0; k < rows * kernel; ++k) {
                        const std::int32_t v = row[sz(k / kernel)][(w * stride + k % kernel) * columns + c];
                        best = flip[sz(c)] != 0 ? std::min(best, v) : std::max(best, v);
                    }
                    out.expect(sz(w * columns + c), best);
                }
            }
            line.check(out.difference(), text({{"columns", columns}, {"rows", rows}, {"kernel", kernel}}));
        }
    }
    return line;
}

Line check_addresses(const Isa& isa) {
    Line line(isa.name, "addresses");
    Random random(18);
    Input memory(1);
    for (int count = 0; count <= kMaxRows; ++count) {
        const std::size_t step = sz(random.between(0, 5000));
        const std::uint8_t* first = memory.place(1, 0, random);
        Output out(sz(count) * sizeof(std::uintptr_t));
        isa.addresses(first, step, count, out.bytes());
        for (int i = 0; i < count; ++i) out.expect(sz(i), reinterpret_cast<std::uintptr_t>(first) + sz(i) * step);
        line.check(out.difference(), text({{"count", count}, {"step", static_cast<int>(step)}}));
    }
    return line;
}

Line check_weighted_sum(const Isa& isa) {
    Line line(isa.name, "weighted_sum");
    Random random(8);
    constexpr int kMostChannels = 200, kMostSources = 64;
    Input input(sz(kMostSources) * sz(kMostChannels + 4) + kSlackBytes);
    for (int channels = 1; channels <= kMostChannels; channels += channels < 70 ? 1 : 13) {
        for (const int count : {1, 2, 4, 9, 49, kMostSources}) {
            for (const bool weighted : {false, true}) {
                const std::size_t pitch = sz(channels + random.between(0, 3));
                std::uint8_t* a = input.place(sz(count - 1) * pitch + sz(channels), kSlackBytes, random);
                const std::uint8_t* sources[kMostSources] = {};
                std::int32_t weights[kMostSources];
                for (int s = 0; s < count; ++s) {
                    sources[s] = a + sz(s) * pitch;
                    weights[s] = random.between(-(1 << 16), 1 << 16);
                }
                if (!weighted) std::memset(a, channels % 2 == 0 ? 255 : 200, sz(count - 1) * pitch + sz(channels));
                // Whole blocks may be written.
                const int padded = round_up(channels, kBlock);
                Output acc(4 * sz(padded));
                isa.weighted_sum(sources, weighted ? weights : nullptr, count, channels, acc.as<std::int32_t>());
                for (int c = 0; c < channels; ++c) {
                    std::int32_t sum = 0;
                    for (int s = 0; s < count; ++s) sum += sources[s][c] * (weighted ? weights[s] : 1);
                    acc.expect(sz(c), sum);
                }
                acc.any(4 * sz(channels), 4 * sz(padded));
                line.check(acc.difference(), text({{"channels", channels}, {"count", count}, {"weighted", weighted}}));
            }
        }
    }
    return line;
}

Line check_derive(const Isa& isa) {
    Line line(isa.name, "derive");
    Random random(9);
    Input input(1024);
    for (int bits = 2; bits <= 8; ++bits) {
        // All 256 codes, at every alignment of the end, and shorter stretches.
        for (int count = 0; count <= 256 + 40; ++count) {
            auto* q8 = reinterpret_cast<std::int8_t*>(input.place(sz(count), 0, random));
            for (int i = 0; i < count; ++i) q8[i] = static_cast<std::int8_t>(i - 128);
            Output codes(sz(count));
            isa.derive(q8, sz(count), bits, codes.as<std::int8_t>());
            for (int i = 0; i < count; ++i) {
                const double rounded = std::nearbyint(static_cast<double>(q8[i]) / (1 << (8 - bits)));
                const double low = -(1 << (bits - 1)), high = (1 << (bits - 1)) - 1;
                codes.expect(sz(i), static_cast<std::int8_t>(std::min(std::max(rounded, low), high)));
            }
            line.check(codes.difference(), text({{"bits", bits}, {"count", count}}));
        }
    }
    return line;
}

// What the rest of the engine relies on in the table itself.
Line check_table(const IsaEntry& entry) {
    const Isa& isa = *entry.isa;
    Line line(entry.name, "table");
    const auto require = [&](bool holds, const char* what) { line.check(holds ? "" : "does not hold", what); };
    require(std::strcmp(isa.name, entry.name) == 0, "its name is the dispatcher's");
    require(choose_isa(entry.name) == entry.isa, "it can be chosen by name");
    require(isa.dot_count > 0 && isa.dots[isa.dot_count - 1].exact(255, 128), "its last dot path is exact for 8 bits");
    for (int i = 0; i < isa.dot_count; ++i) {
        require(isa.dots[i].max_rows >= 1 && isa.dots[i].max_rows <= kMaxRows, "max_rows of a dot path");
        require(isa.dots[i].run_quick == nullptr || isa.dots[i].max_rows < kMaxRows || isa.dots[i].places > 0,
                "room for a row more");
        require(isa.dots[i].quick_outputs <= kMaxOutputs, "quick_outputs of a dot path");
        require(isa.dots[i].places == 0 || isa.enter != nullptr, "what comes before tiles");
        require(isa.dots[i].max_blocks >= 1 && isa.dots[i].max_blocks <= kMaxBlocks, "max_blocks of a dot path");
    }
    for (int i = 0; i < isa.lut_count; ++i) {
        require(isa.luts[i].max_rows >= 1 && isa.luts[i].max_rows <= kMaxRows, "max_rows of a look-up path");
        require(isa.luts[i].columns >= 1 && isa.luts[i].columns <= kLutColumnsMax, "columns of a look-up path");
    }
    return line;
}

// Weights of `taps` taps that add up to kWeightOne, or nearly, as rounded ones do.
std::vector<std::int32_t> tap_weights(int taps, int pattern, Random& random) {
    std::vector<std::int32_t> weights(sz(taps));
    if (pattern == 0) {
        weights[sz(random.between(0, taps - 1))] = kWeightOne;
        return weights;
    }
    std::int32_t rest = kWeightOne + random.between(-taps / 2, taps / 2);
    for (int t = 0; t + 1 < taps; ++t)
        rest -= weights[sz(t)] = random.between(0, std::min(rest, kWeightOne / taps * 2));
    weights.back() = std::min(rest, kWeightOne);
    return weights;
}

std::uint8_t weighted_byte(std::uint64_t sum) {
    return static_cast<std::uint8_t>(std::min<std::uint64_t>((sum + kWeightOne / 2) / kWeightOne, 255));
}

Line check_across(const Isa& isa) {
    Line line(isa.name, "across");
    Random random(31);
    constexpr int kMostPixels = 70, kMostTaps = 12, kMostWidth = kMostPixels * kMostStep + kMostTaps;
    Input input(3 * kMostWidth + 3 * kMostTaps + kPixelSlackBytes);
    for (int pixels = 1; pixels <= kMostPixels; pixels += pixels < 20 ? 1 : 7) {
        for (int taps = 1; taps <= kMostTaps; ++taps) {
            for (int pattern = 0; pattern < 3; ++pattern) {
                std::vector<std::int32_t> first{0}, weight;
                while (first.size() < sz(pixels)) {
                    first.push_back(first.back() + (pattern == 1 ? kMostStep : random.between(0, kMostStep)));
                }
                const int width = first.back() + taps;
                std::uint8_t* row = input.place(3 * sz(width), 3 * sz(taps) + kPixelSlackBytes, random);
                if (pattern == 2) std::memset(row, 255, 3 * sz(width));
                Output out(3 * sz(pixels) + kPixelSlackBytes);
                for (int x = 0; x < pixels; ++x) {
                    const std::vector<std::int32_t> own = tap_weights(taps, pattern, random);
                    weight.insert(weight.end(), own.begin(), own.end());
                    for (int c = 0; c < 3; ++c) {
                        std::uint64_t sum = 0;
                        for (int t = 0; t < taps; ++t)
                            sum += static_cast<std::uint64_t>(own[sz(t)]) * row[3 * (first[sz(x)] + t) + c];
                        out.expect(3 * sz(x) + sz(c), weighted_byte(sum));
                    }
                }
                std::vector<std::uint8_t> packed(isa.pixels.across_bytes(pixels, taps));
                isa.pixels.pack_across(first.data(), weight.data(), taps, pixels, packed.data());
                isa.pixels.across(row, packed.data(), taps, pixels, out.bytes());
                out.any(3 * sz(pixels), 3 * sz(pixels) + kPixelSlackBytes);
                line.check(out.difference(), text({{"pixels", pixels}, {"taps", taps}, {"pattern", pattern}}));
            }
        }
    }
    return line;
}

Line check_down(const Isa& isa) {
    Line line(isa.name, "down");
    Random random(32);
    constexpr int kMostBytes = 300, kMostTaps = 9;
    Input input(sz(kMostTaps) * kMostBytes + kPixelSlackBytes);
    for (int bytes = 1; bytes <= kMostBytes; bytes += bytes < 130 ? 3 : 17) {
        for (int taps = 1; taps <= kMostTaps; ++taps) {
            for (int pattern = 0; pattern < 3; ++pattern) {
                std::uint8_t* a = input.place(sz(taps) * sz(bytes), kPixelSlackBytes, random);
                if (pattern == 2) std::memset(a, 255, sz(taps) * sz(bytes));
                const std::vector<std::int32_t> weight = tap_weights(taps, pattern, random);
                std::vector<const std::uint8_t*> rows(sz(taps));
                for (int t = 0; t < taps; ++t) rows[sz(t)] = a + sz(t) * sz(bytes);
                Output out(sz(bytes) + kPixelSlackBytes);
                isa.pixels.down(rows.data(), weight.data(), taps, bytes, out.bytes());
                for (int i = 0; i < bytes; ++i) {
                    std::uint64_t sum = 0;
                    for (int t = 0; t < taps; ++t) sum += static_cast<std::uint64_t>(weight[sz(t)]) * rows[sz(t)][i];
                    out.expect(sz(i), weighted_byte(sum));
                }
                out.any(sz(bytes), sz(bytes) + kPixelSlackBytes);
                line.check(out.difference(), text({{"bytes", bytes}, {"taps", taps}, {"pattern", pattern}}));
            }
        }
    }
    return line;
}

Line check_look_up(const Isa& isa) {
    Line line(isa.name, "look_up");
    Random random(33);
    constexpr int kMostPixels = 400;
    Input input(3 * kMostPixels), tables(3 * 256);
    for (int pixels = 1; pixels <= kMostPixels; pixels += pixels < 140 ? 1 : 13) {
        const std::uint8_t* row = input.place(3 * sz(pixels), 0, random);
        const auto* table = reinterpret_cast<const std::int8_t*>(tables.place(3 * 256, 0, random));
        Output out(3 * sz(pixels));
        std::int8_t* const planes[] = {out.as<std::int8_t>(), out.as<std::int8_t>() + pixels,
                                       out.as<std::int8_t>() + 2 * pixels};
        isa.pixels.look_up(row, table, pixels, planes);
        for (int x = 0; x < pixels; ++x) {
            for (int c = 0; c < 3; ++c) out.expect(sz(c * pixels + x), table[256 * c + row[3 * x + c]]);
        }
        line.check(out.difference(), text({{"pixels", pixels}}));
    }
    return line;
}

// A logit: often an equal one, now and then what is no number or no end.
float logit(Random& random) {
    static const std::vector<float> odd = {std::numeric_limits<float>::quiet_NaN(),
                                           std::numeric_limits<float>::infinity(),
                                           -std::numeric_limits<float>::infinity(),
                                           3e38f,
                                           -3e38f,
                                           -0.0f};
    if (random.between(0, 30) == 0) return random.pick(odd);
    return random.coin() ? static_cast<float>(random.between(-1, 1)) : random.uniform() - 0.5f;
}

float bounded(float v) { return std::isnan(v) ? -1e30f : std::min(std::max(v, -1e30f), 1e30f); }

Line check_bound(const Isa& isa) {
    Line line(isa.name, "bound");
    Random random(34);
    constexpr int kMost = 70;
    Input input(kMost * sizeof(float));
    for (int count = 1; count <= kMost; ++count) {
        std::uint8_t* a = input.place(sz(count) * sizeof(float), 0, random);
        Output out(sz(count) * sizeof(float) + kPixelSlackBytes);
        for (int i = 0; i < count; ++i) {
            const float v = logit(random);
            std::memcpy(a + 4 * i, &v, sizeof v);
            out.expect(sz(i), bounded(v));
        }
        isa.pixels.bound(reinterpret_cast<const float*>(a), count, out.as<float>());
        out.any(4 * sz(count), 4 * sz(count) + kPixelSlackBytes);
        line.check(out.difference(), text({{"count", count}}));
    }
    return line;
}

std::vector<float> bounded_logits(std::size_t count, Random& random) {
    std::vector<float> logits(count);
    for (float& v : logits) v = bounded(logit(random));
    return logits;
}

Line check_largest(const Isa& isa) {
    Line line(isa.name, "largest");
    Random random(35);
    for (const int classes : {1, 2, 3, 11, 150, 256}) {
        for (const int count : {1, 3, 15, 16, 17, 64, 100}) {
            const std::size_t stride = sz(count + random.between(0, 5));
            const auto logits = bounded_logits(sz(classes) * stride + kPixelSlackBytes / sizeof(float), random);
            Output best(sz(count) + kPixelSlackBytes);
            isa.pixels.largest(logits.data(), stride, classes, count, best.bytes());
            for (int i = 0; i < count; ++i) {
                int index = 0;
                for (int c = 1; c < classes; ++c) {
                    if (logits[sz(c) * stride + sz(i)] > logits[sz(index) * stride + sz(i)]) index = c;
                }
                best.expect(sz(i), static_cast<std::uint8_t>(index));
            }
            best.any(sz(count), sz(count) + kPixelSlackBytes);
            line.check(best.difference(), text({{"classes", classes}, {"count", count}}));
        }
    }
    return line;
}

Line check_mixed(const Isa& isa) {
    Line line(isa.name, "mixed");
    Random random(36);
    for (const int classes : {1, 2, 11, 256}) {
        for (const int cells : {1, 2, 15, 16, 17, 40}) {
            for (const int widest : {1, 5, 40, 0}) {  // the last one: 2 or 3, so that it is fine
                const std::size_t stride = 2 * sz(cells) + kPixelSlackBytes / sizeof(float);
                const auto logits = bounded_logits(sz(classes) * stride + kPixelSlackBytes / sizeof(float), random);
                std::vector<int> begin{0};
                const bool fine = widest == 0;
                for (int i = 0; i < cells; ++i)
                    begin.push_back(begin.back() + (fine ? random.between(2, 3) : random.between(0, widest)));
                const int pixels = begin.back();
                const std::size_t room = sz(pixels) + kPixelSlackBytes;
                std::vector<float> share(room), lines(2 * sz(classes) * sz(cells + kCellSlack));
                std::vector<std::int32_t> first(room, cells - 1);
                std::vector<std::uint8_t> wanted(sz(cells)), pick(room), flat(room), ids(room);
                Output out(sz(pixels));
                const float down = random.uniform();
                for (int cell = 0; cell < cells; ++cell) {
                    wanted[sz(cell)] = random.coin() ? 255 : 0;
                    for (int x = begin[sz(cell)]; x < begin[sz(cell) + 1]; ++x) {
                        share[sz(x)] = random.uniform();
                        first[sz(x)] = cell;
                        pick[sz(x)] = wanted[sz(cell)];
                        flat[sz(x)] = static_cast<std::uint8_t>(random.bits());
                        int index = 0;
                        float highest = 0;
                        for (int c = 0; c < classes; ++c) {
                            const auto at = [&](int i) {
                                const float* p = &logits[sz(c) * stride + sz(std::min(i, cells - 1))];
                                return p[0] + (p[cells] - p[0]) * down;
                            };
                            const float v = at(cell) + (at(cell + 1) - at(cell)) * share[sz(x)];
                            if (c == 0 || v > highest) {
                                highest = v;
                                index = c;
                            }
                        }
                        out.expect(sz(x), wanted[sz(cell)] != 0 ? static_cast<std::uint8_t>(index) : flat[sz(x)]);
                    }
                }
                isa.pixels.mixed(
                    {logits.data(), logits.data() + cells, stride, classes, cells, pixels, down, fine, begin.data(),
                     first.data(), share.data(), wanted.data(), pick.data(), flat.data(), lines.data(), ids.data()},
                    out.bytes());
                line.check(out.difference(), text({{"classes", classes}, {"cells", cells}, {"pixels", pixels}}));
            }
        }
    }
    return line;
}

bool check_dots(const Isa& isa) {
    bool good = true;
    const Entered entered(isa);
    for (int i = 0; i < isa.dot_count; ++i) {
        good &= check_dot(isa, isa.dots[i]).print();
        if (isa.dots[i].run_quick != nullptr) good &= check_dot_quick(isa, isa.dots[i]).print();
    }
    return good;
}

// All functions but those that `like`, if it is not null, has as well.
bool check_isa(const IsaEntry& entry, const Isa* like) {
    const Isa& isa = *entry.isa;
    bool good = check_table(entry).print();
    if (isa.inverts != nullptr) good &= check_inverts(isa).print();
    if (like != nullptr) return check_dots(isa) && good;
    good &= check_epilogue(isa).print();
    good &= check_depthwise(isa).print();
    if (isa.depthwise.run_quick != nullptr) good &= check_depthwise_quick(isa).print();
    good &= check_winograd_input(isa).print();
    good &= check_winograd_output(isa).print();
    good &= check_winograd_weights(isa).print();
    good &= check_winograd(isa).print();
    if (isa.winograd[0].columns != nullptr) {
        good &= check_winograd_columns(isa).print();
        good &= check_winograd_quick(isa).print();
    }
    good &= check_transpose_taps(isa).print();
    good &= check_interleave(isa).print();
    good &= check_weave(isa).print();
    good &= check_maximum(isa).print();
    good &= check_extreme(isa).print();
    good &= check_weighted_sum(isa).print();
    good &= check_addresses(isa).print();
    good &= check_derive(isa).print();
    good &= check_dots(isa);
    if (isa.words != nullptr) good &= check_words(isa, *isa.words).print();
    good &= check_across(isa).print();
    good &= check_down(isa).print();
    good &= check_look_up(isa).print();
    good &= check_bound(isa).print();
    good &= check_largest(isa).print();
    good &= check_mixed(isa).print();
    for (int i = 0; i < isa.lut_count; ++i) {
        good &= check_lut(isa, isa.luts[i]).print();
        if (isa.luts[i].run_quick != nullptr) good &= check_lut_quick(isa, isa.luts[i]).print();
    }
    if (isa.pixel_lut != nullptr) {
        good &= check_pixel_lut(isa, *isa.pixel_lut).print();
        good &= check_pixel_lut_quick(isa, *isa.pixel_lut).print();
    }
    return good;
}

}  // namespace
}  // namespace bitgear

int main(int argc, char** argv) {
    using namespace bitgear;
    std::vector<std::string> required, refused;
    for (int i = 1; i < argc; i += 2) {
        const std::string option = argv[i];
        if (i + 1 == argc || (option != "--require" && option != "--refuse")) {
            std::fprintf(stderr, "usage: check_kernels [--require NAME] [--refuse NAME]\n");
            return 2;
        }
        (option == "--require" ? required : refused).emplace_back(argv[i + 1]);
    }
    int count = 0;
    const IsaEntry* entries = instruction_sets(&count);
    bool good = true;
    std::vector<std::string> checked;
    for (int i = 0; i < count; ++i) {
        if (entries[i].isa == nullptr || !entries[i].supported) {
            std::printf("-    %-13s %s\n", entries[i].name,
                        entries[i].isa == nullptr ? "not compiled" : "not supported by this processor");
            continue;
        }
        if (checked.empty() && choose_isa(nullptr) != entries[i].isa) {
            std::printf("FAIL %-13s is the best one, but not the one chosen\n", entries[i].name);
            good = false;
        }
        const IsaEntry* like = std::find_if(entries + i + 1, entries + count, [&](const IsaEntry& other) {
            return other.isa != nullptr && other.supported && other.isa->epilogue == entries[i].isa->epilogue;
        });
        good &= check_isa(entries[i], like == entries + count ? nullptr : like->isa);
        checked.emplace_back(entries[i].name);
    }
    for (const std::string& name : required) {
        if (std::find(checked.begin(), checked.end(), name) != checked.end()) continue;
        std::printf("FAIL %-13s required, but not offered\n", name.c_str());
        good = false;
    }
    for (const std::string& name : refused) {
        const bool known = std::any_of(entries, entries + count, [&](const IsaEntry& e) { return name == e.name; });
        if (known && choose_isa(name.c_str()) == nullptr) continue;
        std::printf("FAIL %-13s %s\n", name.c_str(), known ? "offered" : "unknown");
        good = false;
    }
    std::printf(good ? "all equal\n" : "FAILED\n");
    return good ? 0 : 1;
}
