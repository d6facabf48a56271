"""Arms, presets and what a comparison says of them."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf
from quick import quick
from rich.console import Console

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.arms import ARMS, get_arm, get_arms, join_overrides
from poyo_ssl_plugin.compare.comparison import run_comparison
from poyo_ssl_plugin.compare.decoded_neurons import split_neurons
from poyo_ssl_plugin.compare.estimates import Estimate, Scores, binomial_interval
from poyo_ssl_plugin.compare.perform import inputs_of_run
from poyo_ssl_plugin.compare.plan import label_task, make_plan
from poyo_ssl_plugin.compare.progress import Stages
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.record import Outcome, held_out_by, keep
from poyo_ssl_plugin.compare.report import report_comparison
from poyo_ssl_plugin.compare.results import (
    ArmLeaks,
    ComparisonSummary,
    Leaks,
    Spent,
    TestedDecoder,
    VersusDecoder,
    VersusScratch,
    to_json,
)
from poyo_ssl_plugin.compare.settings import comparison_from_overrides, prepare_recordings, preset_names
from poyo_ssl_plugin.compare.single_run import run_evaluation
from poyo_ssl_plugin.compare.summary import _versus_decoder, _wider
from poyo_ssl_plugin.compare.verdicts import arm_verdicts, leak_warnings, verdict
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, find_trials, get_task
from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
from poyo_ssl_plugin.data.splits import repeat_fold
from poyo_ssl_plugin.errors import DietError, PoyoSSLError, RecipeError, RecordingError
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, make_diet, score_dataset
from poyo_ssl_plugin.training import FinetuneRecipe, parse_recipe, read_checkpoint

GRATINGS = get_task("drifting_gratings")
QUICK = quick(steps=2)


def comparison(root, out, **options) -> Comparison:
    options = {"seeds": (0, 1), "pretrain": QUICK, "finetune": QUICK, "processes": 1, **options}
    return Comparison(root=str(root), out_dir=str(out), **options)


def trained_on(folder: Path) -> dict:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["hyper_parameters"]["trained_on"]


def records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}


def new(folder: Path, before: dict[Path, int]) -> set[str]:
    """Arms of the runs that are new; those that were there are as they were."""
    after = records(folder)
    assert {path: after[path] for path in before} == before
    return {"_".join(path.parent.name.split("_")[:-1]).removesuffix("_seed0") for path in after.keys() - before.keys()}


class TestArms:
    @pytest.mark.parametrize("name", list(ARMS))
    def test_every_arm_composes(self, name):
        arm = get_arm(name)
        if arm.is_pretrained:
            overrides = arm.pretraining(["model=tiny", "diet.skewness=3.0", "aux.weight=0.02"], GRATINGS)
            assert compose_recipe("pretrain", overrides=overrides).model.dim == 32
        compose_recipe("finetune", "drifting_gratings", arm.finetune)

    def test_what_the_arms_are(self):
        def recipe(name, task=GRATINGS):
            return compose_recipe("pretrain", overrides=get_arm(name).pretraining([], task))

        assert recipe("pretrained") == compose_recipe("pretrain")
        assert recipe("reverse").diet.rule == "unpredictable" and recipe("everything").diet.rule == "all"
        assert recipe("inhibitory").diet.cre_lines == ["Sst", "Vip", "Pvalb"]
        assert recipe("ssl_only").aux.weight == 0 and "MaskedLatent" in recipe("ssl_only").ssl._target_
        for name in ("aux_only", "supervised"):
            assert recipe(name).aux.weight == 1 and "NoReconstruction" in recipe(name).ssl._target_
        movie = recipe("supervised", get_task("natural_movie"))
        assert (movie.aux.task, movie.data.stimulus) == ("natural_movie", "natural_movie_one")
        assert recipe("aux_only").aux.task == "drifting_gratings" and recipe("aux_only").data.stimulus is None
        assert recipe("curriculum_step").data.curriculum == "step"
        assert get_arm("scratch").pretrain is None and get_arm("predictable") is get_arm("poyo_ssl")

    @pytest.mark.parametrize(
        ("arms", "message"),
        [
            (["revers"], "unknown arm 'revers'; did you mean reverse"),
            (["pretrained", "predictable"], "pretrained twice"),
            ([], "arms is empty"),
            ([{"name": "scratch"}], "exists already"),
            ([{"name": "a b"}], "a name that is an identifier"),
            ([{"name": "a", "prtrain": []}], "unknown prtrain"),
        ],
    )
    def test_bad_arms(self, arms, message):
        with pytest.raises(RecipeError, match=message):
            get_arms(arms)

    @pytest.mark.parametrize(
        ("shared", "own", "joined"),
        [
            (["+diet.fraction=0.5", "aux.weight=1"], ["++aux.weight=0"], ["+diet.fraction=0.5", "++aux.weight=0"]),
            (["diet.kurtosis=20"], ["diet=all", "+diet.fraction=0.5"], ["diet=all", "+diet.fraction=0.5"]),
        ],
    )
    def test_an_arm_s_own_overrides_win(self, shared, own, joined):
        assert join_overrides(shared, own) == joined


class TestDiets:
    def table(self, n: int = 40) -> PredictabilityTable:
        rng = np.random.default_rng(0)
        return PredictabilityTable.from_rows(
            [
                dict(recording_id="ab"[i % 2], unit_id=f"{i:02d}", skewness=float(rng.uniform(0, 7)), kurtosis=1.0)
                for i in range(n)
            ]
        )

    def test_mixed_and_matched_have_the_number_of_the_predictable(self):
        table = self.table()
        predictable = make_diet(table, "predictable")
        mixed, matched = make_diet(table, "mixed"), make_diet(table, "random_matched")
        assert len(mixed) == len(predictable) // 2 * 2 and len(matched) == len(predictable)
        assert len(mixed & predictable) == len(mixed) // 2
        assert make_diet(table, "mixed", seed=1) != mixed

    def test_mixed_with_too_few_of_a_kind(self):
        rows = [dict(recording_id="a", unit_id=str(i), skewness=1.0, kurtosis=1.0) for i in range(6)]
        rows.append(dict(recording_id="a", unit_id="x", skewness=9.0, kurtosis=1.0))
        assert len(make_diet(PredictabilityTable.from_rows(rows), "mixed")) == 2
        with pytest.raises(DietError, match="both kinds"):
            make_diet(PredictabilityTable.from_rows(rows[:6]), "mixed")

    def test_fractions_are_nested_and_leave_every_recording_fed(self):
        table = self.table()
        whole = make_diet(table, "predictable")
        previous: set[str] = set()
        for fraction in (0.01, 0.3, 0.6, 1.0):
            diet = make_diet(table, "predictable", fraction=fraction)
            units = {unit for name in "ab" for unit in diet.units(name)}
            assert previous <= units and diet.count("a") > 0 and diet.count("b") > 0
            assert len(diet) == sum(int(np.ceil(fraction * whole.count(name) - 1e-9)) for name in "ab")
            previous = units
        assert previous == {unit for name in "ab" for unit in whole.units(name)}
        with pytest.raises(DietError, match="fraction must be"):
            make_diet(table, "predictable", fraction=0.0)

    def test_decoded_neurons_are_in_no_other_diet(self):
        table = self.table()
        recipe = parse_recipe(FinetuneRecipe, compose_recipe("finetune", "scratch"))
        seen, decoded = split_neurons(table, recipe, fraction=0.5)
        of_decoding = make_diet(decoded, "unpredictable").members_of(decoded)
        candidates = make_diet(table, "unpredictable").members_of(table)
        assert (of_decoding <= candidates).all() and of_decoding.sum() < candidates.sum()
        for diet in (Diet.everything(seen), make_diet(seen, "unpredictable"), make_diet(seen, "mixed")):
            assert not (diet.members_of(seen) & of_decoding).any()
        assert len(Diet.everything(seen)) == len(table) - of_decoding.sum()


class TestShuffledLabels:
    def test_training_trials_get_each_other_s_labels_and_test_trials_keep_theirs(self, sim_dir, table_path):
        from poyo_ssl_plugin.training import prepare_finetuning

        overrides = [*QUICK, f"data.root={sim_dir}", f"diet.table={table_path}", "diet=all"]
        plain, shuffled = (
            prepare_finetuning(compose_recipe("finetune", "scratch", [*overrides, f"shuffle_labels={on}"])).data
            for on in ("false", "true")
        )
        of = find_trials(Recordings(sim_dir).get_recording("sim_000"), GRATINGS, "train")

        def labels(loader) -> dict[float, int]:
            found = {}
            for batch in loader:
                times = batch["start"] + batch["inputs"]["output_timestamps"][:, 0]
                for name, time, label in zip(batch["recording_id"], times, batch["target"][:, 0], strict=True):
                    if name == "sim_000":
                        trial = int(np.argmin(np.abs(of.centre - float(time))))
                        assert found.setdefault(trial, int(label)) == int(label)
            return found

        truth, wrong = labels(plain.train_dataloader()), labels(shuffled.train_dataloader())
        assert [truth[i] for i in sorted(truth)] == of.label[sorted(truth)].tolist()
        # A permutation: no label more often than it is (an epoch may leave a trial out).
        assert sorted(wrong) == sorted(truth) and Counter(wrong.values()) <= Counter(of.label.tolist())
        assert sum(truth[i] != wrong[i] for i in truth) > len(truth) / 2
        for ours, theirs in zip(plain.test_dataloader(), shuffled.test_dataloader(), strict=True):
            assert ours["target"].tolist() == theirs["target"].tolist()


@pytest.fixture
def no_movie(sim_dir, tmp_path_factory) -> Path:
    """A recording without the movie."""
    folder = tmp_path_factory.mktemp("no_movie")
    shutil.copy(sim_dir / "sim_000.h5", folder)
    with h5py.File(folder / "sim_000.h5", "r+") as file:
        del file["natural_movie_one"]
    return folder


class TestProtocol:
    def test_what_cannot_be_compared_is_refused_before_anything_runs(self, sim_dir, tmp_path, no_movie):
        with pytest.raises(RecipeError, match=r"arm reverse would pretrain on \d+ of the neurons.*decode_fraction=0.5"):
            run_comparison(comparison(sim_dir, tmp_path, arms=("pretrained", "reverse", "scratch")))
        with pytest.raises(DietError, match="arm inhibitory: .*no neuron is of Cre line"):
            run_comparison(comparison(sim_dir, tmp_path, arms=("inhibitory",), recordings=("sim_000", "sim_002")))
        with pytest.raises(RecipeError, match="arm aux_only learns from labels of 'natural_movie' alone"):
            run_comparison(
                comparison(no_movie, tmp_path / "x", arms=("aux_only",), pretrain=(*QUICK, "aux.task=natural_movie"))
            )
        with pytest.raises(RecordingError, match="no recording to decode has 'natural_movie_one'"):
            run_comparison(comparison(no_movie, tmp_path / "x", task="natural_movie"))
        for options, message in (
            ({"decode_fraction": 0.0}, "decode_fraction must be"),
            ({"decode_fraction": 0.5, "held_out": ("sim_002",)}, "without held_out"),
            ({"seeds": (1, 1)}, "seeds must be different"),
            ({"folds": 1}, "folds must be"),
            ({"contiguous_folds": True}, "contiguous_folds says which repeats make a fold: give folds=N too"),
            ({"task": "natural_movie", "folds": 40}, "too few for 40 folds"),
            ({"held_out": ("sim_9",)}, "held_out names sim_9"),
            ({"held_out": ("sim_000", "sim_001", "sim_002")}, "held_out leaves no recording"),
            ({"finetune": ("nonsense=1",)}, "unknown key 'nonsense'"),
            ({"finetune": (*QUICK, "label_fraction=25")}, r"label_fraction must be in \(0, 1\], not 25"),
            ({"finetune": (*QUICK, "trainer.max_steps=-3")}, "trainer.max_steps must be"),
            ({"finetune": (*QUICK, "transfer=foo")}, "transfer must be full, lp_ft or probe, not 'foo'"),
            (
                {"finetune": (*QUICK, "data.window_length=90.0")},
                "no train trial of .* that a window of 90 s fits around",
            ),
        ):
            with pytest.raises(PoyoSSLError, match=message):
                run_comparison(comparison(sim_dir, tmp_path, **options))
        assert list(tmp_path.iterdir()) == []

    def test_the_last_fold_is_checked_before_the_first_step(self, sim_dir, tmp_path, monkeypatch):
        from poyo_ssl_plugin.compare import folds as folding

        def failing(dataset, source, fold, folds, **options):
            if fold == folds - 1:
                raise RecordingError("the last fold cannot be had")
            return repeat_fold(dataset, source, fold, folds, **options)

        monkeypatch.setattr(folding, "repeat_fold", failing)
        with pytest.raises(RecordingError, match="the last fold"):
            run_comparison(comparison(sim_dir, tmp_path, task="natural_movie", folds=2))
        assert list(tmp_path.iterdir()) == []

    def test_contiguous_folds_are_other_runs_that_are_tested_on_what_they_held_out(self, sim_dir, tmp_path):
        for contiguous in (False, True):
            settings = comparison(
                sim_dir, tmp_path, task="natural_movie", folds=2, contiguous_folds=contiguous, seeds=(0,)
            )
            plan = make_plan(settings)
            plan.write_tables()
            for run in plan.finetuning:
                expected = plan.folds[run.fold].split["test"]
                found = inputs_of_run(run).split["test"]
                assert {name: part.tolist() for name, part in found.items()} == {
                    name: part.tolist() for name, part in expected.items()
                }
                keep(run, Outcome({}, {}, {}, 0.0, 0, 0))
                assert held_out_by(run.folder) == run.held_out
                assert dataclasses.replace(run, contiguous=not contiguous).key != run.key

    def test_folds_of_a_held_out_animal_share_the_pretraining_on_the_others(self, sim_dir, tmp_path):
        settings = comparison(sim_dir, tmp_path, held_out=("sim_002",), task="natural_movie", folds=2, seeds=(0,))
        made = make_plan(settings)
        assert [(run.fold, run.recordings) for run in made.pretraining] == [(None, ("sim_000", "sim_001"))]
        starts = {run.fold: run.start for run in made.finetuning if run.arm == "pretrained"}
        assert starts == {0: made.pretraining[0].key, 1: made.pretraining[0].key}
        made.write_tables()
        assert all(Path(run.recipe["diet"]["table"]).exists() for run in (*made.pretraining, *made.finetuning))

    def test_all_arms_train_the_model_that_pretraining_names(self, sim_dir, tmp_path):
        own = [override for override in QUICK if override != "model=tiny"]
        made = make_plan(comparison(sim_dir, tmp_path, finetune=tuple(own), seeds=(0,)))
        assert {run.arm: run.recipe["model"]["dim"] for run in made.finetuning}.items() >= {"scratch": 32}.items()
        assert {run.recipe["model"]["dim"] for run in (*made.pretraining, *made.finetuning)} == {32}
        with pytest.raises(RecipeError, match="pretraining holds a model of dim=32, not 64"):
            make_plan(comparison(sim_dir, tmp_path, finetune=(*own, "model=small")))

    def test_held_out_animals(self, sim_dir, tmp_path, unrendered):
        settings = comparison(sim_dir, tmp_path, held_out=("sim_002",))
        summary = report_comparison(settings, title="Test & <report>")
        assert to_json(summary) == json.loads((tmp_path / "results.json").read_text())
        assert summary.neurons.pretrained_on_recordings == ("sim_000", "sim_001")
        assert summary.neurons.decoded_recordings == ("sim_002",)
        for arm in ("pretrained", "scratch"):
            runs = summary.arms[arm].runs
            assert [run.seed for run in runs] == [0, 1]
            assert summary.arms[arm].mean == pytest.approx(np.mean([run.value for run in runs]))
            low, high = summary.arms[arm].ci95
            assert 0 <= low < high <= 1 and high - low > 0.2
        page = (tmp_path / "report.html").read_text()
        assert "Test &amp; &lt;report&gt;" in page and page.count("data:image/png;base64,") == 5
        losses = [
            json.loads(path.read_text())["result"]["metrics"]["test/loss"]
            for path in tmp_path.rglob("scratch*/run.json")
        ]
        assert f"<td>{np.mean(losses):.3f}</td>" in page and "<th>log-loss</th>" in page
        # Nothing is fetched from elsewhere, and seeds of one data set are not sold for more.
        assert "://" not in page and "not of other animals or other simulations" in page
        assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
        clean = ArmLeaks(0, 0.0, 0.0)
        assert summary.leaks == Leaks(False, {"pretrained": clean, "scratch": clean})

        # A second start finds everything done, whatever the number of processes.
        before = records(tmp_path)
        with unrendered():
            again = report_comparison(dataclasses.replace(settings, processes=2), title="again")
        assert records(tmp_path) == before and len(before) == 5 and again.arms == summary.arms

        # What was trained can be tested, by its folder alone.
        [folder] = (tmp_path / "runs" / "finetune").glob("pretrained_seed1_*")
        tested = run_evaluation(folder / "checkpoints" / "last.ckpt")
        assert tested.arms["checkpoint"].mean == summary.arms["pretrained"].runs[1].value

    def test_folds(self, sim_dir, tmp_path, recwarn):
        settings = comparison(sim_dir, tmp_path, recordings=("sim_000",), task="natural_movie", folds=2, seeds=(0,))
        result = run_comparison(settings)
        runs = result.summary.arms["pretrained"].runs
        assert [run.fold for run in runs] == [0, 1] and len(result.summary.pretraining) == 2
        n_repeats = len(np.unique(Recordings(sim_dir).get_recording("sim_000").natural_movie_one.repeat))
        # All but the seconds at the ends of a held-out repeat, around which no window fits.
        assert 28 * n_repeats <= sum(run.n_test for run in runs) <= 30 * n_repeats
        assert "Nadeau-Bengio" in result.summary.independent
        tested = run_evaluation(result.finetuning["pretrained/fold1/0"] / "checkpoints" / "last.ckpt")
        assert tested.arms["checkpoint"].mean == runs[1].value
        assert not [warning for warning in recwarn if "across ranks" in str(warning.message)]

    def test_leaks_that_are_allowed_are_in_the_results(self, sim_dir, tmp_path, caplog, unrendered):
        arms = ("pretrained", "reverse", "scratch")
        settings = comparison(sim_dir, tmp_path, arms=arms, seeds=(0,), allow_leak=True)
        with unrendered():
            summary = report_comparison(settings, title="leaky")
        assert summary.comparison["allow_leak"] is True and summary.leaks.allowed is True
        found = summary.leaks.arms
        both = summary.neurons.decoded_from
        assert {name: arm.units for name, arm in found.items()} == {"pretrained": 0, "reverse": both, "scratch": 0}
        assert all(arm.scored_seconds == 0 for arm in found.values())
        assert f"arm reverse would pretrain on {both} of the neurons to be decoded (allowed)" in caplog.text
        [warning] = leak_warnings(summary.leaks)
        assert warning in (tmp_path / "report.html").read_text()
        assert warning.startswith("LEAK") and f"reverse: pretraining saw {both} of the decoded neurons" in warning
        # One run has no interval, and its report says so by leaving it out.
        assert summary.arms["scratch"].ci95 is None and "One run of each arm decides nothing" in verdict(summary)

    def test_a_fraction_of_the_neurons_is_kept_for_decoding(self, sim_dir, tmp_path):
        arms = ("everything", "scratch")
        options = {"decode_fraction": 0.5, "seeds": (0,), "task": "natural_movie", "folds": 2}
        result = run_comparison(comparison(sim_dir, tmp_path, arms=arms, **options))
        decoded = trained_on(result.finetuning["scratch/fold0/0"])["units"]
        assert trained_on(result.finetuning["everything/fold0/0"])["units"] == decoded
        seen = trained_on(result.pretraining["everything/fold0"])["units"]
        for name, units in decoded.items():
            assert units and not set(units) & set(seen.get(name, []))
        neurons = result.summary.neurons
        assert neurons.decoded_from == sum(map(len, decoded.values()))
        assert neurons.pretrained_on == {"everything": sum(map(len, seen.values()))}

    def test_a_pretraining_for_each_seed(self, sim_dir, tmp_path):
        result = run_comparison(comparison(sim_dir, tmp_path, held_out=("sim_002",), pretrain_each_seed=True))
        assert list(result.pretraining) == ["pretrained/recorded/0", "pretrained/recorded/1"]
        assert [OmegaConf.load(folder / "recipe.yaml").seed for folder in result.pretraining.values()] == [0, 1]
        for seed in (0, 1):
            recipe = OmegaConf.load(result.finetuning[f"pretrained/recorded/{seed}"] / "recipe.yaml")
            assert f"seed{seed}_" in recipe.init_from

    def test_what_is_run_again_and_what_is_kept(self, sim_dir, tmp_path, monkeypatch):
        """Another arm is all that is run; a changed pretraining is fine-tuned again; none of it removes anything."""
        options = {"held_out": ("sim_002",), "seeds": (0,)}
        first = run_comparison(comparison(sim_dir, tmp_path / "a", **options))
        before = records(tmp_path)
        more = run_comparison(
            comparison(sim_dir, tmp_path / "a", arms=("pretrained", "scratch", "ssl_only"), **options)
        )
        # Pretraining is named by its diet.
        assert new(tmp_path, before) == {"predictable", "ssl_only"}
        assert more.summary.arms["scratch"] == first.summary.arms["scratch"]
        before = records(tmp_path)
        run_comparison(comparison(sim_dir, tmp_path / "a", pretrain=(*QUICK, "aux.weight=0.5"), **options))
        assert new(tmp_path, before) == {"predictable", "pretrained"}
        # Another comparison that shares the pretraining, from another folder and by a relative path.
        before = records(tmp_path)
        monkeypatch.chdir(sim_dir)
        options |= {"task": "natural_movie", "arms": ("pretrained", "supervised", "scratch")}
        other = comparison(".", tmp_path / "b", pretrain_dir=str(tmp_path / "a"), **options)
        pretraining = run_comparison(other).pretraining
        assert not list((tmp_path / "b").glob("runs/pretrain")) and new(tmp_path / "a", before) == {"predictable"}
        assert pretraining["pretrained/recorded"] == first.pretraining["pretrained/recorded"]
        assert OmegaConf.load(pretraining["supervised/recorded"] / "recipe.yaml").aux.task == "natural_movie"

    def test_corrected_labels_are_learned_anew(self, sim_dir, tmp_path):
        """Only by the runs that learn them: the auxiliary loss of pretraining is of gratings."""
        root = Path(shutil.copytree(sim_dir, tmp_path / "recordings"))
        options = {"held_out": ("sim_002",), "seeds": (0,), "arms": ("pretrained", "ssl_only", "scratch")}

        def keys(task: str) -> dict[str, str]:
            plan = make_plan(comparison(root, tmp_path / "out", task=task, **options))
            return {f"{run.stage} {run.arm}": run.key for run in (*plan.pretraining, *plan.finetuning)}

        def changed(task: str, stimulus: str, column: str, recording: str) -> set[str]:
            before = keys(task)
            with h5py.File(root / f"{recording}.h5", "r+") as file:
                file[stimulus][column][0] += 1
            return {name for name, key in keys(task).items() if key != before[name]}

        gratings = changed("drifting_gratings", "drifting_gratings", "orientation", "sim_000")
        assert gratings == {"pretrain pretrained", "finetune pretrained"}
        movie = changed("natural_movie", "natural_movie_one", "frame", "sim_002")
        assert movie == {"finetune pretrained", "finetune ssl_only", "finetune scratch"}


class TestFrames:
    """Frames of a movie, reconstructed: what a comparison says of them is the similarity of images."""

    @pytest.fixture(scope="module")
    @classmethod
    def settings(cls, sim_dir, small_movie, tmp_path_factory) -> Comparison:
        place = tmp_path_factory.mktemp("frames")
        finetune = (*QUICK, "decoder.width=2", f"frames.file={small_movie}")
        return comparison(sim_dir, place, task="natural_movie_frames", held_out=("sim_002",), finetune=finetune)

    @pytest.fixture(scope="module")
    @classmethod
    def summary(cls, settings, unrendered) -> ComparisonSummary:
        with unrendered():
            return report_comparison(settings, title="frames")

    def test_every_arm_has_its_similarity(self, summary, settings):
        assert to_json(summary) == json.loads((Path(settings.out_dir) / "results.json").read_text())
        assert summary.task == "natural_movie_frames" and "SSIM" in summary.metric
        assert summary.chance is None and set(summary.reference_lines) == set(summary.baselines)
        assert set(summary.arms) == {"pretrained", "scratch"}
        for arm in summary.arms.values():
            assert arm.metric == "SSIM" and [run.seed for run in arm.runs] == [0, 1]
            values = [run.value for run in arm.runs]
            assert all(-1 <= value <= 1 for value in values) and len(set(values)) == 2
            assert arm.mean == pytest.approx(np.mean(values))

    def test_the_arms_are_paired_over_seeds_and_over_seconds(self, summary, settings):
        """A run's value is the mean over frames; pairs are over seconds, of which the first has fewer frames."""
        difference = []
        for arm, sign in (("pretrained", 1), ("scratch", -1)):
            for seed, run in enumerate(summary.arms[arm].runs):
                [folder] = Path(settings.out_dir, "runs", "finetune").glob(f"{arm}_seed{seed}_*")
                outcome = json.loads((folder / "run.json").read_text())["compare"]["outcome"]
                rows = run_evaluation(folder / "checkpoints" / "last.ckpt").predictions
                second = np.array([row["label"] for row in rows]) // 30
                similarity = np.array([row["ssim"] for row in rows])
                assert run.value == pytest.approx(similarity.mean(), abs=1e-12)
                means = [similarity[second == one].mean() for one in (0, 10, 20)]
                assert outcome["trials"] == pytest.approx(means, abs=1e-12)
                difference.append(sign * np.array(means))
        expected = np.mean(difference) * 2
        against = summary.arms["pretrained"].versus_scratch
        assert against.mean == pytest.approx(expected, abs=1e-12) and against.n == 2
        assert against.over_trials.mean == pytest.approx(expected, abs=1e-12) and against.over_trials.n == 3
        assert summary.pretrained_minus_scratch == against

    def test_from_scratch_is_the_same_recipe_without_a_start(self, summary, settings):
        recipes = {}
        for arm in ("pretrained", "scratch"):
            [path] = Path(settings.out_dir, "runs", "finetune").glob(f"{arm}_seed0_*/recipe.yaml")
            recipes[arm] = OmegaConf.to_container(OmegaConf.load(path))
        differ = {key for key in recipes["scratch"] if recipes["scratch"][key] != recipes["pretrained"][key]}
        assert differ == {"init_from", "out_dir"}
        assert recipes["scratch"]["init_from"] is None

    def test_the_report_says_what_was_measured(self, summary, settings):
        page = (Path(settings.out_dir) / "report.html").read_text()
        assert "<th>SSIM</th>" in page and "<th>over seconds of the movie alone</th>" in page
        assert "accuracy" not in page.split("Full configuration")[0].lower() and "chance" not in page.split("Which")[0]
        for name in (*summary.arms, *summary.baselines):
            assert f"<td>{name}</td>" in page
        assert page.count("data:image/png;base64,") == 5
        assert (Path(settings.out_dir) / "figures" / "ssim.png").is_file()

    def test_folds_share_their_seconds(self, settings, tmp_path):
        options = {"arms": ("scratch", "supervised"), "recordings": ("sim_000",), "held_out": (), "seeds": (0,)}
        result = run_comparison(dataclasses.replace(settings, out_dir=str(tmp_path), folds=2, **options))
        runs = result.summary.arms["scratch"].runs
        n_repeats = len(np.unique(Recordings(settings.root).get_recording("sim_000").natural_movie_one.repeat))
        assert [run.fold for run in runs] == [0, 1]
        # All but the frames of the first half second of a repeat, around which no window fits.
        assert 75 * n_repeats <= sum(run.n_test for run in runs) < 90 * n_repeats
        assert result.summary.arms["supervised"].versus_scratch.over_trials.n == 3
        # Labels of a movie that is reconstructed: which second of it was shown.
        recipe = OmegaConf.load(result.pretraining["supervised/fold0"] / "recipe.yaml")
        assert (recipe.aux.task, recipe.data.stimulus) == ("natural_movie", "natural_movie_one")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"arms": ("scratch", "shuffled")}, "arm shuffled: .*no labels to shuffle.*natural_movie for that control"),
            ({"field": "spikes"}, "reconstructed from calcium_traces.df_over_f only, not from field=spikes"),
            ({"finetune": (*QUICK, "frames.protocol=x")}, "frames.protocol must be"),
            ({"finetune": (*QUICK, "frames.file=none.npz")}, "none.npz: no such file"),
            ({"task": "natural_movies"}, "unknown task 'natural_movies'; there are .*natural_movie"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, settings, tmp_path, spike_dir, options, message):
        root = str(spike_dir) if "field" in options else settings.root
        with pytest.raises(PoyoSSLError, match=message):
            run_comparison(dataclasses.replace(settings, **{"root": root, "out_dir": str(tmp_path), **options}))
        assert list(tmp_path.iterdir()) == []


