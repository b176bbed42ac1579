"""How fast shards are read: ours, the plain loop of the standard library, and `datasets`, in one run.

    python -m tests.benchmarks.bench_corpus [--megabytes 24] [--rounds 5] [--link 1.5]

The text is made up once (words of a Zipf-like distribution, documents of 50 to 1,500 words), packed with
gzip and zstd as Dolma's lines are. Every round runs all readers one after the other, so that what else the
machine does hits all of them; shown are medians over rounds and ratios to the standard library's loop. The second table
samples shards that arrive as over a network of so many MB/s each, and compares with reading and tokenising
one after the other.
"""

import argparse
import dataclasses
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from backports import zstd

from dihal_core.corpus.candidates import Candidates
from dihal_core.corpus.documents import Document
from dihal_core.corpus.dolma import shard_reader
from dihal_core.corpus.folder_plan import make_folder_plan
from dihal_core.corpus.lines import read_documents
from dihal_core.corpus.plans import Shard
from dihal_core.corpus.prepared import Prepared
from dihal_core.corpus.reports import ReadReport
from dihal_core.corpus.sampling import Reader, sample
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.seeding import stream
from dihal_core.store import StageStore


def make_lines(megabytes: float) -> bytes:
    """Return so much text as lines in Dolma's format."""
    draws = stream(0, "bench", "corpus")
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    weights = 1 / np.arange(1, len(letters) + 1)
    words = ["".join(draws.choice(letters, int(n), p=weights / weights.sum())) for n in draws.integers(2, 11, 20_000)]
    frequency = 1 / np.arange(1, len(words) + 1)
    frequency /= frequency.sum()
    lines, size = [], 0
    while size < megabytes * 1e6:
        chosen = draws.choice(len(words), int(draws.integers(50, 1500)), p=frequency)
        text = " ".join(words[i] for i in chosen) + ". “Quoted” café\n"
        row = {"id": f"doc-{len(lines)}", "text": text, "source": "bench", "added": "2024-01-01T00:00:00.000Z",
               "created": "2023-01-01T00:00:00.000Z", "metadata": {"url": f"https://example.org/{len(lines)}"}}  # fmt: skip
        lines.append(json.dumps(row).encode() + b"\n")
        size += len(lines[-1])
    return b"".join(lines)


def ours(path: Path) -> int:
    """Count documents with the reader of the corpus stage: digest, checks and counts included."""
    with open(path, "rb") as handle:
        return sum(1 for _ in read_documents(handle, ReadReport(path.name)))


def standard_library(path: Path) -> int:
    """Count documents with gzip.open and json.loads: nothing is checked or counted."""
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return sum(1 for line in handle if json.loads(line)["text"])


