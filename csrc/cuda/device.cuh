// What the kernels need of the device: indices, shared memory, and copies that arrive later. cp.async came with sm_80:
// on older GPUs the copies are there at once.

#pragma once

#ifdef SRUPP_HOST_DEVICE
#include SRUPP_HOST_DEVICE  // the tests' replacement, which runs the threads of a block on the CPU
#else

#define SRUPP_DEVICE __device__ __forceinline__
#define SRUPP_KERNEL(threads) __global__ void __launch_bounds__(threads)

namespace srupp {

SRUPP_DEVICE long long block_index() { return blockIdx.x; }
SRUPP_DEVICE long long thread_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
SRUPP_DEVICE int lane_index() { return threadIdx.x; }  // of kernels whose blocks are one warp

template <int kBytes>
SRUPP_DEVICE char* shared_memory() {
  __shared__ alignas(128) char memory[kBytes];
  return memory;
}

template <int kBytes>
SRUPP_DEVICE void copy_now(char* to, const void* from) {
#pragma unroll
  for (int i = 0; i < kBytes / 2; ++i) {
    reinterpret_cast<unsigned short*>(to)[i] = static_cast<const unsigned short*>(from)[i];
  }
}

// Start copying kBytes to shared memory; both addresses are multiples of kBytes.
template <int kBytes>
SRUPP_DEVICE void copy_ahead(char* to, const void* from) {
#if __CUDA_ARCH__ >= 800
  const unsigned place = (unsigned)__cvta_generic_to_shared(to);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
  } else if constexpr (kBytes >= 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(place), "l"(from), "n"(kBytes) : "memory");
  } else {  // cp.async has no pieces of 2 bytes
    copy_now<kBytes>(to, from);
  }
#else
  copy_now<kBytes>(to, from);
#endif
}

// The copies that this thread started since the last call form a stage.
SRUPP_DEVICE void end_of_stage() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most `kPending` of this thread's last stages are still on their way.
template <int kPending>
SRUPP_DEVICE void wait_for_stage() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

SRUPP_DEVICE void sync_warp() { __syncwarp(); }

// Bit i is that of lane i.
SRUPP_DEVICE unsigned ballot(bool mine) { return __ballot_sync(0xffffffffu, mine); }

}  // namespace srupp

#endif
