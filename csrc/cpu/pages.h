// Memory for large outputs.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace srupp {

// Outputs are often fresh memory: the C library maps large blocks anew each time and gives memory back to the system, and
// then the first touch of every 4 KiB page takes about as long as the kernels take to fill it. This asks for pages of
// 2 MiB and touches each once, on all threads: several threads in one fresh page would each clear it. What it writes, the
// kernels overwrite. Nothing for small blocks, and on other systems.
inline void prepare_pages(void* address, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const uintptr_t first = reinterpret_cast<uintptr_t>(address) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(address) + bytes + kPage - 1) & ~(kPage - 1);
  if (bytes < 2 * kPage) return;
  madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  const uintptr_t begin = first + kPage;
  torch::stable::parallel_for(0, int64_t((end - begin) / kPage) - 1, 1, [begin](int64_t from, int64_t to) {
    for (int64_t page = from; page < to; ++page) {
      *reinterpret_cast<volatile char*>(begin + uintptr_t(page) * kPage) = 0;
    }
  });
#else
  (void)address;
  (void)bytes;
#endif
}

}  // namespace srupp
