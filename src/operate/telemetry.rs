//! Logs on standard error: JSON for machines, text for people. A panic is logged without what it may hold.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// Text where somebody watches, JSON otherwise.
    pub fn for_stderr() -> Self {
        if io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// The filter when nothing else is asked for. What the client says of a failed call, its caller says as well.
pub const DEFAULT_FILTER: &str = "info,kube_client=off";

/// Logs that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not follow the format.
    #[error("read the log filter `{filter}`: write for example info or quartermaster=debug,kube=warn")]
    ParseFilter {
        /// The filter.
        filter: String,
        /// What is wrong.
        source: ParseError,
    },
    /// Something else has set up logs in this process.
    #[error("install the log subscriber")]
    Install(#[from] TryInitError),
}

/// Sets up logs for the whole process, once: on standard error, with the lines that `filter` lets through (the format of
/// `RUST_LOG`, for example `info` or `quartermaster=debug`), and panics among them.
///
/// # Errors
///
/// When the filter cannot be read, or logs were set up before.
pub fn initialize(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let color = io::stderr().is_terminal();
    subscriber(format, filter, color, io::stderr)?.try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    color: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let parsed =
        EnvFilter::builder().parse(filter).map_err(|source| TelemetryError::ParseFilter { filter: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(writer);
    Ok(match format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
        LogFormat::Text => Box::new(builder.with_ansi(color).finish()),
    })
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    // Captured only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        location,
        thread = thread.name().unwrap_or("unnamed"),
        backtrace,
        "panicked: {}",
        panic_message(panic.payload())
    );
}

/// What may be told about a panic: a literal of the source code holds no data; a formatted message may hold a Secret's
/// value, as in the panic of an `unwrap` on an error that quotes what it read.
pub fn panic_message(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("the message is withheld because it may hold data")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, act: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, act);
        lines.text()
    }

    #[test]
    fn json_logs_are_one_object_a_line_with_fields_beside_the_message() {
        let text = logged(LogFormat::Json, DEFAULT_FILTER, || tracing::info!(kind = "InferenceBackend", "applied"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "applied");
        assert_eq!(line["kind"], "InferenceBackend");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn the_filter_decides_by_target_and_level() {
        let text = logged(LogFormat::Text, "warn,quartermaster=debug", || {
            tracing::debug!("ours");
            tracing::info!(target: "kube", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error_that_shows_one_that_can() {
        let error = subscriber(LogFormat::Text, "quartermaster=loud", false, io::sink).err().unwrap();
        assert!(error.to_string().contains("quartermaster=loud") && error.to_string().contains("quartermaster=debug"), "{error}");
    }

    #[test]
    fn a_panic_is_logged_with_its_place_and_without_the_data_in_its_message() {
        let secret = String::from("hunter2");
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let text = logged(LogFormat::Json, DEFAULT_FILTER, || {
            let _ = std::panic::catch_unwind(|| panic!("the password is {secret}"));
            let _ = std::panic::catch_unwind(|| panic!("a literal"));
        });
        std::panic::set_hook(before);
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("a literal") && text.contains("withheld") && text.contains("telemetry.rs:"), "{text}");
    }
}
