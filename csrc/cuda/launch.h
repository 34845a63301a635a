// Starting a kernel by its name; free of CUDA's headers and torch's, which stay on their own sides.

#pragma once

namespace srupp {

// Starts kernel `name` of kernels.cuh with its structure of arguments, on a stream (a cudaStream_t) of the current
// device. nullptr, or what went wrong.
const char* launch(const char* name, long long blocks, int threads, const void* arguments, void* stream);

// Why the kernels cannot run on a device of this process: the driver is older than the CUDA they were built with, they
// were built for other GPUs. nullptr where they can.
const char* refusal(int device);

}  // namespace srupp
