"""The script of plain.py, tuned: `anon-tune run job.yaml`."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from anon_tune.integrations.lightning import ReportCallback


class Digits(lightning.LightningModule):
    def __init__(self, context, width):
        super().__init__()
        self.context = context
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10))

    def configure_optimizers(self):
        optimizer = self.context.optimizer(self)
        schedule = self.context.schedule(optimizer)
        return [optimizer], [schedule]

    def training_step(self, batch, index):
        return self._loss(batch)

    def validation_step(self, batch, index):
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch, index):
        self.log("test_loss", self._loss(batch))

    def _loss(self, batch):
        inputs, targets = batch
        return F.cross_entropy(self.layers(inputs), targets)


def train(context, width=32):
    train_data, validation_data, test_data = loaders()
    model = Digits(context, width)
    report = ReportCallback(context)
    trainer = lightning.Trainer(max_epochs=context.epochs, callbacks=[report], **report.trainer_options)
    trainer.fit(model, train_data, validation_data, ckpt_path=report.checkpoint)
    trainer.test(model, test_data)


def loaders():
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))
    parts = random_split(data, [1197, 300, 300], torch.Generator().manual_seed(0))
    return [DataLoader(part, batch_size=64, shuffle=part is parts[0]) for part in parts]
