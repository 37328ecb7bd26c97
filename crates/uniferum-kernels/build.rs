//! Compiles the CUDA kernels to PTX when the feature `cuda` is on, and does nothing otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "UNIFERUM_CUDA_ARCH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = find_kernels(Path::new("src"));
    let failed = thread::scope(|scope| {
        let tasks: Vec<_> = kernels
            .iter()
            .map(|kernel| scope.spawn(|| compile(kernel, &out)))
            .collect();
        let results = tasks.into_iter().map(|task| match task.join() {
            Ok(result) => result,
            Err(_) => Err("the compiling thread panicked".to_owned()),
        });
        results.filter_map(Result::err).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Every `.cu` below `folder`, and a note to cargo of it and of the headers.
fn find_kernels(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).expect("the sources are there");
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => found.extend(find_kernels(&path)),
            Some("cu") => {
                println!("cargo::rerun-if-changed={}", path.display());
                found.push(path);
            }
            Some("cuh") => println!("cargo::rerun-if-changed={}", path.display()),
            _ => {}
        }
    }
    found.sort();
    found
}

fn nvcc() -> PathBuf {
    if let Some(path) = env::var_os("NVCC") {
        return path.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    let candidates = homes.map(|home| Path::new(&home).join("bin/nvcc"));
    candidates
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| "nvcc".into())
}

/// PTX runs on the architecture it is made for and on every later one.
fn compile(kernel: &Path, out: &Path) -> Result<(), String> {
    let architecture = env::var("UNIFERUM_CUDA_ARCH").unwrap_or_else(|_| "80".into());
    let name = kernel.file_stem().unwrap_or_default().to_string_lossy();
    let nvcc = nvcc();
    let status = Command::new(&nvcc)
        .args(["-ptx", "-O3", "-std=c++17", "--expt-relaxed-constexpr"])
        .args(["-I", "src/cuda"])
        .arg(format!("-arch=compute_{architecture}"))
        .arg("-o")
        .arg(out.join(format!("{name}.ptx")))
        .arg(kernel)
        .status()
        .map_err(|error| {
            let found = nvcc.display();
            format!("feature `cuda` needs nvcc (set CUDA_HOME or NVCC): {found}: {error}")
        })?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} failed on {}", nvcc.display(), kernel.display()))
}
