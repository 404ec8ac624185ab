// The Python module: converts arguments, checks what memory safety needs, computes nothing.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "dispatch.h"
#include "integers.h"
#include "model.h"
#include "pictures.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bitgear {
namespace {

// Gives up the interpreter's lock while C++ computes. Where the interpreter has ended meanwhile, taking the lock back
// ends the thread (until Python 3.14, which stops it), which unwinds the stack: nanobind's frames let nothing through
// and would abort the process. So the thread stops here; caught where it comes up, there is no moment to miss.
class WithoutLock {
public:
    WithoutLock() : state_(PyEval_SaveThread()) {}
    WithoutLock(const WithoutLock&) = delete;
    WithoutLock& operator=(const WithoutLock&) = delete;
    ~WithoutLock() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) pause();  // to leave this block would abort, too
        }
    }

private:
    PyThreadState* state_;
};

using Codes = nb::ndarray<const std::int8_t, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Images = nb::ndarray<const std::int8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
constexpr std::size_t kMostBytes = std::size_t{1} << 30;  // of a picture: its sizes fit an int

// How many pictures there are.
int batch_of(const Model& model, const Images& q_image) {
    model.check_finished();
    if (q_image.shape(0) > static_cast<std::size_t>(kMaxImages))
        throw nb::value_error("there are more pictures than the engine counts");
    if (q_image.shape(1) != 3 || q_image.shape(2) != static_cast<std::size_t>(model.image_height()) ||
        q_image.shape(3) != static_cast<std::size_t>(model.image_width())) {
        throw nb::value_error("the picture has another shape than the model's");
    }
    return static_cast<int>(q_image.shape(0));
}

// `multiplies`: or is about pictures and codes alone.
const Isa* isa_of(const std::string& name, bool multiplies) {
    const Isa* isa = multiplies ? choose_isa(name.c_str()) : find_isa(name.c_str());
    if (isa == nullptr)
        throw nb::value_error(("instruction set '" + name +
                               "' is unknown, not compiled in or not offered by this processor, or not to this process")
                                  .c_str());
    return isa;
}

template <class T, std::size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void place_picture_into(const std::string& isa, const Array<const std::uint8_t, 3>& pixels, std::pair<float, float> box,
                        std::pair<int, int> content, std::pair<int, int> corner,
                        const Array<const std::int8_t, 2>& table, std::tuple<int, int, int> bar,
                        const Array<std::int8_t, 3>& codes) {
    const auto size = [](std::size_t n) { return static_cast<int>(n); };
    if (pixels.size() == 0 || pixels.shape(2) != 3 || pixels.size() > kMostBytes || codes.shape(0) != 3 ||
        codes.size() > kMostBytes || table.shape(0) != 3 || table.shape(1) != 256) {
        throw nb::value_error("a picture is [height][width][3], codes are [3][height][width], a table is [3][256]");
    }
    const auto [red, green, blue] = bar;
    Placement p{pixels.data(),
                size(pixels.shape(0)),
                size(pixels.shape(1)),
                box.second,
                box.first,
                content.second,
                content.first,
                corner.second,
                corner.first,
                size(codes.shape(1)),
                size(codes.shape(2)),
                table.data(),
                {static_cast<std::uint8_t>(red), static_cast<std::uint8_t>(green), static_cast<std::uint8_t>(blue)}};
    const auto inside = [](int begin, int length, int whole) {
        return begin >= 0 && length >= 1 && begin <= whole - length;
    };
    const auto shown = [](float box_size, int whole, int content_size) {
        return box_size > 0 && box_size <= static_cast<float>(whole) &&
               box_size <= static_cast<float>(kMostShrinking) * static_cast<float>(content_size);
    };
    if (!inside(p.top, p.content_height, p.input_height) || !inside(p.left, p.content_width, p.input_width) ||
        !shown(p.box_height, p.height, p.content_height) || !shown(p.box_width, p.width, p.content_width)) {
        throw nb::value_error(
            "the content lies outside the input, or the box outside the picture, or it shrinks by more than four");
    }
    const Isa* chosen = isa_of(isa, false);
    const WithoutLock released;
    place_picture(chosen->pixels, p, codes.data());
}

