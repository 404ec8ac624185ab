// Checks every function of every instruction set that this processor runs against plain loops written here.
//
//   check_kernels [--require NAME] [--refuse NAME]
//
// --require: fail unless the instruction set NAME was checked; --refuse: fail if it is offered.
// Prints a line for each function and leaves with 1 if a result differs. Results must be equal to the bit. Inputs end
// right before an inaccessible page (plus the slack that the interface grants), so that a read too far ends the
// program.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "checks.h"
#include "dispatch.h"
#include "support.h"

namespace bitgear::checks {
namespace {

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
}  // namespace bitgear::checks

int main(int argc, char** argv) {
    using namespace bitgear;
    using namespace bitgear::checks;
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
