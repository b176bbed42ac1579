"""The hybrid and its teacher as models of lm-eval (the optional extra `dihal[lm-eval]`).

lm-eval splits a text into windows and starts each with a prefix token or with the last token of the one
before. A hybrid's input starts with the separator, so here the separator stands in front of every window
of hybrid and teacher alike; figures are comparable with each other, and with other models run through this
adapter, not with figures of lm-eval's own Hugging Face adapter at another window.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dihal_core.errors import ConfigError
from dihal_core.hybrid.causal_lm import DiHALForCausalLM

Scored = tuple[float, bool]
"""Summed log-probability of a continuation, nats, and whether it is the greedy one."""


def harness_model(
    model: DiHALForCausalLM,
    tokenizer: Any,
    teacher: bool = False,
    window_tokens: int | None = None,
    batch_size: int = 8,
) -> Any:
    """Return an object for `lm_eval.simple_evaluate(model=...)`.

    Parameters
    ----------
    teacher
        Score the whole backbone under the same conventions.
    window_tokens
        Tokens of one input, separator included; what the bridge was trained on by default.

    Raises
    ------
    ConfigError
        If lm-eval is not installed, or the window is not 3 .. the model's context.
    """
    window = window_tokens or model.config.window_tokens or model.config.max_position_embeddings or 1024
    longest = model.config.max_position_embeddings or window
    if not 3 <= window <= longest:
        raise ConfigError(f"window_tokens {window} is outside 3..{longest} of this model; the separator counts")
    return _adapter()(model, tokenizer, teacher, window, batch_size)


def require_harness() -> Any:
    """Return the module `lm_eval`.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import lm_eval
    except ImportError as error:
        raise ConfigError(
            f"evaluation through lm-eval needs the extra packages of dihal[lm-eval] ({error}); install them with "
            "`pip install -c constraints.txt 'dihal[lm-eval]'`"
        ) from error
    return lm_eval


@functools.cache
def _adapter() -> Any:
    """Return the adapter class; made on demand because its base comes with the extra."""
    require_harness()
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class HybridLM(TemplateLM):
        """Scores texts with a hybrid or its teacher."""

        def __init__(self, model: DiHALForCausalLM, tokenizer: Any, teacher: bool, window: int, batch_size: int):
            super().__init__()
            self.hybrid, self.tokenizer, self.teacher = model, tokenizer, teacher
            self.max_length, self.batch_size = window, batch_size

        @property
        def eot_token_id(self) -> int:
            return self.hybrid.config.separator_token_id

        @property
        def tokenizer_name(self) -> str:
            return str(self.tokenizer.name_or_path)

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return self.tokenizer.encode(string, add_special_tokens=False, split_special_tokens=True)

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[Scored]:
            rows = [_row(context, rest, self.eot_token_id, self.max_length) for _, context, rest in requests]
            order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
            scored: dict[int, Scored] = {}
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                scored.update(zip(chosen, self._score([rows[index] for index in chosen]), strict=True))
            return [scored[index] for index in range(len(rows))]

        def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
            width = max(len(inputs) for inputs, _ in rows)
            tokens_BT = torch.full((len(rows), width), self.eot_token_id)
            mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
            for index, (inputs, _) in enumerate(rows):
                tokens_BT[index, : len(inputs)] = torch.tensor(inputs)
                mask_BT[index, : len(inputs)] = 1
            logits_BTV = _logits(self.hybrid, tokens_BT, mask_BT, self.teacher)
            return [
                _continuation(logits_BTV[index, : len(inputs)], wanted) for index, (inputs, wanted) in enumerate(rows)
            ]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            totals = []
            for (text,) in (request.args for request in requests):
                windows = map(
                    make_disjoint_window,
                    get_rolling_token_windows(
                        token_list=self.tok_encode(text),
                        prefix_token=self.eot_token_id,
                        max_seq_len=self.max_length - 1,
                        context_len=1,
                    ),
                )
                scored = self._loglikelihood_tokens([(None, *window) for window in windows])
                totals.append(sum(total for total, _ in scored))
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return [self._generate(*request.args) for request in requests]

        def _generate(self, context: str, options: dict[str, Any]) -> str:
            stops = _stops(options)
            count = min(int(options.get("max_gen_toks", 64)), self.max_length - 2)
            prompt = [self.eot_token_id, *self.tok_encode(context)[-(self.max_length - 1 - count) :]]
            tokens_BT = torch.tensor([prompt], device=self.hybrid.device)
            source: Any = self.hybrid.blocks if self.teacher else self.hybrid
            sampled = bool(options.get("do_sample", False))
            drawn = {"temperature": float(options.get("temperature", 1.0))} if sampled else {}
            out_BT = source.generate(
                input_ids=tokens_BT,
                attention_mask=torch.ones_like(tokens_BT),
                generation_config=self.hybrid.generation_config,
                max_new_tokens=count,
                do_sample=sampled,
                **drawn,
            )
            text = self.tokenizer.decode(out_BT[0, len(prompt) :], skip_special_tokens=True)
            return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]

    return HybridLM


def _row(context: Sequence[int], rest: Sequence[int], separator: int, window: int) -> tuple[list[int], list[int]]:
    """Return (input that starts with the separator, tokens to score, aligned with its end); cut on the left."""
    before = list(context[1:] if context and context[0] == separator else context)
    tokens = [*before, *rest][-window:]
    return [separator, *tokens[:-1]] if rest else [separator], tokens[max(len(tokens) - len(rest), 0) :]


@torch.no_grad()
def _logits(model: DiHALForCausalLM, tokens_BT: Tensor, mask_BT: Tensor, teacher: bool) -> Tensor:
    """Return logits_BTV of right-padded rows; causality makes the teacher's mask superfluous."""
    tokens_BT, mask_BT = tokens_BT.to(model.device), mask_BT.to(model.device)
    if teacher:
        return model.backbone.logits(model.backbone.final(tokens_BT))
    return model(tokens_BT, attention_mask=mask_BT).logits


def _continuation(logits_TV: Tensor, wanted: list[int]) -> Scored:
    if not wanted:
        return 0.0, True
    log_NV = torch.log_softmax(logits_TV[-len(wanted) :].float(), dim=-1)
    wanted_N = torch.tensor(wanted, device=log_NV.device)
    total = log_NV.gather(1, wanted_N[:, None]).double().sum()
    return float(total), bool(torch.equal(log_NV.argmax(dim=-1), wanted_N))


def _stops(options: dict[str, Any]) -> list[str]:
    until: str | Iterable[str] = options.get("until") or []
    return [until] if isinstance(until, str) else [stop for stop in until if stop]
