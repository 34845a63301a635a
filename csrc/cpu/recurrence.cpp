// The operators fairseq_srupp::cpu_forward and cpu_backward. fairseq_srupp/ops/recurrence.py has their schema
// and says what the arguments are.

#include <torch/csrc/stable/library.h>

#include "pages.h"
#include "tiles.h"

namespace srupp {
namespace {

template <class T>
T* output(const Tensor& tensor) {
  T* address = static_cast<T*>(tensor.mutable_data_ptr());
  prepare_pages(address, size_t(tensor.numel()) * sizeof(T));
  return address;
}

// Calls run(T()) with the storage type of `dtype`.
template <class Run>
void with_type(ScalarType dtype, const Run& run) {
  switch (dtype) {
    case ScalarType::Float:
      return run(float());
    case ScalarType::Double:
      return run(double());
    case ScalarType::Half:
      return run(Half());
    case ScalarType::BFloat16:
      return run(BFloat16());
    default:
      STD_TORCH_CHECK(false, "u has a dtype other than float32, float64, float16 and bfloat16");
  }
}

// The call with its parameters in the dtype of the state, as the kernels have them.
Call widened(Call call) {
  call.weight_c = torch::stable::to(call.weight_c, call.state);
  call.bias = torch::stable::to(call.bias, call.state);
  return call;
}

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& u, const Tensor& x, const Tensor& weight_c, const Tensor& bias, const OptionalTensor& c0,
    const OptionalTensor& dropout_mask, const OptionalTensor& padding_mask, bool bidirectional, bool save_c) {
  const Call call = widened({u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional});
  const ForwardResult result(call, save_c);
  with_type(call.dtype, [&](auto type) {
    using T = decltype(type);
    T *h = output<T>(result.h), *c = save_c ? output<T>(result.c) : nullptr;
    State<T>* c_last = output<State<T>>(result.c_last);
    const auto kernel = kernels<T>().forward;
    for_each_tile<T>(call, Walk::with_the_recurrence, [&](const Tile<T>& tile, const Offsets& at) {
      kernel({tile, h + at.x, c ? c + at.x : nullptr, c_last + at.state});
    });
  });
  return result.tuple();
}

// sums (2, D) each: over the sequences of parts (B, 4, D), in their order.
template <class S>
void add_up(const Call& call, const S* parts, S* grad_weight_c, S* grad_bias) {
  constexpr int64_t kBlock = 256;  // a row of all sequences would leave the cache before the next one comes
  const int64_t size = 4 * call.channels;
  torch::stable::parallel_for(0, size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t count = std::min(kBlock, end - at);
      S sums[kBlock] = {};
      for (int64_t row = 0; row < call.batch; ++row) {
        for (int64_t i = 0; i < count; ++i) sums[i] += parts[row * size + at + i];
      }
      for (int64_t i = at; i < at + count; ++i) {
        (i < size / 2 ? grad_weight_c[i] : grad_bias[i - size / 2]) = sums[i - at];
      }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const OptionalTensor& grad_h, const OptionalTensor& grad_c_last, const Tensor& u, const Tensor& x, const Tensor& weight_c,
    const Tensor& bias, const OptionalTensor& c0, const OptionalTensor& dropout_mask, const OptionalTensor& padding_mask,
    const Tensor& c, bool bidirectional) {
  const Call call = widened({u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional});
  const Saved saved(call, c, grad_h, grad_c_last);
  BackwardResult result(call);
  // without a gradient of h, one row of zeros stands for all
  const Tensor h_row = grad_h ? *saved.grad_h : torch::stable::new_zeros(call.x, {call.channels});
  with_type(call.dtype, [&](auto type) {
    using T = decltype(type);
    using S = State<T>;
    T *grad_u_data = output<T>(result.grad_u), *grad_x_data = output<T>(result.grad_x);
    S *grad_c0_data = output<S>(result.grad_c0), *parts = output<S>(result.parts);
    const auto kernel = kernels<T>().backward;
    for_each_tile<T>(call, Walk::against_it, [&](const Tile<T>& tile, const Offsets& at) {
      kernel({
          tile,
          data<T>(saved.c) + at.x,
          data<T>(h_row) + (grad_h ? at.x : at.channel),
          grad_h ? tile.x_stride : 0,
          shifted(data<S>(saved.grad_c_last), at.state),
          grad_u_data + at.u,
          grad_x_data + at.x,
          parts + at.row * 4 * call.channels + at.channel,
          grad_c0_data + at.state,
      });
    });
    add_up(call, parts, output<S>(result.grad_weight_c), output<S>(result.grad_bias));
  });
  result.grad_weight_c = torch::stable::to(result.grad_weight_c, call.parameter);
  result.grad_bias = torch::stable::to(result.grad_bias, call.parameter);
  return result.tuple();
}

}  // namespace
}  // namespace srupp

STABLE_TORCH_LIBRARY_IMPL(fairseq_srupp, CPU, library) {
  library.impl("cpu_forward", TORCH_BOX(&srupp::forward));
  library.impl("cpu_backward", TORCH_BOX(&srupp::backward));
}
