// Memory for large outputs.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace srupp {

// Outputs are often fresh memory: the C library maps large blocks anew each time, and gives memory back to
// the system. The first touch of a 4 KiB page then takes about as long as the kernels take to fill it. This
// asks for pages of 2 MiB and touches each once, on all threads (several threads that meet in one fresh page
// would each clear it). The kernels overwrite what it writes. Does nothing for small blocks, and on other
// systems.
inline void prepare_pages(void* address, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  if (bytes < 2 * kPage) return;
  const uintptr_t block = reinterpret_cast<uintptr_t>(address);
  const uintptr_t first = block & ~(kPage - 1);
  const uintptr_t pages = (block + bytes - first + kPage - 1) / kPage;
  madvise(reinterpret_cast<void*>(first), pages * kPage, MADV_HUGEPAGE);  // a hint, and of no harm to neighbours
  torch::stable::parallel_for(0, int64_t(pages), 1, [block, first](int64_t begin, int64_t end) {
    for (int64_t page = begin; page < end; ++page) {
      const uintptr_t inside = first + uintptr_t(page) * kPage;
      *reinterpret_cast<volatile char*>(inside < block ? block : inside) = 0;
    }
  });
#else
  (void)address;
  (void)bytes;
#endif
}

}  // namespace srupp
