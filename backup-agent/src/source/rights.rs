//! Which rights a source needs where it reads, and which of them it has.

/// How a right stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RightState {
    /// It is there.
    Held,
    /// A backup cannot succeed without it.
    Missing,
    /// It is there and a backup does not need it.
    Excess,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Stable, in camel case: `CanRead`.
    pub what: &'static str,
    /// How it stands.
    pub state: RightState,
    /// A sentence.
    pub text: String,
    /// What to run against it, a line each; empty when nothing helps.
    pub remedy: Vec<String>,
}

/// The least that a source needs, and how that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// What gives the rights from nothing, in order, to be typed as it is. Never a secret.
    pub statements: Vec<String>,
    /// What was tried with the rights that there are, the worst first.
    pub tried: Vec<Tried>,
}

impl Explained {
    /// Of a source that can only be tried as a whole.
    #[must_use]
    pub fn by_trying(outcome: Result<Vec<String>, String>) -> Self {
        let (state, texts) = match outcome {
            Ok(findings) => (RightState::Held, findings),
            Err(why) => (RightState::Missing, vec![why]),
        };
        let tried = |text| Tried { what: "CanBackUp", state, text, remedy: Vec::new() };
        Self { statements: Vec::new(), tried: texts.into_iter().map(tried).collect() }
    }
}
