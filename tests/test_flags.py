"""The registry of quality flags and its decoder."""

import numpy as np
import pytest

from galmeasure import decode_flags
from galmeasure.flags import FLAGS, Flag


def test_registry_is_sound():
    assert [flag.bit for flag in FLAGS] == list(range(len(FLAGS)))
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)
    for flag in FLAGS:
        assert flag.name == flag.name.lower()
        assert flag.name.isidentifier()
        assert flag.description
        assert not flag.description.endswith(".")


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_each_bit(flag):
    assert flag.value == 2**flag.bit
    assert decode_flags(flag.value) == [flag.name]
    assert Flag[flag.name.upper()] == flag.value


def test_decode_combinations():
    assert decode_flags(0) == []
    assert decode_flags(Flag.AT_BOUND | Flag.TRUNCATED) == ["at_bound", "truncated"]
    assert decode_flags(2 ** len(FLAGS) - 1) == [flag.name for flag in FLAGS]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
def test_decode_column(dtype):
    assert decode_flags(np.array([0, 1, 6], dtype)) == [[], ["failed"], ["not_converged", "at_bound"]]


def test_decode_keeps_the_shape():
    assert decode_flags([[1], [2]]) == [[["failed"]], [["not_converged"]]]
    assert decode_flags(np.empty(0, int)) == []


@pytest.mark.parametrize("flags", [1.0, "failed", None, True])
def test_decode_refuses_other_types(flags):
    with pytest.raises(TypeError, match="flags must be integers"):
        decode_flags(flags)


@pytest.mark.parametrize("flags", [-1, 2 ** len(FLAGS), [0, -4]])
def test_decode_refuses_unknown_bits(flags):
    with pytest.raises(ValueError, match="flags must lie between 0 and"):
        decode_flags(flags)
