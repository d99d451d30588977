"""The six scaling methods, cropping, tiles."""

import pytest
import torch

from runtime.compat.comfy import utils

METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos", "bislerp"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_flat_picture_stays_flat(method, channels):
    flat = torch.full((2, channels, 8, 12), 0.4)
    scaled = utils.common_upscale(flat, 5, 20, method, "disabled")
    assert scaled.shape == (2, channels, 20, 5)
    assert scaled.dtype == flat.dtype
    assert torch.allclose(scaled, torch.tensor(0.4), atol=1 / 255 if method == "lanczos" else 1e-5)


def test_centre_cropping_keeps_the_middle():
    picture = torch.zeros(1, 1, 4, 8)
    picture[..., 2:6] = 1.0
    assert torch.equal(utils.common_upscale(picture, 4, 4, "nearest-exact", "center"), torch.ones(1, 1, 4, 4))
    assert utils.common_upscale(picture, 4, 4, "nearest-exact", "disabled").mean() == 0.5


def test_tall_pictures_are_cropped_at_top_and_bottom():
    picture = torch.zeros(1, 1, 8, 4)
    picture[..., 2:6, :] = 1.0
    assert utils.common_upscale(picture, 4, 4, "area", "center").min() == 1.0


def test_frames_of_video_are_scaled_one_by_one():
    video = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(2, 5, 3, 4, 4)
    scaled = utils.common_upscale(video, 8, 6, "bilinear", "disabled")
    assert scaled.shape == (2, 5, 3, 6, 8)
    assert torch.allclose(scaled[1, 2, :, 0, 0], torch.arange(3.0))


def test_bislerp_keeps_the_length_between_equal_lengths():
    latent = torch.zeros(1, 2, 1, 2)
    latent[0, :, 0, 0] = torch.tensor([1.0, 0.0])
    latent[0, :, 0, 1] = torch.tensor([0.0, 1.0])
    lengths = utils.bislerp(latent, 8, 1).norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)
    mixed = torch.nn.functional.interpolate(latent, size=(1, 8), mode="bilinear").norm(dim=1)
    assert mixed.min() < 0.8


def test_lanczos_works_in_eight_bits():
    levels = torch.linspace(0, 1, 16).reshape(1, 1, 1, 16)
    scaled = utils.lanczos(levels, 32, 2)
    assert torch.allclose(scaled * 255, (scaled * 255).round(), atol=1e-3)


def test_an_unknown_method_is_an_error():
    with pytest.raises((NotImplementedError, ValueError)):
        utils.common_upscale(torch.zeros(1, 1, 4, 4), 2, 2, "nonsense", "disabled")


def test_tiles_blend_into_what_the_whole_would_give():
    picture = torch.rand(2, 3, 40, 50)
    steps = []

    class Bar:
        def update(self, count):
            steps.append(count)

    def double(tile):
        return torch.nn.functional.interpolate(tile, scale_factor=2, mode="nearest")

    tiled = utils.tiled_scale(picture, double, tile_x=16, tile_y=16, overlap=4, upscale_amount=2, pbar=Bar())
    assert torch.allclose(tiled, double(picture), atol=1e-5)
    assert len(steps) == 2 * utils.get_tiled_scale_steps(50, 40, 16, 16, 4)


def test_a_picture_smaller_than_a_tile_is_done_at_once():
    assert utils.get_tiled_scale_steps(10, 10, 64, 64, 8) == 1
    assert utils.tiled_scale(torch.ones(1, 3, 8, 8), lambda tile: tile, upscale_amount=1).shape == (
        1,
        3,
        8,
        8,
    )


def test_batches_are_repeated_cut_and_stretched():
    batch = torch.arange(3)[:, None]
    assert utils.repeat_to_batch_size(batch, 5).flatten().tolist() == [0, 1, 2, 0, 1]
    assert utils.repeat_to_batch_size(batch, 2).flatten().tolist() == [0, 1]
    assert utils.resize_to_batch_size(batch, 6).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert utils.resize_to_batch_size(torch.arange(5)[:, None], 3).flatten().tolist() == [0, 2, 4]
    assert utils.reshape_mask(torch.ones(4, 4), (2, 3, 8, 8)).shape == (2, 3, 8, 8)
