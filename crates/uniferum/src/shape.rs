//! Three sizes on the command line.

/// `XxYxZ`, such as 512x512x300.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape(pub(crate) [usize; 3]);

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        match sides.as_deref() {
            Ok(&[x, y, z]) => Ok(Shape([x, y, z])),
            _ => Err("expected three whole numbers such as 512x512x300".to_owned()),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.0;
        write!(f, "{x}x{y}x{z}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_and_nothing_else() {
        assert_eq!("4x5x6".parse(), Ok(Shape([4, 5, 6])));
        assert_eq!(Shape([4, 5, 6]).to_string(), "4x5x6");
        for bad in ["4x5", "4x5x6x7", "4,5,6", "", "ax5x6", "-1x2x3"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
