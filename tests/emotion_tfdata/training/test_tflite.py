"""TFLite's and ONNX's own runtimes say what the model says, of clips one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from test_export import CHOSEN, raw_batches, trained

from emotion_tfdata.training import run_dir, tflite


@pytest.mark.parametrize(
    "options",
    [
        {"landmarks": CHOSEN},
        {"modalities": "audio", "trim_silence_db": 6.0, "relative_level": True},
        {"modalities": "landmarks", "video": "bilstm"},
        {"modalities": "audio", "audio": "cnn"},
    ],
    ids=["both, some landmarks", "audio, trimmed, levelled", "landmarks by LSTM", "audio by CNN"],
)
def test_it_says_what_the_model_says(fake_data_dir, tmp_path, monkeypatch, options):
    runtime = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="needs ai-edge-litert, of the extra [dev]"
    )
    model, data = trained(fake_data_dir, **options)
    tflite.save(model, data, tmp_path, temperature=1.5)
    serve = runtime.Interpreter(str(tmp_path / run_dir.TFLITE)).get_signature_runner()
    inputs = serve.get_input_details()
    (raw, _), (features, _) = next(
        zip(raw_batches(data), data.batches_of(data.held_out), strict=True)
    )
    expected = model.logits(features).numpy()
    shares = np.exp(expected / 1.5) / np.exp(expected / 1.5).sum(axis=1, keepdims=True)
    for row in range(len(expected)):
        one = {name: x.numpy()[row : row + 1] for name, x in raw.items() if name in inputs}
        said = serve(**one)
        np.testing.assert_allclose(said["logits"][0], expected[row], atol=1e-4)
        np.testing.assert_allclose(said["probabilities"][0], shares[row], atol=1e-4)
    assert expected.std(axis=0).min() > 3e-3  # clips differ by more than they are held to
    if "modalities" in options:
        return
    onnx = _as_onnx(tmp_path, monkeypatch)
    names = {each.name: each.name.split(":")[0].split("default_")[1] for each in onnx.get_inputs()}
    probabilities = onnx.run(None, {name: one[short] for name, short in names.items()})[1]
    np.testing.assert_allclose(probabilities[0], shares[-1], atol=1e-4)


def _as_onnx(folder, monkeypatch):
    """`model.tflite` by the command that the documentation names, as ONNX Runtime takes it."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra [dev]")
    convert = pytest.importorskip("tf2onnx.convert", reason="needs tf2onnx, of the extra [dev]")
    files = ["--tflite", str(folder / run_dir.TFLITE), "--output", str(folder / "model.onnx")]
    monkeypatch.setattr("sys.argv", ["tf2onnx.convert", "--opset", "17", *files])
    convert.main()
    return onnxruntime.InferenceSession(folder / "model.onnx")
