// From objects of Python to operands.h, without ever an error: what is not plain says so.
#pragma once

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "operands.h"

namespace pybind11::detail {

template <>
struct type_caster<idgan::host::Operand> {
  PYBIND11_TYPE_CASTER(idgan::host::Operand, const_name("Tensor | None"));

  bool load(handle source, bool) {
    if (source.is_none()) {
      value.plain = true;
    } else if (THPVariable_CheckExact(source.ptr())) {
      value.tensor = THPVariable_Unpack(source.ptr());
      value.plain = true;
    }
    return true;
  }
};

template <>
struct type_caster<idgan::host::Number> {
  PYBIND11_TYPE_CASTER(idgan::host::Number, const_name("float | None"));

  bool load(handle source, bool) {
    PyObject* object = source.ptr();
    if (object == Py_None) {
      value.plain = true;
    } else if (PyFloat_CheckExact(object)) {
      value.value = PyFloat_AS_DOUBLE(object);
      value.plain = !std::isnan(*value.value);
    } else if (PyLong_CheckExact(object)) {
      value.value = PyLong_AsDouble(object);
      value.plain = !PyErr_Occurred();
      PyErr_Clear();
    }
    return true;
  }
};

template <>
struct type_caster<idgan::host::Text> {
  PYBIND11_TYPE_CASTER(idgan::host::Text, const_name("str"));

  bool load(handle source, bool) {
    if (!PyUnicode_CheckExact(source.ptr())) return true;
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(source.ptr(), &size);
    if (text == nullptr) return PyErr_Clear(), true;  // a lone surrogate
    value.value.assign(text, size);
    value.plain = true;
    return true;
  }
};

template <>
struct type_caster<idgan::host::Ints> {
  PYBIND11_TYPE_CASTER(idgan::host::Ints, const_name("int | Sequence[int]"));

  bool load(handle source, bool) {
    PyObject* object = source.ptr();
    if (PyLong_CheckExact(object)) {
      value.single = add(object);
    } else if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
      const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
      for (Py_ssize_t i = 0; size <= 4 && i < size; i++)
        if (!add(PySequence_Fast_GET_ITEM(object, i))) return value.count = 0, true;
    }
    return true;
  }

  bool add(PyObject* object) {
    if (!PyLong_CheckExact(object)) return false;
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0 || number > (1 << 30) || number < -(1 << 30)) return false;
    value.values[value.count++] = number;
    return true;
  }
};

}  // namespace pybind11::detail
