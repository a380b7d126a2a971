import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset, random_split


def splits():
    """Digits of 8x8 pixels: 1,197 to train on, and 300 each for validation and test."""
    pixels, classes = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes))
    return random_split(data, [1197, 300, 300], torch.Generator().manual_seed(0))
