// What a decoding step computes (see step.cpp), in parts that depend on the instruction set.

#pragma once

#include <cstdint>

#include "../recurrence.h"

namespace srupp {

using Int8 = signed char;

// y (rows, N) = x (rows, K) W^T
template <class W>
struct Product {
  const W* weight;             // (N, K)
  int64_t rows, width, inner;  // rows, N, K
  const float* x;
  float* y;
};

// What a query makes of K positions: the mean of their values, weighted by the softmax of scaled products of query and keys.
template <class C>
struct Attention {
  int64_t positions, size;  // K, d'/H
  const float* query;       // (d'/H)
  const bool* allowed;      // (K); nullptr: all
  const C *keys, *values;   // (K, d'/H)
  float scale;
  float* scores;     // room for K
  int64_t* visible;  // room for K
  float* result;     // (d'/H)
};

// One step of the recurrence in a row of d channels, of U = u one scales.
template <class T>
struct RecurrentStep {
  int64_t channels;  // d
  const T* u;        // (3, d)
  float one;
  const float *scales, *weight_c, *bias;  // (3, d), (2, d), (2, d)
  const float* before;                    // c (d) before the step
  float *x, *c;                           // (d): x becomes h
};

// The kernels. Of the outputs from `first` to `last`, for weights of float, BFloat16 or Int8:
template <class W>
using Multiply = void (*)(const Product<W>&, int64_t first, int64_t last);
template <class W>
Multiply<W> multiply_kernel();

// Of keys and values in float or BFloat16:
template <class C>
using Attend = void (*)(const Attention<C>&);
template <class C>
Attend<C> attend_kernel();

// Of what a product gives, float, BFloat16 or int:
template <class T>
struct OutputKernels {
  void (*recur)(const RecurrentStep<T>&);
  void (*scale)(const T* from, int64_t size, float one, const float* scales, float* to);  // to = from one scales
};
template <class T>
OutputKernels<T> output_kernels();

struct RowKernels {
  // x (size) divided by its deviation, or where there is no `shift` by its root mean square.
  void (*normalise)(float* x, int64_t size, const float* gain, const float* shift, float epsilon);
  // x (size) in whole numbers from -127 to 127. Returns what 1 stands for; NaN where not all of x is finite.
  float (*quantise)(const float* x, int64_t size, Int8* whole);
  void (*narrow)(const float* x, int64_t size, BFloat16* y);
};

RowKernels row_kernels();

}  // namespace srupp
