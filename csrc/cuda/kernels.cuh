// The CUDA kernels, for nvcc and NVRTC; the tests compile this very text for the host.
//
// A warp, which is a block, carries 32 or 64 channels of one sequence and direction through all steps, one or two a
// lane. Steps depend on each other, so what hides the latency of memory is reading far ahead: the rows of later
// steps arrive in shared memory while a step is computed. No warp ever waits for another.
//
// Sizes: L steps, B sequences, D channels (both directions together). Tensors are contiguous: u (L, B, 3, D), x, h and
// c (L, B, D), padding (L, B), c0 and mask (B, D), weight_c and bias (2, D), forget gate first. For each of its channels
// a lane reads u[t, row, 0], u[t, row, 1], u[t, row, 2] (candidate, forget, reset) and x[t, row], and writes h[t, row].

#pragma once

#include "read_ahead.cuh"

namespace srupp {

// Of a channel; `state` is its place in (B, D).
template <class T>
SRUPP_DEVICE Parameters<State<T>> parameters(const CommonArguments& in, long long channel, long long state) {
  using S = State<T>;
  const auto get = [&](const void* from, long long index) {
    return in.narrow_parameters ? S(load(static_cast<const T*>(from)[index])) : static_cast<const S*>(from)[index];
  };
  return {
      get(in.weight_c, channel), get(in.weight_c, in.channels + channel),  // v_f = weight_c[0], v_r = weight_c[1]
      get(in.bias, channel), get(in.bias, in.channels + channel),          // b_f = bias[0], b_r = bias[1]
      in.mask ? static_cast<const S*>(in.mask)[state] : S(1)};
}

// Of a tensor (B, D) that may be missing.
template <class S>
SRUPP_DEVICE S at_or_zero(const void* state, long long index) {
  return state ? static_cast<const S*>(state)[index] : S(0);
}

// How a warp walks through the steps, in elements: with the recurrence, or against it (backward).
struct Course {
  long long state;                          // of this lane, in (B, D)
  long long begin, stride;                  // of the warp's first channel, in (L, B, D)
  long long begin_u, stride_u;              // in (L, B, 3, D)
  long long begin_padding, stride_padding;  // in (L, B)

  SRUPP_DEVICE Course(const CommonArguments& in, const Place& place, bool against) {
    const bool descending = place.backwards != against;
    const long long t = descending ? in.length - 1 : 0, sign = descending ? -1 : 1;           // the first step, and which way
    const long long step = in.batch * in.channels, row = t * step + place.row * in.channels;  // B D; [t, row, 0]
    state = place.row * in.channels + place.channel;                                          // [row, channel]
    begin = row + place.first;                                                                // [t, row, first]
    begin_u = 3 * row + place.first;                                                          // [t, row, 0, first]
    stride = sign * step;                                                                     // to [t + 1] or [t - 1]
    stride_u = 3 * stride;
    begin_padding = t * in.batch + place.row;  // [t, row]
    stride_padding = sign * in.batch;
  }

  template <class Rows>
  SRUPP_DEVICE PaddingAhead padding(const CommonArguments& in) const {
    return {in.padding, begin_padding, stride_padding, in.length, Rows::kSteps};
  }

  // u and x as the rows 0 to 3: candidate u[.., 0, :], forget u[.., 1, :], reset u[.., 2, :], x.
  template <class Rows>
  SRUPP_DEVICE void set_inputs(Rows& rows, const CommonArguments& in, const Place& place) const {
    for (int gate = 0; gate < 3; ++gate) {
      rows.set_row(gate, in.u, begin_u + gate * in.channels, stride_u, place);
    }
    rows.set_row(3, in.x, begin, stride, place);
  }
};

// Of this lane's channel i in one step.
template <class T, int kChannels>
SRUPP_DEVICE Inputs<State<T>> inputs(const Lane<T, kChannels>* rows, int i) {
  return {load(rows[0].of[i]), load(rows[1].of[i]), load(rows[2].of[i]), load(rows[3].of[i])};
}

// `kChannels` are those of a lane. All rows of a stage must fit the registers, and the stages of many warps the shared
// memory of a multiprocessor: with two channels the forward has half as many steps a stage, the backward a stage less.
//
// u (L, B, 3, D), x (L, B, D), c0 (B, D) -> h (L, B, D), c_last (B, D) and, if kSaves, c (L, B, D) for the backward.
template <class T, int kPiece, int kChannels, bool kSaves>
SRUPP_DEVICE void forward(const ForwardArguments& a) {
  using S = State<T>;
  // 4 rows a step: u's three and x; a stage has 32 bytes of a lane in each row (fp32: 8 steps); 4 or 6 stages
  using Rows = RowsAhead<T, kChannels, 4, 32 / int(sizeof(T)) / kChannels, kChannels == 1 ? 4 : 6, kPiece>;
  using Row = typename Rows::Row;  // the kChannels elements of a lane
  const CommonArguments& in = a.in;
  const Place place(in, kChannels);
  const Course way(in, place, false);
  Rows ahead(shared_memory<Rows::kBytes>(), in.length, place.lane);
  way.set_inputs(ahead, in, place);
  PaddingAhead padding = way.template padding<Rows>(in);

  Parameters<S> p[kChannels];  // v_f, v_r, b_f, b_r and m
  S c[kChannels];              // the state before the step that comes
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    p[i] = parameters<T>(in, place.channel + i, way.state + i);
    c[i] = at_or_zero<S>(in.c0, way.state + i);
  }
  // h[t, row, channel], counted in Rows: kChannels elements each
  const long long out = in.length > 0 ? way.begin / kChannels + place.lane : 0, stride = way.stride / kChannels;
  Row* h = static_cast<Row*>(a.h) + out;
  Row* c_saved = kSaves ? static_cast<Row*>(a.c) + out : nullptr;                // c[t, row, channel]
  walk(ahead, padding, in.length, [&](const Row(&rows)[4], bool padded, bool) {  // for each step t in order
    Row now_h, now_c;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      Outputs<S> now = forward_step(inputs(rows, i), c[i], p[i]);
      if (padded) now = {c[i], S(0)};  // c passes, h is 0
      c[i] = now.c;
      store(now.h, now_h.of[i]);
      store(now.c, now_c.of[i]);
    }
    *h = now_h;
    h += stride;  // to the next step
    if constexpr (kSaves) {
      *c_saved = now_c;
      c_saved += stride;
    }
  });
