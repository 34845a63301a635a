// The Python module fairseq_srupp._C_cuda. Importing it registers the CUDA kernels.

#include <Python.h>

PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT,
      "_C_cuda",
      "CUDA kernels of the recurrence.",
      -1,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
      nullptr};
  return PyModule_Create(&definition);
}
