//! Lengths that are drawn: classes by weight, each with its distributions.
//!
//! Owns the draws and the files of lengths. A request's draw depends on the seed and its place alone, so that more requests
//! are the same ones and some more.
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use minisgl_config::LONGEST;
use minisgl_config::loadgen::settings::{LengthClass, LengthDistribution};

use crate::draw;
use crate::rng::SplitMix;

/// Most lengths of a file, and the longest line of one.
const MOST_LISTED: usize = 10_000_000;
const LONGEST_LINE: u64 = 4096;

/// Marks the draws of lengths apart from those of prompts, whose paths begin with another number.
const LENGTHS: u64 = u64::MAX;

/// All classes, their files read.
#[derive(Clone, Debug)]
pub(crate) struct Classes(Vec<Class>);

#[derive(Clone, Debug)]
struct Class {
    /// Weights up to and with this class.
    up_to: f64,
    input: Lengths,
    output: Lengths,
}

#[derive(Clone, Debug)]
enum Lengths {
    Drawn(LengthDistribution),
    Listed(Arc<[u32]>),
}

/// One request's draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) class: u16,
    pub(crate) input: usize,
    pub(crate) output: usize,
}

impl Classes {
    /// Reads the files that `mix` names.
    pub(crate) fn open(mix: &[LengthClass]) -> Result<Self, String> {
        let mut up_to = 0.0;
        let class = |class: &LengthClass| {
            up_to += class.weight;
            Ok(Class { up_to, input: Lengths::open(&class.input)?, output: Lengths::open(&class.output)? })
        };
        Ok(Self(mix.iter().map(class).collect::<Result<_, String>>()?))
    }

    /// The class and lengths of the request at a place.
    pub(crate) fn draw(&self, seed: u64, index: usize) -> Draw {
        let mut rng = SplitMix::of(seed, &[LENGTHS, index as u64]);
        let point = draw::uniform(&mut rng) * self.0.last().map_or(0.0, |class| class.up_to);
        let at = self.0.partition_point(|class| class.up_to <= point).min(self.0.len() - 1);
        let class = &self.0[at];
        Draw { class: at as u16, input: class.input.draw(&mut rng), output: class.output.draw(&mut rng) }
    }
}

impl Lengths {
    fn open(distribution: &LengthDistribution) -> Result<Self, String> {
        match distribution {
            LengthDistribution::File(path) => listed(path).map(Self::Listed),
            drawn => Ok(Self::Drawn(drawn.clone())),
        }
    }

    fn draw(&self, rng: &mut SplitMix) -> usize {
        // The casts saturate.
        let tokens = |tokens: f64| (tokens.round() as usize).clamp(1, LONGEST);
        match self {
            Self::Listed(all) => all[rng.between(0, all.len() - 1)] as usize,
            Self::Drawn(LengthDistribution::Uniform(range)) => rng.between(range.min(), range.max()),
            Self::Drawn(LengthDistribution::Normal { mean, sd }) => tokens(mean + sd * draw::normal(rng)),
            Self::Drawn(LengthDistribution::LogNormal { median, sigma }) => {
                tokens(median * libm::exp(sigma * draw::normal(rng)))
            }
            Self::Drawn(LengthDistribution::File(_)) => unreachable!("files are read when they are opened"),
        }
    }
}

