from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from quick import quick
from torch import nn

from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compare.estimates import Trend
from poyo_ssl_plugin.compare.plan import make_plan
from poyo_ssl_plugin.compare.references import run_references
from poyo_ssl_plugin.compare.results import to_json
from poyo_ssl_plugin.compare.scale import Scaling, ScalingSummary, make_points, run_scaling
from poyo_ssl_plugin.compare.scale_report import report_scaling, scaling_rows, scaling_verdicts
from poyo_ssl_plugin.compare.settings import prepare_recordings, preset_names, read_settings
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models.flops import measure_cost
from poyo_ssl_plugin.training import FinetuneRecipe, Inputs, parse_recipe

QUICK = quick(steps=2)


class TestCost:
    def test_the_operations_are_those_of_the_matrix_products(self):
        """Counted by hand for a model of one layer."""
        dim, heads, dim_head, n_units, n_patches, n_latents = 16, 2, 8, 3, 4, 2 * 8
        model = CalciumPOYO(
            sequence_length=1.0, latent_step=0.5, num_latents_per_step=8, dim_out=5, dim=dim, depth=1,
            dim_head=dim_head, cross_heads=heads, self_heads=heads, patch_size=10,
        )  # fmt: skip
        model.set_vocabs(unit_ids=list("abc"), session_ids=["s"])
        inputs = dict(
            input_values=torch.randn(2, n_units, n_patches, 10),
            input_unit_index=torch.tensor([[1, 2, 3]] * 2),
            input_timestamps=torch.arange(n_patches).repeat(2, 1) / n_patches,
            input_mask=None,
            session_index=torch.ones(2, dtype=torch.long),
            output_timestamps=torch.ones(2, 1),
        )
        inner, tokens, n_steps, width = heads * dim_head, n_units * n_patches, 2, 8 * dim

        def attention(n_query, n_context):
            projections = n_query * dim * inner + 2 * n_context * dim * inner + n_query * inner * dim
            return projections + 2 * n_query * n_context * inner

        def feed_forward(n):
            hidden = model.dec_ffn[1].net[0].out_features
            gated = model.dec_ffn[1].net[-1].in_features if hasattr(model.dec_ffn[1].net[-1], "in_features") else hidden
            return n * dim * hidden + n * gated * dim

        # Both windows have the same neurons, whose weights are made once.
        products = (
            tokens * 10 + tokens * n_steps + n_steps * n_units * width + n_units * width * width / 2
            + attention(n_latents, n_latents) + feed_forward(n_latents)
            + attention(1, n_latents) + feed_forward(1)
            + dim * 5
        )  # fmt: skip
        cost = measure_cost(model, inputs, 2)
        assert cost.forward_flops == pytest.approx(2 * products, rel=0.03)
        assert cost.training_flops == 3 * cost.forward_flops
        assert cost.parameters == sum(p.numel() for p in model.parameters())
        assert cost.parameters - cost.backbone == model.unit_emb.weight.numel() + model.session_emb.weight.numel()

    def test_dropout_and_mode_are_left_alone(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        measure_cost(model, {"input": torch.zeros(1, 4)}, 1)
        assert model.training and model[0].weight.grad is None


class TestPoints:
    def scaling(self, sim_dir, tmp_path, **options) -> Scaling:
        return Scaling(root=str(sim_dir), out_dir=str(tmp_path), **options)

    def test_models(self, sim_dir, tmp_path):
        points = make_points(self.scaling(sim_dir, tmp_path))
        assert [label for label, _ in points] == ["tiny", "small", "medium", "large", "xlarge"]
        label, comparison = make_points(self.scaling(sim_dir, tmp_path, values=("tiny", "model=small model.dim=48")))[1]
        assert label == "small dim=48" and comparison.finetune == ("model=small", "model.dim=48")
        assert comparison.pretrain == comparison.finetune and comparison.scratch_dir == ""

    def test_diets_share_the_runs_from_scratch(self, sim_dir, tmp_path):
        points = make_points(self.scaling(sim_dir, tmp_path, axis="diet", values=(0.5, 1.0)))
        assert [c.pretrain for _, c in points] == [("++diet.fraction=0.5",), ("++diet.fraction=1.0",)]
        assert len({c.scratch_dir for _, c in points}) == 1 and len({c.out_dir for _, c in points}) == 2

    def test_fewer_recordings_are_part_of_more(self, sim_dir, tmp_path):
        points = make_points(self.scaling(sim_dir, tmp_path, axis="recordings", held_out=("sim_002",)))
        assert [label for label, _ in points] == ["1", "2"]
        few, more = (set(c.recordings) for _, c in points)
        assert few < more == {"sim_000", "sim_001", "sim_002"} and "sim_002" in few

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"axis": "width"}, "unknown axis 'width'"),
            ({"values": ("tiny",)}, "at least two different"),
            ({"values": ("tiny", "tiny")}, "at least two different"),
            ({"axis": "diet", "values": (0.5, 2)}, "fractions in"),
            ({"axis": "labels", "values": (0.0, 1)}, "fractions in"),
            ({"axis": "recordings"}, "give held_out"),
            ({"axis": "recordings", "values": (1, 9), "held_out": ("sim_002",)}, "numbers from 1 to 2"),
        ],
    )
    def test_mistakes_are_explained(self, sim_dir, tmp_path, options, message):
        with pytest.raises(RecipeError, match=message):
            make_points(self.scaling(sim_dir, tmp_path, **options))


