// The CPU kernels, once per instruction set: SRUPP_ISA is its namespace, SRUPP_TARGET a function attribute, SRUPP_FUSED
// whether it has a fused multiply-add.

namespace srupp {
namespace SRUPP_ISA {

// What a tile keeps from step to step, kLanes channels in one piece: separate rows would be a multiple of
// 4 KiB apart in most models, and evict each other from the first-level cache.
template <class S>
struct alignas(64) Lanes {
  S v_f[kLanes], v_r[kLanes], b_f[kLanes], b_r[kLanes], mask[kLanes];
  S state[kLanes];  // forward: c; backward: the gradient of c
};

template <class S>
struct alignas(64) Sums {
  S v_f[kLanes], v_r[kLanes], b_f[kLanes], b_r[kLanes];
};

// What compilers do not know to be a constant. GCC turns a minimum and a maximum with constants, which are one
// instruction each, into a tree of comparisons and selections.
template <class S>
SRUPP_INLINE S unfolded(S value) {
  volatile S hidden = value;
  return hidden;
}

template <class S>
SRUPP_INLINE Parameters<S> parameters(const Lanes<S>& lanes, int i, S limit) {
  return {lanes.v_f[i], lanes.v_r[i], lanes.b_f[i], lanes.b_r[i], lanes.mask[i], limit};
}

// from nullptr: a row of `otherwise`
template <class S>
SRUPP_INLINE void copy_lanes(int64_t count, const S* from, S otherwise, S* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from ? from[i] : otherwise;
}

template <class T, class S>
SRUPP_TARGET void gather(const Tile<T>& tile, const S* state, Lanes<S>* lanes) {
  for (int64_t at = 0; at < tile.count; at += kLanes, ++lanes) {
    const int64_t count = tile.count - at < kLanes ? tile.count - at : kLanes;
    copy_lanes(count, tile.weight_c + at, S(0), lanes->v_f);
    copy_lanes(count, tile.weight_c + at + tile.channels, S(0), lanes->v_r);
    copy_lanes(count, tile.bias + at, S(0), lanes->b_f);
    copy_lanes(count, tile.bias + at + tile.channels, S(0), lanes->b_r);
    copy_lanes(count, tile.mask ? tile.mask + at : nullptr, S(1), lanes->mask);
    copy_lanes(count, state ? state + at : nullptr, S(0), lanes->state);
  }
}

template <class T>
SRUPP_TARGET void scatter_state(const Tile<T>& tile, const Lanes<State<T>>* lanes, State<T>* state) {
  for (int64_t at = 0; at < tile.count; at += kLanes, ++lanes) {
    const int64_t count = tile.count - at < kLanes ? tile.count - at : kLanes;
    copy_lanes(count, lanes->state, State<T>(0), state + at);
  }
}

// The rows of a step are far apart in memory, which the processor does not foresee: fetch those of the next
// step, to read or to write (the second argument of the builtin), into the second-level cache (the third).
template <bool kWrite = false, class T>
SRUPP_INLINE void prefetch(const T* row, int64_t channels, int rows) {
#if defined(__GNUC__)
  for (int k = 0; k < rows; ++k, row += channels) {
    for (int i = 0; i < kLanes; i += 64 / int(sizeof(T))) __builtin_prefetch(row + i, kWrite, 2);
  }
#endif
}

template <class T>
SRUPP_INLINE Inputs<State<T>> inputs(const T* u, const T* x, int64_t channels, int i) {
  return {load(u[i]), load(u[i + channels]), load(u[i + 2 * channels]), load(x[i])};
}

template <class T>
SRUPP_INLINE void forward_lanes(int count, const T* u, const T* x, int64_t channels, Lanes<State<T>>& lanes, T* h, T* c) {
  const auto limit = unfolded(saturation(State<T>()));
  SRUPP_VECTORISE
  for (int i = 0; i < count; ++i) {
    const auto out = forward_step<SRUPP_FUSED>(inputs(u, x, channels, i), lanes.state[i], parameters(lanes, i, limit));
    lanes.state[i] = out.c;
    store(out.c, c[i]);
    store(out.h, h[i]);
  }
}

template <class T>
SRUPP_TARGET void forward_tile(const ForwardTile<T>& tile) {
  using S = State<T>;
  Lanes<S> lanes[kTileChannels / kLanes];
  T unsaved[kTileChannels];
  gather<T>(tile, tile.c0, lanes);
  for (int64_t step = 0; step < tile.length; ++step) {
    const T* u = tile.u + step * tile.u_stride;
    const T* x = tile.x + step * tile.x_stride;
    T* h = tile.h + step * tile.x_stride;
    T* c = tile.c ? tile.c + step * tile.x_stride : unsaved;
    if (tile.padding && tile.padding[step * tile.padding_stride]) {
      for (int64_t i = 0; i < tile.count; ++i) {
        store(S(0), h[i]);
        store(lanes[i / kLanes].state[i % kLanes], c[i]);
      }
      continue;
    }
    const bool more = step + 1 < tile.length;
    int64_t i = 0;
    for (; i + kLanes <= tile.count; i += kLanes) {
      if (more) {
        prefetch(u + tile.u_stride + i, tile.channels, 3);
        prefetch(x + tile.x_stride + i, 0, 1);
        prefetch<true>(h + tile.x_stride + i, 0, 1);
        prefetch<true>(c + (tile.c ? tile.x_stride : 0) + i, 0, 1);
      }
      forward_lanes(kLanes, u + i, x + i, tile.channels, lanes[i / kLanes], h + i, c + i);
    }
    if (i < tile.count) {
      forward_lanes(int(tile.count - i), u + i, x + i, tile.channels, lanes[i / kLanes], h + i, c + i);
    }
  }
  scatter_state<T>(tile, lanes, tile.c_last);
}

// One step of a tile in the backward pass. The state before it is what the forward saved, or
// c0, which may be wider.
template <class T, class C>
struct BackwardRow {
  const T *u, *x, *grad_h;
  const C* c_before;
  T *grad_u, *grad_x;
};

template <class T, class C>
SRUPP_INLINE void backward_lanes(
    int count, const BackwardRow<T, C>& row, int64_t at, int64_t channels, Lanes<State<T>>& lanes, Sums<State<T>>& sums) {
  using S = State<T>;
  const T *u = row.u + at, *x = row.x + at, *grad_h = row.grad_h + at;
  const C* c_before = row.c_before + at;
  T *grad_u = row.grad_u + at, *grad_x = row.grad_x + at;
  const S limit = unfolded(saturation(S()));
  SRUPP_VECTORISE
  for (int i = 0; i < count; ++i) {
    const S before = load(c_before[i]);
    const auto grad = backward_step<SRUPP_FUSED>(
        inputs(u, x, channels, i), before, parameters(lanes, i, limit), load(grad_h[i]), lanes.state[i]);
    lanes.state[i] = grad.c_before;
    sums.v_f[i] += grad.forget * before;
    sums.v_r[i] += grad.reset * before;
    sums.b_f[i] += grad.forget;
    sums.b_r[i] += grad.reset;
    store(grad.candidate, grad_u[i]);
    store(grad.forget, grad_u[i + channels]);
    store(grad.reset, grad_u[i + 2 * channels]);
    store(grad.x, grad_x[i]);
  }
}

template <class T, class C>
SRUPP_TARGET void backward_row(
    const BackwardTile<T>& tile, const BackwardRow<T, C>& row, bool more, Lanes<State<T>>* lanes, Sums<State<T>>* sums) {
  int64_t i = 0;
  for (; i + kLanes <= tile.count; i += kLanes) {
    if (more) {
      prefetch(row.u + tile.u_stride + i, tile.channels, 3);
      prefetch(row.x + tile.x_stride + i, 0, 1);
      prefetch(row.grad_h + tile.grad_h_stride + i, 0, 1);
      prefetch(row.c_before + tile.x_stride + i, 0, 1);
      prefetch<true>(row.grad_u + tile.u_stride + i, tile.channels, 3);
      prefetch<true>(row.grad_x + tile.x_stride + i, 0, 1);
    }
    backward_lanes(kLanes, row, i, tile.channels, lanes[i / kLanes], sums[i / kLanes]);
  }
  if (i < tile.count) {
    backward_lanes(int(tile.count - i), row, i, tile.channels, lanes[i / kLanes], sums[i / kLanes]);
  }
}

template <class T>
SRUPP_TARGET void zero_gradients(const BackwardTile<T>& tile, T* grad_u, T* grad_x) {
  for (int64_t i = 0; i < tile.count; ++i) {
    for (int gate = 0; gate < 3; ++gate) store(State<T>(0), grad_u[i + gate * tile.channels]);
    store(State<T>(0), grad_x[i]);
  }
}

template <class T>
SRUPP_TARGET void backward_tile(const BackwardTile<T>& tile) {
  using S = State<T>;
  static constexpr S zeros[kTileChannels] = {};
  Lanes<S> lanes[kTileChannels / kLanes];
  Sums<S> sums[kTileChannels / kLanes] = {};
  gather<T>(tile, tile.grad_c_last, lanes);
  for (int64_t step = 0; step < tile.length; ++step) {
    const T* u = tile.u + step * tile.u_stride;
    const T* x = tile.x + step * tile.x_stride;
    const T* grad_h = tile.grad_h + step * tile.grad_h_stride;
    T* grad_u = tile.grad_u + step * tile.u_stride;
    T* grad_x = tile.grad_x + step * tile.x_stride;
    if (tile.padding && tile.padding[step * tile.padding_stride]) {
      zero_gradients(tile, grad_u, grad_x);
    } else if (step + 1 < tile.length) {
      const T* before = tile.c + (step + 1) * tile.x_stride;
      const bool more = step + 2 < tile.length;
      backward_row<T, T>(tile, {u, x, grad_h, before, grad_u, grad_x}, more, lanes, sums);
    } else {
      const S* before = tile.c0 ? tile.c0 : zeros;
      backward_row<T, S>(tile, {u, x, grad_h, before, grad_u, grad_x}, false, lanes, sums);
    }
  }
  for (int64_t i = 0; i < tile.count; ++i) {
    const Sums<S>& from = sums[i / kLanes];
    const int64_t k = i % kLanes;
    tile.grad_parameters[i] = from.v_f[k];
    tile.grad_parameters[i + tile.channels] = from.v_r[k];
    tile.grad_parameters[i + 2 * tile.channels] = from.b_f[k];
    tile.grad_parameters[i + 3 * tile.channels] = from.b_r[k];
  }
  scatter_state<T>(tile, lanes, tile.grad_c0);
}

}  // namespace SRUPP_ISA
}  // namespace srupp
