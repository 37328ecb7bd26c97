//! Transfer syntaxes: how a file's elements and pixels are written.

use std::path::Path;

use crate::error::{Error, Result};

/// How pixels are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Rle,
    /// Baseline, extended or lossless JPEG.
    Jpeg,
    JpegLs,
    Jpeg2000,
}

/// A transfer syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub(crate) implicit: bool,
    pub(crate) big_endian: bool,
    /// The whole data set is deflated.
    pub(crate) deflated: bool,
    pub(crate) compression: Compression,
}

impl Syntax {
    pub(crate) const EXPLICIT_LITTLE: Syntax = Syntax {
        implicit: false,
        big_endian: false,
        deflated: false,
        compression: Compression::None,
    };

    pub(crate) const IMPLICIT_LITTLE: Syntax = Syntax {
        implicit: true,
        ..Syntax::EXPLICIT_LITTLE
    };

    const fn compressed(compression: Compression) -> Self {
        Syntax {
            compression,
            ..Syntax::EXPLICIT_LITTLE
        }
    }

    /// The syntax of a UID.
    pub(crate) fn from_uid(path: &Path, uid: &str) -> Result<Self> {
        let Some(tail) = uid.strip_prefix("1.2.840.10008.1.2") else {
            return Err(unsupported(path, uid));
        };
        Ok(match tail {
            "" => Syntax::IMPLICIT_LITTLE,
            ".1" => Syntax::EXPLICIT_LITTLE,
            ".1.99" => Syntax {
                deflated: true,
                ..Syntax::EXPLICIT_LITTLE
            },
            ".2" => Syntax {
                big_endian: true,
                ..Syntax::EXPLICIT_LITTLE
            },
            ".5" => Syntax::compressed(Compression::Rle),
            ".4.50" | ".4.51" | ".4.57" | ".4.70" => Syntax::compressed(Compression::Jpeg),
            ".4.80" | ".4.81" => Syntax::compressed(Compression::JpegLs),
            ".4.90" | ".4.91" => Syntax::compressed(Compression::Jpeg2000),
            _ => return Err(unsupported(path, uid)),
        })
    }
}

fn unsupported(path: &Path, uid: &str) -> Error {
    let uid: String = uid
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == '.')
        .take(64)
        .collect();
    Error::unsupported(path, format!("transfer syntax {uid}"))
}
