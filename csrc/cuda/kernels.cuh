// The CUDA kernels, for nvcc and NVRTC; the tests compile this very text for the host.
//
// A warp, which is a block, carries 32 channels of one sequence and direction through all steps, a channel per
// lane. Steps depend on each other, so what hides the latency of memory is reading far ahead: the rows of later
// steps arrive in shared memory while a step is computed. No warp ever waits for another.

#pragma once

#include "../recurrence.h"
#include "arguments.h"
#include "device.cuh"

namespace srupp {

// Where a warp and its lanes are. Lanes beyond the last channel do what the last one does, to the same addresses: so no
// lane needs a condition.
struct Place {
  long long row, channel;  // of this lane; the first lane's channel is `first`
  long long first, width;  // `width` channels from `first` on belong to the warp's direction, at most 32 are its own
  int lane;
  bool backwards;

  SRUPP_DEVICE Place(const CommonArguments& in) {
    const long long direction_width = in.channels / in.directions;
    const long long groups = (direction_width + kWarp - 1) / kWarp;
    long long index = block_index();
    const long long group = index % groups;
    index /= groups;
    const long long direction = index % in.directions;
    row = index / in.directions;
    first = direction * direction_width + group * kWarp;
    width = direction_width - group * kWarp;
    lane = lane_index() < width ? lane_index() : int(width) - 1;
    channel = first + lane;
    backwards = direction == 1;
  }
};

// `Rows` rows of every step, read ahead: each row is 32 elements of T, copied in pieces of kPiece bytes. The lanes
// share the pieces of a step out; a lane has the same pieces in all steps. Steps come in stages of `Steps`, for which
// shared memory is a ring of kStages: this one, those that are on their way, and the one before this, in whose place
// the next goes.
template <class T, int Rows, int Steps, int kStages, int kPiece>
class RowsAhead {
 public:
  static constexpr int kRows = Rows, kSteps = Steps;
  static constexpr int kBytes = kStages * kSteps * kRows * kWarp * int(sizeof(T));

  SRUPP_DEVICE RowsAhead(char* ring, long long length, int lane)
      : length_(length), lane_(lane), now_(ring), free_(ring + (kStages - 1) * kStageBytes) {}

  // Row `index` begins at tensor[start] and moves by `stride` elements a step; it exists in the first `length - less`
  // steps.
  SRUPP_DEVICE void set_row(
      int index, const void* tensor, long long start, long long stride, const Place& place, int less = 0) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int slot = lane_index() % kLanesPerStep + pass * kWarp;
      if (slot / kPiecesPerRow != index || slot >= kSlots) continue;
      const int element = slot % kPiecesPerRow * kElements, ahead = lane_index() / kLanesPerStep;
      left_[pass] = element < place.width && ahead < kStepsPerPass ? length_ - less - ahead : 0;
      if (left_[pass] <= 0) continue;
      from_[pass] = static_cast<const T*>(tensor) + start + element + ahead * stride;
      stride_[pass] = kStepsPerPass * stride;
    }
  }

  // Start copying the first stages.
  SRUPP_DEVICE void begin() {
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) fill(now_ + stage * kStageBytes);
  }

  // Until this stage has arrived, of this lane's copies.
  SRUPP_DEVICE void wait() { wait_for_stage<kStages - 2>(); }

  // This lane's elements of a step of this stage.
  SRUPP_DEVICE void read(int step, T (&rows)[kRows]) const {
    const T* elements = reinterpret_cast<const T*>(now_) + lane_;
#pragma unroll
    for (int row = 0; row < kRows; ++row) rows[row] = elements[(step * kRows + row) * kWarp];
  }

  // Start copying one more stage, where all lanes have read the one before this, and go on to the next.
  SRUPP_DEVICE void advance() {
    fill(free_);
    free_ = now_;
    now_ += stage_ == kStages - 1 ? -(kStages - 1) * kStageBytes : kStageBytes;
    stage_ = stage_ == kStages - 1 ? 0 : stage_ + 1;
  }

 private:
  static constexpr int kElements = kPiece / int(sizeof(T));
  static constexpr int kPiecesPerRow = kWarp / kElements;
  static constexpr int kSlots = kRows * kPiecesPerRow;
  static constexpr int kPasses = (kSlots + kWarp - 1) / kWarp;
  static constexpr int kStepsPerPass = kSlots <= kWarp / 2 ? kWarp / kSlots : 1;
  static constexpr int kLanesPerStep = kStepsPerPass > 1 ? kSlots : kWarp;
  static constexpr int kStepBytes = kRows * kWarp * int(sizeof(T)), kStageBytes = kSteps * kStepBytes;
  static_assert(kSteps % kStepsPerPass == 0, "a stage is a number of whole passes");

  SRUPP_DEVICE void fill(char* stage) {
    char* first = stage + lane_index() / kLanesPerStep * kStepBytes + lane_index() % kLanesPerStep * kPiece;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int left = left_[pass] < kSteps ? int(left_[pass]) : kSteps;
#pragma unroll
      for (int step = 0; step < kSteps; step += kStepsPerPass) {
        if (step < left) copy_ahead<kPiece>(first + step * kStepBytes + pass * kWarp * kPiece, from_[pass]);
        from_[pass] += stride_[pass];
      }
      left_[pass] -= kSteps;
    }
    end_of_stage();
  }

  long long length_;
  int lane_, stage_ = 0;  // the number of this stage in the ring
  char *now_, *free_;     // the places of this stage and of the one before
  const T* from_[kPasses] = {};
  long long stride_[kPasses] = {};
  long long left_[kPasses] = {};  // steps; below 0 when all are on their way
};

