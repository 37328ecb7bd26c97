"""Golden files for `tests/augment.rs`: MONAI's predict and train transforms of a small volume.

Makes monai_in.nii.gz (int16 HU, RAS) and monai_{predict,rotate,zoom,both}.nii.gz (model values, f32):

    pip install monai nibabel
    python monai_transforms.py
"""

import os

import monai.transforms as T
import nibabel as nib
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CROP, SHAPE = (24, 20, 16), (16, 10, 8)


def save(data, name):
    nib.save(nib.Nifti1Image(data, np.eye(4)), os.path.join(HERE, f"monai_{name}.nii.gz"))


rng = np.random.default_rng(3)
hu = rng.integers(-1000, 1000, (27, 21, 15)).astype(np.int16)
save(hu, "in")
image = (hu.astype(np.float32) / 2000 + 0.5)[None]


def pad(size):
    return T.SpatialPad(spatial_size=size, constant_values=0.0)


FIELD = tuple(max(a, b) for a, b in zip(hu.shape, CROP))
tail = [pad(CROP), T.CenterSpatialCrop(roi_size=CROP), T.Resize(spatial_size=SHAPE)]
angles = np.radians((11.0, -7.0, 14.0))
rotate = T.Rotate(tuple(angles), keep_size=True, mode="bilinear", padding_mode="border")


def zoom(factor):
    return T.Zoom(factor, keep_size=True, mode="area", padding_mode="edge")


cases = {
    "predict": [],
    "rotate": [rotate],
    "zoom": [zoom(0.91)],
    "both": [rotate, zoom(1.08)],
}
for name, steps in cases.items():
    out = T.Compose([pad(FIELD), *steps, *tail])(image)
    save(np.asarray(out[0], np.float32), name)
