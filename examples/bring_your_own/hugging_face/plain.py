"""A training script with Hugging Face's Trainer as it may be before it is tuned: `python plain.py`."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import random_split
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification


def train(epochs=10, width=32):
    train_data, validation_data, test_data = splits()
    model = make_model(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(train_data) // 64))
    trainer = Trainer(
        model,
        TrainingArguments(
            "output", num_train_epochs=epochs, eval_strategy="epoch", per_device_train_batch_size=64
        ),
        train_dataset=train_data,
        eval_dataset=validation_data,
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    print(trainer.evaluate(test_data, metric_key_prefix="test"))


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


if __name__ == "__main__":
    train()
