"""The recipe's predict and train transforms with MONAI on one standardised volume, for timing beside
`uniferum bench prepare --stage predict` and `--stage train`.

    pip install monai nibabel torch
    uniferum prepare scan.nii.gz --masks FOLDER --out DIR --format nifti
    python tools/peers/transforms.py DIR/scans/scan.nii.gz [threads] [runs]

Every random step is applied every time, on both sides. Prints a line of JSON for each.
"""

import json
import sys
import time
import warnings

import monai.transforms as T
import nibabel as nib
import numpy as np
import torch

warnings.filterwarnings("ignore")
FIELD, CROP, SHAPE, ANGLE = [416, 336, 256], [384, 320, 256], [256, 160, 128], np.radians(15)


def pad(size):
    return T.SpatialPad(spatial_size=size, constant_values=0.0)


def crop(size):
    return T.CenterSpatialCrop(roi_size=size)


def resize():
    return T.Resize(spatial_size=SHAPE, mode="area")


predict = T.Compose([pad(CROP), crop(CROP), resize()])
train = T.Compose(
    [
        pad(FIELD),
        crop(FIELD),
        T.RandRotate(
            prob=1.0,
            range_x=ANGLE,
            range_y=ANGLE,
            range_z=ANGLE,
            mode="bilinear",
            padding_mode="border",
        ),
        T.RandZoom(prob=1.0, min_zoom=0.9, max_zoom=1.1, mode="area", padding_mode="edge"),
        pad(CROP),
        crop(CROP),
        resize(),
        T.RandGaussianNoise(std=0.01, prob=1.0),
        T.RandShiftIntensity(offsets=0.01, prob=1.0),
    ]
)

threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
torch.set_num_threads(threads)
image = (nib.load(sys.argv[1]).get_fdata(dtype=np.float32) / 2000 + 0.5)[None]
for name, transform in (("predict", predict), ("train", train)):
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        transform(image)
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])
    line = {
        "bench": f"MONAI {name}",
        "median_s": seconds[len(seconds) // 2],
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "threads": threads,
    }
    print(json.dumps(line))
