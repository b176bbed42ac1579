from dihal_core.reporting import artifacts


def test_every_artifact_is_markdown_without_missing_words_or_html(data):
    pages = [
        artifacts.markdown_corpus(data["corpus"]),
        artifacts.markdown_score_table(data["score"]),
        artifacts.markdown_sweep_table(data["sweep"], {7: "<b>failed</b>"}, 1),
        artifacts.markdown_agreement(data["agreement"]),
        artifacts.markdown_evaluation(data["evaluate"]),
    ]
    for page in pages:
        assert "|--:|" in page
        assert not any(word in page for word in ("None", "nan", "<script", "<b>"))


def test_lists_of_blocks_give_the_same_markdown(data):
    assert artifacts.markdown_sweep_table([data["sweep"][3]]) == artifacts.markdown_sweep_table({3: data["sweep"][3]})
    block = data["evaluate"]["heldout"]
    assert artifacts.markdown_evaluation([block]) == artifacts.markdown_evaluation({"heldout": block})


def test_the_selected_layer_is_bold(data):
    line = next(
        line for line in artifacts.markdown_score_table(data["score"]).splitlines() if line.startswith("| **1**")
    )
    assert "7.49 [6.99, 7.99]" in line
