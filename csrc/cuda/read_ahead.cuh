// Where the warps of the kernels are, and how the rows of later steps arrive while a step is computed.

#pragma once

#include "../recurrence.h"
#include "arguments.h"
#include "device.cuh"

namespace srupp {

// The elements of a row that are a lane's, read and written at once.
template <class T, int kChannels>
struct alignas(kChannels * sizeof(T)) Lane {
  T of[kChannels];
};

// Where a warp and its lanes are. Lanes beyond the last channel do what the last one does, to the same addresses: so no
// lane needs a condition.
struct Place {
  long long row, channel;  // of this lane, its first; the first lane's is `first`
  long long first, width;  // `width` channels from `first` on belong to the warp's direction; not all are its own
  int lane;
  bool backwards;

  SRUPP_DEVICE Place(const CommonArguments& in, int per_lane) {
    const long long direction_width = in.channels / in.directions;
    const int own = kWarp * per_lane;
    const long long groups = (direction_width + own - 1) / own;
    long long index = block_index();
    const long long group = index % groups;
    index /= groups;
    const long long direction = index % in.directions;
    row = index / in.directions;
    first = direction * direction_width + group * own;
    width = direction_width - group * own;
    lane = lane_index() < width / per_lane ? lane_index() : int(width) / per_lane - 1;
    channel = first + lane * per_lane;
    backwards = direction == 1;
  }
};

// `Rows` rows of every step, read ahead: each row is a warp's elements of T, copied in pieces of kPiece bytes. The lanes
// share the pieces of a step out; a lane has the same pieces in all steps. Steps come in stages of `Steps`, for which
// shared memory is a ring of kStages: this one, those that are on their way, and the one before this, in whose place
// the next goes.
template <class T, int kChannels, int Rows, int Steps, int kStages, int kPiece>
class RowsAhead {
 public:
  static constexpr int kRows = Rows, kSteps = Steps;
  using Row = Lane<T, kChannels>;
  static constexpr int kStepBytes = kRows * kWarp * int(sizeof(Row)), kStageBytes = kSteps * kStepBytes;
  static constexpr int kBytes = kStages * kStageBytes;

  SRUPP_DEVICE RowsAhead(char* ring, long long length, int lane)
      : length_(length), lane_(lane), now_(ring), free_(ring + (kStages - 1) * kStageBytes) {}

  // Row `index` begins at tensor[start] and moves by `stride` elements a step; it exists in the first `length - less`
  // steps.
  SRUPP_DEVICE void set_row(int index, const void* tensor, long long start, long long stride, const Place& place, int less = 0) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int slot = lane_index() % kLanesPerStep + pass * kWarp;
      if (slot / kPiecesPerRow != index || slot >= kSlots) continue;
      const int element = slot % kPiecesPerRow * kElements, ahead = lane_index() / kLanesPerStep;
      left_[pass] = element < place.width && ahead < kStepsPerPass ? length_ - less - ahead : 0;
      if (left_[pass] <= 0) continue;
      from_[pass] = static_cast<const T*>(tensor) + start + element + ahead * stride;
      stride_[pass] = kStepsPerPass * stride;
    }
  }

  // Start copying the first stages.
  SRUPP_DEVICE void begin() {
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) fill(now_ + stage * kStageBytes);
  }

  // Until this stage has arrived, of this lane's copies.
  SRUPP_DEVICE void wait() { wait_for_stage<kStages - 2>(); }

  // This lane's elements of a step of this stage.
  SRUPP_DEVICE void read(int step, Row (&rows)[kRows]) const {
    const Row* elements = reinterpret_cast<const Row*>(now_) + lane_;
#pragma unroll
    for (int row = 0; row < kRows; ++row) rows[row] = elements[(step * kRows + row) * kWarp];
  }

  // Start copying one more stage, where all lanes have read the one before this, and go on to the next.
  SRUPP_DEVICE void advance() {
    fill(free_);
    free_ = now_;
    now_ += stage_ == kStages - 1 ? -(kStages - 1) * kStageBytes : kStageBytes;
    stage_ = stage_ == kStages - 1 ? 0 : stage_ + 1;
  }

 private:
  static constexpr int kElements = kPiece / int(sizeof(T));
  static constexpr int kPiecesPerRow = kWarp * int(sizeof(Row)) / kPiece;
  static constexpr int kSlots = kRows * kPiecesPerRow;
  static constexpr int kPasses = (kSlots + kWarp - 1) / kWarp;
  static constexpr int kStepsPerPass = kSlots <= kWarp / 2 ? kWarp / kSlots : 1;
  static constexpr int kLanesPerStep = kStepsPerPass > 1 ? kSlots : kWarp;
  static_assert(kSteps % kStepsPerPass == 0, "a stage is a number of whole passes");

  SRUPP_DEVICE void fill(char* stage) {
    char* first = stage + lane_index() / kLanesPerStep * kStepBytes + lane_index() % kLanesPerStep * kPiece;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int left = left_[pass] < kSteps ? int(left_[pass]) : kSteps;
#pragma unroll
      for (int step = 0; step < kSteps; step += kStepsPerPass) {
        if (step < left) copy_ahead<kPiece>(first + step * kStepBytes + pass * kWarp * kPiece, from_[pass]);
        from_[pass] += stride_[pass];
      }
      left_[pass] -= kSteps;
    }
    end_of_stage();
  }

  long long length_;
  int lane_, stage_ = 0;  // the number of this stage in the ring
  char *now_, *free_;     // the places of this stage and of the one before
  const T* from_[kPasses] = {};
  long long stride_[kPasses] = {};
  long long left_[kPasses] = {};  // steps; below 0 when all are on their way
};

