"""What teaching in the page is made of, beside the libraries that do the same: the fit, the file, the archive."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from playwright.sync_api import Page
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from shvit import Classifier
from shvit.engines.onnx_graph import backbone_digest
from shvit.exporting import FileOptions, export_model
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS
from shvit.web import PAGE, SAMPLES

from ..exporting.conftest import tiny, tiny_card  # noqa: F401
from .conftest import served

BYTES = """
  const bytesOf = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const textOf = (bytes) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return btoa(text);
  };
"""


@pytest.fixture(scope="module")
def script(browser, files, tmp_path_factory) -> Iterator[Page]:
    """A page on which the modules can be called, with the model files beside it."""
    folder = tmp_path_factory.mktemp("script") / "page"
    shutil.copytree(PAGE, folder)
    for each in files.values():
        shutil.copyfile(each, folder / each.name)
    with served(folder) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}icon.svg")
        yield page


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- the fit ---------------------------------------------------------------------------------------------------------

TEACH = """
async ([rows, labels, classes]) => {
  const { teach } = await import("/teach/logistic.js");
  const found = await teach(rows.map((row) => Float32Array.from(row)), Int32Array.from(labels), classes);
  return { ...found, weight: [...found.weight], bias: [...found.bias] };
}
"""


def blobs(counts: list[int], spread: float, seed: int = 0, channels: int = 24) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(len(counts), channels))
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = centres[labels] + spread * random.normal(size=(len(labels), channels))
    rows = rows @ np.random.default_rng(8).normal(size=(channels, channels))  # channels that go together
    rows[:, 3] = 5.0  # and one that says nothing
    order = random.permutation(len(labels))
    return rows[order].astype(np.float32), labels[order]


def taught(script: Page, rows: np.ndarray, labels: np.ndarray) -> dict:
    classes = int(labels.max()) + 1
    found = script.evaluate(TEACH, [rows.astype(float).tolist(), labels.tolist(), classes])
    found["logits"] = rows.astype(float) @ np.reshape(found["weight"], (classes, -1)).T + found["bias"]
    return found


@pytest.mark.parametrize(("counts", "spread"), [([40, 40], 1.5), ([60, 25, 8], 1.5), ([30] * 8, 2.0), ([9, 7], 0.1)])
def test_a_head_says_what_scikit_learns_says(script, counts, spread):
    rows, labels = blobs(counts, spread)
    found = taught(script, rows, labels)
    scaled = StandardScaler().fit_transform(rows.astype(np.float64))
    # Its loss is a sum over pictures, of which the balanced weights have the mean 1; ours is a mean.
    inverse = 1 / (found["penalty"] * len(labels))
    regression = LogisticRegression(C=inverse, class_weight="balanced", tol=1e-8, max_iter=10_000).fit(scaled, labels)
    scores = np.exp(found["logits"] - found["logits"].max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    if len(counts) == 2:  # one vector, whose penalty is twice that of two opposite ones
        halved = LogisticRegression(C=2 * inverse, class_weight="balanced", tol=1e-8, max_iter=10_000).fit(
            scaled, labels
        )
        regression = halved
    np.testing.assert_allclose(scores, regression.predict_proba(scaled), atol=2e-4)
    assert (scores.argmax(axis=1) == regression.predict(scaled)).all()
    assert found == {**taught(script, rows, labels), "logits": found["logits"]}  # again the same


def test_what_is_expected_of_a_head_is_what_it_does_on_other_pictures(script):
    rows, labels = blobs([60] * 5, 2.0)
    others, truth = blobs([400] * 5, 2.0, seed=1)
    found = taught(script, rows, labels)
    logits = others.astype(float) @ np.reshape(found["weight"], (5, -1)).T + found["bias"]
    share = (logits.argmax(axis=1) == truth).mean()
    assert found["low"] <= share <= found["high"]
    assert found["held"] == 300
    assert found["right"] == sum(found["confusion"][each][each] for each in range(5))
    assert (found["low"], found["high"]) == pytest.approx(
        tuple(binomtest(found["right"], 300).proportion_ci(method="wilson"))
    )
    # Divided by the temperature, scores are nearer to how often they are right.
    assert loss(logits / found["temperature"], truth) <= loss(logits, truth) + 0.01


def test_what_is_taken_for_what_is_said_the_most_frequent_first(script):
    rows, labels = blobs([60] * 5, 2.0)
    found = taught(script, rows, labels)
    names = ["one", "two", "three", "four", "five"]
    said = script.evaluate(
        "(taught) => import('/teach/expectation.js').then(({ expectation }) => expectation(taught))",
        {**found, "logits": None, "labels": names, "current": True},
    )
    confusion = np.array(found["confusion"])
    np.fill_diagonal(confusion, 0)
    shown, named = np.unravel_index(np.argsort(-confusion, axis=None, kind="stable")[:3], confusion.shape)
    expected = [
        f"{names[one]} for {names[other]} ({confusion[one, other]})" for one, other in zip(shown, named, strict=True)
    ]
    assert f"on 300 pictures held out in turn). Taken for another: {', '.join(expected)}, … Other places" in said


def loss(logits: np.ndarray, truth: np.ndarray) -> float:
    logits = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(truth)), truth]).mean())


def test_neighbouring_pictures_are_held_out_together(script):
    folds = script.evaluate(
        """
        async ([labels, classes]) => {
          const { foldsOf } = await import("/teach/logistic.js");
          return [...foldsOf(Int32Array.from(labels), classes)];
        }
        """,
        [[0] * 10 + [1] * 3 + [2] + [0] * 10, 3],
    )
    assert folds == [0] * 4 + [1] * 4 + [2] * 2 + [0, 1, 2] + [-1] + [2] * 2 + [3] * 4 + [4] * 4


def test_pictures_that_are_easily_told_apart_get_no_certain_scores(script):
    rows, labels = blobs([10, 10], 0.01)
    found = taught(script, rows, labels)
    assert found["accuracy"] == 1
    scaled = found["logits"] / found["temperature"]
    least = np.exp(-np.abs(scaled[:, 0] - scaled[:, 1])).mean()
    assert least > 0.005


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tiny, tiny_card, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    """A model file in each precision, one of them with a second output."""
    folder = tmp_path_factory.mktemp("files")
    for precision in ("fp32", "fp16"):
        export_model(tiny, folder / f"{precision}.onnx", tiny_card, FileOptions("onnx", precision))
    return {"fp32": folder / "fp32.onnx", "fp16": folder / "fp16.onnx", "int8": SHIPPED_MODELS[DEFAULT_MODEL]}


INSPECT = """
async (name) => {
  const { inspect } = await import("/teach/graph.js");
  return inspect(new Uint8Array(await (await fetch(name)).arrayBuffer()));
}
"""
REPLACE = f"""
async ([name, heads, card]) => {{
  {BYTES}
  const {{ withHead }} = await import("/teach/graph.js");
  let bytes = new Uint8Array(await (await fetch(name)).arrayBuffer());
  for (const [weight, bias] of heads) {{
    const classes = bias.map((_, place) => ({{ class_id: place, label: `class ${{place}}` }}));
    const head = {{ weight: Float32Array.from(weight), bias: Float32Array.from(bias) }};
    bytes = withHead(bytes, head, {{ ...card, classes, decision: null }});
  }}
  return textOf(bytes);
}}
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_another_head_in_the_same_graph(script, files, precision, tmp_path):
    model = files[precision]
    about = script.evaluate(INSPECT, model.name)
    assert about["backbone"] == backbone_digest(model.read_bytes())
    assert about["precision"] == precision
    classifier = Classifier(model, embedding=True)
    picture = classifier.preprocess(SAMPLES / "coffee.jpg")[None]
    (before,) = classifier.judge_each(picture)
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, before.embedding.size)).astype(np.float32)
    bias = random.normal(size=3).astype(np.float32)
    # Once with another number of classes before, as when a taught file is taught again.
    heads = [[[0.5] * 5 * before.embedding.size, [0.0] * 5], [weight.astype(float).ravel().tolist(), bias.tolist()]]
    path = tmp_path / "taught.onnx"
    path.write_bytes(base64.b64decode(script.evaluate(REPLACE, [model.name, heads, about["card"]])))
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    constants = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    np.testing.assert_array_equal(constants["head.weight"], weight)
    np.testing.assert_array_equal(constants["head.bias"], bias)
    assert "head.weight.float16" not in constants
    assert [each.name for each in graph.graph.output] == ["logits"]
    assert not any("unknown" in name for node in graph.graph.node for name in (*node.input, *node.output))
    assert backbone_digest(path.read_bytes()) == about["backbone"]
    (found,) = Classifier(path, embedding=True).judge_each(picture)
    np.testing.assert_array_equal(found.embedding, before.embedding)
    logits = weight @ found.embedding + bias
    np.testing.assert_allclose(found.scores, np.exp(logits - np.logaddexp.reduce(logits)), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], "the model file is damaged, or is no ONNX file"),
        (lambda data: b"not a model", "the model file is damaged, or is no ONNX file"),
        (lambda data: data.replace(b"logits", b"logitz"), "this model file has no head of shvit's"),
        (lambda data: data.replace(b"shvit.card", b"shvit.curd"), "this model file has no card"),
    ],
    ids=["cut", "text", "other head", "no card"],
)
def test_a_file_that_nothing_can_be_taught_on(script, files, change, said):
    damaged = f"""
    async (text) => {{
      {BYTES}
      const {{ inspect }} = await import("/teach/graph.js");
      try {{ return inspect(bytesOf(text)); }} catch (error) {{ return error.message; }}
    }}
    """
    message = script.evaluate(damaged, encoded(change(files["fp32"].read_bytes())))
    assert said in message


