// The operators fairseq_srupp::cpu_step, all layers of a stack at one step of decoding, and cpu_linear, a product by itself.
// fairseq_srupp/ops/step.py has their schemas and says what the arguments are.
//
// A layer in PyTorch is some 60 operators. With few rows calling them takes longer than what they compute, and with many they
// carry everything to memory and back. Here the products of few rows are kernels of ours (step.h), which read each weight once;
// those of many are PyTorch's.

#include "step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "../call.h"

namespace srupp {
namespace {

using Tensors = std::vector<Tensor>;
using Floats = std::vector<float>;

constexpr float kNormEpsilon = 1e-5f, kRootMeanSquareEpsilon = 1e-6f;
constexpr int64_t kFewRows = 16;
constexpr int64_t kGrain = 1 << 16;  // multiplications that are worth a thread

enum class Norm { none, pre, post };

void check(bool fits, const char* what) { STD_TORCH_CHECK(fits, "cpu_step: ", what, " does not fit"); }

bool is_float(const Tensor& tensor) {
  return tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Float;
}

template <class T>
T* place(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls each(row) for all rows, on several threads where there are many.
template <class Each>
void for_rows(int64_t rows, const Each& each) {
  torch::stable::parallel_for(0, rows, kFewRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) each(row);
  });
}

// Memory for what PyTorch's products give, the same for all layers: blocks of this size come with pages to be cleared.
class Workspace {
 public:
  // x (M, K) times the transposed weight (N, K): (M, N), which lasts until the next product; of int8 in int32.
  Tensor multiply(const Tensor& x, const Tensor& weight) {
    const int64_t rows = x.size(0), width = weight.size(0), count = rows * width;
    const bool whole = weight.scalar_type() == ScalarType::Char;
    const ScalarType type = whole ? ScalarType::Int : weight.scalar_type();
    if (!memory_ || memory_->numel() < count || memory_->scalar_type() != type) {
      memory_ = torch::stable::new_empty(weight, {count}, type);
    }
    Tensor flat = torch::stable::narrow(*memory_, 0, 0, count);
    const Tensor out = torch::stable::view(flat, {rows, width});
    using torch::stable::detail::from;
    std::array<StableIValue, 3> stack{from(x), from(torch::stable::transpose(weight, 0, 1)), from(out)};
    const char* name = whole ? "aten::_int_mm" : "aten::mm";
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "out", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  }

 private:
  std::optional<Tensor> memory_;
};

// What a product gives, (rows, N), as the one who computed it left it.
class Outputs {
 public:
  int64_t rows, width;
  const float* scales;  // (N)

  Outputs(const Tensor& weight, const float* scales_in, const Floats& x, int64_t rows_in, Workspace& workspace)
      : rows(rows_in), width(weight.size(0)), scales(scales_in) {
    const int64_t inner = int64_t(x.size()) / rows;
    const ScalarType type = weight.scalar_type();
    const bool known = type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Char;
    check(known && weight.is_cpu() && weight.is_contiguous() && weight.dim() == 2 && weight.size(1) == inner, "a weight");
    check(inner < 1 << 24, "the number of inputs");
    if (rows > kFewRows) {
      raw_ = workspace.multiply(input(weight, x, inner), weight);
    } else if (type == ScalarType::Float) {
      by_kernel(data<float>(weight), x, inner);
    } else if (type == ScalarType::BFloat16) {
      by_kernel(data<BFloat16>(weight), x, inner);
    } else {
      by_kernel(data<Int8>(weight), x, inner);
    }
  }

  // Calls run(numbers, one) with the numbers (N) of a row, to be multiplied by `one` and by `scales`.
  template <class Run>
  void with_row(int64_t i, const Run& run) const {
    if (!raw_) return run(numbers_.data() + i * width, 1.0f);
    switch (raw_->scalar_type()) {
      case ScalarType::Float:
        return run(data<float>(*raw_) + i * width, 1.0f);
      case ScalarType::BFloat16:
        return run(data<BFloat16>(*raw_) + i * width, 1.0f);
      default:
        return run(data<int>(*raw_) + i * width, ones_[i]);
    }
  }

