//! What a user would notice of a workload: which requests, how long, when.
use minisgl_config::LengthRange;
use minisgl_config::loadgen::settings::*;
use minisgl_config::loadgen::{SHIPPED_TRACE_NAME, ServerUrl, TraceSource};
use proptest::prelude::*;

use super::*;
use crate::prompts::Wanted;
use crate::prompts::tests::tiny;

fn range(min: usize, max: usize) -> LengthDistribution {
    LengthDistribution::Uniform(LengthRange::new(min, max).unwrap())
}

fn class(name: &str, weight: f64, input: LengthDistribution, output: LengthDistribution) -> LengthClass {
    LengthClass { name: name.into(), weight, input, output }
}

fn drawn(num_requests: Option<usize>) -> LoadgenSettings {
    let mut settings = LoadgenSettings::shipped(ServerUrl::default());
    let mix = vec![class("", 1.0, range(5, 40), range(7, 7))];
    settings.workload.source = Source::Drawn { mix, shared_prefix: None, num_requests };
    settings.points = vec![Load::Closed { concurrency: 3, ramp: Duration::ZERO }];
    settings
}

fn shipped() -> LoadgenSettings {
    LoadgenSettings::shipped(ServerUrl::default())
}

/// A trace of these lines; the folder must outlive it.
fn trace(lines: &str) -> (tempfile::TempDir, LoadgenSettings) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    std::fs::write(&path, lines).unwrap();
    let mut settings = shipped();
    settings.workload.source = Source::Trace { file: TraceSource::File(path), limit: None };
    (folder, settings)
}

fn settled(settings: &LoadgenSettings, max_model_len: Option<usize>) -> Settled {
    let planned = plan(settings, ConsoleOptions::silent()).unwrap();
    planned.settle(&tiny(), max_model_len, ConsoleOptions::silent()).unwrap()
}

fn run(settings: &LoadgenSettings) -> RunPlan {
    settled(settings, None).run(&settings.points[0], 0).unwrap()
}

fn refused(settings: &LoadgenSettings) -> String {
    plan(settings, ConsoleOptions::silent()).err().unwrap().to_string()
}

fn times_ms(plan: &RunPlan) -> Vec<u128> {
    let time = |request: &Request| match request.start {
        Start::At(at) => at.as_millis(),
        other => panic!("{other:?}"),
    };
    plan.requests.iter().map(time).collect()
}

fn inputs(plan: &RunPlan) -> Vec<usize> {
    plan.requests.iter().map(|request| request.lengths.input).collect()
}

#[test]
fn the_shipped_trace_at_each_scale() {
    let mut settings = shipped();
    settings.workload.lengths = LengthRules { output_scale: 0.5, max_input: Some(20), ..LengthRules::default() };
    let workload = settled(&settings, None);
    let of_scale = |scale| workload.run(&Load::TraceTimes { scale }, 0).unwrap();
    let plan = of_scale(0.5);
    assert_eq!((plan.requests.len(), plan.places, plan.until), (32, None, None));
    assert!(plan.requests.iter().all(|r| r.lengths.input <= 20 && (4..=24).contains(&r.lengths.output)));
    let ends = |plan: &RunPlan| (times_ms(plan)[0], times_ms(plan)[31]);
    assert_eq!((ends(&plan), ends(&of_scale(1.0)), ends(&of_scale(0.0))), ((0, 10_000), (0, 20_000), (0, 0)));
    let about = &workload.about;
    assert_eq!(about.name, format!("{SHIPPED_TRACE_NAME}, inputs at most 20, outputs x 0.5"));
    assert!(about.prompts.starts_with("hash: each id is one block of 16 tokens"), "{}", about.prompts);
    let of_trace = about.trace.as_ref().unwrap();
    assert_eq!((of_trace.format.as_str(), of_trace.requests, of_trace.failed), ("Qwen-Bailian JSONL", 32, 0));
    assert_eq!(of_trace.sha256.len(), 64);
    assert!(matches!(&plan.requests[0].prompt, Prompt::Blocks { ids, block_size: 16, .. } if !ids.is_empty()));
}

