// The choice of a path for each layer.
#include <algorithm>
#include <cmath>

#include "prepare.h"

namespace bitgear {
namespace {

constexpr double kFarWeightBytes = 1 << 20;  // what a core's second cache does not keep
constexpr double kAlike = 1.0 / 16;          // times of layers that differ by less count as equal
constexpr double kWaiting = 1.0 / 3;         // of the time that bringing weights takes, about

}  // namespace

const DotRates& Model::rates_of(const DotPath& dot) const {
    return &dot == isa_->words ? rates_.words : rates_.dots[sz(static_cast<int>(&dot - isa_->dots))];
}

// A multiply-accumulate whose operands reach `act_max` and `weight_max`.
double Model::mac_ns(const DotPath& dot, int act_max, int weight_max) const {
    const DotRates& rates = rates_of(dot);
    return rates.mac + (dot.period == nullptr ? 0.0 : rates.widening / dot.period(act_max, weight_max));
}

// Of `weights` weights of `bytes` bytes with `rows` rows in `pieces` pieces: the first piece has the weights brought
// from afar, which is mostly done meanwhile.
double Model::product_ns(double weights, double rows, double pieces, double mac, double bytes) const {
    const double first = rows / pieces * mac, brought = bytes * rates_.stream;
    return weights * (std::max(first, brought) + kWaiting * std::min(first, brought) + (rows * mac - first));
}

// All ways that a layer allows, the fastest one first; those asked for before all others.
std::vector<Model::Choice> Model::choices(const Step& step, const ConvSpec& spec) const {
    const int weight_max = 1 << (spec.weight_bits - 1);
    std::vector<Choice> all;
    for (int i = 0; i < isa_->dot_count; ++i) {
        const DotPath& dot = isa_->dots[i];
        if (spec.path == dot.name && dot.exact(spec.act_max, weight_max)) return {dot_choice(step, spec, dot)};
    }
    const auto faster = [](const Choice& a, const Choice& b) { return a.ns < b.ns; };
    for (int i = 0; i < isa_->dot_count; ++i) {  // one of every set is always exact
        const DotPath& dot = isa_->dots[i];
        // What unpacking weights takes pays where they are read once: of few pixels.
        const bool pays = dot.group_bytes >= kBlock * kGroup || step.conv_height * step.conv_width <= dot.max_rows;
        if (pays && dot.exact(spec.act_max, weight_max)) all.push_back(dot_choice(step, spec, dot));
    }
    if (spec.geometry.groups > 1 || spec.pooling.kernel > 0) {
        std::stable_sort(all.begin(), all.end(), faster);
        return all;
    }
    const auto wanted = [&](const std::string& name) { return spec.path.empty() || spec.path == name; };
    for (int i = 0; i < isa_->lut_count; ++i) {
        const LutPath& lut = isa_->luts[i];
        if (wanted(lut.name) && lut_fits(step, spec, lut)) all.push_back(lut_choice(step, spec, lut));
    }
    if (isa_->pixel_lut != nullptr && wanted(isa_->pixel_lut->name) && pixel_lut_fits(step, spec))
        all.push_back(pixel_lut_choice(step, spec));
    for (const WinogradForm& form : kWinograd) {
        if (!wanted(form.name) || (spec.path.empty() && avoids_winograd()) || !winograd_fits(step, spec, form))
            continue;
        const auto add = [&](const DotPath& dot) {
            if (dot.exact(form.span() * spec.act_max, winograd_weight_bound(form, spec.weight_bits)))
                all.push_back(winograd_choice(step, spec, form, dot));
        };
        if (form.operand_bytes == 2) {
            add(*isa_->words);
        } else {
            std::for_each(isa_->dots, isa_->dots + isa_->dot_count, [&](const DotPath& dot) {
                if (dot.places == 0) add(dot);
            });
        }
    }
    std::stable_sort(all.begin(), all.end(), faster);
    if (!spec.path.empty()) {
        std::stable_partition(all.begin(), all.end(), [](const Choice& each) { return each.method != Method::dot; });
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

bool Model::avoids_winograd() const {
    return std::any_of(isa_->dots, isa_->dots + isa_->dot_count, [](const DotPath& dot) { return dot.places > 0; });
}

// False if the weights turn out not to allow it.
bool Model::prepare(Step& step, const ConvSpec& spec, const std::int8_t* q8, const Choice& choice) {
    step.method = choice.method;
    if (choice.dot != nullptr) set_dot(step, *choice.dot, choice.act_max, choice.weight_max);
    if (choice.method == Method::lut) {
        step.lut = choice.lut;
        prepare_lut(step, spec, q8);
    } else if (choice.method == Method::pixel_lut) {
        prepare_pixel_lut(step, spec, q8);
    } else if (choice.method == Method::winograd) {
        step.form = choice.form;
        step.transforms = &isa_->winograd[choice.form - kWinograd];
        return prepare_winograd(step, spec, q8);
    } else {
        prepare_dot(step, spec, q8);
    }
    return true;
}

}  // namespace bitgear