def datasets_reader(path: Path) -> int:
    """Count documents with the streaming JSON reader of `datasets`."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files={"train": str(path)}, split="train", streaming=True)
    return sum(1 for row in rows if row["text"])


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of every run; all of them run in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def byte_pair_encoder(data: bytes, window_tokens: int) -> WindowEncoder:
    """Return an encoder with a byte-pair tokenizer trained on the text at hand: as slow as a real one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["<|separator|>"], show_progress=False)
    tokenizer.train_from_iterator([json.loads(line)["text"] for line in data[:2_000_000].splitlines()[:-1]], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|separator|>")
    return WindowEncoder(fast, 0, 0, window_tokens, 32, 0)


def behind_a_link(read: Reader, bytes_per_second: float) -> Reader:
    """Return `read` with its stored bytes arriving no faster than `bytes_per_second` per shard."""

    def slowed(shard: Shard, report: ReadReport, part: Callable[[float], None]) -> Iterator[Document]:
        started = time.perf_counter()
        for document in read(shard, report, part):
            yield document
            ahead = report.bytes_read / bytes_per_second - (time.perf_counter() - started)
            if ahead > 0.01:
                time.sleep(ahead)

    return slowed


def overlapped(folder: Path, shards: int, data: bytes, rounds: int, bytes_per_second: float) -> dict[str, float]:
    """Return median seconds of reading alone, tokenising alone, and the corpus stage's sampling, which does both."""
    root = folder / "shards"
    root.mkdir()
    part = data[: data.rfind(b"\n", 0, len(data) // shards) + 1]
    for number in range(shards):
        renamed = part.replace(b'"doc-', f'"doc-{number}-'.encode())
        (root / f"part-{number}.json.gz").write_bytes(gzip.compress(renamed, 6))
    values = {"kind": "folder", "base_url": str(root), "num_sequences": len(data) // 12_000, "window_tokens": 512,
              "num_eval_wiki": 0}  # fmt: skip
    corpus = load_study("smoke", overrides={f"corpus.{name}": value for name, value in values.items()}).corpus
    plan, encoder = make_folder_plan(corpus, 0), byte_pair_encoder(data, 512)
    read = behind_a_link(shard_reader(corpus), bytes_per_second)
    found: dict[str, list] = {}

    def read_alone() -> None:
        for shard in plan.shards:
            candidates = Candidates(shard.budget, corpus, 0, None)
            for document in read(shard, ReadReport(shard.path), lambda part: None):
                candidates.offer(dataclasses.replace(document, source=shard.folder))
            candidates.kept()
            found[shard.unit] = [(keeper.likely(), keeper.cap) for keeper in candidates.keepers]

    def tokenise_alone() -> None:
        for unit, likely in found.items():
            Prepared.write(folder, unit, encoder, likely)

    def both(workers: int) -> None:
        with tempfile.TemporaryDirectory() as home:
            sample(plan, read, corpus, 0, StageStore(Path(home), "corpus", "bench"), encoder, silent, workers)

    runs: dict[str, Callable[[], object]] = {
        "read alone": read_alone,
        "tokenise alone": tokenise_alone,
        "both, 1 worker": lambda: both(1),
        "both, 2 workers": lambda: both(2),
    }
    return interleaved(runs, rounds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--link", type=float, default=1.5, help="MB/s of stored bytes while reading and tokenising")
    arguments = parser.parse_args()
    data = make_lines(arguments.megabytes)
    documents = data.count(b"\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("HF_DATASETS_CACHE", str(folder / "cache"))
        files = {"gzip": folder / "a.json.gz", "zstd": folder / "a.json.zst", "plain": folder / "a.json"}
        files["gzip"].write_bytes(gzip.compress(data, 6))
        files["zstd"].write_bytes(zstd.compress(data, 3))
        files["plain"].write_bytes(data)
        runs = {f"ours, {kind}": lambda path=path: ours(path) for kind, path in files.items()}
        runs["standard library, gzip"] = lambda: standard_library(files["gzip"])
        runs["datasets, gzip"] = lambda: datasets_reader(files["gzip"])
        for label, run in runs.items():
            found = run()
            if found != documents:
                sys.exit(f"{label} read {found} of {documents} documents")
        seconds = interleaved(runs, arguments.rounds)
        reference = seconds["standard library, gzip"]
        ratio = len(data) / files["gzip"].stat().st_size
        print(f"{len(data) / 1e6:.0f} MB of text, {documents} documents, gzip 1:{ratio:.1f}, {arguments.rounds} rounds")
        print(f"{'reader':<26}{'MB/s of text':>14}{'ratio':>8}")
        for label, value in seconds.items():
            print(f"{label:<26}{len(data) / 1e6 / value:>14.1f}{reference / value:>8.2f}")
        seconds = overlapped(folder, 8, data, max(1, arguments.rounds // 2), arguments.link * 1e6)
        apart = seconds["read alone"] + seconds["tokenise alone"]
        print(f"{f'8 shards at {arguments.link} MB/s':<26}{'seconds':>14}{'ratio':>8}")
        for label, value in seconds.items():
            print(f"{label:<26}{value:>14.2f}{apart / value:>8.2f}")


if __name__ == "__main__":
    main()
