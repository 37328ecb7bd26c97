//! Cross-crate and golden tests live in `tests/tests`.
