"""Files of torch.save, real and hostile, read without PyTorch; PyTorch's own reader says what is in the real ones."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shvit.errors import CheckpointError
from shvit.models.arrays import to_array
from shvit.network.dtypes import TYPES, OddTensor
from shvit.network.pickles import MAX_STEPS, NumPyValue
from shvit.network.torch_files import read_torch_file

from ..conftest import PATIENCE

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])


def save(content: Any, path: Path, zipped: bool = True, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def assert_same(ours: Any, expected: Any) -> None:
    """What is read is what PyTorch reads, in plain containers."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(ours, np.ndarray)
        wanted = to_array(expected)
        assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape)
        assert ours.strides == wanted.strides or 0 in ours.shape
        assert ours.tobytes() == wanted.tobytes()
    elif isinstance(expected, dict):
        assert type(ours) is dict and list(ours) == list(expected)
        for key, each in expected.items():
            assert_same(ours[key], each)
    elif isinstance(expected, (list, tuple)):
        assert type(ours) is (list if isinstance(expected, list) else tuple) and len(ours) == len(expected)
        for own, each in zip(ours, expected, strict=True):
            assert_same(own, each)
    elif isinstance(expected, (torch.dtype, torch.device)):
        assert ours == str(expected)
    else:
        assert ours == expected and type(ours) is type(expected)


