from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from medseg.config import AugmentationConfig, load_config
from medseg.data import intensity
from medseg.data.intensity import blur, change_contrast, change_gamma, change_intensities, draw_factor, lower_resolution
from medseg.errors import ConfigError

NEVER = {
    f"{name}_p": 0.0
    for name in ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
}
ALL = (0, 1, 2)


def random_image(channels=1, shape=(20, 18, 16), seed=0):
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))


def changed(image, seed=0, axes=ALL, **config):
    return change_intensities(
        image.clone(), AugmentationConfig(**{**NEVER, **config}), np.random.default_rng(seed), axes
    )


def test_nothing_drawn_changes_nothing():
    image = random_image()
    assert torch.equal(changed(image), image)


@pytest.mark.parametrize("sigma", [(0.5, 0.5, 0.5), (1.0, 0.6, 0.8), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("shape", [(20, 18, 16), (20, 18, 1), (4, 18, 3)])
def test_blur_equals_scipy(sigma, shape):
    channel = random_image(shape=shape)[0]
    # scipy's truncation is in sigmas, rounded: give the radius itself
    radius = [int(np.ceil(3 * s)) if n > 1 else 0 for s, n in zip(sigma, shape, strict=True)]
    expected = gaussian_filter(channel.numpy().astype(float), sigma, radius=radius, mode="nearest")
    np.testing.assert_allclose(blur(channel, sigma), expected, atol=1e-5)


def test_contrast_keeps_mean_of_unclipped_values_and_the_range():
    channel = random_image()[0]
    low, high, before = channel.min(), channel.max(), channel.clone()
    change_contrast(channel, 1.25)
    expected = ((before - before.mean()) * 1.25 + before.mean()).clamp(low, high)
    np.testing.assert_allclose(channel, expected, atol=1e-5)
    weaker = before.clone()
    change_contrast(weaker, 0.75)
    assert weaker.mean() == pytest.approx(float(before.mean()), abs=1e-5)
    assert weaker.std() == pytest.approx(0.75 * float(before.std()), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_statistics_and_order(gamma):
    channel = random_image()[0] * 3 + 5
    before = channel.clone()
    change_gamma(channel, gamma)
    assert channel.mean() == pytest.approx(float(before.mean()), abs=1e-4)
    assert channel.std() == pytest.approx(float(before.std()), rel=1e-4)
    order = before.reshape(-1).argsort()
    assert (channel.reshape(-1)[order].diff() >= -1e-6).all()
    assert np.allclose(channel, before, atol=1e-4) == (gamma == 1.0)


def test_gamma_is_the_power_of_the_scaled_range():
    channel = random_image()[0]
    scaled = (channel - channel.min()) / (channel.max() - channel.min())
    power = scaled**1.5
    power = (power - power.mean()) / power.std(correction=0)
    change_gamma(channel, 1.5)
    standard = (channel - channel.mean()) / channel.std(correction=0)
    np.testing.assert_allclose(standard, power, atol=1e-4)


def test_inverted_gamma_is_gamma_of_the_negative():
    image = random_image()
    image[0, 0, 0, 0] = 9  # skewed, so that the two differ
    inverted = changed(image, gamma_inverted_p=1.0, gamma=(1.5, 1.5))
    expected = -change_gamma(-image[0], 1.5)
    np.testing.assert_allclose(inverted[0], expected, atol=1e-5)
    assert not torch.allclose(inverted, changed(image, gamma_p=1.0, gamma=(1.5, 1.5)), atol=1e-2)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_constant_patches_stay_finite(value):
    always = dict.fromkeys(NEVER, 1.0)
    image = changed(torch.full((2, 8, 8, 8), value), **{**always, "noise_p": 0.0, "brightness": (1.0, 1.0)})
    np.testing.assert_allclose(image, value, rtol=1e-5)
    assert torch.isfinite(changed(torch.full((2, 8, 8, 1), value), **always)).all()


def test_low_resolution_equals_nearest_down_and_linear_up():
    channel = random_image()[0]
    result = lower_resolution(channel, 0.5, ALL)
    expected = F.interpolate(channel[None, None, ::2, ::2, ::2], channel.shape, mode="trilinear")  # not the centres
    assert result.shape == channel.shape
    assert result.std() == pytest.approx(float(expected.std()), rel=0.2)
    assert result.std() < 0.8 * channel.std()
    np.testing.assert_allclose(lower_resolution(channel, 1.0, ALL), channel, atol=1e-6)


def test_low_resolution_leaves_other_axes_alone():
    channel = torch.arange(10.0).expand(16, 16, 10).contiguous()
    np.testing.assert_allclose(lower_resolution(channel, 0.5, (0, 1)), channel)
    assert not np.allclose(lower_resolution(channel, 0.5, (2,)), channel)


def test_noise_has_the_drawn_strength():
    image = torch.zeros((1, 40, 40, 40))
    stds = [float(changed(image, seed, noise_p=1.0, noise_std=0.1).std()) for seed in range(30)]
    assert max(stds) <= 0.102
    assert np.mean(stds) == pytest.approx(0.05, abs=0.02)
    twice = changed(torch.zeros((2, 8, 8, 8)), noise_p=1.0)
    assert not torch.equal(twice[0], twice[1])


def test_brightness_multiplies_each_channel_by_a_factor_in_range():
    factors = np.array([changed(torch.ones((2, 2, 2, 2)), s, brightness_p=1.0)[:, 0, 0, 0].numpy() for s in range(200)])
    assert factors.min() >= 0.75
    assert factors.max() <= 1.25
    assert (factors[:, 0] != factors[:, 1]).all()
    assert (factors < 1).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("limits", "below"), [((0.7, 1.5), 0.5), ((1.1, 1.5), 0.0), ((0.5, 0.9), 1.0)])
def test_factors_are_within_their_limits_and_as_often_below_one_as_above(limits, below):
    rng = np.random.default_rng(0)
    factors = np.array([draw_factor(rng, limits) for _ in range(2000)])
    assert limits[0] <= factors.min() < factors.max() <= limits[1]
    assert (factors < 1).mean() == pytest.approx(below, abs=0.05)


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_channels_are_changed_independently(name):
    image = random_image(channels=2)
    config = {f"{name}_p": 1.0, "low_resolution": (0.5, 0.6)}
    same = [
        tuple(torch.equal(a, b) for a, b in zip(changed(image, s, **config), image, strict=True)) for s in range(60)
    ]
    assert set(same) == {(False, False), (False, True), (True, False), (True, True)}


@pytest.mark.parametrize("name", sorted(NEVER))
def test_each_change_has_its_probability(name, monkeypatch):
    image = random_image(shape=(6, 6, 6))
    monkeypatch.setattr(intensity, "CHANNEL_P", 1.0)
    config = {name: 0.3, "low_resolution": (0.5, 0.6)}
    hits = [not torch.allclose(changed(image, seed, **config), image, atol=1e-6) for seed in range(400)]
    assert np.mean(hits) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(
    "override",
    ["gamma=[1.5, 0.7]", "scaling=[0, 1.4]", "low_resolution=[0.5, 1.5]", "noise_p=1.5", "noise_variance=0.1"],
)
def test_impossible_ranges_are_refused(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config(None, [f"augmentation.{override}"])
