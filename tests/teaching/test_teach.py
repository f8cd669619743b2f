"""Teaching model files from a folder of pictures, and what goes wrong with it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import shvit
from shvit import Classifier
from shvit.calibration.outputs import Network, Outputs
from shvit.card import Card
from shvit.embeddings.table import read_embeddings
from shvit.engines.onnx_graph import backbone_digest
from shvit.errors import ArgumentError, DataError, ModelFileError
from shvit.exporting import FileOptions, export_model
from shvit.modelfile.finished import open_finished
from shvit.modelfile.head import LinearHead
from shvit.shipped import DEFAULT_MODEL, resolve_model
from shvit.teaching.kept import kept_path
from shvit.teaching.teach import teach

from .conftest import draw


def files(folder: Path) -> list[str]:
    return sorted(str(each) for each in folder.rglob("*.png"))


def card_of(path: Path) -> Card:
    return Classifier(path, threads=1).card


def copied(path: Path, folder: Path) -> Path:
    """A taught file with what is kept beside it, to be changed."""
    folder.mkdir(exist_ok=True)
    shutil.copy(kept_path(path), folder / kept_path(path).name)
    return Path(shutil.copy(path, folder / path.name))


def test_a_folder_becomes_a_file_that_knows_it(taught, tiny_file, tmp_path):
    unseen = draw(tmp_path / "unseen", ("red", "green", "blue"), 10, seed=1)
    classifier = Classifier(taught, threads=1)
    assert [each.label for each in classifier.classes] == ["blue", "green", "red"]
    found = [each.predictions[0].label for each in classifier.predict(files(unseen), top_k=1)]
    assert np.mean([label == Path(name).parent.name for label, name in zip(found, files(unseen), strict=True)]) > 0.9
    assert backbone_digest(taught.read_bytes()) == backbone_digest(tiny_file.read_bytes())


def test_the_card_says_where_it_comes_from_and_what_to_expect(taught, tiny_file):
    card, before = card_of(taught), card_of(tiny_file)
    assert card.name == "mine" and card.training_data == "72 pictures of photos; features of tiny"
    assert card.taught.model == "tiny" and card.taught.images == 72
    assert card.taught.backbone == backbone_digest(tiny_file.read_bytes())
    assert card.taught.low < card.taught.accuracy <= card.taught.high
    assert [each.name for each in card.metrics] == ["top1"] and card.metrics[0].value == card.taught.accuracy
    assert card.verification.precision == before.verification.precision
    assert card.verification.top1_agreement == 1
    assert card.decision.unknown is not None and card.decision.images == 72
    assert card.preprocessing == before.preprocessing
    if before.parameters is not None:
        assert card.parameters == before.parameters - (len(before.classes) - 3) * (32 + 1)


def test_it_is_as_right_as_scikit_learn_on_the_same_features(tiny_file, tmp_path):
    """With hard classes, where not everything is right."""
    rng = np.random.default_rng(0)

    def noisy(folder: Path, each: int) -> Path:
        for place, label in enumerate("abcd"):
            (folder / label).mkdir(parents=True)
            for number in range(each):
                colour = np.array([200 - 30 * place, 60 + 30 * place, 90]) + rng.normal(0, 7, 3)
                level = colour + rng.normal(0, 15, (64, 96, 3))
                Image.fromarray(np.clip(level, 0, 255).astype(np.uint8)).save(folder / label / f"{number}.png")
        return folder

    train, test = files(noisy(tmp_path / "train", 40)), files(noisy(tmp_path / "test", 60))
    report = teach(tmp_path / "train", tiny_file, tmp_path / "mine.onnx")
    embedder = Classifier(tiny_file, threads=1, embedding=True)
    rows, unseen = (np.stack([each.embedding for each in embedder.predict(paths)]) for paths in (train, test))
    right, wanted = ([Path(name).parent.name for name in names] for names in (train, test))
    regression = make_pipeline(
        StandardScaler(), LogisticRegressionCV(Cs=8, cv=5, max_iter=2000, use_legacy_attributes=False)
    )
    with threadpool_limits(1, "blas"):  # on a busy machine its threads wait for each other for minutes
        expected = (regression.fit(rows, right).predict(unseen) == np.array(wanted)).mean()
    found = Classifier(tmp_path / "mine.onnx", threads=1).predict(test, top_k=1)
    accuracy = np.mean([each.predictions[0].label == label for each, label in zip(found, wanted, strict=True)])
    assert 0.4 < expected < 0.98
    assert accuracy > expected - 0.04
    assert report.interval[0] - 0.05 < accuracy < report.interval[1] + 0.05


def test_eight_bits_stay_eight_bits(photos, tmp_path):
    path, before = tmp_path / "mine.onnx", resolve_model(DEFAULT_MODEL)
    report = teach(photos, DEFAULT_MODEL, path)
    assert report.accuracy > 0.9
    assert report.card.decision.precision == report.card.verification.precision == "int8"
    kinds = [[node.op_type for node in onnx.load(each).graph.node] for each in (before, path)]
    assert kinds[0].count("DequantizeLinear") == kinds[1].count("DequantizeLinear") > 50
    assert Classifier(path).predict(files(photos)[0])[0].predictions[0].label == "blue"
    assert card_of(path).weights == card_of(before).weights


@pytest.mark.parametrize("format", ["openvino"])
def test_other_formats_are_taught_and_taught_more(photos, tiny, tiny_card, tmp_path, format):
    pytest.importorskip("openvino")
    base = tmp_path / "base.xml"
    export_model(tiny, base, tiny_card, FileOptions(format, "fp32"))
    report = teach(photos, base, tmp_path / "mine.xml")
    assert report.accuracy > 0.9
    more = teach(draw(tmp_path / "more", ("grey",), 10), tmp_path / "mine.xml", add=True)
    assert [each.label for each in more.card.classes] == ["blue", "green", "red", "grey"]
    found = Classifier(tmp_path / "mine.xml").predict(files(photos)[0])[0]
    assert found.predictions[0].label == "blue" and found.unknown_score is not None


def test_more_is_added_to_what_is_known(taught, tmp_path):
    path, before = copied(taught, tmp_path / "copy"), card_of(taught)
    more = draw(tmp_path / "more", ("grey", "red"), 6, seed=2)
    report = teach(more, path, add=True)
    assert [each.label for each in report.card.classes] == ["blue", "green", "red", "grey"]
    assert report.counts == {"blue": 24, "green": 24, "red": 30, "grey": 6}
    assert any("fewer than 20 pictures of grey (6)" in note for note in report.notes)
    classifier = Classifier(path, threads=1)
    found = [each.predictions[0].label for each in classifier.predict(files(more / "grey"), top_k=1)]
    assert found.count("grey") >= 5
    assert set(before.training_split.remembered) < set(classifier.card.training_split.remembered)
    assert classifier.card.taught.model == "tiny"


def test_adding_needs_nothing_but_what_was_kept(taught, tmp_path, monkeypatch):
    """The first pictures are gone; only the new ones are looked at."""
    path, looked = copied(taught, tmp_path / "copy"), []
    run = Network.run
    monkeypatch.setattr(Network, "run", lambda self, batch: (looked.append(len(batch)), run(self, batch))[1])
    teach(draw(tmp_path / "more", ("grey",), 5), path, add=True)
    assert sum(looked) == 5 * 4 + 1 + 4  # views, one to learn their number, and those that the file is run on


def test_teaching_again_looks_only_at_what_is_new(photos, tiny_file, tmp_path, monkeypatch):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    first = teach(mine, tiny_file, tmp_path / "mine.onnx")
    digest = hashlib.sha256((tmp_path / "mine.onnx").read_bytes()).hexdigest()
    looked = []
    run = Network.run
    monkeypatch.setattr(Network, "run", lambda self, batch: (looked.append(len(batch)), run(self, batch))[1])
    second = teach(mine, tiny_file, tmp_path / "mine.onnx")
    assert hashlib.sha256((tmp_path / "mine.onnx").read_bytes()).hexdigest() == digest
    assert second.accuracy == first.accuracy
    files_before = files(mine)
    Path(files_before[0]).unlink()
    third = teach(mine, tiny_file, tmp_path / "mine.onnx")
    assert sum(third.counts.values()) == 71
    made = 2 * 6 * 12
    assert sum(looked) == 2 * (1 + 4) + made


def test_a_class_is_forgotten(taught, tmp_path):
    path = copied(taught, tmp_path / "copy")
    report = teach(None, path, forget=["green"])
    assert [each.label for each in Classifier(path).classes] == ["blue", "red"]
    assert report.counts == {"blue": 24, "red": 24}
    assert "green" not in read_embeddings(kept_path(path)).labels
    again = teach(draw(tmp_path / "green", ("green",), 8), path, tmp_path / "other.onnx", add=True, forget=["red"])
    assert [each.label for each in again.card.classes] == ["blue", "green"]
    assert [each.label for each in Classifier(path).classes] == ["blue", "red"]  # as it was


def test_a_picture_of_another_folder_counts_as_that(taught, photos, tmp_path):
    """Somebody corrected a label."""
    path = copied(taught, tmp_path / "copy")
    (tmp_path / "more" / "blue").mkdir(parents=True)
    shutil.copy(photos / "red" / "0-00.png", tmp_path / "more" / "blue" / "moved.png")
    report = teach(tmp_path / "more", path, add=True)
    assert report.counts == {"blue": 25, "green": 24, "red": 23}
    assert "pictures that were taught as another class before, now as the new one: 1" in report.notes


def test_unknown_pictures_are_learned_from_and_kept(photos, tiny_file, tmp_path):
    strange = draw(tmp_path / "other", ("grey",), 30, seed=3)
    report = teach(photos, tiny_file, tmp_path / "mine.onnx", shvit.TeachOptions(unknown=strange))
    unknown = report.card.decision.unknown
    assert unknown.pictures == 30 and unknown.auroc > 0.75
    later = teach(draw(tmp_path / "more", ("red",), 4, seed=4), tmp_path / "mine.onnx", add=True)
    assert later.card.decision.unknown.pictures == 30


def test_copies_count_once_and_contradictions_not_at_all(photos, tiny_file, tmp_path):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    for place in range(3):
        shutil.copy(mine / "red" / "0-00.png", mine / "red" / f"copy {place}.png")
    shutil.copy(mine / "blue" / "0-01.png", mine / "green" / "same.png")
    report = teach(mine, tiny_file, tmp_path / "mine.onnx")
    assert report.counts == {"blue": 23, "green": 24, "red": 24}
    notes = "\n".join(report.notes)
    assert "copies of other pictures, which count once: 3" in notes
    assert "pictures in several classes, left out: 2" in notes
    assert str(Path("blue", "0-01.png")) in notes and str(Path("green", "same.png")) in notes


def test_broken_pictures_are_left_out_and_named(photos, tiny_file, tmp_path):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    (mine / "red" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    report = teach(mine, tiny_file, tmp_path / "mine.onnx")
    assert report.counts == dict.fromkeys(("blue", "green", "red"), 24)
    assert len(report.broken) == 1 and "cut.jpg" in report.broken[0]


def test_a_wrong_label_is_noticed(photos, tiny_file, tmp_path):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    shutil.move(mine / "red" / "0-05.png", mine / "blue" / "wrong.png")
    report = teach(mine, tiny_file, tmp_path / "mine.onnx")
    first = report.lesson.doubtful[0]
    assert (Path(first.source).name, first.label, first.looks_like) == ("wrong.png", "blue", "red")
    assert first.score < 0.5 < first.looks_like_score


def one_class(folder: Path, photos: Path) -> str:
    shutil.copytree(photos / "red", folder / "red")
    return "expected at least two classes to tell apart, found only 'red'"


def one_picture(folder: Path, photos: Path) -> str:
    shutil.copytree(photos, folder)
    for each in files(folder / "red")[1:]:
        Path(each).unlink()
    return "expected at least 2 different pictures of each class, better 20 or more: 'red' has 1"


def copies_only(folder: Path, photos: Path) -> str:
    shutil.copytree(photos, folder)
    first, *rest = files(folder / "red")
    for each in rest:
        shutil.copy(first, each)
    return "different pictures of each class, better 20 or more: 'red' has 1"


def nothing_readable(folder: Path, photos: Path) -> str:
    for label in "ab":
        (folder / label).mkdir(parents=True)
        (folder / label / "x.jpg").write_bytes(b"no picture")
    return "none of the 2 images can be read"


def several_labels(folder: Path, photos: Path) -> str:
    shutil.copytree(photos / "red", folder)
    names = sorted(each.name for each in folder.iterdir())
    rows = [f"{name},{'red|bright' if place % 2 else 'red'}" for place, name in enumerate(names)]
    (folder / "labels.csv").write_text("path,labels\n" + "\n".join(rows) + "\n")
    return "its pictures have several labels"


@pytest.mark.parametrize("make", [one_class, one_picture, copies_only, nothing_readable, several_labels])
def test_pictures_that_teach_nothing_are_refused_and_nothing_is_written(make, photos, tiny_file, tmp_path):
    expected = make(tmp_path / "photos", photos)
    with pytest.raises(DataError) as refused:
        teach(tmp_path / "photos", tiny_file, tmp_path / "out" / "mine.onnx")
    assert expected in str(refused.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_kept_embeddings_that_are_gone_or_of_another_model_are_refused(taught, photos, tmp_path):
    path = copied(taught, tmp_path / "copy")
    kept_path(path).unlink()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"mine\.embeddings\.parquet: is not there; .* put them back"):
        teach(photos, path, add=True)
    teach(photos, DEFAULT_MODEL, tmp_path / "other.onnx")
    shutil.copy(kept_path(tmp_path / "other.onnx"), kept_path(path))
    with pytest.raises(DataError, match=r"does not belong to .*they are of different networks"):
        teach(photos, path, add=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["labels", "views", "cut", "no views"])
def test_kept_embeddings_that_were_changed_are_refused(taught, tmp_path, change):
    path = copied(taught, tmp_path / "copy")
    kept = kept_path(path)
    table = pq.read_table(kept)
    if change == "cut":
        kept.write_bytes(kept.read_bytes()[:2000])
    elif change == "views":
        pq.write_table(table.slice(1), kept)
    elif change == "no views":
        pq.write_table(table.drop_columns(["view"]), kept)
    else:
        place = table.schema.get_field_index("label")
        pq.write_table(table.set_column(place, "label", [[None] * len(table)]).cast(table.schema), kept)
    with pytest.raises(DataError, match=r"mine\.embeddings\.parquet: "):
        teach(None, path, forget=["red"])


def test_a_file_that_was_never_taught_has_nothing_to_add_to(photos, tiny_file):
    with pytest.raises(ArgumentError, match="was never taught, so there is nothing to add to"):
        teach(photos, tiny_file, tiny_file.with_name("new.onnx"), add=True)


def test_a_file_without_our_head_is_refused(photos, tiny_file, tmp_path):
    model = onnx.load(tiny_file)
    next(node for node in model.graph.node if node.output[0] == "logits").output[0] = "other"
    model.graph.node.append(onnx.helper.make_node("Identity", ["other"], ["logits"]))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelFileError, match="has no head that could be replaced; expected a file of shvit export"):
        teach(photos, tmp_path / "other.onnx", tmp_path / "mine.onnx")


def test_probabilities_are_refused(photos, tiny_file, tmp_path):
    card = replace(card_of(tiny_file), output="probabilities")
    open_finished(tiny_file).write(tmp_path / "other.onnx", "unknown", None, card)
    with pytest.raises(ModelFileError, match="the card says probabilities"):
        teach(photos, tmp_path / "other.onnx", tmp_path / "mine.onnx")


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((None, "mine.onnx"), {}, "data: give labelled pictures"),
        ((None, "mine.onnx"), {"add": True}, "data: give labelled pictures"),
        (("photos", "mine.onnx", "new.onnx"), {"forget": ["a"]}, "say add as well"),
        (("photos", DEFAULT_MODEL), {}, "--output: give the file to write"),
        (("photos", DEFAULT_MODEL), {"add": True}, f"--model {DEFAULT_MODEL}: is a published model; give the file"),
        ((None, "mine.onnx"), {"add": True, "options": shvit.TeachOptions()}, "data: give labelled pictures"),
    ],
)
def test_calls_that_say_too_little_are_refused(arguments, keywords, message):
    with pytest.raises(ArgumentError, match=message):
        teach(*arguments, **keywords)


def test_a_class_that_is_not_there_cannot_be_forgotten(taught):
    with pytest.raises(ArgumentError, match=r"--forget pink: .* knows no such class; it knows blue, green, red"):
        teach(None, taught, taught.with_name("other.onnx"), forget=["pink"])


def test_the_output_is_not_a_picture_of_it(photos, tiny_file):
    with pytest.raises(ModelFileError, match=r"the format stays that of tiny\.onnx"):
        teach(photos, tiny_file, photos / "red" / "0-00.png")


def test_a_file_that_would_say_something_else_is_not_written(photos, tiny_file, tmp_path, monkeypatch):
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"as it was")
    logits = LinearHead.logits
    monkeypatch.setattr(LinearHead, "logits", lambda self, features: logits(self, features) + (len(features) == 4))
    with pytest.raises(ModelFileError, match="nothing was written"):
        teach(photos, tiny_file, path)
    assert path.read_bytes() == b"as it was"


def test_evaluation_warns_of_the_pictures_that_were_taught(taught, photos):
    with pytest.warns(UserWarning, match="was trained on some of these images"):
        shvit.evaluate(taught, photos)


def test_what_is_kept_holds_features_and_no_pictures(taught):
    found = read_embeddings(kept_path(taught))
    assert found.info.dtype == "float16" and found.info.model == "tiny"
    assert found.views.count("centre") == found.views.count("crop 2") == 72
    assert found.views.count("made") == 72
    assert found.stored.shape == (72 * 4 + 72, 32)
    assert json.loads(json.dumps(found.sources[0])).endswith("0-00.png")


def test_what_it_knows_is_not_lost_by_forgetting_to_say_add(taught, photos, tmp_path):
    path = copied(taught, tmp_path / "copy")
    before = path.read_bytes()
    with pytest.raises(ArgumentError, match="was taught 3 classes, which would be lost; keep them with --add"):
        teach(photos, path, path)
    assert path.read_bytes() == before


def test_a_threshold_stays_when_more_is_added(photos, tiny_file, tmp_path):
    first = teach(photos, tiny_file, tmp_path / "mine.onnx", shvit.TeachOptions(target_precision=0.7))
    assert first.card.decision.promise.target_precision == 0.7
    later = teach(None, tmp_path / "mine.onnx", forget="green")
    assert later.card.decision.promise.target_precision == 0.7


def test_unknown_pictures_are_added_without_others(taught, photos, tmp_path):
    path, strange = copied(taught, tmp_path / "copy"), draw(tmp_path / "other", ("grey",), 25, seed=3)
    shutil.copytree(photos / "red", strange / "red")
    report = teach(None, path, add=True, options=shvit.TeachOptions(unknown=strange))
    assert report.card.decision.unknown.pictures == 25
    assert "unknown pictures that are taught as a class are left out: 24" in report.notes
    further = draw(tmp_path / "further", ("grey",), 30, seed=4)
    shutil.copytree(strange / "grey", further / "again")
    report = teach(None, path, add=True, options=shvit.TeachOptions(unknown=further))
    assert report.card.decision.unknown.pictures == 55


def test_another_encoding_of_a_picture_is_not_judged_by_a_head_that_saw_it(photos, tiny_file, tmp_path):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    for each in files(mine):
        Image.open(each).save(Path(each).with_suffix(".bmp"))
    report = teach(mine, tiny_file, tmp_path / "mine.onnx")
    assert report.counts == dict.fromkeys(("blue", "green", "red"), 48)
    told = next(note for note in report.notes if note.startswith("pictures that look the same"))
    assert int(told.rpartition(" ")[2]) >= 72


def test_an_add_that_was_ended_between_its_two_files_can_be_done_again(taught, tmp_path):
    """The embeddings have a class that the model does not know yet."""
    path, more = copied(taught, tmp_path / "copy"), draw(tmp_path / "more", ("grey",), 6)
    before = path.read_bytes()
    teach(more, path, add=True)
    path.write_bytes(before)
    report = teach(None, path, tmp_path / "other.onnx", forget="red")
    assert [each.label for each in report.card.classes] == ["blue", "green"]
    assert "pictures that the model was not taught are left out: grey" in report.notes
    assert list(teach(more, path, add=True).counts.values()) == [24, 24, 24, 6]


def test_embeddings_of_other_classes_are_refused(taught, tiny_file, tmp_path):
    path = copied(taught, tmp_path / "copy")
    teach(draw(tmp_path / "more", ("grey", "red"), 6), tiny_file, tmp_path / "other.onnx")
    shutil.copy(kept_path(tmp_path / "other.onnx"), kept_path(path))
    with pytest.raises(DataError, match=r"does not belong to .*: it has no pictures of 'blue'"):
        teach(None, path, forget="red")


def test_a_disk_that_is_full_changes_neither_file(taught, tmp_path, monkeypatch):
    path = copied(taught, tmp_path / "copy")
    before = [each.read_bytes() for each in (path, kept_path(path))]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shvit.teaching.teach.write_kept", full)
    with pytest.raises(OSError, match="No space left on device") as refused:
        teach(None, path, forget="red")
    assert refused.value.filename == str(path)
    assert [each.read_bytes() for each in (path, kept_path(path))] == before


def test_an_empty_class_is_told_at_once(photos, tiny_file, tmp_path, monkeypatch):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    (mine / "empty").mkdir()
    monkeypatch.setattr(Network, "run_pictures", None)
    with pytest.raises(DataError, match="no pictures of the class 'empty'; add some, or remove its folder"):
        teach(mine, tiny_file, tmp_path / "mine.onnx")


def test_pictures_that_all_look_the_same_are_taught_and_told_of(photos, tiny_file, tmp_path, monkeypatch):
    """As a network sees them that tells nothing apart."""
    run = Network.run

    def blind(self, batch):
        found = run(self, batch)
        return Outputs(found.logits, np.ones_like(found.features))

    monkeypatch.setattr(Network, "run", blind)
    report = teach(photos, tiny_file, tmp_path / "mine.onnx")
    assert report.accuracy < 0.5
    assert any(note.startswith("all pictures look the same of blue, green, red") for note in report.notes)


def test_a_model_of_several_labels_is_taught_one_a_picture(photos, tiny_file, tmp_path):
    card = replace(card_of(tiny_file), task="multi_label")
    open_finished(tiny_file).write(tmp_path / "several.onnx", "unknown", None, card)
    report = teach(photos, tmp_path / "several.onnx", tmp_path / "mine.onnx")
    assert report.card.task == card_of(tmp_path / "mine.onnx").task == "classification"
    scores = Classifier(tmp_path / "mine.onnx").predict(files(photos)[0])[0].predictions
    assert sum(each.score for each in scores) == pytest.approx(1, abs=1e-5)