class TestSmallPreset:
    @pytest.fixture(scope="module")
    @classmethod
    def place(cls, tmp_path_factory) -> Path:
        return tmp_path_factory.mktemp("small")

    @pytest.fixture(scope="module")
    @classmethod
    def summary(cls, place, unrendered) -> ComparisonSummary:
        settings, recordings = comparison_from_overrides([f"out_dir={place}", "seeds=[0]"], "small")
        prepare_recordings(settings.root, recordings)
        with unrendered():
            return report_comparison(settings, title="small")

    def test_every_arm_has_its_numbers(self, summary, place):
        assert to_json(summary) == json.loads((place / "results.json").read_text())
        assert {"scratch", "shuffled", "curriculum_linear", "inhibitory"} <= set(summary.arms)
        for name, arm in summary.arms.items():
            assert arm.title and len(arm.runs) == 1
            assert dataclasses.replace(arm.compute.finetuning, seconds=0) == Spent(1, 0, steps=3, windows=24)
            assert arm.compute.pretraining.steps == (0 if name in ("scratch", "shuffled") else 3)
            if name != "scratch":
                against = arm.versus_scratch
                assert against.mean == pytest.approx(arm.mean - summary.arms["scratch"].mean) and against.n == 1
                assert against.over_trials.mean == pytest.approx(against.mean, abs=1e-6)
        diets = summary.neurons.pretrained_on
        assert diets["random"] == diets["pretrained"]
        assert diets["mixed"] == 2 * min(diets["pretrained"] // 2, diets["reverse"])
        assert diets["everything"] == diets["reverse"] + diets["pretrained"]

    def test_the_report_says_something_of_every_arm(self, summary, place):
        page = (place / "report.html").read_text()
        verdicts = arm_verdicts(summary)
        assert len(verdicts) == len(summary.arms) - 1
        for name in summary.arms:
            assert f"<td>{name}</td>" in page
        assert "Compute spent" in page and page.count("data:image/png;base64,") == 5


class TestPresets:
    def test_all_of_them_are_valid(self):
        assert preset_names("compare") == ["frames", "report", "session", "small"]
        for name in preset_names("compare"):
            settings, recordings = comparison_from_overrides(["root=x"], name)
            assert recordings == {} and settings.root == "x"
            task = label_task(settings)
            for arm in get_arms(settings.arms):
                if arm.is_pretrained:
                    compose_recipe("pretrain", overrides=arm.pretraining(settings.pretrain, task))
            compose_recipe("finetune", settings.task, settings.finetune)

    def test_recordings_are_simulated_once(self, tmp_path):
        settings, recordings = comparison_from_overrides([f"out_dir={tmp_path}"], "small")
        assert settings.root == str(tmp_path / "recordings")
        arguments = {**recordings, "n_recordings": 1, "n_units": 4}
        prepare_recordings(settings.root, arguments)
        path = tmp_path / "recordings" / "sim_000.h5"
        before = path.stat().st_mtime_ns
        prepare_recordings(settings.root, arguments)
        assert path.stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        ("overrides", "preset", "message"),
        [
            (["root=x"], "huge", "no preset 'huge' for compare; there are frames, report, session, small"),
            ([], "session", "root is not set"),
            (["root=x", "arm=[scratch]"], None, "unknown key 'arm'; did you mean arms"),
            (["root=x", "seeds=[a]"], None, "seeds must be whole numbers"),
            (["root=x", "seeds=[0,-1]"], None, "seeds must be whole numbers from 0 on"),
            (["root=x", "folds=many"], None, "folds of compare must be a number"),
            (["root=x", "folds=2.5"], None, "folds of compare must be a number"),
            (["root=x", "pretrain_each_seed=3"], None, "must be true or false"),
            (["root=x", "arms=[a"], None, "arms: cannot read"),
        ],
    )
    def test_mistakes_are_explained(self, overrides, preset, message):
        with pytest.raises(RecipeError, match=message):
            comparison_from_overrides(overrides, preset)

    def test_values_become_what_the_settings_want(self):
        """Ids are texts though YAML has numbers like them; a task's texts stay texts on the way through a recipe."""
        task = "task={name: turn, source: trials, label: turn, classes: [left, 'no', '2', 'côté a: b']}"
        given = ["root=x", "recordings=[2024_05_01,007,1e3]", "held_out=007,1e3", "folds=2.0", task]
        settings, _ = comparison_from_overrides(given)
        assert settings.recordings == ("2024_05_01", "007", "1e3") and settings.held_out == ("007", "1e3")
        assert isinstance(settings.folds, int)
        for recipe in (settings.task, compose_recipe("finetune", overrides=[f"task={settings.task}"]).task):
            assert get_task(recipe).classes == ("left", "no", "2", "côté a: b")


