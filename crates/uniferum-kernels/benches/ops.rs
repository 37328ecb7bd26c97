//! Every operation under criterion, with its rate in operations and bytes:
//! `cargo bench -p uniferum-kernels --bench ops`.

mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn ops(criterion: &mut Criterion) {
    for make in common::cases() {
        for mut case in make() {
            let mut group = criterion.benchmark_group(case.name);
            group.throughput(Throughput::ElementsAndBytes {
                elements: case.flop as u64,
                bytes: case.bytes as u64,
            });
            group.bench_function(&case.size, |bencher| {
                bencher.iter(|| (case.run)().expect("the operation fits its input"));
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = ops
}
criterion_main!(benches);
