//! Speed at the sizes that matter: a validation split with all its tasks, and ten million scores.
//!
//! ```text
//! cargo bench -p uniferum-metrics --bench statistics
//! ```

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uniferum_metrics::{
    AucEstimate, Binning, Bootstrap, Cases, EvaluateOptions, Ranked, TaskColumn, auc_estimates,
    compare_tasks, covariance_matrix, evaluate_tasks,
};

/// Volumes and tasks of CT-RATE's validation split.
const VOLUMES: usize = 3002;
const TASKS: usize = 18;
const MANY: usize = 10_000_000;

struct Split {
    names: Vec<String>,
    scores: Vec<Vec<f64>>,
    labels: Vec<Vec<Option<bool>>>,
    patients: Vec<u32>,
}

fn split() -> Split {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut column = || -> (Vec<f64>, Vec<Option<bool>>) {
        (0..VOLUMES)
            .map(|_| {
                let positive = rng.random_bool(0.2);
                let score = rng.random::<f64>() + f64::from(u8::from(positive)) * 0.4;
                (score, Some(positive))
            })
            .unzip()
    };
    let (scores, labels) = (0..TASKS).map(|_| column()).unzip();
    Split {
        names: (0..TASKS).map(|t| format!("task {t}")).collect(),
        scores,
        labels,
        // About 1.9 volumes a patient.
        patients: (0..VOLUMES).map(|i| (i * 10 / 19) as u32).collect(),
    }
}

impl Split {
    fn columns(&self) -> Vec<TaskColumn<'_>> {
        let parts = self.names.iter().zip(&self.scores).zip(&self.labels);
        parts
            .map(|((task, scores), labels)| TaskColumn {
                task,
                scores,
                labels,
            })
            .collect()
    }
}

fn validation_split(c: &mut Criterion) {
    let split = split();
    let columns = split.columns();
    let plain = EvaluateOptions::default();
    let clustered = EvaluateOptions {
        clusters: Some(&split.patients),
        ..plain
    };
    let mut group = c.benchmark_group("3002 volumes x 18 tasks");
    for (name, options) in [("DeLong", &plain), ("clustered", &clustered)] {
        group.bench_function(format!("evaluate, {name}"), |b| {
            b.iter(|| evaluate_tasks(black_box(&columns), options));
        });
        let estimates: Vec<AucEstimate> = auc_estimates(&columns, options)
            .expect("valid columns")
            .into_iter()
            .flatten()
            .collect();
        group.bench_function(format!("all covariances, {name}"), |b| {
            b.iter(|| covariance_matrix(black_box(&estimates)));
        });
    }
    let names: Vec<&str> = split.names.iter().map(String::as_str).collect();
    let estimates = auc_estimates(&columns, &clustered).expect("valid columns");
    group.bench_function("compare two models, clustered", |b| {
        b.iter(|| compare_tasks(&names, black_box(&estimates), &estimates, 0.95));
    });
    let cases = [clustered.cases(&columns[0]).expect("valid columns")];
    let bootstrap = Bootstrap {
        replicates: 1000,
        ..Default::default()
    };
    group.sample_size(10);
    group.bench_function("bootstrap of one task, 1000 replicates", |b| {
        let precision = |r: &[Ranked<'_>]| r[0].average_precision().ok();
        b.iter(|| bootstrap.run(black_box(&cases), 0.95, precision));
    });
    group.finish();
}

fn ten_million(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let scores: Vec<f64> = (0..MANY).map(|_| rng.random()).collect();
    let labels: Vec<bool> = scores.iter().map(|s| rng.random::<f64>() < *s).collect();
    let mut group = c.benchmark_group("1e7 scores");
    group.sample_size(10);
    group.bench_function("AUROC from slices", |b| {
        b.iter(|| uniferum_metrics::auroc(black_box(&scores), &labels));
    });
    let cases = Cases::complete(&scores, &labels).expect("finite scores");
    group.bench_function("AUROC with DeLong's variance", |b| {
        b.iter(|| AucEstimate::new(black_box(&cases)).map(|e| e.variance()));
    });
    let ranked = Ranked::new(&cases);
    group.bench_function("average precision and Brier, sorted before", |b| {
        b.iter(|| {
            let brier = ranked.brier(Binning::default());
            (ranked.average_precision(), brier)
        });
    });
    group.finish();
}

criterion_group!(benches, validation_split, ten_million);
criterion_main!(benches);