def against(**changes) -> VersusScratch:
    """An arm that is better than from scratch, with changes."""
    found = VersusScratch(
        0.1, [0.05, 0.15], 5, p=0.01, p_exact=0.06, relative_gain=0.2, relative_ci95=[0.1, 0.3], n_trials=100,
        p_holm=0.01, over_trials=Estimate(0.1, None, 100),
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def arm(**values) -> SimpleNamespace:
    shared = {"title": "t", "mean": 0.3, "ci95": [0.2, 0.4], "p_above_chance": 0.01, "versus_scratch": None}
    return SimpleNamespace(**{**shared, **values})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"It helped, by \+20 % relative \(95 % interval \+10 to \+30 %\)"),
        ({"p_holm": 0.2}, "seems to help, but not beyond what so many arms"),
        ({"ci95": [-0.2, -0.1], "relative_gain": -0.2, "relative_ci95": None}, "It hurt, by -20 % relative"),
        ({"ci95": [-0.1, 0.1]}, "do not tell"),
        ({"p_holm": None}, "do not tell"),
        ({"n": 1, "ci95": None}, "One run of each arm decides nothing"),
        ({"n": 2}, "2 runs of each arm decide nothing"),
        ({"n_trials": 6}, "6 test trials decide nothing"),
    ],
)
def test_verdicts_say_what_the_numbers_support(changes, words):
    summary = SimpleNamespace(arms={"a": arm(versus_scratch=against(**changes))}, chance=0.125)
    assert re.search(words, arm_verdicts(summary)[0])