/// A length a line; empty lines and those that begin with `#` are skipped.
fn listed(path: &Path) -> Result<Arc<[u32]>, String> {
    let name = path.display();
    let io = |error: std::io::Error| format!("cannot read the lengths in {name}: {error}");
    let mut input = BufReader::new(std::fs::File::open(path).map_err(io)?);
    let (mut all, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        if std::io::Read::take(&mut input, LONGEST_LINE).read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() || text[0] == b'#' {
            continue;
        }
        let tokens = std::str::from_utf8(text).ok().and_then(|text| text.parse::<usize>().ok());
        match tokens.filter(|tokens| (1..=LONGEST).contains(tokens)) {
            Some(tokens) if all.len() < MOST_LISTED => all.push(tokens as u32),
            Some(_) => return Err(format!("{name}:{number}: more than {MOST_LISTED} lengths")),
            None => {
                return Err(format!("{name}:{number}: not a length: one number of tokens a line, from 1 to {LONGEST}"));
            }
        }
    }
    match all.is_empty() {
        true => Err(format!("{name}: no length in it: one number of tokens a line")),
        false => Ok(all.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(mix: &str) -> Classes {
        let one = |part: &str| {
            let parts: Vec<&str> = part.split('/').collect();
            LengthClass {
                name: part.to_owned(),
                weight: parts[0].parse().unwrap(),
                input: parts[1].parse().unwrap(),
                output: parts[2].parse().unwrap(),
            }
        };
        Classes::open(&mix.split(';').map(one).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn classes_come_by_their_weight_with_their_own_lengths() {
        let classes = classes("3/1-9/5;1/100-200/normal:50,10");
        let draws: Vec<Draw> = (0..8000).map(|index| classes.draw(1, index)).collect();
        let second = draws.iter().filter(|draw| draw.class == 1).count();
        assert!((1850..2150).contains(&second), "{second}");
        for draw in draws {
            match draw.class {
                0 => assert!((1..=9).contains(&draw.input) && draw.output == 5, "{draw:?}"),
                _ => assert!((100..=200).contains(&draw.input) && (1..120).contains(&draw.output), "{draw:?}"),
            }
        }
    }

    #[test]
    fn draws_follow_their_distribution_and_stay_at_least_one() {
        let classes = classes("1/normal:500,100/lognormal:300,0.8");
        let mut draws: Vec<Draw> = (0..20_001).map(|index| classes.draw(2, index)).collect();
        let mean = draws.iter().map(|draw| draw.input as f64).sum::<f64>() / draws.len() as f64;
        draws.sort_unstable_by_key(|draw| draw.output);
        let (median, upper) = (draws[10_000].output, draws[16_827].output);
        assert!((mean - 500.0).abs() < 3.0, "{mean}");
        assert!(
            median.abs_diff(300) < 10 && upper.abs_diff(668) < 25,
            "{median} {upper}: one sigma is a factor of 2.23"
        );
        let low = self::classes("1/normal:1,1000/lognormal:1,10");
        assert!((0..500).map(|index| low.draw(2, index)).all(|draw| draw.input >= 1 && draw.output >= 1));
    }

    #[test]
    fn a_draw_is_its_seeds_and_its_places() {
        let classes = classes("1/1-100000/1-100000");
        assert_eq!(classes.draw(1, 7), classes.draw(1, 7));
        assert_ne!(classes.draw(1, 7), classes.draw(2, 7));
        assert_ne!(classes.draw(1, 7), classes.draw(1, 8));
    }

    #[test]
    fn a_file_of_lengths_is_drawn_from_and_its_faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lengths.txt");
        let open = |text: &str| {
            std::fs::write(&path, text).unwrap();
            listed(&path)
        };
        assert_eq!(*open("# tokens\n5\r\n\n 7 \n").unwrap(), [5, 7]);
        let file = LengthDistribution::File(path.clone());
        let mix = [LengthClass { name: String::new(), weight: 1.0, input: file.clone(), output: file }];
        let classes = Classes::open(&mix).unwrap();
        let inputs: std::collections::BTreeSet<usize> = (0..50).map(|index| classes.draw(0, index).input).collect();
        assert_eq!(inputs.into_iter().collect::<Vec<_>>(), [5, 7]);
        for (text, said) in
            [("5\nx\n", ":2: not a length"), ("0\n", ":1: not"), ("99999999\n", ":1: not"), ("#\n", "no length")]
        {
            let error = open(text).unwrap_err();
            assert!(error.contains(said) && error.contains("lengths.txt"), "{error}");
        }
        assert!(listed(Path::new("/no/such/file")).unwrap_err().contains("/no/such/file"));
    }
}
