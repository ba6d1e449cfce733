"""Tensors on the wire: numpy arrays with an element type, little-endian, row-major.

numpy has no bfloat16: such arrays are uint16 holding the bits, here and in ``core``.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dspark.wire.v1 import common_pb2

_NUMPY: dict[int, np.dtype[np.generic]] = {
    common_pb2.ELEMENT_TYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.ELEMENT_TYPE_FLOAT16: np.dtype("<f2"),
    common_pb2.ELEMENT_TYPE_BFLOAT16: np.dtype("<u2"),
}
_WIRE: dict[np.dtype[np.generic], "common_pb2.ElementType.ValueType"] = {
    np.dtype("<f4"): common_pb2.ELEMENT_TYPE_FLOAT32,
    np.dtype("<f2"): common_pb2.ELEMENT_TYPE_FLOAT16,
    np.dtype("<u2"): common_pb2.ELEMENT_TYPE_BFLOAT16,
}
_NAMES = {
    "float32": common_pb2.ELEMENT_TYPE_FLOAT32,
    "float16": common_pb2.ELEMENT_TYPE_FLOAT16,
    "bfloat16": common_pb2.ELEMENT_TYPE_BFLOAT16,
}
_BY_ELEMENT = {element: name for name, element in _NAMES.items()}


def element_type(name: str) -> "common_pb2.ElementType.ValueType":
    """Return the wire's element type for "float32", "float16" or "bfloat16"."""
    if name not in _NAMES:
        raise ValueError(f"element type {name!r} is none of {', '.join(_NAMES)}")
    return _NAMES[name]


def element_name(element: "common_pb2.ElementType.ValueType") -> str:
    """Return the name of a wire element type; "" for unspecified."""
    return _BY_ELEMENT.get(element, "")


def tensor_to_wire(array: NDArray[np.generic]) -> common_pb2.Tensor:
    """Convert a float32, float16 or uint16 (bfloat16 bits) array."""
    little = array.dtype.newbyteorder("<")
    element = _WIRE.get(little)
    if element is None:
        raise ValueError(f"no wire element type for numpy dtype {array.dtype}")
    data = array.astype(little, copy=False).tobytes()
    return common_pb2.Tensor(dtype=element, shape=array.shape, data=data)


def tensor_from_wire(tensor: common_pb2.Tensor) -> NDArray[np.generic]:
    """Return the array as a read-only view of the message's bytes.

    Raises:
        ValueError: Unknown element type, or data and shape disagree.
    """
    dtype = _NUMPY.get(tensor.dtype)
    if dtype is None:
        raise ValueError(f"unknown element type {tensor.dtype} on the wire")
    shape = tuple(tensor.shape)
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        raise ValueError(
            f"tensor {shape} of {dtype} needs {expected} bytes, not {len(tensor.data)}"
        )
    return np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
