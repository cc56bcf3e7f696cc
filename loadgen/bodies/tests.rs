//! Bodies as a server reads them.
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::lengths::Lengths;
use crate::prompts::tests::tiny;
use crate::request::{Piece, Start};
use crate::traces::Conversation;

fn request(input: usize, output: usize, prompt: Prompt) -> Request {
    Request {
        start: Start::WhenFree,
        lengths: Lengths { input, output },
        ends_itself: false,
        prompt,
        parent: None,
        cancel_after: Some(Duration::from_secs(input as u64)),
        class: 2,
    }
}

fn after(parent: usize, request: Request) -> Request {
    let start = Start::After { parent, delay: Duration::ZERO, not_before: Duration::ZERO };
    Request { parent: Some(parent), start, ..request }
}

fn server(endpoint: Endpoint) -> Server {
    Server { endpoint, ..Server::default() }
}

fn jobs(server: &Server, run: u64, requests: &[Request]) -> Vec<Job> {
    Batch { server, model: "m\"1", seed: 1, run, requests, first: 0, threads: 2 }.prepare(&tiny(), &|| {}).unwrap()
}

/// A body with these answers in it.
fn filled(body: &Body, answers: &BTreeMap<usize, &str>) -> Value {
    let bytes: Vec<u8> = match body {
        Body::Whole(bytes) => bytes.to_vec(),
        Body::Quoting(pieces) => pieces.iter().fold(Vec::new(), |mut all, piece| {
            match piece {
                Piece::Json(json) => all.extend_from_slice(json),
                Piece::AnswerOf(index) => all.extend_from_slice(&escaped(answers[index])),
            }
            all
        }),
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}

fn bodies(server: &Server, requests: &[Request]) -> Vec<Value> {
    jobs(server, 0, requests).iter().map(|job| filled(&job.body, &BTreeMap::new())).collect()
}

#[test]
fn a_body_has_the_fields_that_every_server_takes() {
    let text = || Prompt::Text("a \"b\"\n".into());
    let chat = json!({
        "model": "m\"1", "messages": [{"role": "user", "content": "a \"b\"\n"}], "max_tokens": 7, "temperature": 0,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
    });
    let mut completions = chat.clone();
    assert_eq!(bodies(&server(Endpoint::Chat), &[request(3, 7, text())]), [chat]);
    completions.as_object_mut().unwrap().remove("messages");
    completions["prompt"] = "a \"b\"\n".into();
    assert_eq!(bodies(&server(Endpoint::Completions), &[request(3, 7, text())]), [completions]);
    let generate = json!({"prompt": "a \"b\"\n", "max_tokens": 7, "ignore_eos": true});
    assert_eq!(bodies(&server(Endpoint::Generate), &[request(3, 7, text())]), [generate]);
}

#[test]
fn the_user_adds_replaces_and_leaves_out() {
    let extra = json!({"top_p": 0.5, "temperature": 0.25, "stream_options": null, "max_tokens": null, "max_completion_tokens": 3});
    let changed = Server {
        extra_body: extra.as_object().unwrap().clone(),
        ignore_eos: false,
        temperature: 0.6,
        ..server(Endpoint::Chat)
    };
    let expected = json!({
        "model": "m\"1", "messages": [{"role": "user", "content": "x"}], "stream": true, "top_p": 0.5, "temperature": 0.25,
        "max_completion_tokens": 3,
    });
    let asked = [request(1, 7, Prompt::Text("x".into()))];
    assert_eq!(bodies(&changed, &asked), [expected]);
    let strict = bodies(&Server { strict_openai: true, temperature: 0.6, ..server(Endpoint::Chat) }, &asked);
    assert_eq!((&strict[0]["ignore_eos"], &strict[0]["temperature"]), (&Value::Null, &json!(0.6)));
}

#[test]
fn an_answer_that_ends_itself_is_not_held_up() {
    let ends = |output| Request { ends_itself: true, ..request(1, output, Prompt::Text("x".into())) };
    let made = bodies(&server(Endpoint::Chat), &[ends(0), ends(9)]);
    for (body, most) in made.iter().zip([Value::Null, json!(9)]) {
        assert_eq!((&body["max_tokens"], &body["ignore_eos"]), (&most, &Value::Null));
    }
}

#[test]
fn made_prompts_have_their_tokens_and_the_rest_is_handed_on() {
    let requests: Vec<Request> = (1..60).map(|n| request(n, n + 1, Prompt::Random)).collect();
    let prompts = tiny();
    for endpoint in [Endpoint::Chat, Endpoint::Completions, Endpoint::Generate] {
        let steps = AtomicUsize::new(0);
        let server = server(endpoint);
        let batch = Batch { server: &server, model: "m", seed: 1, run: 0, requests: &requests, first: 0, threads: 2 };
        let jobs = batch
            .prepare(&prompts, &|| {
                steps.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        assert_eq!(steps.into_inner(), 59);
        for (job, request) in jobs.iter().zip(&requests) {
            let body = filled(&job.body, &BTreeMap::new());
            let tokens = match endpoint {
                Endpoint::Chat => prompts.count(body["messages"][0]["content"].as_str().unwrap()).unwrap().unwrap(),
                Endpoint::Completions => body["prompt"].as_array().unwrap().len(),
                Endpoint::Generate => prompts.count(body["prompt"].as_str().unwrap()).unwrap().unwrap(),
            };
            assert_eq!(
                (tokens, body["max_tokens"].as_u64()),
                (request.lengths.input, Some(request.lengths.output as u64))
            );
            assert_eq!((job.start, job.lengths, job.class), (request.start, request.lengths, 2));
            assert_eq!((job.cancel_after, job.keep_answer), (request.cancel_after, false));
        }
    }
}

#[test]
fn the_same_command_makes_the_same_bytes_and_another_run_fresh_ones() {
    let blocks = |ids: &[u64]| Prompt::Blocks { ids: ids.into(), block_size: 16, scale: 1.0 };
    let requests = [
        request(40, 1, blocks(&[1, 2, 3])),
        request(64, 1, blocks(&[1, 2, 4, 5])),
        request(40, 1, Prompt::Random),
        request(40, 1, Prompt::Shared),
        request(40, 1, Prompt::Group { group: 0, tokens: 20 }),
    ];
    for endpoint in [Endpoint::Chat, Endpoint::Completions] {
        let of_run = |run| jobs(&server(endpoint), run, &requests).into_iter().map(|job| job.body).collect::<Vec<_>>();
        let (first, second) = (of_run(0), of_run(1));
        assert_eq!(first, of_run(0));
        assert!(first.iter().zip(&second).all(|(first, second)| first != second));
    }
    // As much is shared in each run, and it is something else.
    let ids = |run| {
        let made = jobs(&server(Endpoint::Completions), run, &requests);
        let prompt = |at: usize| filled(&made[at].body, &BTreeMap::new())["prompt"].as_array().unwrap().clone();
        (prompt(0), prompt(1))
    };
    let shared = |a: &[Value], b: &[Value]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let ((a, b), (c, d)) = (ids(0), ids(1));
    assert!((32..34).contains(&shared(&a, &b)) && (32..34).contains(&shared(&c, &d)));
    assert!(shared(&a, &c) < 3);
}

#[test]
fn random_prompts_are_distinct_as_far_as_there_are_words() {
    let requests: Vec<Request> = (0..60).map(|i| request(2 + i % 3, 1, Prompt::Random)).collect();
    let jobs = jobs(&server(Endpoint::Chat), 0, &requests);
    assert_eq!(jobs.iter().map(|job| format!("{:?}", job.body)).collect::<HashSet<_>>().len(), 60);
    // Where no distinct prompt is left it ends all the same.
    assert_eq!(super::tests::jobs(&server(Endpoint::Chat), 0, &vec![request(1, 1, Prompt::Random); 700]).len(), 700);
}

#[test]
fn a_turn_quotes_what_was_asked_and_answered_before() {
    let prompts = tiny();
    let requests = [
        request(20, 5, Prompt::Random),
        after(0, request(35, 6, Prompt::Random)),
        request(9, 1, Prompt::Random),
        after(1, request(50, 7, Prompt::Random)),
    ];
    let answers = BTreeMap::from([(0, "one \"1\"\n"), (1, "two")]);
    let made = jobs(&server(Endpoint::Chat), 0, &requests);
    assert_eq!(made.iter().map(|job| job.keep_answer).collect::<Vec<_>>(), [true, true, false, false]);
    let root = filled(&made[0].body, &answers)["messages"][0]["content"].clone();
    let third = filled(&made[3].body, &answers);
    let messages = third["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 5);
    assert_eq!(
        (&messages[0]["content"], &messages[1]),
        (&root, &json!({"role": "assistant", "content": "one \"1\"\n"}))
    );
    assert_eq!(messages[3], json!({"role": "assistant", "content": "two"}));
    let tokens = |at: usize| prompts.count(messages[at]["content"].as_str().unwrap()).unwrap();
    assert_eq!([tokens(0), tokens(2), tokens(4)], [Some(20), Some(10), Some(9)], "35 - 20 - 5, and 50 - 35 - 6");
    assert_eq!(third["max_tokens"], 7);

    for endpoint in [Endpoint::Completions, Endpoint::Generate] {
        let made = jobs(&server(endpoint), 0, &requests);
        let root =
            filled(&made[0].body, &answers)["prompt"].as_str().expect("a text, for its answer is one").to_owned();
        let third = filled(&made[3].body, &answers)["prompt"].as_str().unwrap().to_owned();
        assert!(third.starts_with(&format!("{root}one \"1\"\n ")) && third.contains("two "), "{third}");
    }
}

#[test]
fn a_failed_turn_leaves_an_empty_answer() {
    let requests = [request(5, 5, Prompt::Text("ask".into())), after(0, request(15, 6, Prompt::Text("go on".into())))];
    let made = jobs(&server(Endpoint::Chat), 0, &requests);
    let body = filled(&made[1].body, &BTreeMap::from([(0, "")]));
    assert_eq!(body["messages"].as_array().unwrap().len(), 3);
    assert_eq!((&body["messages"][1]["content"], &body["messages"][2]["content"]), (&json!(""), &json!("go on")));
}

#[test]
fn recorded_chats_as_recorded_or_with_live_answers() {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let chat: std::sync::Arc<[Message]> = [
        message("system", "be kind"),
        message("user", "a"),
        message("assistant", "recorded"),
        message("user", "b"),
        message("assistant", "recorded too"),
    ]
    .into();
    let turn = |prompt| Prompt::Messages(Conversation::new(chat.clone(), prompt));
    let open = bodies(&server(Endpoint::Chat), &[request(4, 1, turn(2)), request(9, 1, turn(4))]);
    let contents = |body: &Value| -> Vec<String> {
        let messages = body["messages"].as_array().unwrap().iter();
        messages.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(contents(&open[0]), ["be kind", "a"]);
    assert_eq!(contents(&open[1]), ["be kind", "a", "recorded", "b"]);

    let causal = [request(4, 1, turn(2)), after(0, request(9, 1, turn(4)))];
    let live = BTreeMap::from([(0, "live")]);
    assert_eq!(
        contents(&filled(&jobs(&server(Endpoint::Chat), 0, &causal)[1].body, &live)),
        ["be kind", "a", "live", "b"]
    );
    let text = filled(&jobs(&server(Endpoint::Generate), 0, &causal)[1].body, &live);
    assert_eq!(text["prompt"], "be kind\n\naliveb");

    // A history that is another one is sent as it was recorded.
    let other = Prompt::Messages(Conversation::new([message("user", "z")].into(), 1));
    let made = jobs(&server(Endpoint::Chat), 0, &[request(4, 1, other), after(0, request(9, 1, turn(4)))]);
    assert_eq!(contents(&filled(&made[1].body, &live)), ["be kind", "a", "recorded", "b"]);
    assert!(!made[0].keep_answer);
}

#[test]
fn without_a_tokenizer_texts_are_sent_and_nothing_is_made() {
    let none = Prompts::open(crate::prompts::Wanted::default()).unwrap();
    let server = server(Endpoint::Chat);
    let prepare = |requests: &[Request]| {
        Batch { server: &server, model: "m", seed: 1, run: 0, requests, first: 0, threads: 2 }.prepare(&none, &|| {})
    };
    assert_eq!(prepare(&[request(0, 1, Prompt::Text("x".into()))]).unwrap().len(), 1);
    assert!(prepare(&[request(3, 1, Prompt::Random)]).unwrap_err().to_string().contains("--tokenizer"));
}

/// What a trace ideally hits is what the prompts that are sent really share, token by token.
#[test]
fn the_ideal_hit_rate_is_that_of_the_ids_that_are_sent() {
    use minisgl_config::loadgen::{LoadgenSettings, ServerUrl};
    let mut settings = LoadgenSettings::shipped(ServerUrl::default());
    settings.server.endpoint = Endpoint::Completions;
    for scale in [1.0, 0.4, 3.0] {
        settings.workload.lengths.input_scale = scale;
        let planned = crate::workload::plan(&settings, crate::ConsoleOptions::silent()).unwrap();
        let settled = planned.settle(&tiny(), Some(600), crate::ConsoleOptions::silent()).unwrap();
        let plan = settled.run(&settings.points[0], 0).unwrap();
        let prompts: Vec<Vec<Value>> = jobs(&settings.server, 3, &plan.requests)
            .iter()
            .map(|job| filled(&job.body, &BTreeMap::new())["prompt"].as_array().unwrap().clone())
            .collect();
        let (mut hit, mut all) = (0, 0);
        for (index, prompt) in prompts.iter().enumerate() {
            let shared = |other: &Vec<Value>| prompt.iter().zip(other).take_while(|(a, b)| a == b).count();
            hit += prompts[..index].iter().map(shared).max().unwrap_or(0).min(prompt.len() - 1) / 16 * 16;
            all += prompt.len();
        }
        let ideal = settled.about.trace.as_ref().unwrap().ideal_hit_rate_page_16.unwrap();
        assert!((hit as f64 / all as f64 - ideal).abs() < 0.01, "{hit} of {all}, ideally {ideal}");
        assert!(ideal > 0.05 || scale == 0.4, "{ideal}");
    }
}
