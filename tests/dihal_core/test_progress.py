import logging

from dihal_core.progress import LoggedProgress


def test_progress_is_logged_at_first_seldom_in_between_and_at_the_end(caplog):
    told = []
    progress = LoggedProgress("sweep-L02", every_s=3600, also=lambda percent, text: told.append((percent, text)))
    progress.last_shown = -1e9
    with caplog.at_level(logging.INFO, logger="dihal_core.progress"):
        for done in range(11):
            progress(done, 10, "steps")
    assert [percent for percent, _ in told] == [0.0, 100.0]
    assert told[0][1] == "sweep-L02: 0/10 steps"
    assert told[1][1].startswith("sweep-L02: 10/10 steps, ")
    assert "ETA" not in told[1][1]
    assert [record.message for record in caplog.records] == [text for _, text in told]


def test_a_resumed_stage_shows_its_own_rate_and_what_is_left():
    told = []
    progress = LoggedProgress("dump", every_s=0, also=lambda _, text: told.append(text))
    progress.started -= 10.0  # as if it had run for ten seconds
    progress(900, 1000, "windows")
    progress(950, 1000, "windows")
    assert told[0] == "dump: 900/1000 windows"  # what an earlier attempt did is no rate
    assert "windows/s, ETA 1" in told[1]
    assert "5 windows/s" in told[1] or "4.9" in told[1]