// The padding of later steps. One byte a step is too small for the ring: lane i loads that of step i of a stage.
class PaddingAhead {
 public:
  SRUPP_DEVICE PaddingAhead(const bool* padding, long long start, long long stride, long long length, int steps) : steps_(steps) {
    if (!padding || lane_index() >= steps || lane_index() >= length) return;
    from_ = reinterpret_cast<const unsigned char*>(padding) + start + lane_index() * stride;
    stride_ = steps * stride;
    left_ = length - lane_index();
    next();
  }

  // A bit for each step of the stage that comes now; loads the next stage's.
  SRUPP_DEVICE unsigned take() {
    const unsigned padded = ballot(next_ != 0);
    next();
    return padded;
  }

 private:
  SRUPP_DEVICE void next() {
    next_ = left_ > 0 ? *from_ : 0;
    from_ += stride_;
    left_ -= steps_;
  }

  int steps_;
  unsigned char next_ = 0;  // no bool: that would be made of the byte at once, which is not there yet
  const unsigned char* from_ = nullptr;
  long long stride_ = 0, left_ = 0;
};

template <bool kPadded, class Rows, class Each>
SRUPP_DEVICE void steps(Rows& ahead, unsigned padded, bool last, const Each& each) {
  constexpr int kSteps = Rows::kSteps;
  typename Rows::Row rows[kSteps][Rows::kRows];  // all are read before anything is stored: no step waits for its rows
#pragma unroll
  for (int step = 0; step < kSteps; ++step) ahead.read(step, rows[step]);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    each(rows[step], kPadded && (padded >> step & 1u), step == kSteps - 1 && last);
    if (step == kSteps / 2) ahead.advance();  // here its instructions do not delay the first steps
  }
}

// Calls each(rows, padded, last) for all steps in order, a stage or more behind what is being read.
template <class Rows, class Each>
SRUPP_DEVICE void walk(Rows& ahead, PaddingAhead& padding, long long length, const Each& each) {
  constexpr int kSteps = Rows::kSteps;
  ahead.begin();
  long long left = length;
  for (; left >= kSteps; left -= kSteps) {
    const unsigned padded = padding.take();
    ahead.wait();
    sync_warp();  // now the copies of all lanes are here, and all lanes have read the stage before
    if (padded) {
      steps<true>(ahead, padded, left == kSteps, each);
    } else {
      steps<false>(ahead, padded, left == kSteps, each);
    }
  }
  const unsigned padded = padding.take();
  ahead.wait();
  sync_warp();
#pragma unroll 1
  for (int step = 0; step < left; ++step) {
    typename Rows::Row rows[Rows::kRows];
    ahead.read(step, rows);
    each(rows, padded >> step & 1u, step == left - 1);
  }
}

}  // namespace srupp
