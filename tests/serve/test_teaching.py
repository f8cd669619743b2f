"""What a server gives out so that the page can teach, and that it does so only where it was told to."""

from __future__ import annotations

import httpx2

from shvit.cli.main import main
from shvit.serve.settings import Settings
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS
from shvit.web import onnxruntime_web
from shvit.web.onnxruntime_web import FILES

from .conftest import TOKEN, running

FILE = f"v1/models/{DEFAULT_MODEL}/file"


def test_model_files_are_given_out_to_who_has_the_token(program):
    program("npm")
    with running("--teach", environment={"SHVIT_TOKEN": TOKEN}) as server, httpx2.Client(base_url=server.url) as client:
        assert client.get(FILE).status_code == 401
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        answer = client.get(FILE)
        assert answer.content == SHIPPED_MODELS[DEFAULT_MODEL].read_bytes()
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert client.get("v1/models/..%2Fother/file").status_code == 404
        error = client.get("v1/models/other/file").json()["error"]
        assert error == f"model: expected one of {DEFAULT_MODEL}, got 'other'"
        for name, kind in zip(FILES["wasm"], ("javascript", "javascript", "application/wasm"), strict=True):
            found = client.get(f"ort/{name}")
            assert found.status_code == 200
            assert kind in found.headers["Content-Type"]
        assert "/v1/models/{name}/file" in client.get("openapi.json").json()["paths"]


def test_another_file_of_the_models_name_is_not_given_out(tmp_path, program):
    program("npm")
    path = tmp_path / "mine.onnx"
    path.write_bytes(SHIPPED_MODELS[DEFAULT_MODEL].read_bytes())
    (tmp_path / "private").write_text("not for you")
    with running("--teach", "--model", str(path)) as server, httpx2.Client(base_url=server.url) as client:
        [model] = client.get("v1/models").json()["models"]
        file = f"v1/models/{model['name']}/file"
        assert client.get(file).status_code == 200
        path.unlink()
        gone = client.get(file)
        path.symlink_to(tmp_path / "private")
        changed = client.get(file)
    assert [gone.status_code, changed.status_code] == [404, 404]
    assert "changed or removed since the server started" in changed.json()["error"]


def test_nothing_is_given_out_otherwise():
    assert not Settings().teach
    with running() as server, httpx2.Client(base_url=server.url) as client:
        assert client.get(FILE).status_code == 404
        assert client.get(f"ort/{FILES['wasm'][0]}").status_code == 404
        assert "/v1/models/{name}/file" not in client.get("openapi.json").json()["paths"]


def test_without_what_fetches_the_runtime_it_is_said_before_the_server_listens(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", "--teach", "--port", "0"]) == 2
    assert "npm is not installed, and fetches onnxruntime-web" in capsys.readouterr().err


def test_the_runtime_is_unpacked_once(tmp_path, monkeypatch, program):
    program("npm")
    archive = onnxruntime_web.fetch_archive()
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(onnxruntime_web, "fetch_archive", lambda: archive)
    folder = onnxruntime_web.runtime_folder()
    assert {each.name for each in folder.iterdir()} >= set(FILES["wasm"])
    monkeypatch.setattr(onnxruntime_web, "write_runtime", None)
    assert onnxruntime_web.runtime_folder() == folder
