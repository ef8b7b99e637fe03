"""A run's folder beside things that no run wrote."""

import json
from pathlib import Path

from idgan_fast.run.folder import RunFolder


def test_what_no_run_wrote_stays_and_ends_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for iteration in (5, 10):
        folder.log("vae", iteration, {"loss": 1.0})
    folder.close()
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('[1]\n{"loss": 2}\n{"stage": "x", "iteration": 1}\n{"stage": "vae", "iteration": "1"}\n{"stage": "v')
    samples = tmp_path / "samples"
    samples.mkdir(exist_ok=True)
    mine, later = ["a-b-c.png", "vae-x.png", "gan-1-copy.png"], ["vae-000010.png", "gan-000001.png"]
    for name in (*mine, *later, "vae-000005.png"):
        (samples / name).write_bytes(b"")
    folder = RunFolder(tmp_path)
    folder.rewind("vae", 5)
    folder.close()
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [5]
    assert sorted(path.name for path in samples.iterdir()) == sorted([*mine, "vae-000005.png"])
