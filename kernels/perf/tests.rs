//! Every case runs, is near the reference, and its figures fit together. Times are not asserted.
use super::*;

fn measured(only: &str) -> Vec<Measurement> {
    let options = Options { threads: 2, only: only.to_owned(), seconds: 0.001 };
    let ceilings = Ceilings {
        read_gb_s: 10.0,
        copy_gb_s: 10.0,
        f32_gflop_s: 100.0,
        bf16_gflop_s: 100.0,
        int8_gop_s: 100.0,
        dispatch_s: 1e-6,
    };
    let mut all = Vec::new();
    cases(&options, ceilings, &mut |m| all.push(m)).unwrap();
    assert!(all.iter().all(|m| format!("{} {}", m.name, m.shape).contains(only)), "{all:?}");
    all
}

#[test]
fn each_operation_is_measured_and_near_the_reference() {
    let mut names = std::collections::BTreeSet::new();
    for only in [
        "Q4_1 8 x",
        "BF16 1 x",
        "norm ",
        "gated",
        "embed",
        "logits Q8_0 1 x",
        "sample top-p 1 ",
        "1 at 128, 9/3",
        "rope_store_kv 1 x 1, 16",
    ] {
        let all = measured(only);
        assert!(!all.is_empty(), "no case has '{only}'");
        for m in all {
            assert!(m.ms > 0.0 && m.gb_s > 0.0 && m.copy_ms > 0.0 && m.percent_of_ceiling > 0.0, "{m:?}");
            assert!(m.max_error.is_none_or(|error| error < 0.03), "{m:?}");
            names.insert(m.name);
        }
    }
    let due = [
        "attend",
        "embed",
        "gated",
        "logits",
        "matmul_reduce_add",
        "moe",
        "norm",
        "norm_matmul",
        "rope_store_kv",
        "sample",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), due);
}

#[test]
fn ceilings_are_what_a_machine_could_have() {
    let mut cpu = Cpu::made(2, KvFormat::F32).unwrap();
    let found = cpu.ceilings().unwrap();
    let sane = |x: f64, most: f64| x.is_finite() && x > 0.0 && x < most;
    assert!(sane(found.read_gb_s, 1e4) && sane(found.copy_gb_s, 1e4), "{found:?}");
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
        assert!(sane(found.peak(arithmetic), 1e6), "{found:?}");
    }
    assert!(sane(found.dispatch_s, 1.0), "{found:?}");
}

#[test]
fn an_error_that_is_no_number_is_not_hidden() {
    let (bad, good) = ([1.0, f32::NAN, 2.0], [1.0, 1.0, 2.0]);
    assert_eq!(bench::error([(&bad[..], &good[..])].into_iter()), f64::INFINITY);
    assert_eq!(bench::error([(&[1.0, 3.0][..], &[1.0, 4.0][..])].into_iter()), 0.25);
}
