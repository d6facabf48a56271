"""A training script of a torch_brain user who has never heard of this package.

As torch_brain's own simple example: dataset, transforms and model come from the configuration; sampler and
loss are here. It decodes the direction of drifting gratings as a point on the circle.
"""

import logging

import hydra
import numpy as np
import torch
from datasets import WithTargets
from hydra.utils import instantiate

try:
    from torch_brain.batching import collate
    from torch_brain.samplers import RandomFixedWindowSampler, SequentialFixedWindowSampler
except ImportError:  # torch_brain 0.1
    from torch_brain.data import collate
    from torch_brain.data.sampler import RandomFixedWindowSampler, SequentialFixedWindowSampler

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="configs", config_name="base")
def main(cfg):
    torch.manual_seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.set_num_threads(1)

    train_ds = instantiate(cfg.dataset, root=cfg.data_root)
    train_ds.transform = instantiate(cfg.train_transform)
    eval_ds = instantiate(cfg.dataset, root=cfg.data_root)
    eval_ds.transform = instantiate(cfg.eval_transform)

    model = instantiate(cfg.model, dim_out=train_ds.dim_target)
    model.init_vocabs(train_ds)
    loaders = {
        "train": loader(cfg, WithTargets(train_ds, model.tokenize), RandomFixedWindowSampler, "train", model),
        "valid": loader(cfg, WithTargets(eval_ds, model.tokenize), SequentialFixedWindowSampler, "valid", model),
    }
    optim = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
    for epoch in range(cfg.epochs):
        for name, batches in loaders.items():
            model.train(name == "train")
            losses, units = [], set()
            for X, Y in batches:  # noqa: N806
                with torch.set_grad_enabled(name == "train"):
                    mask = Y["output_mask"]
                    pred = model(**X, output_timestamps=Y["timestamps"])[mask]
                    loss = torch.nn.functional.mse_loss(pred, Y["values"][mask])
                if name == "train":
                    optim.zero_grad()
                    loss.backward()
                    optim.step()
                losses.append(loss.item())
                units |= set(X["input_unit_index"].unique().tolist()) - {0}
            log.info("epoch %d %s: loss %.4f, %d units seen", epoch, name, np.mean(losses), len(units))


def loader(cfg, dataset, sampler, split, model):
    intervals = dataset.get_sampling_intervals(split)
    windows = sampler(sampling_intervals=intervals, window_length=model.sequence_length)
    return torch.utils.data.DataLoader(dataset, batch_size=cfg.batch_size, sampler=windows, collate_fn=collate)


if __name__ == "__main__":
    main()
