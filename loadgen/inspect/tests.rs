//! Figures worked by hand, and a page that shows every plot.
use super::*;
use crate::traces::read;

fn inspected(text: &str) -> (Trace, Inspection) {
    let trace = read("t.jsonl", text.as_bytes(), None).unwrap();
    let inspection = Inspection::of(&trace, &[100, 1000]);
    (trace, inspection)
}

fn qwen(requests: &[(u32, i32, f64, u32, usize, &str)]) -> String {
    let line = |&(chat, parent, time, turn, input, ids): &(u32, i32, f64, u32, usize, &str)| {
        format!(
            "{{\"chat_id\": {chat}, \"parent_chat_id\": {parent}, \"timestamp\": {time}, \"input_length\": {input}, \
             \"output_length\": 20, \"type\": \"text\", \"turn\": {turn}, \"hash_ids\": [{ids}]}}\n"
        )
    };
    requests.iter().map(line).collect()
}

#[test]
fn figures_worked_by_hand() {
    let (_, of) = inspected(&qwen(&[
        (1, -1, 10.0, 1, 32, "1, 2"),
        (2, 1, 10.5, 2, 48, "1, 2, 3"),
        (3, 2, 12.0, 3, 96, "1, 2, 3, 4, 5, 6"),
        (4, 99, 14.0, 5, 16, "7, 8"),
    ]));
    assert_eq!((of.requests, of.failed, of.span_s, of.format.as_str()), (4, 0, Some(4.0), "Qwen-Bailian JSONL"));
    let arrivals = of.arrivals.unwrap();
    assert_eq!((arrivals.rate_per_s, arrivals.per_minute), (0.75, None));
    // Gaps 0.5, 1.5, 2 about 4/3; the whole seconds hold 2, 0, 1 and 0 requests.
    assert!((arrivals.gap_cv - (7.0f64 / 18.0).sqrt() / (4.0 / 3.0)).abs() < 1e-12);
    assert_eq!(arrivals.per_second, Counts { peak: 2, mean: 0.75, dispersion: (5.0 / 4.0 - 0.5625) / 0.75 });
    let input = of.input_tokens.unwrap();
    assert_eq!((input.n, input.total, input.min, input.p50, input.p90, input.max), (4, 192, 16, 32, 96, 96));
    let turns = of.turns.unwrap();
    assert_eq!((turns.chats, turns.follow_ups, turns.without_parent, turns.turns_a_chat.max), (2, 2, 1, 3));
    let prefix = of.prefix.unwrap();
    assert_eq!((prefix.ids, prefix.distinct_ids, prefix.length_mismatch), (13, 8, 1));
    // 32 of the second prompt and 48 of the third.
    assert_eq!((prefix.ideal_hit_rate, prefix.ideal_hit_rate_page_16), (80.0 / 192.0, 80.0 / 192.0));
    assert_eq!(of.above_context, [(100, 0.25), (1000, 0.0)]);
}

#[test]
fn what_a_trace_does_not_say_is_not_made_up() {
    let (trace, of) = inspected(
        r#"[{"conversations": [{"from": "human", "value": "né"}, {"from": "gpt", "value": "A"}]}, {"conversations": []}]"#,
    );
    assert_eq!((of.span_s, of.arrivals.clone(), of.input_tokens, of.prefix, of.skipped), (None, None, None, None, 1));
    assert_eq!((of.prompt_chars.unwrap().max, of.turns.unwrap().chats), (2, 1));
    assert!(of.above_context.is_empty());
    let text = of.to_string();
    for said in ["no times in this format", "no hash ids", "1 chats without an answered question"] {
        assert!(text.contains(said), "{text}");
    }
    let page = html::page(&trace, &of);
    assert!(page.contains("nothing to draw"));

    let (_, failed) = inspected("Timestamp,Request tokens,Response tokens\n1,5,0\n1,50,7\n");
    assert_eq!((failed.failed, failed.arrivals.clone(), failed.input_tokens.unwrap().n), (1, None, 1));
    assert!(failed.to_string().contains("2, 1 recorded as failed (not replayed)"), "{failed}");
}

#[test]
fn two_requests_centuries_apart_are_counted_without_a_window_each() {
    let (_, of) = inspected("Timestamp,Request tokens,Response tokens\n0,5,1\n9999999999,50,7\n");
    let arrivals = of.arrivals.unwrap();
    assert_eq!((arrivals.per_second.peak, arrivals.per_minute.unwrap().peak), (1, 1));
}

#[test]
fn the_shipped_trace_has_every_plot_and_its_json_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    let options = InspectOptions { html: Some(path.clone()), ..InspectOptions::of(TraceSource::Shipped) };
    let of = inspect(&options, ConsoleOptions::silent()).unwrap();
    assert!(of.prefix.unwrap().ideal_hit_rate > 0.1);
    let page = std::fs::read_to_string(&path).unwrap();
    for id in ["arrivals", "gaps", "input-lengths", "output-lengths", "input-output", "turns", "hit-rate"] {
        let figure = page.split(&format!("<figure id=\"{id}\"")).nth(1).and_then(|rest| rest.split("</figure>").next());
        assert!(figure.unwrap().contains("<svg"), "{id}");
    }
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));
    let json = serde_json::to_value(&of).unwrap();
    assert_eq!((&json["requests"], &json["turns"]["turns_a_chat"]["n"]), (&32.into(), &json["turns"]["chats"]));

    let nowhere = InspectOptions { html: Some("/nonexistent/x.html".into()), ..options };
    let error = inspect(&nowhere, ConsoleOptions::silent()).unwrap_err().to_string();
    assert!(error.contains("--html /nonexistent/x.html: cannot write it"), "{error}");
}
