//! The command line of an engine, made from a template.
//!
//! A template is an argument vector with placeholders, so that any
//! OpenAI-compatible server can be run. No shell ever reads it.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// Arguments of llama.cpp's `llama-server`, used where only a program is named.
///
/// The key goes by file because every user can read an argument vector.
pub const LLAMA_SERVER_ARGUMENTS: [&str; 17] = [
    "--host",
    "{host}",
    "--port",
    "{port}",
    "-m",
    "{model}",
    "-a",
    "{alias}",
    "-c",
    "{context_total}",
    "-np",
    "{slots}",
    "--api-key-file",
    "{key_file}",
    "--metrics",
    "--slots",
    "--no-webui",
];

/// Every layer onto the cards: older builds leave all of them to the processor.
const ALL_LAYERS: [&str; 2] = ["-ngl", "999"];

/// What a placeholder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// Loopback address and port to listen on.
    pub listen: SocketAddr,
    /// File of the weights, or whatever the engine finds them by.
    pub model: String,
    /// Name that the engine shall give the model.
    pub alias: String,
    /// Tokens of context of each slot.
    pub context_tokens: u32,
    /// Requests at once.
    pub slots: u32,
    /// File with the key that callers must show.
    pub key_file: PathBuf,
    /// The build's own names of its devices; empty when it is not told any.
    pub devices: Vec<String>,
    /// How the layers are shared out among them.
    pub tensor_split: Vec<u32>,
}

/// A checked command line with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    words: Vec<String>,
    program: String,
    arguments: Vec<Vec<Part>>,
    kind: Kind,
}

/// Where the arguments come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A program alone: those of a llama-server, and what its devices need.
    Default,
    /// As they were written.
    Custom,
}

/// Why a command line cannot be a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// There is no program.
    #[error("the command is empty; name the engine's program first")]
    Empty,
    /// The program would have to be searched for.
    #[error("`{program}` is not an absolute path; no search path is used")]
    Relative {
        /// The program.
        program: String,
    },
    /// A word in braces is no placeholder.
    #[error("`{{{name}}}` is not a placeholder; there are {}", Known)]
    Unknown {
        /// The word.
        name: String,
    },
    /// The engine would not learn where to listen.
    #[error("no argument holds `{{port}}`: the worker chooses a free port at each start")]
    NoPort,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Host,
    Port,
    Model,
    Alias,
    Context,
    ContextTotal,
    Slots,
    KeyFile,
    Device,
    TensorSplit,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 10] = [
        ("host", Self::Host),
        ("port", Self::Port),
        ("model", Self::Model),
        ("alias", Self::Alias),
        ("context", Self::Context),
        ("context_total", Self::ContextTotal),
        ("slots", Self::Slots),
        ("key_file", Self::KeyFile),
        ("device", Self::Device),
        ("tensor_split", Self::TensorSplit),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, placeholder)| *placeholder)
    }

    fn fill(self, values: &Values) -> String {
        match self {
            Self::Host => values.listen.ip().to_string(),
            Self::Port => values.listen.port().to_string(),
            Self::Model => values.model.clone(),
            Self::Alias => values.alias.clone(),
            Self::Context => values.context_tokens.to_string(),
            // llama-server divides its context among its slots.
            Self::ContextTotal => {
                (u64::from(values.context_tokens) * u64::from(values.slots)).to_string()
            }
            Self::Slots => values.slots.to_string(),
            Self::KeyFile => values.key_file.display().to_string(),
            Self::Device => values.devices.join(","),
            Self::TensorSplit => {
                let shares: Vec<String> = values.tensor_split.iter().map(u32::to_string).collect();
                shares.join(",")
            }
        }
    }
}

impl Template {
    /// Checks a command: the program, then its arguments. With no arguments it is
    /// taken for a `llama-server`.
    ///
    /// # Errors
    /// [`InvalidTemplate`] names the rule that is broken.
    pub fn try_new(command: &[String]) -> Result<Self, InvalidTemplate> {
        let (program, arguments) = command.split_first().ok_or(InvalidTemplate::Empty)?;
        if program.is_empty() {
            return Err(InvalidTemplate::Empty);
        }
        if !program.starts_with('/') {
            return Err(InvalidTemplate::Relative { program: program.clone() });
        }
        let kind = if arguments.is_empty() { Kind::Default } else { Kind::Custom };
        let arguments: Vec<Vec<Part>> = match kind {
            Kind::Default => LLAMA_SERVER_ARGUMENTS
                .iter()
                .map(|argument| split(argument))
                .collect::<Result<_, _>>(),
            Kind::Custom => arguments.iter().map(|argument| split(argument)).collect(),
        }?;
        let port = Part::Value(Placeholder::Port);
        if !arguments.iter().any(|argument| argument.contains(&port)) {
            return Err(InvalidTemplate::NoPort);
        }
        Ok(Self { words: command.to_vec(), program: program.clone(), arguments, kind })
    }

    /// Whether the command tells the engine its devices.
    pub fn takes_devices(&self) -> bool {
        let device = Part::Value(Placeholder::Device);
        self.kind == Kind::Default
            || self.arguments.iter().any(|argument| argument.contains(&device))
    }

    /// The word behind the last of `flags`, if it is written out.
    pub fn value_of(&self, flags: &[&str]) -> Option<&str> {
        let mut pairs = self.words.iter().zip(self.words.iter().skip(1));
        let found = pairs.rfind(|(word, _)| flags.contains(&word.as_str()));
        found.map(|(_, value)| value.as_str())
    }

