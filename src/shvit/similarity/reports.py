"""What was found, as a page, as lines of JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from shvit.data.apply import COLUMNS, KEEP
from shvit.embeddings.table import Embeddings
from shvit.similarity.duplicates import Group, Leak
from shvit.similarity.mislabelled import Suspect
from shvit.similarity.search import Neighbours
from shvit.similarity.sheet import Section, Sheet, Tile

APPLY = (
    "To act on it: --output found.csv, write `move` or `set aside` as the action of what you agree to, then: shvit "
    "data apply found.csv PHOTOS"
)


class Report(NamedTuple):
    """The same in three forms."""

    sheet: Sheet
    records: list[dict[str, Any]]
    """For JSON: one for each query, group, leak or suspect."""
    header: tuple[str, ...]
    rows: Sequence[tuple[str | float | int, ...]]
    """For CSV: one for each picture. Those of ``shvit.data.apply`` begin with its columns."""


class Query(NamedTuple):
    """A picture that is looked for."""

    source: str
    place: int
    """What its page's ``Read`` knows it by."""


def search_report(queries: Sequence[Query], found: Neighbours, embeddings: Embeddings) -> Report:
    """Args: found: a row for each query."""
    sections, records, rows = [], [], []
    for query, places, similarities in zip(queries, found.places.tolist(), found.similarities.tolist(), strict=True):
        tiles = [Tile(query.place, query.source, (), note="looked for")]
        hits = []
        for rank, (place, similarity) in enumerate(zip(places, similarities, strict=True), start=1):
            tiles.append(picture_tile(embeddings, place, (f"similarity {similarity:.3f}",)))
            label = label_of(embeddings, place)
            source = embeddings.sources[place]
            hits.append({"source": source, "similarity": _rounded(similarity), "label": label})
            rows.append((query.source, rank, _rounded(similarity), label or "", source))
        sections.append(Section(query.source, tuple(tiles)))
        records.append({"query": query.source, "found": hits})
    name = queries[0].source if len(queries) == 1 else f"{len(queries):,} pictures"
    about = (f"The pictures most similar to each, of {len(embeddings):,}, by {embeddings.info.model}.",)
    sheet = Sheet(f"Similar to {name}", about, tuple(sections))
    return Report(sheet, records, ("query", "rank", "similarity", "label", "source"), rows)


def duplicates_report(groups: Sequence[Group], embeddings: Embeddings, name: str, threshold: float) -> Report:
    sections, records, rows = [], [], []
    for number, group in enumerate(groups, start=1):
        tiles, members = [], []
        for place, similarity in zip(group.places, group.similarities, strict=True):
            same = embeddings.sha256[place] == embeddings.sha256[group.places[0]]
            said = "the same bytes" if same else f"similarity {similarity:.3f}"
            tiles.append(picture_tile(embeddings, place, () if place == group.places[0] else (said,)))
            source, label = embeddings.sources[place], label_of(embeddings, place)
            members.append({"source": source, "similarity": _rounded(similarity), "same_bytes": same, "label": label})
            rows.append((*_line(embeddings, place), number, int(same), _rounded(similarity)))
        kind = "the same file" if group.identical else "nearly the same"
        labels = {label_of(embeddings, place) for place in group.places}
        differ = ", with different labels" if len(labels) > 1 else ""
        sections.append(Section(f"{number}. {len(group.places)} pictures, {kind}{differ}", tuple(tiles)))
        records.append({"group": number, "identical": group.identical, "pictures": members})
    extra = sum(len(group.places) - 1 for group in groups)
    about = (
        f"{len(groups):,} groups, {extra:,} pictures more than needed, of {len(embeddings):,}.",
        f"Near: cosine similarity of at least {threshold:g} to another one of the group; shown is that to its first.",
        *((APPLY,) if rows else ()),
    )
    header = (*COLUMNS, "group", "same_bytes", "similarity")
    return Report(Sheet(f"Duplicates in {name}", about, tuple(sections)), records, header, rows)