#pragma unroll
  for (int i = 0; i < kChannels; ++i) static_cast<S*>(a.c_last)[way.state + i] = c[i];
}

// The steps in the opposite order. grad_h (L, B, D), grad_c_last (B, D), and what the forward read and saved ->
// grad_u (L, B, 3, D), grad_x (L, B, D), grad_c0 (B, D), parts (B, 4, D).
template <class T, int kPiece, int kChannels>
SRUPP_DEVICE void backward(const BackwardArguments& a) {
  using S = State<T>;
  // 6 rows a step: u's three, x, the state before, grad_h; a stage has 16 bytes of a channel in each (fp32: 4 steps)
  using Rows = RowsAhead<T, kChannels, 6, 16 / int(sizeof(T)), kChannels == 1 ? 6 : 5, kPiece>;
  using Row = typename Rows::Row;
  const CommonArguments& in = a.in;
  const Place place(in, kChannels);
  const Course way(in, place, true);
  Rows ahead(shared_memory<Rows::kBytes>(), in.length, place.lane);
  way.set_inputs(ahead, in, place);
  PaddingAhead padding = way.template padding<Rows>(in);
  // the state before each step is what the forward saved one step earlier; before the first it is c0
  ahead.set_row(4, a.c, way.begin + way.stride, way.stride, place, 1);
  const bool has_grad_h = a.grad_h != nullptr;
  if (has_grad_h) ahead.set_row(5, a.grad_h, way.begin, way.stride, place);

  Parameters<S> p[kChannels];
  // grad_c: of c after the step that comes; v_f, v_r, b_f, b_r: sums over steps of these parameters' gradients
  S c0[kChannels], grad_c[kChannels], v_f[kChannels] = {}, v_r[kChannels] = {}, b_f[kChannels] = {}, b_r[kChannels] = {};
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    p[i] = parameters<T>(in, place.channel + i, way.state + i);
    c0[i] = at_or_zero<S>(in.c0, way.state + i);
    grad_c[i] = at_or_zero<S>(a.grad_c_last, way.state + i);
  }
  const long long stride = way.stride / kChannels;  // all counted in Rows
  Row* grad_x = static_cast<Row*>(a.grad_x) + (in.length > 0 ? way.begin / kChannels + place.lane : 0);
  Row* grad_u = static_cast<Row*>(a.grad_u) + (in.length > 0 ? way.begin_u / kChannels + place.lane : 0);
  walk(ahead, padding, in.length, [&](const Row(&rows)[6], bool padded, bool last) {
    Row candidate, forget, reset, x;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const S c_before = last ? c0[i] : load(rows[4].of[i]);
      const S grad_h = has_grad_h ? load(rows[5].of[i]) : S(0);
      Gradients<S> grad = backward_step(inputs(rows, i), c_before, p[i], grad_h, grad_c[i]);
      if (padded) {  // the gradient of c passes, all others are 0
        grad = {S(0), S(0), S(0), S(0), grad_c[i]};
      } else {  // 0 times an infinite state would be NaN
        v_f[i] += grad.forget * c_before;
        v_r[i] += grad.reset * c_before;
        b_f[i] += grad.forget;
        b_r[i] += grad.reset;
      }
      grad_c[i] = grad.c_before;
      store(grad.candidate, candidate.of[i]);
      store(grad.forget, forget.of[i]);
      store(grad.reset, reset.of[i]);
      store(grad.x, x.of[i]);
    }
    grad_u[0] = candidate;                        // [t, row, 0, channel]
    grad_u[in.channels / kChannels] = forget;     // [t, row, 1, channel]
    grad_u[2 * in.channels / kChannels] = reset;  // [t, row, 2, channel]
    *grad_x = x;                                  // [t, row, channel]
    grad_u += 3 * stride;
    grad_x += stride;
  });
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    S* parts = static_cast<S*>(a.parts) + place.row * 4 * in.channels + place.channel + i;  // [row, 0, channel + i]
    parts[0] = v_f[i];
    parts[in.channels] = v_r[i];
    parts[2 * in.channels] = b_f[i];
    parts[3 * in.channels] = b_r[i];
    static_cast<S*>(a.grad_c0)[way.state + i] = grad_c[i];  // [row, channel + i]
  }
}