// The padding of later steps. One byte a step is too small for the ring: lane i loads that of step i of a stage.
class PaddingAhead {
 public:
  SRUPP_DEVICE PaddingAhead(const bool* padding, long long start, long long stride, long long length, int steps)
      : steps_(steps) {
    if (!padding || lane_index() >= steps || lane_index() >= length) return;
    from_ = reinterpret_cast<const unsigned char*>(padding) + start + lane_index() * stride;
    stride_ = steps * stride;
    left_ = length - lane_index();
    next();
  }

  // A bit for each step of the stage that comes now; loads the next stage's.
  SRUPP_DEVICE unsigned take() {
    const unsigned padded = ballot(next_ != 0);
    next();
    return padded;
  }

 private:
  SRUPP_DEVICE void next() {
    next_ = left_ > 0 ? *from_ : 0;
    from_ += stride_;
    left_ -= steps_;
  }

  int steps_;
  unsigned char next_ = 0;  // no bool: that would be made of the byte at once, which is not there yet
  const unsigned char* from_ = nullptr;
  long long stride_ = 0, left_ = 0;
};

// A padded step: its forget gate is open and its reset gate closed, so the state stays, and h and all gradients are 0.
template <class T, int kRows>
SRUPP_DEVICE void pad(T (&rows)[kRows]) {
  using S = State<T>;
  store(S(0), rows[0]);
  store(S(1e30), rows[1]);
  store(S(-1e30), rows[2]);
  store(S(0), rows[3]);
  if constexpr (kRows > 5) store(S(0), rows[5]);
}

template <bool kPadded, class T, class Rows, class Each>
SRUPP_DEVICE void steps(Rows& ahead, unsigned padded, bool last, const Each& each) {
  constexpr int kSteps = Rows::kSteps;
  T rows[kSteps][Rows::kRows];  // all are read before anything is stored: no step waits for its rows
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    ahead.read(step, rows[step]);
    if (kPadded && (padded >> step & 1u)) pad(rows[step]);
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    each(rows[step], step == kSteps - 1 && last);
    if (step == kSteps / 2) ahead.advance();  // here its instructions do not delay the first steps
  }
}

// Calls each(rows, last) for all steps in order, a stage or more behind what is being read.
template <class T, class Rows, class Each>
SRUPP_DEVICE void walk(Rows& ahead, PaddingAhead& padding, long long length, const Each& each) {
  constexpr int kSteps = Rows::kSteps;
  ahead.begin();
  long long left = length;
  for (; left >= kSteps; left -= kSteps) {
    const unsigned padded = padding.take();
    ahead.wait();
    sync_warp();  // now the copies of all lanes are here, and all lanes have read the stage before
    if (padded) {
      steps<true, T>(ahead, padded, left == kSteps, each);
    } else {
      steps<false, T>(ahead, padded, left == kSteps, each);
    }
  }
  const unsigned padded = padding.take();
  ahead.wait();
  sync_warp();
#pragma unroll 1
  for (int step = 0; step < left; ++step) {
    T rows[Rows::kRows];
    ahead.read(step, rows);
    if (padded >> step & 1u) pad(rows);
    each(rows, step == left - 1);
  }
}

// Of a channel; `state` is its place in (B, D).
template <class T>
SRUPP_DEVICE Parameters<State<T>> parameters(const CommonArguments& in, long long channel, long long state) {
  using S = State<T>;
  const auto get = [&](const void* from, long long index) {
    return in.narrow_parameters ? S(load(static_cast<const T*>(from)[index])) : static_cast<const S*>(from)[index];
  };
  return {
      get(in.weight_c, channel), get(in.weight_c, in.channels + channel),
      get(in.bias, channel), get(in.bias, in.channels + channel),
      in.mask ? static_cast<const S*>(in.mask)[state] : S(1)};
}