#[test]
fn only_the_beginning() {
    let mut settings = shipped();
    settings.workload.source = Source::Trace { file: TraceSource::Shipped, limit: Some(5) };
    assert_eq!(run(&settings).requests.len(), 5);
    settings = shipped();
    settings.workload.duration = Some(Duration::from_secs(5));
    let plan = run(&settings);
    assert!(plan.requests.len() < 32 && times_ms(&plan).iter().all(|&at| at <= 5000));
    assert_eq!(plan.until, Some(Duration::from_secs(5)));
}

#[test]
fn the_ideal_hit_rate_is_of_what_is_sent() {
    let line = |at: f64, tokens: usize, ids: &str| {
        format!("{{\"timestamp\":{at},\"input_length\":{tokens},\"output_length\":3,\"hash_ids\":[{ids}]}}\n")
    };
    let (_folder, mut settings) = trace(&(line(0.0, 1024, "1,2") + &line(1.0, 1536, "1,2,3")));
    let rates = |settings: &LoadgenSettings, most| {
        let about = settled(settings, most).about.trace.unwrap();
        (about.ideal_hit_rate, about.ideal_hit_rate_page_16)
    };
    assert_eq!(rates(&settings, None), (Some(1024.0 / 2560.0), Some(1024.0 / 2560.0)));
    settings.workload.lengths.input_scale = 0.1;
    assert_eq!(rates(&settings, None), (Some(102.0 / 256.0), Some(96.0 / 256.0)));
    // What the model cannot hold is not sent, and hits less: 600 + 600 tokens, of which all but the last were there.
    settings.workload.lengths.input_scale = 1.0;
    assert_eq!(rates(&settings, Some(603 + 64)), (Some(599.0 / 1200.0), Some(592.0 / 1200.0)));
    for prompts in [PromptKind::Random, PromptKind::Shared] {
        settings.workload.prompts = Some(prompts);
        assert_eq!(rates(&settings, None), (None, None));
    }
}

#[test]
fn a_trace_at_drawn_times_or_one_at_a_time() {
    let mut settings = shipped();
    let at_own_times = inputs(&run(&settings));
    settings.points = vec![Load::Rate { per_s: 4.0, arrival: Arrival::Constant, ramp: Duration::ZERO }];
    let plan = run(&settings);
    assert_eq!((inputs(&plan), times_ms(&plan)[..4].to_vec()), (at_own_times.clone(), vec![0, 250, 500, 750]));
    settings.points = vec![Load::Closed { concurrency: 1, ramp: Duration::from_secs(1) }];
    let plan = run(&settings);
    assert_eq!(inputs(&plan), at_own_times);
    assert!(plan.requests.iter().all(|request| request.start == Start::WhenFree));
    assert_eq!(plan.places, Some(Places { count: 1, ramp: Duration::from_secs(1) }));
}

#[test]
fn places_open_one_after_another() {
    let places = Places { count: 5, ramp: Duration::from_secs(2) };
    let opens: Vec<u128> = (0..6).map(|place| places.opens(place).as_millis()).collect();
    assert_eq!(opens, [0, 500, 1000, 1500, 2000, 2000]);
    assert_eq!(Places { count: 1, ..places }.opens(0), Duration::ZERO);
}

/// Three turns of one chat and a second chat, then a turn whose history is shorter than what was said.
const CHATS: &str = r#"{"chat_id":1,"parent_chat_id":-1,"timestamp":10,"input_length":20,"output_length":5,"type":"text","turn":1,"hash_ids":[1,2]}
{"chat_id":2,"parent_chat_id":-1,"timestamp":11,"input_length":9,"output_length":4,"type":"text","turn":1,"hash_ids":[3]}
{"chat_id":3,"parent_chat_id":1,"timestamp":12,"input_length":40,"output_length":6,"type":"text","turn":2,"hash_ids":[1,2,4]}
{"chat_id":4,"parent_chat_id":3,"timestamp":14,"input_length":30,"output_length":7,"type":"text","turn":3,"hash_ids":[1,2]}
"#;

