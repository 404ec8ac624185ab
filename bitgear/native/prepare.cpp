// The choice of a path for each layer.
#include <algorithm>
#include <stdexcept>
#include <utility>

#include "prepare.h"

namespace bitgear {
namespace {

constexpr double kFarWeightBytes = 1 << 20;  // what a core's second cache does not keep
constexpr double kAlike = 1.0 / 16;          // times of layers that differ by less count as equal
constexpr double kWaiting = 1.0 / 3;         // of the time that bringing weights takes, about

// All ways that a layer allows, the fastest one first; those asked for before all others.
std::vector<Choice> choices(const Layer& layer) {
    const Isa& isa = layer.isa;
    const ConvSpec& spec = layer.spec;
    const int weight_max = 1 << (spec.weight_bits - 1);
    std::vector<Choice> all;
    for (int i = 0; i < isa.dot_count; ++i) {
        const DotPath& dot = isa.dots[i];
        if (spec.path == dot.name && dot.exact(spec.act_max, weight_max)) return {dot_choice(layer, dot)};
    }
    const auto faster = [](const Choice& a, const Choice& b) { return a.ns < b.ns; };
    for (int i = 0; i < isa.dot_count; ++i) {  // one of every set is always exact
        const DotPath& dot = isa.dots[i];
        // What unpacking weights takes pays where they are read once: of few pixels.
        const bool pays = dot.group_bytes >= kBlock * kGroup || layer.height * layer.width <= dot.max_rows;
        if (pays && dot.exact(spec.act_max, weight_max)) all.push_back(dot_choice(layer, dot));
    }
    if (spec.geometry.groups > 1 || spec.pooling.kernel > 0) {
        std::stable_sort(all.begin(), all.end(), faster);
        return all;
    }
    const auto wanted = [&](const std::string& name) { return spec.path.empty() || spec.path == name; };
    for (int i = 0; i < isa.lut_count; ++i) {
        const LutPath& lut = isa.luts[i];
        if (wanted(lut.name) && lut_fits(layer, lut)) all.push_back(lut_choice(layer, lut));
    }
    if (isa.pixel_lut != nullptr && wanted(isa.pixel_lut->name) && pixel_lut_fits(layer))
        all.push_back(pixel_lut_choice(layer, *isa.pixel_lut));
    for (const WinogradForm& form : kWinograd) {
        if (!wanted(form.name) || (spec.path.empty() && avoids_winograd(isa)) || !winograd_fits(layer, form)) continue;
        const auto add = [&](const DotPath& dot) {
            if (dot.exact(form.span() * spec.act_max, winograd_weight_bound(form, spec.weight_bits)))
                all.push_back(winograd_choice(layer, form, dot));
        };
        if (form.operand_bytes == 2) {
            add(*isa.words);
        } else {
            std::for_each(isa.dots, isa.dots + isa.dot_count, [&](const DotPath& dot) {
                if (dot.places == 0) add(dot);
            });
        }
    }
    std::stable_sort(all.begin(), all.end(), faster);
    if (!spec.path.empty()) {
        std::stable_partition(all.begin(), all.end(),
                              [](const Choice& each) { return !std::holds_alternative<const DotPath*>(each.path); });
    } else {
        if (all[0].weight_bytes > kFarWeightBytes) {
            // How fast they come varies with what else runs on the machine.
            const auto alike = std::find_if(all.begin(), all.end(),
                                            [&](const Choice& each) { return each.ns > (1 + kAlike) * all[0].ns; });
            const auto fewest = std::min_element(
                all.begin(), alike, [](const Choice& a, const Choice& b) { return a.weight_bytes < b.weight_bytes; });
            std::rotate(all.begin(), fewest, fewest + 1);
        }
    }
    return all;
}

// Prepares a layer for a path.
struct Preparing {
    const Layer& layer;

    std::optional<Prepared> operator()(const DotPath* dot) const { return prepare_dot(layer, *dot); }
    std::optional<Prepared> operator()(const LutPath* lut) const { return prepare_lut(layer, *lut); }
    std::optional<Prepared> operator()(const PixelLutPath* lut) const { return prepare_pixel_lut(layer, *lut); }
    std::optional<Prepared> operator()(const WinogradPath& path) const {
        return prepare_winograd(layer, *path.form, *path.dot);
    }
};

}  // namespace

bool avoids_winograd(const Isa& isa) {
    return std::any_of(isa.dots, isa.dots + isa.dot_count, [](const DotPath& dot) { return dot.places > 0; });
}

const DotRates& dot_rates(const Layer& layer, const DotPath& dot) {
    const Isa& isa = layer.isa;
    return &dot == isa.words ? layer.rates.words : layer.rates.dots[sz(static_cast<int>(&dot - isa.dots))];
}

double mac_ns(const Layer& layer, const DotPath& dot, int act_max, int weight_max) {
    const DotRates& rates = dot_rates(layer, dot);
    return rates.mac + (dot.period == nullptr ? 0.0 : rates.widening / dot.period(act_max, weight_max));
}

// The first piece has the weights brought from afar, which is mostly done meanwhile.
double product_ns(const Layer& layer, double weights, double rows, double pieces, double mac, double bytes) {
    const double first = rows / pieces * mac, brought = bytes * layer.rates.stream;
    return weights * (std::max(first, brought) + kWaiting * std::min(first, brought) + (rows * mac - first));
}

Prepared prepare(const Layer& layer) {
    for (const Choice& choice : choices(layer)) {
        if (std::optional<Prepared> prepared = std::visit(Preparing{layer}, choice.path)) return std::move(*prepared);
    }
    throw std::invalid_argument("no path multiplies this convolution");
}

}  // namespace bitgear
