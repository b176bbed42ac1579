import subprocess
import sys
import textwrap

SCRIPT = """
    import logging, sys
    from prefect.logging.configuration import setup_logging
    from flows.outliving import outlive_worker

    setup_logging()
    if sys.argv[1] == "outlive":
        outlive_worker()
    sys.stdin.readline()  # until the reader is gone
    for name in ("prefect.flow_runs", "prefect.engine", "prefect.flow_runs"):
        logging.getLogger(name).error("a line nobody reads")
    print("neither this", flush=True)
    sys.stderr.write("nor this")
    sys.stderr.flush()
    with open(sys.argv[2], "w") as file:
        file.write("went on")
"""


def without_reader(how: str, path) -> int:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), how, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    return process.wait(timeout=60)


def test_a_flow_goes_on_when_nobody_reads_its_output_any_more(tmp_path):
    assert without_reader("outlive", tmp_path / "a") == 0
    assert (tmp_path / "a").read_text() == "went on"


def test_prefect_alone_would_exit(tmp_path):
    """If this fails, Prefect has cured it and `flows.outliving` can go."""
    assert without_reader("plain", tmp_path / "b") != 0
    assert not (tmp_path / "b").exists()
