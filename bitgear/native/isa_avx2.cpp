// x86-64 with AVX2 and BMI2: Haswell, Zen and later.
#include "dispatch.h"

#if defined(__x86_64__) && defined(__AVX2__)
#include <immintrin.h>

#define BG_NAMESPACE avx2
#define BG_VECTOR_BYTES 32
#include "generic.h"
#include "pixels.h"

namespace bitgear {
namespace avx2 {
namespace {

#include "depthwise.h"
#include "dot_avx2.h"
#include "lut_avx2.h"

const Isa kIsa = {"avx2",
                  kDots,
                  kDotCount,
                  kLuts,
                  kLutCount,
                  nullptr,
                  &kWordsPath,
                  {depthwise_bytes, depthwise_pack, depthwise, nullptr},
                  BG_GENERIC_FUNCTIONS(kBytes, kWords, kStrided),
                  BG_PIXEL_FUNCTIONS};

}  // namespace
}  // namespace avx2

const Isa* const kIsaAvx2 = &avx2::kIsa;

}  // namespace bitgear

#else

namespace bitgear {
const Isa* const kIsaAvx2 = nullptr;
}

#endif