#[test]
fn causal_turns_wait_for_the_one_before() {
    let (_folder, mut settings) = trace(CHATS);
    assert!(run(&settings).requests.iter().all(|request| request.parent.is_none()));
    settings.workload.turns = Turns::Causal;
    let after = |parent, not_before_ms| Start::After {
        parent,
        delay: Duration::ZERO,
        not_before: Duration::from_millis(not_before_ms),
    };
    let starts = |settings: &LoadgenSettings| run(settings).requests.iter().map(|r| r.start).collect::<Vec<_>>();
    let at = |ms| Start::At(Duration::from_millis(ms));
    settings.points = vec![Load::TraceTimes { scale: 0.5 }];
    assert_eq!(starts(&settings), [at(0), at(500), after(0, 1000), after(2, 2000)]);
    let plan = run(&settings);
    assert_eq!(plan.requests.iter().map(|r| r.parent).collect::<Vec<_>>(), [None, None, Some(0), Some(2)]);
    // The last turn's history alone is 40 + 6 tokens: it has one of its own.
    assert_eq!(inputs(&plan), [20, 9, 40, 47]);
    settings.points = vec![Load::Closed { concurrency: 2, ramp: Duration::ZERO }];
    assert_eq!(starts(&settings), [Start::WhenFree, Start::WhenFree, after(0, 0), after(2, 0)]);
    settings.points = vec![Load::Rate { per_s: 1.0, arrival: Arrival::Constant, ramp: Duration::ZERO }];
    assert_eq!(starts(&settings), [at(0), at(1000), after(0, 0), after(2, 0)]);
    // A chat that would begin too late is left out with all its turns.
    settings.points = vec![Load::TraceTimes { scale: 1.0 }];
    settings.workload.duration = Some(Duration::from_millis(2500));
    assert_eq!(starts(&settings), [at(0), at(1000), after(0, 2000)]);
}

#[test]
fn what_failed_in_a_trace_is_not_replayed() {
    let header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n";
    let lines = "5,a,1,M,7,0,7,Conversation log\n6,a,1,M,8,9,17,Conversation log\n7,a,1,M,30,3,33,Conversation log\n";
    let (_folder, mut settings) = trace(&format!("{header}{lines}"));
    settings.workload.turns = Turns::Causal;
    let workload = settled(&settings, None);
    let about = workload.about.trace.clone().unwrap();
    assert_eq!((about.requests, about.failed), (2, 1));
    let plan = workload.run(&settings.points[0], 0).unwrap();
    assert_eq!(inputs(&plan), [8, 30]);
    assert_eq!(plan.requests[0].start, Start::At(Duration::ZERO), "times are counted from the first that is sent");
    assert!(plan.requests[0].parent.is_none(), "its parent is not sent");
    let (_folder, settings) = trace(&format!("{header}5,a,1,M,7,0,7,Conversation log\n"));
    assert!(refused(&settings).contains("none to replay"));
}

#[test]
fn texts_are_counted_and_sent_as_they_are() {
    let chat =
        r#"[{"id":"x","conversations":[{"from":"human","value":"who asks"},{"from":"gpt","value":"they wait"}]}]"#;
    let (_folder, mut settings) = trace(chat);
    assert!(refused(&settings).contains("give --rate or --concurrency"));
    settings.points = vec![Load::Closed { concurrency: 1, ramp: Duration::ZERO }];
    let tokens = |text: &str| tiny().count(text).unwrap().unwrap();
    let lengths = run(&settings).requests[0].lengths;
    assert_eq!(lengths, Lengths { input: tokens("who asks"), output: tokens("they wait") });
    settings.workload.lengths = LengthRules { output_scale: 100.0, max_output: Some(50), ..LengthRules::default() };
    assert_eq!(run(&settings).requests[0].lengths.output, 50);
    settings.workload.prompts = Some(PromptKind::Random);
    assert!(refused(&settings).contains("--prompts random"));
    settings.workload.prompts = None;
    settings.workload.lengths.input_scale = 2.0;
    assert!(refused(&settings).contains("--input-len-scale"));
}

#[test]
fn a_tokenizer_is_needed_only_where_something_is_made_or_counted() {
    let none = || Prompts::open(Wanted::default()).unwrap();
    let (_folder, settings) =
        trace("{\"text\":\"hello\",\"timestamp\":0}\n{\"text\":\"you\",\"timestamp\":500,\"output_length\":9}\n");
    let planned = plan(&settings, ConsoleOptions::silent()).unwrap();
    assert!(!planned.needs_tokenizer());
    let workload = planned.settle(&none(), Some(4096), ConsoleOptions::silent()).unwrap();
    let plan_of = workload.run(&settings.points[0], 0).unwrap();
    let said: Vec<(Lengths, bool)> = plan_of.requests.iter().map(|r| (r.lengths, r.ends_itself)).collect();
    assert_eq!(said, [(Lengths { input: 0, output: 0 }, true), (Lengths { input: 0, output: 9 }, false)]);
    for settings in [shipped(), drawn(Some(3))] {
        assert!(plan(&settings, ConsoleOptions::silent()).unwrap().needs_tokenizer());
    }
    let mut unbounded = settings.clone();
    unbounded.server.endpoint = Endpoint::Generate;
    assert!(refused(&unbounded).contains("--max-output-len"));
}

