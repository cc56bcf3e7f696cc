//! `minisgl chat` and `serve --shell`: a conversation in the terminal.
//!
//! The history is the conversation's own; the engine's prefix cache makes the next turn cheap.
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use minisgl::llm::{Llm, SamplingParams, TextEvent};
use minisgl_config::{EngineSettings, ShellSettings};
use minisgl_tokenizer::ChatMessage;
use rustyline::error::ReadlineError;

use super::{Failed, Outcome, load};

const HELP: &str = "/reset starts a new conversation, /exit (or Ctrl-D) leaves";

/// Runs until `/exit` or the end of input.
pub(crate) fn run(engine: &EngineSettings, shell: &ShellSettings) -> Outcome {
    let llm = load::load(engine)?;
    eprintln!("{} on {}. {HELP}.", llm.model().id, llm.device());
    let mut input = Input::new()?;
    let mut history: Vec<ChatMessage> = Vec::new();
    while let Some(line) = input.line()? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => history.clear(),
            command if command.starts_with('/') => eprintln!("unknown command {command}: {HELP}"),
            said => {
                history.push(ChatMessage::new("user", said));
                match answer(&llm, &history, shell) {
                    Ok(text) => history.push(ChatMessage::new("assistant", text)),
                    Err(error) => {
                        history.pop();
                        eprintln!("error: {error}");
                    }
                }
            }
        }
    }
    llm.shutdown();
    Ok(ExitCode::SUCCESS)
}

/// Prints the answer as it comes, and returns it.
fn answer(llm: &Llm, history: &[ChatMessage], shell: &ShellSettings) -> Result<String, Failed> {
    let params = SamplingParams {
        temperature: shell.temperature as f32,
        top_k: shell.top_k,
        top_p: shell.top_p as f32,
        max_tokens: shell.max_tokens,
        ..SamplingParams::default()
    };
    let mut whole = String::new();
    let mut stdout = std::io::stdout();
    for event in llm.generate_stream(history.to_vec(), params)? {
        match event?.1 {
            TextEvent::Token { text, .. } | TextEvent::Finished { text, .. } => {
                whole += &text;
                write!(stdout, "{text}")?;
                stdout.flush()?;
            }
            TextEvent::Failed(failure) => return Err(failure.into()),
        }
    }
    writeln!(stdout)?;
    Ok(whole)
}

/// Lines from a terminal, with editing and history, or from a pipe.
enum Input {
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    fn new() -> rustyline::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe(std::io::stdin().lock().lines()));
        }
        Ok(Self::Terminal(Box::new(rustyline::DefaultEditor::new()?)))
    }

    /// The next line, or `None` at the end. Ctrl-C drops the line that is being typed.
    fn line(&mut self) -> Result<Option<String>, Failed> {
        match self {
            Self::Pipe(lines) => Ok(lines.next().transpose()?),
            Self::Terminal(editor) => loop {
                match editor.readline("$ ") {
                    Ok(line) => {
                        editor.add_history_entry(&line)?;
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }
}
