"""The main job, end to end, on simulated recordings: score, pretrain, fine-tune three arms, report."""

from __future__ import annotations

from pathlib import Path

from poyo_ssl_plugin.compare.comparison import Stage
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.report import report_comparison
from poyo_ssl_plugin.compare.results import ComparisonSummary
from poyo_ssl_plugin.compare.settings import prepare_recordings
from poyo_ssl_plugin.errors import PoyoSSLError

DEMO_LINES = ("Pvalb_IRES_Cre", "Emx1_IRES_Cre", "Sst_IRES_Cre", "Slc17a7_IRES2_Cre")
DEMO_ARMS = ("pretrained", "adapted", "scratch")
# The recipes as they are, with half the windows. Pretraining is alone, so it takes two cores; their number is fixed,
# so that numbers do not depend on how many there are.
DEMO_PRETRAIN = ("data.batch_size=64", "trainer.threads=2")


def run_demo(
    out_dir: Path,
    *,
    n_recordings: int = 6,
    n_seeds: int = 3,
    processes: int = 0,
    ray: bool = False,
    stage: Stage | None = None,
) -> ComparisonSummary:
    """Simulate recordings of several animals and decode the direction of gratings, with and without pretraining.

    Pretraining sees the predictable neurons of all animals but the last two excitatory ones; these
    are decoded from their unpredictable neurons.

    Args:
        out_dir: Folder of everything that is written.
        n_recordings: Number of recordings, at least 3.
        n_seeds: Seeds of fine-tuning.
        processes: Runs at once; 0 for one per core, at most eight.
        ray: Do the runs on a Ray cluster instead.
        stage: As :func:`~poyo_ssl_plugin.compare.comparison.run_comparison`.

    Returns:
        What came of it, the content of ``results.json``.
    """
    if n_recordings < 3:
        raise PoyoSSLError("the demo holds two animals out and needs at least 3 recordings")
    recordings = Path(out_dir) / "recordings"
    names = [f"sim_{i:03d}" for i in range(n_recordings)]
    # Excitatory lines have enough unpredictable neurons to decode from; the others pretrain as well.
    lines = [DEMO_LINES[i % len(DEMO_LINES)] for i in range(n_recordings - 2)] + ["Cux2_CreERT2", "Rorb_IRES2_Cre"]
    arguments = {"n_recordings": n_recordings, "cre_lines": lines}
    prepare_recordings(recordings, arguments, stage and stage("simulating", n_recordings))
    comparison = Comparison(
        root=str(recordings),
        out_dir=str(out_dir),
        task="drifting_gratings",
        arms=DEMO_ARMS,
        held_out=tuple(names[-2:]),
        seeds=tuple(range(n_seeds)),
        pretrain=DEMO_PRETRAIN,
        processes=processes,
        ray=ray,
    )
    return report_comparison(comparison, title="poyo_ssl_plugin: the demo", stage=stage)
