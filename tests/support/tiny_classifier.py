"""A text classifier small enough to be made by a test: it adds up what each word weighs. Real ONNX, run by the
real onnxruntime, with a real `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = {"ignore": 4.0, "disregard": 4.0, "instructions": 2.0, "password": 2.0, "wire": 3.0, "zzz": 9.0}
BIAS = -3.0


def make(
    place: Path,
    words: Mapping[str, float] | None = None,
    *,
    labels: Sequence[str] = ("SAFE", "INJECTION"),
    bias: float = BIAS,
    name: str = "model.onnx",
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    scale: float = 1.0,
    **config: object,
) -> Path:
    """A directory in which words speak for the second label, and everything else for the first."""
    words = WORDS if words is None else words
    place.mkdir(parents=True, exist_ok=True)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {word: i + 4 for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(place / "tokenizer.json"))
    weights = np.zeros((len(vocabulary), len(labels)), np.float32)
    for word, weight in words.items():
        weights[vocabulary[word], len(labels) - 1] = weight * scale
    offset = np.zeros(len(labels), np.float32)
    offset[-1] = bias * scale
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_network(weights, offset, inputs), str(path))
    told = {"id2label": {str(i): label for i, label in enumerate(labels)}, "model_type": "bert", **config}
    (place / "config.json").write_text(json.dumps(told))
    return place


def _network(weights: np.ndarray, offset: np.ndarray, inputs: Sequence[str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "offset"], ["logits"]),
    ]
    constants = {
        "weights": weights,
        "offset": offset,
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info(each, TensorProto.INT64, ["batch", "length"]) for each in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "labels"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