    /// The command as it was given.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The arguments with every placeholder filled in.
    pub fn arguments(&self, values: &Values) -> Vec<String> {
        let fill = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(placeholder) => placeholder.fill(values),
        };
        let mut arguments: Vec<String> =
            self.arguments.iter().map(|argument| argument.iter().map(fill).collect()).collect();
        if self.kind == Kind::Default && !values.devices.is_empty() {
            let device = Placeholder::Device.fill(values);
            arguments.extend([ALL_LAYERS[0], ALL_LAYERS[1], "-dev"].map(str::to_owned));
            arguments.push(device);
            if values.devices.len() > 1 {
                let split = Placeholder::TensorSplit.fill(values);
                arguments.extend(["-sm", "layer", "-ts"].map(str::to_owned));
                arguments.push(split);
            }
        }
        arguments
    }
}

/// Splits at `{word}`. Braces around anything but a lower-case word are text, so
/// that an argument may hold JSON.
fn split(argument: &str) -> Result<Vec<Part>, InvalidTemplate> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = argument;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if is_word(name) => {
                let placeholder = Placeholder::named(name)
                    .ok_or_else(|| InvalidTemplate::Unknown { name: name.to_owned() })?;
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Value(placeholder));
                rest = behind;
            }
            _ => {
                text.push('{');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    if !text.is_empty() || parts.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Prints the placeholders that there are.
struct Known;

impl fmt::Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, _)) in Placeholder::ALL.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(formatter, "{separator}{{{name}}}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(command: &[&str]) -> Result<Template, InvalidTemplate> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        Template::try_new(&command)
    }

    fn values() -> Values {
        Values {
            listen: "127.0.0.1:4711".parse().unwrap(),
            model: "/models/small model.gguf".into(),
            alias: "small".into(),
            context_tokens: 4096,
            slots: 2,
            key_file: "/run/key".into(),
            devices: Vec::new(),
            tensor_split: Vec::new(),
        }
    }

    #[test]
    fn a_program_alone_is_run_as_a_llama_server() {
        let arguments = template(&["/usr/bin/llama-server"]).unwrap().arguments(&values());
        assert_eq!(
            arguments.join(" "),
            "--host 127.0.0.1 --port 4711 -m /models/small model.gguf -a small -c 8192 -np 2 \
             --api-key-file /run/key --metrics --slots --no-webui"
        );
        assert_eq!(arguments[5], "/models/small model.gguf", "a space does not split an argument");
    }

    #[test]
    fn placeholders_stand_anywhere_and_other_braces_are_text() {
        let command = ["/bin/vllm", "--bind={host}:{port}", "{\"a\": {\"b\":1}}", "{", "{A}", ""];
        let arguments = template(&command).unwrap().arguments(&values());
        assert_eq!(arguments, ["--bind=127.0.0.1:4711", "{\"a\": {\"b\":1}}", "{", "{A}", ""]);
    }

    #[test]
    fn cards_are_named_to_the_engine_and_several_share_the_layers() {
        let one = Values { devices: vec!["Vulkan1".into()], tensor_split: vec![1], ..values() };
        let default = template(&["/usr/bin/llama-server"]).unwrap();
        assert!(default.arguments(&one).join(" ").ends_with("--no-webui -ngl 999 -dev Vulkan1"));
        let two = Values {
            devices: vec!["SYCL0".into(), "SYCL1".into()],
            tensor_split: vec![2, 1],
            ..values()
        };
        let words = default.arguments(&two).join(" ");
        assert!(words.ends_with("-dev SYCL0,SYCL1 -sm layer -ts 2,1"), "{words}");
        let custom = template(&["/e", "--port={port}", "-dev", "{device}"]).unwrap();
        assert_eq!(custom.arguments(&two), ["--port=4711", "-dev", "SYCL0,SYCL1"]);
        assert!(custom.takes_devices() && default.takes_devices());
        assert!(!template(&["/e", "{port}"]).unwrap().takes_devices());
    }

    #[test]
    fn a_value_that_is_written_out_can_be_looked_up() {
        let custom = template(&["/e", "{port}", "-ctk", "f16", "-ctk", "q8_0"]).unwrap();
        assert_eq!(custom.value_of(&["-ctk", "--cache-type-k"]), Some("q8_0"));
        assert_eq!(custom.value_of(&["-ctv"]), None);
    }

    #[test]
    fn each_broken_rule_is_named() {
        let table: &[(&[&str], &str)] = &[
            (&[], "the command is empty; name the engine's program first"),
            (&[""], "the command is empty; name the engine's program first"),
            (&["llama-server"], "`llama-server` is not an absolute path; no search path is used"),
            (
                &["/e", "{prot}"],
                "`{prot}` is not a placeholder; there are {host}, {port}, {model}, {alias}, \
                 {context}, {context_total}, {slots}, {key_file}, {device}, {tensor_split}",
            ),
            (
                &["/e", "--serve"],
                "no argument holds `{port}`: the worker chooses a free port at each start",
            ),
        ];
        for (command, expected) in table {
            assert_eq!(&template(command).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_large_context_of_many_slots_does_not_overflow() {
        let huge = Values { context_tokens: u32::MAX, slots: 256, ..values() };
        let arguments = template(&["/e", "{port}", "{context_total}"]).unwrap().arguments(&huge);
        assert_eq!(arguments[1], "1099511627520");
    }
}
