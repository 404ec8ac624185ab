#include "pictures.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "aligned.h"
#include "integers.h"

namespace bitgear {
namespace {

// What each position of a resized axis is made of.
struct Axis {
    int taps = 0;                      // at most, of one position
    std::vector<std::int32_t> first;   // [position]
    std::vector<std::int32_t> weight;  // [position][taps], of 2^kWeightBits; zeros where there are less
};

// Pillow's precompute_coeffs and normalize_coeffs_8bpc for the bilinear filter, in its own order of operations.
Axis resized(int size, float shown, int positions) {
    const double scale = static_cast<double>(shown) / positions;
    const double support = std::max(scale, 1.0), narrowing = 1.0 / support;
    const auto first = [&](double center) { return std::max(static_cast<int>(center - support + 0.5), 0); };
    const auto end = [&](double center) { return std::min(static_cast<int>(center + support + 0.5), size); };
    Axis axis;
    axis.first.resize(sz(positions));
    for (int i = 0; i < positions; ++i) {
        const double center = (i + 0.5) * scale;
        axis.first[sz(i)] = first(center);
        axis.taps = std::max(axis.taps, end(center) - first(center));
    }
    axis.weight.resize(sz(positions) * sz(axis.taps));
    std::vector<double> weights(sz(axis.taps));
    for (int i = 0; i < positions; ++i) {
        const double center = (i + 0.5) * scale;
        const int from = axis.first[sz(i)], taps = end(center) - from;
        double sum = 0;
        for (int k = 0; k < taps; ++k) {
            const double distance = std::fabs((from + k - center + 0.5) * narrowing);
            weights[sz(k)] = distance < 1.0 ? 1.0 - distance : 0.0;
            sum += weights[sz(k)];
        }
        std::int32_t* out = &axis.weight[sz(i) * sz(axis.taps)];
        for (int k = 0; k < taps; ++k) {
            if (sum != 0.0) weights[sz(k)] /= sum;
            out[k] = static_cast<std::int32_t>(0.5 + weights[sz(k)] * kWeightOne);
        }
    }
    return axis;
}

}  // namespace

void place_picture(const PixelKernels& kernels, const Placement& p, std::int8_t* codes) {
    const std::size_t plane = sz(p.input_height) * sz(p.input_width);
    for (int c = 0; c < 3; ++c) {
        const std::int8_t bar = p.table[c * 256 + p.bar[c]];
        if (p.content_height < p.input_height || p.content_width < p.input_width)
            std::memset(codes + sz(c) * plane, bar, plane);
    }
    const std::size_t row_bytes = 3 * sz(p.width);
    const auto look_up = [&](const std::uint8_t* row, int y) {
        std::int8_t* out = codes + sz(p.top + y) * sz(p.input_width) + sz(p.left);
        std::int8_t* const planes[] = {out, out + plane, out + 2 * plane};
        kernels.look_up(row, p.table, p.content_width, planes);
    };
    const bool as_it_is = p.content_width == p.width && p.content_height == p.height &&
                          p.box_width == static_cast<float>(p.width) && p.box_height == static_cast<float>(p.height);
    if (as_it_is) {
        for (int y = 0; y < p.height; ++y) look_up(p.pixels + sz(y) * row_bytes, y);
        return;
    }
    const Axis down = resized(p.height, p.box_height, p.content_height);
    const Axis across = resized(p.width, p.box_width, p.content_width);
    const AlignedBytes packed(kernels.across_bytes(p.content_width, across.taps));
    kernels.pack_across(across.first.data(), across.weight.data(), across.taps, p.content_width, packed.data());
    // Rows resized across, the most recent ones: as many as a row of the content is made of.
    const std::size_t bytes = 3 * sz(p.content_width), stride = (bytes + kPixelSlackBytes + 63) / 64 * 64;
    const std::size_t reach = 3 * sz(across.taps) + kPixelSlackBytes;  // of reads beyond a row
    const AlignedBytes rows(sz(down.taps) * stride), content(stride);
    std::vector<std::uint8_t> last(row_bytes + reach);
    std::vector<const std::uint8_t*> taps(sz(down.taps));
    const std::uint8_t* const end = p.pixels + sz(p.height) * row_bytes;
    int done = 0;
    for (int y = 0; y < p.content_height; ++y) {
        const int first = down.first[sz(y)];
        for (done = std::max(done, first); done < std::min(first + down.taps, p.height); ++done) {
            const std::uint8_t* row = p.pixels + sz(done) * row_bytes;
            if (sz(static_cast<int>(end - row)) < row_bytes + reach) {  // across reads beyond a row
                std::memcpy(last.data(), row, row_bytes);
                row = last.data();
            }
            kernels.across(row, packed.data(), across.taps, p.content_width,
                           rows.data() + sz(done % down.taps) * stride);
        }
        for (int t = 0; t < down.taps; ++t) taps[sz(t)] = rows.data() + sz((first + t) % down.taps) * stride;
        kernels.down(taps.data(), &down.weight[sz(y) * sz(down.taps)], down.taps, static_cast<int>(bytes),
                     content.data());
        look_up(content.data(), y);
    }
}

namespace {

// Pillow divides by multiplying: with 2^32 / (256 x pixels), rounded down, and half of the pixels added before.
struct Average {
    explicit Average(int pixels)
        : half(static_cast<std::uint32_t>(pixels) / 2),
          multiplier(static_cast<std::uint32_t>((std::uint64_t{1} << 32) / (std::uint64_t{256} * sz(pixels)))) {}
    std::uint32_t half, multiplier;

