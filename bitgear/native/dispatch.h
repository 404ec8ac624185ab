// Which instruction sets were compiled, which the processor runs, and which path a layer takes.
#pragma once

#include "kernels.h"

namespace bitgear {

struct IsaEntry {
    const char* name;
    const Isa* isa;  // null: not compiled for this architecture
    bool supported;  // by this processor
};

// All instruction sets by preference, best first; `portable` is the last one and always there.
const IsaEntry* instruction_sets(int* count);

// The instruction set named, or the best one if `name` is null or empty. Null if it is unknown, not compiled, not
// supported, or if the system refuses this process what it needs; nothing is asked of the system for any other set.
const Isa* choose_isa(const char* name);

// The same for whoever multiplies nothing, such as with pictures: the system is asked for nothing.
const Isa* find_isa(const char* name);

// What a thread does before it multiplies, and when it is done.
class Entered {
public:
    explicit Entered(const Isa& isa) : isa_(isa) {
        if (isa_.enter != nullptr) isa_.enter();
    }
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;
    ~Entered() {
        if (isa_.leave != nullptr) isa_.leave();
    }

private:
    const Isa& isa_;
};

// From files isa_*.cpp; null where the compiler's target is another architecture.
extern const Isa* const kIsaPortable;
extern const Isa* const kIsaAvx2;
extern const Isa* const kIsaAvx2Vnni;
extern const Isa* const kIsaAvx512;
extern const Isa* const kIsaAmx;
extern const Isa* const kIsaNeon;

}  // namespace bitgear
