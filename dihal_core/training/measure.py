"""What a layer of the sweep reports: losses of its arms on validation, for every seed, and what to beware of."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.bridges.fitting import LayerFacts
from dihal_core.bridges.frame import Arm
from dihal_core.bridges.ridge import SharedRidge
from dihal_core.progress import Progress
from dihal_core.training.batches import BatchSource
from dihal_core.training.distortion import measured_distortion
from dihal_core.training.likelihood import suffix_likelihood
from dihal_core.training.loop import autocast_dtype
from dihal_core.training.losses import ValidationErrors, objective_loss, validation_errors
from dihal_core.training.phases import Phases
from dihal_core.training.results import Trained, trained_arms
from dihal_core.training.suffix import SuffixObjective

Rows = dict[str, dict[str, Any]]
NOTHING = {"parameters": 0, "steps": 0, "tokens": 0, "flops": 0}
"""What an arm without training has cost."""


class Measurement:
    """Validation of the arms of one layer on data that all seeds share."""

    def __init__(
        self, context: Any, layer: int, source: BatchSource, facts: LayerFacts, shared: SharedRidge, phases: Phases
    ):
        self.settings, self.layer, self.source, self.facts = context.settings, layer, source, facts
        self.validation = shared.validation
        self.corpus = context.inputs["corpus"].digest
        self.phases = phases

    def rows(
        self, arms: Mapping[str, Arm], scored: Mapping[str, Arm], trained: Trained, progress: tuple[Progress, Progress]
    ) -> tuple[Rows, ValidationErrors, float | None, int]:
        """Return losses and costs per arm, the errors behind them, the teacher's NLL and the number of scored tokens.

        `scored` go through the upper blocks too.
        """
        settings, source = self.settings, self.source
        errors = validation_errors(arms, source, self.validation, self.facts, settings.sweep.outlier_ratio, progress[0])
        likelihood, teacher_nll, tokens = suffix_likelihood(
            scored, source, self.layer, self.validation[: settings.sweep.likelihood_sequences], self.corpus, progress[1]
        )
        rows: Rows = {}
        for name in arms:
            losses: dict[str, Any] = {"kl": None, "nll": None, **errors.summary(name), **likelihood.get(name, {})}
            rows[name] = {**losses, "paper_bridge_loss": None, **trained.ledgers.get(name, NOTHING)}
        for name, arm in trained_arms(dict(arms)).items():
            rows[name]["paper_bridge_loss"] = objective_loss(
                arm,
                source,
                self.validation,
                settings.seed,
                autocast_dtype(settings.sweep.training),
                SuffixObjective.of(source, self.layer, settings.bridge),
            )
        return rows, errors, teacher_nll, tokens

    def first(self, arms: dict[str, Arm], trained: Trained) -> dict[str, Any]:
        """Return the result of the layer: all arms, those of the study's own seed."""
        scored = arms if "regressor" in arms else {name: arms[name] for name in ("bridge", "ridge")}
        progress = self.phases.of("validate"), self.phases.of("likelihood")
        rows, errors, teacher_nll, tokens = self.rows(arms, scored, trained, progress)
        return {
            "layer": self.layer,
            "arms": rows,
            "objective": {name: arm.objective() for name, arm in trained_arms(arms).items()},
            "teacher": {"nll": teacher_nll},
            "curve": trained.curves["bridge"],
            "validation": {
                "documents": len(np.unique(errors.document_N)),
                "windows": len(self.validation),
                "states": len(errors.document_N),
                "scored_tokens": tokens,
                "outlier_share": float(errors.outlier_N.mean()),
            },
            "per_document": {name: errors.per_document(name) for name in arms},
            "flags": _flags(rows, errors, self.layer),
            **measured_distortion(arms["bridge"], self.source, self.validation),
        }

    def further(self, arms: dict[str, Arm], trained: Trained, index: int, progress: Progress) -> dict[str, Any]:
        """Return what training number `index` gave: its trained arms alone, on the same validation data."""
        learned = dict(trained_arms(arms))
        rows, errors, _, _ = self.rows(learned, learned, trained, (progress, progress))
        return {
            "seed": index,
            "arms": rows,
            "curve": trained.curves["bridge"],
            "per_document": {name: errors.per_document(name) for name in learned},
        }


def with_seeds(result: dict[str, Any], further: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a layer with a row per seed, its own included, and the flags of the others."""
    if not further:
        return result
    ridge = result["arms"]["ridge"]["fvu"]
    names = list(further[0]["arms"])
    own = {"seed": 0, "arms": {name: result["arms"][name] for name in names}, "curve": result["curve"]}
    own["per_document"] = {name: result["per_document"][name] for name in names}
    seeds = [{**block, "improves_on_ridge": block["arms"]["bridge"]["fvu"] < ridge} for block in (own, *further)]
    flags = [
        f"layer {result['layer']}, seed {block['seed']}: the trained bridge (FVU {block['arms']['bridge']['fvu']:.4f}) does "
        f"not improve on its frozen ridge ({ridge:.4f}): its rank there would be the ridge's own"
        for block in seeds[1:]
        if not block["improves_on_ridge"]
    ]
    return {**result, "seeds": seeds, "flags": [*result["flags"], *flags]}


def _flags(rows: Rows, errors: ValidationErrors, layer: int) -> list[str]:
    flags = []
    bridge, ridge = rows["bridge"], rows["ridge"]
    if bridge["fvu"] >= ridge["fvu"]:
        flags.append(
            f"layer {layer}: the trained bridge (FVU {bridge['fvu']:.4f}) does not improve on the ridge it starts "
            f"from ({ridge['fvu']:.4f}); its rank is the ridge's"
        )
    if bridge["kl"] is not None and bridge["kl"] >= ridge["kl"]:
        flags.append(
            f"layer {layer}: KL of the bridge ({bridge['kl']:.4f}) is not below the ridge's ({ridge['kl']:.4f})"
        )
    share = float(errors.outlier_N.mean())
    if share > 0.01:
        flags.append(f"layer {layer}: {share:.1%} of validation states are outlier tokens")
    return flags
