//! Writes a cohort: `cargo run --release -p uniferum-phantom --example cohort -- FOLDER [COUNT] [SEED]`.

use std::path::PathBuf;

use uniferum_phantom::{Finding, PhantomConfig, write_cohort};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: cohort FOLDER [COUNT] [SEED]")?,
    );
    let count = arguments.next().map_or(Ok(8), |n| n.parse())?;
    let seed = arguments.next().map_or(Ok(0), |n| n.parse())?;
    let cases = write_cohort(&folder, count, seed, &PhantomConfig::default(), &|| {})?;
    for case in &cases {
        let present: Vec<&str> = case.findings.present().map(Finding::label).collect();
        println!(
            "{} {:?}: {}",
            case.scan.display(),
            case.split,
            present.join(", ")
        );
    }
    Ok(())
}