def leaks_report(
    leaks: Sequence[Leak], train: Embeddings, val: Embeddings, names: tuple[str, str], threshold: float
) -> Report:
    """The places of ``train`` come after those of ``val`` for the page's ``Read``."""
    sections, records, rows = [], [], []
    for leak in leaks:
        said = "the same file" if leak.identical else f"similarity {leak.similarity:.3f}"
        tiles = (
            picture_tile(val, leak.place, (), note=names[1]),
            picture_tile(train, leak.other, (said,), note=names[0])._replace(place=len(val) + leak.other),
        )
        sections.append(Section(said, tiles))
        source, other = val.sources[leak.place], train.sources[leak.other]
        similarity = _rounded(leak.similarity)
        records.append({"source": source, "other": other, "identical": leak.identical, "similarity": similarity})
        rows.append((*_line(val, leak.place), other, int(leak.identical), similarity))
    about = (
        f"{len(leaks):,} of the {len(val):,} pictures of {names[1]} are the same, or look the same, as one of "
        f"{names[0]}, which has {len(train):,}.",
        f"Near: cosine similarity of at least {threshold:g}.",
        *((APPLY,) if rows else ()),
    )
    header = (*COLUMNS, "other", "same_bytes", "similarity")
    return Report(Sheet(f"{names[1]} in {names[0]}", about, tuple(sections)), records, header, rows)


def mislabelled_report(
    suspects: Sequence[Suspect],
    embeddings: Embeddings,
    name: str,
    beside: Sequence[tuple[list[int], list[int]]],
) -> Report:
    """Args: beside: of each of the first suspects, pictures of both classes to compare it with: the given one first."""
    sections, records, rows = [], [], []
    for number, suspect in enumerate(suspects, start=1):
        given, suggested = beside[number - 1] if number <= len(beside) else ([], [])
        scores = _rounded(suspect.given_score), _rounded(suspect.suggested_score)
        tile = Tile(
            suspect.place,
            embeddings.sources[suspect.place],
            (f"labelled {suspect.given}: {scores[0]:.1%}",),
            f"{suspect.suggested}? {scores[1]:.1%}",
            sha256=embeddings.sha256[suspect.place],
        )
        others = [picture_tile(embeddings, place, (), "to compare") for place in (*given, *suggested)]
        title = f"{number}. labelled {suspect.given}, looks like {suspect.suggested}"
        sections.append(Section(title, (tile, *others)))
        record = {"source": tile.source, "given": suspect.given, "suggested": suspect.suggested}
        records.append({**record, "given_score": scores[0], "suggested_score": scores[1]})
        rows.append((tile.source, KEEP, suspect.given, suspect.suggested, *scores))
    about = (
        f"{len(suspects):,} of {len(embeddings):,} pictures have labels that look wrong, the likeliest first.",
        "Each was judged by a head that had not seen it. Beside it: the most similar pictures of both classes.",
        *((APPLY,) if rows else ()),
    )
    header = (*COLUMNS, "given_score", "suggested_score")
    return Report(Sheet(f"Labels of {name}", about, tuple(sections)), records, header, rows)


def picture_tile(embeddings: Embeddings, place: int, lines: tuple[str, ...], note: str = "") -> Tile:
    label = label_of(embeddings, place)
    said = (*([label] if label is not None else []), *lines)
    return Tile(place, embeddings.sources[place], said, note=note, sha256=embeddings.sha256[place])


def label_of(embeddings: Embeddings, place: int) -> str | None:
    return None if embeddings.labels is None else embeddings.labels[place]


def _line(embeddings: Embeddings, place: int) -> tuple[str, str, str, str]:
    """A picture's ``COLUMNS``; its class is its label's or, without one, its folder's."""
    source = embeddings.sources[place]
    return source, KEEP, label_of(embeddings, place) or PurePath(source).parent.name, ""


def _rounded(similarity: float) -> float:
    return round(similarity, 4)