void reduce_picture_into(const Array<const std::uint8_t, 3>& pixels, std::pair<int, int> factors,
                         const Array<std::uint8_t, 3>& averages) {
    const auto [across, down] = factors;
    const auto blocks = [](std::size_t n, int factor) { return (n + sz(factor) - 1) / sz(factor); };
    if (pixels.size() == 0 || pixels.shape(2) != 3 || pixels.size() > kMostBytes || across < 1 || down < 1 ||
        across > kMostAveraged / down || averages.shape(0) != blocks(pixels.shape(0), down) ||
        averages.shape(1) != blocks(pixels.shape(1), across) || averages.shape(2) != 3) {
        throw nb::value_error("a picture is [height][width][3], averages have one for each block of it");
    }
    const Reduction reduction{pixels.data(), static_cast<int>(pixels.shape(0)), static_cast<int>(pixels.shape(1)),
                              across, down};
    const WithoutLock released;
    reduce_picture(reduction, averages.data());
}

void paint_mask_into(const std::string& isa, const Array<const float, 3>& logits,
                     const Array<const std::int32_t, 1>& y_first, const Array<const float, 1>& y_share,
                     const Array<const std::int32_t, 1>& x_first, const Array<const float, 1>& x_share,
                     const Array<std::uint8_t, 2>& mask) {
    if (logits.size() == 0 || logits.shape(0) > 256 || mask.shape(0) != y_first.size() ||
        mask.shape(1) != x_first.size() || y_first.size() != y_share.size() || x_first.size() != x_share.size() ||
        logits.size() > kMostBytes || mask.size() > kMostBytes) {
        throw nb::value_error(
            "logits are [1 to 256 classes][rows][columns]; every row and column of a mask has a sample");
    }
    const auto samples = [](const Array<const std::int32_t, 1>& first, const Array<const float, 1>& share,
                            std::size_t cells) {
        std::int32_t before = 0;
        for (std::size_t i = 0; i < first.size(); ++i) {
            if (first.data()[i] < before || static_cast<std::size_t>(first.data()[i]) >= cells)
                throw nb::value_error("samples go up from 0 and stay below the number of cells");
            before = first.data()[i];
        }
        return Samples{static_cast<int>(first.size()), static_cast<int>(cells), first.data(), share.data()};
    };
    const Samples y = samples(y_first, y_share, logits.shape(1)), x = samples(x_first, x_share, logits.shape(2));
    const Isa* chosen = isa_of(isa, false);
    const WithoutLock released;
    paint_mask(chosen->pixels, logits.data(), static_cast<int>(logits.shape(0)), y, x, mask.data());
}

void count_ids_into(const Array<const std::uint8_t, 2>& mask, const Array<std::int64_t, 1>& counts) {
    if (counts.size() != 256) throw nb::value_error("counts are of all 256 ids");
    const WithoutLock released;
    count_ids(mask.data(), mask.size(), counts.data());
}

}  // namespace
}  // namespace bitgear

