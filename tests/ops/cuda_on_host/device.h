// In place of csrc/cuda/device.cuh: the threads of a block take turns on the CPU, each running until it waits for the
// others. Copies arrive at the last moment that the kernel's waiting allows, so what reads too early reads poison.

#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#define SRUPP_DEVICE inline
#define SRUPP_KERNEL(threads) void

namespace host_device {

struct Copy {
  char* to;
  const void* from;
  int bytes;
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  std::vector<Copy> started;
  std::deque<std::vector<Copy>> stages;
  bool done = false, vote = false;
};

struct Range {
  const char* begin;
  long long bytes;
};

struct Block {
  long long index = 0;
  int threads = 0, current = 0;
  std::vector<Thread> fibers;
  std::vector<char> shared;
  ucontext_t scheduler;
  std::function<void()> kernel;
  std::vector<Range> readable;  // if not empty: where copies may come from
  long long wrong = 0;          // copies that are misaligned, or read elsewhere
};

inline Block block;

inline void enter() {
  block.kernel();
  block.fibers[block.current].done = true;
  swapcontext(&block.fibers[block.current].context, &block.scheduler);
}

// Runs all blocks one after the other; the threads of every other round in descending order. Returns Block::wrong.
inline long long run(long long blocks, int threads, std::function<void()> kernel) {
  block.kernel = std::move(kernel);
  block.threads = threads;
  block.wrong = 0;
  for (block.index = 0; block.index < blocks; ++block.index) {
    block.fibers.clear();
    block.fibers.resize(threads);
    block.shared.clear();
    for (Thread& fiber : block.fibers) {
      getcontext(&fiber.context);
      fiber.context.uc_stack = {fiber.stack.data(), 0, fiber.stack.size()};
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, enter, 0);
    }
    for (int round = 0, left = threads; left > 0; ++round) {
      left = 0;
      for (int i = 0; i < threads; ++i) {
        block.current = round % 2 ? threads - 1 - i : i;
        Thread& fiber = block.fibers[block.current];
        if (!fiber.done) swapcontext(&block.scheduler, &fiber.context);
        left += !fiber.done;
      }
    }
  }
  return block.wrong;
}

}  // namespace host_device

namespace srupp {

inline long long block_index() { return host_device::block.index; }
inline int lane_index() { return host_device::block.current; }
inline long long thread_index() { return block_index() * host_device::block.threads + lane_index(); }

template <int kBytes>
inline char* shared_memory() {
  auto& memory = host_device::block.shared;
  if (memory.empty()) memory.assign(kBytes + 128, char(0xff));  // NaN in every type
  return memory.data() + (128 - reinterpret_cast<std::uintptr_t>(memory.data()) % 128);
}

template <int kBytes>
inline void copy_ahead(char* to, const void* from) {
  auto& block = host_device::block;
  block.wrong += reinterpret_cast<std::uintptr_t>(to) % kBytes != 0;
  block.wrong += reinterpret_cast<std::uintptr_t>(from) % kBytes != 0;
  bool inside = block.readable.empty();
  for (const auto& range : block.readable) {
    const long long offset = static_cast<const char*>(from) - range.begin;
    inside = inside || (0 <= offset && offset + kBytes <= range.bytes);
  }
  block.wrong += !inside;
  if (kBytes < 4) {
    std::memcpy(to, from, kBytes);
  } else {
    block.fibers[block.current].started.push_back({to, from, kBytes});
  }
}

inline void end_of_stage() {
  auto& fiber = host_device::block.fibers[host_device::block.current];
  fiber.stages.push_back(std::move(fiber.started));
  fiber.started.clear();
}

template <int kPending>
inline void wait_for_stage() {
  auto& stages = host_device::block.fibers[host_device::block.current].stages;
  for (; stages.size() > kPending; stages.pop_front()) {
    for (const auto& copy : stages.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

inline void sync_warp() {
  auto& block = host_device::block;
  swapcontext(&block.fibers[block.current].context, &block.scheduler);
}

inline unsigned ballot(bool mine) {
  auto& block = host_device::block;
  block.fibers[block.current].vote = mine;
  sync_warp();
  unsigned bits = 0;
  for (int lane = 0; lane < block.threads; ++lane) bits |= unsigned(block.fibers[lane].vote) << lane;
  sync_warp();  // before anyone votes again
  return bits;
}

}  // namespace srupp
