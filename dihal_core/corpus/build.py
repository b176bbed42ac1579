"""The corpus stage: sources -> windows of train, heldout and eval_wiki, with an account of what was left out."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from dihal_core.backbones.tokenizers import load_tokenizer, pad_id, separator_id
from dihal_core.contract import StageContext
from dihal_core.corpus.documents import digest_of, seeded_rank
from dihal_core.corpus.pools import read_pool
from dihal_core.corpus.sampling import SPOOL
from dihal_core.corpus.screening import Pick
from dihal_core.corpus.selection import Selection, select
from dihal_core.corpus.sources import Pool, Source
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.corpus.windows import SPLITS, save_windows
from dihal_core.store import StageRecord


def build_corpus(context: StageContext) -> dict[str, Any]:
    """Write token windows, documents.jsonl (no text) and corpus.json; return the counts of the record.

    Raises
    ------
    ConfigError
        If the settings ask for more training windows than there are.
    AssetError, NetworkError
        If text cannot be read or fetched.
    """
    corpus, seed, backbone = context.settings.corpus, context.settings.seed, context.settings.backbone
    assets = cast(Mapping[str, StageRecord], context.inputs.get("assets", {}))
    wanted = corpus.num_sequences + corpus.num_heldout + corpus.num_eval_wiki
    context.progress(0, wanted, "windows")
    tokenizer = load_tokenizer(backbone, assets)
    separator, pad = separator_id(tokenizer, backbone), pad_id(tokenizer, backbone)
    encoder = WindowEncoder(tokenizer, separator, pad, corpus.window_tokens, corpus.min_window_tokens, seed)
    pool = read_pool(context, assets, encoder, lambda: context.progress(0, wanted, "windows"))
    context.progress(0, wanted, "windows")
    selection = select(pool, corpus, seed, encoder, lambda done, total: context.progress(done, total, "windows"))
    ordered = {split: in_window_order(selection.picks[split], seed) for split in SPLITS}
    numbers = _write_documents(context, ordered)
    names = [source.name for source in _all_sources(pool)]
    for split, picks in ordered.items():
        save_windows(context.store.path, split, _arrays(picks, numbers, names, corpus.window_tokens))
    facts = _facts(pool, selection, ordered)
    facts["separator"] = {"token": backbone.separator_token, "id": separator}
    facts["pad"] = {"id": pad}
    facts["cut_documents"] = encoder.cut_documents
    context.store.write_json("corpus.json", facts)
    shutil.rmtree(context.store.path / SPOOL, ignore_errors=True)
    context.progress(wanted, wanted, "windows")
    return {
        **{key: facts[key] for key in ("splits", "rejects", "overlap", "missing")},
        "sources": [
            {key: row[key] for key in ("source", "origin", "licence", "documents", "windows", "tokens", "rejects")}
            for row in facts["sources"]
        ],
    }


def _all_sources(pool: Pool) -> tuple[Source, ...]:
    return (*pool.train, *((pool.evaluation,) if pool.evaluation is not None else ()))


def in_window_order(picks: list[Pick], seed: int) -> list[Pick]:
    """Return windows in a seeded order that mixes sources and depends on no file or shard order."""
    return sorted(
        picks, key=lambda pick: (seeded_rank(seed, "order", pick[0].identity, int(pick[0].index_N[pick[1]])), pick[1])
    )


def _arrays(picks: list[Pick], numbers: dict[str, int], names: list[str], window_tokens: int) -> dict[str, np.ndarray]:
    index = {name: position for position, name in enumerate(names)}
    tokens_NT = np.empty((len(picks), window_tokens), dtype=np.int32)
    for row, (entry, window) in enumerate(picks):
        tokens_NT[row] = entry.tokens_NT[window]
    return {
        "tokens": tokens_NT,
        "lengths": np.array([entry.lengths_N[window] for entry, window in picks], dtype=np.int32),
        "document": np.array([numbers[entry.identity] for entry, _ in picks], dtype=np.int32),
        "source": np.array([index[entry.document.source] for entry, _ in picks], dtype=np.int16),
        "bytes": np.array([entry.bytes_N[window] for entry, window in picks], dtype=np.int32),
        "words": np.array([entry.words_N[window] for entry, window in picks], dtype=np.int32),
    }


def _write_documents(context: StageContext, ordered: dict[str, list[Pick]]) -> dict[str, int]:
    """Write one line per document that gave a window, without its text; return `{identity: row}`."""
    rows, numbers = [], {}
    for split in SPLITS:
        windows, tokens = Counter[str](), Counter[str]()
        entries = {}
        for entry, window in ordered[split]:
            entries[entry.identity] = entry
            windows[entry.identity] += 1
            tokens[entry.identity] += int(entry.lengths_N[window]) - 1
        for identity in sorted(entries, key=lambda identity: (entries[identity].document.source, identity)):
            document = entries[identity].document
            numbers[identity] = len(rows)
            rows.append(
                {
                    "document": len(rows),
                    "source": document.source,
                    "id": identity,
                    "group": digest_of(document.source, document.group)[:16],
                    "split": split,
                    "title": document.title,
                    "windows": windows[identity],
                    "tokens": tokens[identity],
                }
            )
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=True) + "\n" for row in rows)
    context.store.write_bytes("documents.jsonl", lines.encode())
    return numbers


def _facts(pool: Pool, selection: Selection, ordered: dict[str, list[Pick]]) -> dict[str, Any]:
    windows, tokens, documents = Counter(), Counter(), {}
    for split, picks in ordered.items():
        for entry, window in picks:
            key = entry.document.source, split
            windows[key] += 1
            tokens[key] += int(entry.lengths_N[window]) - 1
            documents.setdefault(key, set()).add(entry.identity)
    rows, rejects = [], Counter()
    for source in _all_sources(pool):
        reasons = source.rejects + selection.rejects.get(source.name, Counter())
        rejects += reasons
        rows.append(
            {
                "source": source.name,
                "origin": source.origin,
                "licence": source.licence,
                "share": source.share,
                "documents": sum(len(documents.get((source.name, split), ())) for split in SPLITS),
                "documents_examined": selection.examined[source.name],
                "documents_available": len(source.documents),
                "windows": {split: windows[source.name, split] for split in SPLITS},
                "tokens": {split: tokens[source.name, split] for split in SPLITS},
                "rejects": dict(reasons),
            }
        )
    return {
        "sources": rows,
        "splits": {
            split: {
                "windows": len(ordered[split]),
                "documents": len({entry.identity for entry, _ in ordered[split]}),
                "tokens": sum(tokens[source["source"], split] for source in rows),
            }
            for split in SPLITS
        },
        "overlap": selection.overlap,
        "rejects": dict(rejects),
        "missing": [*pool.missing, *selection.missing],
        "origins": _origins(pool, ordered),
        **pool.facts,
    }


def _origins(pool: Pool, ordered: dict[str, list[Pick]]) -> list[dict[str, Any]]:
    """Name distributions, versions and file digests; of libraries, the files that gave a window."""
    origins = [{"name": origin.name, "version": origin.version, "files": origin.files} for origin in pool.origins]
    used: dict[str, dict[str, str]] = {}
    for picks in ordered.values():
        for entry, _ in picks:
            metadata = entry.document.metadata
            if "file" in metadata:
                used.setdefault(entry.document.source, {})[metadata["file"]] = metadata["sha256"]
    described = {source.name: source.origin for source in pool.train}
    for name, files in sorted(used.items()):
        origins.append(
            {"name": f"files of source {name}", "version": described[name], "files": dict(sorted(files.items()))}
        )
    return origins
