r"""Draw the pictures of the README and of docs/ with the demo's model.

make demo
python benchmarks/pictures.py out/demo/model --entities   # the README's; needs Chromium and Pillow

python scripts/demo.py --sentences 600 --epochs 2         # not trained to the end
python benchmarks/pictures.py out/demo/model --test_file out/demo/corpus/test.jsonl

python benchmarks/pictures.py --segments                  # docs/frames.md's, of tones in noise
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import AutoTokenizer, Wav2Vec2FeatureExtractor

from hf_semicrf import (
    SemiCRFForFrameClassification,
    SemiCRFForTokenClassification,
    SemiCRFFrameConfig,
    prepare_tokenizer,
)
from hf_semicrf.data import frame_labels
from hf_semicrf.data.readers import entity_spans, read_corpus
from hf_semicrf.reporting import plot_segments, plot_uncertainty, to_html
from hf_semicrf.reporting.tables import BLUE, GREY

SENTENCES = [
    "Hollis, Granger and Sons wrote to May June Parker about the flat.",
    "Did Jean-Pierre Delacroix reply from jp.delacroix@example.org?",
]
LETTERS = [
    "Good morning, Amelia Rosamund Clarke here. My new address is 48 Harbour View Terrace, "
    "Flat 3B, Port Kelling, KL7 2QD, and my number is 020 7946 0018.",
    "Please pay Hollis, Granger and Sons by 14 March 2025, IBAN DE89 3704 0044 0532 0130 00.",
    "Did Jean-Pierre Delacroix reply from jp.delacroix@example.org, or is he still on holiday?",
    "Rosa Marsh said that the Marsh family trust pays for May June Parker.",
]
CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
DOUBTFUL = "Please ask Rosa Marsh or the Marsh family trust before 3 May."
KNOWN = "Marsh family trust"
RATE, STEP = 1000, 50  # samples a second, samples a frame
THRESHOLDS = (0.02, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)


def draw_entities(model: Any, tokenizer: Any, path: Path) -> None:
    """A screenshot of the page that `predict --format html` writes, cut to its content."""
    from PIL import Image, ImageChops

    found = model.predict(LETTERS, tokenizer)
    page = to_html(LETTERS, found, types=model.config.scheme.types[1:])
    with TemporaryDirectory() as folder:
        source, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        source.write_text(page, encoding="utf-8")
        size = ["--window-size=820,900", "--force-device-scale-factor=1.5"]
        subprocess.run([*CHROMIUM, *size, f"--screenshot={shot}", source.as_uri()], check=True)
        image = Image.open(shot).convert("RGB")
    empty = Image.new("RGB", image.size, image.getpixel((0, 0)))
    left, top, right, bottom = ImageChops.difference(image, empty).getbbox()
    cut = image.crop((left - 12, top - 12, right + 12, bottom + 12))
    cut.quantize(64).save(path, optimize=True)


def draw_constraint(model: Any, tokenizer: Any, path: Path) -> None:
    """One sentence as the model sees it, and under the constraint that a span is an entity."""
    start = DOUBTFUL.index(KNOWN)
    span = {"start": start, "end": start + len(KNOWN), "label": "ORGANISATION"}
    plot_uncertainty(
        [model.analyze([DOUBTFUL], tokenizer, constraints=[spans])[0] for spans in ([], [span])],
        path,
    )


def draw_thresholds(model: Any, tokenizer: Any, file: str, path: Path) -> None:
    """Precision and recall on a test file, threshold by threshold."""
    corpus = read_corpus(file)
    gold = [set(spans) for spans in entity_spans(corpus, model.config.scheme)]
    points = []
    for threshold in THRESHOLDS:
        rows = model.predict(list(corpus["tokens"]), tokenizer, threshold=threshold)
        found = [{(e["start"], e["end"], e["label"]) for e in row} for row in rows]
        right = sum(len(a & b) for a, b in zip(gold, found, strict=True))
        points.append((right / sum(map(len, gold)), right / max(1, sum(map(len, found)))))
    figure = Figure((4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o-", color=BLUE, markersize=4, linewidth=1.2)
    for threshold, point in zip(THRESHOLDS, points, strict=True):
        axes.annotate(f"{threshold:g}", point, (4, 4), textcoords="offset points", fontsize=7,
                      color=GREY)  # fmt: skip
    axes.set(xlabel="recall", ylabel="precision", title="Entities by threshold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


class Filters(torch.nn.Module):
    """What the frames of a sound hold: the energy behind 16 filters, in the frame and beside it."""

    def __init__(self):
        super().__init__()
        self.filters = torch.nn.Conv1d(1, 16, 64, stride=STEP, padding=32)
        self.around = torch.nn.Conv1d(16, 16, 9, padding=4)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Vectors [B, N, 16] of sounds [B, samples]."""
        energy = self.filters(input_values[:, None])[..., :-1].square().log1p()
        return self.around(energy).mT

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths // STEP