template <class S>
SRUPP_DEVICE S at_or_zero(const void* state, long long index) {
  return state ? static_cast<const S*>(state)[index] : S(0);
}

// How a warp walks through the steps, in elements: with the recurrence, or against it (backward).
struct Course {
  long long state;              // of this lane, in (B, D)
  long long begin, stride;      // of the warp's first channel, in (L, B, D)
  long long begin_u, stride_u;  // in (L, B, 3, D)
  long long begin_padding, stride_padding;  // in (L, B)

  SRUPP_DEVICE Course(const CommonArguments& in, const Place& place, bool against) {
    const bool descending = place.backwards != against;
    const long long t = descending ? in.length - 1 : 0, sign = descending ? -1 : 1;
    const long long step = in.batch * in.channels, row = t * step + place.row * in.channels;
    state = place.row * in.channels + place.channel;
    begin = row + place.first;
    begin_u = 3 * row + place.first;
    stride = sign * step;
    stride_u = 3 * stride;
    begin_padding = t * in.batch + place.row;
    stride_padding = sign * in.batch;
  }

  template <class Rows>
  SRUPP_DEVICE PaddingAhead padding(const CommonArguments& in) const {
    return {in.padding, begin_padding, stride_padding, in.length, Rows::kSteps};
  }

  // u and x as the rows 0 to 3.
  template <class Rows>
  SRUPP_DEVICE void set_inputs(Rows& rows, const CommonArguments& in, const Place& place) const {
    for (int gate = 0; gate < 3; ++gate) {
      rows.set_row(gate, in.u, begin_u + gate * in.channels, stride_u, place);
    }
    rows.set_row(3, in.x, begin, stride, place);
  }
};

template <class T>
SRUPP_DEVICE Inputs<State<T>> inputs(const T* rows) {
  return {load(rows[0]), load(rows[1]), load(rows[2]), load(rows[3])};
}

template <class T, int kPiece, bool kSaves>
SRUPP_DEVICE void forward(const ForwardArguments& a) {
  using S = State<T>;
  using Rows = RowsAhead<T, 4, 32 / int(sizeof(T)), 4, kPiece>;
  const CommonArguments& in = a.in;
  const Place place(in);
  const Course way(in, place, false);
  Rows ahead(shared_memory<Rows::kBytes>(), in.length, place.lane);
  way.set_inputs(ahead, in, place);
  PaddingAhead padding = way.template padding<Rows>(in);

  const Parameters<S> p = parameters<T>(in, place.channel, way.state);
  S c = at_or_zero<S>(in.c0, way.state);
  const long long out = in.length > 0 ? way.begin + place.lane : 0;
  T* h = static_cast<T*>(a.h) + out;
  T* c_saved = kSaves ? static_cast<T*>(a.c) + out : nullptr;
  walk<T>(ahead, padding, in.length, [&](const T (&rows)[4], bool) {
    const Outputs<S> now = forward_step(inputs(rows), c, p);
    c = now.c;
    store(now.h, *h);
    h += way.stride;
    if constexpr (kSaves) {
      store(c, *c_saved);
      c_saved += way.stride;
    }
  });
  static_cast<S*>(a.c_last)[way.state] = c;
}

template <class T, int kPiece>
SRUPP_DEVICE void backward(const BackwardArguments& a) {
  using S = State<T>;
  using Rows = RowsAhead<T, 6, 16 / int(sizeof(T)), 6, kPiece>;
  const CommonArguments& in = a.in;
  const Place place(in);
  const Course way(in, place, true);
  Rows ahead(shared_memory<Rows::kBytes>(), in.length, place.lane);
  way.set_inputs(ahead, in, place);
  PaddingAhead padding = way.template padding<Rows>(in);
  // the state before each step is what the forward saved one step earlier; before the first it is c0
  ahead.set_row(4, a.c, way.begin + way.stride, way.stride, place, 1);
  const bool has_grad_h = a.grad_h != nullptr;
  if (has_grad_h) ahead.set_row(5, a.grad_h, way.begin, way.stride, place);

  const Parameters<S> p = parameters<T>(in, place.channel, way.state);
  const S c0 = at_or_zero<S>(in.c0, way.state);
  S grad_c = at_or_zero<S>(a.grad_c_last, way.state);
  S v_f = 0, v_r = 0, b_f = 0, b_r = 0;
  T* grad_x = static_cast<T*>(a.grad_x) + (in.length > 0 ? way.begin + place.lane : 0);
  T* grad_u = static_cast<T*>(a.grad_u) + (in.length > 0 ? way.begin_u + place.lane : 0);
  walk<T>(ahead, padding, in.length, [&](const T (&rows)[6], bool last) {
    const S c_before = last ? c0 : load(rows[4]);
    const S grad_h = has_grad_h ? load(rows[5]) : S(0);
    const Gradients<S> grad = backward_step(inputs(rows), c_before, p, grad_h, grad_c);
    v_f += grad.forget * c_before;
    v_r += grad.reset * c_before;
    b_f += grad.forget;
    b_r += grad.reset;
    grad_c = grad.c_before;
    store(grad.candidate, grad_u[0]);
    store(grad.forget, grad_u[in.channels]);
    store(grad.reset, grad_u[2 * in.channels]);
    store(grad.x, *grad_x);
    grad_u += way.stride_u;
    grad_x += way.stride;
  });
  S* parts = static_cast<S*>(a.parts) + place.row * 4 * in.channels + place.channel;
  parts[0] = v_f;
  parts[in.channels] = v_r;
  parts[2 * in.channels] = b_f;
  parts[3 * in.channels] = b_r;
  static_cast<S*>(a.grad_c0)[way.state] = grad_c;
}

