// The arguments of the operators, checked: tensors on any device, through the stable ABI.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <tuple>

#include "recurrence.h"

namespace srupp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* data(const OptionalTensor& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

// The inputs that forward and backward share, checked and contiguous.
struct Call {
  int64_t length, batch, channels, directions;
  ScalarType dtype, state, parameter;  // of u and x; of c0 and reductions; of weight_c and bias: one of the two
  Tensor u, x, weight_c, bias;
  OptionalTensor c0, mask, padding;

  Call(
      const Tensor& u_in, const Tensor& x_in, const Tensor& weight_c_in, const Tensor& bias_in, const OptionalTensor& c0_in,
      const OptionalTensor& mask_in, const OptionalTensor& padding_in, bool bidirectional) {
    STD_TORCH_CHECK(u_in.dim() == 4 && u_in.size(2) == 3, "u does not have the shape (L, B, 3, D)");
    length = u_in.size(0);
    batch = u_in.size(1);
    channels = u_in.size(3);
    directions = bidirectional ? 2 : 1;
    STD_TORCH_CHECK(channels % directions == 0, "u has an odd number of channels, bidirectional needs an even one");
    dtype = u_in.scalar_type();
    state = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    u = torch::stable::contiguous(u_in);
    x = checked(x_in, "x", {length, batch, channels}, dtype);
    parameter = weight_c_in.scalar_type() == dtype ? dtype : state;
    weight_c = checked(weight_c_in, "weight_c", {2, channels}, parameter);
    bias = checked(bias_in, "bias", {2, channels}, parameter);
    c0 = checked(c0_in, "c0", {batch, channels}, state);
    mask = checked(mask_in, "dropout_mask", {batch, channels}, state);
    padding = checked(padding_in, "padding_mask", {length, batch}, ScalarType::Bool);
  }

  Tensor checked(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape, ScalarType type) const {
    bool fits = tensor.is_cpu() == u.is_cpu() && tensor.get_device_index() == u.get_device_index() &&
                tensor.scalar_type() == type && tensor.dim() == int64_t(shape.size());
    int64_t axis = 0;
    for (const int64_t size : shape) fits = fits && tensor.size(axis++) == size;
    STD_TORCH_CHECK(fits, name, " does not have the shape, dtype or device that u asks for");
    return torch::stable::contiguous(tensor);
  }

  OptionalTensor checked(
      const OptionalTensor& tensor, const char* name, std::initializer_list<int64_t> shape, ScalarType type) const {
    if (!tensor) return std::nullopt;
    return checked(*tensor, name, shape, type);
  }
};

// What the forward pass returns, not yet filled; c is empty unless it is saved.
struct ForwardResult {
  Tensor h, c_last, c;

  ForwardResult(const Call& call, bool save_c)
      : h(torch::stable::new_empty(call.x, {call.length, call.batch, call.channels})),
        c_last(torch::stable::new_empty(call.x, {call.batch, call.channels}, call.state)),
        c(save_c ? torch::stable::new_empty(call.x, {call.length, call.batch, call.channels})
                 : torch::stable::new_empty(call.x, {0})) {}

  std::tuple<Tensor, Tensor, Tensor> tuple() const { return {h, c_last, c}; }
};

// What the backward pass reads besides the inputs of the forward pass.
struct Saved {
  Tensor c;
  OptionalTensor grad_h, grad_c_last;

  Saved(const Call& call, const Tensor& c_in, const OptionalTensor& grad_h_in, const OptionalTensor& grad_c_last_in)
      : c(call.checked(c_in, "c", {call.length, call.batch, call.channels}, call.dtype)),
        grad_h(call.checked(grad_h_in, "grad_h", {call.length, call.batch, call.channels}, call.dtype)),
        grad_c_last(call.checked(grad_c_last_in, "grad_c_last", {call.batch, call.channels}, call.state)) {}
};

// What the backward pass returns, not yet filled, and `parts` (B, 4, D), what each sequence adds to the gradients of
// v_f, v_r, b_f and b_r: summed in a fixed order, they do not depend on how the work was dealt out.
struct BackwardResult {
  Tensor grad_u, grad_x, grad_weight_c, grad_bias, grad_c0, parts;

  explicit BackwardResult(const Call& call)
      : grad_u(torch::stable::new_empty(call.u, {call.length, call.batch, 3, call.channels})),
        grad_x(torch::stable::new_empty(call.x, {call.length, call.batch, call.channels})),
        grad_weight_c(torch::stable::new_empty(call.weight_c, {2, call.channels})),
        grad_bias(torch::stable::new_empty(call.bias, {2, call.channels})),
        grad_c0(torch::stable::new_empty(call.x, {call.batch, call.channels}, call.state)),
        parts(torch::stable::new_empty(call.x, {call.batch, 4, call.channels}, call.state)) {}

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tuple() const { return {grad_u, grad_x, grad_weight_c, grad_bias, grad_c0}; }
};

}  // namespace srupp
