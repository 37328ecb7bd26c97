//! Damaged and lying files through every reader: an error or a volume, never a panic, a hang, or memory
//! on the word of a header.
//!
//! A bounded, deterministic stand-in for the fuzz targets of `fuzz/`, which share its entry functions.
//! One test at a time only: the allocator counts what the whole process holds.

#[path = "hostile/entry.rs"]
mod entry;
#[path = "hostile/seeds.rs"]
mod seeds;

mod dicom_writer;
// Not every way of writing is a seed.
#[allow(dead_code)]
#[path = "dicom_writer/enhanced.rs"]
mod enhanced;

use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use seeds::seeds;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Damaged copies of each seed. More: `UNIFERUM_HOSTILE_CASES=20000 cargo test --test hostile`.
const CASES: u64 = 150;
/// A case that takes longer hangs.
const HANG: Duration = Duration::from_secs(20);

#[test]
fn damaged_files_are_errors() {
    let cases = std::env::var("UNIFERUM_HOSTILE_CASES");
    let cases = cases.map_or(CASES, |n| n.parse().expect("a number"));
    // A decoder's caught panic must not fill memory with a backtrace.
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    for seed in seeds() {
        assert!(
            seed.read(&seed.bytes),
            "{}: the undamaged file is refused",
            seed.name
        );
        let mut worst = 0.0f64;
        let mut read = 0;
        for case in 0..cases {
            let mut random = ChaCha8Rng::seed_from_u64(case);
            let damaged = damage(&seed.bytes, &mut random);
            let size = seed.size(&damaged);
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let start = Instant::now();
            read += u32::from(seed.read(&damaged));
            let peak = MEMORY.peak_usage().saturating_sub(before) as f64;
            assert!(start.elapsed() < HANG, "{} case {case} hangs", seed.name);
            let allowed = seed.allowed(size);
            assert!(
                peak <= allowed,
                "{} case {case}: {peak} bytes of memory for a file of {size}, {allowed} allowed",
                seed.name
            );
            worst = worst.max(peak / allowed);
        }
        let name = seed.name;
        eprintln!(
            "{name}: {read} of {cases} read, {:.0} % of the memory allowed",
            100.0 * worst
        );
    }
}

/// Writes the seeds into folders named as the fuzz targets:
/// `UNIFERUM_FUZZ_CORPUS=fuzz/corpus cargo test -p uniferum-ct --test hostile -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    let folder = std::env::var_os("UNIFERUM_FUZZ_CORPUS").expect("UNIFERUM_FUZZ_CORPUS is set");
    for seed in seeds() {
        let folder = std::path::Path::new(&folder).join(seed.target());
        std::fs::create_dir_all(&folder).unwrap();
        let name = seed.name.replace(' ', "-");
        std::fs::write(folder.join(name), seed.for_fuzzing()).unwrap();
    }
}

/// One to four faults of the kinds that files have and that attackers make.
fn damage(bytes: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..random.random_range(1..5) {
        if out.is_empty() {
            break;
        }
        // Headers are where claims are: half of all faults go there.
        let reach = if random.random() {
            out.len().min(700)
        } else {
            out.len()
        };
        let at = random.random_range(0..reach);
        match random.random_range(0..7) {
            0 => out[at] ^= 1 << random.random_range(0..8),
            1 => out[at] = [0, 1, 0x7f, 0x80, 0xff, b'9', b'-'][random.random_range(0..7)],
            2 => {
                let extreme = [
                    0u64,
                    1,
                    0x7fff_ffff_ffff_ffff,
                    u64::MAX,
                    0x8000,
                    0xffff_fff0,
                ];
                let number = extreme[random.random_range(0..6)].to_le_bytes();
                let width = [2, 4, 8][random.random_range(0..3)].min(out.len() - at);
                out[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => out.truncate(at),
            4 => {
                let end = (at + random.random_range(1..64)).min(out.len());
                out.drain(at..end);
            }
            5 => {
                let end = (at + random.random_range(1..64)).min(out.len());
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
            _ => {
                let noise: Vec<u8> = (0..random.random_range(1..16))
                    .map(|_| random.random())
                    .collect();
                out.splice(at..at, noise);
            }
        }
    }
    out
}
