//! A checkpoint's tensors into what one rank keeps: checked, cut to its shard, copied once, still in their stored format.
use crate::collective;
use crate::device::{DeviceError, Shard, TensorView};
use crate::dtype::{DType, dequantize_row};

/// A matrix, or one rank's part of it, as stored, within the checkpoint's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartView<'a> {
    /// Format of every element.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// From the first row on.
    data: &'a [u8],
    /// Bytes from a row to the next.
    stride: usize,
    /// Bytes of a row that this part has.
    row_bytes: usize,
}

impl<'a> PartView<'a> {
    /// The bytes of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.stride..][..self.row_bytes]
    }
}

/// A matrix, or one rank's part of it, as stored, copied.
#[derive(Debug)]
pub(crate) struct Part {
    /// Format of every element.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Bytes a row.
    row_bytes: usize,
    /// `rows * row_bytes`
    data: Vec<u8>,
}

impl Part {
    /// The bytes of a row.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }
}

/// The parts of matrices to be stacked along their rows. They may be of several formats, and have the same columns.
pub(crate) fn views<'a>(parts: &[TensorView<'a>], shard: Shard) -> Result<Vec<PartView<'a>>, DeviceError> {
    assert!(!parts.is_empty(), "a weight of no tensors");
    let mut stacked: Vec<PartView<'a>> = Vec::with_capacity(parts.len());
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

/// [`views`], copied.
pub(crate) fn stack(parts: &[TensorView<'_>], shard: Shard) -> Result<Vec<Part>, DeviceError> {
    let copied = |part: &PartView<'_>| {
        let bytes = part.rows * part.row_bytes;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|_| DeviceError::Memory { what: "weights", bytes })?;
        (0..part.rows).for_each(|row| data.extend_from_slice(part.row(row)));
        let PartView { dtype, rows, columns, row_bytes, .. } = *part;
        Ok(Part { dtype, rows, columns, row_bytes, data })
    };
    views(parts, shard)?.iter().map(copied).collect()
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
            Shard::Rows { rank, of } => share(view, len, rank, of)?,
            Shard::Columns { .. } => return Err(bad(view, "a vector has no columns to cut".into())),
        };
        let mut whole = vec![0.0; len];
        dequantize_row(view.dtype, view.data, &mut whole);
        values.extend_from_slice(&whole[at..at + keep]);
    }
    Ok(values)
}

/// What the shard keeps of one matrix.
fn cut<'a>(view: &TensorView<'a>, shard: Shard) -> Result<PartView<'a>, DeviceError> {
    let &[rows, columns] = view.shape else {
        return Err(bad(view, format!("shape {:?}, a matrix has two dimensions", view.shape)));
    };
    let stride = check_data(view, rows, columns)?;
    let (dtype, data) = (view.dtype, view.data);
    match shard {
        Shard::Whole => Ok(PartView { dtype, rows, columns, data, stride, row_bytes: stride }),
        Shard::Rows { rank, of } => {
            let (at, rows) = share(view, rows, rank, of)?;
            Ok(PartView { dtype, rows, columns, data: &data[at * stride..], stride, row_bytes: stride })
        }
        Shard::Columns { rank, of } => {
            if !columns.is_multiple_of(of) {
                return Err(bad(view, format!("{columns} columns do not divide among {of} ranks")));
            }
            let (at, columns) = share(view, columns, rank, of)?;
            let (Some(at), Some(row_bytes)) = (dtype.row_bytes(at), dtype.row_bytes(columns)) else {
                let why = format!(
                    "{columns} columns a rank (of {of}) cut inside a block of {} elements of {dtype}",
                    dtype.block_len()
                );
                return Err(bad(view, why));
            };
            Ok(PartView { dtype, rows, columns, data: &data[at..], stride, row_bytes })
        }
    }
}

/// Where a rank's share starts and how long it is.
fn share(view: &TensorView<'_>, whole: usize, rank: usize, of: usize) -> Result<(usize, usize), DeviceError> {
    let share = collective::share(whole, rank, of);
    match share.len() {
        0 => Err(bad(view, format!("shape {:?} has nothing for rank {rank} of {of}", view.shape))),
        len => Ok((share.start, len)),
    }
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
        let rows = |rank| stack(&[view(DType::F32, &[4, 6], &bytes)], Shard::Rows { rank, of: 3 }).unwrap().remove(0);
        assert_eq!([0, 1, 2].map(|rank| rows(rank).rows), [1, 1, 2], "a vocabulary need not divide");
        assert_eq!(rows(2).row(0), &bytes[2 * 24..3 * 24]);
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
        assert!(said(std::slice::from_ref(&q), Shard::Columns { rank: 0, of: 5 }).contains("do not divide"));
        assert!(said(std::slice::from_ref(&q), Shard::Rows { rank: 0, of: 4 }).contains("nothing for rank 0 of 4"));
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
