// The operator fairseq_srupp::cpu_step: all layers of a stack at one step of decoding, for a few rows. So few that the
// operators' own time, some 60 of them in a layer, would be longer than the arithmetic. fairseq_srupp/ops/step.py has its
// schema and says what the arguments are.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "../call.h"
#include "step.h"
#include "tile.h"

namespace srupp {
namespace {

using Tensors = std::vector<Tensor>;
using Floats = std::vector<float>;

constexpr float kNormEpsilon = 1e-5f, kRootMeanSquareEpsilon = 1e-6f;
constexpr int64_t kGrain = 1 << 16;  // multiplications that are worth a thread

enum class Norm { none, pre, post };

void check(bool fits, const char* what) { STD_TORCH_CHECK(fits, "cpu_step: ", what, " does not fit"); }

bool is_float(const Tensor& tensor) { return tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Float; }

// Calls run(T()) with the storage type of `dtype`.
template <class Run>
void with_type(ScalarType dtype, const Run& run) {
  switch (dtype) {
    case ScalarType::Float:
      return run(float());
    case ScalarType::BFloat16:
      return run(BFloat16());
    case ScalarType::Char:
      return run(Int8());
    default:
      check(false, "dtype of a weight or cache");
  }
}

// `rows` rows of x, of `size` numbers, each divided by its deviation, or where nothing is added by its root mean square.
void normalise(float* x, int64_t rows, int64_t size, const float* gain, const float* shift, float epsilon) {
  for (const float* end = x + rows * size; x < end; x += size) {
    float mean = 0, square = 0;
    for (int64_t i = 0; shift && i < size; ++i) mean += x[i];
    mean /= float(size);
    for (int64_t i = 0; i < size; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float factor = 1 / std::sqrt(square / float(size) + epsilon);
    for (int64_t i = 0; i < size; ++i) x[i] = (x[i] - mean) * factor * gain[i] + (shift ? shift[i] : 0);
  }
}

// The matrices of a layer, empty where it has none, and all its other numbers in one tensor, in the order in which they are taken.
struct Layer {
  const Tensor &in_proj, &query_proj, &kv_proj, &out_proj;
  const float *next, *end;

  explicit Layer(const Tensor* weights)
      : in_proj(weights[0]), query_proj(weights[1]), kv_proj(weights[2]), out_proj(weights[3]) {
    check(is_float(weights[4]), "the numbers of a layer");
    next = data<float>(weights[4]);
    end = next + weights[4].numel();
  }

  const float* take(int64_t count) {
    check(count <= end - next, "the count of a layer's numbers");
    return std::exchange(next, next + count);
  }

  // y (rows, N) = x (rows, K) W^T
  Floats multiply(const Tensor& weight, const float* x, int64_t rows, int64_t inner) {
    check(weight.is_cpu() && weight.is_contiguous() && weight.dim() == 2 && weight.size(1) == inner, "a weight");
    const int64_t outputs = weight.size(0);
    const float* scale = take(outputs);
    Floats y(rows * outputs);
    with_type(weight.scalar_type(), [&](auto type) {
      using W = decltype(type);
      const Product<W> product{data<W>(weight), scale, inner, rows, x, inner, y.data(), outputs};
      const auto kernel = multiply_kernel<W>();
      const int64_t grain = std::max<int64_t>(4, kGrain / (inner * rows));
      torch::stable::parallel_for(0, outputs, grain, [&](int64_t begin, int64_t end) { kernel(product, begin, end); });
    });
    return y;
  }

  void norm(Floats& x, int64_t rows) {
    const int64_t size = int64_t(x.size()) / rows;
    const float *gain = take(size), *shift = take(size);
    normalise(x.data(), rows, size, gain, shift, kNormEpsilon);
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

// What each row makes of its sentence's cache, whose last g positions are made of `keys_values` (B, 2d') here.
template <class C>
Floats attend(const Floats& queries, const Floats& keys_values, const Cache& cache, const bool* allowed, int64_t rows) {
  const int64_t positions = cache.positions, size = cache.size, width = cache.heads * size, beam = rows / cache.groups;
  const float scale = 1 / std::sqrt(float(size));
  C* const buffer = static_cast<C*>(cache.buffer.mutable_data_ptr()) + cache.first * size;
  const auto multiply = multiply_kernel<C>();
  const auto mix = mix_kernel<C>();
  Floats result(rows * width), scores(beam * positions);
  const Floats ones(positions, scale);
  for (int64_t group = 0; group < cache.groups; ++group) {
    for (int64_t head = 0; head < cache.heads; ++head) {
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
      const float* query = queries.data() + group * beam * width + head * size;
      multiply({keys, ones.data(), size, beam, query, width, scores.data(), positions}, 0, positions);
      for (int64_t i = 0; i < beam; ++i) {
        const int64_t row = group * beam + i;
        mix({positions, size, scores.data() + i * positions, allowed ? allowed + row * positions : nullptr, values,
                     result.data() + row * width + head * size});
      }
    }
  }
  return result;
}

// What Q (B, d') becomes before the last norm and W^o.
void attend_to_cache(Layer& layer, Floats& q, int64_t rows, Norm norm, bool query_key_norm, const Cache& cache, const bool* allowed) {
  const int64_t width = int64_t(q.size()) / rows, size = cache.size, heads = cache.heads;
  check(heads * size == width, "the heads of a cache");
  Floats attended = q;
  if (norm == Norm::pre) layer.norm(attended, rows);
  Floats queries = layer.query_proj.numel() ? layer.multiply(layer.query_proj, attended.data(), rows, width) : attended;
  Floats keys_values = layer.multiply(layer.kv_proj, attended.data(), rows, width);
  check(queries.size() == q.size() && keys_values.size() == 2 * q.size(), "query_proj or kv_proj");
  if (query_key_norm) {
    normalise(queries.data(), rows * heads, size, layer.take(size), nullptr, kRootMeanSquareEpsilon);
    const float* gain = layer.take(size);
    for (int64_t row = 0; row < rows; ++row) {
      normalise(keys_values.data() + 2 * row * width, heads, size, gain, nullptr, kRootMeanSquareEpsilon);
    }
  }
  Floats a;
  if (cache.buffer.scalar_type() == ScalarType::BFloat16) {
    a = attend<BFloat16>(queries, keys_values, cache, allowed, rows);
  } else {
    check(cache.buffer.scalar_type() == ScalarType::Float, "the dtype of a cache");
    a = attend<float>(queries, keys_values, cache, allowed, rows);
  }
  const float alpha = *layer.take(1);
  for (size_t i = 0; i < q.size(); ++i) q[i] += alpha * a[i];
}

// h (B, d) and the state c (B, d) of a layer with input x (B, d) and U (B, 3d).
void recur(Layer& layer, const Floats& u, const float* x, const float* c0, int64_t rows, int64_t channels, float* h, float* c) {
  check(int64_t(u.size()) == 3 * rows * channels, "out_proj");
  const float *weight_c = layer.take(2 * channels), *bias = layer.take(2 * channels);
  const auto kernel = kernels<float>().forward;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t at = 0; at < channels; at += kTileChannels) {
      const int64_t i = row * channels + at, count = std::min<int64_t>(kTileChannels, channels - at);
      const float *of_u = u.data() + 3 * row * channels + at, *before = c0 ? c0 + i : nullptr;
      kernel({{1, count, channels, 0, 0, 0, of_u, x + i, weight_c + at, bias + at, before, nullptr, nullptr},
              h + i, nullptr, c + i});
    }
  }
}

std::tuple<Tensor, Tensor> step(
    const Tensor& x_in, const Tensors& weights, const Tensor& state, const Tensors& caches, const std::vector<int64_t>& starts,
    int64_t positions, const Tensor& mask, int64_t norm_in, bool query_key_norm) {
  const Norm norm = Norm(norm_in);
  check(is_float(x_in) && x_in.dim() == 2 && x_in.numel() > 0, "x");
  const int64_t layers = int64_t(caches.size()), rows = x_in.size(0), channels = x_in.size(1);
  check(layers > 0 && weights.size() == 5 * caches.size() && starts.size() == caches.size(), "number of layers");
  check(state.numel() == 0 || (is_float(state) && state.numel() == layers * rows * channels), "the state");
  check(mask.numel() == 0 || (mask.scalar_type() == ScalarType::Bool && mask.is_contiguous() && mask.is_cpu() &&
                              mask.numel() == rows * positions), "the mask");
  const bool* allowed = mask.numel() ? data<bool>(mask) : nullptr;
  Tensor h = torch::stable::new_empty(x_in, {rows, channels}), c = torch::stable::new_empty(x_in, {layers, rows, channels});
  float *const result = static_cast<float*>(h.mutable_data_ptr()), *const ends = static_cast<float*>(c.mutable_data_ptr());
  Floats x(data<float>(x_in), data<float>(x_in) + rows * channels);
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer(weights.data() + 5 * i);
    Floats u;
    if (layer.in_proj.numel()) {
      Floats q = layer.multiply(layer.in_proj, x.data(), rows, channels);
      const bool attends = layer.kv_proj.numel() > 0;
      if (attends) attend_to_cache(layer, q, rows, norm, query_key_norm, {caches[i], starts[i], positions, rows}, allowed);
      if (norm == Norm::post || (norm == Norm::pre && !attends)) layer.norm(q, rows);
      u = layer.multiply(layer.out_proj, q.data(), rows, int64_t(q.size()) / rows);
    } else {
      u = layer.multiply(layer.out_proj, x.data(), rows, channels);
    }
    const int64_t at = i * rows * channels;
    recur(layer, u, x.data(), state.numel() ? data<float>(state) + at : nullptr, rows, channels, result, ends + at);
    check(layer.next == layer.end, "the count of a layer's numbers");
    std::copy(result, result + rows * channels, x.begin());
  }
  return {h, c};
}

}  // namespace
}  // namespace srupp

STABLE_TORCH_LIBRARY_IMPL(fairseq_srupp, CPU, library) { library.impl("cpu_step", TORCH_BOX(&srupp::step)); }
