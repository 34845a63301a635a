// The Python module fairseq_srupp._C. Importing it registers the CPU kernels; it holds the name of their
// instruction set.

#include <Python.h>

#include "tile.h"

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", "CPU kernels of the recurrence.", -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module && PyModule_AddStringConstant(module, "instruction_set", srupp::instruction_set()) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