    std::uint8_t of(std::uint32_t sum) const { return static_cast<std::uint8_t>((sum + half) * multiplier >> 24); }
};

template <class Sum>
void add_row(const std::uint8_t* row, std::size_t bytes, Sum* sums) {
    for (std::size_t i = 0; i < bytes; ++i) sums[i] = static_cast<Sum>(sums[i] + row[i]);
}

// Averages of blocks, whose rows are summed into `sums` first: as many numbers as a row of the picture has bytes.
template <class Sum>
void reduce(const Reduction& r, std::vector<Sum> sums, std::uint8_t* averages) {
    const std::size_t bytes = sums.size();
    for (int y = 0; y < r.height; y += r.down) {
        const int rows = std::min(r.down, r.height - y);
        std::fill(sums.begin(), sums.end(), Sum{0});
        for (int i = 0; i < rows; ++i) add_row(r.pixels + sz(y + i) * bytes, bytes, sums.data());
        const Average whole(rows * r.across);
        for (int x = 0; x < r.width; x += r.across, averages += 3) {
            const int columns = std::min(r.across, r.width - x);
            const Sum* block = &sums[3 * sz(x)];
            std::uint32_t red = 0, green = 0, blue = 0;
            for (int i = 0; i < columns; ++i, block += 3) {
                red += block[0];
                green += block[1];
                blue += block[2];
            }
            const Average average = columns == r.across ? whole : Average(rows * columns);
            averages[0] = average.of(red);
            averages[1] = average.of(green);
            averages[2] = average.of(blue);
        }
    }
}

}  // namespace

void reduce_picture(const Reduction& reduction, std::uint8_t* averages) {
    const std::size_t bytes = 3 * sz(reduction.width);
    if (reduction.down <= 65535 / 255) {
        reduce(reduction, std::vector<std::uint16_t>(bytes), averages);
    } else {
        reduce(reduction, std::vector<std::uint32_t>(bytes), averages);
    }
}

namespace {

// Two rows of cells, one below the other, each read when it is first needed: what is in use stays in the first cache.
class CellRows {
public:
    CellRows(const PixelKernels& kernels, const float* logits, int classes, int rows, int cells)
        : kernels_(kernels),
          logits_(logits),
          classes_(classes),
          cells_(cells),
          plane_(sz(rows) * sz(cells)),
          class_stride_(sz(cells) + kCellSlack) {
        for (Row& row : rows_) {
            row.bounded.resize(sz(classes) * class_stride_ + kCellSlack);
            row.best.resize(class_stride_ + kPixelSlackBytes);
        }
    }

    struct Row {
        int at = -1;
        std::vector<float> bounded;      // [class][class_stride()]
        std::vector<std::uint8_t> best;  // [cell]: the class of its largest logit
    };

    // With room behind a row, so that vectors need no remainder.
    std::size_t class_stride() const { return class_stride_; }

