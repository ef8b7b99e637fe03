"""The order of batches, the loader, and the way to the device."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from idgan_fast.config.arguments import parse
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import IndexBatches, batches, open_data, to_signed, to_unit
from idgan_fast.data.dsprites import DSprites, DSpritesFile
from idgan_fast.data.images import ImageFiles

CPU = torch.device("cpu")


class Numbers:
    """A data set whose picture i is filled with i."""

    name, channels, fingerprint = "numbers", 1, "numbers"
    cached, shorter_side = True, None

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}

    def factors(self, indices: Tensor) -> None: ...

    def changed(self) -> list[str]:
        return []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        return torch.as_tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 64, 64)


def index_batches(length: int, batch_size: int, seed: int, start: int = 0, count: int = 20) -> list[list[int]]:
    return list(islice(IndexBatches(length, batch_size, seed, start), count))


@pytest.mark.parametrize(("length", "batch_size"), [(10, 3), (10, 10), (12, 4), (7, 20), (1, 5), (64, 64), (5, 1)])
def test_each_epoch_holds_each_index_once(length: int, batch_size: int) -> None:
    """Over the batches' borders, and where the set is smaller than a batch."""
    found = index_batches(length, batch_size, seed=3, count=4 * length)
    assert all(len(batch) == batch_size for batch in found)
    stream = [index for batch in found for index in batch]
    for epoch in range(len(stream) // length):
        assert sorted(stream[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_are_shuffled_afresh() -> None:
    stream = [index for batch in index_batches(50, 10, seed=0) for index in batch]
    epochs = [tuple(stream[k * 50 : (k + 1) * 50]) for k in range(4)]
    assert len({*epochs, tuple(range(50))}) == 5


@pytest.mark.parametrize(("length", "batch_size"), [(10, 3), (12, 4), (7, 20), (1, 5)])
@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 9])
def test_a_later_start_goes_on_exactly(length: int, batch_size: int, start: int) -> None:
    whole = index_batches(length, batch_size, seed=5, count=20)
    assert index_batches(length, batch_size, seed=5, start=start, count=20 - start) == whole[start:]


def test_batches_depend_on_nothing_but_length_batch_size_and_seed() -> None:
    torch.manual_seed(1)
    first = index_batches(30, 7, seed=2)
    torch.manual_seed(99)
    torch.rand(5)
    np.random.seed(4)
    assert index_batches(30, 7, seed=2) == first
    same = IndexBatches(30, 7, 2)
    assert list(islice(same, 20)) == list(islice(same, 20)) == first


def test_batches_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    index_batches(30, 7, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_differ() -> None:
    orders = {tuple(index_batches(50, 50, seed, count=1)[0]) for seed in range(20)}
    assert len(orders) == 20
    epochs = {seed: index_batches(50, 50, seed, count=5) for seed in range(5)}
    assert len({tuple(order) for orders in epochs.values() for order in orders}) == 25


def test_indices_are_plain_integers() -> None:
    assert all(type(index) is int for batch in index_batches(5, 3, seed=0, count=3) for index in batch)


# ---- the loader


def test_batches_follow_the_order_of_indices() -> None:
    got = list(islice(batches(Numbers(), batch_size=4, seed=6, start=2, workers=0), 5))
    assert [batch[:, 0, 0, 0].tolist() for batch in got] == index_batches(10, 4, seed=6, start=2, count=5)
    assert all(batch.dtype == torch.uint8 and batch.shape == (4, 1, 64, 64) for batch in got)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(rng.integers(0, 256, (70, 80 + number, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    def fetch(cache_gib: float, workers: int, start: int = 0, count: int = 6) -> Tensor:
        dataset = ImageFiles(folder, 64, ImagesConfig(cache_gib=cache_gib))
        assert dataset.cached is (cache_gib > 0)
        return torch.stack(list(islice(batches(dataset, 4, seed=1, start=start, workers=workers), count)))

    alone = fetch(0, workers=0)
    assert alone.shape == (6, 4, 3, 64, 64)
    assert torch.equal(fetch(0, workers=2), alone)
    assert torch.equal(fetch(2.0, workers=2), alone)
    assert torch.equal(fetch(0, workers=2, start=2, count=4), alone[2:])


def test_dsprites_in_batches() -> None:
    dataset = DSprites()
    batch = next(batches(dataset, batch_size=8, seed=0, start=100, workers=2))
    assert torch.equal(batch, dataset[index_batches(len(dataset), 8, seed=0, start=100, count=1)[0]])


# ---- opening


def test_open_data_renders_dsprites() -> None:
    assert isinstance(open_data(parse([]), 64), DSprites)


def test_open_data_reads_the_public_file(tmp_path: Path) -> None:
    path = tmp_path / "dsprites.npz"
    np.savez_compressed(path, imgs=np.ones((1, 64, 64), np.uint8), latents_classes=np.zeros((1, 6), np.int64))
    dataset = open_data(parse(["--preset", "dsprites", "--data", str(path)]), 64)
    assert isinstance(dataset, DSpritesFile)
    assert (dataset[[0]] == 255).all()


@pytest.mark.parametrize("size", [64, 128])
def test_open_data_reads_a_folder_at_the_asked_size(folder: Path, size: int) -> None:
    dataset = open_data(parse(["--preset", "celeba-64", "--data", str(folder)]), size)
    assert isinstance(dataset, ImageFiles)
    assert (len(dataset), dataset.channels) == (9, 3)
    assert dataset[[0]].shape == (1, 3, size, size)


# ---- to the device


@pytest.fixture
def every_value() -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)


def test_to_unit(every_value: Tensor) -> None:
    x = to_unit(every_value, CPU)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    torch.testing.assert_close(x.double().flatten(), torch.arange(256, dtype=torch.float64) / 255, atol=1e-7, rtol=0)


def test_to_signed(every_value: Tensor) -> None:
    x = to_signed(every_value, CPU, None, None)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    expected = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    torch.testing.assert_close(x.double().flatten(), expected, atol=1e-6, rtol=0)


def test_the_two_ranges_agree(every_value: Tensor) -> None:
    torch.testing.assert_close((to_signed(every_value, CPU, None, None) + 1) / 2, to_unit(every_value, CPU))


def test_flip_mirrors_the_chosen_pictures(every_value: Tensor) -> None:
    plain = to_signed(every_value, CPU, None, None)
    flipped = to_signed(every_value, CPU, torch.tensor([True, False, False, True]), None)
    assert torch.equal(flipped[1:3], plain[1:3])
    for index in (0, 3):
        assert torch.equal(flipped[index], plain[index][:, :, range(7, -1, -1)])
        assert not torch.equal(flipped[index], plain[index])


def test_noise_is_scaled_to_less_than_one_128th(every_value: Tensor) -> None:
    plain = to_signed(every_value, CPU, None, None).double()
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(every_value.shape, generator=rng)
    added = to_signed(every_value, CPU, None, noise).double() - plain
    torch.testing.assert_close(added, noise.double() / 128, atol=2e-7, rtol=0)
    assert added.max() < 1 / 128
    assert added.max() > 0.9 / 128
    assert torch.equal(to_signed(every_value, CPU, None, torch.zeros(every_value.shape)).double(), plain)


def test_noise_is_not_mirrored(every_value: Tensor) -> None:
    flip, noise = torch.ones(4, dtype=torch.bool), torch.rand(every_value.shape)
    both = to_signed(every_value, CPU, flip, noise)
    torch.testing.assert_close(both, to_signed(every_value, CPU, flip, None) + noise / 128)


def test_the_batch_and_the_noise_are_left_alone(every_value: Tensor) -> None:
    batch, noise = every_value.clone(), torch.rand(every_value.shape)
    kept = noise.clone()
    to_unit(batch, CPU)
    to_signed(batch, CPU, torch.ones(4, dtype=torch.bool), noise)
    assert torch.equal(batch, every_value)
    assert torch.equal(noise, kept)
