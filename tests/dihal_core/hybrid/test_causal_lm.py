"""The hybrid as a Hugging Face model: exact with the true state, causal, and the same in every way of calling it."""

import itertools

import pytest
import torch

from dihal_core.bridges.registry import BRIDGES
from dihal_core.errors import ConfigError
from dihal_core.hybrid.causal_lm import DiHALForCausalLM
from dihal_core.hybrid.entrance import Entrance, is_plain_embedding

TOLERANCE = {"atol": 2e-4, "rtol": 1e-3}


def continue_greedily(model, tokens_BT, mask_BT, count=9, **options):
    return model.generate(
        tokens_BT, attention_mask=mask_BT, max_new_tokens=count, do_sample=False, eos_token_id=None, **options
    )


@pytest.mark.parametrize("layer", [1, 3, 6])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_the_true_state_the_logits_are_the_teachers_exactly(family, dtype, layer, make_hybrid, prompts):
    model = make_hybrid(family, "true", layer, dtype)
    tokens_BT = torch.stack(prompts((17, 17)))
    with torch.no_grad():
        teacher_BTV = model.blocks(tokens_BT, use_cache=False).logits
        assert torch.equal(model(tokens_BT).logits, teacher_BTV)
        options = {"attention_mask": torch.ones_like(tokens_BT), "logits_to_keep": 2}
        assert torch.equal(model(tokens_BT, **options).logits, model.blocks(tokens_BT, **options).logits)


def test_with_the_true_state_generation_is_the_teachers(family, make_hybrid, prompts, pad_rows):
    model = make_hybrid(family, "true", 3)
    tokens_BT, mask_BT = pad_rows(prompts((12, 7, 3)))
    assert torch.equal(
        continue_greedily(model, tokens_BT, mask_BT),
        continue_greedily(model.blocks, tokens_BT, mask_BT, pad_token_id=5),
    )


def test_the_loss_is_the_teachers_with_the_true_state(make_hybrid, prompts):
    model = make_hybrid("llama", "true", 3)
    tokens_BT = torch.stack(prompts((9, 9)))
    labels_BT = tokens_BT.clone()
    labels_BT[0, :4] = -100
    expected = model.blocks(tokens_BT, labels=labels_BT).loss
    assert torch.allclose(model(tokens_BT, labels=labels_BT).loss, expected)
    assert model(tokens_BT, labels=labels_BT, return_dict=False)[0] == model(tokens_BT, labels=labels_BT).loss


@pytest.mark.parametrize("arm", ["bridge", "regressor", "ridge", "skip"])
@pytest.mark.parametrize("steps", [1, 3])
def test_padding_on_either_side_changes_no_real_position(family, arm, steps, make_hybrid, prompts, pad_rows):
    model, rows = make_hybrid(family, arm), prompts((12, 7, 3))
    for side in ("left", "right"):
        tokens_BT, mask_BT = pad_rows(rows, side)
        together_BTV = model(tokens_BT, attention_mask=mask_BT, sampling_steps=steps).logits
        for index, row in enumerate(rows):
            alone_TV = model(row[None], sampling_steps=steps).logits[0]
            assert torch.allclose(together_BTV[index][mask_BT[index].bool()], alone_TV, **TOLERANCE), (side, index)


@pytest.mark.parametrize("arm", ["bridge", "regressor", "ridge", "skip"])
@pytest.mark.parametrize("steps", [1, 3])
def test_tokens_one_by_one_give_the_logits_of_the_whole(family, arm, steps, make_hybrid, prompts, pad_rows):
    model = make_hybrid(family, arm)
    tokens_BT, mask_BT = pad_rows(prompts((14, 9, 4)))
    whole_BTV = model(tokens_BT, attention_mask=mask_BT, sampling_steps=steps).logits
    cuts, cache, parts = [0, 11, 12, 14], None, []
    for start, stop in itertools.pairwise(cuts):
        output = model(
            tokens_BT[:, start:stop], attention_mask=mask_BT[:, :stop], past_key_values=cache, use_cache=True,
            sampling_steps=steps,
        )  # fmt: skip
        cache = output.past_key_values
        parts.append(output.logits)
    together_BTV = torch.cat(parts, dim=1)
    for index in range(3):
        real = mask_BT[index].bool()
        assert torch.allclose(together_BTV[index][real], whole_BTV[index][real], **TOLERANCE)


