from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import tensors, wire
from runtime.peer import RpcError
from sandbox.values import Reader
from tests.properties import tried
from tests.unit.runtime.memoryfiles import Trip

TORCH_DTYPES = sorted(name for name in wire.ITEMSIZE if hasattr(torch, name))
NUMPY_DTYPES = sorted(
    name for name in wire.ITEMSIZE if name not in {"bfloat16", "complex32"} and not name.startswith("float8")
)
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")  # torch's word on complex32
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> Trip:
    return Trip(tmp_path_factory.mktemp("tensors") / "trip")


def random_tensor(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    count = wire.ITEMSIZE[dtype]
    for size in shape:
        count *= size
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(getattr(torch, dtype)).view(shape)


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in C order, NaNs included."""
    flat = (
        tensor.detach().resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    )
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@settings(max_examples=tried(60, 2000), deadline=None)
@given(dtype=st.sampled_from(TORCH_DTYPES), shape=SHAPES, seed=st.integers(0, 2**31), data=st.data())
def test_every_dtype_shape_and_view_survives(
    trip: Trip, dtype: str, shape: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    tensor = random_tensor(shape, dtype, seed)
    for view in data.draw(
        st.lists(st.sampled_from(["permute", "slice", "expand", "select", "conj", "step"]), max_size=3)
    ):
        if view == "permute" and tensor.ndim > 1:
            tensor = tensor.permute(*reversed(range(tensor.ndim)))
        elif view == "slice" and tensor.ndim:
            tensor = tensor.narrow(0, tensor.shape[0] // 2, tensor.shape[0] - tensor.shape[0] // 2)
        elif view == "expand":
            tensor = tensor.unsqueeze(0).expand(2, *tensor.shape)
        elif view == "select" and tensor.ndim and tensor.shape[-1]:
            tensor = tensor.select(-1, tensor.shape[-1] - 1)
        elif view == "step" and tensor.ndim:
            tensor = tensor[::2]
        elif view == "conj" and tensor.is_complex() and dtype != "complex32":
            tensor = tensor.conj()
    tree = trip.send(tensor)
    Reader("s1").read(tree)  # type: ignore[arg-type]
    back = trip.receive(tree)
    assert (back.dtype, tuple(back.shape)) == (tensor.dtype, tuple(tensor.shape))
    assert bits(back) == bits(tensor)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_dtype_is_tried(trip: Trip, dtype: str) -> None:
    tensor = random_tensor((3, 4), dtype, 1).T
    assert bits(trip.there_and_back(tensor)) == bits(tensor)


@settings(max_examples=tried(40, 2000), deadline=None)
@given(dtype=st.sampled_from(NUMPY_DTYPES), shape=SHAPES, seed=st.integers(0, 2**31), data=st.data())
def test_arrays_survive_whatever_their_strides_and_byte_order(
    trip: Trip, dtype: str, shape: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    count = int(np.prod(shape, dtype=np.int64)) * wire.ITEMSIZE[dtype]
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, count, dtype=np.uint8)
    array = raw.view(dtype).reshape(shape)
    for view in data.draw(
        st.lists(st.sampled_from(["T", "negative", "broadcast", "step", "big"]), max_size=3)
    ):
        if view == "T":
            array = array.T
        elif view == "negative" and array.ndim:
            array = array[::-1]
        elif view == "broadcast":
            array = np.broadcast_to(array, (2, *array.shape))
        elif view == "step" and array.ndim:
            array = array[..., ::2]
        elif view == "big":
            array = array.astype(array.dtype.newbyteorder(">"))
    tree = trip.send(array)
    assert list(tree) == [wire.TAG_ARRAY]
    Reader("s1").read(tree)  # type: ignore[arg-type]
    back = trip.receive(tree)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.tobytes() == array.astype(back.dtype).tobytes()
    assert back.flags.writeable or back.size == 0


@pytest.mark.parametrize("shape", [(3, 700, 1000), (5_000_000,), (2, 3_000_000), (1500, 2, 700)])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_large_strided_tensors_are_gathered_piece_by_piece(
    trip: Trip, shape: tuple[int, ...], kind: str
) -> None:
    count = int(np.prod(shape))
    base = np.arange(count * 2, dtype=np.int32).reshape(*shape, 2)[..., 1]
    whole = np.swapaxes(base, 0, -1)
    back = trip.there_and_back(torch.from_numpy(whole) if kind == "torch" else whole)
    assert np.array_equal(np.asarray(back), whole)


def test_a_tensor_of_a_size_that_is_mapped_is_a_private_copy(trip: Trip) -> None:
    tree = trip.send(torch.ones(100_000))
    first, second = trip.receive(tree), trip.receive(tree)
    first.fill_(5)
    assert second.sum() == 100_000
    assert trip.receive(tree).sum() == 100_000
    array_tree = trip.send(np.ones(100_000))
    trip.receive(array_tree)[:] = 5
    assert trip.receive(array_tree).sum() == 100_000


def test_mapped_inputs_hold_no_descriptors_and_are_unmapped_with_their_last_view(trip: Trip) -> None:
    tree = trip.send(torch.ones(100_000))
    name = tree[wire.TAG_TENSOR]["file"]
    descriptors = len(os.listdir("/proc/self/fd"))
    kept = [trip.receive(tree)[5:10] for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert Path("/proc/self/maps").read_text().count(name) == 20
    del kept
    gc.collect()
    assert name not in Path("/proc/self/maps").read_text()


def test_outputs_are_closed_and_unmapped_once_they_are_named(trip: Trip) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    tree = trip.encoder().encode([torch.ones(1000, 100).T, torch.ones(10), np.ones((5, 5))[::-1]])
    names = [next(iter(item.values()))["file"] for item in tree]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not any(name in Path("/proc/self/maps").read_text() for name in names)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_requires_grad_survives_and_the_tensor_is_a_leaf(trip: Trip, requires_grad: bool) -> None:
    back = trip.there_and_back(torch.ones(3, requires_grad=requires_grad))
    assert back.requires_grad is requires_grad
    assert back.is_leaf
    result = torch.ones(3, requires_grad=True) * 2
    assert trip.there_and_back(result).requires_grad


def test_parameters_and_memory_maps_arrive_as_plain_tensors_and_arrays(trip: Trip, tmp_path: Path) -> None:
    assert type(trip.there_and_back(torch.nn.Parameter(torch.ones(2)))) is torch.Tensor
    file = np.memmap(tmp_path / "map", dtype="float32", mode="w+", shape=(3,))
    file[:] = 4
    assert trip.there_and_back(file).tolist() == [4, 4, 4]


def test_a_tensor_made_in_inference_mode_survives(trip: Trip) -> None:
    with torch.inference_mode():
        tensor = torch.ones(2, 3).T * 2
    back = trip.there_and_back(tensor)
    assert not back.is_inference()
    assert back.sum() == 12


def test_views_with_a_pending_negation_are_carried_out(trip: Trip) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert tensor.is_neg()
    assert trip.there_and_back(tensor).tolist() == [-2.0, 4.0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: torch.eye(3).to_sparse(), "to_dense"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "dequantize"),
        (lambda: torch.ones(3, device="meta"), "meta device"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_has_no_plain_buffer_is_refused_by_name(trip: Trip, make: Any, named: str) -> None:
    with pytest.raises(RpcError, match=named) as caught:
        trip.encoder().encode({"deep": [make()]})
    assert caught.value.code == wire.VALUE_NOT_PORTABLE
    assert caught.value.data["what"]


def test_a_subclass_with_a_will_of_its_own_is_not_taken_for_a_tensor() -> None:
    class Wrapped(torch.Tensor):
        pass

    assert not tensors.is_tensor(torch.ones(2).as_subclass(Wrapped))
    assert not tensors.is_array(np.ma.masked_array([1]))


def test_a_full_quota_is_the_hosts_error_and_takes_no_memory(trip: Trip, tmp_path: Path) -> None:
    def refuse(_: int) -> str:
        raise RpcError(wire.QUOTA_EXCEEDED, "full", {"limit": 1})

    trip = Trip(tmp_path / "full")
    trip.files._allocate = refuse
    with pytest.raises(RpcError) as caught:
        trip.encoder().encode(torch.ones(3))
    assert caught.value.code == wire.QUOTA_EXCEEDED
