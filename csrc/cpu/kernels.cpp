// The kernels for each instruction set, and the choice between them at run time: a wheel built for any x86-64
// uses what the machine has. Other architectures and compilers have what the compiler targets by itself.

#include <cstdlib>
#include <cstring>
#include <vector>

#include "step.h"
#include "tile.h"

#if defined(__clang__)
#define SRUPP_VECTORISE _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define SRUPP_VECTORISE _Pragma("GCC ivdep")
#else
#define SRUPP_VECTORISE
#endif

#define SRUPP_ISA isa_default
#define SRUPP_WIDTH 4
#define SRUPP_TARGET
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define SRUPP_FUSED true
#else
#define SRUPP_FUSED false
#endif
#include "kernels.inl"
#include "step.inl"
#undef SRUPP_WIDTH
#undef SRUPP_ISA
#undef SRUPP_TARGET
#undef SRUPP_FUSED

#if defined(__x86_64__) && defined(__GNUC__)
#define SRUPP_DISPATCH 1

#define SRUPP_ISA isa_avx2
#define SRUPP_WIDTH 8
#define SRUPP_TARGET __attribute__((target("avx2,fma")))
#define SRUPP_FUSED true
#include "kernels.inl"
#include "step.inl"
#undef SRUPP_WIDTH
#undef SRUPP_ISA
#undef SRUPP_TARGET
#undef SRUPP_FUSED

#define SRUPP_ISA isa_avx512
#define SRUPP_WIDTH 16
#if defined(__clang__)
#define SRUPP_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"), min_vector_width(512)))
#else
#define SRUPP_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#endif
#define SRUPP_FUSED true
#include "kernels.inl"
#include "step.inl"
#endif

namespace srupp {
namespace {

enum class Level { base, avx2, avx512 };

Level best_level() {
#ifdef SRUPP_DISPATCH
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  const bool default_only = limit && std::strcmp(limit, "default") == 0;
  const bool avx2_only = limit && std::strcmp(limit, "avx2") == 0;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512 && !default_only && !avx2_only) return Level::avx512;
  if (avx2 && !default_only) return Level::avx2;
#endif
  return Level::base;
}

Level level() {
  static const Level found = best_level();
  return found;
}

}  // namespace

#ifdef SRUPP_DISPATCH
#define SRUPP_CHOSEN(kernel) \
  (level() == Level::avx512 ? isa_avx512::kernel : level() == Level::avx2 ? isa_avx2::kernel : isa_default::kernel)
#else
#define SRUPP_CHOSEN(kernel) isa_default::kernel
#endif

template <class T>
Kernels<T> kernels() {
  return {SRUPP_CHOSEN(forward_tile<T>), SRUPP_CHOSEN(backward_tile<T>)};
}

template Kernels<float> kernels<float>();
template Kernels<double> kernels<double>();
template Kernels<Half> kernels<Half>();
template Kernels<BFloat16> kernels<BFloat16>();

template <class W>
Multiply<W> multiply_kernel() {
  return SRUPP_CHOSEN(multiply<W>);
}

template Multiply<float> multiply_kernel<float>();
template Multiply<BFloat16> multiply_kernel<BFloat16>();
template Multiply<Int8> multiply_kernel<Int8>();

template <class C>
Attend<C> attend_kernel() {
  return SRUPP_CHOSEN(attend<C>);
}

template Attend<float> attend_kernel<float>();
template Attend<BFloat16> attend_kernel<BFloat16>();

template <class T>
OutputKernels<T> output_kernels() {
  return {SRUPP_CHOSEN(recur<T>), SRUPP_CHOSEN(scale<T>)};
}

template OutputKernels<float> output_kernels<float>();
template OutputKernels<BFloat16> output_kernels<BFloat16>();
template OutputKernels<int> output_kernels<int>();

RowKernels row_kernels() { return {SRUPP_CHOSEN(normalise), SRUPP_CHOSEN(quantise), SRUPP_CHOSEN(narrow)}; }

const char* instruction_set() {
  switch (level()) {
    case Level::avx512:
      return "avx512";
    case Level::avx2:
      return "avx2";
    default:
      return "default";
  }
}

}  // namespace srupp
