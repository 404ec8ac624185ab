// Measuring the kernels of an instruction set, as a 3x3 layer over 128 channels sees them.
#include "rates.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "dispatch.h"
#include "probes.h"

namespace bitgear {
namespace {

constexpr std::size_t kStreamBytes = std::size_t{32} << 20;  // more than caches keep of a model that others run beside
constexpr int kEpilogueRows = 8;
constexpr int kRounds = 32;
constexpr int kStreamRounds = 3;

// Visits all times of a set with their names.
template <class R, class Visit>
void each(const Isa& isa, R& rates, Visit visit) {
    const auto of_dot = [&](const DotPath& path, auto& dot) {
        const std::string name = path.name;
        visit(name + " mac", dot.mac);
        if (path.period != nullptr) visit(name + " widening", dot.widening);
        visit(name + " call", dot.call);
    };
    for (int i = 0; i < isa.dot_count; ++i) {
        of_dot(isa.dots[i], rates.dots[sz(i)]);
        visit(std::string(isa.dots[i].name) + " finish", rates.dots[sz(i)].finish);
    }
    if (isa.words != nullptr) of_dot(*isa.words, rates.words);
    for (int i = 0; i < isa.lut_count; ++i) {
        const std::string name = isa.luts[i].name;
        visit(name + " mac", rates.luts[sz(i)].mac);
        visit(name + " table", rates.luts[sz(i)].table);
        visit(name + " call", rates.luts[sz(i)].call);
        visit(name + " finish", rates.luts[sz(i)].finish);
    }
    if (isa.pixel_lut != nullptr) {
        const std::string name = isa.pixel_lut->name;
        visit(name + " mac", rates.pixel_lut.mac);
        visit(name + " single", rates.pixel_lut.single);
        visit(name + " index", rates.pixel_lut.index);
        visit(name + " finish", rates.pixel_lut.finish);
        visit(name + " results", rates.pixel_lut.results);
    }
    for (int i = 0; i < kWinogradForms; ++i) {
        const std::string name = kWinograd[i].name;
        visit(name + " patch", rates.forms[i].patch);
        visit(name + " sums", rates.forms[i].sums);
        if (isa.winograd[i].columns != nullptr) visit(name + " columns", rates.forms[i].columns);
    }
    visit("epilogue", rates.epilogue);
    visit("stream", rates.stream);
}

Rates empty(const Isa& isa) {
    Rates rates;
    rates.dots.resize(sz(isa.dot_count));
    rates.luts.resize(sz(isa.lut_count));
    return rates;
}

// To three digits, which is more than two measurements agree in.
double rounded(double ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", std::max(ns, 0.0));
    return std::strtod(text, nullptr);
}

// Nanoseconds a byte of weights takes that no cache holds. One row leaves nothing else to wait for.
double stream_ns(const DotProbe& probe) {
    const std::size_t step = sz(probe.path.max_blocks) * probe.block_bytes;
    const AlignedBytes far(kStreamBytes);
    std::memset(far.data(), 1, far.size());
    Stopwatch watch;
    const std::size_t stream = watch.add(1, [&] {
        DotTile tile = probe.whole;
        tile.rows = 1;
        for (std::size_t at = 0; at + step <= kStreamBytes; at += step) {
            tile.w = far.data() + at;
            probe.path.run(tile);
        }
    });
    watch.run(kStreamRounds);
    return watch.least(stream) / double(kStreamBytes / step * step);
}

}  // namespace

NamedTimes named(const Isa& isa, const Rates& rates) {
    NamedTimes times;
    each(isa, rates, [&](const std::string& name, double ns) { times[name] = ns; });
    return times;
}

Rates rates_of(const Isa& isa, const NamedTimes& times) {
    NamedTimes left = times;
    Rates rates = empty(isa);
    each(isa, rates, [&](const std::string& name, double& ns) {
        const auto found = left.find(name);
        if (found == left.end() || !(found->second >= 0) || !std::isfinite(found->second))
            throw std::invalid_argument("the rate '" + name + "' is missing or no time");
        ns = found->second;
        left.erase(found);
    });
    if (!left.empty()) throw std::invalid_argument("the rate '" + left.begin()->first + "' is unknown");
    return rates;
}

Rates measure_rates(const Isa& isa) {
    const Entered entered(isa);
    Stopwatch watch;
    std::vector<std::unique_ptr<DotProbe>> dots;
    std::unique_ptr<DotProbe> words;
    std::vector<std::unique_ptr<LutProbe>> luts;
    std::unique_ptr<PixelLutProbe> pixel_lut;
    std::vector<std::unique_ptr<FormProbe>> forms;
    for (int i = 0; i < isa.dot_count; ++i) {
        dots.push_back(std::make_unique<DotProbe>(isa.dots[i], kGroup, true));
        dots.back()->add(watch, isa);
    }
    if (isa.words != nullptr) {
        words = std::make_unique<DotProbe>(*isa.words, kGroup / 2, false);
        words->add(watch, isa);
    }
    for (int i = 0; i < isa.lut_count; ++i) {
        luts.push_back(std::make_unique<LutProbe>(isa.luts[i]));
        luts.back()->add(watch, isa);
    }
    if (isa.pixel_lut != nullptr) {
        pixel_lut = std::make_unique<PixelLutProbe>(*isa.pixel_lut);
        pixel_lut->add(watch);
    }
    for (int i = 0; i < kWinogradForms; ++i) {
        forms.push_back(std::make_unique<FormProbe>(kWinograd[i], isa.winograd[i]));
        forms.back()->add(watch);
    }
    const DotProbe& first = *dots.front();
    Reader reader(kEpilogueRows, 2 * kBlock);
    reader.tile.acc = first.whole.acc;
    const std::size_t epilogue = watch.add(32, [&] { isa.epilogue(reader.tile); });
    watch.run(kRounds);
    const double stream = stream_ns(first);

    Rates rates = empty(isa);
    for (int i = 0; i < isa.dot_count; ++i) rates.dots[sz(i)] = dots[sz(i)]->rates(watch);
    if (words != nullptr) rates.words = words->rates(watch);
    for (int i = 0; i < isa.lut_count; ++i) rates.luts[sz(i)] = luts[sz(i)]->rates(watch);
    if (pixel_lut != nullptr) rates.pixel_lut = pixel_lut->rates(watch);
    for (int i = 0; i < kWinogradForms; ++i) {
        const double mac = kWinograd[i].operand_bytes == 2 ? rates.words.mac : rates.dots[0].mac;
        rates.forms[i] = forms[sz(i)]->rates(watch, isa.vector_bytes, mac);
    }
    rates.epilogue = watch.least(epilogue) / (reader.tile.rows * reader.tile.columns);
    rates.stream = stream;
    each(isa, rates, [](const std::string&, double& ns) { ns = rounded(ns); });
    return rates;
}

}  // namespace bitgear
