from dihal_core.reporting.pictures import pictures_of


def test_a_partial_study_has_the_pictures_it_can_have(data, results_for):
    results = results_for({"corpus": data["corpus"], "score": data["score"]}, values={"failed_layers": {}})
    assert set(pictures_of(results)) == {"mini_score", "geometry", "score"}
