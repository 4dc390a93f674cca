//! The builds of an engine: what is started, and what is started instead of it.

use std::fmt;

use crate::{
    engine::{
        backend::{self, Backend},
        command::Template,
    },
    model::Model,
};

/// A build, and the one before it.
#[derive(Debug, Clone)]
pub struct Build {
    /// What it computes with; `None` when nobody has said so.
    pub backend: Option<Backend>,
    /// Its command line.
    pub command: Template,
    /// The same of an earlier build that was known to be good.
    pub previous: Option<Template>,
    /// Its environment, which is otherwise empty.
    pub environment: Vec<(String, String)>,
}

/// One thing that can be started.
#[derive(Debug, Clone)]
pub struct Variant {
    /// What it computes with.
    pub backend: Option<Backend>,
    /// Its command line.
    pub command: Template,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// Which of a build's two it is.
    pub age: Age,
}

/// Which of two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// The one that is wanted.
    Current,
    /// The one before it.
    Previous,
}

impl Variant {
    /// Whether a person has chosen the device by hand.
    pub fn is_placed_by_hand(&self) -> bool {
        backend::is_chosen_by_hand(&self.environment, self.command.words())
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.backend {
            write!(formatter, "{backend}, ")?;
        }
        if self.age == Age::Previous {
            formatter.write_str("previous build, ")?;
        }
        formatter.write_str(self.command.program())
    }
}

/// What can be started for a model, best first: by the model's own order of backends
/// where it has one, else by the engine's, and each build before its previous one.
pub fn variants(builds: &[Build], model: &Model) -> Vec<Variant> {
    let ordered: Vec<&Build> = if model.options.backends.is_empty() {
        builds.iter().collect()
    } else {
        let wanted = model.options.backends.iter().copied();
        let of = |wanted| builds.iter().filter(move |build| build.backend == Some(wanted));
        wanted.flat_map(of).collect()
    };
    let both = |build: &Build| {
        let variant = |command: &Template, age| Variant {
            backend: build.backend,
            command: command.clone(),
            environment: build.environment.clone(),
            age,
        };
        let current = variant(&build.command, Age::Current);
        let previous = build.previous.as_ref().map(|command| variant(command, Age::Previous));
        std::iter::once(current).chain(previous).collect::<Vec<_>>()
    };
    ordered.into_iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Options;

    fn build(backend: Backend, previous: Option<&str>) -> Build {
        let template = |program: &str| Template::try_new(&[program.to_owned()]).unwrap();
        Build {
            backend: Some(backend),
            command: template(&format!("/opt/{backend}/llama-server")),
            previous: previous.map(template),
            environment: Vec::new(),
        }
    }

    fn listed(builds: &[Build], backends: &[Backend]) -> Vec<String> {
        let options = Options { backends: backends.to_vec(), ..Options::default() };
        let model = Model::new("m".parse().unwrap(), None, options);
        variants(builds, &model).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_build_comes_before_its_previous_one_and_the_next_backend_last() {
        let builds =
            [build(Backend::Vulkan, Some("/opt/old/llama-server")), build(Backend::Sycl, None)];
        let expected = [
            "vulkan, /opt/vulkan/llama-server",
            "vulkan, previous build, /opt/old/llama-server",
            "sycl, /opt/sycl/llama-server",
        ];
        assert_eq!(listed(&builds, &[]), expected);
    }

    #[test]
    fn a_model_has_an_order_of_its_own_and_leaves_out_what_it_does_not_name() {
        let builds = [build(Backend::Vulkan, None), build(Backend::Sycl, None)];
        let turned = ["sycl, /opt/sycl/llama-server", "vulkan, /opt/vulkan/llama-server"];
        assert_eq!(listed(&builds, &[Backend::Sycl, Backend::Vulkan]), turned);
        assert_eq!(listed(&builds, &[Backend::Vulkan]), turned[1..]);
        assert_eq!(listed(&builds, &[Backend::Cpu]), [] as [&str; 0]);
    }
}
