// The cell of the recurrence, once for every compiler: host, nvcc, NVRTC. Includes nothing.
//
// One channel, one step (paper, section 2, equations 2 to 5; m is the dropout mask):
//   f = sigmoid(uf + v_f c' + b_f)      r = sigmoid(ur + v_r c' + b_r)      c' is the state before the step
//   c = f c' + (1 - f) u                h = x + m r (c - x)
// All arithmetic is in S (float or double); u, x, h and the saved c are stored as T, see load and store.

#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SRUPP_INLINE __host__ __device__ __forceinline__
#else
#define SRUPP_INLINE inline __attribute__((always_inline))
#endif

namespace srupp {

// What tensors are stored as, apart from float and double.
struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

// What state and reductions of such tensors are.
template <class T>
struct StateOf {
  using type = float;
};
template <>
struct StateOf<double> {
  using type = double;
};
template <class T>
using State = typename StateOf<T>::type;

SRUPP_INLINE unsigned bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  unsigned bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

SRUPP_INLINE float float_of(unsigned bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

SRUPP_INLINE float load(float value) { return value; }
SRUPP_INLINE double load(double value) { return value; }
SRUPP_INLINE float load(BFloat16 value) { return float_of(unsigned(value.bits) << 16); }

SRUPP_INLINE float load(Half value) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const unsigned magnitude = (value.bits & 0x7fffu) << 13;
  // times 2^112: from an exponent bias of 15 to one of 127, subnormals too
  const float rescaled = float_of(magnitude) * float_of(0x77800000u);
  const unsigned infinite = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return float_of(bits_of(rescaled) | infinite | (value.bits & 0x8000u) << 16);
#endif
}

SRUPP_INLINE void store(float value, float& place) { place = value; }
SRUPP_INLINE void store(double value, double& place) { place = value; }

SRUPP_INLINE void store(float value, BFloat16& place) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(place.bits) : "f"(value));
#else
  const unsigned bits = bits_of(value);
  const unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  place.bits = (unsigned short)(value != value ? 0x7fc0u : rounded);
#endif
}

SRUPP_INLINE void store(float value, Half& place) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(place.bits) : "f"(value));
#else
  const unsigned magnitude = bits_of(value) & 0x7fffffffu;
  const unsigned normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // the addition rounds at 2^-24
  const unsigned subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  unsigned bits = magnitude < 0x38800000u ? subnormal : normal;
  bits = magnitude >= 0x47800000u ? 0x7c00u : bits;
  bits = value != value ? 0x7e00u : bits;
  place.bits = (unsigned short)(bits | (bits_of(value) & 0x80000000u) >> 16);
#endif
}

