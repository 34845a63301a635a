// A tile: up to kTileChannels neighbouring channels of one sequence and one direction, over all steps. Tiles
// share nothing that is written, so any thread may take any tile and the result stays the same.

#pragma once

#include <cstdint>

#include "../recurrence.h"

namespace srupp {

// Channels in the innermost loop: a fixed count, whole cache lines in every dtype.
constexpr int kLanes = 64;
// Long rows keep the memory busy; what a tile of this width keeps from step to step still fits the caches.
constexpr int kTileChannels = 1024;

// Every pointer is to the tile's first channel at the step where its walk begins: forward at the first step
// of its direction, backward at the last. The strides lead from there to the next step, in elements; they may
// be negative.
template <class T>
struct Tile {
  int64_t length, count, channels;  // steps, channels of the tile, channels of the whole tensor
  int64_t u_stride, x_stride, padding_stride;
  const T* u;  // three rows, `channels` apart
  const T* x;
  const State<T>* weight_c;  // two rows, `channels` apart
  const State<T>* bias;
  const State<T>* c0;    // nullptr: zeros
  const State<T>* mask;  // nullptr: ones
  const bool* padding;   // nullptr: none
};

template <class T>
struct ForwardTile : Tile<T> {
  T* h;  // walks as x does
  T* c;  // walks as x does; nullptr: not saved
  State<T>* c_last;
};

template <class T>
struct BackwardTile : Tile<T> {
  const T* c;  // walks as x does
  const T* grad_h;
  int64_t grad_h_stride;
  const State<T>* grad_c_last;  // nullptr: zeros
  T* grad_u;                    // walks as u does
  T* grad_x;                    // walks as x does
  State<T>* grad_parameters;    // v_f, v_r, b_f, b_r, rows `channels` apart: this sequence's part
  State<T>* grad_c0;
};

template <class T>
struct Kernels {
  void (*forward)(const ForwardTile<T>&);
  void (*backward)(const BackwardTile<T>&);
};

// The kernels for the widest instruction set of this machine, or what ATEN_CPU_CAPABILITY limits it to.
template <class T>
Kernels<T> kernels();

// The name of that instruction set: "avx512", "avx2" or "default" (what the compiler targets by itself).
const char* instruction_set();

}  // namespace srupp
