//! A checkpoint's tensors into what one rank keeps: checked, cut to its shard, copied once, still in their stored format.
use crate::device::{DeviceError, Shard, TensorView};
use crate::dtype::{DType, dequantize_row};

/// A matrix, or one rank's part of it, as stored.
#[derive(Debug)]
pub(crate) struct Part {
    /// Format of every element.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Bytes a row.
    pub row_bytes: usize,
    /// `rows * row_bytes`
    pub data: Vec<u8>,
}

impl Part {
    /// The bytes of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }
}

/// The parts of matrices to be stacked along their rows. They may be of several formats, and have the same columns.
pub(crate) fn stack(parts: &[TensorView<'_>], shard: Shard) -> Result<Vec<Part>, DeviceError> {
    assert!(!parts.is_empty(), "a weight of no tensors");
    let mut stacked: Vec<Part> = Vec::with_capacity(parts.len());
    for view in parts {
        let part = cut(view, shard)?;
        if let Some(first) = stacked.first().map(|first| first.columns)
            && first != part.columns
        {
            let why = format!("{} columns, but it is stacked on '{}' of {first}", part.columns, parts[0].name);
            return Err(bad(view, why));
        }
        stacked.push(part);
    }
    Ok(stacked)
}

/// The values of vectors, one after the other.
pub(crate) fn stack_vectors(parts: &[TensorView<'_>], shard: Shard) -> Result<Vec<f32>, DeviceError> {
    let mut values = Vec::new();
    for view in parts {
        let &[len] = view.shape else {
            return Err(bad(view, format!("shape {:?}, a vector has one dimension", view.shape)));
        };
        check_data(view, 1, len)?;
        let (at, keep) = match shard {
            Shard::Whole => (0, len),
            Shard::Rows { rank, of } => share(view, len, rank, of, "elements")?,
            Shard::Columns { .. } => return Err(bad(view, "a vector has no columns to cut".into())),
        };
        let mut whole = vec![0.0; len];
        dequantize_row(view.dtype, view.data, &mut whole);
        values.extend_from_slice(&whole[at..at + keep]);
    }
    Ok(values)
}

/// What the shard keeps of one matrix.
fn cut(view: &TensorView<'_>, shard: Shard) -> Result<Part, DeviceError> {
    let &[rows, columns] = view.shape else {
        return Err(bad(view, format!("shape {:?}, a matrix has two dimensions", view.shape)));
    };
    let row_bytes = check_data(view, rows, columns)?;
    let dtype = view.dtype;
    match shard {
        Shard::Whole => Ok(Part { dtype, rows, columns, row_bytes, data: copy(&[view.data])? }),
        Shard::Rows { rank, of } => {
            let (at, rows) = share(view, rows, rank, of, "rows")?;
            let data = copy(&[&view.data[at * row_bytes..][..rows * row_bytes]])?;
            Ok(Part { dtype, rows, columns, row_bytes, data })
        }
        Shard::Columns { rank, of } => {
            let (at, columns) = share(view, columns, rank, of, "columns")?;
            let (Some(at), Some(bytes)) = (dtype.row_bytes(at), dtype.row_bytes(columns)) else {
                let why = format!(
                    "{columns} columns a rank (of {of}) cut inside a block of {} elements of {dtype}",
                    dtype.block_len()
                );
                return Err(bad(view, why));
            };
            let slices: Vec<&[u8]> = view.data.chunks_exact(row_bytes).map(|row| &row[at..at + bytes]).collect();
            Ok(Part { dtype, rows, columns, row_bytes: bytes, data: copy(&slices)? })
        }
    }
}

/// Where a rank's share starts and how long it is.
fn share(
    view: &TensorView<'_>,
    whole: usize,
    rank: usize,
    of: usize,
    what: &str,
) -> Result<(usize, usize), DeviceError> {
    assert!(rank < of, "rank {rank} of {of}");
    if !whole.is_multiple_of(of) {
        return Err(bad(view, format!("{whole} {what} do not divide among {of} ranks")));
    }
    Ok((rank * (whole / of), whole / of))
}

/// Bytes a row, where the data are as long as the shape says and nothing is empty.
fn check_data(view: &TensorView<'_>, rows: usize, columns: usize) -> Result<usize, DeviceError> {
    let Some(row_bytes) = view.dtype.row_bytes(columns) else {
        let why = format!("{columns} columns are not whole blocks of {} of {}", view.dtype.block_len(), view.dtype);
        return Err(bad(view, why));
    };
    if rows == 0 || columns == 0 {
        return Err(bad(view, format!("shape {:?} is empty", view.shape)));
    }
    if row_bytes.checked_mul(rows) != Some(view.data.len()) {
        let why = format!(
            "{} bytes, but shape {:?} of {} takes {} rows of {row_bytes}",
            view.data.len(),
            view.shape,
            view.dtype,
            rows
        );
        return Err(bad(view, why));
    }
    Ok(row_bytes)
}

fn copy(slices: &[&[u8]]) -> Result<Vec<u8>, DeviceError> {
    let bytes = slices.iter().map(|s| s.len()).sum();
    let mut data = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| DeviceError::Memory { what: "weights", bytes })?;
    slices.iter().for_each(|slice| data.extend_from_slice(slice));
    Ok(data)
}

fn bad(view: &TensorView<'_>, why: String) -> DeviceError {
    DeviceError::Tensor { name: view.name.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(dtype: DType, shape: &'a [usize], data: &'a [u8]) -> TensorView<'a> {
        TensorView { name: "blk.0.w", dtype, shape, data }
    }

    #[test]
    fn rows_and_columns_are_cut_per_part() {
        let bytes: Vec<u8> = (0..4 * 6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let part = view(DType::F32, &[4, 6], &bytes);
        let rows = stack(&[part.clone(), part.clone()], Shard::Rows { rank: 1, of: 2 }).unwrap();
        assert_eq!(rows.iter().map(|p| (p.rows, p.columns)).collect::<Vec<_>>(), [(2, 6), (2, 6)]);
        assert_eq!(rows[0].row(0), &bytes[2 * 24..3 * 24]);
        let columns = stack(&[part], Shard::Columns { rank: 2, of: 3 }).unwrap();
        assert_eq!((columns[0].rows, columns[0].columns), (4, 2));
        assert_eq!(columns[0].row(3), &bytes[3 * 24 + 16..4 * 24]);
        let vector = view(DType::F32, &[24], &bytes);
        let third = stack_vectors(&[vector.clone(), vector], Shard::Rows { rank: 1, of: 3 }).unwrap();
        assert_eq!(third[..9], [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 8.0]);
    }

    #[test]
    fn errors_name_the_tensor_and_what_would_be_right() {
        let data = vec![0u8; 20 * 6];
        let q = view(DType::Q4_1, &[2, 96], &data);
        let said = |parts: &[TensorView<'_>], shard| stack(parts, shard).unwrap_err().to_string();
        let cut = said(std::slice::from_ref(&q), Shard::Columns { rank: 0, of: 2 });
        assert!(cut.contains("blk.0.w") && cut.contains("inside a block of 32"), "{cut}");
        assert!(said(std::slice::from_ref(&q), Shard::Rows { rank: 0, of: 4 }).contains("do not divide"));
        assert!(said(&[view(DType::Q4_1, &[2, 95], &data)], Shard::Whole).contains("whole blocks"));
        assert!(said(&[view(DType::Q4_1, &[3, 96], &data)], Shard::Whole).contains("120 bytes"));
        assert!(said(&[view(DType::Q4_1, &[192], &data)], Shard::Whole).contains("two dimensions"));
        assert!(said(&[view(DType::F32, &[0, 4], &[])], Shard::Whole).contains("empty"));
        assert!(said(&[view(DType::F32, &[usize::MAX, 4], &data)], Shard::Whole).contains("120 bytes"));
        assert!(said(&[q.clone(), view(DType::Q4_1, &[6, 32], &data)], Shard::Whole).contains("stacked on"));
        let vector = stack_vectors(&[view(DType::F32, &[30], &data)], Shard::Columns { rank: 0, of: 2 });
        assert!(vector.unwrap_err().to_string().contains("no columns"));
    }
}
