// From tensors to tiles, and tiles to threads.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <optional>

#include "tile.h"

namespace srupp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Tensor checked(
    const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape, ScalarType dtype) {
  bool fits = tensor.is_cpu() && tensor.scalar_type() == dtype && tensor.dim() == int64_t(shape.size());
  int64_t axis = 0;
  for (const int64_t size : shape) fits = fits && tensor.size(axis++) == size;
  STD_TORCH_CHECK(fits, name, " does not have the shape, dtype or device that u asks for");
  return torch::stable::contiguous(tensor);
}

inline OptionalTensor checked(
    const OptionalTensor& tensor, const char* name, std::initializer_list<int64_t> shape, ScalarType dtype) {
  if (!tensor) return std::nullopt;
  return checked(*tensor, name, shape, dtype);
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* data(const OptionalTensor& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

// The inputs that forward and backward share, checked and contiguous.
struct Call {
  int64_t length, batch, channels, directions;
  ScalarType dtype, state;
  Tensor u, x, weight_c, bias;
  OptionalTensor c0, mask, padding;

  Call(
      const Tensor& u_in, const Tensor& x_in, const Tensor& weight_c_in, const Tensor& bias_in,
      const OptionalTensor& c0_in, const OptionalTensor& mask_in, const OptionalTensor& padding_in,
      bool bidirectional) {
    STD_TORCH_CHECK(u_in.dim() == 4 && u_in.size(2) == 3, "u does not have the shape (L, B, 3, D)");
    length = u_in.size(0);
    batch = u_in.size(1);
    channels = u_in.size(3);
    directions = bidirectional ? 2 : 1;
    STD_TORCH_CHECK(
        channels % directions == 0, "u has an odd number of channels, bidirectional needs an even one");
    dtype = u_in.scalar_type();
    state = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    u = checked(u_in, "u", {length, batch, 3, channels}, dtype);
    x = checked(x_in, "x", {length, batch, channels}, dtype);
    weight_c = checked(weight_c_in, "weight_c", {2, channels}, state);
    bias = checked(bias_in, "bias", {2, channels}, state);
    c0 = checked(c0_in, "c0", {batch, channels}, state);
    mask = checked(mask_in, "dropout_mask", {batch, channels}, state);
    padding = checked(padding_in, "padding_mask", {length, batch}, ScalarType::Bool);
  }
};

// Where a tile's walk begins, in elements of a tensor.
struct Offsets {
  int64_t row, channel;
  int64_t state;  // in (B, D)
  int64_t x;      // in (L, B, D)
  int64_t u;      // in (L, B, 3, D)
};

enum class Walk { with_the_recurrence, against_it };

template <class T>
const T* shifted(const T* address, int64_t by) {
  return address ? address + by : nullptr;
}

// `descending`: from the last t to the first.
template <class T, class Each>
void visit(const Call& call, const Offsets& start, int64_t count, bool descending, const Each& each) {
  using S = State<T>;
  const int64_t t = descending ? std::max<int64_t>(0, call.length - 1) : 0, sign = descending ? -1 : 1;
  const int64_t step = call.batch * call.channels;
  const Offsets at{start.row, start.channel, start.state, t * step + start.x, 3 * t * step + start.u};
  const Tile<T> tile{
      call.length,
      count,
      call.channels,
      sign * 3 * step,
      sign * step,
      sign * call.batch,
      data<T>(call.u) + at.u,
      data<T>(call.x) + at.x,
      data<S>(call.weight_c) + at.channel,
      data<S>(call.bias) + at.channel,
      shifted(data<S>(call.c0), at.state),
      shifted(data<S>(call.mask), at.state),
      shifted(data<bool>(call.padding), t * call.batch + at.row),
  };
  each(tile, at);
}

// Calls each(tile, offsets) for all tiles, on all threads. Work is dealt out in pieces of kLanes channels,
// counted from the start of each direction, so how a channel is computed depends on no number of threads.
template <class T, class Each>
void for_each_tile(const Call& call, Walk walk, const Each& each) {
  const int64_t width = call.channels / call.directions;
  const int64_t pieces = (width + kLanes - 1) / kLanes;  // of one row and direction
  const int64_t grain = std::max<int64_t>(1, 16384 / (kLanes * std::max<int64_t>(1, call.length)));
  torch::stable::parallel_for(
      0, call.batch * call.directions * pieces, grain, [&](int64_t begin, int64_t end) {
        while (begin < end) {
          const int64_t stripe = begin / pieces, piece = begin % pieces;
          const int64_t row = stripe / call.directions, direction = stripe % call.directions;
          const int64_t left = std::min(end - begin, pieces - piece);
          const int64_t tiles = (left * kLanes + kTileChannels - 1) / kTileChannels;
          const int64_t take = (left + tiles - 1) / tiles;
          const int64_t channel = direction * width + piece * kLanes, state = row * call.channels + channel;
          const int64_t count = std::min(take * kLanes, width - piece * kLanes);
          const bool descending = (direction == 1) == (walk == Walk::with_the_recurrence);
          visit<T>(
              call, {row, channel, state, state, state + 2 * row * call.channels}, count, descending, each);
          begin += take;
        }
      });
}

}  // namespace srupp
