"""A real Ray cluster of three nodes on this machine, and what becomes of a run when parts of it are killed."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace

import numpy as np
import pytest

import shvit
from shvit.batch.listing import Item, Unit
from shvit.batch.plan import BatchSettings, make_plan
from shvit.batch.stores import Output
from shvit.errors import BatchError

from ..conftest import PATIENCE, children
from .conftest import batch, command, parts, rows_of, wait_for, write_folder

pytest.importorskip("ray", reason="needs shvit[ray]")


@pytest.fixture(scope="module")
def cluster():
    """A head of one processor; a test adds the nodes that it takes away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        from ray.cluster_utils import Cluster

        arguments = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=arguments)
        yield cluster
        cluster.shutdown()


def actors(cluster) -> list[int]:
    """Processes of workers that have units, on all nodes."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    return [pid for raylet in raylets for pid, line in children(raylet) if line.startswith("ray::Actor.run")]


def test_a_worker_and_a_node_die_and_the_output_is_that_of_an_undisturbed_run(
    colour_model, slow_pictures, slow_rows, tmp_path, cluster
):
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    cluster.wait_for_nodes()
    process = subprocess.Popen(
        command(colour_model, tmp_path / "out", slow_pictures, "--ray-address", cluster.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: parts(tmp_path / "out") >= 1 and len(actors(cluster)) >= 2, process)
    os.kill(actors(cluster)[0], signal.SIGKILL)
    before = parts(tmp_path / "out")
    wait_for(lambda: parts(tmp_path / "out") > before, process)
    raylet = nodes[0].all_processes["raylet"][0].process.pid
    wait_for(lambda: any("ray::Actor.run" in line for _, line in children(raylet)), process)
    cluster.remove_node(nodes[0], allow_graceful=False)
    assert parts(tmp_path / "out") < 20, "the node outlived the run"
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.startswith(f"{tmp_path / 'out'}: 160 inputs, 0 failed")
    assert err.endswith("2 workers died and were replaced\n")
    assert rows_of(tmp_path / "out") == slow_rows
    cluster.remove_node(nodes[1])


@pytest.mark.slow
def test_a_killed_driver_leaves_the_cluster_usable_and_the_run_goes_on(
    colour_model, slow_pictures, slow_rows, tmp_path, cluster
):
    arguments = command(colour_model, tmp_path / "out", slow_pictures, "--ray-address", cluster.address)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: parts(tmp_path / "out") >= 2, process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert 2 <= parts(tmp_path / "out") < 20
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "inputs are done already" in done.stderr
    assert rows_of(tmp_path / "out") == slow_rows


def test_the_model_goes_along_and_need_not_be_on_the_nodes(colour_model, tmp_path):
    from shvit.batch.cluster import Actor

    folder = write_folder(tmp_path / "in", 3)
    setup = make_plan(BatchSettings((str(folder),), str(colour_model)), Output(str(tmp_path / "out"))).setup
    elsewhere = replace(setup, model=tmp_path / "only on the driver" / "colours.onnx")
    actor = Actor()
    assert actor.start(elsewhere, colour_model.read_bytes()) is None
    unit = Unit(0, tuple(Item(str(path), 1) for path in sorted(folder.rglob("*.jpg"))))
    done = actor.run(unit)
    assert (done.inputs, done.failed) == (3, 0)
    assert "0.0.1, a worker has" in Actor().start(replace(setup, version="0.0.1"), b"")
    assert "not a model" in Actor().start(setup, b"nothing of the kind")


def test_a_classifier_can_be_handed_to_a_task(colour_model, cluster):
    import ray

    classifier = shvit.Classifier(colour_model, threads=1)
    red = np.full((40, 50, 3), (220, 30, 10), np.uint8)
    ray.init(address=cluster.address)
    try:
        ask = ray.remote(lambda made: made.predict(red)[0])
        assert ray.get(ask.remote(classifier), timeout=PATIENCE) == classifier.predict(red)[0]
    finally:
        ray.shutdown()


def test_an_address_where_no_cluster_is_says_so(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 3)
    with pytest.raises(BatchError, match=r"--ray-address 127\.0\.0\.1:1: cannot be reached"):
        batch(colour_model, tmp_path / "out", folder, ray_address="127.0.0.1:1")
