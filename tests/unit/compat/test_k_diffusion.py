"""``comfy.k_diffusion``: what of it needs no model. The figures are ComfyUI's: ``tests/compat/utils_numbers.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.compat._standins import NotProvidedError
from runtime.compat.comfy.k_diffusion import sampling, utils

torch = pytest.importorskip("torch")


def test_lists_of_sigmas_go_from_the_highest_to_the_lowest_and_to_zero() -> None:
    for name in ("karras", "exponential", "polyexponential"):
        sigmas = getattr(sampling, f"get_sigmas_{name}")(4, sigma_min=0.5, sigma_max=8.0, device="cpu")
        assert sigmas.shape == (5,)
        assert sigmas[[0, 3, 4]].tolist() == pytest.approx([8.0, 0.5, 0.0])
        assert (sigmas[:-1] > sigmas[1:]).all()
    assert sampling.get_sigmas_exponential(3, 1.0, 4.0).tolist() == pytest.approx([4.0, 2.0, 1.0, 0.0])
    assert sampling.get_sigmas_laplace(3, 0.5, 8.0).tolist() == pytest.approx([8.0, 1.0, 0.5])
    assert sampling.get_sigmas_vp(1, eps_s=1.0).tolist() == pytest.approx([152.166977, 0.0])


def test_an_ancestral_step_keeps_the_variance() -> None:
    down, up = sampling.get_ancestral_step(3.0, 2.0)
    assert down**2 + up**2 == pytest.approx(4.0)
    assert sampling.get_ancestral_step(3.0, 2.0, eta=0.0) == (2.0, 0.0)


def test_noise_of_a_seed_is_the_same_noise_again_and_goes_on() -> None:
    noises = [sampling.default_noise_sampler(torch.zeros(2, 3), seed=5) for _ in range(2)]
    first = [noise(1.0, 0.5) for noise in noises]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], noises[0](0.5, 0.0))


def test_a_sigma_of_each_item_reaches_its_item() -> None:
    slope = sampling.to_d(torch.ones(2, 3, 4), torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4))
    assert slope[:, 0, 0].tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="3 dimensions, which is more than 2"):
        utils.append_dims(slope, 2)


def test_the_pictures_of_a_folder_come_in_order_and_their_endings_may_be_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "b").mkdir()
    for name in ("c.PNG", "b/a.png"):
        image.new("L", (2, 1), 9).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    folder = utils.FolderOfImages(str(tmp_path), transform=lambda picture: picture.getpixel((0, 0)))
    assert [path.name for path in folder.paths] == ["a.png", "c.PNG"]
    assert (len(folder), folder[0]) == (2, ((9, 9, 9),))
    assert ".webp" in list(utils.FolderOfImages.IMG_EXTENSIONS)


def test_samplers_and_training_are_names_only() -> None:
    with pytest.raises(
        NotProvidedError, match=r"comfy\.k_diffusion\.sampling\.sample_euler needs a model runtime"
    ):
        sampling.sample_euler(None, None, None)
    with pytest.raises(NotProvidedError, match=r"comfy\.k_diffusion\.utils\.EMAWarmup needs a model runtime"):
        utils.EMAWarmup()
