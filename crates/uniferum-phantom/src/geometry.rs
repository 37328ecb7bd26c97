//! Points, boxes and the solids that the body is made of, in millimetres.

/// A point or direction `[right, anterior, superior]` in millimetres.
pub(crate) type Point = [f32; 3];

pub(crate) fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(crate) fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(crate) fn scaled(a: Point, s: f32) -> Point {
    [a[0] * s, a[1] * s, a[2] * s]
}

pub(crate) fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn cross(a: Point, b: Point) -> Point {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

pub(crate) fn length(a: Point) -> f32 {
    dot(a, a).sqrt()
}

pub(crate) fn unit(a: Point) -> Point {
    let l = length(a);
    if l > 0.0 {
        scaled(a, 1.0 / l)
    } else {
        [0.0, 0.0, 1.0]
    }
}

/// 0 below `a`, 1 above `b`, smooth between.
pub(crate) fn smoothstep(a: f32, b: f32, x: f32) -> f32 {
    let t = ((x - a) / (b - a)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Three orthogonal unit vectors, the first along `axis`.
pub(crate) fn frame_along(axis: Point) -> [Point; 3] {
    let e1 = unit(axis);
    let helper = if e1[2].abs() < 0.9 {
        [0.0, 0.0, 1.0]
    } else {
        [1.0, 0.0, 0.0]
    };
    let e2 = unit(cross(helper, e1));
    [e1, e2, cross(e1, e2)]
}

/// An axis-aligned box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) low: Point,
    pub(crate) high: Point,
}

impl Bounds {
    fn around(centre: Point, half: Point) -> Self {
        Bounds {
            low: sub(centre, half),
            high: add(centre, half),
        }
    }

    /// The eight corners.
    pub(crate) fn corners(&self) -> [Point; 8] {
        std::array::from_fn(|i| {
            let pick = |axis: usize| {
                if i >> axis & 1 == 0 {
                    self.low[axis]
                } else {
                    self.high[axis]
                }
            };
            [pick(0), pick(1), pick(2)]
        })
    }
}

/// A solid with a rough depth inside it.
#[derive(Debug, Clone)]
pub(crate) enum Solid {
    /// `frame` holds the three axes, each divided by its radius.
    Ellipsoid {
        centre: Point,
        frame: [Point; 3],
        radii: Point,
    },
    /// A segment with a radius at each end, rounded.
    Capsule {
        from: Point,
        to: Point,
        radius: [f32; 2],
    },
    /// An upright elliptic cylinder.
    Disc {
        centre: Point,
        radii: [f32; 2],
        half_height: f32,
    },
}

impl Solid {
    pub(crate) fn sphere(centre: Point, radius: f32) -> Self {
        Solid::ellipsoid(centre, [radius; 3])
    }

    pub(crate) fn ellipsoid(centre: Point, radii: Point) -> Self {
        let axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        Solid::oriented(centre, axes, radii)
    }

    /// An ellipsoid whose `radii` lie along the orthonormal `axes`.
    pub(crate) fn oriented(centre: Point, axes: [Point; 3], radii: Point) -> Self {
        let frame = std::array::from_fn(|i| scaled(axes[i], 1.0 / radii[i]));
        Solid::Ellipsoid {
            centre,
            frame,
            radii,
        }
    }

    pub(crate) fn capsule(from: Point, to: Point, radius: f32) -> Self {
        Solid::Capsule {
            from,
            to,
            radius: [radius; 2],
        }
    }

    /// How deep a point lies inside, in millimetres; negative outside.
    ///
    /// Exact for capsules, a lower bound near the surface of the others.
    #[inline]
    pub(crate) fn depth(&self, p: Point) -> f32 {
        match self {
            Solid::Ellipsoid {
                centre,
                frame,
                radii,
            } => {
                let d = sub(p, *centre);
                let q = [dot(d, frame[0]), dot(d, frame[1]), dot(d, frame[2])];
                let smallest = radii[0].min(radii[1]).min(radii[2]);
                (1.0 - length(q)) * smallest
            }
            Solid::Capsule { from, to, radius } => {
                let axis = sub(*to, *from);
                let d = sub(p, *from);
                let norm = dot(axis, axis);
                let t = if norm > 0.0 {
                    (dot(d, axis) / norm).clamp(0.0, 1.0)
                } else {
                    0.0
                };
                let off = sub(d, scaled(axis, t));
                radius[0] + (radius[1] - radius[0]) * t - length(off)
            }
            Solid::Disc {
                centre,
                radii,
                half_height,
            } => {
                let (u, v) = ((p[0] - centre[0]) / radii[0], (p[1] - centre[1]) / radii[1]);
                let radial = (1.0 - (u * u + v * v).sqrt()) * radii[0].min(radii[1]);
                radial.min(half_height - (p[2] - centre[2]).abs())
            }
        }
    }

    /// The box that holds the solid, widened by `margin`.
    pub(crate) fn bounds(&self, margin: f32) -> Bounds {
        match self {
            Solid::Ellipsoid {
                centre,
                frame,
                radii,
            } => {
                // Half extent along an axis: the norm of the radius vectors' components.
                let half = std::array::from_fn(|axis| {
                    let component = |i: usize| frame[i][axis] * radii[i] * radii[i];
                    length([component(0), component(1), component(2)]) + margin
                });
                Bounds::around(*centre, half)
            }
            Solid::Capsule { from, to, radius } => {
                let r = radius[0].max(radius[1]) + margin;
                let low = std::array::from_fn(|i| from[i].min(to[i]) - r);
                let high = std::array::from_fn(|i| from[i].max(to[i]) + r);
                Bounds { low, high }
            }
            Solid::Disc {
                centre,
                radii,
                half_height,
            } => Bounds::around(
                *centre,
                [radii[0] + margin, radii[1] + margin, half_height + margin],
            ),
        }
    }
}

/// Capsules along a line of points with a radius at each.
pub(crate) fn tube(points: &[(Point, f32)]) -> impl Iterator<Item = Solid> {
    points.windows(2).map(|pair| Solid::Capsule {
        from: pair[0].0,
        to: pair[1].0,
        radius: [pair[0].1, pair[1].1],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_bounds_agree() {
        let axes = frame_along([1.0, 1.0, 0.3]);
        let solids = [
            Solid::sphere([1.0, 2.0, 3.0], 4.0),
            Solid::oriented([0.0; 3], axes, [9.0, 3.0, 5.0]),
            Solid::Capsule {
                from: [0.0; 3],
                to: [5.0, -3.0, 8.0],
                radius: [1.0, 3.0],
            },
            Solid::Disc {
                centre: [1.0; 3],
                radii: [4.0, 6.0],
                half_height: 3.0,
            },
        ];
        for solid in solids {
            let bounds = solid.bounds(0.0);
            let mut inside = 0;
            for i in 0..40 * 40 * 40 {
                let p: Point = [i % 40, i / 40 % 40, i / 1600].map(|v| v as f32 * 0.6 - 12.0);
                if solid.depth(p) > 0.0 {
                    inside += 1;
                    assert!((0..3).all(|a| bounds.low[a] <= p[a] && p[a] <= bounds.high[a]));
                }
            }
            assert!(inside > 100, "{solid:?}");
        }
    }

    #[test]
    fn frames_are_orthonormal() {
        for axis in [[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [-0.7, 0.4, -0.5]] {
            let e = frame_along(axis);
            for i in 0..3 {
                for j in 0..3 {
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((dot(e[i], e[j]) - expected).abs() < 1e-5);
                }
            }
        }
    }
}
