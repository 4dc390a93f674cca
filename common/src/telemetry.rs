//! Logs: to the journal, as text, or as JSON; the level changes at run time.

use std::{fmt, io, str::FromStr, sync::Arc};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
    reload,
};

/// Where logs go and how they look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The journal when systemd connected stderr to it, otherwise text.
    #[default]
    Auto,
    /// Lines for people, on stderr.
    Text,
    /// One JSON object per line, on stderr.
    Json,
}

/// The text is not the name of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`auto`, `text` or `json`")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or `target=level` rules: see [`Telemetry::set_level`].
    pub level: String,
    /// Where logs go and how they look.
    pub format: Format,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Auto }
    }
}

/// Why logs cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not understood.
    #[error(
        "`{level}` is not a log level; allowed: off, error, warn, info, debug or trace, \
         alone or per target, such as `info,homelab_agent=debug`"
    )]
    Level {
        /// What was given.
        level: String,
    },
    /// Logs were set up before in this process.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Changes the logs of the running process. Clones are the same handle.
#[derive(Clone)]
pub struct Telemetry {
    set: Arc<dyn Fn(Targets) + Send + Sync>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Logs at `level` from now on: `off`, `error`, `warn`, `info`, `debug` or
    /// `trace`, alone or per target, separated by commas.
    ///
    /// # Errors
    ///
    /// The level is not understood; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        (self.set)(filter(level)?);
        Ok(())
    }
}

/// Sets up the logs of this process, once.
///
/// # Errors
///
/// The level is not understood, or logs were set up before.
pub fn init(config: &LogConfig) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = build(config, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::AlreadySet)?;
    Ok(telemetry)
}

fn build<W>(
    config: &LogConfig,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, Telemetry), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let subscriber = Registry::default().with(filter).with(output(config.format, writer));
    let set = move |new| {
        // Fails only when the subscriber is gone, and then nobody reads logs.
        let _gone = handle.reload(new);
    };
    Ok((subscriber, Telemetry { set: Arc::new(set) }))
}

fn output<S, W>(format: Format, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let text = tracing_subscriber::fmt::layer();
    match format {
        Format::Json => text.json().flatten_event(true).with_writer(writer).boxed(),
        Format::Text => text.with_ansi(false).with_writer(writer).boxed(),
        Format::Auto => match journal() {
            Some(journal) => journal.boxed(),
            None => text.with_ansi(false).with_writer(writer).boxed(),
        },
    }
}

/// systemd sets `$JOURNAL_STREAM` when stderr goes to the journal (systemd.exec(5)).
fn journal() -> Option<tracing_journald::Layer> {
    std::env::var_os("JOURNAL_STREAM")?;
    tracing_journald::layer().ok()
}

/// Stricter than [`Targets`], which takes a misspelt level for a target and
/// then logs nothing else.
fn filter(level: &str) -> Result<Targets, TelemetryError> {
    let wrong = || TelemetryError::Level { level: level.into() };
    let known = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word)
            && word.parse::<LevelFilter>().is_ok()
    };
    let is_target = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.');
    for rule in level.split(',').map(str::trim) {
        let fits = match rule.split_once('=') {
            None => known(rule),
            Some((target, word)) => {
                !target.is_empty() && target.chars().all(is_target) && known(word)
            }
        };
        if !fits {
            return Err(wrong());
        }
    }
    level.replace(' ', "").parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Mutex};

    use tracing::{debug, info};

    use super::*;
    use crate::lock;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: &LogConfig, log: impl FnOnce(&Telemetry)) -> String {
        let buffer = Buffer::default();
        let for_writer = buffer.clone();
        let (subscriber, telemetry) =
            build(config, move || for_writer.clone()).expect("a valid configuration");
        tracing::subscriber::with_default(subscriber, || log(&telemetry));
        let bytes = lock(&buffer.0).clone();
        String::from_utf8(bytes).expect("text")
    }

    fn text() -> LogConfig {
        LogConfig { format: Format::Text, ..LogConfig::default() }
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let log = logged(&text(), |telemetry| {
            debug!("before");
            telemetry.set_level("debug").expect("a level");
            debug!("after");
        });
        assert!(!log.contains("before") && log.contains("after"), "{log}");
    }

    #[test]
    fn a_bad_level_is_refused_and_the_old_one_stays() {
        let log = logged(&text(), |telemetry| {
            let message = telemetry.set_level("inof").expect_err("refused").to_string();
            assert!(message.contains("off, error, warn, info, debug or trace"), "{message}");
            info!("still here");
        });
        assert!(log.contains("still here"), "{log}");
    }

    #[test]
    fn rules_per_target_are_accepted_and_nonsense_is_not() {
        for good in ["warn", "info,homelab_agent=debug", "info, a::b=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "info,", "a=loud", "=info", "INFO", "[span]=info"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_lines_carry_the_fields() {
        let config = LogConfig { format: Format::Json, ..LogConfig::default() };
        let log = logged(&config, |_| info!(answer = 42, "asked"));
        let line: serde_json::Value = serde_json::from_str(&log).expect("JSON");
        assert_eq!((&line["answer"], &line["message"]), (&42.into(), &"asked".into()));
    }
}