#[test]
fn ids_must_be_there_where_they_are_asked_for() {
    let (_folder, mut settings) =
        trace("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n");
    assert!(settled(&settings, None).about.prompts.starts_with("random"));
    settings.workload.prompts = Some(PromptKind::Hash);
    assert!(refused(&settings).contains("no hash ids"));
}

#[test]
fn drawn_requests_are_their_seeds() {
    let mut settings = drawn(Some(50));
    settings.seed = 1;
    let first = run(&settings);
    assert!(first.requests.iter().all(|r| (5..=40).contains(&r.lengths.input) && r.lengths.output == 7));
    assert_eq!(first, run(&settings));
    assert_eq!(first.places, Some(Places { count: 3, ramp: Duration::ZERO }));
    settings.seed = 2;
    assert_ne!(inputs(&first), inputs(&run(&settings)));
    // More requests are the same ones and some more.
    settings = LoadgenSettings { seed: 1, ..drawn(Some(80)) };
    assert_eq!(inputs(&run(&settings))[..50], inputs(&first));
}

#[test]
fn classes_and_groups() {
    let mut settings = drawn(Some(400));
    let mix = vec![class("chat", 3.0, range(5, 9), range(7, 7)), class("code", 1.0, range(900, 900), range(1, 1))];
    let shared_prefix = Some(SharedPrefix { groups: 4, tokens: 100 });
    settings.workload.source = Source::Drawn { mix, shared_prefix, num_requests: Some(400) };
    let workload = settled(&settings, None);
    assert_eq!(workload.about.classes, ["chat", "code"]);
    assert!(workload.about.name.contains("chat x 3: input 5-9, output 7; code x 1"), "{}", workload.about.name);
    let plan = workload.run(&settings.points[0], 0).unwrap();
    let mut groups = [0; 4];
    for request in &plan.requests {
        let own = if request.class == 0 { 5..=9 } else { 900..=900 };
        assert!(own.contains(&(request.lengths.input - 100)), "{request:?}");
        match request.prompt {
            Prompt::Group { group, tokens: 100 } => groups[group as usize] += 1,
            _ => panic!("{request:?}"),
        }
    }
    assert!(groups.iter().all(|&n| n > 60), "{groups:?}");
    settings.workload.source = drawn(Some(4)).workload.source;
    settings.workload.prompts = Some(PromptKind::Shared);
    assert!(run(&settings).requests.iter().all(|request| request.prompt == Prompt::Shared));
}

#[test]
fn a_duration_is_as_many_as_begin_within_it() {
    let mut settings = drawn(None);
    settings.workload.duration = Some(Duration::from_secs(10));
    let rate = |per_s, ramp_s| Load::Rate { per_s, arrival: Arrival::Constant, ramp: Duration::from_secs(ramp_s) };
    let workload = settled(&settings, None);
    assert_eq!(workload.run(&rate(5.0, 0), 0).unwrap().requests.len(), 51);
    assert_eq!(workload.run(&rate(5.0, 10), 0).unwrap().requests.len(), 26);
    // A closed loop has as many as the fastest server would answer: 3 places, 10 s, 34 ms each.
    let closed = workload.run(&settings.points[0], 0).unwrap();
    assert_eq!((closed.requests.len(), closed.until), (883, Some(Duration::from_secs(10))));
    settings.workload.source = drawn(Some(20)).workload.source;
    assert_eq!(settled(&settings, None).run(&rate(5.0, 0), 0).unwrap().requests.len(), 20);
    settings = drawn(None);
    settings.workload.duration = Some(Duration::from_secs(1_000_000));
    let error = settled(&settings, None).run(&rate(1e6, 0), 0).unwrap_err().to_string();
    assert!(error.contains("--duration"), "{error}");
}