def values(dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.tensor([[0.0, 1.0, 2.0], [4.0, 8.0, 16.0]])
    return numbers.to(dtype) if dtype != torch.float8_e8m0fnu else numbers.clamp(min=1).to(dtype)


@FORMATS
def test_every_type_of_numbers(tmp_path, zipped):
    # PyTorch's older format has no storages of the newer types.
    names = [name for name in TYPES if zipped or not name.startswith(("float8", "uint16", "uint32", "uint64"))]
    content = {name: values(getattr(torch, name)) for name in names}
    file = save(content, tmp_path / "types.pth", zipped)
    assert_same(read_torch_file(file), torch.load(file, weights_only=True))


def with_attributes(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = "text"
    return tensor


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_form_and_plain_values(tmp_path, zipped, protocol):
    base = torch.arange(24.0).view(2, 3, 4)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "transposed": base.permute(2, 0, 1),
        "channels last": torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "strided": base[:, ::2, 1:],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "shared": [base, base[1], base.view(-1)],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "parameter": nn.Parameter(torch.ones(3)),
        "with attributes": [with_attributes(nn.Parameter(torch.ones(2))), with_attributes(torch.ones(2))],
        "state": network.state_dict(),
        "distributed": nn.DataParallel(network).state_dict(),
        "optimizer": optimizer.state_dict(),
        "plain": [None, True, -1, 2**40, -(2**70), 0.5, 1j, "text \u20ac", b"bytes", {1, 2}, (), (1, "a"), {3: {}}],
        "counter": Counter(a=2),
        "frozen": [frozenset({3}), "after it"] if protocol > 2 else [],  # PyTorch's restricted reader refuses them
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "torch": [torch.Size([2, 3]), torch.float16, torch.device("cpu"), torch.device("cuda", 1), torch.strided],
    }
    file = save(content, tmp_path / "forms.pth", zipped, pickle_protocol=protocol)
    read = read_torch_file(file)
    expected = torch.load(file, weights_only=protocol == 2)  # which knows protocol 2 alone
    assert read.pop("counter") == dict(expected.pop("counter"))
    assert read["torch"].pop() == str(expected["torch"].pop())
    assert_same(read, expected)
    assert np.shares_memory(read["shared"][0], read["shared"][1])
    read["shared"][0][1, 0, 0] = 100  # memory of its own, which may be written
    assert read["shared"][2][12] == 100


def test_what_training_code_keeps_beside_its_tensors(tmp_path):
    content = {
        "args": argparse.Namespace(lr=1e-3, data_set="IMNET", output=Path("runs/out"), device=torch.device("cpu")),
        "best": np.float64(0.75),
        "history": np.arange(4.0),
        "classes": {np.int64(3): "cat"},
    }
    read = read_torch_file(save(content, tmp_path / "run.pth"))
    assert type(read["args"]) is argparse.Namespace
    assert read["args"] == argparse.Namespace(lr=1e-3, data_set="IMNET", output=PurePosixPath("runs/out"), device="cpu")
    assert type(read["best"]) is NumPyValue and type(read["history"]) is NumPyValue
    assert list(read["classes"].values()) == ["cat"]


def test_storages_of_other_devices_are_read_as_the_cpus(tmp_path):
    """A file from a GPU differs in the tag of each storage."""
    file = save({"weights": torch.arange(3.0)}, tmp_path / "cuda.pth")
    rewrite(file, lambda content: content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert read_torch_file(file)["weights"].tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")  # PyTorch's own about sparse and quantized tensors
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.eye(3).to("meta"),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.ones(2, dtype=torch.complex64).conj(),
        lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
        lambda: torch.zeros(16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        lambda: torch.zeros(2, dtype=torch.complex32),
    ],
    ids=["sparse", "csr", "meta", "quantized", "nested", "conjugate", "negative", "float4", "complex32"],
)
def test_what_is_no_plain_tensor_is_told_from_one(tmp_path, make):
    read = read_torch_file(save({"odd": make(), "plain": torch.ones(2)}, tmp_path / "odd.pth"))
    assert isinstance(read["odd"], OddTensor)
    assert read["plain"].tolist() == [1, 1]


# Hostile files. The bytes of each are written out, so that nothing of what they say has to exist.


def rewrite(file: Path, change: Callable[[bytes], bytes], record: str = "data.pkl") -> Path:
    """Another content for a record of an archive."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, change(content) if name.endswith(record) else content)
    return file


def archive(path: Path, program: bytes, *, size: int = 64, **records: bytes) -> Path:
    """An archive of torch.save with this pickle, without PROTO and STOP, and one storage of so many bytes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        file.writestr("a/byteorder", b"little")
        file.writestr("a/version", b"3\n")
        file.writestr("a/data/0", bytes(range(size)))
        for name, content in records.items():
            file.writestr(f"a/{name}", content)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(*each: int) -> bytes:
    return b"(" + b"".join(map(whole, each)) + b"t"


def storage(count: int = 16, key: str = "0", kind: str = "torch\nFloatStorage") -> bytes:
    return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + whole(count) + b"tQ"


def tensor(source: bytes, offset: int, shape: bytes, strides: bytes, maker: str = "_rebuild_tensor_v2") -> bytes:
    return b"ctorch._utils\n" + maker.encode() + b"\n(" + source + whole(offset) + shape + strides + b"\x89N" + b"tR"


def test_the_handmade_form_is_torchs(tmp_path):
    """Else all that follows might be refused for another reason."""
    program = tensor(storage(), 2, numbers(3, 2), numbers(1, 4))
    file = archive(tmp_path / "plain.pth", program)
    expected = np.frombuffer(bytes(range(64)), np.float32)[2:]
    assert read_torch_file(file).tolist() == [[expected[i + 4 * j] for j in range(2)] for i in range(3)]
    assert_same(read_torch_file(file), torch.load(file, weights_only=True))


CALLS = {
    "os.system": b"cos\nsystem\n" + text("touch trace") + b"\x85R",
    "posix.system": b"cposix\nsystem\n" + text("touch trace") + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text("1") + b"\x85R",
    "builtins.exec": b"c__builtin__\nexec\n" + text("1") + b"\x85R",
    "builtins.getattr": b"cbuiltins\ngetattr\n)R",
    "torch.hub.load": b"ctorch.hub\nload\n" + text("someone/net") + b"\x85R",
    "torch.load": b"ctorch\nload\n" + text("/etc/passwd") + b"\x85R",
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\nC\x00\x85R",
    "subprocess.Popen": b"csubprocess\nPopen\n)\x81",
    "collections.OrderedDict.fromkeys": b"\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93)R",
    "argparse.Namespace.__init__": b"\x8c\x08argparse\x8c\x12Namespace.__init__\x93)R",
    "shvit.network.pickles.Unpickler": b"cshvit.network.pickles\nUnpickler\n)R",
    "torch.FooStorage": b"ctorch\nFooStorage\n",
    "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n" + text("/etc/passwd") + b"\x85R",
    "os.x": b"]cos\nx\na",  # named, and not called
}


@FORMATS
@pytest.mark.parametrize("name", CALLS)
def test_what_asks_to_run_code_is_refused_by_name(tmp_path, monkeypatch, name, zipped):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pth"
    if zipped:
        archive(file, b"}" + text("model") + CALLS[name] + b"s")
    else:
        file.write_bytes(b"\x80\x02" + CALLS[name] + b".")
    with pytest.raises(CheckpointError, match=rf"evil\.pth: refused: the file asks to run code \({name}\); nothing of"):
        read_torch_file(file)
    assert [each.name for each in tmp_path.iterdir()] == ["evil.pth"]


class Payload:
    def __reduce__(self):
        return os.mkdir, ("trace",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_own_ways_to_call(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    content = {"model": {"nested": [Payload()]}}
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(content, protocol))
    for file in (save(content, tmp_path / "new.pth", pickle_protocol=max(protocol, 2)), tmp_path / "bare.pth"):
        with pytest.raises(CheckpointError, match=r"refused: the file asks|neither an archive nor a pickle"):
            read_torch_file(file)
    assert not (tmp_path / "trace").exists()


ORDERED = b"ccollections\nOrderedDict\n"
NAMESPACE = b"cargparse\nNamespace\n"
REFUSED = {
    "an instruction that calls by name": b"(S'touch trace'\nios\nsystem\n",
    "an instruction that calls from the stack": b"(" + ORDERED + b"o",
    "a registered extension": b"\x82\x01",
    "NEWOBJ_EX": ORDERED + b")}\x92",
    "a call of a text": text("text") + b")R",
    "a call of what was made": ORDERED + b")R)R",
    "a call of a type": b"ctorch\nfloat32\n)R",
    "an instance of a list": b"])\x81",
    "arguments that are no tuple": ORDERED + b"]R",
    "attributes of a maker": ORDERED + b"}" + text("make") + whole(1) + b"sb",
    "attributes of a list": b"]}b",
    "slots of a Namespace": NAMESPACE + b")\x81N}" + text("x") + whole(1) + b"s\x86b",
    "names of a Namespace that are none": NAMESPACE + b")\x81}" + whole(1) + whole(1) + b"sb",
    "arguments of a Namespace": NAMESPACE + text("x") + b"\x85R",
    "an item of a list": b"]" + whole(0) + whole(1) + b"s",
    "an item of a tensor": tensor(storage(), 0, numbers(16), numbers(1)) + whole(0) + whole(1) + b"s",
    "an element of a tensor": tensor(storage(), 0, numbers(16), numbers(1)) + whole(1) + b"a",
    "an odd number of items": b"}(" + whole(1) + b"u",
    "a list as a key": b"}]" + whole(1) + b"s",
    "a tensor as a key": b"}" + tensor(storage(), 0, numbers(1), numbers(1)) + whole(1) + b"s",
    "tuples in tuples as a key": b"}" + text("x") + b"\x85" + b"q\x01h\x01\x86" * 60 + whole(1) + b"s",
    "numbers that are alike to a dictionary": b"}("
    + b"".join(whole(k * (2**61 - 1)) + b"N" for k in range(1, 99))
    + b"u",
    "tuples as keys, very many": b"}(" + b"".join(whole(k) + b"\x85N" for k in range(MAX_STEPS // 200)) + b"u",
    "tuples in tuples as an element": b"cbuiltins\nset\n]" + text("x") + b"\x85" + b"q\x01h\x01\x86" * 60 + b"a\x85R",
    "a persistent text": b"Pname\n",
    "a persistent value that is no storage": text("storage") + b"Q",
    "a module": b"(" + text("module") + ORDERED + text("f") + text("s") + whole(1) + b"tQ",
    "a storage's view": storage()[:-2] + text("view") + b"tQ",
    "memory of a bytearray": b"\x96" + struct.pack("<Q", 2**40),
    "a buffer of another": b"\x97",
    "bytes of a number": b"cbuiltins\nbytearray\n" + whole(10**12) + b"\x85R",
    "bytes in another encoding": b"c_codecs\nencode\n" + text("x") + text("bz2") + b"\x86R",
    "a path of bytes": b"cpathlib\nPosixPath\n" + b"C\x01x" + b"\x85R",
    "a device of bytes": b"ctorch\ndevice\n" + b"C\x01x" + b"\x85R",
    "nothing on the stack": b"R",
    "no mark": b"t",
    "no value in the memo": b"h\x05",
    "a text cut short": b"X\xff\xff\xff\xff",
    "a longer text": b"\x8d" + struct.pack("<Q", 2**62) + b"x",
    "longer bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
    "a longer frame": b"\x95" + struct.pack("<Q", 2**62) + b"x",
    "another protocol": b"\x80\x63",
    "no UTF-8": b"X\x01\x00\x00\x00\xff",
}


@pytest.mark.parametrize("program", REFUSED.values(), ids=list(REFUSED))
def test_programs_that_torch_save_does_not_write_are_refused_at_once(tmp_path, program):
    file = archive(tmp_path / "odd.pth", program)
    began = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"odd\.pth: not a whole PyTorch checkpoint: \S.{1,250}$"):
        read_torch_file(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    assert time.perf_counter() - began < 30


PLAIN = (storage(), 0, numbers(16), numbers(1))
TENSORS = {
    "beyond the storage": tensor(storage(), 1, numbers(16), numbers(1)),
    "strides beyond the storage": tensor(storage(), 0, numbers(4, 4), numbers(5, 1)),
    "an offset below zero": tensor(storage(), -1, numbers(4), numbers(1)),
    "a stride below zero": tensor(storage(), 15, numbers(16), numbers(-1)),
    "a length below zero": tensor(storage(), 0, numbers(-1), numbers(1)),
    "products past 64 bits": tensor(storage(), 0, numbers(2**40, 2**40), numbers(0, 0)),
    "a length past 64 bits": tensor(storage(), 0, numbers(2**64), numbers(0)),
    "an offset past 64 bits": tensor(storage(), 2**63 - 1, numbers(1), numbers(2**62)),
    "fewer strides": tensor(storage(), 0, numbers(2, 2), numbers(1)),
    "too many dimensions": tensor(storage(), 0, numbers(*[1] * 65), numbers(*[1] * 65)),
    "a huge empty one": tensor(storage(), 0, numbers(0, 2**62, 2**62), numbers(1, 1, 1)),
    "a shape of texts": tensor(storage(), 0, b"(" + text("2") + b"t", numbers(1)),
    "a shape of a number": tensor(storage(), 0, whole(2), numbers(1)),
    "a shape of truth": tensor(storage(), 0, b"\x88\x85", numbers(1)),
    "a text in place of a storage": tensor(text("storage"), 0, numbers(1), numbers(1)),
    "a storage larger than its record": tensor(storage(17), 0, numbers(17), numbers(1)),
    "a storage smaller than its record": tensor(storage(15), 0, numbers(15), numbers(1)),
    "a storage of another type": tensor(storage(16, kind="torch\nDoubleStorage"), 0, numbers(16), numbers(1)),
    "a storage of a huge size": tensor(storage(2**80), 0, numbers(1), numbers(1)),
    "a storage of a size below zero": tensor(storage(-1), 0, numbers(1), numbers(1)),
    "a storage without a record": tensor(storage(key="1"), 0, numbers(1), numbers(1)),
    "a storage of another folder": tensor(storage(key="../byteorder"), 0, numbers(1), numbers(1)),
    "a storage of a tensor": tensor(storage(kind="torch\nfloat32"), 0, numbers(1), numbers(1)),
    "fewer arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "another class's maker": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + ORDERED + b"ctorch\nTensor\n)NtR",
}


@pytest.mark.parametrize("program", TENSORS.values(), ids=list(TENSORS))
def test_tensors_that_cannot_be_are_refused(tmp_path, program):
    with pytest.raises(CheckpointError, match=r"odd\.pth: not a whole PyTorch checkpoint: "):
        read_torch_file(archive(tmp_path / "odd.pth", program))


def test_a_type_that_nobody_has_is_no_plain_tensor(tmp_path):
    arguments = storage(64, kind="torch.storage\nUntypedStorage") + whole(0) + numbers(1) + numbers(1) + b"\x89N"
    for name in ("float7_e9", "float16x"):
        program = b"ctorch._utils\n_rebuild_tensor_v3\n(" + arguments + b"ctorch\n" + name.encode() + b"\ntR"
        assert isinstance(read_torch_file(archive(tmp_path / "odd.pth", program)), OddTensor)


STEPS = 50_000
BOMBS = {
    "lists": b"]" * (STEPS + 1),
    "sets": b"(" + b"\x8f" * STEPS + b"t",
    "copies of a list": b"cbuiltins\nset\nq\x01](" + b"K\x01" * 1000 + b"eq\x02" + b"h\x01h\x02\x85R" * 60,
    "copies of a text": b"c_codecs\nencode\nq\x01"
    + (text("x" * 10**6) + b"q\x02" + text("latin1") + b"q\x03")
    + b"h\x01h\x02h\x03\x86R" * 9,
}


@pytest.mark.parametrize("program", BOMBS.values(), ids=list(BOMBS))
def test_what_a_small_pickle_makes_is_bounded(tmp_path, monkeypatch, program):
    assert STEPS < MAX_STEPS
    monkeypatch.setattr("shvit.network.pickles.MAX_STEPS", STEPS)
    with pytest.raises(CheckpointError, match=r"bomb\.pth: not a whole .*: it takes more than 50,000 steps to read"):
        read_torch_file(archive(tmp_path / "bomb.pth", program))


def test_a_place_in_the_memo_takes_no_memory_before_it(tmp_path):
    """``pickle`` in C takes 16 bytes for each place up to the highest."""
    program = b"".join(b"]r" + struct.pack("<I", 2**32 - 1 - place) for place in range(100))
    tracemalloc.start()
    assert read_torch_file(archive(tmp_path / "memo.pth", program)) == []
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_large_pickle_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("shvit.network.torch_files.MAX_PICKLE_BYTES", 1000)
    file = archive(tmp_path / "large.pth", b"N" * 2000)
    with pytest.raises(CheckpointError, match=r"large\.pth: refused: a pickle of 2,003 bytes, at most 1,000 are read"):
        read_torch_file(file)
    save({"weights": torch.zeros(3), "text": "x" * 2000}, tmp_path / "legacy.pth", zipped=False)
    with pytest.raises(CheckpointError, match=r"legacy\.pth: not a whole"):
        read_torch_file(tmp_path / "legacy.pth")


def test_what_holds_itself_is_read(tmp_path):
    content: dict[str, Any] = {"weights": torch.ones(2)}
    content["self"] = [content]
    read = read_torch_file(save(content, tmp_path / "self.pth"))
    assert read["self"][0] is read
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    program = b"]" * 100_000 + b"a" * 99_999
    assert type(read_torch_file(archive(tmp_path / "deep.pth", program))) is list


def broken_archives(path: Path) -> dict[str, tuple[Callable[[], None], str]]:
    def write(compression: int = zipfile.ZIP_STORED, **records: bytes) -> Callable[[], None]:
        def now() -> None:
            with zipfile.ZipFile(path, "w", compression) as file:
                for name, content in records.items():
                    file.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), content)

        return now

    def patched(place: Callable[[bytes], int], value: bytes) -> Callable[[], None]:
        def now() -> None:
            archive(path, tensor(*PLAIN))
            content = bytearray(path.read_bytes())
            at = place(bytes(content))
            content[at : at + len(value)] = value
            path.write_bytes(content)

        return now

    central = b"PK\x01\x02"
    end = b"PK\x05\x06"
    return {
        "empty": (write(), "without data.pkl"),
        "no pickle": (write(a__version=b"3"), "without data.pkl"),
        "TorchScript": (write(a__data_pkl=b"\x80\x02N.", a__constants_pkl=b"\x80\x02)."), "a TorchScript archive"),
        "big-endian": (write(a__data_pkl=b"\x80\x02N.", a__byteorder=b"big"), "written on a big-endian machine"),
        "compressed": (write(zipfile.ZIP_DEFLATED, a__data_pkl=b"\x80\x02N."), "refused: a compressed archive"),
        "a record's place beyond the file": (
            patched(lambda content: content.rfind(central) + 42, struct.pack("<I", 2**31)),
            "damaged|not a whole",
        ),
        "a record's size beyond the file": (
            patched(lambda content: content.rfind(central) + 20, struct.pack("<II", 2**31, 2**31)),
            "records overlap|damaged",
        ),
        "a ZIP64 place without its field": (
            patched(lambda content: content.rfind(central) + 42, b"\xff" * 4),
            "damaged|not a whole",
        ),
        "a ZIP64 size without its field": (
            patched(lambda content: content.rfind(central) + 20, b"\xff" * 8),
            "records overlap|damaged|not a whole",
        ),
        "a directory beyond the file": (
            patched(lambda content: content.rfind(end) + 12, struct.pack("<II", 2**31, 2**31)),
            "damaged|not a whole",
        ),
        "a CRC that is not the content's": (
            patched(lambda content: content.find(bytes(range(64))), b"\xff"),
            "damaged: Bad CRC-32",
        ),
        "a record that is encrypted": (
            patched(lambda content: content.rfind(central) + 8, b"\x01"),
            "damaged",
        ),
    }


@pytest.mark.parametrize("how", list(broken_archives(Path())))
def test_archives_that_are_not_as_they_say_are_refused(tmp_path, how):
    file = tmp_path / "odd.pth"
    make, expected = broken_archives(file)[how]
    make()
    with pytest.raises(CheckpointError, match=rf"odd\.pth: .*({expected})"):
        read_torch_file(file)


def test_an_archive_without_checksums_is_read_where_its_records_are(tmp_path):
    """``zipfile`` would compare with the checksums that are not there."""
    torch.serialization.set_crc32_options(False)
    try:
        file = save({"weights": torch.arange(100.0)}, tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_torch_file(file)["weights"].tolist() == list(range(100))
    content = file.read_bytes()
    file.write_bytes(content.replace(b"PK\x03\x04", b"PK\x03\x05"))
    with pytest.raises(CheckpointError, match=r"plain\.pth: "):
        read_torch_file(file)


def legacy_parts(path: Path) -> list[bytes]:
    """The five pickles, and what follows them."""
    file = io.BytesIO(save({"a": torch.arange(4.0), "b": torch.ones(2)}, path, zipped=False).read_bytes())
    parts = []
    for _ in range(5):
        begin = file.tell()
        unpickler = pickle._Unpickler(file)
        unpickler.persistent_load = lambda pid: torch.FloatStorage(pid[4])
        unpickler.load()
        parts.append(file.getvalue()[begin : file.tell()])
    return [*parts, file.read()]


def test_the_older_format_with_other_parts_is_refused(tmp_path):
    file = tmp_path / "legacy.pth"
    parts = legacy_parts(file)
    assert read_torch_file(file)["a"].tolist() == [0, 1, 2, 3]
    first, rest = parts[5][:8], parts[5][8:]
    changes: dict[str, list[bytes]] = {
        "another magic number": [pickle.dumps(1, 2), *parts[1:]],
        "another version": [parts[0], pickle.dumps(1002, 2), *parts[2:]],
        "big-endian": [*parts[:2], pickle.dumps({"little_endian": False}, 2), *parts[3:]],
        "no storages": [*parts[:4], pickle.dumps([], 2), parts[5]],
        "storages twice": [*parts[:4], pickle.dumps(pickle.loads(parts[4]) * 2, 2), parts[5] * 2],
        "keys of two types": [*parts[:4], pickle.dumps([1, "a"], 2), parts[5]],
        "another size": [*parts[:5], (2**40).to_bytes(8, "little") + rest],
        "a size past 64 bits": [*parts[:5], b"\xff" * 8 + rest],
        "cut short": [*parts[:5], first + rest[:-1]],
        "pickles alone": parts[:5],
        "no keys": parts[:4],
        "a storage larger than the file": [*parts[:3], b"\x80\x02" + storage(2**40)[:-2] + b"NtQ.", *parts[4:]],
    }
    for how, other in changes.items():
        file.write_bytes(b"".join(other))
        tracemalloc.start()
        with pytest.raises(CheckpointError, match=r"legacy\.pth: not a whole PyTorch checkpoint: \S"):
            read_torch_file(file)
        assert tracemalloc.get_traced_memory()[1] < 5e6, how
        tracemalloc.stop()


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory) -> list[tuple[bytes, dict[str, Any]]]:
    content = {
        "model": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3).to(torch.bfloat16), "n": torch.tensor(3)},
        "args": argparse.Namespace(lr=1),
        "epoch": 3,
    }
    folder = tmp_path_factory.mktemp("whole")
    files = [save(content, folder / f"{zipped}.pth", zipped) for zipped in (True, False)]
    return [(file.read_bytes(), read_torch_file(file)) for file in files]


