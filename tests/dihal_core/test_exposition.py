import re

from dihal_core.exposition import exposition

LEDGER = {
    "wall_seconds": 1234567.25,
    "store_bytes": 123456789012,
    "peak_memory_bytes": 1,
    "stages": {'geometry [k "x"]': {"wall_seconds": 2.5, "units": 31, "cached": 0}},
}


def test_every_line_is_valid_prometheus_text_with_exact_numbers():
    text = exposition("study-s0", "full-study", LEDGER, 2, 1_790_000_000.0)
    sample = re.compile(r'^[a-z_]+\{(\w+="(\\.|[^"\\])*",?)+\} [0-9.e+-]+$')
    for line in text.splitlines():
        assert line.startswith(("# HELP dihal_", "# TYPE dihal_")) or sample.match(line), line
    assert 'dihal_run_store_bytes{study="study-s0",flow="full-study"} 123456789012\n' in text
    assert 'stage="geometry [k \\"x\\"]"} 31\n' in text
    assert text.count("# TYPE") == len(set(re.findall(r"# TYPE (\w+)", text)))
