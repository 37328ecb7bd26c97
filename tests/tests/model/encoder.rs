//! The image encoder alone.

use uniferum_encoder::{EfficientNet3d, EncoderConfig, Variant};

use crate::{assert_close, formula, golden};

fn check(variant: Variant, name: &str, batch: usize, [x, y, z]: [usize; 3]) {
    let net = EfficientNet3d::new(&EncoderConfig::new(variant), formula::builder()).unwrap();
    let side = format!("{x}x{y}x{z}");
    let image = formula::values(&format!("{side}.image"), (batch, 1, x, y, z));
    let features = net.forward_t(&image, false).unwrap();
    let key = format!("{name}.{side}");
    assert_close(&features, &golden("encoder.safetensors")[&key], 1e-4, &key);
}

#[test]
fn b0_agrees_at_multiples_of_32() {
    check(Variant::B0, "b0", 2, [64, 32, 96]);
}

#[test]
fn b0_agrees_at_odd_sides() {
    check(Variant::B0, "b0", 1, [45, 70, 33]);
}

#[test]
fn a_sister_width_agrees() {
    check(Variant::B2, "b2", 1, [32, 32, 32]);
}