@settings(max_examples=400)
@given(st.integers(0, 1), st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=0, max_size=9)), max_size=4))
def test_any_change_is_found_or_read(tmp_path_factory, whole_files, which, changes):
    """With checksums, what is read of a changed archive is what was written."""
    content, expected = whole_files[which]
    changed = bytearray(content)
    for place, other in changes:
        at = place % len(changed)
        changed[at : at + len(other)] = other
    file = tmp_path_factory.getbasetemp() / "changed.pth"
    file.write_bytes(changed)
    try:
        read = read_torch_file(file)
    except CheckpointError as error:
        assert str(error).startswith(f"{file}: ")
        return
    if which == 0:
        assert read.keys() == expected.keys()
        assert all(read["model"][name].tobytes() == each.tobytes() for name, each in expected["model"].items())


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_any_program_is_read_or_refused(tmp_path_factory, whole_files, seed):
    """Changes within the pickle, under a checksum that is right."""
    draw = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(whole_files[0][0])) as source:
        records = {name: source.read(name) for name in source.namelist()}
    name = next(each for each in records if each.endswith("data.pkl"))
    program = bytearray(records[name])
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(2, len(program))
        match draw.randrange(3):
            case 0:
                program[at] = draw.randrange(256)
            case 1:
                del program[at : at + draw.randint(1, 4)]
            case 2:
                piece = draw.randrange(len(program))
                program[at:at] = program[piece : piece + draw.randint(1, 12)]
    file = tmp_path_factory.getbasetemp() / "program.pth"
    with zipfile.ZipFile(file, "w") as archive:
        for each, content in {**records, name: bytes(program)}.items():
            archive.writestr(each, content)
    try:
        read_torch_file(file)
    except CheckpointError as error:
        assert str(error).startswith(f"{file}: ")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["timm"] = None