# ---- the archive -----------------------------------------------------------------------------------------------------

WRITE = f"""
async (files) => {{
  {BYTES}
  const {{ ZipWriter }} = await import("/teach/zip.js");
  const zip = new ZipWriter();
  for (const [name, text] of files) zip.add(name, bytesOf(text));
  return textOf(new Uint8Array(await zip.finish().arrayBuffer()));
}}
"""
OPEN = f"""
async (text) => {{
  {BYTES}
  const {{ opened }} = await import("/teach/archive.js");
  try {{
    const {{ name, classes, pictures }} = await opened(new File([bytesOf(text)], "mine.zip"));
    const read = async (each) => {{
      const file = await each.read().catch((error) => error.message);
      const content = typeof file === "string" ? file : textOf(new Uint8Array(await file.arrayBuffer()));
      return [each.className, each.name, content];
    }};
    return {{ name, classes, pictures: await Promise.all(pictures.map(read)) }};
  }} catch (error) {{
    return error.message;
  }}
}}
"""


def test_an_archive_is_read_by_python(script):
    files = {"project.json": b"{}", "Käse/1.jpg": bytes(range(256)) * 40, "empty/1.jpg": b""}
    data = base64.b64decode(script.evaluate(WRITE, [[name, encoded(content)] for name, content in files.items()]))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {each: archive.read(each) for each in archive.namelist()} == files


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return file.getvalue()


