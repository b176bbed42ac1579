"""A store says which backbone made it, and another backbone is refused by name."""

import json

import pytest

from dihal_core.backbones.belongs import IDENTITY, require_backbone
from dihal_core.config import BackboneSettings
from dihal_core.errors import ArtifactError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The corpus store of the smoke study: a real manifest."""
    smoke = load_study("smoke")
    return ensure(make_request("corpus", smoke, {"assets": {}}, tmp_path_factory.mktemp("home"))).path, smoke.backbone


def test_the_store_of_the_same_backbone_passes(corpus):
    require_backbone(*corpus)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identifier": "other"}, r"identifier 'random-llama-tiny' \(here 'other'\)"),
        ({"hidden_size": 64, "num_layers": 5}, r"num_layers 4 \(here 5\), hidden_size 32 \(here 64\)"),
        ({"dtype": "bfloat16"}, r"dtype 'float32' \(here 'bfloat16'\)"),
        ({"quantisation": "Q4_1"}, r"quantisation None \(here 'Q4_1'\)"),
    ],
)
def test_another_backbone_is_refused_with_what_differs(corpus, change, message):
    folder, backbone = corpus
    with pytest.raises(ArtifactError, match=f"made with another backbone.*{message}"):
        require_backbone(folder, backbone.model_copy(update=change))


def test_revisions_count_only_where_both_are_known(tmp_path, corpus):
    _, backbone = corpus
    made = backbone.model_copy(update={"revision": "aaaa"}).model_dump(mode="json")
    manifest = {"provenance": {"request": {"settings": {"backbone": made}}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    require_backbone(tmp_path, backbone)
    require_backbone(tmp_path, backbone.model_copy(update={"revision": "aaaa"}))
    with pytest.raises(ArtifactError, match="revision 'aaaa'"):
        require_backbone(tmp_path, backbone.model_copy(update={"revision": "bbbb"}))


@pytest.mark.parametrize("manifest", [None, b"{", b"{}", b'{"provenance": {"request": {"settings": {}}}}'])
def test_a_store_that_names_no_backbone_is_not_judged(tmp_path, corpus, manifest):
    if manifest is not None:
        (tmp_path / "manifest.json").write_bytes(manifest)
    require_backbone(tmp_path, corpus[1])


def test_every_identity_is_a_setting():
    assert set(IDENTITY) <= set(BackboneSettings.model_fields)
