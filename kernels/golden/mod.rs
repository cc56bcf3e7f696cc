//! Reads the golden values beside this file, which `make.py` made with gguf and torch. Tests alone use it.

/// What gguf says bytes mean: for each format a record of bytes, then one of values.
pub(crate) const QUANT: &[u8] = include_bytes!("quant.bin");
/// What torch computes.
pub(crate) const OPS: &[u8] = include_bytes!("ops.bin");

/// The records of a file: name and data.
pub(crate) fn records(mut file: &'static [u8]) -> Vec<(&'static str, &'static [u8])> {
    let mut out = Vec::new();
    while let Some((head, rest)) = file.split_first_chunk::<20>() {
        let name = std::str::from_utf8(&head[..16]).unwrap().trim_end_matches('\0');
        let (data, rest) = rest.split_at(u32::from_le_bytes([head[16], head[17], head[18], head[19]]) as usize);
        out.push((name, data));
        file = rest;
    }
    out
}

/// The f32 values of a record's data.
pub(crate) fn floats(data: &[u8]) -> Vec<f32> {
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The record `name` of `OPS`.
pub(crate) fn op(name: &str) -> Vec<f32> {
    let all = records(OPS);
    floats(all.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no golden record {name}")).1)
}
