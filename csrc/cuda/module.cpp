// The Python module fairseq_srupp._C_cuda. Importing it registers the CUDA kernels and touches no GPU.

#include <Python.h>

#include "launch.h"

namespace {

PyObject* refusal(PyObject*, PyObject* device) {
  const long index = PyLong_AsLong(device);
  if (index == -1 && PyErr_Occurred()) return nullptr;
  const char* reason = srupp::refusal(int(index));
  if (!reason) Py_RETURN_NONE;
  return PyUnicode_FromString(reason);
}

PyMethodDef methods[] = {
    {"refusal", refusal, METH_O, "Why the kernels cannot run on the device of this index, or None."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", "CUDA kernels of the recurrence.", -1, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
