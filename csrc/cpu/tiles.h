// From a call to its tiles, and from tiles to threads.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../call.h"
#include "tile.h"

namespace srupp {

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
  torch::stable::parallel_for(0, call.batch * call.directions * pieces, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t stripe = begin / pieces, piece = begin % pieces;
      const int64_t row = stripe / call.directions, direction = stripe % call.directions;
      const int64_t left = std::min(end - begin, pieces - piece);
      const int64_t tiles = (left * kLanes + kTileChannels - 1) / kTileChannels;
      const int64_t take = (left + tiles - 1) / tiles;
      const int64_t channel = direction * width + piece * kLanes, state = row * call.channels + channel;
      const int64_t count = std::min(take * kLanes, width - piece * kLanes);
      const bool descending = (direction == 1) == (walk == Walk::with_the_recurrence);
      visit<T>(call, {row, channel, state, state, state + 2 * row * call.channels}, count, descending, each);
      begin += take;
    }
  });
}

}  // namespace srupp
