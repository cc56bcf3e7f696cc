//! `minisgl loadgen self-test`: its flags.
use std::time::Duration;

/// Flags of the self-test.
#[derive(clap::Args, Clone, Debug)]
pub struct SelfTestArgs {
    /// Streams at once and milliseconds between their tokens: the steps of the test
    #[arg(long, value_name = "STREAMS:ITL_MS,…", value_delimiter = ',', value_parser = step,
          default_value = "512:20,2000:100,4000:100,8000:100,2000:20,512:20:burst")]
    pub steps: Vec<Step>,

    /// Milliseconds to the server's first token
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub ttft_ms: u64,

    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    pub tokens: u64,

    /// Seconds of even arrivals a step; at least two answers' length. A burst is four answers a stream instead
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    pub seconds: u64,

    /// Requests a second of the pacing step, whose arrivals are Poisson; 0 leaves it out
    #[arg(long, value_name = "R", default_value_t = 1000)]
    pub pacing_rate: u64,

    /// Threads of the load generator that read answers; 0 is automatic
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,

    /// Exit with 4 where an error or a cost is beyond its bound (loadgen/README.md has them)
    #[arg(long)]
    pub strict: bool,

    /// Write the figures as JSON; `-` is stdout
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<String>,

    /// Serve the known timings on this port until stdin ends, instead of testing: what the test starts beside itself
    #[arg(long, value_name = "PORT", hide = true)]
    pub serve: Option<u16>,
}

/// One step of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Answers that stream at once.
    pub streams: u64,
    /// Between their tokens.
    pub itl: Duration,
    /// A closed loop without a ramp, instead of even arrivals.
    pub burst: bool,
}

fn step(text: &str) -> Result<Step, String> {
    let wrong = || "must be STREAMS:ITL_MS or STREAMS:ITL_MS:burst, e.g. 512:20".to_owned();
    let mut parts = text.trim().split(':');
    let mut number = |most: u64| {
        let n: u64 = parts.next()?.parse().ok()?;
        (1..=most).contains(&n).then_some(n)
    };
    let streams = number(50_000).ok_or_else(wrong)?;
    let itl = Duration::from_millis(number(10_000).ok_or_else(wrong)?);
    let burst = match parts.next() {
        None => false,
        Some("burst") => true,
        Some(_) => return Err(wrong()),
    };
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(Step { streams, itl, burst })
}
