"""Decode running speed with a POYO: an ordinary training script, which knows nothing of diets.

python train.py data_root=DIR
"""

import logging

import hydra
import torch
from hydra.utils import instantiate
from torch.utils.data import DataLoader
from torch_brain.batching import collate
from torch_brain.samplers import RandomFixedWindowSampler

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="configs", config_name="base")
def main(cfg):
    torch.manual_seed(cfg.seed)
    dataset = instantiate(cfg.dataset)
    model = instantiate(cfg.model, dim_out=1)
    model.init_vocabs(dataset)
    select = instantiate(cfg.train_transform) or (lambda window: window)

    def tokenize(window):
        speed = window.running.running_speed[:].mean() / 10
        inputs = model.tokenize(select(window))
        return {"inputs": inputs, "speed": torch.tensor(speed, dtype=torch.float32)}

    dataset.transform = tokenize
    sampler = RandomFixedWindowSampler(
        sampling_intervals=dataset.get_sampling_intervals("train"),
        window_length=model.sequence_length,
    )
    batches = {"batch_size": cfg.batch_size, "collate_fn": collate, "drop_last": True}
    loader = DataLoader(dataset, sampler=sampler, **batches)
    readout = torch.nn.LazyLinear(1)
    readout(latents(model, next(iter(loader))))
    optimizer = torch.optim.AdamW([*model.parameters(), *readout.parameters()], lr=cfg.lr)
    for epoch in range(cfg.epochs):
        losses, units = [], set()
        for batch in loader:
            speed = readout(latents(model, batch))[:, 0]
            loss = torch.nn.functional.mse_loss(speed, batch["speed"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            units |= set(batch["inputs"]["input_unit_index"].unique().tolist()) - {0}
        mean = sum(losses) / len(losses)
        log.info("epoch %d: loss %.3f, %d neurons seen", epoch, mean, len(units))


def latents(model, batch):
    return model.process(*model.encode(**batch["inputs"])).flatten(1)


if __name__ == "__main__":
    main()
