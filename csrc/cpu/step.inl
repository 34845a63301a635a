// The kernels of step.h, once per instruction set; see kernels.inl. SRUPP_WIDTH: floats in a register.

namespace srupp {
namespace SRUPP_ISA {

// GCC and Clang compute with these as with numbers.
typedef float Floats __attribute__((vector_size(SRUPP_WIDTH * 4)));
typedef unsigned Bits __attribute__((vector_size(SRUPP_WIDTH * 4)));
typedef unsigned short HalfBits __attribute__((vector_size(SRUPP_WIDTH * 2)));

constexpr int kOutputs = 4;                       // of a product, at a time
constexpr int kRows = SRUPP_WIDTH == 16 ? 4 : 2;  // as many sums as there are registers for

template <class V, class T>
SRUPP_TARGET SRUPP_INLINE V loaded(const T* from) {
  V vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

SRUPP_TARGET SRUPP_INLINE Floats floats(const float* from) { return loaded<Floats>(from); }

SRUPP_TARGET SRUPP_INLINE Floats floats(const BFloat16* from) {
  return (Floats)(__builtin_convertvector(loaded<HalfBits>(from), Bits) << 16);
}

SRUPP_INLINE float number(float value) { return value; }
SRUPP_INLINE float number(BFloat16 value) { return load(value); }
SRUPP_INLINE float number(int value) { return float(value); }

SRUPP_TARGET SRUPP_INLINE float sum_of(Floats vector) {
  float parts[SRUPP_WIDTH];
  __builtin_memcpy(parts, &vector, sizeof parts);
  for (int half = SRUPP_WIDTH / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

template <int kRowCount, int kOutputCount, class W>
SRUPP_TARGET SRUPP_INLINE void multiply_block(const Product<W>& p, int64_t row, int64_t output) {
  const float* x = p.x + row * p.inner;
  const W* w = p.weight + output * p.inner;
  Floats sums[kRowCount][kOutputCount] = {};
  int64_t k = 0;
  for (; k + SRUPP_WIDTH <= p.inner; k += SRUPP_WIDTH) {
    Floats inputs[kRowCount];
    for (int r = 0; r < kRowCount; ++r) inputs[r] = floats(x + r * p.inner + k);
    for (int o = 0; o < kOutputCount; ++o) {
      const Floats weights = floats(w + o * p.inner + k);
      for (int r = 0; r < kRowCount; ++r) sums[r][o] += weights * inputs[r];
    }
  }
  for (int r = 0; r < kRowCount; ++r) {
    for (int o = 0; o < kOutputCount; ++o) {
      float sum = sum_of(sums[r][o]);
      for (int64_t i = k; i < p.inner; ++i) sum += number(w[o * p.inner + i]) * x[r * p.inner + i];
      p.y[(row + r) * p.width + output + o] = sum;
    }
  }
}

template <int kOutputCount, class W>
SRUPP_TARGET SRUPP_INLINE void multiply_rows(const Product<W>& p, int64_t output) {
  int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) multiply_block<kRows, kOutputCount>(p, row, output);
  for (; row < p.rows; ++row) multiply_block<1, kOutputCount>(p, row, output);
}

template <class W>
SRUPP_TARGET void multiply(const Product<W>& p, int64_t first, int64_t last) {
  int64_t output = first;
  for (; output + kOutputs <= last; output += kOutputs) multiply_rows<kOutputs>(p, output);
  for (; output < last; ++output) multiply_rows<1>(p, output);
}

// x (size) in whole numbers up to `limit`. Returns what 1 stands for; NaN where not all of x is finite.
template <class Whole>
SRUPP_TARGET SRUPP_INLINE float whole_numbers(const float* x, int64_t size, int64_t limit, Whole* whole) {
  unsigned bits = 0;  // without a sign, the bits of larger numbers are larger, and those of NaN the largest
  for (int64_t i = 0; i < size; ++i) {
    const unsigned magnitude = bits_of(x[i]) & 0x7fffffffu;
    bits = magnitude > bits ? magnitude : bits;
  }
  const float largest = float_of(bits), one = largest / float(limit);
  const float inverse = 1 / one;  // infinite where x is next to nothing
  const bool usual = one < __builtin_inff() && inverse < __builtin_inff();
  const float factor = usual ? inverse : 0;
  for (int64_t i = 0; i < size; ++i) whole[i] = usual ? Whole(__builtin_rintf(x[i] * factor)) : Whole(0);
  return usual ? one : largest * 0;
}

// In this form GCC and Clang find the instruction that multiplies and adds pairs.
template <int kOutputCount>
SRUPP_TARGET SRUPP_INLINE void multiply_whole(const Int8* w, int64_t inner, const short* x, int* sums) {
  int total[kOutputCount] = {};
  for (int64_t i = 0; i < inner; ++i) {
    for (int o = 0; o < kOutputCount; ++o) total[o] += int(short(w[o * inner + i])) * int(x[i]);
  }
  for (int o = 0; o < kOutputCount; ++o) sums[o] = total[o];
}

template <>
SRUPP_TARGET void multiply<Int8>(const Product<Int8>& p, int64_t first, int64_t last) {
  constexpr int64_t kPieceOfRows = 8;
  const int64_t largest = 0x7fffffff / 128 / p.inner, limit = largest < 32767 ? largest : 32767;  // no sum reaches 2^31
  std::vector<short> whole(kPieceOfRows * p.inner);
  for (int64_t begin = 0; begin < p.rows; begin += kPieceOfRows) {
    const int64_t count = p.rows - begin < kPieceOfRows ? p.rows - begin : kPieceOfRows;
    float ones[kPieceOfRows];
    for (int64_t r = 0; r < count; ++r) {
      ones[r] = whole_numbers(p.x + (begin + r) * p.inner, p.inner, limit, whole.data() + r * p.inner);
    }
    for (int64_t output = first; output < last;) {
      const Int8* w = p.weight + output * p.inner;
      const int step = last - output < kOutputs ? 1 : kOutputs;
      for (int64_t r = 0; r < count; ++r) {
        int sums[kOutputs];
        const short* x = whole.data() + r * p.inner;
        step == 1 ? multiply_whole<1>(w, p.inner, x, sums) : multiply_whole<kOutputs>(w, p.inner, x, sums);
        float* y = p.y + (begin + r) * p.width + output;
        for (int o = 0; o < step; ++o) y[o] = float(sums[o]) * ones[r];
      }
      output += step;
    }
  }
}

// The sum of x - mean, or of its squares.
SRUPP_TARGET SRUPP_INLINE float total(const float* x, int64_t size, float mean, bool squared) {
  Floats sums = {};
  int64_t i = 0;
  for (; i + SRUPP_WIDTH <= size; i += SRUPP_WIDTH) {
    const Floats apart = floats(x + i) - mean;
    sums += squared ? apart * apart : apart;
  }
  float sum = sum_of(sums);
  for (; i < size; ++i) sum += squared ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
  return sum;
}

SRUPP_TARGET void normalise(float* x, int64_t size, const float* gain, const float* shift, float epsilon) {
  const float mean = shift ? total(x, size, 0, false) / float(size) : 0;
  const float factor = 1 / __builtin_sqrtf(total(x, size, mean, true) / float(size) + epsilon);
  if (shift) {
    for (int64_t i = 0; i < size; ++i) x[i] = (x[i] - mean) * factor * gain[i] + shift[i];
  } else {
    for (int64_t i = 0; i < size; ++i) x[i] = x[i] * factor * gain[i];
  }
}

SRUPP_TARGET float quantise(const float* x, int64_t size, Int8* whole) { return whole_numbers(x, size, 127, whole); }

template <int kCount, class C>
SRUPP_TARGET SRUPP_INLINE void score(const Attention<C>& a, int64_t at) {
  Floats sums[kCount] = {};
  const C* keys[kCount];
  for (int n = 0; n < kCount; ++n) keys[n] = a.keys + a.visible[at + n] * a.size;
  int64_t i = 0;
  for (; i + SRUPP_WIDTH <= a.size; i += SRUPP_WIDTH) {
    const Floats query = floats(a.query + i);
    for (int n = 0; n < kCount; ++n) sums[n] += query * floats(keys[n] + i);
  }
  for (int n = 0; n < kCount; ++n) {
    float sum = sum_of(sums[n]);
    for (int64_t k = i; k < a.size; ++k) sum += a.query[k] * number(keys[n][k]);
    a.scores[at + n] = sum * a.scale;
  }
}

template <int kCount, class C>
SRUPP_TARGET SRUPP_INLINE void mix(const Attention<C>& a, int64_t count, int64_t from) {
  Floats sums[kCount] = {};
  for (int64_t at = 0; at < count; ++at) {
    const C* values = a.values + a.visible[at] * a.size + from;
    for (int n = 0; n < kCount; ++n) sums[n] += a.scores[at] * floats(values + n * SRUPP_WIDTH);
  }
  __builtin_memcpy(a.result + from, sums, sizeof sums);
}

// Positions that are not seen may hold anything.
template <class C>
SRUPP_TARGET void attend(const Attention<C>& a) {
  int64_t count = 0, at = 0, i = 0;
  for (int64_t k = 0; k < a.positions; ++k) {
    a.visible[count] = k;
    count += !a.allowed || a.allowed[k];
  }
  for (; at + 4 <= count; at += 4) score<4>(a, at);
  for (; at < count; ++at) score<1>(a, at);
  float highest = -__builtin_inff(), sum = 0;
  for (int64_t k = 0; k < count; ++k) highest = a.scores[k] > highest ? a.scores[k] : highest;
  const float limit = unfolded(-saturation(float()));  // below it, an exponential is 0
  SRUPP_VECTORISE
  for (int64_t k = 0; k < count; ++k) {
    const float below = a.scores[k] - highest;
    const float power = exp_in_range<SRUPP_FUSED>(below > limit ? below : limit);
    a.scores[k] = below > limit ? power : below != below ? below : 0.0f;
  }
  for (int64_t k = 0; k < count; ++k) sum += a.scores[k];
  SRUPP_VECTORISE
  for (int64_t k = 0; k < count; ++k) a.scores[k] /= sum;
  for (; i + 8 * SRUPP_WIDTH <= a.size; i += 8 * SRUPP_WIDTH) mix<8>(a, count, i);
  for (; i + SRUPP_WIDTH <= a.size; i += SRUPP_WIDTH) mix<1>(a, count, i);
  for (; i < a.size; ++i) {
    a.result[i] = 0;
    for (int64_t k = 0; k < count; ++k) a.result[i] += a.scores[k] * number(a.values[a.visible[k] * a.size + i]);
  }
}

template <class T>
SRUPP_TARGET void recur(const RecurrentStep<T>& step) {
  const float limit = unfolded(saturation(float()));
  const int64_t d = step.channels;
  const float *v_f = step.weight_c, *v_r = v_f + d, *b_f = step.bias, *b_r = b_f + d;
  SRUPP_VECTORISE
  for (int64_t i = 0; i < d; ++i) {
    const Inputs<float> in{
        number(step.u[i]) * step.one * step.scales[i], number(step.u[i + d]) * step.one * step.scales[i + d],
        number(step.u[i + 2 * d]) * step.one * step.scales[i + 2 * d], step.x[i]};
    const auto out = forward_step<SRUPP_FUSED>(in, step.before[i], {v_f[i], v_r[i], b_f[i], b_r[i], 1.0f, limit});
    step.c[i] = out.c;
    step.x[i] = out.h;
  }
}

SRUPP_TARGET void narrow(const float* x, int64_t size, BFloat16* y) {
  SRUPP_VECTORISE
  for (int64_t i = 0; i < size; ++i) store(x[i], y[i]);
}

template <class T>
SRUPP_TARGET void scale(const T* from, int64_t size, float one, const float* scales, float* to) {
  SRUPP_VECTORISE
  for (int64_t i = 0; i < size; ++i) to[i] = number(from[i]) * one * scales[i];
}

}  // namespace SRUPP_ISA
}  // namespace srupp
