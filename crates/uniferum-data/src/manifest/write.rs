//! Manifests onto disk, as CSV or parquet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use uniferum_ct::replace_atomically;

use super::cells::hu_cells;
use super::{Manifest, Scan};
use crate::error::{Error, Result};

/// A column to write; `None` is a missing value.
enum Values {
    Text(Vec<Option<String>>),
    Bool(Vec<Option<bool>>),
}

impl Manifest {
    /// Writes the manifest, as parquet where the name ends in `.parquet`, else as CSV.
    ///
    /// Paths are written relative to the manifest's folder where the files lie below it. Columns that no
    /// scan has a value for are left out, but for `scan`, `patient`, `split` and `hu_source`. The file
    /// appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Table`] where the file cannot be written or a path is not Unicode.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let folder = std::path::absolute(path).map_err(|e| Error::table(path, None, e))?;
        let folder = folder.parent().unwrap_or(Path::new("/")).to_owned();
        let columns = self.columns(path, &folder)?;
        let parquet = path.extension().is_some_and(|e| e == "parquet");
        write_atomically(path, |file| {
            if parquet {
                write_parquet(file, &columns)
            } else {
                write_csv(file, &columns)
            }
        })
    }

    fn columns(&self, table: &Path, folder: &Path) -> Result<Vec<(String, Values)>> {
        let text = |value: &dyn Fn(&Scan) -> String| -> Vec<Option<String>> {
            let cell = |s| Some(value(s)).filter(|t| !t.is_empty());
            self.scans.iter().map(cell).collect()
        };
        let files = |value: &dyn Fn(&Scan) -> Option<&PathBuf>| -> Result<Vec<Option<String>>> {
            let cell = |s| value(s).map(|p| relative(table, folder, p)).transpose();
            self.scans.iter().map(cell).collect()
        };
        let join = |parts: Vec<String>| parts.join(" ");
        let spacing = |s: &Scan| {
            s.spacing_mm
                .map_or(String::new(), |mm| join(mm.map(|v| v.to_string()).into()))
        };
        let named: Vec<(&str, Vec<Option<String>>)> = vec![
            ("scan", files(&|s| Some(&s.path))?),
            ("mask", files(&|s| s.mask.as_ref())?),
            ("nodules", files(&|s| s.nodules.as_ref())?),
            ("patient", text(&|s| s.patient.clone())),
            ("study", text(&|s| s.study.clone())),
            ("collection", text(&|s| s.collection.clone())),
            ("split", text(&|s| s.split.as_str().to_owned())),
            ("hu_source", text(&|s| hu_cells(s.hu)[0].clone())),
            ("hu_slope", text(&|s| hu_cells(s.hu)[1].clone())),
            ("hu_intercept", text(&|s| hu_cells(s.hu)[2].clone())),
            ("spacing_mm", text(&spacing)),
            (
                "censored",
                text(&|s| join(s.censored.iter().cloned().collect())),
            ),
        ];
        let always = ["scan", "patient", "split", "hu_source"];
        let kept = named
            .into_iter()
            .filter(|(name, cells)| always.contains(name) || cells.iter().any(Option::is_some));
        let mut columns: Vec<(String, Values)> = kept
            .map(|(name, cells)| (name.to_owned(), Values::Text(cells)))
            .collect();
        columns.extend(self.task_ids().into_iter().map(|id| {
            let cells = self.scans.iter().map(|s| s.labels.get(id).copied());
            (id.to_owned(), Values::Bool(cells.collect()))
        }));
        Ok(columns)
    }
}

/// A path as it is written into a table of `folder`.
fn relative(table: &Path, folder: &Path, file: &Path) -> Result<String> {
    let file = std::path::absolute(file).map_err(|e| Error::table(table, None, e))?;
    let short = file.strip_prefix(folder).unwrap_or(&file);
    let text = short.to_str().ok_or_else(|| {
        Error::table(
            table,
            None,
            format!("the path {} is not Unicode", file.display()),
        )
    })?;
    Ok(text.to_owned())
}

type Written = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn write_csv(file: &mut File, columns: &[(String, Values)]) -> Written {
    let mut out = csv::Writer::from_writer(std::io::BufWriter::new(file));
    out.write_record(columns.iter().map(|(name, _)| name))?;
    let rows = columns.first().map_or(0, |(_, v)| v.len());
    for row in 0..rows {
        out.write_record(columns.iter().map(|(_, values)| match values {
            Values::Text(cells) => cells[row].as_deref().unwrap_or(""),
            Values::Bool(cells) => match cells[row] {
                Some(true) => "1",
                Some(false) => "0",
                None => "",
            },
        }))?;
    }
    out.flush()?;
    Ok(())
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Text(cells) => cells.len(),
            Values::Bool(cells) => cells.len(),
        }
    }

    fn parquet_type(&self, name: &str) -> std::result::Result<Type, parquet::errors::ParquetError> {
        let builder = match self {
            Values::Text(_) => Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
                .with_logical_type(Some(LogicalType::String))
                .with_converted_type(ConvertedType::UTF8),
            Values::Bool(_) => Type::primitive_type_builder(name, Physical::BOOLEAN),
        };
        builder.with_repetition(Repetition::OPTIONAL).build()
    }
}

fn write_parquet(file: &mut File, columns: &[(String, Values)]) -> Written {
    let fields: std::result::Result<Vec<_>, _> = columns
        .iter()
        .map(|(name, values)| values.parquet_type(name).map(Arc::new))
        .collect();
    let schema = Type::group_type_builder("manifest")
        .with_fields(fields?)
        .build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (_, values) in columns {
        let mut column = group
            .next_column()?
            .ok_or("a column is missing from the schema")?;
        match values {
            Values::Text(cells) => {
                let present: Vec<ByteArray> =
                    cells.iter().flatten().map(|t| t.as_str().into()).collect();
                let levels = levels(cells);
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&present, Some(&levels), None)?;
            }
            Values::Bool(cells) => {
                let present: Vec<bool> = cells.iter().flatten().copied().collect();
                let levels = levels(cells);
                column
                    .typed::<BoolType>()
                    .write_batch(&present, Some(&levels), None)?;
            }
        }
        column.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// Definition levels: 1 where there is a value.
fn levels<T>(cells: &[Option<T>]) -> Vec<i16> {
    cells.iter().map(|c| i16::from(c.is_some())).collect()
}

/// Writes a file beside its place and moves it there when it is complete.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> Written,
) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Error::table(path, None, e);
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| fail(&e))?;
    }
    let written = replace_atomically(path, ".part", |temporary| {
        write(&mut File::create(temporary)?).map_err(std::io::Error::other)
    });
    written.map_err(|e| fail(&e))
}