NB_MODULE(_native, m) {
    using namespace bitgear;
    nb::set_leak_warnings(false);  // models still in use when the interpreter ends are no leak
    m.attr("MAX_SIDE") = kMaxSide;
    m.attr("MAX_WINDOW") = kMaxWindow;
    m.attr("MAX_TERMS") = kMaxTerms;
    m.attr("MAX_SUMMED") = kMaxSummed;
    m.attr("MAX_IMAGES") = kMaxImages;
    m.attr("INTERPOLATION_ONE") = kInterpolationOne;
    m.attr("MAX_OUTPUTS") = kMaxOutputs;
    m.attr("MAX_AVERAGED") = kMostAveraged;
    m.attr("MAX_PICTURE_BYTES") = kMostBytes;
    m.attr("MAX_POOLED_KERNEL") = kMaxPooled;
    m.attr("MAX_POOLED_STRIDE") = kMaxPooledStride;

    m.def("instruction_sets", [] {
        int count = 0;
        const IsaEntry* entries = instruction_sets(&count);
        nb::list result;
        for (int i = 0; i < count; ++i) {
            nb::list paths;
            if (entries[i].isa != nullptr) {
                for (int d = 0; d < entries[i].isa->dot_count; ++d) paths.append(entries[i].isa->dots[d].name);
                if (entries[i].isa->words != nullptr) paths.append(entries[i].isa->words->name);
                for (int l = 0; l < entries[i].isa->lut_count; ++l) paths.append(entries[i].isa->luts[l].name);
                if (entries[i].isa->pixel_lut != nullptr) paths.append(entries[i].isa->pixel_lut->name);
            }
            result.append(nb::make_tuple(entries[i].name, entries[i].isa != nullptr, entries[i].supported, paths));
        }
        return result;
    });
    m.def(
        "winograd_spare",
        [](int kernel, int stride, int dilation, int height, int width) {
            if (height < 1 || width < 1) throw nb::value_error("a value has at least one pixel");
            const Spare spare = winograd_spare({kernel, stride, dilation, 1}, height, width);
            return std::make_pair(spare.bottom, spare.right);
        },
        "kernel"_a, "stride"_a, "dilation"_a, "height"_a, "width"_a);
    m.def(
        "choose", [](const std::string& name, bool multiplies) { return std::string(isa_of(name, multiplies)->name); },
        "name"_a = "", "multiplies"_a = true);
    m.def(
        "measure_rates",
        [](const std::string& name) {
            const Isa* isa = isa_of(name, true);
            const WithoutLock released;
            return named(*isa, measure_rates(*isa));
        },
        "instruction_set"_a);
    m.def(
        "derive",
        [](const std::string& isa, const Codes& q8, int bits,
           nb::ndarray<std::int8_t, nb::c_contig, nb::device::cpu> out) {
            if (out.size() != q8.size() || bits < 2 || bits > 8)
                throw nb::value_error("derive needs an output of the same size and 2 to 8 bits");
            isa_of(isa, false)->derive(q8.data(), q8.size(), bits, out.data());
        },
        "instruction_set"_a, "q8"_a, "bits"_a, "out"_a.noconvert());
    m.def("place_picture", place_picture_into, "instruction_set"_a, "pixels"_a.noconvert(), "box"_a, "content"_a,
          "corner"_a, "table"_a.noconvert(), "bar"_a, "codes"_a.noconvert());
    m.def("reduce_picture", reduce_picture_into, "pixels"_a.noconvert(), "factors"_a, "averages"_a.noconvert());
    m.def("paint_mask", paint_mask_into, "instruction_set"_a, "logits"_a.noconvert(), "y_first"_a.noconvert(),
          "y_share"_a.noconvert(), "x_first"_a.noconvert(), "x_share"_a.noconvert(), "mask"_a.noconvert());
    m.def("count_ids", count_ids_into, "mask"_a.noconvert(), "counts"_a.noconvert());

    // Numbers of one type, a dozen of them in a call: by name alone, so that none takes another's place.
    nb::class_<Output>(m, "Output")
        .def(
            "__init__",
            [](Output* self, int buffer, int channel, float scale, int low, int high, int zero) {
                new (self) Output{buffer, channel, {}};
                self->quantizer.scale = scale;
                self->quantizer.low = low;
                self->quantizer.high = high;
                self->quantizer.zero = zero;
            },
            nb::kw_only(), "buffer"_a, "channel"_a, "scale"_a, "low"_a, "high"_a, "zero"_a);
    nb::class_<Residual>(m, "Residual")
        .def(
            "__init__",
            [](Residual* self, int buffer, float scale, int zero) { new (self) Residual{buffer, scale, zero}; },
            nb::kw_only(), "buffer"_a, "scale"_a, "zero"_a);
    nb::class_<Pooling>(m, "Pooling")
        .def(
            "__init__",
            [](Pooling* self, int kernel, int stride, int padding, int height, int width) {
                new (self) Pooling{kernel, stride, padding, height, width};
            },
            nb::kw_only(), "kernel"_a, "stride"_a, "padding"_a, "height"_a, "width"_a);
    nb::class_<Interpolation>(m, "Interpolation")
        .def(
            "__init__",
            [](Interpolation* self, int first, int second, int second_weight) {
                new (self) Interpolation{first, second, kInterpolationOne - second_weight, second_weight};
            },
            nb::kw_only(), "first"_a, "second"_a, "second_weight"_a);

    nb::class_<Model>(m, "Model")
        .def(
            "__init__",
            [](Model* self, const std::string& name, const NamedTimes& rates) {
                const Isa* isa = isa_of(name, true);
                new (self) Model(isa, rates_of(*isa, rates));
            },
            "instruction_set"_a, "rates"_a)
        .def("add_buffer", &Model::add_buffer, nb::kw_only(), "height"_a, "width"_a, "channels"_a, "top"_a, "left"_a,
             "bottom"_a, "right"_a, "spare_bottom"_a, "spare_right"_a, "fill"_a)
        .def("add_image", &Model::add_image, "buffer"_a)
        .def(
            "add_conv",
            [](Model& self, const std::string& name, int input, const Codes& q8, int channels, int kernel, int stride,
               int dilation, int groups, int weight_bits, int act_max, int zero, std::vector<float> multiplier,
               std::vector<float> bias, bool relu, float clip, const std::optional<Residual>& residual,
               std::vector<Output> outputs, bool result, const std::optional<Pooling>& pooling,
               const std::string& path) {
                ConvSpec spec;
                spec.input = input;
                spec.channels = channels;
                spec.geometry = {kernel, stride, dilation, groups};
                spec.weight_bits = weight_bits;
                spec.act_max = act_max;
                spec.zero = zero;
                spec.constants = {std::move(multiplier), std::move(bias)};
                spec.activation = {relu, clip};
                spec.residual = residual.value_or(Residual{});
                spec.outputs = std::move(outputs);
                spec.result = result;
                spec.pooling = pooling.value_or(Pooling{});
                spec.path = path;
                const WithoutLock released;
                self.add_conv(name, spec, q8.data(), q8.size());
            },
            nb::kw_only(), "name"_a, "input"_a, "q8"_a, "channels"_a, "kernel"_a, "stride"_a, "dilation"_a, "groups"_a,
            "weight_bits"_a, "act_max"_a, "zero"_a, "multiplier"_a, "bias"_a, "relu"_a, "clip"_a, "residual"_a,
            "outputs"_a, "result"_a, "pooling"_a, "path"_a)
        .def(
            "add_window_sum",
            [](Model& self, const std::string& name, int input, int kernel, int stride, int zero,
               std::vector<float> multiplier, const std::vector<Output>& outputs, bool result) {
                self.add_window_sum(name, input, kernel, stride, zero, {std::move(multiplier), {}}, outputs, result);
            },
            nb::kw_only(), "name"_a, "input"_a, "kernel"_a, "stride"_a, "zero"_a, "multiplier"_a, "outputs"_a,
            "result"_a)
        .def(
            "add_bilinear",
            [](Model& self, const std::string& name, int input, const std::vector<Interpolation>& rows,
               const std::vector<Interpolation>& columns, int zero, std::vector<float> multiplier,
               const std::vector<Output>& outputs, bool result) {
                self.add_bilinear(name, input, rows, columns, zero, {std::move(multiplier), {}}, outputs, result);
            },
            nb::kw_only(), "name"_a, "input"_a, "rows"_a, "columns"_a, "zero"_a, "multiplier"_a, "outputs"_a,
            "result"_a)
        .def("add_maximum", &Model::add_maximum, nb::kw_only(), "name"_a, "input"_a, "output"_a, "channel"_a,
             "kernel"_a, "stride"_a)
        .def("add_copy", &Model::add_copy, nb::kw_only(), "name"_a, "input"_a, "output"_a, "channel"_a, "source_y"_a,
             "source_x"_a, "pad_channels"_a, "pad_byte"_a)
        .def("finish",
             [](Model& self) {
                 const WithoutLock released;
                 self.finish();
             })
        .def(
            "run",
            [](const Model& self, const Images& q_image, const Floats& result, int threads) {
                const int batch = batch_of(self, q_image);
                if (result.size() != static_cast<std::size_t>(batch) *
                                         static_cast<std::size_t>(self.result_channels()) *
                                         static_cast<std::size_t>(self.result_height()) *
                                         static_cast<std::size_t>(self.result_width())) {
                    throw nb::value_error("the result has another shape than the model's");
                }
                const WithoutLock released;
                self.run(q_image.data(), batch, threads, result.data());
            },
            "q_image"_a.noconvert(), "result"_a.noconvert(), "threads"_a)
        .def(
            "profile",
            [](const Model& self, const Images& q_image, int threads, int rounds) {
                std::vector<std::tuple<std::string, std::string, double, double>> rows;
                const int batch = batch_of(self, q_image);
                const WithoutLock released;
                for (const StepTime& t : self.profile(q_image.data(), batch, threads, rounds)) {
                    rows.emplace_back(t.name, t.detail, t.macs, t.seconds);
                }
                return rows;
            },
            "q_image"_a, "threads"_a, "rounds"_a)
        .def_prop_ro("avoids_winograd", &Model::avoids_winograd)
        .def_prop_ro("resident_bytes", &Model::resident_bytes)
        .def_prop_ro("arena_bytes", &Model::arena_bytes)
        .def_prop_ro("allocations", &Model::allocations)
        .def_prop_ro("result_shape",
                     [](const Model& self) {
                         return std::make_tuple(self.result_channels(), self.result_height(), self.result_width());
                     })
        .def_prop_ro("paths", [](const Model& self) {
            std::vector<std::pair<std::string, std::string>> paths;
            for (const Step& step : self.steps()) paths.emplace_back(step.name, step.detail);
            return paths;
        });
}
