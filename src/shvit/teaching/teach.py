"""New classes for a model file from a few photographs; what ``shvit teach`` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shvit._version import __version__
from shvit.atomic import atomic_folder, check_outputs, naming
from shvit.calibration.made_pictures import KINDS, made_pictures
from shvit.calibration.outputs import Network
from shvit.card import Card, ClassInfo, TrainingSplit, Verification
from shvit.card.card import MAX_REMEMBERED
from shvit.data.broken import none_readable
from shvit.data.datasets import open_dataset
from shvit.data.formats.files import ImageFiles
from shvit.data.protocol import ImageDataset
from shvit.data.stratify import has_several
from shvit.data.targets import class_counts
from shvit.data.trained_on import remembered
from shvit.data.unread import describe_unread, left_out
from shvit.display import progress_bar
from shvit.embeddings.table import EmbeddingsInfo
from shvit.engines import available_threads, load_engine
from shvit.engines.onnx_graph import UNKNOWN
from shvit.errors import ArgumentError, DataError, ModelFileError
from shvit.evaluation.samples import pictures_in
from shvit.heads.linear import check_installed, steps
from shvit.hub.resolve import resolve_model
from shvit.modelfile.finished import check_suffix, open_finished
from shvit.modelfile.verify import photograph_crops, with_version
from shvit.predicting.embedder import backbone_of
from shvit.predicting.pickling import digest_of
from shvit.teaching.kept import Others, kept_path, read_kept, write_kept
from shvit.teaching.lesson import Lesson, learn, taught_card
from shvit.teaching.pictures import Pictures, Seen, in_half, look_at, views_for
from shvit.teaching.report import TeachOptions, TeachReport

MADE_EACH = 60
"""Made pictures of a kind, against which the unknown score is fitted."""

SAMPLE = 4
"""Photographs of the package, mirrored too, that a written file is run on."""

TOLERANCE = 1e-3
"""Largest accepted difference of the written file's logits and unknown scores from what was fitted, for each unit of
them."""

FEW = 20
"""Pictures of a class below which the estimate says little."""

NAMED = 3
"""How many of the pictures that were left out are named."""


def teach(
    data: str | Path | None,
    model: str | Path,
    output: str | Path | None = None,
    options: TeachOptions | None = None,
    *,
    add: bool = False,
    forget: str | Collection[str] = (),
    progress: bool = False,
) -> TeachReport:
    """Teaches a model file classes of its own: a new head on the features that it has, in seconds and without PyTorch.

    It does what ``shvit teach`` does::

        report = shvit.teach("photos/", "shvit_s4", "mine.onnx")
        report = shvit.teach("more/", "mine.onnx", add=True)  # further photographs or classes
        report = shvit.teach(None, "mine.onnx", forget=["cat"])

    Args:
        data: labelled pictures, as ``shvit.train`` takes them; of data with splits, those to train on. ``None`` where
            only something is to be forgotten, or unknown pictures are to be added.
        model: a name, or the path of a model file (.onnx, .tflite, .xml); its graph stays as it is, in whatever
            precision, up to the head.
        output: the file to write, of the same format; the model file itself when not given, with ``add`` or
            ``forget``. The embeddings are kept beside it, as ``NAME.embeddings.parquet``.
        options: what else there is to say.
        add: the model file was taught; what it knows stays, and this is added.
        forget: labels of classes to take out of it.
        progress: a progress bar on stderr.

    Raises:
        DataError: the pictures cannot be used, are of one class, or of one class there is only one; or the kept
            embeddings are gone or belong to another model.
        ModelFileError: the model cannot be used, or has no head as ``shvit export`` writes it.
        MissingDependencyError: scikit-learn or pyarrow is not installed.
        ArgumentError: a value that cannot be.
    """
    options = options or TeachOptions()
    forget = {forget} if isinstance(forget, str) else set(forget)
    if data is None and not forget and not (add and options.unknown is not None):
        raise ArgumentError("data: give labelled pictures, such as a folder with a sub-folder for each class")
    if data is not None and forget and not add:
        raise ArgumentError("forget: takes classes out of a taught file; with pictures to learn too, say add as well")
    check_installed()
    path = resolve_model(model)
    if output is None:
        if not (add or forget):
            raise ArgumentError("--output: give the file to write, such as mine.onnx")
        if path != Path(model):
            raise ArgumentError(f"--model {model}: is a published model; give the file that was taught, as mine.onnx")
        output = path
    return _Teaching(path, Path(output), options, progress).run(data, forget, anew=not (add or forget))


class _Teaching:
    """One call of ``teach``."""

    def __init__(self, path: Path, output: Path, options: TeachOptions, progress: bool) -> None:
        check_suffix(path, output)
        self._path, self._output, self._options, self._progress = path, output, options, progress
        self._threads = options.threads or available_threads()
        self._file = open_finished(path)
        self._network = Network(self._file, path, self._threads)
        self._digest = digest_of(path)
        # Whatever the network told before, the new head tells one label a picture.
        self._card = replace(self._network.card, task="classification")
        if self._card.output != "logits":
            raise ModelFileError(f"{path}: the card says {self._card.output}; a head gives logits: export it anew")
        if self._file.features is None:
            raise ModelFileError(f"{path}: has no head that could be replaced; expected a file of shvit export")
        self._unknown: list[str] = []
        self._notes: list[str] = []
        self._broken: list[str] = []

    def run(self, data: str | Path | None, forget: set[str], anew: bool) -> TeachReport:
        read = [each for each in (data, self._options.unknown, self._path) if each is not None]
        check_outputs([("--output", self._output)], read[:-1])
        check_outputs([("--output", kept_path(self._output))], read)
        self._check_taught(anew)
        if self._options.unknown is not None:
            self._unknown = pictures_in(Path(self._options.unknown))  # refused before all that takes long
        info = self._info()
        known: Pictures | None = None
        classes: tuple[ClassInfo, ...] = ()
        others = Others({}, None)
        looked: tuple[str, ...] = ()
        if not anew:
            known, others = read_kept(kept_path(self._path), info, self._path)
            known, classes = self._without(known, forget)
        if data is not None:
            images = _open(data, self._options.image_key)
            seen = self._look(images, known, info)
            known = seen if known is None else self._joined(known, seen)
            classes, looked = _merged(classes, images.classes), remembered(images)
        assert known is not None  # there is data, or what something was forgotten of
        others = self._others(others, known)
        lesson = self._learn(known, others, classes, anew)
        what = f"{len(known):,} pictures" + (f" of {Path(data).resolve().name}" if anew and data is not None else "")
        card = taught_card(self._card, lesson, self._output.stem, what, info.backbone)
        earlier = self._card.training_split if not anew and self._card.training_split is not None else None
        looked = (*(() if earlier is None else earlier.remembered), *looked)[-MAX_REMEMBERED:]
        card = replace(card, training_split=TrainingSplit(looked) if looked else None)
        card = self._write(lesson, card, lambda: write_kept(kept_path(self._output), info, known, others))
        return self._report(card, known, lesson, None if anew else self._card)

    def _check_taught(self, anew: bool) -> None:
        """Raises: ArgumentError: what was taught would be lost, or is to be added to and is not there."""
        if anew and self._output.exists() and self._output.samefile(self._path):
            if self._card.taught is None:
                raise ArgumentError(f"{self._output}: is the model itself, which would be lost; name another --output")
            raise ArgumentError(
                f"{self._output}: was taught {len(self._card.classes)} classes, which would be lost; keep them with "
                "--add, or name another --output"
            )
        if not anew and self._card.taught is None:
            raise ArgumentError(
                f"{self._path}: was never taught, so there is nothing to add to or to forget; teach it first: shvit "
                "teach PHOTOS --model MODEL --output mine.onnx"
            )

    def _learn(self, known: Pictures, others: Others, classes: tuple[ClassInfo, ...], anew: bool) -> Lesson:
        """Raises: DataError: there are too few classes, or pictures of one; with what was left out."""
        options, earlier = self._options.calibration, self._network.earlier
        if not anew and earlier is not None and earlier.promise is not None and options.target_precision is None:
            options = replace(options, target_precision=earlier.promise.target_precision)
        try:
            with progress_bar("learning", steps(), wanted=self._progress) as advance:
                return learn(known, others, classes, self._card, options, advance)
        except DataError as error:
            left_out = [*self._notes, *([f"{len(self._broken)} cannot be read"] if self._broken else [])]
            raise DataError("; ".join([str(error), *left_out])) from None

    def _info(self) -> EmbeddingsInfo:
        """Of the embeddings of this file."""
        values = self._network.run(photograph_crops(self._card.preprocessing, 1)[:1]).features
        assert values is not None  # refused otherwise
        return EmbeddingsInfo(
            model=self._card.name,
            model_sha256=self._digest,
            backbone=backbone_of(self._path, self._card),
            values=values.shape[1],
            dtype="float16",
            normalized=False,
            flip=False,
            stages=1,
            version=__version__,
        )

    def _without(self, known: Pictures, forget: set[str]) -> tuple[Pictures, tuple[ClassInfo, ...]]:
        """What stays of what was taught. Raises: ArgumentError: a class to forget is none of it."""
        labels = [each.label for each in self._card.classes]
        if strangers := sorted(forget - set(labels)):
            raise ArgumentError(
                f"--forget {strangers[0]}: {self._path} knows no such class; it knows {', '.join(labels[:20])}"
                f"{', ...' if len(labels) > 20 else ''}"
            )
        classes = _merged((), [each for each in self._card.classes if each.label not in forget])
        names = {each.label for each in classes}
        if missing := sorted(names - set(known.labels)):
            raise DataError(
                f"{kept_path(self._path)}: does not belong to {self._path}: it has no pictures of {missing[0]!r}; put "
                "its own back, or teach it anew from all photographs"
            )
        kept = [place for place, label in enumerate(known.labels) if label in names]
        # Of a call that was ended between its two files: what it added is not in the model.
        if others := set(known.labels) - {*names, *forget}:
            self._notes.append(f"pictures that the model was not taught are left out: {', '.join(sorted(others))}")
        return known.of(kept), classes

    def _look(self, images: ImageDataset, known: Pictures | None, info: EmbeddingsInfo) -> Pictures:
        """Features of a dataset, as far as they are not known."""
        earlier = self._earlier(info) if known is None else known
        views = views_for(len(images)) if known is None else known.features.shape[1]
        features = {} if earlier is None else dict(zip(earlier.sha256, earlier.features, strict=True))
        if earlier is not None and earlier.features.shape[1] != views:
            features = {}
        with progress_bar("looking at pictures", len(images), wanted=self._progress) as advance:
            seen = look_at(images, self._network, self._card.preprocessing, views, features, self._threads, advance)
        if not len(seen.pictures) and seen.broken:
            raise none_readable(images, seen.broken)
        self._note(seen, images)
        return seen.pictures

    def _earlier(self, info: EmbeddingsInfo) -> Pictures | None:
        """What was kept when the output was written before: pictures in it are not looked at again."""
        try:
            return read_kept(kept_path(self._output), info, self._output)[0]
        except DataError:
            return None

    def _note(self, seen: Seen, images: ImageDataset) -> None:
        self._broken += [f"{each.source}: {each.reason}" for each in seen.broken]
        if unread := describe_unread(left_out(images)):
            self._notes.append(unread)
        for what, pictures in (
            ("pictures in several classes, left out", seen.conflicting),
            ("copies of other pictures, which count once", seen.copies),
        ):
            if pictures:
                others = ", ..." if len(pictures) > NAMED else ""
                self._notes.append(f"{what}: {len(pictures)}, {', '.join(pictures[:NAMED])}{others}")

    def _joined(self, known: Pictures, more: Pictures) -> Pictures:
        """Both; a picture that is in both has its newer label."""
        newer = dict(zip(more.sha256, more.labels, strict=True))
        kept = [place for place, digest in enumerate(known.sha256) if digest not in newer]
        moved = [
            label for digest, label in zip(known.sha256, known.labels, strict=True) if newer.get(digest, label) != label
        ]
        if moved:
            self._notes.append(f"pictures that were taught as another class before, now as the new one: {len(moved)}")
        return known.of(kept).and_others(more)

    def _others(self, earlier: Others, known: Pictures) -> Others:
        """Made pictures, and unknown ones where there are such."""
        made, unknown = earlier.made, earlier.unknown
        if set(made) != set(KINDS):
            total = MADE_EACH * len(KINDS)
            with progress_bar("looking at made pictures", total, wanted=self._progress) as advance:
                made = {}
                for kind in KINDS:
                    found, _ = self._network.run_pictures(made_pictures(kind, MADE_EACH), advance)
                    assert found is not None and found.features is not None  # they can all be read
                    made[kind] = in_half(found.features, self._path)
        if self._options.unknown is not None:
            folder = Path(self._options.unknown)
            files = [str(Path(each).relative_to(folder)) for each in self._unknown]
            images = ImageFiles(str(folder), folder, files, np.zeros(len(files), np.int64), (ClassInfo(0, ""),))
            with progress_bar("looking at unknown pictures", len(files), wanted=self._progress) as advance:
                seen = look_at(images, self._network, self._card.preprocessing, 1, {}, self._threads, advance)
            self._broken += [f"{each.source}: {each.reason}" for each in seen.broken]
            new = seen.pictures
            if unknown is not None:
                before = set(unknown.sha256)
                new = unknown.and_others(new.of([p for p, digest in enumerate(new.sha256) if digest not in before]))
            unknown = new
        if unknown is not None:
            taught = set(known.sha256)
            kept = [place for place, digest in enumerate(unknown.sha256) if digest not in taught]
            if len(kept) < len(unknown):
                self._notes.append(
                    f"unknown pictures that are taught as a class are left out: {len(unknown) - len(kept)}"
                )
            unknown = unknown.of(kept) if kept else None
        return Others(made, unknown)

    def _write(self, lesson: Lesson, card: Card, write_kept: Callable[[], None]) -> Card:
        """Writes the file aside and runs it beside what was fitted, and only then names it.

        Args:
            write_kept: writes what is kept beside it, just before it gets its name.

        Raises:
            ModelFileError: it says something else; no file is left.
        """
        sample = photograph_crops(card.preprocessing, 1)[:SAMPLE]
        features = self._network.run(sample).features
        assert features is not None  # refused otherwise
        expected = lesson.fitted.head.logits(features)
        del self._network  # two of them at once would be the most that memory ever holds
        self._output.parent.mkdir(parents=True, exist_ok=True)
        with naming(self._output), atomic_folder(self._output) as aside:
            self._file.write(aside, UNKNOWN, lesson.program, card, lesson.fitted.head)
            found = load_engine(self._file.engine, aside, 1).run(sample)
            logits = next(iter(found.values()))
            if not np.allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE):
                raise ModelFileError(f"{self._path}: with another head its logits would differ; nothing was written")
            if lesson.program is not None:
                scores = lesson.program.run(features, expected)
                if not np.allclose(found[UNKNOWN][:, 0], scores, rtol=TOLERANCE, atol=TOLERANCE):
                    raise ModelFileError(f"{self._path}: gives other unknown scores than fitted; nothing was written")
            card = replace(card, verification=self._verified(card.verification, logits, expected))
            self._file.write(aside, UNKNOWN, lesson.program, card, lesson.fitted.head)
            if digest_of(self._path) != self._digest:
                raise ModelFileError(f"{self._path}: was changed meanwhile, and nothing was written; run this again")
            write_kept()
        return card

    def _verified(self, earlier: Verification | None, logits: np.ndarray, expected: np.ndarray) -> Verification:
        """How the written file compares with the head on the features of the file before."""
        known = earlier or Verification(self._path.suffix.lstrip(".").lower(), "fp32")
        return replace(
            known,
            engine=with_version(_PACKAGES[self._file.engine]),
            images=len(logits),
            max_difference=float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-6)),
            top1_agreement=float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        )

    def _report(self, card: Card, known: Pictures, lesson: Lesson, earlier: Card | None) -> TeachReport:
        found = Counter(known.labels)
        counts = {each.label: found[each.label] for each in card.classes}
        few = [f"{label} ({count})" for label, count in counts.items() if count < FEW]
        if few:
            self._notes.append(
                f"fewer than {FEW} pictures of {', '.join(few[:5])}{', ...' if len(few) > 5 else ''}: more of these "
                "would help most, and the estimate says little of them"
            )
        notes, broken = (*self._notes, *lesson.notes), tuple(self._broken)
        return TeachReport(self._output, kept_path(self._output), card, counts, lesson, notes, broken, earlier)


_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}


def _open(data: str | Path, image_key: str | None) -> ImageDataset:
    """Raises: DataError: its pictures have several labels, or two classes one name."""
    images = open_dataset(data, "train", image_key)
    if has_several(images.labels):
        raise DataError(f"{data}: its pictures have several labels, of which a head cannot be taught; use: shvit train")
    labels = [each.label for each in images.classes]
    counts = class_counts(images.labels, len(labels)).tolist()
    if 0 in counts:
        raise DataError(f"{data}: no pictures of the class {labels[counts.index(0)]!r}; add some, or remove its folder")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(f"{data}: two of its classes are called {twice!r}; give them different names")
    return images


def _merged(known: Sequence[ClassInfo], more: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
    """All classes, each name once, those that are known first."""
    by_label = {each.label: each for each in (*more, *known)}
    order = dict.fromkeys(each.label for each in (*known, *more))
    return tuple(replace(by_label[label], class_id=place) for place, label in enumerate(order))
