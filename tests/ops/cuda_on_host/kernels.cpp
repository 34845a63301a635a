// All CUDA kernels as a library for the CPU: launch(name, blocks, threads, arguments), as a driver would.

#define SRUPP_HOST_DEVICE "device.h"

#include "cuda/kernels.cuh"

#define SRUPP_ENTRY(name, Arguments, kernel)                                                              \
  if (!std::strcmp(wanted, name)) {                                                                       \
    return host_device::run(blocks, threads, [=] { kernel(*static_cast<const Arguments*>(arguments)); }); \
  }

#define SRUPP_SEQUENCES(T, type, piece, channels)                                                                            \
  SRUPP_ENTRY(                                                                                                               \
      "srupp_forward_" #piece "_" #channels "_" #type, srupp::ForwardArguments, srupp_forward_##piece##_##channels##_##type) \
  SRUPP_ENTRY(                                                                                                               \
      "srupp_backward_" #piece "_" #channels "_" #type, srupp::BackwardArguments, srupp_backward_##piece##_##channels##_##type)

#define SRUPP_TYPE(T, type)                                                                                           \
  SRUPP_KINDS_##type(SRUPP_SEQUENCES, T) SRUPP_ENTRY("srupp_step_" #type, srupp::ForwardArguments, srupp_step_##type) \
      SRUPP_ENTRY("srupp_sum_" #type, srupp::SumArguments, srupp_sum_##type)

SRUPP_KERNELS(float, float32)
SRUPP_KERNELS(double, float64)
SRUPP_KERNELS(srupp::Half, float16)
SRUPP_KERNELS(srupp::BFloat16, bfloat16)

// Copies may come from here too; a size of 0 forgets all places.
extern "C" void allow(const char* begin, long long bytes) {
  auto& readable = host_device::block.readable;
  if (bytes == 0) {
    readable.clear();
  } else {
    readable.push_back({begin, bytes});
  }
}

// How many things went wrong that a GPU would not forgive; -1: there is no kernel of this name.
extern "C" long long launch(const char* wanted, long long blocks, int threads, const void* arguments) {
  SRUPP_TYPE(float, float32)
  SRUPP_TYPE(double, float64)
  SRUPP_TYPE(srupp::Half, float16)
  SRUPP_TYPE(srupp::BFloat16, bfloat16)
  return -1;
}
