// What one step of decoding computes besides the recurrence, for a few rows: products and attention.

#pragma once

#include <cstdint>

#include "../recurrence.h"

namespace srupp {

using Int8 = signed char;

// y (rows, N) = x (rows, K) W^T, each output times its scale.
template <class W>
struct Product {
  const W* weight;  // (N, K)
  const float* scale;  // (N)
  int64_t inner;  // K
  int64_t rows;
  const float* x;
  int64_t x_stride;  // from row to row, in elements, as y_stride
  float* y;
  int64_t y_stride;
};

// One query's mean of the values of K positions, weighted by the softmax of its scores.
template <class C>
struct Mixture {
  int64_t positions, size;  // K, d'/H
  float* scores;            // (K), overwritten
  const bool* allowed;      // (K); nullptr: all
  const C* values;          // (K, d'/H)
  float* result;            // (d'/H)
};

// The kernels: of the outputs from `first` to `last`, for weights of float, BFloat16 or Int8; for values of float or BFloat16.
template <class W>
using Multiply = void (*)(const Product<W>&, int64_t first, int64_t last);
template <class C>
using Mix = void (*)(const Mixture<C>&);

template <class W>
Multiply<W> multiply_kernel();
template <class C>
Mix<C> mix_kernel();

}  // namespace srupp
