// Starting a kernel by its name; free of CUDA's headers and torch's, which stay on their own sides.

#pragma once

namespace srupp {

// Starts kernel `name` of kernels.cuh with its structure of arguments, on a stream (a cudaStream_t) of the current
// device. nullptr, or what went wrong.
const char* launch(const char* name, long long blocks, int threads, const void* arguments, void* stream);

}  // namespace srupp
