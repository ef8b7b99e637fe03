"""A run that a former version began goes on: its checkpoint is read, and the numbers are the ones it would have had."""

import gzip
import json
from pathlib import Path

import pytest

from idgan_fast import train
from idgan_fast.run import checkpoint

FORMER = Path(__file__).resolve().parent.parent / "run" / "data" / "gan-00000003.pt.gz"
SETTINGS = [
    *("--vae.iters", "8", "--gan.iters", "6", "--batch-size", "4", "--vae.width", "1", "--gan.width", "1"),
    *("--vae.c-dim", "3", "--log-every", "1", "--compile", "off", "--seed", "5", "--device", "cpu"),
]
EXPECTED = {  # of the former version, at iterations 4, 5 and 6
    "d_real": [0.7322782, 0.7303602, 0.7288182],
    "d_fake": [0.6554593, 0.6572623, 0.6588046],
    "g": [0.7303678, 0.7287112, 0.7270104],
    "distillation": [3.4032869, 4.7093201, 4.9520750],
}


def test_a_run_of_the_former_version_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "gan-00000003.pt").write_bytes(gzip.decompress(FORMER.read_bytes()))
    assert train.main([*SETTINGS, "--out", str(tmp_path)]) == 0
    assert "(gan iteration 3)" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "g" in row]
    assert [row["iteration"] for row in trained] == [4, 5, 6]
    for name, values in EXPECTED.items():
        assert [row[name] for row in trained] == pytest.approx(values, rel=1e-4)
    assert checkpoint.newest_first(folder)[0].name == "gan-00000006.pt"