// The forward pass of a single step (decoding), a thread per channel: nothing to read ahead, nothing to wait for.
template <class T>
SRUPP_DEVICE void step(const ForwardArguments& a) {
  using S = State<T>;
  const CommonArguments& in = a.in;
  const long long state = thread_index();  // [row, channel]: L = 1, so also the place in x, h and c
  if (state >= in.batch * in.channels) return;
  const long long row = state / in.channels, channel = state % in.channels;
  const T* u = static_cast<const T*>(in.u) + 3 * row * in.channels + channel;  // [0, row, 0, channel]
  const S c_before = at_or_zero<S>(in.c0, state);
  const Parameters<S> p = parameters<T>(in, channel, state);
  const Inputs<S> inputs{load(u[0]), load(u[in.channels]), load(u[2 * in.channels]), load(static_cast<const T*>(in.x)[state])};
  Outputs<S> out = forward_step(inputs, c_before, p);
  if (in.padding && in.padding[row]) out = {c_before, S(0)};
  store(out.h, static_cast<T*>(a.h)[state]);
  if (a.c) store(out.c, static_cast<T*>(a.c)[state]);
  static_cast<S*>(a.c_last)[state] = out.c;
}

// The gradients of weight_c and bias: the parts of the sequences in their order, so the result never varies.
// parts (B, 4, D) -> grad_weight_c (2, D), grad_bias (2, D).
template <class T>
SRUPP_DEVICE void add_up(const SumArguments& a) {
  using S = State<T>;
  const long long index = thread_index(), size = 4 * a.channels;  // a thread for each of (4, D)
  if (index >= size) return;
  S sum = 0;
#pragma unroll 16  // loads that do not wait for each other
  for (long long row = 0; row < a.batch; ++row) sum += static_cast<const S*>(a.parts)[row * size + index];
  // (4, D) is v_f, v_r, b_f, b_r: (2, D) of weight_c, then (2, D) of bias
  void* to = index < 2 * a.channels ? a.grad_weight_c : a.grad_bias;
  const long long at = index % (2 * a.channels);
  if (a.narrow_parameters) {
    store(sum, static_cast<T*>(to)[at]);
  } else {
    static_cast<S*>(to)[at] = sum;
  }
}

}  // namespace srupp

// All kernels of storage type T, by names that need no C++ to be found. Those of sequences name the pieces, in bytes, that
// rows are read in: 16 where the rows of all warps begin at a multiple of 16 bytes, down to single elements. Then come the
// channels of a lane: two only in half precision with pieces of 16 bytes, as of every usual width.
#define SRUPP_KINDS_float32(each, T) each(T, float32, 16, 1) each(T, float32, 4, 1)
#define SRUPP_KINDS_float64(each, T) each(T, float64, 16, 1) each(T, float64, 8, 1)
#define SRUPP_KINDS_float16(each, T) each(T, float16, 16, 2) each(T, float16, 16, 1) each(T, float16, 4, 1) each(T, float16, 2, 1)
#define SRUPP_KINDS_bfloat16(each, T) \
  each(T, bfloat16, 16, 2) each(T, bfloat16, 16, 1) each(T, bfloat16, 4, 1) each(T, bfloat16, 2, 1)

#define SRUPP_SEQUENCE_KERNELS(T, name, piece, channels)                                                 \
  extern "C" SRUPP_KERNEL(32) srupp_forward_##piece##_##channels##_##name(srupp::ForwardArguments a) {   \
    if (a.c) {                                                                                           \
      srupp::forward<T, piece, channels, true>(a);                                                       \
    } else {                                                                                             \
      srupp::forward<T, piece, channels, false>(a);                                                      \
    }                                                                                                    \
  }                                                                                                      \
  extern "C" SRUPP_KERNEL(32) srupp_backward_##piece##_##channels##_##name(srupp::BackwardArguments a) { \
    srupp::backward<T, piece, channels>(a);                                                              \
  }

#define SRUPP_KERNELS(T, name)                                                                                              \
  SRUPP_KINDS_##name(SRUPP_SEQUENCE_KERNELS, T) extern "C" SRUPP_KERNEL(256) srupp_step_##name(srupp::ForwardArguments a) { \
    srupp::step<T>(a);                                                                                                      \
  }                                                                                                                         \
  extern "C" SRUPP_KERNEL(256) srupp_sum_##name(srupp::SumArguments a) { srupp::add_up<T>(a); }
