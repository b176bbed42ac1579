from dihal_core.profiles import load_study
from dihal_core.reporting.page import limits_of, objective_text, sweep_flags, tables_of


def test_limits_name_what_this_study_is_not(data, results_for):
    limits = " ".join(limits_of(results_for(data), None))
    for words in ("largely measures activation norm", "quantised (Q4_1)", "2,000 sequences (paper: 300,000 sequences)",
                  "One seed (0)", "not Dolma v1.7", "without a sweep result: 7", "not the paper's UNet"):  # fmt: skip
        assert words in limits


def test_a_paper_profile_has_no_limit_of_size_or_quantisation(data, results_for):
    results = results_for(data, settings=load_study("paper-qwen3-8b"))
    limits = " ".join(limits_of(results, None))
    assert "Smaller than the paper" not in limits
    assert "quantised" not in limits


def test_a_partial_study_has_the_tables_it_can_have(data, results_for):
    results = results_for({"corpus": data["corpus"], "score": data["score"]}, values={"failed_layers": {}})
    assert {"layers", "corpus", "ledger", "protocol"} <= set(tables_of(results))
    assert "evaluation_heldout" not in tables_of(results)


def test_a_flag_names_its_layer_once():
    blocks = {3: {"flags": ["layer 3: a", "b"]}, 4: {"flags": None}}
    assert sweep_flags(blocks) == ["Layer 3: a", "Layer 3: b"]


def test_loss_weights_are_read_out():
    assert objective_text({"bridge": {"diffusion": 0.5, "next_token": 0.0}}) == "diffusion 0.50, next-token 0"
    assert objective_text(None) is None
