"""The report in a data set: its numbers are the clips', its page needs nothing beside itself."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import json
import tracemalloc

import matplotlib.image
import numpy as np
import pytest

from emotion_tfdata import testing
from emotion_tfdata.dataset.index import Index
from emotion_tfdata.dataset.manifest import Manifest
from preprocess.clip.measurements import Measurements, measure
from preprocess.reports import report, report_html


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A made-up data set with one clip that is loud, one that is late and one without a face."""
    data_dir = tmp_path_factory.mktemp("data")
    examples = testing.fake_examples(num_landmarks=478)
    valid = examples[7].landmarks_valid & (np.arange(len(examples[7].landmarks)) % 2 == 0)
    points = np.where(valid[:, None, None], examples[7].landmarks, 0)
    examples[7] = dataclasses.replace(examples[7], landmarks=points, landmarks_valid=valid)
    testing.write_data_set(str(data_dir), examples)
    manifest = Manifest.load(str(data_dir))
    manifest = dataclasses.replace(manifest, settings={"notes": ["one <b> note"]})
    rng = np.random.default_rng(0)
    measurements = {
        each.example_id: Measurements(-30 + rng.normal(), rng.normal(0, 0.005), ())
        for each in examples
    }
    measurements[examples[3].example_id] = Measurements(5.0, 0.0, ("a.wav",))
    measurements[examples[5].example_id] = Measurements(-30.0, 0.2)
    measurements[examples[6].example_id] = Measurements(-30.0, None)
    report.write_report(data_dir, manifest, report.summarize(manifest, measurements))
    return data_dir, examples, manifest, measurements


def test_counts_and_measures_are_the_clips(made):
    data_dir, examples, manifest, _ = made
    summary = json.loads((data_dir / "report.json").read_text())
    assert summary["clips_count"] == len(examples)
    emotions = [each.emotion for each in examples]
    assert summary["counts"]["emotion"] == {e: emotions.count(e) for e in sorted(set(emotions))}
    assert sum(summary["counts"]["actor"].values()) == len(examples)
    assert summary["counts"]["fold"] == {
        str(fold): shard.records for fold, shard in enumerate(manifest.shards)
    }
    lag = summary["measures"]["all"]["lag_s"]
    assert lag["count"] == len(examples) - 1
    values = [clip["lag_s"] for clip in summary["clips"] if clip["lag_s"] is not None]
    assert lag["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert lag["standard_error"] == pytest.approx(
        np.std(values, ddof=1) / np.sqrt(len(values)), abs=1e-5
    )
    assert summary["altered"] == ["a.wav"]


def test_the_oddest_clips_come_first_with_the_reason(made):
    data_dir, examples, *_ = made
    clips = json.loads((data_dir / "report.json").read_text())["clips"]
    oddness = [clip["oddness"] for clip in clips]
    assert oddness == sorted(oddness, reverse=True)
    why = {clip["example_id"]: clip["why"] for clip in clips}
    assert why[examples[3].example_id] == "loudness high"
    assert why[examples[5].example_id] == "lag high"
    assert why[examples[7].example_id] == "rows without a face"
    assert {clips[i]["example_id"] for i in range(3)} == {examples[i].example_id for i in (3, 5, 7)}


def held_bytes(manifest, clips):
    """What is held when the report of so many clips is drawn."""
    record = manifest.index.record(0)
    records = [
        dataclasses.replace(record, example_id=f"crema_d/{index:015d}") for index in range(clips)
    ]
    index = Index.of([records], {(record.corpus, record.actor): 0})
    manifest = dataclasses.replace(manifest, index=index)
    measurements = {
        each.example_id: Measurements(-30 + number / 10, number / 1e6)
        for number, each in enumerate(records)
    }
    tracemalloc.start()
    summary = report.summarize(manifest, measurements)
    # Ours alone: threads that earlier tests started allocate too.
    ours = [tracemalloc.Filter(True, f"*/{name}/*") for name in ("preprocess", "emotion_tfdata")]
    held = tracemalloc.take_snapshot().filter_traces(ours)
    tracemalloc.stop()
    assert len(summary["clips"]) == clips
    return sum(each.size for each in held.statistics("filename"))


def test_a_report_is_made_of_a_few_hundred_bytes_of_a_clip(made):
    _, _, manifest, _ = made
    few, many = (held_bytes(manifest, clips) for clips in (100, 1100))
    assert 50 < (many - few) / 1000 < 250


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "src" and value.startswith("data:image/png;base64,"):
                self.images.append(base64.b64decode(value.split(",")[1]))
            elif name in ("src", "href"):
                self.addresses.append(value)

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_in_itself(made):
    data_dir, examples, *_ = made
    page = Page()
    page.feed((data_dir / "report.html").read_text())
    assert not page.addresses
    assert "one <b> note" in page.text
    assert examples[3].example_id in page.text
    corpora = {each.corpus for each in examples}
    assert len(page.images) == 1 + 2 + len(corpora)
    for content in page.images:
        pixels = matplotlib.image.imread(io.BytesIO(content))
        assert pixels.shape[1] == 1100
        assert pixels[..., :3].std() > 0.02  # not blank


def test_the_same_data_set_has_the_same_report(made):
    data_dir, _, manifest, measurements = made
    page = report_html.page(data_dir, manifest, report.summarize(manifest, measurements))
    assert page == (data_dir / "report.html").read_text()


@pytest.mark.parametrize("landmarks", [0, 68, 478])
def test_clips_of_either_modality_are_drawn(landmarks):
    (example, *_) = testing.fake_examples(num_landmarks=landmarks or 6)
    if not landmarks:
        nothing = {
            name: getattr(example, name)[:0] for name in ("landmarks", "landmarks_valid", "head")
        }
        example = dataclasses.replace(example, **nothing)
    figure = report_html.plot_clip(example)
    assert len(figure.axes) == (3 if landmarks else 1)
    if landmarks:
        sound, mouth, faces = figure.axes
        assert sound.get_xlim() == mouth.get_xlim()
        assert [len(points.get_offsets()) for points in faces.collections] == 3 * [landmarks]
        marks = {line.get_xdata()[0] for line in sound.lines}
        assert {f"{mark:.2f} s" for mark in marks} == {text.get_text() for text in faces.texts}


def test_loudness_is_the_mean_energy_of_the_frames():
    (example, *_) = testing.fake_examples()
    loud = dataclasses.replace(example, audio=np.full((10, 4), -20, np.float32))
    assert measure(loud).loudness_db == pytest.approx(-20 + 10 * np.log10(4), abs=0.05)
    assert measure(dataclasses.replace(example, audio=example.audio[:0])).loudness_db is None
