"""A real S3 server on loopback, for the source and for the output."""

from __future__ import annotations

import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..conftest import PATIENCE
from .conftest import DAMAGED, batch, command, jpeg, write_tar

boto3 = pytest.importorskip("boto3", reason="needs moto[server]")


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def client(server, monkeypatch):
    """A client with a new bucket; the environment tells s3fs where the server is, as a user's does."""
    import fsspec
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield client
    for each in client.list_objects_v2(Bucket="photos").get("Contents", ()):
        client.delete_object(Bucket="photos", Key=each["Key"])
    client.delete_bucket(Bucket="photos")
    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.config.conf.clear()


def rows_in(client, prefix: str) -> list[dict[str, object]]:
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="photos", Prefix=f"{prefix}/part-")["Contents"]]
    bodies = [client.get_object(Bucket="photos", Key=key)["Body"].read() for key in sorted(keys)]
    return pa.concat_tables([pq.read_table(pa.BufferReader(body)) for body in bodies]).to_pylist()


def test_objects_to_objects_in_two_processes(colour_model, client):
    for number in range(40):
        client.put_object(Bucket="photos", Key=f"in/{number // 10}/{number:03d}.jpg", Body=jpeg(number))
    client.put_object(Bucket="photos", Key="in/1/013.jpg", Body=DAMAGED)
    client.put_object(Bucket="photos", Key="in/1/014.jpg", Body=b"")
    client.put_object(Bucket="photos", Key="in/notes.txt", Body=b"x")
    arguments = command(colour_model, "s3://photos/out", "s3://photos/in", "--workers", 2)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, "")
    rows = rows_in(client, "out")
    assert [row["source"] for row in rows] == [f"s3://photos/in/{n // 10}/{n:03d}.jpg" for n in range(40)]
    assert [n for n, row in enumerate(rows) if row["error"]] == [13, 14]
    assert rows[14]["error"] == "the file is empty"
    assert all(row["labels"][0] == ("red", "green", "blue")[n % 3] for n, row in enumerate(rows) if not row["error"])


def test_a_run_on_a_store_goes_on_and_an_object_that_is_gone_is_one_failed_row(colour_model, client):
    for number in range(20):
        client.put_object(Bucket="photos", Key=f"in/{number:03d}.jpg", Body=jpeg(number))
    batch(colour_model, "s3://photos/out", "s3://photos/in")
    expected = rows_in(client, "out")
    for number in (0, 1):
        client.delete_object(Bucket="photos", Key=f"out/part-{number:08d}.parquet")
    client.delete_object(Bucket="photos", Key="in/003.jpg")
    done = batch(colour_model, "s3://photos/out", "s3://photos/in")
    assert (done.inputs, done.inputs_now, done.failed) == (20, 16, 1)
    rows = rows_in(client, "out")
    assert rows[3]["error"] == "No such file or directory"
    assert [row for n, row in enumerate(rows) if n != 3] == [row for n, row in enumerate(expected) if n != 3]


def test_shards_and_tables_stream_from_a_store(colour_model, client, tmp_path):
    whole = write_tar(tmp_path / "a.tar", [(f"{n:03d}.jpg", jpeg(n)) for n in range(12)]).read_bytes()
    client.put_object(Bucket="photos", Key="shards/a.tar", Body=whole)
    client.put_object(Bucket="photos", Key="shards/b.tar", Body=whole[:8000])
    done = batch(colour_model, "s3://photos/labels", "s3://photos/shards/*.tar")
    rows = rows_in(client, "labels")
    assert (done.inputs, done.failed) == (len(rows), 1)
    assert [row["source"] for row in rows[:12]] == [f"s3://photos/shards/a.tar:{n:03d}.jpg" for n in range(12)]
    assert rows[-1]["error"]
    table = pa.table({"image": [jpeg(n) for n in range(9)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=5)
    client.upload_file(str(tmp_path / "t.parquet"), "photos", "tables/t.parquet")
    done = batch(colour_model, tmp_path / "out", "s3://photos/tables")
    assert (done.inputs, done.failed) == (9, 0)


def test_a_bucket_that_is_not_there_is_a_line(colour_model, client, tmp_path):
    done = subprocess.run(
        command(colour_model, tmp_path / "out", "s3://nobody/in"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr == "shvit batch: error: s3://nobody/in: The specified bucket does not exist\n"
    arguments = command(colour_model, "s3://nobody/out", str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr.startswith("shvit batch: error: s3://nobody/out")
    assert len(done.stderr.splitlines()) == 1