ABOUT = json.dumps(
    {"kind": "shvit project", "version": 1, "name": "fruit", "classes": [{"name": " a/\tb ", "folder": "a_b"}]}
).encode()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_that_others_packed_are_opened(script, compression):
    passed_over = ("x/../../up/2.png", "x/.hidden.jpg", "top.jpg", "__MACOSX/a/3.jpg", "a/list.txt")
    files = {
        "project.json": ABOUT,
        "a_b/1.jpg": b"one" * 999,
        "deep/er/2.png": b"2",
        **dict.fromkeys(passed_over, b""),
    }
    found = script.evaluate(OPEN, encoded(archive(files, compression)))
    assert (found["name"], found["classes"]) == ("fruit", ["a/ b"])
    pictures = [(of, name, base64.b64decode(text)) for of, name, text in found["pictures"]]
    assert pictures == [("a/ b", "1.jpg", b"one" * 999), ("er", "2.png", b"2")]


def test_an_archive_that_unpacks_to_more_than_it_says(script):
    data = archive({"a/1.jpg": bytes(10_000)})
    smaller = data.replace((10_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    ((_, _, said),) = script.evaluate(OPEN, encoded(smaller))["pictures"]
    assert said == "a/1.jpg: is damaged"
    ((_, _, said),) = script.evaluate(
        OPEN, encoded(data.replace((10_000).to_bytes(4, "little"), (2**31).to_bytes(4, "little")))
    )["pictures"]
    assert "at most 67,108,864 are accepted" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no archive", "mine.zip cannot be opened: it is no ZIP archive."),
        (archive({"top.jpg": b""}), "mine.zip cannot be opened: it has no pictures in folders."),
        (archive({"project.json": b"[]", "a/1.jpg": b""}), "project.json in it is not a project's"),
        (archive({"project.json": b"{" * 10, "a/1.jpg": b""}), "project.json in it is not a project's"),
        (archive({f"{i}/1.jpg": b"" for i in range(501)}), "more than 500 classes"),
        (archive({"a/1.jpg": b"1"})[:-10], "it is no ZIP archive"),
        (archive({f"a/{i}": b"" for i in range(20_600)}, zipfile.ZIP_STORED), "20,600 files, at most 20,501"),
    ],
    ids=["text", "no folders", "list", "no JSON", "classes", "cut", "files"],
)
def test_archives_that_are_no_projects(script, data, said):
    assert said in script.evaluate(OPEN, encoded(data))


def test_folders_have_names_that_every_system_takes(script):
    names = ["cat", "Cat", "a/b", "..", "con", "x" * 200, " . ", "nul.txt", "a\\b", "猫", "tab\tstop"]
    folders = script.evaluate("async (names) => (await import('/teach/archive.js')).foldersOf(names)", names)
    assert folders == ["cat", "Cat 2", "a_b", "_", "_con", "x" * 80, "_ 2", "_nul.txt", "a_b 2", "猫", "tab_stop"]
