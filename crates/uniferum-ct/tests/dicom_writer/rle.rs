//! Run-length encoding as DICOM has it, for slices and for frames.

/// Literals only: two segments, high bytes first.
pub(crate) fn rle(stored: &[i16]) -> Vec<u8> {
    let segment = |shift: u32| {
        let plane: Vec<u8> = stored.iter().map(|&v| (v as u16 >> shift) as u8).collect();
        let mut out = Vec::new();
        for run in plane.chunks(128) {
            out.push(run.len() as u8 - 1);
            out.extend(run);
        }
        if out.len() % 2 == 1 {
            out.push(0);
        }
        out
    };
    let (high, low) = (segment(8), segment(0));
    let mut header = [0u8; 64];
    header[0] = 2;
    header[4..8].copy_from_slice(&64u32.to_le_bytes());
    header[8..12].copy_from_slice(&(64 + high.len() as u32).to_le_bytes());
    [&header[..], &high, &low].concat()
}
