import pytest
import torch

from dihal_core.bridges.arms import load_arms, make_arm, predict_all, save_arms
from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.frame import Frame
from dihal_core.errors import ArtifactError, ConfigError

D = 24
NAMES = ("bridge", "regressor", "ridge", "skip")


@pytest.fixture
def arms(bridge_settings):
    made = {name: random_arm(bridge_settings, D, seed=1, name=name) for name in NAMES}
    for arm in made.values():
        arm.frame = made["bridge"].frame
    return made


@pytest.fixture
def embeddings():
    return torch.randn(3, 11, D, generator=torch.Generator().manual_seed(0))


def test_loaded_arms_predict_the_same_bits(arms, bridge_settings, embeddings, tmp_path):
    save_arms(tmp_path, arms, bridge_settings, layer=4)
    loaded = load_arms(tmp_path)
    assert set(loaded) == set(NAMES)
    for name in NAMES:
        assert torch.equal(loaded[name].predict(embeddings, 3, seed=2), arms[name].predict(embeddings, 3, seed=2))
        assert not loaded[name].training
        assert not any(parameter.requires_grad for parameter in loaded[name].parameters())


def test_saving_twice_gives_the_same_bytes_and_no_pickle(arms, bridge_settings, tmp_path):
    for folder in ("one", "two"):
        save_arms(tmp_path / folder, arms, bridge_settings, layer=4)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["arms.json", "bridge.safetensors", "frame.safetensors", "regressor.safetensors"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_all_at_once_is_the_same_as_one_by_one(arms, embeddings):
    together = predict_all(arms, embeddings)
    for name, arm in arms.items():
        assert torch.equal(together[name], arm.predict(embeddings))


def test_skip_hands_the_embedding_on(arms, embeddings):
    hidden = arms["skip"].predict(embeddings)
    assert torch.equal(hidden[:, 1:], embeddings[:, 1:])


@pytest.mark.parametrize("name", ["bridge", "regressor"])
def test_a_fresh_arm_is_the_ridge_it_starts_from(arms, bridge_settings, embeddings, name):
    fresh = make_arm(name, bridge_settings, arms["ridge"].frame, seed=0)
    assert torch.allclose(fresh.predict(embeddings), arms["ridge"].predict(embeddings), atol=1e-6)


def test_fresh_weights_depend_on_seed_and_name_only(bridge_settings):
    def weights(seed, disturb=0):
        torch.manual_seed(disturb)
        return make_arm("bridge", bridge_settings, Frame(D, 3), seed).context.enter.weight

    assert torch.equal(weights(1), weights(1, disturb=9))
    assert not torch.equal(weights(1), weights(2))


def test_bridge_and_regressor_are_of_about_the_same_size(bridge_settings):
    sizes = [sum(p.numel() for p in random_arm(bridge_settings, D, 0, name).parameters()) for name in NAMES[:2]]
    assert 0.75 < sizes[1] / sizes[0] <= 1


@pytest.mark.parametrize("victim", ["arms.json", "frame.safetensors", "bridge.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_weights_are_named_with_the_next_step(arms, bridge_settings, tmp_path, victim, damage):
    save_arms(tmp_path, arms, bridge_settings, layer=4)
    path = tmp_path / victim
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="cannot be used.*run the study again"):
        load_arms(tmp_path)


def test_an_unknown_arm_names_the_nearest(bridge_settings):
    with pytest.raises(ConfigError, match="unknown arm 'brigde'.*did you mean 'bridge'"):
        make_arm("brigde", bridge_settings, Frame(D, 3), 0)
