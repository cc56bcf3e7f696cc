//! Whether two points' runs had the same workload.
//!
//! Owns which of what is recorded makes a workload, and how a difference is said. The digest decides where both have one;
//! what else is recorded says in which way they differ, and decides where there is no digest (records alone, older files).
use crate::report::About;
use crate::report::data::RunData;

/// In which ways the workloads differ; none where they do not, as far as is recorded. Runs are compared repeat by repeat:
/// two repeats of one command have different arrivals.
pub(super) fn difference(a: &[&RunData], b: &[&RunData]) -> Option<String> {
    let pairs = a.iter().filter_map(|a| {
        let other = b.iter().find(|b| b.report.about.repeat == a.report.about.repeat)?;
        Some((*a, *other))
    });
    // Where no repeat is on both sides, the first runs stand for all.
    let first = a.first().zip(b.first()).map(|(a, b)| (*a, *b));
    let pairs: Vec<_> = pairs.collect();
    let mut pairs = if pairs.is_empty() { first.into_iter().collect() } else { pairs };
    pairs.retain(|(a, b)| !same_digest(&a.report.about, &b.report.about));
    let (a, b) = *pairs.first()?;
    let known = known(a, b);
    match (known.is_empty(), digests(&a.report.about, &b.report.about)) {
        (false, _) => Some(known.join(", ")),
        (true, Some(_)) => Some("the requests, their lengths or their times differ (workload_digest)".to_owned()),
        (true, None) => None,
    }
}

fn digests<'a>(a: &'a About, b: &'a About) -> Option<[&'a str; 2]> {
    Some([a.workload_digest.as_deref()?, b.workload_digest.as_deref()?])
}

fn same_digest(a: &About, b: &About) -> bool {
    digests(a, b).is_some_and(|[a, b]| a == b)
}

/// What is recorded of the workload on both sides and is not the same.
fn known(a: &RunData, b: &RunData) -> Vec<String> {
    let (of_a, of_b) = (&a.report.about, &b.report.about);
    let mut all = Vec::new();
    let mut add = |what: &str, a: String, b: String| {
        if a != b {
            all.push(format!("{what} {a} against {b}"));
        }
    };
    // An interrupted run's plan had those that were never sent, too.
    let requests = |run: &RunData| run.report.requests + run.report.interrupted.map_or(0, |left| left.unsent);
    add("requests", requests(a).to_string(), requests(b).to_string());
    let written = |text: &str| format!("`{text}`");
    let short = |sha: &Option<String>| sha.as_deref().map(|sha| sha.chars().take(12).collect::<String>());
    if let (Some(a), Some(b)) = (short(&of_a.trace_sha256), short(&of_b.trace_sha256)) {
        add("trace SHA-256", a, b);
    }
    // Records alone say neither.
    if !of_a.endpoint.is_empty() && !of_b.endpoint.is_empty() {
        add("workload", written(&of_a.workload), written(&of_b.workload));
        add("prompts", written(&of_a.prompts), written(&of_b.prompts));
        add("endpoint", of_a.endpoint.clone(), of_b.endpoint.clone());
        add("seed", of_a.seed.to_string(), of_b.seed.to_string());
        let number = |value: Option<f64>| value.map_or("none".to_owned(), |value| value.to_string());
        add("time scale", number(of_a.time_scale), number(of_b.time_scale));
        add("requests/s", number(of_a.rate), number(of_b.rate));
        add("ramp in s", number(of_a.ramp_s), number(of_b.ramp_s));
        let words = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        add("arrivals", words(&of_a.arrival), words(&of_b.arrival));
        let places = |value: Option<u64>| value.map_or("none".to_owned(), |value| value.to_string());
        add("concurrency", places(of_a.concurrency), places(of_b.concurrency));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::RunReport;

    fn run(requests: u64, digest: Option<&str>, about: About) -> RunData {
        let about = About { workload_digest: digest.map(str::to_owned), endpoint: "chat".to_owned(), ..about };
        RunData { report: RunReport { requests, about, ..RunReport::default() }, ..RunData::default() }
    }

    #[test]
    fn a_difference_is_named_by_what_is_recorded() {
        let same = run(10, Some("aa"), About::default());
        assert_eq!(difference(&[&same], &[&same]), None);
        let fewer = run(5, Some("bb"), About { trace_sha256: Some("1".to_owned()), ..About::default() });
        assert_eq!(difference(&[&same], &[&fewer]).unwrap(), "requests 10 against 5");
        let seeded = run(10, Some("cc"), About { seed: 3, ..About::default() });
        assert_eq!(difference(&[&same], &[&seeded]).unwrap(), "seed 0 against 3");
        // Only the digest knows that lengths differ.
        let other = run(10, Some("dd"), About::default());
        assert!(difference(&[&same], &[&other]).unwrap().contains("workload_digest"));
        // Without a digest, what is recorded decides.
        let (old, older) = (run(10, None, About::default()), run(9, None, About::default()));
        assert_eq!((difference(&[&old], &[&old]), difference(&[&same], &[&old])), (None, None));
        assert_eq!(difference(&[&old], &[&older]).unwrap(), "requests 10 against 9");
    }

    #[test]
    fn repeats_are_held_against_their_like() {
        let of = |repeat, digest| run(10, Some(digest), About { repeat, ..About::default() });
        let (one, two) = (of(1, "aa"), of(2, "bb"));
        assert_eq!(difference(&[&one, &two], &[&two, &one]), None);
        assert!(difference(&[&one, &two], &[&one, &of(2, "cc")]).is_some());
        // The one that both have is the same, whatever else A has.
        assert_eq!(difference(&[&one, &two], &[&one]), None);
    }
}
