//! What becomes of a workload's lengths: scaled, capped, fitted to the model.
//!
//! Owns the arithmetic and its order. Knows nothing of where lengths come from.
use minisgl_config::LONGEST;
use minisgl_config::loadgen::LengthRules;

/// Tokens kept for the chat template around a prompt: the longest among the supported models' is about 40.
pub(crate) const TEMPLATE_ROOM: usize = 64;

/// Prompt and output tokens of one request; both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Tokens of the message itself.
    pub(crate) input: usize,
    /// Tokens asked for.
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

/// Fits every request into a model that holds `max_model_len` tokens, template included; at least 2 must remain.
pub(crate) fn fit<'a>(lengths: impl Iterator<Item = &'a mut Lengths>, max_model_len: usize) -> Result<Clamped, usize> {
    let room = max_model_len.saturating_sub(TEMPLATE_ROOM);
    if room < 2 {
        return Err(TEMPLATE_ROOM + 2);
    }
    let mut clamped = Clamped::default();
    for request in lengths {
        let fitted = request.within(room);
        clamped.inputs += usize::from(fitted.input < request.input);
        clamped.outputs += usize::from(fitted.output < request.output);
        *request = fitted;
    }
    Ok(clamped)
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

    #[test]
    fn counts_what_it_shortened() {
        let mut all = [(10, 10), (1000, 20), (20, 1000), (900, 900)].map(|(input, output)| Lengths { input, output });
        assert_eq!(fit(all.iter_mut(), 100 + TEMPLATE_ROOM), Ok(Clamped { inputs: 2, outputs: 2 }));
        assert!(all.iter().all(|l| l.input + l.output <= 100 && l.input >= 1 && l.output >= 1));
        for small in 0..300 {
            let mut one = [Lengths { input: 500, output: 500 }];
            match fit(one.iter_mut(), small) {
                Ok(_) => assert!(one[0].input >= 1 && one[0].output >= 1 && one[0].input + one[0].output <= small),
                Err(least) => assert!(small < least),
            }
        }
    }
}