    // Valid until two others have been asked for.
    const Row& of(int at) {
        Row& row = rows_[at % 2];
        if (row.at == at) return row;
        for (int c = 0; c < classes_; ++c)
            kernels_.bound(logits_ + sz(c) * plane_ + sz(at) * sz(cells_), cells_, &row.bounded[sz(c) * class_stride_]);
        kernels_.largest(row.bounded.data(), class_stride_, classes_, cells_, row.best.data());
        row.at = at;
        return row;
    }

private:
    const PixelKernels& kernels_;
    const float* logits_;
    int classes_, cells_;
    std::size_t plane_, class_stride_;
    Row rows_[2];
};

// Gives every pixel the byte of its cell. Writes up to seven bytes further.
void spread(const std::uint8_t* cell_bytes, const int* begin, int cells, std::uint8_t* pixels) {
    for (int c = 0; c < cells; ++c) {
        const std::uint64_t eight = 0x0101010101010101ull * cell_bytes[c];
        for (int i = begin[c]; i < begin[c + 1]; i += 8) std::memcpy(pixels + i, &eight, sizeof eight);
    }
}

// See MixedRow::fine.
bool is_fine(const Samples& x) {
    for (int i = 0; i + 1 < x.pixels; ++i) {
        if (x.first[i + 1] - x.first[i] > 1 || x.first[std::min(i + 7, x.pixels - 1)] - x.first[i] > 6) return false;
    }
    return true;
}

}  // namespace

void paint_mask(const PixelKernels& kernels, const float* logits, int classes, const Samples& y, const Samples& x,
                std::uint8_t* mask) {
    if (x.pixels == 0) return;
    CellRows rows(kernels, logits, classes, y.cells, x.cells);
    std::vector<std::uint8_t> wanted(sz(x.cells));
    std::vector<int> begin(sz(x.cells) + 1);
    for (int cell = 0, i = 0; cell <= x.cells; ++cell) {
        while (i < x.pixels && x.first[i] < cell) ++i;
        begin[sz(cell)] = i;
    }
    const std::size_t room = sz(x.pixels) + kPixelSlackBytes;
    std::vector<float> share(room);
    std::vector<std::int32_t> first(room, x.first[x.pixels - 1]);
    for (int i = 0; i < x.pixels; ++i) {
        share[sz(i)] = x.share[i];
        first[sz(i)] = x.first[i];
    }
    std::vector<std::uint8_t> flat(room), pick(room), ids(room);
    std::vector<float> lines(2 * sz(classes) * sz(x.cells + kCellSlack));
    MixedRow row{nullptr,     nullptr,     rows.class_stride(), classes,      x.cells,      x.pixels,
                 0.0f,        is_fine(x),  begin.data(),        first.data(), share.data(), wanted.data(),
                 pick.data(), flat.data(), lines.data(),        ids.data()};
    for (int i = 0; i < y.pixels;) {
        const int cell = y.first[i], below = std::min(cell + 1, y.cells - 1);
        const CellRows::Row &above = rows.of(cell), &under = rows.of(below);
        const std::uint8_t *upper = above.best.data(), *lower = under.best.data();
        const int last = x.cells - 1;
        for (int c = 0; c < last; ++c) {
            const int unlike = (upper[c] ^ upper[c + 1]) | (upper[c] ^ lower[c]) | (upper[c] ^ lower[c + 1]);
            wanted[sz(c)] = unlike != 0 ? 255 : 0;
        }
        wanted[sz(last)] = upper[last] != lower[last] ? 255 : 0;
        spread(wanted.data(), begin.data(), x.cells, pick.data());
        spread(upper, begin.data(), x.cells, flat.data());
        const bool any = std::memchr(pick.data(), 255, sz(x.pixels)) != nullptr;
        row.upper = above.bounded.data();
        row.lower = under.bounded.data();
        for (; i < y.pixels && y.first[i] == cell; ++i) {
            std::uint8_t* out = mask + sz(i) * sz(x.pixels);
            row.down_share = y.share[i];
            if (any) {
                kernels.mixed(row, out);
            } else {
                std::memcpy(out, flat.data(), sz(x.pixels));
            }
        }
    }
}

void count_ids(const std::uint8_t* mask, std::size_t pixels, std::int64_t* counts) {
    // Neighbours mostly are of one class: eight are compared with those before them at once.
    std::size_t first = 0;  // of the run that goes on
    const auto border = [&](std::size_t i) {
        counts[mask[i - 1]] += static_cast<std::int64_t>(i - first);
        first = i;
    };
    std::size_t i = 1;
    for (std::uint64_t eight, before; i + sizeof eight <= pixels; i += sizeof eight) {
        std::memcpy(&eight, mask + i, sizeof eight);
        std::memcpy(&before, mask + i - 1, sizeof before);
        for (std::uint64_t unlike = eight ^ before; unlike != 0;) {
            const int bit = __builtin_ctzll(unlike) / 8 * 8;  // of the first byte that differs: the lowest in memory
            border(i + sz(bit / 8));
            unlike &= ~(std::uint64_t{255} << bit);
        }
    }
    for (; i < pixels; ++i) {
        if (mask[i] != mask[i - 1]) border(i);
    }
    if (pixels > 0) border(pixels);
}

}  // namespace bitgear
