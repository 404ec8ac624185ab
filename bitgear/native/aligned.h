// Memory that begins at a multiple of 64 bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bitgear {

struct AlignedBytes {
    AlignedBytes() = default;
    explicit AlignedBytes(std::size_t size) : size_(size) {
        const std::size_t rounded = std::max<std::size_t>((size + 63) / 64 * 64, 64);
#if defined(__linux__)
        // In pages of 4 KiB, new memory costs as much as the weights that are packed into it: a fault for each.
        constexpr std::size_t kHugePage = std::size_t{2} << 20;
        const bool huge = rounded >= kHugePage;
        void* memory = nullptr;
        if (posix_memalign(&memory, huge ? kHugePage : 64, rounded) != 0) throw std::bad_alloc();
        if (huge) madvise(memory, rounded / kHugePage * kHugePage, MADV_HUGEPAGE);  // a wish
        data_.reset(static_cast<std::uint8_t*>(memory));
#else
        auto* p = static_cast<std::uint8_t*>(std::aligned_alloc(64, rounded));
        if (p == nullptr) throw std::bad_alloc();
        data_.reset(p);
#endif
    }
    std::uint8_t* data() const { return data_.get(); }
    std::size_t size() const { return size_; }

private:
    struct Free {
        void operator()(std::uint8_t* p) const { std::free(p); }
    };
    std::unique_ptr<std::uint8_t[], Free> data_;
    std::size_t size_ = 0;
};

}  // namespace bitgear
