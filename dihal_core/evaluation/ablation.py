"""From the results of single arms and seeds to the comparison of architectures: rows, ratios, paired differences.

Every row is the mean over its seeds; its interval comes from resampling documents, the same resamples for all rows,
so that ratios and differences are paired. What another seed changes is no matter of documents: it stands beside as
median, smallest and largest over seeds. Ours: the paper reports no intervals.

Letters: S seeds, G documents.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dihal_core.bridges.ablation_arms import ABLATION_ARMS, REFERENCE, RIDGE, RIDGE_ALL, row_name
from dihal_core.errors import ArtifactError
from dihal_core.evaluation.intervals import DocumentBootstrap, perplexity
from dihal_core.evaluation.summary import TEACHER
from dihal_core.seeding import stream

Json = dict[str, Any]
NO_RIDGE = ("skip", "table")
"""Arms in which the frozen ridge map plays no part."""


def spread(values: Sequence[float]) -> Json:
    """Return the values, their median, smallest and largest."""
    return {"values": list(values), "median": statistics.median(values), "low": min(values), "high": max(values)}


def compare_arms(results: Sequence[Json], replicates: int, confidence: float, seed: int) -> Json:
    """Return counts and one row per arm and number of sampler steps.

    Parameters
    ----------
    results
        `ablate.json` of every finished arm and seed; arms may have different numbers of seeds.

    Raises
    ------
    ArtifactError
        If there is no result, or two results were scored on different documents.
    """
    if not results:
        raise ArtifactError("no arm of the comparison has a result; run `dihal ablate` again")
    by_arm: dict[str, list[Json]] = {name: [] for name in ABLATION_ARMS}
    for result in sorted(results, key=lambda item: item["seed"]):
        by_arm[result["arm"]].append(result)
    first = results[0]
    scored = {key: first["per_document"][key] for key in ("document", "tokens")}
    for result in results:
        if any(result["per_document"][key] != scored[key] for key in scored):
            raise ArtifactError(
                f"{result['arm']} with seed {result['seed']} was scored on other documents than {first['arm']}; "
                "run `dihal ablate --force ablate`"
            )
    tokens_G = np.asarray(scored["tokens"], np.float64)
    generator = stream(seed, "ablation", "bootstrap", first["set"])
    boot = DocumentBootstrap(len(tokens_G), replicates, confidence, generator)
    found = {
        row_name(arm, int(count)): _Row(arm, int(count), made)
        for arm, made in by_arm.items()
        if made
        for count in made[0]["forward_flops"]
    }
    teacher_G = np.asarray(first["per_document"]["arms"][TEACHER]["nll"], np.float64)
    reference, ridge, ridge_all = _reference(found), found.get(RIDGE), found.get(RIDGE_ALL)
    rows = []
    for name, row in found.items():
        nll_G, kl_G = row.mean("nll"), row.mean("kl")
        rows.append(
            {
                "row": name,
                **row.facts(),
                "kl": boot.ratio(kl_G, tokens_G),
                "nll": boot.ratio(nll_G, tokens_G),
                "ppl": boot.ratio(nll_G, tokens_G, perplexity),
                "top1": boot.ratio(row.mean("top1"), tokens_G),
                "kl_seeds": spread(row.each("kl", tokens_G)),
                "ppl_seeds": spread([float(np.exp(value)) for value in row.each("nll", tokens_G)]),
                "ppl_to_teacher": boot.ratio(nll_G - teacher_G, tokens_G, perplexity),
                "kl_to_ridge": None if ridge is None else boot.ratio(kl_G, ridge.mean("kl")),
                "kl_to_ridge_all": None if ridge_all is None else boot.ratio(kl_G, ridge_all.mean("kl")),
                "kl_difference": None if row is reference else boot.difference(kl_G, reference.mean("kl"), tokens_G),
                "nll_difference": None if row is reference else boot.difference(nll_G, reference.mean("nll"), tokens_G),
                **_seeds_against(row, reference, tokens_G),
            }
        )
    return {
        "layer": first["layer"],
        "set": first["set"],
        "conventions": first["conventions"],
        "documents": len(tokens_G),
        "tokens": int(tokens_G.sum()),
        "confidence": confidence,
        "reference": reference.name,
        "teacher": {"nll": boot.ratio(teacher_G, tokens_G), "ppl": boot.ratio(teacher_G, tokens_G, perplexity)},
        "rows": rows,
    }


class _Row:
    """The results of one arm at one number of sampler steps, over its seeds."""

    def __init__(self, arm: str, steps: int, made: Sequence[Json]):
        self.arm, self.steps, self.made, self.spec = arm, steps, made, ABLATION_ARMS[arm]
        self.name = row_name(arm, steps)

    def columns(self, quantity: str) -> np.ndarray:
        """Return value_SG, sums per document."""
        return np.asarray([made["per_document"]["arms"][self.name][quantity] for made in self.made], np.float64)

    def mean(self, quantity: str) -> np.ndarray:
        """Return value_G, the mean over seeds of sums per document."""
        return self.columns(quantity).mean(axis=0)

    def each(self, quantity: str, tokens_G: np.ndarray) -> list[float]:
        """Return the token mean of every seed."""
        return [float(value) for value in self.columns(quantity).sum(axis=1) / tokens_G.sum()]

    def facts(self) -> Json:
        """Return what the row is and what it cost to train; FVU is measured with one sampler step."""
        first = self.made[0]
        counts = first["forward_flops"]
        return {
            "arm": self.arm,
            "label": self.spec.label,
            "sampling_steps": self.steps if self.spec.diffusion else None,
            "control": not self.spec.diffusion,
            "kind": first["bridge"]["kind"],
            "seeds": len(self.made),
            "parameters": first["parameters"],
            "steps": first["steps"],
            "tokens": first["tokens"],
            "ridge_states": None if self.spec.arm in NO_RIDGE else first["train"]["fitted_states"],
            "training_flops": first["flops"],
            "forward_flops": first["forward_flops"][str(self.steps)],
            "fvu": spread([made["fvu"] for made in self.made]) if self.steps == min(map(int, counts)) else None,
        }


def _reference(found: Mapping[str, _Row]) -> _Row:
    """Return the row fixed beforehand; where it is left out, the first one with a sampler, else the first."""
    sampled = [row for row in found.values() if row.spec.diffusion]
    wanted = [row for row in sampled if row.arm == REFERENCE]
    return (wanted or sampled or list(found.values()))[0]


def _seeds_against(row: _Row, reference: _Row, tokens_G: np.ndarray) -> Json:
    """Return in how many trainings the row's KL is below the reference's of the same seed."""
    ours = {made["seed"]: value for made, value in zip(row.made, row.each("kl", tokens_G), strict=True)}
    theirs = {m["seed"]: value for m, value in zip(reference.made, reference.each("kl", tokens_G), strict=True)}
    if not row.spec.trained:  # one result stands against every seed
        ours = dict.fromkeys(theirs, next(iter(ours.values())))
    shared = ours.keys() & theirs.keys()
    return {"seeds_compared": len(shared), "seeds_below": sum(ours[number] < theirs[number] for number in shared)}
