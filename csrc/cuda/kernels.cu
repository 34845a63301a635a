// The CUDA kernels as nvcc builds them into fairseq_srupp._C_cuda.

#include <cuda_runtime.h>

#include <cstring>

#include "kernels.cuh"
#include "launch.h"

SRUPP_KERNELS(float, float32)
SRUPP_KERNELS(double, float64)
SRUPP_KERNELS(srupp::Half, float16)
SRUPP_KERNELS(srupp::BFloat16, bfloat16)

namespace srupp {
namespace {

struct Entry {
  const char* name;
  const void* kernel;
};

#define SRUPP_ENTRY(kernel) {#kernel, reinterpret_cast<const void*>(&kernel)}
#define SRUPP_SEQUENCE_ENTRIES(T, type, piece, channels) \
  SRUPP_ENTRY(srupp_forward_##piece##_##channels##_##type), SRUPP_ENTRY(srupp_backward_##piece##_##channels##_##type),
#define SRUPP_ENTRIES(type) \
  SRUPP_KINDS_##type(SRUPP_SEQUENCE_ENTRIES, ) SRUPP_ENTRY(srupp_step_##type), SRUPP_ENTRY(srupp_sum_##type)

const Entry kEntries[] = {SRUPP_ENTRIES(float32), SRUPP_ENTRIES(float64), SRUPP_ENTRIES(float16), SRUPP_ENTRIES(bfloat16)};

}  // namespace

const char* launch(const char* name, long long blocks, int threads, const void* arguments, void* stream) {
  for (const Entry& entry : kEntries) {
    if (std::strcmp(entry.name, name) != 0) continue;
    void* parameters[] = {const_cast<void*>(arguments)};
    const cudaError_t error = cudaLaunchKernel(
        entry.kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), parameters, 0, static_cast<cudaStream_t>(stream));
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
  return "there is no such kernel";
}

const char* refusal(int device) {
  int current = 0;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error == cudaSuccess) {
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&srupp_step_float32));
    cudaSetDevice(current);
  }
  cudaGetLastError();  // told here, not by whoever asks next
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace srupp