#[test]
fn repeats_have_other_arrivals_and_points_the_same_ones() {
    let settings = drawn(Some(100));
    let workload = settled(&settings, None);
    let rate = |per_s| Load::Rate { per_s, arrival: Arrival::Poisson, ramp: Duration::ZERO };
    let times = |per_s, repeat| times_ms(&workload.run(&rate(per_s), repeat).unwrap());
    assert_eq!(times(1.0, 0), times(1.0, 0));
    assert_ne!(times(1.0, 0), times(1.0, 1));
    assert!(times(1.0, 0).iter().zip(times(10.0, 0)).all(|(slow, fast)| slow.abs_diff(fast * 10) <= 10));
}

#[test]
fn some_clients_leave() {
    let mut settings = drawn(Some(2000));
    let after = Duration::from_millis(70);
    settings.workload.cancel = Some(Cancel { rate: 0.25, after });
    let plan = run(&settings);
    let leaving = plan.requests.iter().filter_map(|request| request.cancel_after).collect::<Vec<_>>();
    assert!((430..570).contains(&leaving.len()) && leaving.iter().all(|&at| at == after), "{}", leaving.len());
    assert_eq!(plan, run(&settings));
    settings.workload.cancel = Some(Cancel { rate: 1.0, after });
    assert!(run(&settings).requests.iter().all(|request| request.cancel_after == Some(after)));
}

#[test]
fn everything_fits_the_model_that_is_served() {
    for settings in [drawn(Some(50)), shipped()] {
        let workload = settled(&settings, Some(64 + 20));
        let plan = workload.run(&settings.points[0], 0).unwrap();
        assert!(plan.requests.iter().all(|r| r.lengths.input + r.lengths.output <= 20), "{:?}", inputs(&plan));
        assert!(plan.clamped.inputs > 0);
        for apart in [workload.connection_test(), workload.warm_up(3)] {
            assert!(
                apart.requests.iter().all(|r| r.lengths.input + r.lengths.output <= 20 && r.prompt == Prompt::Random)
            );
        }
    }
    let planned = plan(&shipped(), ConsoleOptions::silent()).unwrap();
    let error = planned.settle(&tiny(), Some(65), ConsoleOptions::silent()).err().unwrap().to_string();
    assert!(error.contains("at least 66"), "{error}");
}

#[test]
fn warming_up_is_as_many_as_asked_for() {
    let workload = settled(&shipped(), None);
    let plan = workload.warm_up(40);
    assert_eq!((plan.requests.len(), plan.places), (40, Some(Places { count: 8, ramp: Duration::ZERO })));
    assert_eq!(plan.requests[32].lengths, plan.requests[0].lengths, "the trace begins again");
    assert!(workload.warm_up(0).requests.is_empty());
    assert_eq!(workload.connection_test().requests[0].lengths, Lengths { input: 100, output: 2 });
}

#[test]
fn loads_in_words() {
    let rate = Load::Rate { per_s: 2.5, arrival: Arrival::Gamma { burstiness: 0.5 }, ramp: Duration::from_secs(3) };
    assert_eq!(described(&rate), "2.5 requests/s, gamma, burstiness 0.5, ramp of 3 s");
    assert_eq!(described(&Load::Closed { concurrency: 4, ramp: Duration::ZERO }), "closed loop of 4");
    assert_eq!(described(&Load::TraceTimes { scale: 0.4 }), "trace times x 0.4");
}

proptest! {
    /// Whatever is left out by time, parents stand before their children and nothing begins late.
    #[test]
    fn parents_come_first(until_ms in 0u64..6000, scale in 0f64..2.0, causal in any::<bool>()) {
        let (_folder, mut settings) = trace(CHATS);
        settings.workload.duration = Some(Duration::from_millis(until_ms));
        settings.workload.turns = if causal { Turns::Causal } else { Turns::Open };
        settings.points = vec![Load::TraceTimes { scale }];
        let plan = run(&settings);
        for (index, request) in plan.requests.iter().enumerate() {
            prop_assert!(request.parent.is_none_or(|parent| parent < index));
            let begins = match request.start {
                Start::At(at) => at,
                Start::After { parent, not_before, .. } => {
                    prop_assert_eq!(Some(parent), request.parent);
                    not_before
                }
                Start::WhenFree => unreachable!("an open loop"),
            };
            prop_assert!(begins <= Duration::from_millis(until_ms));
        }
    }
}
