from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmkd_core.plugins.protocol import HEAD, SIZES, Block, ProtocolError, decode, encode, lengths

ARRAYS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(sorted(SIZES)).flatmap(
        lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=3,
)
FACTS = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key != "arrays"), st.text() | st.integers() | st.none(), max_size=3
)


@given(FACTS, ARRAYS)
def test_what_is_sent_arrives(facts, sent):
    data = b"".join(
        bytes(part)
        for part in encode(facts, {n: Block(a.dtype.str, a.shape, np.ascontiguousarray(a)) for n, a in sent.items()})
    )
    header, body = lengths(data[: HEAD.size])
    assert len(data) == HEAD.size + header + body
    told, got = decode(data[HEAD.size : HEAD.size + header], data[HEAD.size + header :])
    assert told == facts
    assert list(got) == list(sent)
    for name, block in got.items():
        again = np.frombuffer(block.data, block.dtype).reshape(block.shape)
        assert again.tobytes() == sent[name].tobytes()  # bytes, because NaN differs from itself
        assert (again.dtype, again.shape) == (sent[name].dtype, sent[name].shape)


@given(st.binary(min_size=HEAD.size, max_size=HEAD.size))
def test_any_head_is_lengths_or_an_error(head):
    with contextlib.suppress(ProtocolError):
        header, body = lengths(head)
        assert header >= 0
        assert body >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(sorted(SIZES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["arrays", "do"]), inner, max_size=2),
    max_leaves=8,
)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20))
def test_any_bytes_are_a_message_or_an_error(header, body):
    with contextlib.suppress(ProtocolError):
        facts, blocks = decode(header, body)
        assert sum(len(block.data) for block in blocks.values()) <= len(body)
        assert "arrays" not in facts


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("|O", (1,), b"12345678", "array x has dtype |O, which cannot be sent"),
        ("<f4", (2,), b"1234", "another number of bytes than its shape says"),
    ],
)
def test_what_cannot_be_sent(dtype, shape, data, message):
    with pytest.raises(ProtocolError) as caught:
        encode({}, {"x": Block(dtype, shape, data)})
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [[-1], [1] * 9, [3]])
def test_shapes_that_cannot_be(shape):
    header = json.dumps({"arrays": [["x", "<f4", shape]]}).encode()
    with pytest.raises(ProtocolError, match="array x"):
        decode(header, b"1234")