  // (rows, N), scaled
  Floats all() const {
    Floats numbers(rows * width);
    for_rows(rows, [&](int64_t i) {
      with_row(i, [&](auto from, float one) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(from)>>;
        output_kernels<T>().scale(from, width, one, scales, numbers.data() + i * width);
      });
    });
    return numbers;
  }

 private:
  template <class W>
  void by_kernel(const W* weight, const Floats& x, int64_t inner) {
    numbers_.resize(rows * width);
    const Product<W> product{weight, rows, width, inner, x.data(), numbers_.data()};
    const auto multiply = multiply_kernel<W>();
    const int64_t grain = std::max<int64_t>(4, kGrain / (inner * rows));
    torch::stable::parallel_for(0, width, grain, [&](int64_t begin, int64_t end) { multiply(product, begin, end); });
  }

  // x (rows, K) for PyTorch, in the dtype of the weight.
  Tensor input(const Tensor& weight, const Floats& x, int64_t inner) {
    const Tensor input = torch::stable::new_empty(weight, {rows, inner});
    const auto kernels = row_kernels();
    switch (weight.scalar_type()) {
      case ScalarType::Float:
        std::copy(x.begin(), x.end(), place<float>(input));
        break;
      case ScalarType::BFloat16:
        for_rows(rows, [&](int64_t i) { kernels.narrow(x.data() + i * inner, inner, place<BFloat16>(input) + i * inner); });
        break;
      default:
        ones_.resize(rows);
        for_rows(
            rows, [&](int64_t i) { ones_[i] = kernels.quantise(x.data() + i * inner, inner, place<Int8>(input) + i * inner); });
    }
    return input;
  }

  Floats numbers_;  // by kernels of ours
  std::optional<Tensor> raw_;
  Floats ones_;  // of raw_ in whole numbers, what 1 stands for in each row
};

// The matrices of a layer, empty where it has none, and all its other numbers in one tensor, in the order in which they are
// taken.
struct Layer {
  const Tensor &in_proj, &query_proj, &kv_proj, &out_proj;
  Workspace& workspace;
  const float *next, *end;

  Layer(const Tensor* weights, Workspace& workspace_in)
      : in_proj(weights[0]), query_proj(weights[1]), kv_proj(weights[2]), out_proj(weights[3]), workspace(workspace_in) {
    check(is_float(weights[4]), "the numbers of a layer");
    next = data<float>(weights[4]);
    end = next + weights[4].numel();
  }

  const float* take(int64_t count) {
    check(count <= end - next, "the count of a layer's numbers");
    return std::exchange(next, next + count);
  }

  // x (rows, K) W^T
  Outputs multiply(const Tensor& weight, const Floats& x, int64_t rows) {
    return Outputs(weight, take(weight.size(0)), x, rows, workspace);
  }

  void norm(Floats& x, int64_t rows) {
    const int64_t size = int64_t(x.size()) / rows;
    const float *gain = take(size), *shift = take(size);
    const auto normalise = row_kernels().normalise;
    for_rows(rows, [&](int64_t i) { normalise(x.data() + i * size, size, gain, shift, kNormEpsilon); });
  }
};

// The keys and values of the sentences of a layer, (2, G, H, any, d'/H), of which K positions from `first` on count.
struct Cache {
  const Tensor& buffer;
  int64_t first, positions, groups, heads, size;

  Cache(const Tensor& buffer_in, int64_t first_in, int64_t positions_in, int64_t rows)
      : buffer(buffer_in), first(first_in), positions(positions_in) {
    check(buffer.is_cpu() && buffer.dim() == 5 && buffer.size(0) == 2 && buffer.size(1) > 0, "a cache");
    groups = buffer.size(1);
    heads = buffer.size(2);
    size = buffer.size(4);
    check(rows % groups == 0 && size > 0 && buffer.stride(3) == size && buffer.stride(4) == 1, "a cache");
    check(first >= 0 && positions >= rows / groups && first + positions <= buffer.size(3), "the positions of a cache");
  }
};

