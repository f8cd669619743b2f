from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shvit.embeddings import table
from shvit.embeddings.table import (
    INFO,
    Embeddings,
    EmbeddingsInfo,
    EmbeddingsWriter,
    Rows,
    embeddings_schema,
    read_embeddings,
    read_info,
    rows_table,
)
from shvit.errors import ArgumentError, DataError

COUNT, VALUES = 20, 6


def made_info(**changes) -> EmbeddingsInfo:
    info = EmbeddingsInfo("shvit_s4", "a" * 64, "b" * 64, VALUES, "float32", False, False, 1, "1.0")
    return replace(info, **changes)


def made_rows(count: int = COUNT, failed: tuple[int, ...] = (), **columns) -> Rows:
    matrix = np.random.default_rng(0).standard_normal((count, VALUES)).astype(np.float32)
    return Rows(
        [f"photos/{place}.jpg" for place in range(count)],
        [None if place in failed else f"{place:064x}" for place in range(count)],
        matrix,
        ["no image" if place in failed else None for place in range(count)] if failed else None,
        **columns,
    )


def write(path, rows: Rows, info: EmbeddingsInfo | None = None):
    with EmbeddingsWriter(path, info or made_info(), rows.labels is not None, rows.views is not None) as writer:
        writer.write(rows)
    return path


def write_table(path, made: pa.Table):
    pq.write_table(made, path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read(tmp_path, dtype):
    info = made_info(dtype=dtype)
    rows = made_rows(failed=(3,))
    path = write(tmp_path / "embeddings.parquet", rows, info)
    found = read_embeddings(path)
    good = [place for place in range(COUNT) if place != 3]
    assert found.info == read_info(path) == info
    assert found.stored.dtype == dtype and found.matrix.dtype == np.float32
    np.testing.assert_array_equal(found.stored, rows.matrix[good].astype(dtype))
    assert found.sources == [rows.sources[place] for place in good]
    assert found.sha256 == [rows.sha256[place] for place in good]
    assert found.labels is None and found.views is None
    assert (len(found), found.failed) == (COUNT - 1, 1)
    columns = pq.read_table(path)
    assert columns.schema.remove_metadata() == embeddings_schema(info).remove_metadata()
    assert columns["embedding"][3].as_py() is None and columns["error"][3].as_py() == "no image"


def test_labels_and_views(tmp_path):
    rows = made_rows(4, labels=["cat", None, "dog", "cat"], views=["centre", "flip", "centre", "crop 1"])
    found = read_embeddings(write(tmp_path / "embeddings.parquet", rows))
    assert found.labels == ["cat", None, "dog", "cat"]
    assert found.views == ["centre", "flip", "centre", "crop 1"]


def test_rows_come_in_any_portions(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROW_GROUP", 8)
    info, rows = made_info(), made_rows()
    with (
        EmbeddingsWriter(tmp_path / "one.parquet", info) as one,
        EmbeddingsWriter(tmp_path / "b.parquet", info) as many,
    ):
        one.write(rows)
        made = rows_table(rows, info)
        for place in range(COUNT):
            many.write_table(made.slice(place, 1))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    footer = pq.read_metadata(tmp_path / "b.parquet")
    assert [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == [8, 8, 4]
    assert read_embeddings(tmp_path / "b.parquet").sources == rows.sources


def test_a_folder_of_parts(tmp_path):
    rows = made_rows()
    for number in range(2):
        write(tmp_path / f"part-{number}.parquet", rows)
    (tmp_path / "_shvit.parquet").write_bytes(b"no Parquet")
    (tmp_path / ".part.parquet").write_bytes(b"no Parquet")
    assert read_embeddings(tmp_path).sources == [*rows.sources, *rows.sources]
    write(tmp_path / "part-2.parquet", rows, made_info(flip=True))
    with pytest.raises(DataError, match=r"part-2\.parquet: does not belong together with part-0\.parquet: .*mirror"):
        read_embeddings(tmp_path)


def test_an_empty_file(tmp_path):
    found = read_embeddings(write(tmp_path / "embeddings.parquet", made_rows(0)))
    assert found.matrix.shape == (0, VALUES) and found.sources == []


def test_after_an_error_the_file_is_as_before(tmp_path):
    path = tmp_path / "embeddings.parquet"
    path.write_bytes(b"earlier")
    with pytest.raises(ZeroDivisionError), EmbeddingsWriter(path, made_info()) as writer:
        writer.write(made_rows())
        raise ZeroDivisionError
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_text(tmp_path):
    rows = replace(made_rows(1), sources=["caf\udce9.jpg"])
    assert read_embeddings(write(tmp_path / "embeddings.parquet", rows)).sources == ["caf\\xe9.jpg"]


def test_differences():
    info = made_info()
    assert info.difference(made_info(dtype="float16", model="taught", model_sha256="c" * 64, version="2")) is None
    for changes, said in (
        ({"backbone": "c" * 64, "model": "other", "model_sha256": "d" * 64}, "different networks, shvit_s4"),
        ({"stages": 2}, r"last stages: 1 and 2"),
        ({"flip": True}, r"mirror image: no and yes"),
        ({"normalized": True}, r"length 1: no and yes"),
    ):
        assert re.search(said, info.difference(made_info(**changes)) or "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": 0}, "values: expected 1 to"),
        ({"values": 10**9}, "values: expected 1 to"),
        ({"stages": 3}, "stages: expected 1 or 2"),
        ({"dtype": "float64"}, "dtype"),
        ({"backbone": "../etc"}, "backbone: expected 64"),
        ({"normalized": 1}, "normalized: expected bool"),
        ({"flip": None}, "flip: expected bool"),
        ({"model": 5}, "model: expected str"),
    ],
)
def test_damaged_info_is_refused(changes, said):
    with pytest.raises(DataError, match=f"a.parquet: .*{said}"):
        EmbeddingsInfo.from_json(json.dumps({**asdict(made_info()), **changes}), "a.parquet")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"model": NaN}'])