@pytest.mark.parametrize(
    ("of_arm", "changes", "words"),
    [
        ({}, {}, "labels leak"),
        ({"ci95": [0.1, 0.4]}, {}, "not told from chance"),
        ({"p_above_chance": None}, {}, "not told from chance"),
        ({}, {"n": 2}, "decide nothing"),
    ],
)
def test_a_shuffled_control_above_chance_is_an_alarm(of_arm, changes, words):
    shuffled = arm(versus_scratch=against(**changes), **of_arm)
    assert words in arm_verdicts(SimpleNamespace(arms={"shuffled": shuffled}, chance=0.125))[0]


@pytest.mark.parametrize(
    ("of_ridge", "words"),
    [
        ([0.1, 0.2], "is above every simple decoder: template (0.500), ridge (0.600)"),
        ([-0.2, -0.1], "is below ridge (0.600)"),
        ([-0.1, 0.1], "do not tell the pretrained model from ridge (0.600)"),
        (None, "do not tell the pretrained model from ridge (0.600)"),
    ],
)
def test_above_the_best_simple_decoder_means_above_every_one(of_ridge, words):
    decoders = {"template": VersusDecoder(0.5, 0.2, [0.1, 0.3]), "ridge": VersusDecoder(0.6, 0.1, of_ridge)}
    arms = {"pretrained": arm(versus_decoders=decoders), "scratch": arm()}
    assert words in verdict(SimpleNamespace(arms=arms, chance=None, pretrained_minus_scratch=against()))


