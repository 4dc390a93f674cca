//! Sources of documents.

use super::{SiteProblem, each, unique};
use crate::{
    context::{GitPlace, Origin, RUNBOOKS},
    site::SiteDraft,
};

impl SiteDraft {
    pub(super) fn context_fits(&self, problems: &mut Vec<SiteProblem>) {
        unique(problems, "context.source", "name", each(&self.context, |one| Some(&one.name)));
        for (index, source) in self.context.iter().enumerate() {
            let mut problem = |key: &str, message: &str| {
                problems.push(SiteProblem::new(format!("context.source[{index}].{key}"), message));
            };
            if source.name.as_str() == RUNBOOKS {
                problem("name", "approved runbooks are called so already; choose another name");
            }
            let Origin::Git(git) = &source.origin else { continue };
            if git.token.is_some() && !matches!(git.place, GitPlace::Https(_)) {
                problem("token", "only an address of HTTPS takes a token");
            }
        }
    }
}