@pytest.mark.parametrize("kind", sorted(BRIDGES))
@pytest.mark.parametrize("steps", [1, 3])
def test_greedy_text_is_the_same_cached_uncached_batched_padded_and_alone(
    family, kind, steps, make_hybrid, prompts, pad_rows
):
    model, rows = make_hybrid(family, kind=kind), prompts((12, 7, 3))
    tokens_BT, mask_BT = pad_rows(rows)
    together = continue_greedily(model, tokens_BT, mask_BT, sampling_steps=steps)
    uncached = continue_greedily(model, tokens_BT, mask_BT, sampling_steps=steps, use_cache=False)
    assert torch.equal(together, uncached)
    for index, row in enumerate(rows):
        alone = continue_greedily(model, row[None], torch.ones_like(row[None]), sampling_steps=steps)
        assert torch.equal(alone[0, len(row) :], together[index, tokens_BT.shape[1] :])


def test_more_sampling_steps_change_the_text_and_the_noise_seed_too(make_hybrid, prompts):
    model = make_hybrid("llama")
    tokens_BT = torch.stack(prompts((12,)))
    one, three = model(tokens_BT).logits, model(tokens_BT, sampling_steps=3).logits
    assert not torch.allclose(one, three, **TOLERANCE)
    model.config.noise_seed += 1
    assert not torch.allclose(model(tokens_BT, sampling_steps=3).logits, three, **TOLERANCE)
    assert torch.equal(model(tokens_BT).logits, one)


def test_beams_and_repeats_move_the_bridges_state_with_them(make_hybrid, prompts, pad_rows):
    model, rows = make_hybrid("llama"), prompts((12, 7))
    tokens_BT, mask_BT = pad_rows(rows)
    cached = continue_greedily(model, tokens_BT, mask_BT, num_beams=3)
    assert torch.equal(cached, continue_greedily(model, tokens_BT, mask_BT, num_beams=3, use_cache=False))
    cache = model(tokens_BT, attention_mask=mask_BT, use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    next_BT = torch.tensor([[20], [21], [22], [23]])
    logits_BTV = model(next_BT, past_key_values=cache).logits
    for index in range(4):
        whole = torch.cat([rows[index // 2], next_BT[index]])[None]
        assert torch.allclose(logits_BTV[index, -1], model(whole).logits[0, -1], **TOLERANCE)


@pytest.mark.parametrize("kind", sorted(BRIDGES))
@pytest.mark.parametrize("steps", [1, 3])
def test_later_tokens_change_no_earlier_logit_to_the_last_bit(family, kind, steps, make_hybrid, prompts, pad_rows):
    model = make_hybrid(family, kind=kind)
    tokens_BT, mask_BT = pad_rows(prompts((14, 9)))
    changed_BT = tokens_BT.clone()
    changed_BT[:, 10:] = (changed_BT[:, 10:].flip(1) + 1) % 97
    for use_cache in (False, True):
        before, after = (
            model(tokens, attention_mask=mask_BT, use_cache=use_cache, sampling_steps=steps).logits[:, :10]
            for tokens in (tokens_BT, changed_BT)
        )
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1, 5:], after[1, 5:])


def test_the_token_embedding_stands_for_state_0_only_where_it_is_state_0(family, make_hybrid, prompts):
    model = make_hybrid(family)
    tokens_BT = torch.stack(prompts((12,)))
    state_BTD = model.backbone.embed(tokens_BT)
    entrance = Entrance(model.config, model.backbone, model.arm, model.embedder)
    assert torch.equal(entrance.embed(tokens_BT, torch.arange(12)[None]), state_BTD)
    same = torch.equal(model.get_input_embeddings()(tokens_BT), state_BTD)
    assert is_plain_embedding(model.embedder, model.backbone) == same == (family not in ("gpt2", "gemma2"))


def test_the_cost_of_a_new_token_does_not_recompute_the_prefix(make_hybrid, prompts):
    model, seen = make_hybrid("llama"), []
    cache = model(torch.stack(prompts((30,))), use_cache=True).past_key_values
    for module in model.arm.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _module, given, _out: seen.append(given[0].shape[1]))
    model(torch.tensor([[20]]), past_key_values=cache)
    assert seen
    assert set(seen) == {1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, ids: model(ids + 1), r"row 0 starts with token 4, .* separator 3"),
        (lambda model, ids: model(ids, attention_mask=torch.tensor([[1, 0, 1, 1, 1, 1]])), "not one unbroken run"),
        (lambda model, ids: model(ids, attention_mask=torch.ones(1, 4)), r"shape \(1, 4\) does not fit 1 rows of 6"),
        (lambda model, ids: model(ids, attention_mask=torch.zeros_like(ids)), "row 0 holds padding only"),
        (
            lambda model, ids: model(ids, attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]), use_cache=True),
            "padding on the right, after which nothing can follow",
        ),
        (lambda model, ids: model(ids[:, :0]), r"shape \(1, 0\)"),
        (lambda model, ids: model(ids, sampling_steps=0), "sampling steps 0 is below 1"),
        (lambda model, ids: model(ids, sampling_steps=1.5), "sampling_steps 1.5 is no whole number"),
        (lambda model, ids: model(ids, labels=ids[:, :3]), "do not fit logits"),
        (lambda model, ids: model(ids, labels=torch.full_like(ids, -100)), "no label after the first is scored"),
        (lambda model, ids: model(ids, past_key_values=__import__("transformers").DynamicCache()), "is a DynamicCache"),
        (lambda model, ids: model(ids, use_cache=True).past_key_values.crop(-2), "forget its last 2 tokens"),
    ],
)
def test_what_cannot_be_right_is_refused_with_a_sentence(call, message, make_hybrid, prompts):
    with pytest.raises(ConfigError, match=message):
        call(make_hybrid("llama"), torch.stack(prompts((6,))))


