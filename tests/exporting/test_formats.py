"""What holds for every format: combinations, places that cannot be written to, failed verification, cards."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from shvit import Classifier, Embedder
from shvit.atomic import atomic_folder
from shvit.card import Card, ClassInfo, Preprocessing, Verification
from shvit.cli.main import main
from shvit.errors import DataError, ExportError
from shvit.evaluation.samples import calibration_images, verification_pixels
from shvit.exporting import FORMATS, FileOptions, export_model
from shvit.exporting.options import check_combination
from shvit.modelfile import verify
from shvit.modelfile.verify import photograph_crops
from shvit.models import load_model, save_checkpoint

from ..conftest import AS_ANYBODY, PATIENCE, SAMPLES
from ..models.test_reparam import randomized
from .conftest import TINY


@pytest.mark.parametrize(
    ("format", "precision", "name", "batch_size", "expected"),
    [
        ("coreml", "int8", "a.mlpackage", None, "Core ML is exported as fp16, fp32, not as int8"),
        ("executorch", "fp16", "a.pte", None, "ExecuTorch is exported as fp32, not as fp16"),
        ("torch", "int8", "a.pt2", None, r"torch\.export is exported as fp32, not as int8"),
        ("openvino", "fp16", "a.onnx", None, r"OpenVINO IR files are named \.xml, such as a\.xml"),
        ("onnx", "fp16", "a.tflite", None, r"\.onnx, such as a\.onnx; \.tflite files are those of format litert"),
        ("onnx", "fp16", "a.bin", None, r"ONNX files are named \.onnx, such as a\.onnx$"),
        ("onnx", "fp16", "a.onnx", 4, "batch_size 4: ONNX files take batches of any size"),
        ("coreml", "fp16", "a.mlpackage", 2, "batch_size 2: Core ML files take one image"),
        ("tflite", "fp16", "a.tflite", None, "format tflite: expected one of onnx, openvino, coreml, litert"),
    ],
)
def test_a_combination_that_is_not_supported(tmp_path, format, precision, name, batch_size, expected):
    with pytest.raises(ExportError, match=expected) as caught:
        check_combination(FileOptions(format, precision, batch_size), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_command_line_refuses_it_before_it_reads_anything(tmp_path, capsys):
    arguments = ["export", "--model", "missing.safetensors", "--output", str(tmp_path / "a.mlpackage")]
    assert main([*arguments, "--format", "coreml", "--precision", "int8"]) == 2
    assert "Core ML is exported as fp16, fp32, not as int8" in capsys.readouterr().err


BEYOND = {
    "gated": {"attention_gate": True},
    "squared": {"activation": "squared_relu", "attention_step": 2},
    "hard": {"activation": "hard_swish", "head_stages": 2},
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize(
    ("format", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "int8"), ("litert", "fp32")]
)
def test_a_network_beyond_the_paper_is_written_read_and_exported(tmp_path, tiny_card, name, format, precision):
    network = randomized(replace(TINY, **BEYOND[name])).float()
    save_checkpoint(network, tmp_path / "own.safetensors")
    read, _ = load_model(tmp_path / "own.safetensors")
    assert read.config == network.config
    calibration = photograph_crops(tiny_card.preprocessing)[:32] if precision == "int8" else None
    file = tmp_path / f"own{FORMATS[format].suffix}"
    report = export_model(read, file, tiny_card, FileOptions(format, precision), calibration=calibration)
    assert report.max_difference <= verify.TOLERANCE[precision]  # from the network, as PyTorch computes it
    classifier = Classifier(file)
    (result,) = classifier.predict(SAMPLES / "coffee.jpg")
    assert len(result.predictions) == 4
    if format == "onnx":
        assert Embedder(file).values == network.num_features


@pytest.mark.skipif(not AS_ANYBODY and sys.platform != "linux", reason="needs Linux's rights")
def test_a_folder_that_is_not_writable(tmp_path, tiny):
    save_checkpoint(tiny, tmp_path / "tiny.safetensors")
    (tmp_path / "closed").mkdir(mode=0o500)
    command = [*AS_ANYBODY, sys.executable, "-m", "shvit", "export", "--model", str(tmp_path / "tiny.safetensors")]
    command += ["--image-size", "64", "--output", str(tmp_path / "closed" / "a.onnx")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert answer.returncode == 2
    assert answer.stderr.strip().endswith("closed/a.onnx: cannot be written: Permission denied")


def test_a_disk_that_is_full(tmp_path, tiny, tiny_card):
    # The largest file that a process may write, as a stand-in for a full disk: both fail in the middle of the file.
    save_checkpoint(tiny, tmp_path / "tiny.safetensors")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from shvit.cli.main import main\n"
        "model, *outputs = sys.argv[1:]\n"
        "for format, output in zip(outputs[::2], outputs[1::2]):\n"
        "    arguments = ['export', '--model', model, '--image-size', '64', '--format', format, '--output', output]\n"
        "    print(main(arguments))\n"
    )
    (tmp_path / "out").mkdir()
    outputs = {format: str(tmp_path / "out" / f"a{FORMATS[format].suffix}") for format in ("onnx", "openvino", "torch")}
    command = [sys.executable, "-c", code, str(tmp_path / "tiny.safetensors"), *sum(outputs.items(), ())]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert answer.stdout.split() == ["2", "2", "2"], answer.stderr
    for output in outputs.values():
        assert f"error: {output}: " in answer.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_differs_is_not_left(tmp_path, tiny, tiny_card, monkeypatch):
    monkeypatch.setitem(verify.TOLERANCE, "fp16", 1e-9)
    (tmp_path / "a.bin").write_bytes(b"what was there before")
    with pytest.raises(ExportError, match=r"a\.xml: the exported graph differs from the network by .* on 204 images"):
        export_model(tiny, tmp_path / "a.xml", tiny_card, FileOptions("openvino"))
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"what was there before"


def test_what_was_found_stands_in_the_card(tmp_path, tiny, tiny_card):
    report = export_model(tiny, tmp_path / "a.onnx", tiny_card, FileOptions(precision="fp32"))
    found = report.card.verification
    assert found is not None
    assert (found.format, found.precision, found.images) == ("onnx", "fp32", 204)
    assert found.engine is not None
    assert found.engine.startswith("onnxruntime 1.")
    assert found.max_difference == report.max_difference < 1e-4
    assert found.top1_agreement == report.top1_agreement == 1
    assert Card.from_json(report.card.to_json()) == report.card


def test_a_card_of_before_has_no_verification(tiny_card):
    assert '"schema_version": 2' in tiny_card.to_json()
    assert Card.from_json(tiny_card.to_json().replace('"verification": null, ', "")).verification is None
    told = replace(tiny_card, verification=Verification("coreml", "fp16", notes="not run"))
    assert Card.from_json(told.to_json()) == told


def test_crops_of_photographs_are_many_and_the_same_each_time():
    preprocessing = Preprocessing((32, 48))
    pixels = verify.photograph_crops(preprocessing)
    assert len(pixels) >= verify.ENOUGH_IMAGES
    assert pixels.shape[1:] == (32, 48, 3)
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == len(pixels)
    np.testing.assert_array_equal(pixels, verify.photograph_crops(preprocessing))
    np.testing.assert_array_equal(pixels[1], pixels[0][:, ::-1])


def test_batches_are_filled_up_and_cut():
    seen = []

    def infer(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return batch.reshape(len(batch), -1)[:, :1].astype(np.float32)

    images = np.arange(7, dtype=np.uint8).repeat(12).reshape(7, 2, 2, 3)
    np.testing.assert_array_equal(verify.in_batches_of(3, infer)(images)[:, 0], np.arange(7))
    assert seen == [3, 3, 3]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``count`` plain pictures in each of some class folders."""
    from PIL import Image

    def make(name: str, classes: str, count: int):
        root = tmp_path_factory.mktemp("data") / name
        for number, each in enumerate(classes):
            (root / each).mkdir(parents=True)
            for place in range(count):
                Image.new("RGB", (40, 30), (90 * number, place, 0)).save(root / each / f"{place}.png")
        return root

    return make


