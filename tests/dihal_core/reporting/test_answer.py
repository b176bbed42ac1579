from dihal_core.reporting.answer import answer_lines, build_answer


def test_five_lines_carry_the_numbers_of_the_results(data, results_for):
    lines = answer_lines(results_for(data))
    assert len(lines) == 5
    assert all("\n" not in line for line in lines)
    where, predicted, controls, wiki, heldout = lines
    assert "layer 1 of 30 of SmolLM2-135M-Instruct Q4_1" in where
    assert "0.91" in where
    assert "Spearman 0.81 [0.60, 0.92]" in predicted
    assert "28 of 29 layers; best observed layer 1, rank gap 0" in predicted
    assert "depth alone 0.96 (better)" in controls
    assert "wiki-like pages, 19,337 tokens: teacher PPL 20.1; bridge PPL 24.8" in wiki
    assert "held-out windows" in heldout


def test_there_are_five_lines_whatever_is_missing(data, results_for):
    for missing in (["agreement"], ["evaluate"], ["sweep", "agreement", "replace", "evaluate"], ["score"]):
        partial = {name: block for name, block in data.items() if name not in missing}
        lines = answer_lines(results_for(partial))
        assert len(lines) == 5
        assert not any(word in line for line in lines for word in ("None", "nan", "inf]"))


def test_one_evaluation_set_leaves_room_for_the_caution(data, results_for):
    del data["evaluate"]["eval_wiki"]
    lines = answer_lines(results_for(data))
    assert lines[-1] == "Caution    weights quantised to Q4_1, one seed (0); layers missing from the sweep: 7"


def test_a_sweep_of_several_seeds_is_not_called_one_seed(data, results_for):
    del data["evaluate"]["eval_wiki"]
    results = results_for(data)
    results.settings["sweep"]["seeds"] = 3
    assert "3 trainings per layer in the sweep, all else from one seed (0)" in answer_lines(results)[-1]


def test_sentences_start_with_the_controls_that_win(data, results_for):
    kinds = [item["kind"] for item in build_answer(results_for(data))["sentences"]]
    assert kinds == sorted(kinds, key=["control", "caution", "support"].index)
    assert kinds[0] == "control"
