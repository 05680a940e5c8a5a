# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two calls of libzstd that the suite needs, without another Python package."""

import ctypes
import ctypes.util

_lib = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
for _name in ("ZSTD_compress", "ZSTD_decompress", "ZSTD_compressBound"):
    getattr(_lib, _name).restype = ctypes.c_size_t
_lib.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
_lib.ZSTD_compress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t,
                               ctypes.c_int]
_lib.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
                                 ctypes.c_size_t]
_lib.ZSTD_isError.argtypes = [ctypes.c_size_t]


def compress(data, level=3):
    room = _lib.ZSTD_compressBound(len(data))
    buffer = ctypes.create_string_buffer(room)
    size = _lib.ZSTD_compress(buffer, room, data, len(data), level)
    assert not _lib.ZSTD_isError(size)
    return buffer.raw[:size]


def decompress(data, size):
    """What the frames decode to; at most `size` bytes, or ValueError."""
    buffer = ctypes.create_string_buffer(size + 1)
    got = _lib.ZSTD_decompress(buffer, size, data, len(data))
    if _lib.ZSTD_isError(got):
        raise ValueError(f"not a zstd stream of at most {size} bytes")
    return buffer.raw[:got]
