//! The library as its own callers use it, without HTTP: many prompts, events, errors, shutdown.
use minisgl::llm::{Completion, GenerateError, SamplingParams, SubmitError, TextEvent};
use minisgl::request::{FinishReason, Prompt};

use crate::fake::{FakeModel, assert_no_page_lost, value};

fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { temperature: 0.0, max_tokens, ..SamplingParams::default() }
}

#[test]
fn generate_answers_in_order_with_one_or_many_parameters() {
    let llm = FakeModel::default().start();
    let done = llm.generate(["hi<|reply|>", "hello<|reply|>"], greedy(5)).unwrap();
    let hi = Completion {
        text: "hi".into(),
        token_ids: vec![104, 105, 258],
        finish_reason: FinishReason::Stop,
        prompt_tokens: 3,
        cached_tokens: 0,
    };
    assert_eq!(done[0], hi);
    assert_eq!((done[1].text.as_str(), done[1].finish_reason), ("hello", FinishReason::Length));
    let stop = SamplingParams { stop: vec!["l".into()], ..greedy(9) };
    let done = llm.generate(vec![vec![104, 257], vec![108, 111, 257]], vec![greedy(1), stop]).unwrap();
    assert_eq!((done[0].text.as_str(), done[1].text.as_str()), ("h", ""));
    assert_eq!(done[1].token_ids, [108], "a stop string's tokens are told");
    assert_eq!(llm.generate(Vec::<String>::new(), greedy(1)).unwrap(), []);
}

#[test]
fn more_prompts_than_permits_wait_their_turn() {
    let llm = FakeModel::default().start();
    let prompts: Vec<String> = (0..100).map(|i| format!("prompt {i}<|reply|>")).collect();
    let done = llm.generate(prompts, greedy(16)).unwrap();
    assert!(done.iter().enumerate().all(|(i, completion)| completion.text == format!("prompt {i}")));
    assert_eq!(value(llm.metrics(), "generation_tokens_total", &[]), 990.0);
}

#[test]
fn a_stream_gives_each_token_and_dropping_it_aborts() {
    let model = FakeModel::default();
    let (metrics, gate) = (model.metrics.clone(), model.gate.clone());
    let llm = model.start();
    let events: Vec<_> = llm.generate_stream("ab<|reply|>", greedy(9)).unwrap().map(Result::unwrap).collect();
    let texts: Vec<_> = events
        .iter()
        .map(|(index, event)| match event {
            TextEvent::Token { text, .. } => (*index, text.as_str()),
            TextEvent::Finished { text, usage, .. } => {
                assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 3));
                (*index, text.as_str())
            }
            TextEvent::Failed(failure) => panic!("{failure}"),
        })
        .collect();
    assert_eq!(texts, [(0, "a"), (0, "b"), (0, ""), (0, "")]);

    gate.allow(1);
    let mut left = llm.generate_stream("endless", SamplingParams { ignore_eos: true, ..greedy(400) }).unwrap();
    assert!(left.next().is_some());
    drop(left);
    gate.open();
    llm.shutdown();
    assert_eq!(value(&metrics, "request_success_total", &["abort"]), 1.0);
    assert_no_page_lost(&metrics);
}

#[test]
fn what_cannot_run_says_why() {
    let llm = FakeModel::default().start();
    let error = llm.generate("x", SamplingParams { top_p: 0.0, ..greedy(1) }).unwrap_err();
    assert!(matches!(error, GenerateError::Param(bad) if bad.param == "top_p"));
    let error = llm.generate(["a", "b"], vec![greedy(1)]).unwrap_err();
    assert_eq!(error, GenerateError::Lengths { prompts: 2, params: 1 });
    let error = llm.generate(["fine<|reply|>", ""], greedy(9)).unwrap_err();
    assert_eq!(error.to_string(), "prompt 1: the prompt is empty: at least one token is needed");
    let many = greedy(1).request(Prompt::Text("x".into()), 17).unwrap();
    assert_eq!(llm.submit(many).unwrap_err(), SubmitError::TooMany { asked: 17, most: 16 });
}

#[test]
fn all_requests_of_a_batch_are_taken_or_none() {
    let model = FakeModel::held();
    let gate = model.gate.clone();
    let llm = model.start();
    let request = |n| greedy(4).request(Prompt::Text("x<|reply|>".into()), n).unwrap();
    let first = llm.submit(request(10)).unwrap();
    let now = std::time::Instant::now();
    assert_eq!(llm.submit_all(vec![request(3), request(4)], now).unwrap_err(), SubmitError::QueueFull);
    assert_eq!(llm.permits().taken(), 10);
    let second = llm.submit_all(vec![request(2), request(4)], now).unwrap();
    assert_eq!(second.iter().map(Vec::len).collect::<Vec<_>>(), [2, 4]);
    gate.open();
    for mut generation in first.into_iter().chain(second.into_iter().flatten()) {
        assert_eq!(generation.accepted_blocking().unwrap().prompt_tokens, 2);
        while generation.next_blocking().is_some() {}
        assert_eq!(generation.usage().completion_tokens, 2);
    }
}

#[test]
fn cancelling_fails_what_runs() {
    let model = FakeModel::held();
    let gate = model.gate.clone();
    let llm = model.start();
    let mut generation = llm.submit(greedy(400).request(Prompt::Text("x".into()), 1).unwrap()).unwrap().pop().unwrap();
    generation.accepted_blocking().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| llm.cancel());
        assert!(matches!(generation.next_blocking(), Some(TextEvent::Failed(_))));
        assert_eq!(generation.next_blocking(), None);
        gate.open();
    });
}
