//! Providers outside the house, and what may go to them.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    gold::{Budget, Price, Rule},
    ids::{ModelName, ProviderName},
};

/// Requests that run at one provider at a time, unless the file says otherwise.
pub const PARALLEL: u32 = 4;

/// Everything that the site says about the tier that leaves the house.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gold {
    /// Providers.
    pub providers: Vec<Provider>,
    /// Rules, in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// Budgets. Every one that covers a job must have room for it.
    pub budgets: Vec<Budget>,
    /// Words that count as a finding.
    pub words: Vec<String>,
    /// What money is counted in, for people.
    pub currency: String,
}

impl Gold {
    /// The provider of a model, and how it offers it: the first in the file.
    #[must_use]
    pub fn offer(&self, model: &ModelName) -> Option<(&Provider, &ProviderModel)> {
        self.providers.iter().find_map(|provider| Some((provider, provider.model(model)?)))
    }

    /// The provider of that name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name.as_str() == name)
    }
}

/// Someone outside who speaks OpenAI's chat API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Name.
    pub name: ProviderName,
    /// Where its API is: the only place that its key and any text ever go to.
    pub url: ProviderUrl,
    /// Where its key is kept, as the daemon that loads it understands.
    pub key: String,
    /// File with the CAs that may vouch for it; none means those of the system.
    pub ca_file: Option<PathBuf>,
    /// Requests that run there at a time.
    pub parallel: u32,
    /// How it calls the most tokens to answer with.
    pub tokens_field: TokensField,
    /// What it offers.
    pub models: Vec<ProviderModel>,
}

impl Provider {
    /// How it offers a model.
    #[must_use]
    pub fn model(&self, name: &ModelName) -> Option<&ProviderModel> {
        self.models.iter().find(|model| model.name == *name)
    }
}

/// One model of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderModel {
    /// What jobs call it.
    pub name: ModelName,
    /// What the provider calls it.
    pub upstream: ModelName,
    /// What it costs.
    pub price: Price,
    /// Tokens that a request and its answer may hold together.
    pub context_tokens: u32,
    /// Most tokens that are ever asked for in one answer.
    pub output_tokens_max: u32,
}

crate::words! {
    /// The field of a request that bounds the answer.
    TokensField {
        /// What most servers understand.
        MaxTokens = "max_tokens",
        /// What OpenAI's newer models want.
        MaxCompletionTokens = "max_completion_tokens",
    }
}

/// Where a provider's API begins: `https://openrouter.ai/api/v1`.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderUrl {
    host: String,
    port: u16,
    path: String,
}

/// The text is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address such as \"https://openrouter.ai/api/v1\": {0}")]
pub struct InvalidProviderUrl(&'static str);

impl ProviderUrl {
    /// DNS name or IP address, which its certificate must carry.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What every path of the API begins with: empty, or with a slash in front and none at the end.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for ProviderUrl {
    type Err = InvalidProviderUrl;

    fn from_str(text: &str) -> Result<Self, InvalidProviderUrl> {
        let rest = text
            .strip_prefix("https://")
            .ok_or(InvalidProviderUrl("it must begin with https://, for the key goes there"))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(InvalidProviderUrl("the key does not stand in it; name it in `key`"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or(InvalidProviderUrl("the port is no number from 1 to 65535"))?)
            }
            _ => (authority, 443),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
        if bare.is_empty() || !bare.chars().all(in_name) {
            return Err(InvalidProviderUrl("the host is no name in lower case and no address"));
        }
        let path = path.trim_end_matches('/');
        let in_path = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if !path.chars().all(in_path) || path.contains("..") {
            return Err(InvalidProviderUrl("its path has letters, digits and - . _ ~ / only"));
        }
        Ok(Self { host: bare.to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}{path}")
        } else {
            write!(f, "https://{host}:{port}{path}")
        }
    }
}

impl fmt::Debug for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_pins_host_port_and_path() {
        let url: ProviderUrl = "https://openrouter.ai/api/v1/".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("openrouter.ai", 443, "/api/v1"));
        let url: ProviderUrl = "https://[::1]:8443".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("::1", 8443, ""));
        assert_eq!(url.to_string(), "https://[::1]:8443");
    }

    #[test]
    fn an_address_without_tls_or_with_a_key_in_it_is_refused() {
        for wrong in [
            "http://api.openai.com/v1",
            "https://",
            "https://key@api.openai.com/v1",
            "https://api.openai.com:0/v1",
            "https://api.openai.com/v1?key=x",
            "https://api.openai.com/../v1",
            "https://API.openai.com",
            "api.openai.com",
        ] {
            assert!(wrong.parse::<ProviderUrl>().is_err(), "{wrong}");
        }
    }
}
