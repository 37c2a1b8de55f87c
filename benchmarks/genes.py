"""Heads side by side where segments are hundreds of positions long: genes of a chromosome.

python benchmarks/genes.py --data DIR --out benchmarks/results/genes.jsonl
python benchmarks/genes.py --generated --out benchmarks/results/genes.jsonl

DIR holds `sequence.txt[.gz]` (bases) and `genes.tsv` (start, end, strand, kind). Every head reads
the same encoder, dilated convolutions over one-hot bases and the distances to the stop codons of
each reading frame. For each seed the encoder is trained below a softmax first, and each head,
softmax too, goes on from there in as many steps.

The rule for overlaps, fixed before any training: a segmentation has one gene a base. Where two
neighbouring genes overlap, the bases go to the gene whose stop codon lies among them; to the
earlier gene where both stops do, or none. The other gene is cut, and what is cut is counted. The
row "labels" is the score of the labels after these cuts. The row "any segmentation" is the most
that one can reach: as many genes as fit side by side, exactly, and nothing else.
Pseudogenes are not trained on, and a gene found mostly inside one is no false alarm.

The generated task has durations and noise that are known, so that the true model decodes it too: it
is the ceiling.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_semicrf import HeadSettings, SemiCRF, ops

TRAIN, VALIDATION, TEST = (0, 189_700), (191_102, 254_000), (254_000, 317_336)
CROP = 8192  # bases
TAGS = 5  # O, B+, I+, B-, I-
HEADS = ("softmax", "crf", "free", "geometric", "negative_binomial")


class Gene(NamedTuple):
    """A gene: first base, base after the last, and 1 on the strand that is read, else 2."""

    start: int
    end: int
    kind: int

    @property
    def stop(self) -> int:
        """Where its stop codon ends."""
        return self.end if self.kind == 1 else self.start


class Chromosome(NamedTuple):
    """Bases by number [N], `inputs` of the encoder [N, 16], genes, pseudogenes, and what was cut.

    `labels` has the type and `starts` whether a segment starts [N]. `cut_genes` and `cut_bases`
    say how many the rule for overlaps cut.
    """

    bases: Tensor
    inputs: Tensor
    genes: list[Gene]
    pseudogenes: list[Gene]
    labels: Tensor
    starts: Tensor
    cut_genes: int
    cut_bases: int


def read(folder: Path) -> Chromosome:
    """The chromosome in a folder."""
    path = folder / "sequence.txt.gz"
    if path.exists():
        sequence = gzip.decompress(path.read_bytes()).decode().strip()
    else:
        sequence = (folder / "sequence.txt").read_text().strip()
    rows = [line.split("\t") for line in (folder / "genes.tsv").read_text().splitlines()[1:]]
    genes = [(Gene(int(a), int(b), 1 if s == "+" else 2), kind) for a, b, s, kind in rows]
    bases = torch.tensor(["acgt".index(base) for base in sequence])
    cds = [gene for gene, kind in genes if kind == "CDS"]
    return labelled(bases, cds, [gene for gene, kind in genes if kind != "CDS"])


def labelled(bases: Tensor, genes: list[Gene], pseudogenes: list[Gene]) -> Chromosome:
    """Labels of genes by the rule for overlaps."""
    kept = [list(gene) for gene in genes]
    cut = set()
    bases_cut = 0
    for n, (left, right) in enumerate(zip(genes, genes[1:], strict=False)):
        if right.start >= kept[n][1]:
            continue
        overlap = range(right.start, kept[n][1] + 1)
        bases_cut += len(overlap) - 1
        if right.kind == 2 and left.kind == 2:  # the stop of the right one alone
            kept[n][1] = right.start
            cut.add(n)
        else:
            kept[n + 1][0] = kept[n][1]
            cut.add(n + 1)
    labels = torch.zeros(len(bases), dtype=torch.long)
    starts = torch.ones(len(bases), dtype=torch.bool)
    for start, end, kind in kept:
        labels[start:end] = kind
        starts[start + 1 : end] = False
    return Chromosome(
        bases, inputs_of(bases), genes, pseudogenes, labels, starts, len(cut), bases_cut
    )


def complement(c: Chromosome) -> Chromosome:
    """The other strand, read from its own start."""
    size = len(c.bases)

    def turned(genes: list[Gene]) -> list[Gene]:
        return sorted(Gene(size - end, size - start, 3 - kind) for start, end, kind in genes)

    return labelled(3 - c.bases.flip(0), turned(c.genes), turned(c.pseudogenes))


class Crops:
    """Random pieces that begin and end outside genes and hold no pseudogene."""

    def __init__(self, c: Chromosome, region: tuple[int, int], seed: int):
        self.c = c
        self.random = torch.Generator().manual_seed(seed)
        free = c.labels == 0
        barred = torch.zeros_like(free)
        for start, end, _ in c.pseudogenes:
            barred[start:end] = True
        begin, end = region
        inside = torch.arange(begin, end)
        self.cuts = inside[(free & ~barred)[begin:end]]
        self.barred = torch.cat([torch.zeros(1), barred.cumsum(0)])

    def draw(self) -> tuple[int, int]:
        """First base and base after the last."""
        while True:
            at = int(torch.randint(len(self.cuts), (), generator=self.random))
            begin = int(self.cuts[at])
            limits = torch.tensor([begin + 501, begin + CROP + 1])
            first, after = torch.searchsorted(self.cuts, limits).tolist()
            ends = self.cuts[first:after]
            ends = ends[self.barred[ends] == self.barred[begin]]
            if len(ends):
                return begin, int(ends[-1])


class Dilated(nn.Module):
    """Residual convolutions over inputs [B, N, 16], read on both strands by the same weights.

    Each has twice the reach of the one before, in codons: their positions keep the reading frame.
    """

    def __init__(self, width: int = 128, layers: int = 8):
        super().__init__()
        self.stem = nn.Conv1d(16, width, 9, padding=4)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=3 * 2**n, dilation=3 * 2**n) for n in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.dropout = nn.Dropout(0.3)

    def strand(self, x: Tensor, inside: Tensor) -> Tensor:
        """Vectors [B, N, H] of one strand; where a convolution reads padding it reads zeros."""
        x = self.stem(x.mT) * inside
        for norm, layer in zip(self.norms[:-1], self.layers, strict=True):
            x = x + self.dropout(layer(nn.functional.gelu(norm(x.mT).mT) * inside)) * inside
        return self.norms[-1](x.mT)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Vectors [B, N, 2 H]."""
        place = torch.arange(x.shape[1], device=x.device)
        inside = (place < lengths[:, None])[:, None]
        turned = (lengths[:, None] - 1 - place).clamp(min=0)[..., None]
        other = self.strand(x.flip(-1).take_along_dim(turned, 1) * inside.mT, inside)
        return torch.cat([self.strand(x, inside), other.take_along_dim(turned, 1)], -1)


