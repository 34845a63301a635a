// The kernels of step.h, once per instruction set; see kernels.inl. SRUPP_WIDTH: floats in a register.

namespace srupp {
namespace SRUPP_ISA {

// GCC and Clang compute with these as with numbers.
typedef float Floats __attribute__((vector_size(SRUPP_WIDTH * 4)));
typedef unsigned Bits __attribute__((vector_size(SRUPP_WIDTH * 4)));
typedef unsigned short HalfBits __attribute__((vector_size(SRUPP_WIDTH * 2)));

constexpr int kOutputs = 4;                        // of a product, at a time
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

template <int kRowCount, int kOutputCount, class W>
SRUPP_TARGET SRUPP_INLINE void multiply_block(const Product<W>& p, int64_t row, int64_t output) {
  const float* x = p.x + row * p.x_stride;
  const W* w = p.weight + output * p.inner;
  Floats sums[kRowCount][kOutputCount] = {};
  int64_t k = 0;
  for (; k + SRUPP_WIDTH <= p.inner; k += SRUPP_WIDTH) {
    Floats inputs[kRowCount];
    for (int r = 0; r < kRowCount; ++r) inputs[r] = floats(x + r * p.x_stride + k);
    for (int o = 0; o < kOutputCount; ++o) {
      const Floats weights = floats(w + o * p.inner + k);
      for (int r = 0; r < kRowCount; ++r) sums[r][o] += weights * inputs[r];
    }
  }
  for (int r = 0; r < kRowCount; ++r) {
    for (int o = 0; o < kOutputCount; ++o) {
      float sum = 0;
      for (int i = 0; i < SRUPP_WIDTH; ++i) sum += sums[r][o][i];
      for (int64_t i = k; i < p.inner; ++i) sum += number(w[o * p.inner + i]) * x[r * p.x_stride + i];
      p.y[(row + r) * p.y_stride + output + o] = sum * p.scale[output + o];
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

// x (K) in whole numbers: as large as leaves their sum of products with weights in int8 below 2^31. Returns what 1 stands for.
SRUPP_TARGET SRUPP_INLINE float whole_numbers(const float* x, int64_t inner, short* whole) {
  unsigned bits = 0;  // without a sign, the bits of larger numbers are larger, and those of NaN the largest
  for (int64_t i = 0; i < inner; ++i) {
    const unsigned size = bits_of(x[i]) & 0x7fffffffu;
    bits = size > bits ? size : bits;
  }
  const float largest = float_of(bits);
  const int64_t limit = 0x7fffffff / 127 / inner;
  const float one = largest / float(limit < 32767 ? limit : 32767);
  const bool finite = one > 0 && one < __builtin_inff();
  const float factor = finite ? 1 / one : 0;
  for (int64_t i = 0; i < inner; ++i) whole[i] = finite ? short(__builtin_rintf(x[i] * factor)) : short(0);
  return finite ? one : largest * 0;
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
  std::vector<short> whole(kPieceOfRows * p.inner);
  for (int64_t begin = 0; begin < p.rows; begin += kPieceOfRows) {
    const int64_t count = p.rows - begin < kPieceOfRows ? p.rows - begin : kPieceOfRows;
    float ones[kPieceOfRows];
    for (int64_t r = 0; r < count; ++r) {
      ones[r] = whole_numbers(p.x + (begin + r) * p.x_stride, p.inner, whole.data() + r * p.inner);
    }
    for (int64_t output = first; output < last;) {
      const Int8* w = p.weight + output * p.inner;
      const int step = last - output < kOutputs ? 1 : kOutputs;
      for (int64_t r = 0; r < count; ++r) {
        int sums[kOutputs];
        const short* x = whole.data() + r * p.inner;
        step == 1 ? multiply_whole<1>(w, p.inner, x, sums) : multiply_whole<kOutputs>(w, p.inner, x, sums);
        float* y = p.y + (begin + r) * p.y_stride + output;
        for (int o = 0; o < step; ++o) y[o] = float(sums[o]) * ones[r] * p.scale[output + o];
      }
      output += step;
    }
  }
}

template <class C>
SRUPP_TARGET void mix(const Mixture<C>& m) {
  const float limit = unfolded(-saturation(float()));  // below it, an exponential is 0
  float highest = -__builtin_inff(), sum = 0;
  for (int64_t k = 0; k < m.positions; ++k) {
    if (m.allowed && !m.allowed[k]) m.scores[k] = -__builtin_inff();
    highest = m.scores[k] > highest ? m.scores[k] : highest;
  }
  SRUPP_VECTORISE
  for (int64_t k = 0; k < m.positions; ++k) {
    const float below = m.scores[k] - highest;
    const float power = exp_in_range<SRUPP_FUSED>(below > limit ? below : limit);
    m.scores[k] = below > limit ? power : below != below ? below : 0.0f;
  }
  for (int64_t k = 0; k < m.positions; ++k) sum += m.scores[k];
  for (int64_t i = 0; i < m.size; ++i) m.result[i] = 0;
  for (int64_t k = 0; k < m.positions; ++k) {
    if (m.scores[k] == 0) continue;  // what is not seen may be anything
    const float weight = m.scores[k] / sum;
    const C* values = m.values + k * m.size;
    SRUPP_VECTORISE
    for (int64_t i = 0; i < m.size; ++i) m.result[i] += weight * number(values[i]);
  }
}

}  // namespace SRUPP_ISA
}  // namespace srupp
