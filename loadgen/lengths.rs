//! What becomes of a workload's lengths: scaled, capped, fitted to the model.
//!
//! Owns the arithmetic and its order. Knows nothing of where lengths come from; those that are drawn, `drawn.rs` draws.
pub(crate) mod drawn;

use minisgl_config::LONGEST;
use minisgl_config::loadgen::LengthRules;

use crate::request::{Prompt, Request};

/// Tokens kept for the chat template around a prompt: the longest among the supported models' is about 40.
pub(crate) const TEMPLATE_ROOM: usize = 64;

/// Prompt and output tokens of one request; both at least 1 where they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Tokens of the message itself, or of all messages; 0 for a text that no tokenizer counted.
    pub(crate) input: usize,
    /// Tokens asked for; 0 for an answer as long as the model makes it.
    pub(crate) output: usize,
}

impl Lengths {
    /// The lengths that `rules` make of a workload's: scaled, rounded half up, at least 1, then capped.
    pub(crate) fn by(rules: &LengthRules, input: usize, output: usize) -> Self {
        Self {
            input: scaled(input, rules.input_scale).min(rules.max_input.unwrap_or(LONGEST)),
            output: scaled(output, rules.output_scale).min(rules.max_output.unwrap_or(LONGEST)),
        }
    }

    /// Shortened to what fits into `room` tokens: neither length may push the other below half of the room, so that a
    /// long prompt keeps its answer and a long answer its prompt.
    pub(crate) fn within(self, room: usize) -> Self {
        let half = room / 2;
        let output = self.output.min(half.max(room.saturating_sub(self.input)));
        Self { input: self.input.min(room - output), output }
    }
}

/// `n` times `scale`, rounded half up, at least 1 and at most [`LONGEST`].
fn scaled(n: usize, scale: f64) -> usize {
    // The cast saturates.
    ((n as f64 * scale + 0.5).floor() as usize).clamp(1, LONGEST)
}

/// How many requests a model's context made shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clamped {
    /// With a shorter prompt.
    pub(crate) inputs: usize,
    /// With a shorter output.
    pub(crate) outputs: usize,
}

/// The least that a model must hold for any request to fit.
pub(crate) const LEAST_MODEL_LEN: usize = TEMPLATE_ROOM + 2;

/// Fits every request into a model that holds `max_model_len` tokens, template included, of which there must be at least
/// [`LEAST_MODEL_LEN`]. A text is sent as it is; a turn that quotes the answer before it keeps one token of its own behind
/// its history, even where that alone does not fit.
pub(crate) fn fit(requests: &mut [Request], max_model_len: usize) -> Clamped {
    let room = max_model_len.saturating_sub(TEMPLATE_ROOM).max(2);
    let mut clamped = Clamped::default();
    for index in 0..requests.len() {
        let history = requests[index].parent.map(|parent| requests[parent].lengths);
        let request = &mut requests[index];
        let wanted = request.lengths;
        let mut fitted = wanted.within(room);
        if matches!(request.prompt, Prompt::Text(_) | Prompt::Messages(_)) {
            fitted.input = wanted.input;
            fitted.output = wanted.output.min(room.saturating_sub(wanted.input).max(1));
        } else if let Some(history) = history {
            fitted.input = fitted.input.max(history.input + history.output + 1);
            fitted.output = wanted.output.min(room.saturating_sub(fitted.input).max(1));
        }
        clamped.inputs += usize::from(fitted.input < wanted.input);
        clamped.outputs += usize::from(fitted.output < wanted.output);
        request.lengths = fitted;
    }
    clamped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(input_scale: f64, max_input: Option<usize>) -> LengthRules {
        LengthRules { input_scale, max_input, ..LengthRules::default() }
    }

    #[test]
    fn rounds_half_up_to_at_least_one() {
        for (n, scale, expected) in [
            (5, 0.5, 3),
            (3, 0.5, 2),
            (1, 0.5, 1),
            (1, 0.1, 1),
            (0, 1.0, 1),
            (0, 1e6, 1),
            (100, 0.004, 1),
            (100, 1.0, 100),
            (7, 1.5, 11),
            (6758, 0.125, 845),
            (LONGEST, 1e6, LONGEST),
        ] {
            assert_eq!(Lengths::by(&rules(scale, None), n, 1).input, expected, "{n} x {scale}");
        }
    }

    #[test]
    fn scales_first_and_caps_then() {
        assert_eq!(Lengths::by(&rules(2.0, Some(10)), 6, 9), Lengths { input: 10, output: 9 });
        assert_eq!(Lengths::by(&rules(0.5, Some(10)), 16, 9), Lengths { input: 8, output: 9 });
        let outputs = LengthRules { output_scale: 0.5, max_output: Some(3), ..LengthRules::default() };
        assert_eq!(Lengths::by(&outputs, 6, 9), Lengths { input: 6, output: 3 });
    }

    #[test]
    fn what_does_not_fit_keeps_at_least_half_of_each() {
        for (input, output, fitted) in [
            (10, 10, (10, 10)),
            (50, 50, (50, 50)),
            (1000, 20, (80, 20)),
            (20, 1000, (20, 80)),
            (1000, 1000, (50, 50)),
            (60, 60, (50, 50)),
            (40, 61, (40, 60)),
        ] {
            let Lengths { input, output } = Lengths { input, output }.within(100);
            assert_eq!((input, output), fitted);
        }
    }

    fn request(input: usize, output: usize) -> Request {
        Request {
            start: crate::request::Start::WhenFree,
            lengths: Lengths { input, output },
            ends_itself: false,
            prompt: Prompt::Random,
            parent: None,
            cancel_after: None,
            class: 0,
        }
    }

    fn lengths(requests: &[Request]) -> Vec<(usize, usize)> {
        requests.iter().map(|request| (request.lengths.input, request.lengths.output)).collect()
    }

    #[test]
    fn counts_what_it_shortened() {
        let mut all = [(10, 10), (1000, 20), (20, 1000), (900, 900)].map(|(input, output)| request(input, output));
        assert_eq!(fit(&mut all, 100 + TEMPLATE_ROOM), Clamped { inputs: 2, outputs: 2 });
        assert!(lengths(&all).iter().all(|&(input, output)| input + output <= 100 && input >= 1 && output >= 1));
        for room in LEAST_MODEL_LEN..300 {
            let mut one = [request(500, 500)];
            fit(&mut one, room);
            let (input, output) = lengths(&one)[0];
            assert!(input >= 1 && output >= 1 && input + output <= room);
        }
    }

    #[test]
    fn a_text_is_never_cut_and_a_turn_keeps_its_history() {
        let mut text = [Request { prompt: Prompt::Text("…".into()), ..request(80, 50) }];
        assert_eq!(fit(&mut text, 100 + TEMPLATE_ROOM), Clamped { inputs: 0, outputs: 1 });
        assert_eq!(lengths(&text), [(80, 20)]);
        let child = |parent, input, output| Request { parent: Some(parent), ..request(input, output) };
        let mut chat = [request(60, 20), child(0, 90, 30), child(1, 200, 30)];
        assert_eq!(fit(&mut chat, 100 + TEMPLATE_ROOM), Clamped { inputs: 2, outputs: 2 });
        assert_eq!(lengths(&chat), [(60, 20), (81, 19), (101, 1)]);
    }

    /// Where nothing bounds the answer, nothing does after fitting.
    #[test]
    fn an_open_end_stays_open() {
        let mut open = [request(80, 0), request(200, 0)];
        fit(&mut open, 100 + TEMPLATE_ROOM);
        assert_eq!(lengths(&open), [(80, 0), (100, 0)]);
    }
}
