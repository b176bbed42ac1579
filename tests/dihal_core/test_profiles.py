import pytest

from dihal_core.errors import ConfigError
from dihal_core.profiles import backbone_names, known_paths, load_study, parse_assignment, profile_names
from dihal_core.study import study_name


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads(name):
    settings = load_study(name)
    assert settings.profile == name
    assert settings.candidate_layers == tuple(range(1, settings.backbone.num_layers))


@pytest.mark.parametrize(("name", "layers", "reference"), [("paper-llama-3.1-8b", 32, 3), ("paper-qwen3-8b", 36, 2)])
def test_the_paper_profiles_hold_the_papers_protocol(name, layers, reference):
    settings = load_study(name)
    assert settings.backbone.num_layers == layers
    assert settings.backbone.hidden_size == 4096
    assert settings.backbone.reference_layer == reference
    assert settings.corpus.kind == "dolma"
    assert settings.corpus.num_sequences == settings.activations.num_sequences == 300_000
    assert (settings.geometry.large_count, settings.geometry.large_size) == (100, 3000)
    assert (settings.geometry.small_count, settings.geometry.small_size) == (30, 500)
    assert settings.sweep.num_sequences == 150_000
    assert settings.sweep.validation_fraction == 0.1
    assert settings.sweep.training.epochs == 1.0
    assert settings.sweep.training.max_steps is None
    assert settings.replace.num_sequences == 300_000
    assert settings.replace.training.epochs == 4.0
    assert settings.replace.training.max_steps is None
    assert settings.candidate_layers == tuple(range(1, layers))
    assert settings.bridge.kind == "unet"
    assert settings.bridge.block_channels == (320, 640, 1280, 1280)
    assert settings.bridge.vae is not None
    assert settings.bridge.next_token_weight > 0
    assert settings.bridge.distillation_weight > 0


def test_quickstart_runs_the_papers_geometry_protocol():
    geometry = load_study("quickstart").geometry
    assert (geometry.large_count, geometry.large_size, geometry.small_count, geometry.small_size) == (
        100,
        3000,
        30,
        500,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "quickstrat"}, "did you mean 'quickstart'"),
        ({"backbone": "qwen3-8"}, "did you mean 'qwen3-8b'"),
        ({"overrides": {"sweep.training.max_step": 3}}, "did you mean 'sweep.training.max_steps'"),
        ({"overrides": {"replace.layer": 40}}, "replace.layer 40 is outside 1..29"),
        ({"overrides": {"score.last_layer": 30}}, "1..30 are outside 1..29"),
        ({"overrides": {"score.first_layer": 29}}, "one candidate layer"),
        ({"overrides": {"geometry.k": 0}}, "geometry.k = 0"),
        ({"overrides": {"geometry.eps": float("nan")}}, "geometry.eps"),
        ({"overrides": {"activations.token_policy": "last"}}, "token_policy last gives one row per window"),
        ({"overrides": {"geometry.metric": "manhattan"}}, "geometry.metric = 'manhattan'"),
        ({"overrides": {"geometry.large_size": 9000}}, "exceeds the pool of 8000 rows"),
        ({"overrides": {"sweep.num_sequences": 7000}}, "sweep.num_sequences 7000 exceeds corpus.num_sequences 6000"),
        ({"overrides": {"seed": -1}}, "seed = -1"),
        ({"overrides": {"geometry.small_size": 9000}}, "small_size 9000 exceeds the pool"),
        ({"overrides": {"evaluation.sampling_steps": []}}, "at least 1 item"),
        ({"overrides": {"evaluation.sampling_steps": [0]}}, "greater than or equal to 1"),
        ({"overrides": {"bridge.context_heads": 3}}, "not 3 heads of an even width"),
        ({"overrides": {"sweep.validation_fraction": 0.999}}, "leaves 1 training windows"),
    ],
)
def test_a_wrong_request_is_a_sentence_that_names_value_and_choice(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_study(**arguments)


def test_an_assignment_is_json_where_it_parses_and_text_elsewhere():
    assert parse_assignment("sweep.training.max_steps=40") == ("sweep.training.max_steps", 40)
    assert parse_assignment("report.title=My study") == ("report.title", "My study")
    assert parse_assignment("replace.layer=null") == ("replace.layer", None)
    with pytest.raises(ConfigError, match="not of the form"):
        parse_assignment("seed")


def test_every_setting_has_a_description():
    from dihal_core.config import StudySettings

    def bare(model, prefix=""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                yield from bare(inner, f"{prefix}{name}.")
            elif not field.description and name not in ("profile", "description", "kind", "training"):
                yield f"{prefix}{name}"

    assert list(bare(StudySettings)) == []
    assert "sweep.training.max_steps" in known_paths()


def test_the_name_of_a_study_tells_seed_and_changed_settings():
    plain = study_name(load_study("smoke"))
    assert plain == "smoke-random-llama-4-layers-d-32-s0"
    assert study_name(load_study("smoke", seed=3)).endswith("-s3")
    changed = study_name(load_study("smoke", overrides={"geometry.k": 4}))
    assert changed.startswith(f"{plain}-")
    assert study_name(load_study("smoke", overrides={"backbone.dtype": "bfloat16"})).startswith(f"{plain}-")
    assert study_name(load_study("smoke", overrides={"compute.sweep_workers": 1})) == plain
    assert len(backbone_names()) >= 5