// a b + c. A GPU has one operation for it; left to itself its compiler would choose another product of the sum.
template <class S>
SRUPP_INLINE S multiply_add(S a, S b, S c) {
#ifdef __CUDA_ARCH__
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// A gate: the sigmoid of `input` + b + v c', which is exactly 0 where it would come near the denormals. The state is added
// last: steps wait for nothing but it, so the chain from one to the next is short. `limit` is that of Parameters, kFused
// that of the steps.
#ifdef __CUDA_ARCH__

// exp(-z) as a power of 2, of a sum whose parts are multiplied by -1 / ln(2) before the state is there.
template <bool kFused>
SRUPP_INLINE float gate(float input, float v, float b, float c_before, float) {
  constexpr float kScale = -1.44269504f;
  const float exponent = multiply_add(v * kScale, c_before, multiply_add(input, kScale, b * kScale));
  float power, result;  // power is 0 or infinite beyond its range: nothing else is needed to saturate
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
}

template <bool kFused>
SRUPP_INLINE double gate(double input, double v, double b, double c_before, double) {
  return 1.0 / (1.0 + exp(-(input + b + v * c_before)));
}

#else

// 4 2^n, where `shifted` holds n, 2 and the bias of exponents in its lowest mantissa bits: infinite for n of 126 (float) or
// 1022 (double).
SRUPP_INLINE float power_of_two(float shifted) { return float_of(bits_of(shifted) << 23); }

SRUPP_INLINE double power_of_two(double shifted) {
  unsigned long long bits;
  double power;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits <<= 52;
  __builtin_memcpy(&power, &bits, sizeof power);
  return power;
}

// exp(x) = 2^n exp(rest), |rest| <= ln(2) / 2, for x from -87 to 87.5, infinite above 87; NaN gives NaN. Without branches
// and calls, so that compilers vectorise it, and with short chains of operations, for which the processor waits.
template <bool kFused>
SRUPP_INLINE float exp_in_range(float x) {
  const float shifted = x * 1.44269504f + 12583041.0f;  // 1.5 * 2^23 rounds to an integer; 127 + 2
  const float n = shifted - 12583041.0f;
  // ln(2) in one part for a product that is not rounded, else in two: n times the first is exact
  const float rest = kFused ? __builtin_fmaf(-n, 0.693147181f, x) : (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float square = rest * rest;
  // minimax with a constant of 1, relative error 9.2e-8; a quarter of it
  const float high = 0.25f * 8.2895821e-3f * rest + 0.25f * 4.18978222e-2f;
  const float middle = 0.25f * 1.66676491e-1f * rest + 0.25f * 4.99991506e-1f;
  const float low = 0.25f * 9.99999702e-1f * rest + 0.25f;
  return ((high * square + middle) * square + low) * power_of_two(shifted);
}

// Of doubles: from -708 to 708.5, infinite above 708.1.
template <bool kFused>
SRUPP_INLINE double exp_in_range(double x) {
  const double shifted = x * 1.4426950408889634 + 6755399441056769.0;  // 1.5 * 2^52; 1023 + 2
  const double n = shifted - 6755399441056769.0;
  const double rest = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double sum = 1.0 / 6227020800.0;  // Taylor's series
  sum = sum * rest + 1.0 / 479001600;
  sum = sum * rest + 1.0 / 39916800;
  sum = sum * rest + 1.0 / 3628800;
  sum = sum * rest + 1.0 / 362880;
  sum = sum * rest + 1.0 / 40320;
  sum = sum * rest + 1.0 / 5040;
  sum = sum * rest + 1.0 / 720;
  sum = sum * rest + 1.0 / 120;
  sum = sum * rest + 1.0 / 24;
  sum = sum * rest + 1.0 / 6;
  sum = sum * rest + 0.5;
  sum = sum * rest + 1.0;
  sum = sum * rest + 1.0;
  return 0.25 * sum * power_of_two(shifted);
}

template <bool kFused, class S>
SRUPP_INLINE S gate(S input, S v, S b, S c_before, S limit) {
  const S z = input + b + v * c_before;
  const S high = limit - S(1);
  const S not_below = -limit > z ? -limit : z;  // in this order NaN stays NaN
  const S inside = high < not_below ? high : not_below;
  return S(1) / (S(1) + exp_in_range<kFused>(-inside));
}

#endif

SRUPP_INLINE constexpr float saturation(float) { return 87.25f; }
SRUPP_INLINE constexpr double saturation(double) { return 708.375; }

// Of one channel; mask is the dropout mask m. A CPU cuts off what a gate's sigmoid is taken of at -limit, where it is
// closed, and at limit - 1, where it has been open for long.
template <class S>
struct Parameters {
  S v_f, v_r, b_f, b_r;
  S mask;
  S limit = saturation(S());
};

// Of one channel at one step.
template <class S>
struct Inputs {
  S candidate, forget, reset, x;
};

template <class S>
struct Outputs {
  S c, h;
};

// kFused: the processor has a product and a sum in one operation, which rounds once.
template <bool kFused = false, class S>
SRUPP_INLINE Outputs<S> forward_step(Inputs<S> in, S c_before, Parameters<S> p) {
  const S f = gate<kFused>(in.forget, p.v_f, p.b_f, c_before, p.limit);
  const S r = gate<kFused>(in.reset, p.v_r, p.b_r, c_before, p.limit);
  const S c = multiply_add(S(1) - f, in.candidate, f * c_before);
  return {c, in.x + p.mask * r * (c - in.x)};
}

// The gradients of a step's inputs, and of the state before it. Those of v_f and v_r are forget and reset
// times c_before, those of b_f and b_r are forget and reset.
template <class S>
struct Gradients {
  S candidate, forget, reset, x, c_before;
};

// grad_h: of the step's h; grad_c: of its c, from the steps after it.
template <bool kFused = false, class S>
SRUPP_INLINE Gradients<S> backward_step(Inputs<S> in, S c_before, Parameters<S> p, S grad_h, S grad_c) {
  const S f = gate<kFused>(in.forget, p.v_f, p.b_f, c_before, p.limit);
  const S r = gate<kFused>(in.reset, p.v_r, p.b_r, c_before, p.limit);
  const S c = multiply_add(S(1) - f, in.candidate, f * c_before);
  const S grad_scaled = grad_h * p.mask;
  const S by_reset = grad_scaled * r;  // through r (c - x), to c and to x
  const S grad_now = grad_c + by_reset;
  const S by_forget = grad_now * f;
  const S grad_candidate = grad_now * (S(1) - f);
  const S grad_forget = grad_candidate * f * (c_before - in.candidate);
  const S grad_reset = by_reset * (S(1) - r) * (c - in.x);
  return {
      grad_candidate, grad_forget, grad_reset, grad_h - by_reset, by_forget + grad_forget * p.v_f + grad_reset * p.v_r,
  };
}

}  // namespace srupp