// Adds alpha times what each row makes of its sentence's cache to q (B, d'), after the last g positions of the cache are made of
// `keys_values` (B, 2d').
template <class C>
void attend(Floats& q, const Floats& queries, const Floats& keys_values, const Cache& cache, const bool* allowed, float alpha) {
  const int64_t positions = cache.positions, size = cache.size, width = cache.heads * size;
  const int64_t beam = int64_t(q.size()) / width / cache.groups;
  C* const buffer = place<C>(cache.buffer) + cache.first * size;
  const auto attend_row = attend_kernel<C>();
  const int64_t grain = std::max<int64_t>(1, kFewRows / beam);
  torch::stable::parallel_for(0, cache.groups * cache.heads, grain, [&](int64_t begin, int64_t end) {
    Floats scores(positions), result(size);
    std::vector<int64_t> visible(positions);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t group = at / cache.heads, head = at % cache.heads;
      C* const keys = buffer + group * cache.buffer.stride(1) + head * cache.buffer.stride(2);
      C* const values = keys + cache.buffer.stride(0);
      for (int64_t i = 0; i < beam; ++i) {
        const float* from = keys_values.data() + 2 * (group * beam + i) * width + head * size;
        const int64_t to = (positions - beam + i) * size;
        for (int64_t j = 0; j < size; ++j) {
          store(from[j], keys[to + j]);
          store(from[width + j], values[to + j]);
        }
      }
      for (int64_t row = group * beam; row < (group + 1) * beam; ++row) {
        const bool* seen = allowed ? allowed + row * positions : nullptr;
        attend_row(
            {positions, size, queries.data() + row * width + head * size, seen, keys, values, 1 / std::sqrt(float(size)),
             scores.data(), visible.data(), result.data()});
        float* const to = q.data() + row * width + head * size;
        for (int64_t j = 0; j < size; ++j) to[j] += alpha * result[j];
      }
    }
  });
}

// What Q (B, d') becomes before the last norm and W^o.
void attend_to_cache(
    Layer& layer, Floats& q, int64_t rows, Norm norm, bool query_key_norm, const Cache& cache, const bool* allowed) {
  const int64_t width = int64_t(q.size()) / rows, size = cache.size, heads = cache.heads;
  check(heads * size == width, "the heads of a cache");
  Floats attended = q;
  if (norm == Norm::pre) layer.norm(attended, rows);
  Floats queries = layer.query_proj.numel() ? layer.multiply(layer.query_proj, attended, rows).all() : attended;
  Floats keys_values = layer.multiply(layer.kv_proj, attended, rows).all();
  check(queries.size() == q.size() && keys_values.size() == 2 * q.size(), "query_proj or kv_proj");
  if (query_key_norm) {
    const float *of_queries = layer.take(size), *of_keys = layer.take(size);
    const auto normalise = row_kernels().normalise;
    for_rows(rows, [&](int64_t i) {
      for (int64_t head = 0; head < heads; ++head) {
        normalise(queries.data() + i * width + head * size, size, of_queries, nullptr, kRootMeanSquareEpsilon);
        normalise(keys_values.data() + 2 * i * width + head * size, size, of_keys, nullptr, kRootMeanSquareEpsilon);
      }
    });
  }
  const float alpha = *layer.take(1);
  if (cache.buffer.scalar_type() == ScalarType::BFloat16) {
    attend<BFloat16>(q, queries, keys_values, cache, allowed, alpha);
  } else {
    check(cache.buffer.scalar_type() == ScalarType::Float, "the dtype of a cache");
    attend<float>(q, queries, keys_values, cache, allowed, alpha);
  }
}

