"""What the card says of the bridge's kind, of where its weights come from, and of their licences."""

import pytest

from dihal_core.hybrid.card import merged_card, model_card
from dihal_core.profiles import load_study

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REPLACE = {"layer": 2, "arms": {"bridge": {"parameters": 10, "steps": 2, "tokens": 30, "fvu": 0.5}}}
CORPUS = {"sources": []}
UNET = {"bridge.kind": "unet", "bridge.latent_side": 4}


def card(profile="smoke", structure=None, **bridge):
    overrides = {f"bridge.{name}": value for name, value in bridge.items()}
    settings = load_study(profile, overrides={**UNET, **overrides} if "kind" not in bridge else overrides)
    return model_card(settings, REPLACE, CORPUS, {}, "d" * 64, structure), settings.bridge


def test_the_fast_bridge_is_this_projects_own_and_apache():
    text, _ = card(kind="mlp")
    assert "the bridge is this project's own design" in text
    assert "- bridge weights and code: Apache-2.0" in text
    assert "UNet" not in text
    assert "VAE" not in text


def test_a_unet_from_random_weights_is_the_papers_kind_and_still_apache():
    text, _ = card()
    assert "own design" not in text
    assert "the bridge is of the paper's kind" in text
    assert "| UNet | trained from random weights |" in text
    assert "| VAE | none |" in text
    assert "- bridge weights and code: Apache-2.0" in text


def test_published_weights_are_named_with_revision_digest_and_licence():
    structure = {"vae": {"sha256": "e" * 64}}
    text, _ = card("quickstart", structure, unet=SD, vae=SD, unet_revision="r" * 40, vae_revision="s" * 40)
    assert f"| UNet | trained from `{SD}`, revision `{'r' * 40}` |" in text
    assert f"| VAE, frozen | `{SD}`, revision `{'s' * 40}`, digest of its weights `{'e' * 64}` |" in text
    assert "bridge weights and code: Apache-2.0" not in text
    assert f"- bridge weights: they started from UNET `{SD}` and were trained through the frozen VAE `{SD}`" in text
    assert f"- VAE `{SD}`: CreativeML Open RAIL-M" in text
    assert "- code: Apache-2.0" in text
    assert 'license: other\nlicense_name: "Apache-2.0; CreativeML Open RAIL-M"\n' in text
    assert "license: apache-2.0" not in text


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_one_published_part_is_enough_for_its_licence(part):
    text, _ = card("quickstart", **{part: SD})
    assert f"{part.upper()} `{SD}`, so they are passed on under its terms: CreativeML Open RAIL-M" in text
    assert "license: apache-2.0" not in text


def test_a_local_copy_points_at_its_publisher(tmp_path):
    text, _ = card("quickstart", vae=str(tmp_path))
    assert f"`{tmp_path.name}`" in text
    assert str(tmp_path.parent) not in text
    assert "that of its publisher (local copy; Stable Diffusion v1's is CreativeML Open RAIL-M)" in text


@pytest.mark.parametrize("bridge", [{"kind": "mlp"}, {"vae": SD}])
def test_a_merged_copy_says_what_it_holds(bridge):
    text, settings = card("quickstart", **bridge)
    merged = merged_card(text, settings)
    vae = "vae" in bridge
    assert ("found by their references" if vae else "found by its reference") in text
    assert "by their references" not in merged
    assert "by its reference" not in merged
    assert f"This folder holds the bridge, the backbone{' and the VAE' if vae else ''}: it loads by itself" in merged
