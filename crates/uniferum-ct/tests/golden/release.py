"""Golden files for `tests/release.rs`: the public release's standardisation of a drawn thorax
(of a doll's size, for small files).

Makes release_ct.nii.gz and release_seg.nii.gz (input), release_ct_out.nii.gz and
release_seg_out.nii.gz (output), with nilearn's resampling and skimage's components:

    pip install nilearn scikit-image
    python release.py
"""

import os

import nibabel as nib
import numpy as np
from nilearn.image import resample_img
from skimage import measure

HERE = os.path.dirname(os.path.abspath(__file__))


def thorax():
    rng = np.random.default_rng(7)
    i, j, k = np.meshgrid(np.arange(30), np.arange(25), np.arange(16), indexing="ij")
    x, y = (i - 14) * 9.0, (j - 13) * 9.0
    body = (x / 100) ** 2 + (y / 80) ** 2 < 1
    ct = np.where(body, 45, -1000)
    seg = np.zeros(ct.shape, np.uint8)
    for side, label in ((-1, 10), (1, 13)):
        lung = ((x - side * 45) / 32) ** 2 + (y / 55) ** 2 + ((k - 8) / 6) ** 2 < 1
        ct[lung], seg[lung] = -840, label
    ct[(x / 14) ** 2 + ((y - 60) / 12) ** 2 < 1] = 700
    ct[:, 23, :] = 150  # a table
    ct = ct + rng.normal(0, 12, ct.shape).round().astype(int)
    affine = np.diag([-1.6, -1.7, 2.3, 1.0])
    affine[:3, 3] = [20.5, 31.25, -300.0]
    return ct.astype(np.int16), seg, affine


def resample(data, affine, interpolation):
    image = nib.Nifti1Image(data, affine)
    scale = np.float32(1) / np.array(image.header.get_zooms(), np.float32)
    target = affine.copy()
    target[:3, :3] = target[:3, :3] @ np.diag(scale)
    return resample_img(image, target_affine=target, interpolation=interpolation)


def save(data, affine, name):
    nib.save(nib.Nifti1Image(data, affine), os.path.join(HERE, name + ".nii.gz"))


def main():
    ct, seg, affine = thorax()
    save(ct, affine, "release_ct")
    save(seg, affine, "release_seg")
    components = measure.label(ct >= -150 + 400 / 255)
    region = max(measure.regionprops(components), key=lambda r: r.area)
    centre = [round(c) for c in region.centroid]
    low, high = region.bbox[:3], region.bbox[3:]
    reach = [max(c - a, b - c) for c, a, b in zip(centre, low, high)]
    first = [max(c - r, 0) for c, r in zip(centre, reach)]
    past = [min(c + r, n) for c, r, n in zip(centre, reach, ct.shape)]
    lungs = np.where(np.isin(seg, (10, 11, 12, 13, 14)).any(axis=(0, 1)))[0]
    first[2], past[2] = max(first[2], lungs.min()), min(past[2], lungs.max())
    print("crop", list(zip(first, past)), "body", region.area)
    box = tuple(slice(a, b) for a, b in zip(first, past))
    cropped = affine.copy()
    cropped[:3, 3] += affine[:3, :3] @ np.array(first)
    image = resample(ct[box], cropped, "continuous")
    values = np.clip(image.get_fdata().astype(np.int16), -1000, 1000)
    image = nib.as_closest_canonical(nib.Nifti1Image(values, image.affine))
    labels = nib.as_closest_canonical(resample(seg[box], cropped, "nearest"))
    save(np.asanyarray(image.dataobj), image.affine, "release_ct_out")
    save(np.asanyarray(labels.dataobj).astype(np.uint8), labels.affine, "release_seg_out")


main()
