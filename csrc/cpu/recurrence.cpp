// The operators fairseq_srupp::cpu_forward and cpu_backward. fairseq_srupp/ops/recurrence.py has their schema
// and says what the arguments are.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "call.h"
#include "pages.h"

namespace srupp {
namespace {

using torch::stable::new_empty;

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

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& u, const Tensor& x, const Tensor& weight_c, const Tensor& bias, const OptionalTensor& c0,
    const OptionalTensor& dropout_mask, const OptionalTensor& padding_mask, bool bidirectional, bool save_c) {
  const Call call(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional);
  const Tensor h = new_empty(x, {call.length, call.batch, call.channels});
  const Tensor c = save_c ? new_empty(x, {call.length, call.batch, call.channels}) : new_empty(x, {0});
  const Tensor c_last = new_empty(x, {call.batch, call.channels}, call.state);
  with_type(call.dtype, [&](auto type) {
    using T = decltype(type);
    T *h_data = output<T>(h), *c_data = save_c ? output<T>(c) : nullptr;
    State<T>* c_last_data = output<State<T>>(c_last);
    const auto kernel = kernels<T>().forward;
    for_each_tile<T>(call, Walk::with_the_recurrence, [&](const Tile<T>& tile, const Offsets& at) {
      kernel({tile, h_data + at.x, c_data ? c_data + at.x : nullptr, c_last_data + at.state});
    });
  });
  return {h, c_last, c};
}

// sums (2, D) each: over the sequences of parts (B, 4, D), in their order.
template <class S>
void add_up(const Call& call, const S* parts, S* grad_weight_c, S* grad_bias) {
  torch::stable::parallel_for(0, 4 * call.channels, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      S sum = 0;
      for (int64_t row = 0; row < call.batch; ++row) sum += parts[row * 4 * call.channels + i];
      (i < 2 * call.channels ? grad_weight_c[i] : grad_bias[i - 2 * call.channels]) = sum;
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const OptionalTensor& grad_h_in, const OptionalTensor& grad_c_last_in, const Tensor& u, const Tensor& x,
    const Tensor& weight_c, const Tensor& bias, const OptionalTensor& c0, const OptionalTensor& dropout_mask,
    const OptionalTensor& padding_mask, const Tensor& c_in, bool bidirectional) {
  const Call call(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional);
  const std::initializer_list<int64_t> steps = {call.length, call.batch, call.channels};
  const Tensor c = checked(c_in, "c", steps, call.dtype);
  // without a gradient of h, one row of zeros stands for all
  const Tensor grad_h = grad_h_in ? checked(*grad_h_in, "grad_h", steps, call.dtype)
                                  : torch::stable::new_zeros(x, {call.channels});
  const OptionalTensor grad_c_last =
      checked(grad_c_last_in, "grad_c_last", {call.batch, call.channels}, call.state);
  const Tensor grad_u = new_empty(u, {call.length, call.batch, 3, call.channels});
  const Tensor grad_x = new_empty(x, steps);
  const Tensor grad_weight_c = new_empty(weight_c, {2, call.channels});
  const Tensor grad_bias = new_empty(bias, {2, call.channels});
  const Tensor grad_c0 = new_empty(weight_c, {call.batch, call.channels});
  const Tensor parts = new_empty(weight_c, {call.batch, 4, call.channels});
  with_type(call.dtype, [&](auto type) {
    using T = decltype(type);
    using S = State<T>;
    T *grad_u_data = output<T>(grad_u), *grad_x_data = output<T>(grad_x);
    S *grad_c0_data = output<S>(grad_c0), *parts_data = output<S>(parts);
    const auto kernel = kernels<T>().backward;
    for_each_tile<T>(call, Walk::against_it, [&](const Tile<T>& tile, const Offsets& at) {
      kernel({
          tile,
          data<T>(c) + at.x,
          data<T>(grad_h) + (grad_h_in ? at.x : at.channel),
          grad_h_in ? tile.x_stride : 0,
          shifted(data<S>(grad_c_last), at.state),
          grad_u_data + at.u,
          grad_x_data + at.x,
          parts_data + at.row * 4 * call.channels + at.channel,
          grad_c0_data + at.state,
      });
    });
    add_up(call, parts_data, output<S>(grad_weight_c), output<S>(grad_bias));
  });
  return {grad_u, grad_x, grad_weight_c, grad_bias, grad_c0};
}

}  // namespace
}  // namespace srupp

STABLE_TORCH_LIBRARY_IMPL(fairseq_srupp, CPU, library) {
  library.impl("cpu_forward", TORCH_BOX(&srupp::forward));
  library.impl("cpu_backward", TORCH_BOX(&srupp::backward));
}
