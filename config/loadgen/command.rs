//! `minisgl loadgen` and the commands below it: which there are. The flags of each are in a file of its own.
use super::LoadgenArgs;
use super::compare::CompareArgs;
use super::inspect::InspectArgs;
use super::plan::PlanArgs;
use super::report::ReportArgs;
use super::self_test::SelfTestArgs;

/// `minisgl loadgen …`: a command below it, or a run.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CommandArgs {
    /// One of those below; without it, a run.
    #[command(subcommand)]
    pub command: Option<LoadgenCommand>,
    /// The run.
    #[command(flatten)]
    pub run: LoadgenArgs,
}

/// What the load generator does besides running a workload.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum LoadgenCommand {
    /// What is in a trace: arrivals, lengths, turns, and the prefix hit rate that a cache could reach
    Inspect(InspectArgs),
    /// Measure the load generator itself: its error, CPU and memory against a server of known timings
    SelfTest(SelfTestArgs),
    /// Size a deployment without hardware: how many replicas of simulated GPUs a trace needs within an SLO
    Plan(Box<PlanArgs>),
    /// Compare two runs' figures, with significance; exits with 1 where B is worse than --tolerance allows
    Compare(CompareArgs),
    /// Print the report of an earlier run again, or that of mini-sglang's raw form
    Report(ReportArgs),
}
