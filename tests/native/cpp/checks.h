// Checks of the functions of an instruction set, each against plain loops.
#pragma once

#include "kernels.h"

namespace bitgear::checks {

class Line;  // support.h

// dots.cpp
Line check_dot(const Isa& isa, const DotPath& path);
Line check_words(const Isa& isa, const DotPath& path);

// luts.cpp
Line check_lut(const Isa& isa, const LutPath& path);

// epilogue.cpp
Line check_inverts(const Isa& isa);
Line check_epilogue(const Isa& isa);
Line check_dot_quick(const Isa& isa, const DotPath& path);
Line check_lut_quick(const Isa& isa, const LutPath& path);

// depthwise.cpp
Line check_depthwise(const Isa& isa);
Line check_depthwise_quick(const Isa& isa);

// pixel_lut.cpp
Line check_pixel_lut(const Isa& isa, const PixelLutPath& path);
Line check_pixel_lut_quick(const Isa& isa, const PixelLutPath& path);

// winograd.cpp
Line check_winograd_input(const Isa& isa);
Line check_winograd_output(const Isa& isa);
Line check_winograd_quick(const Isa& isa);
Line check_winograd_columns(const Isa& isa);
Line check_winograd(const Isa& isa);
Line check_winograd_weights(const Isa& isa);

// generic.cpp
Line check_transpose_taps(const Isa& isa);
Line check_interleave(const Isa& isa);
Line check_weave(const Isa& isa);
Line check_maximum(const Isa& isa);
Line check_extreme(const Isa& isa);
Line check_addresses(const Isa& isa);
Line check_weighted_sum(const Isa& isa);
Line check_derive(const Isa& isa);

// pictures.cpp
Line check_across(const Isa& isa);
Line check_down(const Isa& isa);
Line check_look_up(const Isa& isa);
Line check_bound(const Isa& isa);
Line check_largest(const Isa& isa);
Line check_mixed(const Isa& isa);

}  // namespace bitgear::checks