class TestSmallPreset:
    @pytest.fixture(scope="module")
    @classmethod
    def done(cls, tmp_path_factory, unrendered) -> tuple[Path, ScalingSummary]:
        place = tmp_path_factory.mktemp("scale")
        scaling, recordings = read_settings(Scaling, "scale", "small", [f"out_dir={place}", "seeds=[0]"])
        prepare_recordings(scaling.root, recordings)
        with unrendered():
            return place, report_scaling(scaling)

    def test_five_sizes(self, done):
        place, summary = done
        assert to_json(summary) == json.loads((place / "results.json").read_text())
        assert len(summary.points) == 5 and set(summary.trends) == {"pretrained", "scratch"}
        sizes = [point.cost.parameters for point in summary.points]
        work = [point.flops_per_decoder["pretrained"] for point in summary.points]
        assert sizes == sorted(sizes) and work == sorted(work)
        for point in summary.points:
            # Two steps of four windows to pretrain, and as many to fine-tune.
            assert point.flops_per_decoder["pretrained"] == 16 * point.cost.training_flops
            assert point.flops_per_decoder["scratch"] == 8 * point.cost.training_flops
        # The seeds of a width share its pretraining: they are no blocks for a test of the pretrained arm.
        assert summary.trends["pretrained"].page_p is None and summary.gain_trend.page_p is None
        page = (place / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 1 and "dim=48" in page and "://" not in page

    def test_a_second_start_finds_everything_done(self, done, unrendered):
        place, summary = done
        before = {path: path.stat().st_mtime_ns for path in place.rglob("run.json")}
        scaling, _ = read_settings(Scaling, "scale", "small", [f"out_dir={place}", "seeds=[0]"])
        with unrendered():
            again = report_scaling(scaling)
        assert {path: path.stat().st_mtime_ns for path in place.rglob("run.json")} == before
        assert again.trends == summary.trends


def over_fractions(root, out, axis: str, values: tuple[float, ...]) -> Scaling:
    """Both arms at a few fractions, one seed and two steps each."""
    return Scaling(
        root=str(root), out_dir=str(out), axis=axis, values=values, held_out=("sim_002",), seeds=(0,),
        pretrain=QUICK, finetune=QUICK, processes=1,
    )  # fmt: skip


def test_the_diet_axis_runs_scratch_once(sim_dir, tmp_path):
    summary = run_scaling(over_fractions(sim_dir, tmp_path, "diet", (0.5, 1.0)))
    assert len(list((tmp_path / "scratch").rglob("run.json"))) == 1
    first, second = summary.points
    assert first.arms["scratch"].runs == second.arms["scratch"].runs
    assert first.pretrained_on["pretrained"] < second.pretrained_on["pretrained"]


def test_the_label_axis_pretrains_once_and_baselines_have_as_few_labels(sim_dir, tmp_path):
    scaling = over_fractions(sim_dir, tmp_path, "labels", (0.2, 1.0))
    summary = run_scaling(scaling)
    assert len(list((tmp_path / "pretrained").rglob("run.json"))) == 1
    few, all_of_them = (point.baselines for point in summary.points)
    [fold] = make_plan(make_points(scaling)[0][1]).folds
    inputs = Inputs(Recordings(sim_dir, ["sim_002"]), fold.decoding, fold.split)
    for found, fraction in ((few, 0.2), (all_of_them, 1.0)):
        overrides = [*QUICK, f"label_fraction={fraction}", "diet.table=given"]
        expected = run_references(
            parse_recipe(FinetuneRecipe, compose_recipe("finetune", "scratch", overrides)), inputs
        )
        assert {name: row.value for name, row in found.items()} == {
            n: told.right.mean() for n, told in expected.items()
        }
    assert few != all_of_them
    assert [row[0] for row in scaling_rows(summary)].count("template") == 2


def test_frames_cost_their_decoder_in_fine_tuning_alone(sim_dir, small_movie, tmp_path):
    scaling = Scaling(
        root=str(sim_dir), out_dir=str(tmp_path), task="natural_movie_frames", values=("model.dim=8", "model.dim=16"),
        held_out=("sim_002",), arms=("pretrained",), seeds=(0,), pretrain=QUICK, processes=1,
        finetune=(*QUICK, "decoder.width=2", f"frames.file={small_movie}"),
    )  # fmt: skip
    summary = report_scaling(scaling)
    assert "SSIM" in summary.metric and summary.chance is None
    for point in summary.points:
        cost, before = point.cost, point.pretraining_cost
        assert before.training_flops < cost.training_flops and cost.backbone < cost.parameters
        assert point.flops_per_decoder["pretrained"] == 32 * (cost.training_flops + before.training_flops)
    page = (tmp_path / "report.html").read_text()
    assert "<th>SSIM</th>" in page and "accuracy" not in page and "Lines: simple decoders" in page


def test_all_presets_are_valid():
    assert preset_names("scale") == ["report", "small"]
    for name in preset_names("scale"):
        scaling, recordings = read_settings(Scaling, "scale", name, [])
        assert recordings["n_recordings"] >= 3 and set(scaling.held_out)


@pytest.mark.parametrize(
    ("page_p", "down", "words"),
    [(0.001, 0, "rises at every step"), (0.001, 1, "3 of 4 steps"), (0.3, 1, "not reliably"), (None, 0, "too few")],
)
def test_verdicts(page_p, down, words):
    found = Trend(page_p, None, steps_down=down, monotone=down == 0, slope=0.1, slope_ci95=[0.0, 0.2])
    summary = SimpleNamespace(points=[None] * 5, trends={"pretrained": found}, gain_trend=None)
    assert words in scaling_verdicts(summary)[0]
