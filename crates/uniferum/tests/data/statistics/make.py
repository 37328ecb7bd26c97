"""Makes the tables; needs numpy and pandas with pyarrow."""

import numpy as np
import pandas as pd

rng = np.random.default_rng(6)
n = 120
scans = [f"scan_{i:03d}" for i in range(n)]
patients = [f"p{i // 2:02d}" for i in range(n)]
labels = pd.DataFrame({"scan": scans, "patient": patients})
first, second = pd.DataFrame({"scan": scans}), pd.DataFrame({"scan": scans})
for task, rate in (("nodule", 0.4), ("effusion", 0.25)):
    truth = rng.random(n) < rate
    labels[task] = truth.astype(float)
    logit = rng.normal(size=n) + np.where(truth, 1.2, -1.0)
    first[task] = (1 / (1 + np.exp(-logit))).astype(np.float32)
    second[task] = (1 / (1 + np.exp(-(0.5 * logit + rng.normal(size=n))))).astype(np.float32)
labels["cyst"], first["cyst"], second["cyst"] = 0.0, np.float32(0.1), np.float32(0.2)
labels.loc[[3, 40, 41], "nodule"] = np.nan
for name in ("nodule", "effusion", "cyst"):
    labels[name] = labels[name].astype("Int64")
labels.to_csv("labels.csv", index=False)
first.to_csv("predictions.csv", index=False)
second.to_csv("second.csv", index=False)
long = first.melt(id_vars="scan", var_name="task", value_name="score")
long = long.sample(frac=1, random_state=1)
long.to_parquet("predictions_long.parquet", index=False)
long.astype({"score": float}).to_json("predictions_long.json", orient="records")
