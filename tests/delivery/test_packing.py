"""Packed spans come out as they went in, whatever the packer was shown before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from litellm_otel_plugin.delivery.lane import BYTES_PER_PARCEL, Parcel
from litellm_otel_plugin.delivery.packing import SAMPLE_BYTES, Packer


@settings(max_examples=200, deadline=None)
@given(shown=st.lists(st.binary(max_size=3000), max_size=10), spans=st.lists(st.binary(max_size=20_000), max_size=5))
def test_what_comes_out_is_what_went_in(shown: list[bytes], spans: list[bytes]) -> None:
    packer = Packer()
    for each in shown:
        packer.learn(each)
    packed = [packer.pack(each) for each in spans]
    packer.learn(b"later " * SAMPLE_BYTES)
    assert [packer.unpack(each) for each in packed] == spans


def test_a_parcel_that_somebody_holds_is_left_as_it_is() -> None:
    packer, encoded = Packer(), b"litellm.team.id" * 50
    packer.learn(encoded)
    parcel = Parcel(encoded, Resource({}), None)
    parcel.held_by = [0, 1]
    parcel.pack(packer)
    assert parcel.size == len(encoded) + BYTES_PER_PARCEL
    parcel.held_by = [0, 0]
    parcel.pack(packer)
    parcel.pack(packer)
    assert parcel.size < BYTES_PER_PARCEL + 100
    assert (parcel.encoded, parcel.length) == (encoded, len(encoded))
