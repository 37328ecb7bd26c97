//! Numbered tutorials; run one with `cargo run -p uniferum-examples --example 01_read_a_scan`.