// x (B, d) becomes h, and `before` c (B, d), with U (B, 3d) of a layer.
void recur(Layer& layer, const Outputs& u, Floats& x, const float* before, float* c) {
  const int64_t channels = int64_t(x.size()) / u.rows;
  check(u.width == 3 * channels, "out_proj");
  const float *weight_c = layer.take(2 * channels), *bias = layer.take(2 * channels);
  const Floats zeros(before ? 0 : channels);
  for_rows(u.rows, [&](int64_t row) {
    const int64_t at = row * channels;
    u.with_row(row, [&](auto of_u, float one) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(of_u)>>;
      output_kernels<T>().recur(
          {channels, of_u, one, u.scales, weight_c, bias, before ? before + at : zeros.data(), x.data() + at, c + at});
    });
  });
}

std::tuple<Tensor, Tensor> step(
    const Tensor& x_in, const Tensors& weights, const Tensors& states, const Tensors& caches, const std::vector<int64_t>& starts,
    int64_t positions, const Tensor& mask, int64_t norm_in, bool query_key_norm) {
  const Norm norm = Norm(norm_in);
  check(is_float(x_in) && x_in.dim() == 2 && x_in.numel() > 0, "x");
  const int64_t layers = int64_t(caches.size()), rows = x_in.size(0), channels = x_in.size(1);
  check(layers > 0 && weights.size() == 5 * caches.size() && starts.size() == caches.size(), "number of layers");
  check(states.empty() || states.size() == caches.size(), "number of states");
  check(
      mask.numel() == 0 ||
          (mask.scalar_type() == ScalarType::Bool && mask.is_contiguous() && mask.is_cpu() && mask.numel() == rows * positions),
      "the mask");
  const bool* allowed = mask.numel() ? data<bool>(mask) : nullptr;
  const Tensor h = torch::stable::new_empty(x_in, {rows, channels});
  const Tensor c = torch::stable::new_empty(x_in, {layers, rows, channels});
  Floats x(data<float>(x_in), data<float>(x_in) + rows * channels);
  Workspace workspace;
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer(weights.data() + 5 * i, workspace);
    const int64_t at = i * rows * channels;
    check(states.empty() || (is_float(states[i]) && states[i].numel() == rows * channels), "a state");
    const float* c0 = states.empty() ? nullptr : data<float>(states[i]);
    if (layer.in_proj.numel()) {
      Floats q = layer.multiply(layer.in_proj, x, rows).all();
      const bool attends = layer.kv_proj.numel() > 0;
      if (attends) attend_to_cache(layer, q, rows, norm, query_key_norm, {caches[i], starts[i], positions, rows}, allowed);
      if (norm == Norm::post || (norm == Norm::pre && !attends)) layer.norm(q, rows);
      recur(layer, layer.multiply(layer.out_proj, q, rows), x, c0, place<float>(c) + at);
    } else {
      recur(layer, layer.multiply(layer.out_proj, x, rows), x, c0, place<float>(c) + at);
    }
    check(layer.next == layer.end, "the count of a layer's numbers");
  }
  std::copy(x.begin(), x.end(), place<float>(h));
  return {h, c};
}

Tensor linear(const Tensor& x_in, const Tensor& weight, const Tensor& scales) {
  check(is_float(x_in) && x_in.dim() == 2 && x_in.numel() > 0, "x");
  check(weight.dim() == 2 && is_float(scales) && scales.numel() == weight.size(0), "a scale");
  const Floats x(data<float>(x_in), data<float>(x_in) + x_in.numel());
  Workspace workspace;
  const Floats y = Outputs(weight, data<float>(scales), x, x_in.size(0), workspace).all();
  const Tensor result = torch::stable::new_empty(x_in, {x_in.size(0), weight.size(0)});
  std::copy(y.begin(), y.end(), place<float>(result));
  return result;
}

}  // namespace
}  // namespace srupp

STABLE_TORCH_LIBRARY_IMPL(fairseq_srupp, CPU, library) {
  library.impl("cpu_step", TORCH_BOX(&srupp::step));
  library.impl("cpu_linear", TORCH_BOX(&srupp::linear));
}