def test_a_cache_goes_on_only_as_it_was_started(make_hybrid, prompts, pad_rows):
    model = make_hybrid("llama")
    tokens_BT, mask_BT = pad_rows(prompts((6, 4)))
    cache = model(tokens_BT, attention_mask=mask_BT, use_cache=True, sampling_steps=2).past_key_values
    with pytest.raises(ConfigError, match="differs from the 2 this cache"):
        model(tokens_BT[:, :1], past_key_values=cache, sampling_steps=1)
    with pytest.raises(ConfigError, match="input_ids has 1 rows, the cache has 2"):
        model(tokens_BT[:1, :1], past_key_values=cache)
    with pytest.raises(ConfigError, match="differs from the one the cache was started with"):
        model(tokens_BT[:, :1], past_key_values=cache, attention_mask=torch.ones(2, 7))
    unsaid = model(tokens_BT[:, 3:4], past_key_values=cache).logits
    again = model(tokens_BT, attention_mask=mask_BT, use_cache=True, sampling_steps=2).past_key_values
    said = model(
        tokens_BT[:, 3:4], past_key_values=again, attention_mask=torch.cat([mask_BT, mask_BT[:, -1:]], 1)
    ).logits
    assert torch.equal(unsaid, said)


@pytest.mark.parametrize("layer", [0, 7, 40, "2"])
def test_a_layer_out_of_range_is_refused(layer, make_hybrid):
    with pytest.raises(ConfigError, match=r"outside 1..6 of tiny llama"):
        make_hybrid("llama", "ridge", layer)


def test_there_is_no_untrained_hybrid(make_hybrid):
    with pytest.raises(ConfigError, match="made of a trained bridge and its backbone"):
        DiHALForCausalLM(make_hybrid("llama").config)


def test_sampled_text_follows_torchs_seed(make_hybrid, prompts):
    model = make_hybrid("llama")
    tokens_BT = torch.stack(prompts((5,)))
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(model.generate(tokens_BT, do_sample=True, max_new_tokens=12, eos_token_id=None, temperature=3.0))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_the_random_arms_of_these_tests_do_something(make_hybrid, prompts):
    tokens_BT = torch.stack(prompts((9,)))
    logits = [make_hybrid("llama", arm)(tokens_BT).logits for arm in ("bridge", "ridge", "true")]
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)
    assert not torch.allclose(logits[0], logits[2], atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_gpu_the_text_is_that_of_the_cpu(family, steps, make_hybrid, prompts, pad_rows):
    model = make_hybrid(family)
    tokens_BT, mask_BT = pad_rows(prompts((12, 7, 3)))
    expected = continue_greedily(model, tokens_BT, mask_BT, sampling_steps=steps)
    on_gpu = model.to("cuda")
    assert {parameter.device.type for parameter in on_gpu.parameters()} == {"cuda"}
    found = continue_greedily(on_gpu, tokens_BT.cuda(), mask_BT.cuda(), sampling_steps=steps)
    assert torch.equal(found.cpu(), expected)
