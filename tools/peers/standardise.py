"""Standardisation of a scan as the paper's public release does it, with the tools that it uses
(nibabel, scikit-image, nilearn), for timing beside `uniferum bench prepare`.

    pip install nibabel nilearn scikit-image scikit-learn
    uniferum bench prepare --keep /tmp/bench
    python tools/peers/standardise.py /tmp/bench/scan.nii.gz /tmp/bench/mask.nii.gz

The steps, in the release's order: read scan and mask; body mask from about -148.4 HU up; components of
26 neighbours, the largest; box about its rounded centroid; lung slices of the mask; crop; resample to
1 mm (scan cubic, mask nearest); cut to int16 and clip; reorient to RAS. Nothing is written.
Prints one line of JSON as `uniferum bench` does.
"""

import json
import resource
import sys
import time
import warnings

import nibabel as nib
import numpy as np
from nilearn.image import resample_img
from skimage import measure

warnings.filterwarnings("ignore")
LUNGS = (10, 11, 12, 13, 14)


def resample(data, affine, interpolation):
    image = nib.Nifti1Image(data, affine)
    scale = np.float32(1) / np.array(image.header.get_zooms(), np.float32)
    target = affine.copy()
    target[:3, :3] = target[:3, :3] @ np.diag(scale)
    return resample_img(image, target_affine=target, interpolation=interpolation)


def crop_box(ct, seg):
    components = measure.label(ct >= -150 + 400 / 255)
    region = max(measure.regionprops(components), key=lambda r: r.area)
    centre = [round(c) for c in region.centroid]
    low, high = region.bbox[:3], region.bbox[3:]
    reach = [max(c - a, b - c) for c, a, b in zip(centre, low, high)]
    first = [max(c - r, 0) for c, r in zip(centre, reach)]
    past = [min(c + r, n) for c, r, n in zip(centre, reach, ct.shape)]
    slices = np.where(np.isin(seg, LUNGS).any(axis=(0, 1)))[0]
    first[2], past[2] = max(first[2], slices.min()), min(past[2], slices.max())
    return first, past


def standardise(scan, mask):
    image = nib.load(scan)
    ct, affine = image.get_fdata(dtype=np.float32), image.affine
    seg = np.asanyarray(nib.load(mask).dataobj).astype(np.uint8)
    first, past = crop_box(ct, seg)
    box = tuple(slice(a, b) for a, b in zip(first, past))
    cropped = affine.copy()
    cropped[:3, 3] += affine[:3, :3] @ np.array(first)
    image = resample(ct[box], cropped, "continuous")
    values = np.clip(image.get_fdata().astype(np.int16), -1000, 1000)
    image = nib.as_closest_canonical(nib.Nifti1Image(values, image.affine))
    labels = nib.as_closest_canonical(resample(seg[box], cropped, "nearest"))
    return np.asanyarray(image.dataobj), np.asanyarray(labels.dataobj)


def main():
    scan, mask = sys.argv[1:3]
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        standardise(scan, mask)
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    line = {
        "bench": "release pipeline",
        "median_s": seconds[len(seconds) // 2],
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(line))


main()
