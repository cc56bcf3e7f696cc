//! Where the JSON goes: checked before anything is sent, written when all is done.
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use minisgl_config::loadgen::settings::JsonOutput;

use super::RunReport;
use crate::error::LoadgenError;

/// A place that can be written to. If it is dropped unwritten, a file that it made is removed.
pub(crate) struct JsonSink {
    output: JsonOutput,
    created: bool,
}

impl JsonSink {
    /// Checks that `output` can be written, and leaves a file that exists as it is.
    pub(crate) fn open(output: &JsonOutput) -> Result<Self, LoadgenError> {
        let created = match output {
            JsonOutput::Stdout => false,
            JsonOutput::File(path) => {
                let created = !path.exists();
                let file = OpenOptions::new().append(true).create(true).open(path);
                file.map_err(|source| LoadgenError::Json { path: path.clone(), source })?;
                created
            }
        };
        Ok(Self { output: output.clone(), created })
    }

    /// Writes one report as an object, several as an array.
    pub(crate) fn write(mut self, reports: &[RunReport]) -> Result<(), LoadgenError> {
        let json = super::folder::summary_json(&reports.iter().collect::<Vec<_>>());
        self.write_bytes(&json)
    }

    /// Writes any value.
    pub(crate) fn write_value(mut self, value: &serde_json::Value) -> Result<(), LoadgenError> {
        self.write_bytes(format!("{value:#}\n").as_bytes())
    }

    fn write_bytes(&mut self, json: &[u8]) -> Result<(), LoadgenError> {
        let written = match &self.output {
            JsonOutput::Stdout => std::io::stdout().lock().write_all(json),
            JsonOutput::File(path) => std::fs::write(path, json),
        };
        self.created &= written.is_err();
        written.map_err(|source| LoadgenError::Json { path: self.path(), source })
    }

    fn path(&self) -> PathBuf {
        match &self.output {
            JsonOutput::Stdout => PathBuf::from("-"),
            JsonOutput::File(path) => path.clone(),
        }
    }
}

impl Drop for JsonSink {
    fn drop(&mut self) {
        if self.created {
            // An empty file is all that is lost if this fails.
            let _ = std::fs::remove_file(self.path());
        }
    }
}
