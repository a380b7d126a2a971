"""The script of plain.py, tuned: `anon-tune run job.yaml`."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import random_split
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from anon_tune.integrations.hugging_face import ReportCallback


def train(context, width=32):
    train_data, validation_data, test_data = splits()
    model = make_model(width)
    optimizer = context.optimizer(model)
    schedule = context.schedule(optimizer, steps=context.epochs * -(-len(train_data) // 64))
    report = ReportCallback(context)
    trainer = Trainer(
        model,
        TrainingArguments(**report.arguments, per_device_train_batch_size=64),
        train_dataset=train_data,
        eval_dataset=validation_data,
        optimizers=(optimizer, schedule),
        callbacks=[report],
    )
    trainer.train(resume_from_checkpoint=report.checkpoint)
    if context.tests:
        trainer.evaluate(test_data, metric_key_prefix="test")


def make_model(width):
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_labels=10,
        )
    )


def splits():
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    data = [
        {"pixel_values": image, "labels": label} for image, label in zip(images, digits.target, strict=True)
    ]
    return random_split(data, [1197, 300, 300], torch.Generator().manual_seed(0))
