// Memory that begins at a multiple of 64 bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace bitgear {

struct AlignedBytes {
    AlignedBytes() = default;
    explicit AlignedBytes(std::size_t size) : size_(size) {
        const std::size_t rounded = (size + 63) / 64 * 64;
        auto* p = static_cast<std::uint8_t*>(std::aligned_alloc(64, std::max<std::size_t>(rounded, 64)));
        if (p == nullptr) throw std::bad_alloc();
        data_.reset(p);
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
