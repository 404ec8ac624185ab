// How long the kernels of an instruction set take on the machine at hand: what the choice of a layer's path goes by.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels.h"

namespace bitgear {

// All times in nanoseconds, of one thread. A multiplication of `rows` pixels by `columns` channels takes `call` once
// and `mac` for each multiply-accumulate, of bytes or of 16 bits, and where 16-bit sums are widened `widening` over the
// period more. `finish`: from sums to bytes, for each sum, the way this path goes (in registers or through memory).
struct DotRates {
    double mac = 0, widening = 0, call = 0, finish = 0;
};

struct LutRates {
    double mac = 0, table = 0, call = 0, finish = 0;
};

// `mac` of whole tiles, `single` of tiles of a vector. `index`: a group's index byte of a pixel. `finish` and, where
// tables have the sums' bytes, `results` count for every sum of all columns of a tile.
struct PixelLutRates {
    double mac = 0, single = 0, index = 0, finish = 0, results = 0;
};

// Of one of Winograd's forms: a vector of one position of a patch, and a vector of one position's sums, where positions
// are multiplied one by one, and where a column of them is, all beside multiply-accumulates.
struct FormRates {
    double patch = 0, sums = 0, columns = 0;
};

struct Rates {
    std::vector<DotRates> dots;  // in the order of Isa::dots
    DotRates words;
    std::vector<LutRates> luts;
    PixelLutRates pixel_lut;
    FormRates forms[kWinogradForms];
    double epilogue = 0;  // a sum in memory to its byte
    double stream = 0;    // a byte of weights from beyond the second cache
};

using NamedTimes = std::map<std::string, double>;

// The times of a set by name.
NamedTimes named(const Isa& isa, const Rates& rates);

// The other way round. Throws std::invalid_argument unless all names of the set are there, each with a time of at least
// 0, and no others.
Rates rates_of(const Isa& isa, const NamedTimes& times);

// Measures a set: each kernel some times in turn, of which the least counts, to three digits. Some hundredths of a
// second.
Rates measure_rates(const Isa& isa);

}  // namespace bitgear