@pytest.mark.parametrize("folds", [False, True])
def test_a_simple_decoder_is_compared_on_the_same_trials(folds):
    """The arm is right on one trial more in every fold: what folds and trials share drops out."""
    of_decoder = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    decoder = TestedDecoder(0.5, 12, [0.2, 0.8], trials=of_decoder if folds else of_decoder[:1])
    of_arm = np.array([0.5, 0.75, 1.01]) if folds else np.array([[1.0, 1.0, 0.0, 0.0]] * 3)
    found = _versus_decoder(Scores(of_arm, folds), decoder)
    assert found.mean == pytest.approx(0.25, abs=0.01) and found.value == 0.5
    assert (found.ci95[0] > 0.2) == folds
    assert _versus_decoder(Scores(np.zeros(5), folds=True), decoder).ci95 is None


@pytest.mark.parametrize("right", [0, 3, 6])
def test_two_seeds_that_agree_are_no_certainty(right):
    """Of six trials: no interval is of certainty, and none leaves what can be."""
    scores = Scores(np.array([[1.0] * right + [0.0] * (6 - right)] * 2))
    low, high = _wider(scores.estimate((0, 1)), binomial_interval(right, 6))
    assert -1e-9 < low < high < 1 + 1e-9 and high - low > 0.2


def test_a_stage_without_a_terminal_is_a_few_plain_lines():
    file = io.StringIO()
    with Stages(Console(file=file)) as stage:
        assert list(stage("training", 100)(iter(range(100)), 100)) == list(range(100))
    lines = file.getvalue().splitlines()
    assert lines[0] == "training: 100 to do" and lines[-1] == "training: 100 of 100, done" and len(lines) == 11
    assert re.fullmatch(r"training: 10 of 100, about \d+ s left", lines[1])