from shvit.network.class_names import known_classes
from shvit.network.matching import read_network
for path in sys.argv[1:]:
    checkpoint, tensors = read_network(path)
    known = known_classes(checkpoint, checkpoint.config.num_classes)
    print(checkpoint.names, checkpoint.ema, known[0][1].label, tensors["head.linear.weight"].sum(dtype="f8"))
"""


def test_timms_and_the_references_files_are_read_without_pytorch(tmp_path):
    import timm
    from safetensors.torch import save_file

    from shvit.models import create_model, save_checkpoint

    network = timm.create_model("shvit_s1")
    save_file(network.state_dict(), tmp_path / "shvit_s1.in1k.safetensors")
    average = create_model("shvit_s1", tmp_path / "shvit_s1.in1k.safetensors")
    save_checkpoint(create_model("shvit_s1"), tmp_path / "raw.pth", names="reference")
    save_checkpoint(average, tmp_path / "ema.pth", names="reference")
    training = {
        "model": torch.load(tmp_path / "raw.pth")["model"],
        "model_ema": torch.load(tmp_path / "ema.pth")["model"],
        "optimizer": torch.optim.AdamW(network.parameters()).state_dict(),
        "args": argparse.Namespace(data_set="IMNET", output_dir=Path("out")),
        "epoch": 299,
    }
    torch.save(training, tmp_path / "checkpoint.pth")
    files = ("shvit_s1.in1k.safetensors", "checkpoint.pth")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *(str(tmp_path / each) for each in files)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    total = network.head.l.weight.double().sum().item()
    for line, start in zip(done.stdout.splitlines(), ("timm False", "reference True"), strict=True):
        assert line.startswith(f"{start} goldfish, Carassius auratus ")
        assert float(line.split()[-1]) == pytest.approx(total, rel=1e-9)
