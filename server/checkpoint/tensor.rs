//! A tensor as a checkpoint lends it.
use std::borrow::Cow;
use std::ops::Range;

use minisgl_kernels::{DType, TensorView};

/// A tensor of a checkpoint: a view of the mapped file, or values made up for `--dummy-weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Its name, as it was asked for.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Rows first: `[rows, columns]` of a matrix, `[n]` of a vector.
    pub shape: Vec<usize>,
    /// Exactly the bytes that `dtype` and `shape` need.
    pub data: Cow<'a, [u8]>,
}

impl Tensor<'_> {
    /// What a device loads.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { name: &self.name, dtype: self.dtype, shape: &self.shape, data: &self.data }
    }

    /// Some of its rows: of a matrix, or of a vector of numbers that are not in blocks.
    ///
    /// # Panics
    /// Where there are no such rows, or a vector is in blocks, which may be cut anywhere.
    pub fn rows(&self, rows: Range<usize>) -> Tensor<'_> {
        let all = self.shape[0];
        assert!(rows.end <= all && rows.start <= rows.end, "rows {rows:?} of {all}");
        let bytes = self.data.len() / all;
        assert_eq!(bytes * all, self.data.len(), "'{}' has rows that are not whole blocks", self.name);
        let data = Cow::Borrowed(&self.data[rows.start * bytes..rows.end * bytes]);
        let shape = [&[rows.len()], &self.shape[1..]].concat();
        Tensor { name: self.name.clone(), dtype: self.dtype, shape, data }
    }
}

/// Bytes of a tensor of this type and shape; the error says what does not fit.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize, String> {
    let Some((&columns, rows)) = shape.split_last() else {
        return Err("it has no dimensions".into());
    };
    if shape.contains(&0) {
        return Err(format!("a dimension of {shape:?} is zero"));
    }
    if !columns.is_multiple_of(dtype.block_len()) {
        return Err(format!(
            "rows of {columns} elements are not whole {dtype:?} blocks of {} elements",
            dtype.block_len()
        ));
    }
    let rows = rows.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let bytes = dtype.row_bytes(columns).zip(rows).and_then(|(row, rows)| row.checked_mul(rows));
    bytes.ok_or_else(|| format!("the size of {dtype:?} {shape:?} overflows"))
}

/// Whether a tensor of `found` shape may be used where `expected` is asked for.
pub(crate) fn check_shape(expected: &[usize], found: &[usize]) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("expected shape {expected:?}, found {found:?}")) }
}