class Tagger(nn.Module):
    """Encoder and head.

    Args:
        name: One of `HEADS`.
        inputs: Width of the inputs.
        longest: Longest segment of the head with free lengths.
        begins: Where tails begin.
        encoder: Whether to read the inputs by convolutions.
        types: Segment types, the outside included.
    """

    def __init__(
        self, name: str, inputs: int, longest: int, begins: int, encoder: bool, types: int = 3
    ):
        super().__init__()
        width = 256 if encoder else inputs
        self.name, self.types = name, types
        self.encoder = Dilated() if encoder else None
        if name in ("softmax", "crf"):
            tags = 2 * types - 1
            self.output = nn.Linear(width, tags)
            self.transition = nn.Parameter(torch.zeros(tags, tags))
        else:
            free = name == "free"
            settings = HeadSettings(
                longest if free else begins, "boundary", 0.0, threshold=None,
                length_prior=name, tail_order=3,
            )  # fmt: skip
            self.head = SemiCRF(width, types, settings)

    def states(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Vectors [B, N, H]."""
        return x if self.encoder is None else self.encoder(x, lengths)

    def chain(self, states: Tensor, lengths: Tensor) -> ops.Potentials:
        """The linear chain: segments of length 1, whose types are tags."""
        tags = len(self.transition)
        before, after = torch.arange(tags)[:, None], torch.arange(tags)[None, :]
        inner = (after > 0) & (after % 2 == 0)
        never = inner & (before != after) & (before != after - 1)
        zeros = states.new_zeros(tags)
        first = zeros.masked_fill(inner[0].to(zeros.device), -torch.inf)
        return ops.Potentials(
            emission=self.output(states),
            duration=states.new_zeros(1, tags),
            transition=self.transition.masked_fill(never.to(zeros.device), -torch.inf),
            initial=first,
            final=zeros,
            lengths=lengths,
        )

    def loss(self, x: Tensor, lengths: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        """Nats a position."""
        states = self.states(x, lengths)
        tags = torch.where(labels > 0, 2 * labels - starts.long(), 0)
        inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        if self.name == "softmax":
            nll = nn.functional.cross_entropy(self.output(states)[inside], tags[inside])
            return nll
        if self.name == "crf":
            every = torch.ones_like(starts)
            nll = ops.negative_log_likelihood(self.chain(states, lengths), tags, every)
        else:
            nll = self.head(states, lengths, labels, starts, decode=False).nll
        return nll.sum() / lengths.sum()

    @torch.no_grad()
    def decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Types and starts [N] of one sequence [N, K]."""
        lengths = torch.tensor([len(x)], device=x.device)
        states = self.states(x[None], lengths)
        if self.name in ("softmax", "crf"):
            if self.name == "softmax":
                tags = self.output(states)[0].argmax(-1)
            else:
                tags = ops.best_segmentation(self.chain(states, lengths))[0][0]
            types = (tags + 1) // 2
            changed = torch.ones_like(tags, dtype=torch.bool)
            changed[1:] = types[1:] != types[:-1]
            return types.cpu(), (changed | (tags % 2 == 1) | (tags == 0)).cpu()
        p = self.head.potentials(states, lengths)
        labels, starts = ops.best_segmentation(p)
        return labels[0].cpu(), starts[0].cpu()


def segments(labels: Tensor, starts: Tensor) -> list[Gene]:
    """The segments of a segmentation that are not outside."""
    begins = starts.nonzero().flatten().tolist()
    ends = [*begins[1:], len(labels)]
    kinds = labels[begins].tolist()
    return [Gene(a, b, k) for a, b, k in zip(begins, ends, kinds, strict=True) if k]


def scores(
    found: Sequence[Gene], gold: Sequence[Gene], ignored: Sequence[Gene]
) -> dict[str, float]:
    """F1 of genes with both ends right, and with the stop right, in percent."""

    def inside(gene: Gene) -> bool:
        shared = (min(gene.end, x.end) - max(gene.start, x.start) for x in ignored)
        return max(shared, default=0) > (gene.end - gene.start) / 2

    true = set(gold)
    counted = [gene for gene in found if gene in true or not inside(gene)]
    both = len(set(counted) & true)
    stops = len({(x.stop, x.kind) for x in counted} & {(x.stop, x.kind) for x in true})
    total = max(1, len(counted) + len(true))
    return {"exact": 200 * both / total, "stop": 200 * stops / total, "found": len(counted)}


def measured(c: Chromosome, region: tuple[int, int], labels: Tensor, starts: Tensor) -> dict:
    """Scores of a segmentation of a region."""
    begin, end = region

    def within(genes: list[Gene]) -> list[Gene]:
        return [Gene(a - begin, b - begin, k) for a, b, k in genes if begin <= a and b <= end]

    inside = torch.ones(end - begin, dtype=torch.bool)
    for start, stop, _ in within(c.pseudogenes):
        inside[start:stop] = False
    right = (labels == c.labels[begin:end])[inside].double().mean()
    found = scores(segments(labels, starts), within(c.genes), within(c.pseudogenes))
    return found | {"bases": 100 * float(right)}


def reachable(c: Chromosome, region: tuple[int, int]) -> dict[str, float]:
    """The highest F1 of any segmentation of a region: its genes that fit side by side, alone."""
    begin, end = region
    genes = [gene for gene in c.genes if begin <= gene.start and gene.end <= end]
    fitting, last = 0, 0
    for gene in sorted(genes, key=lambda gene: gene.end):
        if gene.start >= last:
            fitting, last = fitting + 1, gene.end
    return {"exact": 200 * fitting / (fitting + len(genes)), "stop": 100.0, "bases": 100.0}


def inputs_of(bases: Tensor) -> Tensor:
    """What the encoder reads of bases [N]: one strand's `stop_distances`, one-hot, the other's.

    Read backwards along both axes they are the inputs of the other strand.
    """
    other = stop_distances(3 - bases.flip(0)).flip(0, 1)
    one_hot = nn.functional.one_hot(bases, 4)
    return torch.cat([stop_distances(bases), one_hot, other], 1)


def stop_distances(bases: Tensor) -> Tensor:
    """Log-distances to the next and the last stop codon in the frames of a strand [N, 6].

    Frame k of a position has a codon that begins k bases before it.
    """
    size = len(bases)
    codons = (bases.unfold(0, 3, 1) * bases.new_tensor([16, 4, 1])).sum(1)
    stops = torch.isin(codons, torch.tensor([48, 50, 56]))  # taa, tag, tga
    rows = -(-size // 3)
    place = torch.arange(3 * rows).view(rows, 3)
    stops = nn.functional.pad(stops, (0, 3 * rows - len(stops))).view(rows, 3)
    following = torch.where(stops, place, size).flip(0).cummin(0).values.flip(0).flatten()
    last = torch.where(stops, place, -1).cummax(0).values.flatten()
    n = torch.arange(size)
    columns = []
    for k in range(3):
        codon = (n - k).clamp(min=0)
        columns += [following[codon] - codon, codon - last[codon]]
    return torch.stack(columns, 1).float().log1p() / 4


def train(model: Tagger, batches: Any, steps: int, rate: float) -> None:
    """AdamW with warm-up and a cosine; a head over an encoder learns ten times as fast as that."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.startswith("encoder.")].append(parameter)
    slow = rate / 10 if groups[True] else rate
    optimizer = torch.optim.AdamW(
        [{"params": groups[True], "lr": slow}, {"params": groups[False], "lr": rate}],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1, (n + 1) / 50) * (1 + math.cos(math.pi * n / steps)) / 2
    )
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(*batches()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def gene_batches(c: Chromosome, seed: int, size: int, device: str) -> Any:
    """What draws a batch of crops of both strands."""
    other = complement(c)
    begin, end = TRAIN
    mirrored = (len(c.bases) - end, len(c.bases) - begin)
    sides = [Crops(c, TRAIN, seed), Crops(other, mirrored, seed + 1)]

    def draw() -> tuple[Tensor, ...]:
        pieces = [(side.c, *side.draw()) for side in sides for _ in range(size // 2)]
        pad = nn.utils.rnn.pad_sequence
        lengths = torch.tensor([b - a for _, a, b in pieces])
        inputs = pad([x.inputs[a:b] for x, a, b in pieces], batch_first=True)
        labels = pad([x.labels[a:b] for x, a, b in pieces], batch_first=True)
        starts = pad([x.starts[a:b] for x, a, b in pieces], batch_first=True)
        return tuple(x.to(device) for x in (inputs, lengths, labels, starts))

    return draw


def in_pieces(c: Chromosome, longest: int) -> Chromosome:
    """Labels whose genes are cut into pieces of at most `longest` bases."""
    starts = c.starts.clone()
    for gene in segments(c.labels, c.starts):
        starts[gene.start : gene.end : longest] = True
    return c._replace(starts=starts)


def lengths_of(labels: Tensor, starts: Tensor, types: int) -> list[list[int]]:
    """Lengths of the segments of each type."""
    rows: list[list[int]] = [[] for _ in range(types)]
    for gene in segments(labels, starts):
        rows[gene.kind].append(gene.end - gene.start)
    return rows


class Truth(NamedTuple):
    """The generated task: segments of two types between outside stretches, seen through noise."""

    means: Tensor
    noise: float
    order: int
    stay: float

    def draw(self, positions: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs [N, K], labels and starts [N]; lengths are 2 + a negative binomial."""
        random = torch.Generator().manual_seed(seed)
        labels = torch.zeros(positions, dtype=torch.long)
        starts = torch.ones(positions, dtype=torch.bool)
        rate = (1 - self.stay) / self.stay
        n = 0
        while n < positions:
            n += 1 + int(torch.empty(()).exponential_(1 / 40, generator=random))  # outside
            shape = torch.full((self.order,), 1.0)
            mean = torch.zeros_like(shape).exponential_(rate, generator=random).sum()
            length = 2 + int(torch.poisson(mean, generator=random))
            if n + length >= positions:
                break
            labels[n : n + length] = 1 + int(torch.randint(2, (), generator=random))
            starts[n + 1 : n + length] = False
            n += length
        x = self.means[labels] + self.noise * torch.randn(positions, 3, generator=random)
        return x, labels, starts

    def potentials(self, x: Tensor) -> ops.TailedPotentials:
        """The true model's: log-densities of the inputs and the law of the lengths."""
        density = -((x[:, None] - self.means.to(x)) ** 2).sum(-1) / (2 * self.noise**2)
        stays = x.new_full((3,), math.log(self.stay))
        enter = x.new_full((3,), self.order * math.log(1 - self.stay) + math.log(0.5))
        enter[0] = -torch.inf
        duration = x.new_tensor([[0.0, -torch.inf, -torch.inf]])
        leave = 1 / 40.5  # chance that an outside position is the last one
        transition = x.new_full((3, 3), -torch.inf)
        transition[0], transition[1:, 0] = math.log(leave), 0.0
        transition[0, 0] = math.log(1 - leave)
        zeros = x.new_zeros(3)
        body = ops.Potentials(
            emission=density[None], duration=duration, transition=transition, initial=zeros,
            final=zeros, lengths=torch.tensor([len(x)], device=x.device),
        )  # fmt: skip
        return ops.TailedPotentials(body, enter, stays, self.order)


def generated_scores(labels: Tensor, starts: Tensor, gold: tuple[Tensor, Tensor]) -> dict:
    """F1 of segments with both ends right and within 5 positions, and positions, in percent."""
    found, true = segments(labels, starts), segments(*gold)
    exact = len(set(found) & set(true))
    near = {(a, b, k): True for a, b, k in true}
    close = sum(
        any((a + i, b + j, k) in near for i in range(-5, 6) for j in range(-5, 6))
        for a, b, k in found
    )
    total = max(1, len(found) + len(true))
    bases = 100 * float((labels == gold[0]).double().mean())
    return {"exact": 200 * exact / total, "within 5": 200 * close / total, "bases": bases}


def run_genes(args: Any, write: Any) -> None:
    """All heads and seeds on the chromosome."""
    c = read(Path(args.data))
    print(f"the rule cuts {c.cut_bases} bases from {c.cut_genes} of {len(c.genes)} genes")
    for name, region in (("validation", VALIDATION), ("test", TEST)):
        begin, end = region
        whole = measured(c, region, c.labels[begin:end], c.starts[begin:end])
        write({"head": "labels", "split": name, **whole})
        write({"head": "any segmentation", "split": name, **reachable(c, region)})
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        encoders = {pool.submit(trained, args, "softmax", n): n for n in range(args.seeds)}
        runs = []
        for done in as_completed(encoders):
            seed = encoders[done]
            runs += [pool.submit(trained, args, head, seed, done.result()) for head in args.heads]
        for run in as_completed(runs):
            for row in run.result():
                write(row)


def trained(args: Any, head: str, seed: int, encoder: dict | None = None) -> Any:
    """The weights of an encoder below a softmax; given those, the scores of a head that goes on."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(seed)
    c = read(Path(args.data))
    if head == "free":
        c = in_pieces(c, args.longest)
    model = Tagger(head, 4, args.longest, args.begins, True).to(args.device)
    draw = gene_batches(c, 2 * seed + (encoder is None), args.batch, args.device)
    if encoder is None:
        train(model, draw, args.first_steps, args.rate)
        return {name: value.cpu() for name, value in model.encoder.state_dict().items()}
    model.encoder.load_state_dict(encoder)
    if hasattr(model, "head"):
        known = c.labels[slice(*TRAIN)], c.starts[slice(*TRAIN)]
        model.head.fit_lengths(lengths_of(*known, 3))
    began = time.perf_counter()
    train(model, draw, args.steps, args.rate)
    seconds, rows = time.perf_counter() - began, []
    for name, region in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        x = c.inputs[slice(*region)].to(args.device)
        row = measured(c, region, *model.decode(x))
        rows.append({"head": head, "seed": seed, "split": name, "seconds": seconds, **row})
    return rows


def run_generated(args: Any, write: Any) -> None:
    """All heads and seeds on the generated task, and the true model."""
    means = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    truth = Truth(means, args.noise, 3, 0.99)
    x, labels, starts = truth.draw(args.positions, 10_000)
    best = ops.best_segmentation(truth.potentials(x.to(args.device)))
    row = generated_scores(best[0][0].cpu(), best[1][0].cpu(), (labels, starts))
    write({"head": "true model", "split": "generated", **row})
    for head in args.heads:
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            data = truth.draw(args.positions, seed)
            model = Tagger(head, 3, args.longest, args.begins, False).to(args.device)
            if hasattr(model, "head"):
                model.head.fit_lengths(lengths_of(*data[1:], 3))
            random = torch.Generator().manual_seed(seed)
            outside = (data[1] == 0).nonzero().flatten()

            def draw(data=data, random=random, outside=outside) -> tuple[Tensor, ...]:
                rows, lengths = [], []
                for _ in range(args.batch):
                    at = int(torch.randint(len(outside), (), generator=random))
                    begin = int(outside[at])
                    ends = outside[(outside > begin) & (outside <= begin + CROP)]
                    end = int(ends[-1]) + 1 if len(ends) else begin + 1
                    rows.append([part[begin:end] for part in data])
                    lengths.append(end - begin)
                pad = nn.utils.rnn.pad_sequence
                inputs, kinds, begins = (pad(x, batch_first=True) for x in zip(*rows, strict=True))
                batch = (inputs, torch.tensor(lengths), kinds, begins)
                return tuple(x.to(args.device) for x in batch)

            began = time.perf_counter()
            train(model, draw, args.steps, args.rate)
            seconds = time.perf_counter() - began
            row = generated_scores(*model.decode(x.to(args.device)), (labels, starts))
            write({"head": head, "seed": seed, "split": "generated", "seconds": seconds, **row})


def main() -> None:
    """Train and print a table of means and standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder of sequence.txt.gz and genes.tsv")
    parser.add_argument("--generated", action="store_true", help="the generated task instead")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side, of genes")
    parser.add_argument("--first_steps", type=int, default=1000, help="of the encoder of genes")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8, help="crops of 8,192 positions at most")
    parser.add_argument("--rate", type=float, default=1e-2, help="of the head")
    parser.add_argument("--longest", type=int, default=4000, help="of the head of free lengths")
    parser.add_argument("--begins", type=int, default=16, help="where tails begin")
    parser.add_argument("--positions", type=int, default=100_000, help="of the generated task")
    parser.add_argument("--noise", type=float, default=0.7, help="of the generated task")
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--out", help="JSON lines file to append to")
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if not args.generated and args.data is None:
        parser.error("expected --data, the folder of the chromosome, or --generated")
    rows: list[dict[str, Any]] = []
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    common = {"steps": args.steps, "rate": args.rate, "device": name, "torch": torch.__version__}
    common |= {"commit": args.commit, "longest": args.longest, "begins": args.begins}

    def write(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if args.out:
            with open(args.out, "a") as stream:
                stream.write(json.dumps(row | common) + "\n")

    (run_generated if args.generated else run_genes)(args, write)
    for split in dict.fromkeys(row["split"] for row in rows):
        columns = ("exact", "within 5" if split == "generated" else "stop", "bases")
        print(f"\n{split:20} " + " ".join(f"{name:>14}" for name in columns))
        for head in dict.fromkeys(row["head"] for row in rows):
            same = [row for row in rows if (row["head"], row["split"]) == (head, split)]
            cells = []
            for name in columns:
                values = [row[name] for row in same]
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):7.2f} ± {deviation:4.2f}" if same else "")
            print(f"{head:20} " + " ".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
