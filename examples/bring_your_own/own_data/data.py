"""scikit-learn's digits; training images are shifted at random."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, TensorDataset, random_split


class Moved(Dataset):
    """Images with a new random shift of up to `pixels` in both directions at each access."""

    def __init__(self, images, pixels):
        self.images = images
        self.pixels = pixels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = self.images[index]
        shifts = torch.randint(-self.pixels, self.pixels + 1, (2,)).tolist()
        return image.roll(shifts, dims=(1, 2)), label


def digits(pixels=1):
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    whole = TensorDataset(images, torch.tensor(labels))
    train, validation, test = random_split(whole, [0.6, 0.2, 0.2])
    return Moved(train, pixels), validation, test
