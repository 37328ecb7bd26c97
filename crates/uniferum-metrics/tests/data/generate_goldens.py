"""Writes goldens.json: numbers of scikit-learn and scipy that the crate must reproduce.

    pip install scikit-learn scipy numpy
    python generate_goldens.py
"""

import json
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy import optimize, stats
from scipy.spatial import distance
from sklearn import metrics
from sklearn.calibration import _SigmoidCalibration, calibration_curve
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(20240607)
n = 400
labels = rng.random(n) < 0.3
logits = np.round(rng.normal(loc=np.where(labels, 0.9, -0.9), scale=1.3), 1)  # ties on purpose
probabilities = 1 / (1 + np.exp(-1.7 * logits))  # over-confident on purpose
weights = np.round(rng.gamma(2.0, 1.0, n), 3)
weights[::29] = 0.0
threshold = 0.4
called = probabilities >= threshold
tn, fp, fn, tp = metrics.confusion_matrix(labels, called).ravel()


def log_likelihood(beta):
    return metrics.log_loss(labels, 1 / (1 + np.exp(-beta * logits)))


temperature = 1 / optimize.minimize_scalar(
    log_likelihood, bounds=(1e-2, 10), method="bounded", options={"xatol": 1e-12}
).x
line = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10000)
line.fit(np.log(probabilities / (1 - probabilities))[:, None], labels)
platt = _SigmoidCalibration().fit(logits, labels)
observed, predicted = calibration_curve(labels, probabilities, n_bins=10, strategy="uniform")
fpr, tpr, _ = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
p_values = [0.001, 0.2, 0.03, 0.04, 0.9, 0.0004, 0.03]
mask_a, mask_b = rng.random(500) < 0.2, rng.random(500) < 0.25

golden = {
    "made_with": f"scikit-learn {sklearn.__version__}, scipy {scipy.__version__}",
    "labels": labels.astype(int).tolist(),
    "logits": logits.tolist(),
    "probabilities": probabilities.tolist(),
    "weights": weights.tolist(),
    "threshold": threshold,
    "auroc": metrics.roc_auc_score(labels, logits),
    "auroc_weighted": metrics.roc_auc_score(labels, logits, sample_weight=weights),
    "auroc_mann_whitney": stats.mannwhitneyu(logits[labels], logits[~labels]).statistic
    / (labels.sum() * (~labels).sum()),
    "auprc": metrics.average_precision_score(labels, logits),
    "auprc_weighted": metrics.average_precision_score(labels, logits, sample_weight=weights),
    "partial_auroc_fpr_0.2": metrics.roc_auc_score(labels, logits, max_fpr=0.2),
    "roc_fpr": fpr.tolist(),
    "roc_tpr": tpr.tolist(),
    "pr_precision": precision[:-1][::-1].tolist(),
    "pr_recall": recall[:-1][::-1].tolist(),
    "confusion": {"tp": int(tp), "fp": int(fp), "fn": int(fn), "tn": int(tn)},
    "f1": metrics.f1_score(labels, called),
    "brier": metrics.brier_score_loss(labels, probabilities),
    "brier_weighted": metrics.brier_score_loss(labels, probabilities, sample_weight=weights),
    "log_loss": metrics.log_loss(labels, probabilities),
    "calibration_observed": observed.tolist(),
    "calibration_predicted": predicted.tolist(),
    "calibration_intercept": line.intercept_[0],
    "calibration_slope": line.coef_[0, 0],
    "temperature": temperature,
    "platt_slope": -platt.a_,
    "platt_intercept": -platt.b_,
    "p_values": p_values,
    "p_bh": stats.false_discovery_control(p_values).tolist(),
    "normal_quantiles": [[p, stats.norm.ppf(p)] for p in (1e-9, 0.005, 0.3, 0.975)],
    "chi_squared_tails": [[x, df, stats.chi2.sf(x, df)] for x, df in ((0.3, 3), (7.8, 3), (40.0, 17))],
    "wilson": [
        [k, m, *stats.binomtest(k, m).proportion_ci(method="wilson")] for k, m in ((0, 9), (7, 9), (150, 400))
    ],
    "mask_a": mask_a.astype(int).tolist(),
    "mask_b": mask_b.astype(int).tolist(),
    "dice": 1 - distance.dice(mask_a, mask_b),
    "iou": metrics.jaccard_score(mask_a, mask_b),
}
Path(__file__).with_name("goldens.json").write_text(json.dumps(golden, indent=None) + "\n")
