#include "dispatch.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace bitgear {
namespace {

#if defined(__x86_64__)
// Compilers know what is newer than these by different names, or not at all.
struct Features {
    unsigned a = 0, b = 0, c = 0, d = 0;

    explicit Features(unsigned page) { __get_cpuid_count(7, page, &a, &b, &c, &d); }
};
#endif

bool has_avx2() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

bool has_avx2_vnni() {
#if defined(__x86_64__)
    return has_avx2() && (Features(1).a & 1u << 4) != 0;
#else
    return false;
#endif
}

bool has_avx512_vnni() {
#if defined(__x86_64__)
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
#else
    return false;
#endif
}

#if defined(__x86_64__) && defined(__linux__)
constexpr int kTileData = 18;  // XFEATURE_XTILEDATA

// Whether Linux knows the tiles' eight kilobytes as part of a thread's state.
bool linux_has_tiles() {
    constexpr long kSupported = 0x1021;  // ARCH_GET_XCOMP_SUPP
    unsigned long long features = 0;
    return syscall(SYS_arch_prctl, kSupported, &features) == 0 && (features >> kTileData & 1) != 0;
}
#endif

// Asks Linux for what a set needs, which it keeps from processes that do not ask. Only of a set that is to be used:
// with tiles a thread's state no longer fits alternate stacks for signals of the customary size, so Linux refuses
// either those or tiles, whichever comes second.
bool permitted(const Isa* isa) {
#if defined(__x86_64__) && defined(__linux__)
    constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
    return isa != kIsaAmx || syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return isa != nullptr;
#endif
}

bool has_avx512_amx() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned kTiles = 3u << 24, kGfni = 1u << 8;  // AMX-TILE and AMX-INT8
    const Features features(0);
    return kIsaAmx != nullptr && has_avx512_vnni() && (features.d & kTiles) == kTiles && (features.c & kGfni) != 0 &&
           linux_has_tiles();
#else
    return false;
#endif
}

bool has_neon_dotprod() {
#if defined(__aarch64__) && defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
    return true;  // every Apple processor that runs 64-bit macOS
#else
    return false;
#endif
}

}  // namespace

const IsaEntry* instruction_sets(int* count) {
    static const IsaEntry entries[] = {
        {"avx512-amx", kIsaAmx, has_avx512_amx()},      {"avx512-vnni", kIsaAvx512, has_avx512_vnni()},
        {"avx2-vnni", kIsaAvx2Vnni, has_avx2_vnni()},   {"avx2", kIsaAvx2, has_avx2()},
        {"neon-dotprod", kIsaNeon, has_neon_dotprod()}, {"portable", kIsaPortable, true},
    };
    *count = sizeof(entries) / sizeof(entries[0]);
    return entries;
}

namespace {

template <class Accept>
const Isa* first_isa(const char* name, Accept accept) {
    int count = 0;
    const IsaEntry* entries = instruction_sets(&count);
    const bool any = name == nullptr || name[0] == '\0';
    for (int i = 0; i < count; ++i) {
        if (entries[i].isa != nullptr && entries[i].supported && (any || std::strcmp(name, entries[i].name) == 0) &&
            accept(entries[i].isa)) {
            return entries[i].isa;
        }
    }
    return nullptr;
}

}  // namespace

const Isa* find_isa(const char* name) {
    return first_isa(name, [](const Isa*) { return true; });
}

const Isa* choose_isa(const char* name) { return first_isa(name, permitted); }

}  // namespace bitgear
