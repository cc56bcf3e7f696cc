//! Every format against the golden vectors that gguf's own implementation made.
use super::*;
use crate::golden;

#[test]
fn every_format_means_what_gguf_says() {
    let records = golden::records(golden::QUANT);
    assert_eq!(records.len(), 22);
    for pair in records.chunks(2) {
        let ((name, raw), (_, expected)) = (pair[0], pair[1]);
        let dtype = (0..64).filter_map(DType::from_ggml).find(|d| d.name() == name).expect("a known format");
        let expected = golden::floats(expected);
        let mut got = vec![f32::NAN; expected.len()];
        dequantize_row(dtype, raw, &mut got);
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            // Equal, not close: signs of zero apart, the formula and its order of rounding are the format's.
            assert!(got == expected, "{name}[{i}]: {got} is not {expected}");
        }
    }
}

#[test]
fn ids_and_names_are_one_to_one() {
    let known: Vec<_> = (0..1000).filter_map(DType::from_ggml).collect();
    assert_eq!(known.len(), 11);
    let names: std::collections::HashSet<_> = known.iter().map(|d| d.to_string()).collect();
    assert_eq!(names.len(), 11);
    assert_eq!(DType::from_ggml(3), Some(DType::Q4_1));
    assert_eq!(DType::from_ggml(4), None);
}

#[test]
fn a_row_is_whole_blocks_and_its_size_does_not_overflow() {
    assert_eq!(DType::Q4_1.row_bytes(576), Some(360));
    assert_eq!(DType::Q4_1.row_bytes(33), None);
    assert_eq!(DType::Q4_K.row_bytes(128), None);
    assert_eq!(DType::F32.row_bytes(usize::MAX), None);
}

#[test]
#[should_panic(expected = "bytes of 32 elements of Q8_0")]
fn a_short_row_is_a_programmers_error() {
    dequantize_row(DType::Q8_0, &[0; 33], &mut [0.0; 32]);
}