@pytest.mark.parametrize(
    ("classes", "count", "expected"),
    [
        ("ab", 5, "10 images are too few to calibrate int8 on; give at least 32"),
        ("b", 40, "all images to calibrate int8 on are of the class 'b'"),
        ("xy", 20, "2 of its 2 classes are not among the 4 of tiny"),
    ],
)
def test_images_that_cannot_be_calibrated_on(folders, tiny_card, classes, count, expected):
    from shvit.data.datasets import open_dataset

    images = open_dataset(folders("images", classes, count), "train")
    with pytest.raises(DataError, match=expected):
        calibration_images(images, tiny_card)


def test_images_of_ones_own_to_verify_on(folders, tiny_card):
    pixels = verification_pixels(str(folders("many", "ab", 101)), tiny_card.preprocessing)
    assert pixels.shape == (202, 128, 192, 3)
    with pytest.raises(DataError, match="20 images are too few to verify an export on; give at least 200"):
        verification_pixels(str(folders("few", "ab", 10)), tiny_card.preprocessing)


def test_a_folder_of_files_takes_its_names_whole_or_not_at_all(tmp_path):
    (tmp_path / "a.package").mkdir()
    (tmp_path / "a.package" / "old").touch()
    with atomic_folder(tmp_path / "a.package") as aside:
        aside.mkdir(mode=0o700)
        (aside / "new").write_text("new")
        aside.with_suffix(".side").write_text("beside")
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")) == [
        "a.package",
        "a.package/new",
        "a.side",
    ]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a.package") as aside:
        aside.mkdir()
        raise RuntimeError
    assert (tmp_path / "a.package" / "new").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_labels_that_two_classes_share(tiny_card):
    from shvit.exporting.coreml import labels

    shared = replace(tiny_card, classes=tuple(ClassInfo(i, label) for i, label in enumerate("aabc")))
    assert labels(shared) == ["a (0)", "a (1)", "b", "c"]
