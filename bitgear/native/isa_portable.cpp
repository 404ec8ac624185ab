// Any processor: plain C++, always right.
#define BG_NAMESPACE portable
#define BG_VECTOR_BYTES 16

#include "dispatch.h"
#include "generic.h"
#include "pixels.h"

namespace bitgear {
namespace portable {
namespace {

void pack_bytes(const std::int8_t* codes, std::size_t row_bytes, int groups, std::uint8_t* packed) {
    for (int g = 0; g < groups; ++g) {
        for (int c = 0; c < kBlock; ++c) {
            std::memcpy(packed + (g * kBlock + c) * kGroup,
                        codes + static_cast<std::size_t>(c) * row_bytes + g * kGroup, kGroup);
        }
    }
}

// Operands are bytes or, signed, 16 bits; sums of the latter may wrap around.
template <class Activation, class Weight>
void dot(const DotTile& tile) {
    constexpr int kInputs = kGroup / static_cast<int>(sizeof(Weight));
    const int columns = tile.blocks * kBlock;
    for (int r = 0; r < tile.rows; ++r) {
        for (int b = 0; b < tile.blocks; ++b) {
            std::uint32_t sums[kBlock] = {};
            const std::uint8_t* w = tile.w + static_cast<std::size_t>(b) * tile.block_bytes;
            for (int i = 0; i < tile.run_count; ++i) {
                const std::uint8_t* a = tile.a[r] + tile.runs[i].offset;
                for (int g = 0; g < tile.runs[i].groups; ++g, a += kGroup, w += kBlock * kGroup) {
                    Activation inputs[kInputs];
                    Weight weights[kBlock * kInputs];
                    std::memcpy(inputs, a, sizeof inputs);
                    std::memcpy(weights, w, sizeof weights);
                    for (int c = 0; c < kBlock; ++c) {
                        for (int k = 0; k < kInputs; ++k)
                            sums[c] += static_cast<std::uint32_t>(inputs[k] * weights[c * kInputs + k]);
                    }
                }
            }
            std::memcpy(tile.acc + static_cast<std::ptrdiff_t>(r) * columns + b * kBlock, sums, sizeof sums);
        }
    }
}

const DotPath kDots[] = {
    {"scalar", 8, 4, kBlock * kGroup, always_exact, nullptr, pack_bytes, dot<std::uint8_t, std::int8_t>, nullptr}};
const DotPath kWordsPath{
    "scalar-16", 8, 4, kBlock * kGroup, always_exact, nullptr, pack_bytes, dot<std::int16_t, std::int16_t>, nullptr};

const Isa kIsa = {"portable",
                  kDots,
                  1,
                  nullptr,
                  0,
                  nullptr,
                  &kWordsPath,
                  {depthwise_bytes, depthwise_pack, depthwise, nullptr},
                  BG_GENERIC_FUNCTIONS(kBytes, kWords, kStrided),
                  BG_PIXEL_FUNCTIONS};

}  // namespace
}  // namespace portable

const Isa* const kIsaPortable = &portable::kIsa;

}  // namespace bitgear