class TestFigures:
    def test_a_metric_that_nobody_logged_has_no_panel(self, tmp_path):
        (tmp_path / "run" / "csv").mkdir(parents=True)
        (tmp_path / "run" / "csv" / "metrics.csv").write_text("step,train/loss\n3,0.5\n")
        runs = {"scratch/0": tmp_path / "run"}
        assert figures.training_curves(runs, tmp_path / "none.png", metrics=["valid/ssim"]) is None
        drawn = figures.training_curves(runs, tmp_path / "a.png", metrics=["train/loss", "valid/ssim"])
        said = drawn.with_suffix(".svg").read_text()
        # One panel, in words, and a point that can be seen where a line would have no length.
        assert "training loss" in said and "train/loss" not in said and "SSIM" not in said
        assert said.count('id="axes_') == 1 and "PathCollection" not in said

    def test_traces_of_a_late_clock_without_splits_and_a_neuron_without_samples(self, tmp_path, recwarn):
        traces = np.random.default_rng(0).gamma(1.0, size=(900, 5))
        traces[:, 4] = np.nan
        path = save_recording(recording_from_arrays(traces, recording="a", sampling_rate=10.0, start=1e6), tmp_path)
        with h5py.File(path, "r+") as file:
            for part in ("train", "valid", "test"):
                del file[f"{part}_domain"]
        table = score_dataset(Recordings(tmp_path), split=None)
        said = figures.example_traces(Recordings(tmp_path), table, tmp_path / "t.png").with_suffix(".svg").read_text()
        assert said.count("skewness") > 0 and "skewness nan" not in said
        assert not [warning for warning in recwarn if warning.category is RuntimeWarning]

    def test_arms_are_told_apart_by_few_colours(self):
        styles = figures.arm_styles([*ARMS, *(f"own{i}" for i in range(6))])
        assert len({colour for colour, _ in styles.values()}) <= 10 and len(set(styles.values())) == len(styles) > 18
