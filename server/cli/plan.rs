//! `minisgl loadgen plan`: a trace as a load for [`minisgl::sizing`], asked of each profile.
//!
//! Owns the way from a trace to prompts and from what was found to replicas. Does not know what a step costs.
mod report;

use std::process::ExitCode;

use minisgl::engine::sim::Simulation;
use minisgl::sizing::{Course, Fate, Load, Point, Search, Sizing, Slo, find_rate};
use minisgl_config::EngineSettings;
use minisgl_config::loadgen::plan::{PlanArgs, PlanArrival, PlanSettings};
use minisgl_loadgen::{ConsoleOptions, Trace, TraceRequest, block_ranges};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Failed, Outcome};

/// Prompt tokens of a load at most: they are all in memory, for each run reads them again.
const MOST_TOKENS: usize = 1 << 30;

/// A trace as a load, and what its reader should know.
struct Demand {
    trace: Trace,
    load: Vec<Load>,
    /// Requests a second of the load as it is.
    own_rate: f64,
    /// Requests a second to serve.
    rate: f64,
    /// Many requests share an instant, and so a burst that may be the trace's clock and nothing else.
    coarse: bool,
}

/// One profile's answer.
struct Answer {
    label: String,
    ranks: usize,
    /// The model's own context, where it was less than the longest request and so raised.
    raised_context: Option<usize>,
    sizing: Sizing,
}

impl Answer {
    /// How many serve `rate`, where what one serves could be found.
    fn replicas(&self, rate: f64) -> Option<usize> {
        // The found rate is exact to two per cent: a thousandth more is not another replica.
        let found = self.best().filter(|_| self.sizing.limited);
        found.map(|(best, _)| ((rate / best.rate - 1e-3).ceil() as usize).max(1))
    }

    fn best(&self) -> Option<(Point, &Course)> {
        self.sizing.best.as_ref().map(|(point, course)| (*point, course))
    }
}

/// Exits with 1 where a profile keeps within the SLO at no rate.
pub(crate) fn run(args: PlanArgs) -> Outcome {
    let settings = args.resolve()?;
    let demand = Demand::read(&settings)?;
    // One thread a profile: they share nothing.
    let answers: Result<Vec<Answer>, Failed> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            settings.servers.iter().map(|server| scope.spawn(|| ask(&settings, server, &demand))).collect();
        asked.into_iter().map(|thread| thread.join().expect("a panic has said so itself")).collect()
    });
    let answers = answers?;
    report::write(&settings, &demand, &answers)?;
    let fine = answers.iter().all(|answer| answer.sizing.best.is_some());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(settings: &PlanSettings, server: &EngineSettings, demand: &Demand) -> Result<Answer, Failed> {
    let longest = demand.load.iter().map(|load| load.prompt.len() + load.output_tokens).max().unwrap_or(0);
    let mut simulation = Simulation::new(server, None, 0)?;
    let context = simulation.capacity.context;
    let raised_context = (context < longest).then_some(context);
    if raised_context.is_some() {
        // As with serve --max-seq-len-override: hardware is sized here, not the model's training.
        let server = EngineSettings { max_seq_len_override: Some(longest), ..server.clone() };
        simulation = Simulation::new(&server, None, 0)?;
    }
    let bounds = &settings.slo;
    let slo = Slo { ttft: bounds.ttft, tpot: bounds.tpot, e2e: bounds.e2e };
    let search = Search { slo, share: settings.share, rate: demand.own_rate };
    let sizing = find_rate(&simulation, server, &demand.load, &search);
    Ok(Answer { label: simulation.label.clone(), ranks: simulation.ranks, raised_context, sizing })
}

