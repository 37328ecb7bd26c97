//! A standardised scan in memory, with as many of its masks as somebody asks about.

use std::path::Path;
use std::sync::Arc;

use uniferum_ct::{Affine, ReadOptions, Volume, read_mask, read_prepared_with};
use uniferum_tasks::Task;

use crate::manifest::Scan;

/// A standardised scan in memory.
#[derive(Debug, Clone)]
pub struct Example {
    /// HU, RAS.
    pub volume: Arc<Volume<i16>>,
    /// TotalSegmentator v2 numbers; `None` where there are none or nobody asked.
    pub mask: Option<Arc<Volume<u8>>>,
    /// Nodules, as voxels above 0; `None` where there is no such mask or nobody asked.
    pub nodules: Option<Arc<Volume<u8>>>,
}

/// Masks to read with a scan: a file that nobody asks about is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    mask: bool,
    nodules: bool,
}

impl Wanted {
    /// What the answers to these tasks need.
    pub(super) fn by<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Self {
        let mut wanted = Wanted::default();
        for task in tasks.into_iter().filter(|t| t.kind.is_segmentation()) {
            match task.is_nodule() {
                true => wanted.nodules = true,
                false => wanted.mask = true,
            }
        }
        wanted
    }
}

/// Numbers of a nodule mask: some collections number their nodules, or write 255.
const ANY: [u16; 255] = {
    let mut numbers = [0; 255];
    let mut i = 0;
    while i < numbers.len() {
        numbers[i] = i as u16 + 1;
        i += 1;
    }
    numbers
};

impl Example {
    /// Bytes of its voxels in memory.
    pub fn bytes(&self) -> usize {
        let masks = self.mask.iter().chain(&self.nodules);
        2 * self.volume.voxels.len() + masks.map(|m| m.voxels.len()).sum::<usize>()
    }

    /// Reads what is wanted of a scan; what is `known` is not read again.
    pub(super) fn read(
        row: &Scan,
        wanted: Wanted,
        known: Option<&Example>,
        spacing_mm: Option<[f64; 3]>,
    ) -> uniferum_ct::Result<Self> {
        let mut example = match known {
            Some(known) => known.clone(),
            None => Self::without_masks(row, spacing_mm)?,
        };
        let volume = &example.volume;
        let add = |mask: &mut Option<Arc<Volume<u8>>>, path: Option<&Path>, what| {
            if let (None, Some(path)) = (&mask, path) {
                let read = read_mask(path)?.to_ras();
                check_mask_grid(volume, &read, what)?;
                *mask = Some(Arc::new(read));
            }
            Ok(())
        };
        if wanted.mask {
            add(&mut example.mask, row.mask.as_deref(), "mask")?;
        }
        if wanted.nodules {
            add(&mut example.nodules, row.nodules.as_deref(), "nodule mask")?;
        }
        Ok(example)
    }

    fn without_masks(row: &Scan, spacing_mm: Option<[f64; 3]>) -> uniferum_ct::Result<Self> {
        let options = ReadOptions {
            hu: row.hu,
            ..ReadOptions::default()
        };
        let volume = read_prepared_with(&row.path, &options)?.to_ras();
        if let Some(expected) = spacing_mm {
            check_standardised(&volume, expected)?;
        }
        Ok(Self {
            volume: Arc::new(volume),
            mask: None,
            nodules: None,
        })
    }

    /// Whether all that is wanted is here, of what the scan has.
    pub(super) fn has(&self, row: &Scan, wanted: Wanted) -> bool {
        let lacks = |wanted: bool, file: bool, here: bool| wanted && file && !here;
        !lacks(wanted.mask, row.mask.is_some(), self.mask.is_some())
            && !lacks(
                wanted.nodules,
                row.nodules.is_some(),
                self.nodules.is_some(),
            )
    }

    /// The mask that a task asks about, and the labels of it.
    pub(super) fn mask_of<'a>(&self, task: &'a Task) -> (Option<&Volume<u8>>, &'a [u16]) {
        match task.is_nodule() {
            true => (self.nodules.as_deref(), &ANY),
            false => (self.mask.as_deref(), &task.mask_labels),
        }
    }
}

/// Refuses a mask of another grid than its scan's. Of a scan without an affine, as the release's `.bin`, the
/// shape alone is known.
pub(crate) fn check_mask_grid<T>(
    scan: &Volume<T>,
    mask: &Volume<u8>,
    what: &'static str,
) -> uniferum_ct::Result<()> {
    if scan.affine != Affine::IDENTITY {
        return scan.check_same_grid(mask, what);
    }
    if scan.shape() == mask.shape() {
        return Ok(());
    }
    Err(uniferum_ct::Error::Volume {
        what,
        expected: format!("shape {:?} as the scan", scan.shape()),
        got: format!("{:?}", mask.shape()),
    })
}

/// Refuses a volume whose spacing differs by more than a hundredth from the standardised one, mm: it was
/// never standardised. A volume without an affine, as the release's `.bin`, is taken at its word.
///
/// # Errors
/// [`uniferum_ct::Error::Volume`] with both spacings.
pub fn check_standardised(volume: &Volume<i16>, expected: [f64; 3]) -> uniferum_ct::Result<()> {
    let got = volume.spacing();
    let near = |(got, expected): (&f64, &f64)| (got - expected).abs() <= 0.01 * expected;
    // A `.bin` has no affine, and this stands for none.
    if volume.affine == Affine::IDENTITY || got.iter().zip(&expected).all(near) {
        return Ok(());
    }
    let words = |mm: [f64; 3]| mm.map(|v| format!("{v:.3}")).join(" x ");
    Err(uniferum_ct::Error::Volume {
        what: "spacing",
        expected: format!("{} mm", words(expected)),
        got: format!("{} mm; run `uniferum prepare` first", words(got)),
    })
}
