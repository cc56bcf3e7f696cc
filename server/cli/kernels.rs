//! `minisgl kernels bench`: every operation of the CPU device, as a table or as JSON lines.
use std::process::ExitCode;

use minisgl_config::KernelsBenchArgs;
use minisgl_kernels::perf::{Arithmetic, Machine, Measurement, Options, run};
use serde_json::json;

use super::Outcome;

pub(crate) fn bench(args: &KernelsBenchArgs) -> Outcome {
    let options = Options { threads: args.threads, only: args.only.clone(), seconds: args.seconds };
    let mut cases = 0;
    let started = |machine: &Machine| if args.json { ceilings_json(machine) } else { heading(machine) };
    run(&options, started, &mut |measurement| {
        cases += 1;
        if args.json { line_json(&measurement) } else { line(&measurement) }
    })?;
    if cases == 0 {
        return Err(
            format!("--only {}: no case's name and shape contain that; without it all are run", args.only).into()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn heading(Machine { device, ceilings }: &Machine) {
    say!("{device}");
    say!(
        "ceilings: read {:.1} GB/s, copy {:.1} GB/s; f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s, int8 {:.0} GOP/s; \
         {:.1} us to hand out work and wait",
        ceilings.read_gb_s,
        ceilings.copy_gb_s,
        ceilings.peak(Arithmetic::F32),
        ceilings.peak(Arithmetic::Bf16),
        ceilings.peak(Arithmetic::Int8),
        ceilings.dispatch_s * 1e6
    );
    say!(
        "{:<18} {:<50} {:>9} {:>8} {:>8} {:>15} {:>9} {:>9}",
        "operation",
        "shape",
        "ms",
        "GB/s",
        "GFLOP/s",
        "% of ceiling",
        "copy ms",
        "error"
    );
}

fn line(m: &Measurement) {
    let error = m.max_error.map_or("–".to_owned(), |error| format!("{error:.1e}"));
    say!(
        "{:<18} {:<50} {:>9.4} {:>8.2} {:>8.2} {:>8.1} {:<6} {:>9.4} {:>9}",
        m.name,
        m.shape,
        m.ms,
        m.gb_s,
        m.gflop_s,
        m.percent_of_ceiling,
        m.bound.name(),
        m.copy_ms,
        error
    );
}

/// The ceilings as lines of the same fields, so that a reader needs to know one form.
fn ceilings_json(Machine { device, ceilings }: &Machine) {
    let line = |shape: &str, gb_s: Option<f64>, gflop_s: Option<f64>, ms: Option<f64>| {
        say!(
            "{}",
            json!({
                "name": "ceiling", "shape": shape, "device": device, "ms": ms, "gb_s": gb_s, "gflop_s": gflop_s,
                "percent_of_ceiling": 100.0, "bound": shape, "copy_ms": null, "max_error": null,
            })
        );
    };
    line("memory", Some(ceilings.read_gb_s), None, None);
    line("copy", Some(ceilings.copy_gb_s), None, None);
    line("f32", None, Some(ceilings.f32_gflop_s), None);
    line("bf16", None, Some(ceilings.bf16_gflop_s), None);
    line("int8", None, Some(ceilings.int8_gop_s), None);
    line("dispatch", None, None, Some(ceilings.dispatch_s * 1e3));
}

fn line_json(m: &Measurement) {
    say!(
        "{}",
        json!({
            "name": m.name, "shape": m.shape, "ms": m.ms, "gb_s": m.gb_s, "gflop_s": m.gflop_s,
            "percent_of_ceiling": m.percent_of_ceiling, "bound": m.bound.name(), "copy_ms": m.copy_ms,
            "max_error": m.max_error,
        })
    );
}
