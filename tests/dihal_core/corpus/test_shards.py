from dihal_core.corpus.shards import (
    FOLDERS,
    MIXTURE,
    URL_LIST_SHA256,
    component_quotas,
    folder_quotas,
    folder_shares,
    url_list,
    url_list_sha256,
)


def test_the_table_rebuilds_the_published_list_of_addresses():
    assert url_list_sha256() == URL_LIST_SHA256
    assert len(url_list().encode()) == 171_893
    assert url_list().count("\n") == 2_419
    assert "cc_en_middle-0239" not in url_list()
    assert "cc_en_tail-0153" not in url_list()


def test_every_folder_belongs_to_one_row_of_the_mixture():
    listed = [folder for row in MIXTURE for folder in row.folders]
    assert sorted(listed) == sorted(FOLDERS)


def test_the_paper_sized_plan_follows_the_published_mixture():
    quotas = component_quotas(300_000)
    assert quotas == {
        "Common Crawl": 109_002,
        "RefinedWeb": 83_226,
        "StarCoder": 48_105,
        "Reddit": 14_570,
        "C4": 12_619,
        "peS2o": 10_431,
        "arXiv": 5_106,
        "StackExchange": 3_574,
        "Flan": 3_009,
        "CC News": 2_608,
        "OpenWebMath": 2_298,
        "Algebraic Stack": 2_298,
        "Wikipedia and Wikibooks": 1_349,
        "Gutenberg": 966,
        "MegaWika": 839,
    }
    assert sum(folder_quotas(300_000).values()) == 300_000
    for row in MIXTURE:
        assert sum(folder_quotas(300_000)[folder] for folder in row.folders) == quotas[row.name]


def test_folder_shares_add_up_to_one():
    assert abs(sum(folder_shares().values()) - 1) < 1e-12
