// x86-64 with AVX2 and BMI2: Haswell, Zen and later. The same with AVX-VNNI: Alder Lake, Zen 5 and later.
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

constexpr Isa kIsa = {"avx2",
                      kDots,
                      kDotCount,
                      kLuts,
                      kLutCount,
                      nullptr,
                      &kWordsPath,
                      {depthwise_bytes, depthwise_pack, depthwise, nullptr},
                      BG_GENERIC_FUNCTIONS(kBytes, kWords, kStrided),
                      BG_PIXEL_FUNCTIONS};

#ifdef BITGEAR_AVX_VNNI
constexpr Isa with_vnni() {
    Isa isa = kIsa;
    isa.name = "avx2-vnni";
    isa.dots = kVnniDots;
    isa.dot_count = sizeof(kVnniDots) / sizeof(kVnniDots[0]);
    isa.words = &kVnniWords;
    return isa;
}

constexpr Isa kIsaWithVnni = with_vnni();
#endif

}  // namespace
}  // namespace avx2

const Isa* const kIsaAvx2 = &avx2::kIsa;
#ifdef BITGEAR_AVX_VNNI
const Isa* const kIsaAvx2Vnni = &avx2::kIsaWithVnni;
#else
const Isa* const kIsaAvx2Vnni = nullptr;
#endif

}  // namespace bitgear

#else

namespace bitgear {
const Isa* const kIsaAvx2 = nullptr;
const Isa* const kIsaAvx2Vnni = nullptr;
}  // namespace bitgear

#endif
