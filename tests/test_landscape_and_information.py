from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.errors import CheckpointError, DietError
from poyo_ssl_plugin.experiments.information import as_json, gradient_information, information_by_population
from poyo_ssl_plugin.experiments.landscape import (
    landscape_of_run,
    not_convex,
    principal_directions,
    roughness,
    section,
    trajectory,
    write_landscape,
)
from poyo_ssl_plugin.training import finetune

QUICK = ("model=tiny", "data.batch_size=4", "trainer.accelerator=cpu", "trainer.progress=false")
TRAIN = (*QUICK, "trainer.max_steps=6", "trainer.val_every_n_steps=3", "trainer.tensorboard=false")


class TestDirections:
    def test_they_are_the_principal_components_about_the_end(self):
        rng = np.random.default_rng(0)
        points = np.cumsum(rng.normal(size=(12, 50)) * np.r_[np.full(25, 3.0), np.full(25, 0.1)], axis=0)
        directions, explained = principal_directions(points)
        np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-9)
        _, values, right = np.linalg.svd(points[:-1] - points[-1], full_matrices=False)
        np.testing.assert_allclose(np.abs(np.sum(directions * right[:2], axis=1)), 1, atol=1e-9)
        np.testing.assert_allclose(explained, (values**2 / (values**2).sum())[:2])

    def test_too_little_movement(self):
        with pytest.raises(CheckpointError, match="trajectory_every_n_steps"):
            principal_directions(np.zeros((2, 3)))
        with pytest.raises(CheckpointError, match="one line only"):
            principal_directions(np.outer([2.0, 1.0, 0.0], np.ones(3)))


class TestRoughness:
    a = np.linspace(-1, 1, 15)

    def test_a_section_of_a_bowl_is_a_bowl(self):
        curvature = np.diag([1.0, 4.0, 9.0])
        loss = section(lambda x: float(x @ curvature @ x), np.ones(3), np.eye(3)[:2], self.a, self.a)
        assert loss[0, 0] == pytest.approx(0.0 + 0.0 + 9.0) and roughness(self.a, self.a, loss) < 1e-12
        assert not_convex(loss) == 0

    def test_it_grows_with_ripples(self):
        bowl = self.a[:, None] ** 2 + self.a[None] ** 2
        values = [roughness(self.a, self.a, bowl + h * np.cos(11 * self.a)[:, None]) for h in (0.0, 0.1, 0.3, 0.9)]
        assert values == sorted(values) and values[0] < 1e-12 and values[-1] > 0.3
        assert not_convex(bowl + 0.9 * np.cos(11 * self.a)[:, None]) > 0.1

    def test_the_scale_does_not_matter(self):
        rng = np.random.default_rng(0)
        loss = rng.normal(size=(15, 15))
        assert roughness(self.a, self.a, loss) == pytest.approx(roughness(5 * self.a, self.a, 100 * loss + 7))


class TestLandscapeOfARun:
    @pytest.fixture(scope="module")
    def run_dir(self, sim_dir, table_path, tmp_path_factory):
        out = tmp_path_factory.mktemp("landscape")
        common = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={out}", "diet=all"]
        # As often as validation: two callbacks with one period must not be taken for one.
        finetune(compose_recipe("finetune", "scratch", [*TRAIN, *common, "trainer.trajectory_every_n_steps=3"]))
        finetune(
            compose_recipe(
                "finetune",
                "scratch",
                [*TRAIN, *common[:2], f"out_dir={out / 'b'}", "diet=all", "trainer.trajectory_every_n_steps=1"],
            )
        )
        return out

    def test_it_goes_through_the_trained_weights(self, run_dir, tmp_path):
        assert [path.name for path in trajectory(run_dir)] == ["step=3.ckpt", "step=6.ckpt"]
        run = run_dir / "b"
        landscape = landscape_of_run(run, n_points=5, n_windows=16)
        assert landscape.loss.shape == (5, 5) and np.isfinite(landscape.loss).all()
        assert landscape.path.shape == (6, 2) and landscape.path[-1].tolist() == [0.0, 0.0]
        assert 0 < landscape.explained.sum() <= 1 + 1e-9 and landscape.explained[0] >= landscape.explained[1]
        written = write_landscape(landscape, tmp_path / "l.json")
        assert json.loads(written[0].read_text())["roughness"] == landscape.roughness
        assert written[1].read_bytes().startswith(b"\x89PNG")

    def test_a_run_without_a_trajectory(self, run_dir, tmp_path):
        with pytest.raises(CheckpointError, match="trajectory_every_n_steps"):
            landscape_of_run(run_dir, n_points=3)
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            landscape_of_run(tmp_path)


