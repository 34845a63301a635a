// What the kernels are given. fairseq_srupp/ops/cuda_launch.py has the same structures: pointers, then long longs.

#pragma once

namespace srupp {

constexpr int kWarp = 32;

// Tensors as the operators have them (fairseq_srupp/ops/recurrence.py), contiguous; S = State<T>.
struct CommonArguments {
  const void *u, *x;                  // T (L, B, 3, D), T (L, B, D)
  const void *weight_c, *bias;        // (2, D) of S; of T if narrow_parameters
  const void *c0, *mask;              // S (B, D) or null
  const bool* padding;                // (L, B) or null
  long long length, batch, channels;  // L, B, D
  long long directions;               // 1 or 2
  long long narrow_parameters;        // 0 or 1
};

struct ForwardArguments {
  CommonArguments in;
  void* h;       // T (L, B, D)
  void* c;       // T (L, B, D) or null
  void* c_last;  // S (B, D)
};

struct BackwardArguments {
  CommonArguments in;
  const void* c;            // T (L, B, D)
  const void* grad_h;       // T (L, B, D) or null
  const void* grad_c_last;  // S (B, D) or null
  void *grad_u, *grad_x;    // T
  void* parts;              // S (B, 4, D): what each sequence adds to the gradients of v_f, v_r, b_f, b_r
  void* grad_c0;            // S (B, D)
};

struct SumArguments {
  const void* parts;                // S (B, 4, D)
  void *grad_weight_c, *grad_bias;  // (2, D), as weight_c and bias
  long long batch, channels;
  long long narrow_parameters;
};

}  // namespace srupp