def tones(seed: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Ten seconds of noise, in which low and high tones of any loudness take turns, and where."""
    random = torch.Generator().manual_seed(seed)
    sound = torch.randn(10 * RATE, generator=random)
    segments: list[dict[str, Any]] = []
    frame = 0
    while True:
        gap, length = (int(torch.randint(n, (), generator=random)) for n in (20, 40))
        begin, end = frame + gap * (gap > 5), frame + gap * (gap > 5) + length + 5
        if end > len(sound) // STEP:
            return sound, segments
        kind = len(segments) % 2
        tone = torch.sin(torch.arange(begin * STEP, end * STEP) * (0.3, 0.6)[kind])
        sound[begin * STEP : end * STEP] += tone * (0.2 + torch.rand((), generator=random))
        place = {"start": begin * STEP / RATE, "end": end * STEP / RATE}
        segments.append({"label": ("low", "high")[kind], **place})
        frame = end


def draw_segments(path: Path) -> None:
    """Tones in noise that a small model has not heard, as it hears them."""
    torch.manual_seed(0)
    config = SemiCRFFrameConfig(
        types=["low", "high"], hidden_size=16, frame_seconds=STEP / RATE, sampling_rate=RATE
    )
    model = SemiCRFForFrameClassification(config, Filters())
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    model.train()
    for step in range(300):
        sounds, segments = zip(*(tones(4 * step + n) for n in range(4)), strict=True)
        count = len(sounds[0]) // STEP
        labels = [frame_labels(x, config.types, STEP / RATE, count) for x in segments]
        loss = model(input_values=torch.stack(sounds), labels=torch.stack(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sound, gold = tones(100_000)
    model.eval()
    model.feature_extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False)
    (found,) = model.predict([sound], RATE)
    with torch.no_grad():
        posteriors = model(input_values=sound[None], output_head=True).head.marginals
    sides = {"starts": posteriors.start, "ends": posteriors.end}
    curves = {name: posteriors.token[0, :, n].tolist() for n, name in enumerate(config.types) if n}
    curves |= {name: x[0, :, 1:].sum(1).tolist() for name, x in sides.items()}
    plot_segments({"true": gold, "found": found}, path, curves, STEP / RATE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="folder of the demo's model")
    drawn = parser.add_mutually_exclusive_group(required=True)
    drawn.add_argument("--entities", action="store_true", help="draw entities.png alone")
    drawn.add_argument("--segments", action="store_true", help="draw segments.png alone")
    drawn.add_argument("--test_file", help="the demo's test corpus; draw the other pictures")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/pictures"))
    args = parser.parse_args(arguments)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.segments:
        return draw_segments(args.output_dir / "segments.png")
    if args.model is None:
        parser.error("expected the folder of the demo's model")
    model = SemiCRFForTokenClassification.from_pretrained(args.model)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
    if args.entities:
        return draw_entities(model, tokenizer, args.output_dir / "entities.png")
    predictions = model.analyze(SENTENCES, tokenizer)
    plot_uncertainty(predictions, args.output_dir / "uncertainty.png")
    draw_constraint(model, tokenizer, args.output_dir / "constraint.png")
    draw_thresholds(model, tokenizer, args.test_file, args.output_dir / "thresholds.png")


if __name__ == "__main__":
    main()