class TestInformation:
    def test_of_logistic_regression(self):
        """The Fisher information of a softmax over W x is the sum over classes of p (1 - p), times x squared."""
        rng = np.random.default_rng(0)
        weight = nn.Parameter(torch.from_numpy(rng.normal(size=(4, 3))))
        x = torch.from_numpy(rng.normal(size=(40, 3)))
        labels = torch.from_numpy(rng.integers(4, size=40))
        windows = [(x[i : i + 1], labels[i : i + 1]) for i in range(40)]
        found = gradient_information(lambda window: (window[0] @ weight.T, window[1]), windows, [weight])
        p = torch.softmax((x @ weight.T).float(), dim=-1).double().detach()
        expected = ((p * (1 - p)).sum(dim=1) * x.square().sum(dim=1)).mean()
        assert found.fisher == pytest.approx(float(expected), rel=1e-4)
        gradients = (p - nn.functional.one_hot(labels, 4))[:, :, None] * x[:, None, :]
        flat = gradients.flatten(1)
        variance = flat.var(dim=0, unbiased=True).sum()
        snr = (flat.mean(dim=0).square().sum() - variance / 40) / variance
        assert found.gradient_snr == pytest.approx(float(snr), rel=1e-3)
        assert found.n_parameters == 12 and found.fisher_per_parameter == pytest.approx(found.fisher / 12)

    def test_labels_that_mean_nothing_have_no_signal(self):
        rng = np.random.default_rng(1)
        weight = nn.Parameter(torch.zeros(2, 5))
        x = torch.from_numpy(rng.normal(size=(400, 5))).float()
        labels = torch.from_numpy(rng.integers(2, size=400))
        teacher = (x[:, 0] > 0).long()

        def snr(of):
            windows = [(x[i : i + 1], of[i : i + 1]) for i in range(400)]
            return gradient_information(lambda w: (w[0] @ weight.T, w[1]), windows, [weight]).gradient_snr

        assert abs(snr(labels)) < 0.02 and snr(teacher) > 0.1

    def test_many_classes_are_cut_without_bias(self):
        weight = nn.Parameter(torch.zeros(50, 1))
        windows = [(torch.ones(1, 1), torch.tensor([3]))] * 2
        few, all_of = (
            gradient_information(lambda w: (w[0] @ weight.T, w[1]), windows, [weight], max_labels=n).fisher
            for n in (10, 50)
        )
        assert few == pytest.approx(all_of) == pytest.approx(50 * 0.02 * 0.98)

    def test_by_population(self, dataset, table):
        populations = {"predictable": {"rule": "predictable"}, "unpredictable": {"rule": "unpredictable"}}
        split = recorded_split(dataset)
        found = information_by_population(dataset, table, split, populations=populations, overrides=QUICK, n_windows=4)
        assert list(found) == ["predictable", "unpredictable"]
        a, b = found.values()
        assert a.n_parameters == b.n_parameters and a.n_windows == b.n_windows == 4 and a.fisher > 0
        again = information_by_population(dataset, table, split, populations=populations, overrides=QUICK, n_windows=4)
        assert as_json(again) == as_json(found)

    def test_populations_that_share_no_recording(self, dataset, table):
        lines = {name: {"rule": "cre_lines", "cre_lines": [name]} for name in ("Pvalb", "Cux2")}
        with pytest.raises(DietError, match="no recording has neurons of all of Pvalb, Cux2"):
            information_by_population(dataset, table, recorded_split(dataset), populations=lines, overrides=QUICK)