impl Demand {
    fn read(settings: &PlanSettings) -> Result<Self, Failed> {
        let trace = minisgl_loadgen::open_trace(&settings.source, settings.limit, ConsoleOptions::default())?;
        let requests: Vec<&TraceRequest> = trace.requests.iter().filter(|request| !request.failed).collect();
        let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
            return Err(format!("{}: every request is recorded as failed", trace.name).into());
        };
        let (first_s, span_s) = (first.timestamp_s, last.timestamp_s - first.timestamp_s);
        let timed = trace.timed && span_s > 0.0;
        let own_rate = match (timed, settings.rate) {
            (true, _) => requests.len() as f64 / span_s,
            (false, Some(rate)) => rate,
            (false, None) => {
                return Err(format!("{}: it does not say when requests arrive: add --rate", trace.name).into());
            }
        };
        let arrival = match settings.arrival {
            PlanArrival::Trace if !timed => PlanArrival::Even,
            arrival => arrival,
        };
        let mut clock = Arrivals { arrival, rate: own_rate, random: StdRng::seed_from_u64(settings.seed), at_s: 0.0 };
        let mut total = 0usize;
        let mut load = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            let (Some(input), Some(output)) = (request.input_length, request.output_length) else {
                let number = index + 1;
                let why = format!("request {number} has a text and no lengths: plan needs a trace with lengths");
                return Err(format!("{}: {why}", trace.name).into());
            };
            total = total.saturating_add(input);
            if total > MOST_TOKENS {
                let why = format!("its prompts have more than {MOST_TOKENS} tokens in all: use --limit {index}");
                return Err(format!("{}: {why}", trace.name).into());
            }
            load.push(Load {
                at_s: clock.next(index, request.timestamp_s - first_s),
                prompt: prompt(index as u64, input.max(1), &request.hash_ids, trace.block_size).into(),
                output_tokens: output.max(1),
            });
        }
        let instants = 1 + load.windows(2).filter(|two| two[0].at_s < two[1].at_s).count();
        let coarse = instants * 2 < load.len();
        Ok(Self { trace, load, own_rate, rate: settings.rate.unwrap_or(own_rate), coarse })
    }
}

/// When requests come.
struct Arrivals {
    arrival: PlanArrival,
    rate: f64,
    random: StdRng,
    at_s: f64,
}

impl Arrivals {
    /// The request of this number, which the trace has at `own_s`.
    fn next(&mut self, number: usize, own_s: f64) -> f64 {
        match self.arrival {
            PlanArrival::Trace => own_s,
            PlanArrival::Even => number as f64 / self.rate,
            PlanArrival::Poisson => {
                let at_s = self.at_s;
                self.at_s -= (1.0 - self.random.random::<f64>()).ln() / self.rate;
                at_s
            }
        }
    }
}

/// Tokens of a prompt: a block's are a function of its id and place within it, so that equal ids hit the prefix cache; what
/// no id covers is this request's alone.
fn prompt(request: u64, tokens: usize, ids: &[u64], block_size: Option<usize>) -> Vec<u32> {
    let mut prompt = Vec::with_capacity(tokens);
    for (&id, range) in ids.iter().zip(block_ranges(tokens, block_size.unwrap_or(0), 1.0)) {
        prompt.extend((0..range.len()).map(|place| token(id, place as u64)));
    }
    let rest = prompt.len()..tokens;
    // Traces number their ids from 0, or hash: none is the complement of a request's number.
    prompt.extend(rest.map(|place| token(!request, place as u64)));
    prompt
}

/// Any 31 bits that differ where either number does.
fn token(id: u64, place: u64) -> u32 {
    let x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(place).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_shr(33) as u32
}

/// Requests whose share of prompt tokens the prefix cache held, refused ones apart.
fn hit_rate(course: &Course, load: &[Load]) -> f64 {
    let served = course.fates.iter().zip(load).filter_map(|(fate, load)| match fate {
        Fate::Served(seen) => Some((seen.cached_tokens, load.prompt.len())),
        Fate::TooLong | Fate::QueueFull => None,
    });
    let (cached, prompts) = served.fold((0, 0), |(a, b), (cached, prompt)| (a + cached, b + prompt));
    cached as f64 / prompts.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_are_equal_tokens_and_nothing_else_is() {
        let a = prompt(0, 1300, &[7, 8, 9], Some(512));
        let b = prompt(1, 1100, &[7, 8, 9], Some(512));
        assert_eq!((a.len(), b.len()), (1300, 1100));
        assert_eq!(a[..1100], b[..], "a partial block is the beginning of the whole one");
        let c = prompt(2, 1300, &[7, 9, 9], Some(512));
        assert_eq!(a[..512], c[..512]);
        assert_ne!(a[512..528], c[512..528]);
        assert_eq!(c[512..788], c[1024..1300], "wherever an id stands");
        // More tokens than ids, or no ids: nobody else's.
        let (d, e) = (prompt(3, 40, &[], None), prompt(4, 40, &[], None));
        assert!(d.iter().zip(&e).all(|(d, e)| d != e));
        assert!(a.iter().chain(&d).all(|token| *token < 1 << 31));
    }
}
