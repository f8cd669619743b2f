"""The same classifier and the same batching in LitServe's worker: with_litserve.py MODEL PORT BATCH DELAY."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from shvit import Classifier


class API(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier(sys.argv[1], engine="onnxruntime", batch_size=self.max_batch_size)

    def decode_request(self, request) -> bytes:
        return request["images"].file.read()

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return list(inputs)

    def predict(self, batch: list[bytes]) -> list[dict[str, Any]]:
        # Decodes in a pool of threads, if it has several; decode_request would decode one by one.
        return [result.to_dict() for result in self.classifier.predict(batch)]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = API(max_batch_size=int(sys.argv[3]), batch_timeout=float(sys.argv[4]))
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
