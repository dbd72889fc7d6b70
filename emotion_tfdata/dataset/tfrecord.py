"""TFRecord's framing and `tf.train.Example`'s wire format, without TensorFlow.

What builds data sets needs these two alone, in every worker, and TensorFlow takes seconds to load
and half a gigabyte. The bytes are TensorFlow's own.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, BinaryIO

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format


class CorruptDataError(ValueError):
    """A data set whose files are not what its manifest says."""


# Around a payload: its length and that length's checksum, and its own checksum.
HEADER_BYTES, FOOTER_BYTES = 12, 4

# tensorflow/core/example/{example,feature}.proto; on the wire names count for nothing.
_EXAMPLE = """
name: "emotion_tfdata/example.proto" package: "emotion_tfdata" syntax: "proto3"
message_type { name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 oneof_index: 0 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".emotion_tfdata.BytesList" }
  field { name: "float_list" number: 2 oneof_index: 0 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".emotion_tfdata.FloatList" }
  field { name: "int64_list" number: 3 oneof_index: 0 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".emotion_tfdata.Int64List" } }
message_type { name: "Features"
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL
      type: TYPE_MESSAGE type_name: ".emotion_tfdata.Feature" } }
  field { name: "feature" number: 1 label: LABEL_REPEATED
    type: TYPE_MESSAGE type_name: ".emotion_tfdata.Features.FeatureEntry" } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL
    type: TYPE_MESSAGE type_name: ".emotion_tfdata.Features" } }
"""

# Castagnoli's polynomial, bits reversed.
_POLYNOMIAL = 0x82F63B78
_ALL_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
_LANE_BYTES = 64


def frame(payload: bytes) -> bytes:
    """Frame a record as in a file: length, its checksum, payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, checksum(length), payload, checksum(payload)])


def read_record(file: BinaryIO, offset: int, length: int) -> bytes:
    """Return a record's payload after comparing its checksums.

    Args:
      file: of records.
      offset: where the record begins, in bytes.
      length: of the payload, in bytes.

    Raises:
      ValueError: if it does not stand where it should, or is damaged.
    """
    file.seek(offset)
    content = file.read(HEADER_BYTES + length + FOOTER_BYTES)
    if len(content) < HEADER_BYTES + length + FOOTER_BYTES:
        raise ValueError("cut short")
    stated, payload = struct.pack("<Q", length), content[HEADER_BYTES:-FOOTER_BYTES]
    if content[:HEADER_BYTES] != stated + checksum(stated):
        raise ValueError("no record of its length begins where it should")
    if content[-FOOTER_BYTES:] != checksum(payload):
        raise ValueError("its bytes do not match their checksum")
    return payload


def crc32c(content: bytes) -> int:
    """Compute CRC-32C (RFC 3720, appendix B.4).

    A remainder is linear in the content: lanes of 64 bytes are divided side by side, then joined
    two by two, each time by moving the left one's remainder past the right one.
    """
    if len(content) < 4:
        return _crc32c_of_few(content)
    # Zeros in front change nothing, once the register's first value is in the content itself.
    padded = np.zeros(-(-len(content) // _LANE_BYTES) * _LANE_BYTES, np.uint8)
    start = len(padded) - len(content)
    padded[start:] = np.frombuffer(content, np.uint8)
    padded[start : start + 4] ^= 0xFF
    words = padded.view("<u4").reshape(-1, _LANE_BYTES // 4)
    remainders = np.zeros(len(words), np.uint32)
    for column in words.T:
        remainders = _advance(remainders ^ column, 2)
    level = _LANE_BYTES.bit_length() - 1
    while len(remainders) > 1:
        if len(remainders) % 2:
            remainders = np.concatenate([np.zeros(1, np.uint32), remainders])
        remainders = _advance(remainders[::2], level) ^ remainders[1::2]
        level += 1
    return int(remainders[0]) ^ _ALL_ONES


def _crc32c_of_few(content: bytes) -> int:
    remainder = _ALL_ONES
    for byte in content:
        remainder = int(_tables(0)[0][(remainder ^ byte) & 0xFF]) ^ (remainder >> 8)
    return remainder ^ _ALL_ONES


def _advance(remainders: np.ndarray, level: int) -> np.ndarray:
    """Return the remainders after `2 ** level` more bytes of zero: uint32 `[N]`."""
    octets = np.ascontiguousarray(remainders, "<u4").view(np.uint8).reshape(-1, 4)
    tables = _tables(level)
    moved = tables[0][octets[:, 0]]
    for table, octet in zip(tables[1:], octets.T[1:], strict=True):
        moved ^= table[octet]
    return moved


@functools.cache
def _tables(level: int) -> np.ndarray:
    """Return what each octet of a remainder becomes, by its value: uint32 `[4, 256]`."""
    if level:
        half = _tables(level - 1)
        return np.stack([_advance(table, level - 1) for table in half])
    values = np.arange(256, dtype=np.uint32)
    lowest = values.copy()
    for _ in range(8):
        lowest = (lowest >> 1) ^ np.where(lowest & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return np.stack([lowest, values, values << 8, values << 16])


def checksum(content: bytes) -> bytes:
    """Compute CRC-32C masked as TFRecord does, so that a checksum of checksums is good too."""
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _message_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_EXAMPLE, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("emotion_tfdata.Example"))


# A message class with the fields of `tf.train.Example`.
ExampleMessage = _message_class()