// The forward pass of a single step (decoding), a thread per channel: nothing to read ahead, nothing to wait for.
template <class T>
SRUPP_DEVICE void step(const ForwardArguments& a) {
  using S = State<T>;
  const CommonArguments& in = a.in;
  const long long state = thread_index();
  if (state >= in.batch * in.channels) return;
  const long long row = state / in.channels, channel = state % in.channels;
  const T* u = static_cast<const T*>(in.u) + 3 * row * in.channels + channel;
  const S c_before = at_or_zero<S>(in.c0, state);
  const Parameters<S> p = parameters<T>(in, channel, state);
  const Inputs<S> inputs{
      load(u[0]), load(u[in.channels]), load(u[2 * in.channels]), load(static_cast<const T*>(in.x)[state])};
  Outputs<S> out = forward_step(inputs, c_before, p);
  if (in.padding && in.padding[row]) out = {c_before, S(0)};
  store(out.h, static_cast<T*>(a.h)[state]);
  if (a.c) store(out.c, static_cast<T*>(a.c)[state]);
  static_cast<S*>(a.c_last)[state] = out.c;
}

// The gradients of weight_c and bias: the parts of the sequences in their order, so the result never varies.
template <class T>
SRUPP_DEVICE void add_up(const SumArguments& a) {
  using S = State<T>;
  const long long index = thread_index(), size = 4 * a.channels;
  if (index >= size) return;
  S sum = 0;
#pragma unroll 16  // loads that do not wait for each other
  for (long long row = 0; row < a.batch; ++row) sum += static_cast<const S*>(a.parts)[row * size + index];
  void* to = index < 2 * a.channels ? a.grad_weight_c : a.grad_bias;
  const long long at = index % (2 * a.channels);
  if (a.narrow_parameters) {
    store(sum, static_cast<T*>(to)[at]);
  } else {
    static_cast<S*>(to)[at] = sum;
  }
}

}  // namespace srupp

// All kernels of storage type T, by names that need no C++ to be found. Those of sequences come for each size of pieces,
// in bytes, that rows can be read in: 16 where all rows of 32 channels begin at a multiple of 16 bytes, down to single
// elements.
#define SRUPP_PIECES_float32(each, T) each(T, float32, 16) each(T, float32, 4)
#define SRUPP_PIECES_float64(each, T) each(T, float64, 16) each(T, float64, 8)
#define SRUPP_PIECES_float16(each, T) each(T, float16, 16) each(T, float16, 4) each(T, float16, 2)
#define SRUPP_PIECES_bfloat16(each, T) each(T, bfloat16, 16) each(T, bfloat16, 4) each(T, bfloat16, 2)

#define SRUPP_SEQUENCE_KERNELS(T, name, piece)                                              \
  extern "C" SRUPP_KERNEL(32) srupp_forward_##piece##_##name(srupp::ForwardArguments a) {   \
    if (a.c) {                                                                              \
      srupp::forward<T, piece, true>(a);                                                    \
    } else {                                                                                \
      srupp::forward<T, piece, false>(a);                                                   \
    }                                                                                       \
  }                                                                                         \
  extern "C" SRUPP_KERNEL(32) srupp_backward_##piece##_##name(srupp::BackwardArguments a) { \
    srupp::backward<T, piece>(a);                                                           \
  }

#define SRUPP_KERNELS(T, name)                                                                     \
  SRUPP_PIECES_##name(SRUPP_SEQUENCE_KERNELS, T)                                                   \
  extern "C" SRUPP_KERNEL(256) srupp_step_##name(srupp::ForwardArguments a) { srupp::step<T>(a); } \
  extern "C" SRUPP_KERNEL(256) srupp_sum_##name(srupp::SumArguments a) { srupp::add_up<T>(a); }