def test_what_is_no_info_is_refused(text):
    with pytest.raises(DataError, match=r"a\.parquet"):
        EmbeddingsInfo.from_json(text, "a.parquet")


def changed(column: str, values) -> pa.Table:
    made = rows_table(made_rows(), made_info())
    place = made.schema.get_field_index(column)
    return made.set_column(
        place, made.schema.field(place).with_nullable(True), pa.array(values, made.schema.types[place])
    )


def embeddings(place: int, value) -> list:
    numbers = made_rows().matrix.tolist()
    if value is None:
        numbers[place] = None
    else:
        numbers[place][2] = value
    return numbers


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: pa.table({"a": [1]}), "holds no embeddings"),
        (lambda: rows_table(made_rows(), made_info()).drop_columns("sha256"), "a column sha256 of text, got none"),
        (lambda: rows_table(made_rows(), made_info()).drop_columns("embedding"), "of lists of 6 float32, got none"),
        (
            lambda: rows_table(made_rows(), made_info()).replace_schema_metadata({INFO: made_info(values=7).to_json()}),
            "of lists of 7 float32, got fixed_size_list",
        ),
        (
            lambda: rows_table(made_rows(), made_info()).replace_schema_metadata({INFO: "{"}),
            "what it says of its embeddings cannot be read",
        ),
        (lambda: changed("embedding", embeddings(5, float("nan"))), "the embedding of photos/5.jpg is not finite"),
        (lambda: changed("embedding", embeddings(5, float("inf"))), "the embedding of photos/5.jpg is not finite"),
        (lambda: changed("embedding", embeddings(5, None)), "neither an embedding nor an error"),
        (lambda: changed("error", ["why"] * COUNT), "neither an embedding nor an error, or both"),
        (lambda: changed("sha256", ["A" * 64] * COUNT), "no digest"),
        (lambda: changed("sha256", [None] * COUNT), "has no sha256"),
        (lambda: changed("source", [None] * COUNT), "has no source"),
        (lambda: changed("source", ["x" * 100_000] * COUNT), "a text of 100,000 bytes in the column source"),
    ],
)
def test_files_that_are_not_ours_are_refused(tmp_path, made, said):
    path = write_table(tmp_path / "embeddings.parquet", made())
    with pytest.raises(DataError, match=said):
        read_embeddings(path)


def test_more_than_is_accepted_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "embeddings.parquet", made_rows())
    monkeypatch.setattr(table, "MAX_BYTES", COUNT * VALUES * 4 - 1)
    monkeypatch.setattr(table, "_read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match="20 rows of 6 values"):
        read_embeddings(path)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", np.nan), ("float32", 3e38), ("float32", -1e17), ("float16", -np.inf)]
)
def test_numbers_that_cannot_be_compared_are_refused(tmp_path, dtype, value):
    rows = made_rows()
    rows.matrix[7, 2] = value
    path = write(tmp_path / "embeddings.parquet", rows, made_info(dtype=dtype))
    with pytest.raises(DataError, match=r"embedding of photos/7\.jpg is not finite, or above 1e\+16"):
        read_embeddings(path)


def test_a_small_file_of_many_long_texts_is_refused(tmp_path, monkeypatch):
    rows = made_rows()
    path = write(tmp_path / "embeddings.parquet", replace(rows, sources=["x" * 1000] * COUNT))
    whole = COUNT * (1000 + 64)
    monkeypatch.setattr(table, "MAX_TEXTS_BYTES", whole)
    assert len(read_embeddings(path)) == COUNT
    monkeypatch.setattr(table, "MAX_TEXTS_BYTES", 10_000)
    with pytest.raises(DataError, match="names, digests and labels of more than"):
        read_embeddings(path)


def test_what_cannot_be_opened(tmp_path):
    for path, said in (
        (tmp_path / "missing.parquet", "no such file or folder"),
        (tmp_path, "no Parquet files in this folder"),
        ("/dev/null", "is a device"),
    ):
        with pytest.raises(DataError, match=said):
            read_embeddings(path)
    whole = write(tmp_path / "whole.parquet", made_rows()).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.parquet"):
            read_embeddings(tmp_path / "cut.parquet")


def test_damaged_files_give_data_errors(tmp_path):
    path = write(tmp_path / "embeddings.parquet", made_rows(failed=(2,)))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(len(damaged))] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            found = read_embeddings(path)
        except DataError:
            continue
        assert isinstance(found, Embeddings) and np.isfinite(found.matrix).all()


def test_rows_that_do_not_fit_are_refused(tmp_path):
    info = made_info()
    for rows in (
        replace(made_rows(), matrix=np.zeros((COUNT, VALUES + 1), np.float32)),
        replace(made_rows(), sha256=["a" * 64]),
        replace(made_rows(), labels=["cat"]),
    ):
        with pytest.raises(ArgumentError, match="expected"):
            rows_table(rows, info)
    with pytest.raises(ArgumentError, match="label"), EmbeddingsWriter(tmp_path / "a.parquet", info) as writer:
        writer.write(made_rows(labels=["cat"] * COUNT))
