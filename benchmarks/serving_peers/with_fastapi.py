"""What is written first, an endpoint that classifies in FastAPI's thread pool: with_fastapi.py MODEL PORT."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from shvit import Classifier

classifier = Classifier(sys.argv[1], engine="onnxruntime")
app = FastAPI()


@app.post("/predict")
def predict(images: UploadFile) -> dict[str, Any]:
    return classifier.predict(images.file.read())[0].to_dict()


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
