// The operators fairseq_srupp::cuda_forward and cuda_backward: which kernel a call takes, in how many blocks, and with
// which arguments. fairseq_srupp/ops/cuda_launch.py makes the same choices for kernels that NVRTC compiled.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "../call.h"
#include "arguments.h"
#include "launch.h"

namespace srupp {
namespace {

constexpr int64_t kThreads = 256;    // of a block of the kernels that have no warps of their own
constexpr int64_t kManyWarps = 256;  // from here on a lane has two channels, see cuda_launch.py

// The device of a call, current while this lives, and its current stream.
class Device {
 public:
  explicit Device(const Call& call) : guard_(call.u.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(call.u.get_device_index(), &stream_));
  }

  template <class Arguments>
  void launch(const std::string& name, int64_t blocks, int64_t threads, const Arguments& arguments) const {
    if (blocks == 0) return;
    const char* error = srupp::launch(name.c_str(), blocks, int(threads), &arguments, stream_);
    STD_TORCH_CHECK(
        !error, "fairseq_srupp: kernel ", name, " did not start: ", error, " (backend=\"nvrtc\" compiles for this GPU)");
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    default:
      STD_TORCH_CHECK(false, "u has a dtype other than float32, float64, float16 and bfloat16");
  }
}

const void* address(const Tensor& tensor) { return tensor.const_data_ptr(); }
const void* address(const OptionalTensor& tensor) { return tensor ? address(*tensor) : nullptr; }

int64_t narrow_parameters(const Call& call) { return call.parameter != call.state; }

CommonArguments common(const Call& call) {
  return {
      address(call.u),
      address(call.x),
      address(call.weight_c),
      address(call.bias),
      address(call.c0),
      address(call.mask),
      static_cast<const bool*>(address(call.padding)),
      call.length,
      call.batch,
      call.channels,
      call.directions,
      narrow_parameters(call)};
}

int64_t pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// A warp for every sequence, direction and group of 32 lanes.
int64_t warps(const Call& call, int64_t channels_of_a_lane) {
  return call.batch * call.directions * pieces(call.channels / call.directions, kWarp * channels_of_a_lane);
}

// The kernel of a sequence, by the bytes of the pieces in which rows can be read and the channels of a lane.
struct Kernel {
  std::string name;
  int64_t warps;

  Kernel(const std::string& pass, const Call& call, std::initializer_list<const void*> tensors) {
    const std::uintptr_t element = call.u.element_size();
    std::uintptr_t places = call.channels / call.directions * element;
    for (const void* tensor : tensors) places |= reinterpret_cast<std::uintptr_t>(tensor);
    const int64_t piece = places % 16 == 0 ? 16 : element < 4 && places % 4 == 0 ? 4 : element;
    const int64_t channels = piece == 16 && element == 2 && srupp::warps(call, 2) >= kManyWarps ? 2 : 1;
    name = "srupp_" + pass + "_" + std::to_string(piece) + "_" + std::to_string(channels) + "_" + name_of(call.dtype);
    warps = srupp::warps(call, channels);
  }
};

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& u, const Tensor& x, const Tensor& weight_c, const Tensor& bias, const OptionalTensor& c0,
    const OptionalTensor& dropout_mask, const OptionalTensor& padding_mask, bool bidirectional, bool save_c) {
  const Call call(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional);
  const Device device(call);
  const ForwardResult result(call, save_c);
  const ForwardArguments arguments{
      common(call), result.h.mutable_data_ptr(), save_c ? result.c.mutable_data_ptr() : nullptr,
      result.c_last.mutable_data_ptr()};
  if (call.length == 1) {
    const std::string name = std::string("srupp_step_") + name_of(call.dtype);
    device.launch(name, pieces(call.batch * call.channels, kThreads), kThreads, arguments);
  } else {
    const Kernel kernel("forward", call, {arguments.in.u, arguments.in.x});
    device.launch(kernel.name, kernel.warps, kWarp, arguments);
  }
  return result.tuple();
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const OptionalTensor& grad_h, const OptionalTensor& grad_c_last, const Tensor& u, const Tensor& x, const Tensor& weight_c,
    const Tensor& bias, const OptionalTensor& c0, const OptionalTensor& dropout_mask, const OptionalTensor& padding_mask,
    const Tensor& c, bool bidirectional) {
  const Call call(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional);
  const Device device(call);
  const Saved saved(call, c, grad_h, grad_c_last);
  const BackwardResult result(call);
  const BackwardArguments arguments{
      common(call),
      address(saved.c),
      address(saved.grad_h),
      address(saved.grad_c_last),
      result.grad_u.mutable_data_ptr(),
      result.grad_x.mutable_data_ptr(),
      result.parts.mutable_data_ptr(),
      result.grad_c0.mutable_data_ptr()};
  const Kernel kernel("backward", call, {arguments.in.u, arguments.in.x, arguments.c, arguments.grad_h});
  device.launch(kernel.name, kernel.warps, kWarp, arguments);
  const SumArguments sums{
      result.parts.const_data_ptr(),
      result.grad_weight_c.mutable_data_ptr(),
      result.grad_bias.mutable_data_ptr(),
      call.batch,
      call.channels,
      narrow_parameters(call)};
  const std::string sum = std::string("srupp_sum_") + name_of(call.dtype);
  device.launch(sum, pieces(4 * call.channels, kThreads), kThreads, sums);
  return result.tuple();
}

}  // namespace
}  // namespace srupp

STABLE_TORCH_LIBRARY_IMPL(fairseq_srupp, CUDA, library) {
  library.impl("cuda_forward", TORCH_BOX(&srupp::forward));
  library.impl("cuda_backward", TORCH_BOX(&srupp::backward));
}
