"""Reading a .nii.gz by nibabel, for timing beside `uniferum bench prepare --stage read`.

    pip install nibabel
    uniferum bench prepare --keep /tmp/bench
    python tools/peers/read.py /tmp/bench/scan.nii.gz

To HU in single precision, and to the stored int16. Prints a line of JSON for each.
"""

import json
import sys
import time

import nibabel as nib
import numpy as np

runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
reads = {
    "f32": lambda: nib.load(sys.argv[1]).get_fdata(dtype=np.float32),
    "i16": lambda: np.array(nib.load(sys.argv[1]).dataobj.get_unscaled()),
}
for dtype, read in reads.items():
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])
    line = {
        "bench": "nibabel read",
        "median_s": seconds[len(seconds) // 2],
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "dtype": dtype,
    }
    print(json.dumps(line))
