from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.frames import FrameLoss, losses
from poyo_ssl_plugin.frames.losses import image_metrics


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(3, 24, 40, generator=generator)
    return (true + 0.2 * torch.randn(3, 24, 40, generator=generator)).clamp(0, 1), true


def spectrum(image: np.ndarray) -> np.ndarray:
    return np.fft.fft2(image) / np.sqrt(image.shape[-2] * image.shape[-1])


def focal(p: np.ndarray, t: np.ndarray, gamma: float = 1.0) -> float:
    return np.mean([(e / e.max()) ** gamma * e for e in np.abs(p - t)])


# Each term written once more, in numpy.
EXPECTED = {
    "l1": lambda p, t: np.abs(p - t).mean(),
    "focal": focal,
    "fft": lambda p, t: np.abs(spectrum(p) - spectrum(t)).mean(),
    "fft_magnitude": lambda p, t: np.abs(np.abs(spectrum(p)) - np.abs(spectrum(t))).mean(),
    "gradient": lambda p, t: sum(np.abs(np.diff(p, axis=a) - np.diff(t, axis=a)).mean() for a in (1, 2)),
}


class TestTerms:
    @pytest.mark.parametrize("name", EXPECTED)
    def test_against_numpy(self, pair, name):
        expected = EXPECTED[name](*(x.double().numpy() for x in pair))
        assert losses.TERMS[name](*pair).item() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("gamma", [0.0, 2.0])
    def test_focal_of_other_powers(self, pair, gamma):
        expected = focal(*(x.double().numpy() for x in pair), gamma)
        assert losses.focal(*pair, gamma=gamma).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("size", [(24, 40), (64, 128), (11, 12)])
    def test_ssim_against_torchmetrics(self, size):
        true = torch.rand(4, *size, generator=torch.Generator().manual_seed(1))
        predicted = 0.7 * true + 0.3 * torch.rand(4, *size, generator=torch.Generator().manual_seed(2))
        # The whole map: versions of torchmetrics differ in whether the mean is over its border too.
        _, similarity = structural_similarity_index_measure(
            predicted[:, None], true[:, None], data_range=1.0, return_full_image=True
        )
        expected = similarity.mean(dim=(1, 2, 3))
        torch.testing.assert_close(losses.ssim(predicted, true), expected, atol=1e-5, rtol=1e-4)
        assert losses.TERMS["ssim"](predicted, true).item() == pytest.approx(1 - expected.mean().item(), abs=1e-5)

    def test_ssim_of_small_images(self):
        with pytest.raises(RecipeError, match="11 x 11"):
            losses.ssim(torch.rand(1, 10, 20), torch.rand(1, 10, 20))

    def test_perceptual(self, pair):
        torch.manual_seed(0)
        features = nn.Conv2d(3, 5, 3)
        p, t = (
            (np.stack([x.numpy()] * 3, axis=1) - np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
            / np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
            for x in pair
        )
        with torch.no_grad():
            seen = [features(torch.from_numpy(x).float()) for x in (p, t)]
            expected = (seen[0] - seen[1]).square().mean()
            torch.testing.assert_close(losses.perceptual(*pair, features), expected)

    @pytest.mark.parametrize("name", list(losses.TERMS))
    def test_equal_images_lose_nothing_and_others_descend(self, name, pair):
        term = losses.TERMS[name]
        assert term(pair[1], pair[1]).item() == pytest.approx(0, abs=1e-5)
        image = pair[0].clone().requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.01)
        first = term(image, pair[1])
        for _ in range(30):
            optimizer.zero_grad()
            loss = term(image, pair[1])
            loss.backward()
            assert torch.isfinite(image.grad).all()
            optimizer.step()
        assert loss < first


class TestFrameLoss:
    def test_the_sum(self, pair):
        weights = {"l1": 2.0, "focal": 3.0, "fft": 0.5, "fft_magnitude": 0.25, "gradient": 1.5, "ssim": 0.1}
        total, terms = FrameLoss(weights)(*pair)
        assert set(terms) == set(weights)
        expected = sum(weight * losses.TERMS[name](*pair).item() for name, weight in weights.items())
        assert total.item() == pytest.approx(expected, rel=1e-5)

    def test_the_paper_s_weights_and_what_is_on(self, pair, caplog, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with caplog.at_level(logging.INFO):
            loss = FrameLoss(losses.PAPER_WEIGHTS)
        assert "50 focal, 50 l1, 50 fft_magnitude, 0.1 ssim; perceptual off" in caplog.text
        _, terms = loss(*pair)
        assert set(terms) == {"focal", "l1", "fft_magnitude", "ssim"}

    def test_perceptual_where_the_weights_are(self, pair, tmp_path, monkeypatch):
        models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        name = models.AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
        torch.save(models.alexnet().state_dict(), folder / name)
        images = [torch.nn.functional.interpolate(x[:, None], (64, 64))[:, 0] for x in pair]
        _, terms = FrameLoss({"perceptual": 1.0})(*images)
        assert terms["perceptual"] > 0

    def test_zero_turns_a_term_off(self):
        assert FrameLoss({"l1": 1.0, "ssim": 0.0}).weights == {"l1": 1.0}

    @pytest.mark.parametrize(
        ("weights", "message"),
        [({"l3": 1.0}, "unknown term 'l3'"), ({"l1": -1.0}, "negative"), ({"l1": 0.0}, "no term left")],
    )
    def test_bad_weights(self, weights, message):
        with pytest.raises(RecipeError, match=message):
            FrameLoss(weights)


class TestMetrics:
    def test_against_numpy_and_scipy(self, pair):
        measured = image_metrics(*pair)
        for i, (p, t) in enumerate(zip(*(x.double().numpy() for x in pair), strict=True)):
            assert measured["psnr"][i].item() == pytest.approx(-10 * np.log10(((p - t) ** 2).mean()), rel=1e-4)
            assert measured["correlation"][i].item() == pytest.approx(pearsonr(p.ravel(), t.ravel())[0], rel=1e-4)
        torch.testing.assert_close(measured["ssim"], losses.ssim(*pair), atol=1e-5, rtol=1e-4)

    def test_equal_and_uniform_images(self, pair):
        same = image_metrics(pair[1], pair[1])
        assert same["psnr"].allclose(torch.tensor(48.1308)) and same["ssim"].allclose(torch.ones(3))
        assert (image_metrics(torch.full_like(pair[1], 0.5), pair[1])["correlation"] == 0).all()
