//! PyTorch's file format before version 1.6, in which many published weights still lie.
//!
//! Five parts follow each other: three small pickles (a magic number, a protocol version,
//! facts about the writing machine), the pickled dictionary whose tensors point to storages
//! by key, and the pickled list of keys followed by the storages themselves, each with its
//! element count in front.

use std::collections::HashMap;
use std::io::{BufRead, Cursor, Read};
use std::path::Path;

use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{Device, Result, Tensor, bail};

/// The pickled magic number, with which every such file begins.
const MAGIC: [u8; 15] = [
    0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e,
];

/// All tensors of the dictionary, or of the one under `key` inside it.
pub(crate) fn read(bytes: &[u8], key: Option<&str>) -> Result<Vec<(String, Tensor)>> {
    if !bytes.starts_with(&MAGIC) {
        bail!("neither the zip format nor the older one");
    }
    let mut reader = Cursor::new(bytes);
    reader.set_position(MAGIC.len() as u64);
    let _protocol = unpickle(&mut reader)?;
    let _machine = unpickle(&mut reader)?;
    let infos = tensor_infos(unpickle(&mut reader)?, key)?;
    let Object::List(keys) = unpickle(&mut reader)? else {
        bail!("no list of storages after the dictionary");
    };
    // The size of an element is known from the tensors alone.
    let sizes: HashMap<&str, usize> = infos
        .iter()
        .map(|info| (storage(info), info.dtype.size_in_bytes()))
        .collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Ok(key) = key.unicode() else {
            bail!("a storage whose key is no text");
        };
        let mut count = [0; 8];
        reader.read_exact(&mut count)?;
        let Some(size) = sizes.get(key.as_str()) else {
            bail!("storage {key} belongs to no tensor");
        };
        let length = usize::try_from(u64::from_le_bytes(count))
            .ok()
            .and_then(|count| count.checked_mul(*size));
        let rest = &reader.get_ref()[reader.position() as usize..];
        let Some(data) = length.and_then(|length| rest.get(..length)) else {
            bail!("the file ends inside storage {key}");
        };
        reader.set_position(reader.position() + data.len() as u64);
        storages.insert(key, data);
    }
    infos
        .iter()
        .map(|info| Ok((info.name.clone(), tensor(info, &storages)?)))
        .collect()
}

fn unpickle(reader: &mut impl BufRead) -> Result<Object> {
    let mut stack = Stack::empty();
    stack.read_loop(reader)?;
    stack.finalize()
}

fn tensor_infos(object: Object, key: Option<&str>) -> Result<Vec<TensorInfo>> {
    let entries = |object: Object| match object {
        Object::Dict(entries) => entries,
        // An ordered dictionary with attributes of its own.
        Object::Build { callable, .. } => match *callable {
            Object::Dict(entries) => entries,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let mut found = entries(object);
    if let Some(key) = key {
        let inner = found
            .into_iter()
            .find(|(name, _)| *name == Object::Unicode(key.to_string()));
        found = inner.map_or_else(Vec::new, |(_, object)| entries(object));
    }
    let mut infos = Vec::new();
    for (name, value) in found {
        infos.extend(value.into_tensor_info(name, Path::new(""))?);
    }
    Ok(infos)
}

fn storage(info: &TensorInfo) -> &str {
    info.path.trim_start_matches('/')
}

fn tensor(info: &TensorInfo, storages: &HashMap<String, &[u8]>) -> Result<Tensor> {
    let layout = &info.layout;
    let start = layout.start_offset();
    let sides = layout.dims().iter().copied();
    let length = sides
        .chain([info.dtype.size_in_bytes()])
        .try_fold(1usize, usize::checked_mul);
    let end = length.and_then(|length| start.checked_add(length));
    let data = storages
        .get(storage(info))
        .and_then(|data| data.get(start..end?));
    let Some(data) = data else {
        bail!("{} reaches beyond its storage", info.name);
    };
    let dims = layout.dims();
    if layout.is_contiguous() {
        return Tensor::from_raw_buffer(data, info.dtype, dims, &Device::Cpu);
    }
    if !layout.is_fortran_contiguous() {
        bail!("{} is a strided view, which is not supported", info.name);
    }
    let reversed: Vec<usize> = dims.iter().rev().copied().collect();
    let axes: Vec<usize> = (0..dims.len()).rev().collect();
    Tensor::from_raw_buffer(data, info.dtype, &reversed, &Device::Cpu)?
        .permute(axes)?
        .contiguous()
}
