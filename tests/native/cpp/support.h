// What the checks have in common: numbers, memory that is watched, lines of the report, and how models pack.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "integers.h"
#include "kernels.h"
#include "quantizer.h"

namespace bitgear::checks {

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
inline int some_rows(Random& random) { return random.between(1, random.between(0, 9) == 0 ? kMaxRows : 16); }

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

inline std::string text(std::initializer_list<std::pair<const char*, long>> values) {
    std::string s;
    for (const auto& [name, value] : values)
        s += (s.empty() ? "" : " ") + std::string(name) + "=" + std::to_string(value);
    return s;
}

// Adversarial numbers: all the highest, all the lowest, alternating at several distances, random, random extremes.
constexpr int kPatterns = 7;
inline int patterned(int pattern, int low, int high, std::size_t index, Random& random) {
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
inline std::size_t split(int groups, int count, std::size_t group_bytes, int gap, Random& random,
                         std::vector<Run>* runs) {
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
inline std::vector<Run> cut(const DotPath& path, const std::vector<Run>& runs) {
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
inline std::size_t run_bytes(const DotPath& path, const Run& run) {
    return sz(round_up(run.groups, path.run_groups)) * sz(path.group_bytes);
}

// Packs a block's codes as a model does: run by run if runs are filled up.
inline void pack_runs(const DotPath& path, std::vector<Run> runs, const std::int8_t* codes, std::size_t row_bytes,
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
inline std::size_t row_slack(const DotPath& path, std::size_t row_step) {
    return kSlackBytes + sz(path.places) * row_step + sz(path.run_groups * kGroup);
}

// All numbers up to `most` of what few take; a choice of those that tiles take.
inline std::vector<int> sizes(int most, int few) {
    std::vector<int> all;
    for (int n = 1; n <= most; ++n) {
        const int past = n % 16;
        if (most <= few || n < 4 || n == most || past < 2 || past == 15) all.push_back(n);
    }
    return all;
}

// The documented chain of operations, from a value to its reader's byte.
inline std::uint8_t byte_of(float value, const Quantizer& q) {
    const float code = std::nearbyintf(value / q.scale);
    const float clipped = std::min(std::max(code, static_cast<float>(q.low)), static_cast<float>(q.high));
    return static_cast<std::uint8_t>(static_cast<int>(clipped) + q.zero);
}

// One or two readers of any width, with scales `scale` and twice that. `quick`: room for 2 * padded numbers of each.
// Returns whether all are bounded.
inline bool quick_readers(Quantizer* quantizers, int outputs, float scale, const float* multiplier, const float* bias,
                          int channels, int padded, float residual_scale, std::int32_t residual_zero,
                          double largest_sum, float* quick, Random& random) {
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

}  // namespace bitgear::checks
