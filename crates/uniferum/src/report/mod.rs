//! Self-contained HTML reports: no script, no font, no image is loaded from elsewhere.

pub mod contact;
pub mod evaluation;
pub mod html;
pub mod plots;
pub mod slices;
