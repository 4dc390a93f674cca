//! Providers, rules and budgets of the site file.

use std::path::PathBuf;

use homelab_common::config::{Allowed, Section, Value, parse};
use homelab_domain::{
    gold::{Action, Asker, Budget, DataClass, Money, Price, Rule, Tag},
    ids::ModelName,
    site::{Gold, PARALLEL, Provider, ProviderModel, ProviderUrl, TokensField},
};

use super::each;

/// Longest listed word, in bytes.
const WORD_BYTES_MAX: usize = 100;

/// Tokens that any model can hold, with room for what is to come.
const TOKENS_MAX: u32 = 10_000_000;

/// Tokens of an answer unless the file says otherwise.
const OUTPUT_TOKENS: u32 = 4_096;

/// Requests that may run at one provider at a time.
const PARALLEL_MAX: u32 = 64;

pub(super) fn gold(ai: &Section<'_>) -> Option<Gold> {
    let providers = each(ai, "provider", provider);
    let rules = each(ai, "rule", rule);
    let budgets = each(ai, "budget", budget);
    let words = ai.list("words", parse::text(word));
    let currency = ai.or("currency", "USD".to_owned(), parse::text(currency));
    Some(Gold { providers: providers?, rules: rules?, budgets: budgets?, words, currency })
}

fn provider(section: &Section<'_>) -> Option<Provider> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let url = section.required("url", url);
    let key = section.required("key", parse::secret_source);
    let ca_file: Option<PathBuf> = section.optional("ca-file", parse::path);
    let parallel = section.or("parallel", PARALLEL, parse::integer(1..=PARALLEL_MAX));
    let fields: Vec<_> = TokensField::ALL.iter().map(|field| (field.as_str(), *field)).collect();
    let tokens_field = section.or("tokens-field", TokensField::MaxTokens, parse::word(&fields));
    let models = each(section, "model", model);
    Some(Provider {
        name: name?,
        url: url?,
        key: key?.to_string(),
        ca_file,
        parallel,
        tokens_field,
        models: models?,
    })
}

fn model(section: &Section<'_>) -> Option<ProviderModel> {
    let name = section.required("name", parse::text(|text| text.parse::<ModelName>()));
    let upstream = section.optional("upstream", parse::text(|text| text.parse::<ModelName>()));
    let input = section.required("input-price", money);
    let output = section.required("output-price", money);
    let context = section.required("context", parse::integer(1..=TOKENS_MAX));
    let output_tokens_max =
        section.or("output-tokens-max", OUTPUT_TOKENS, parse::integer(1..=TOKENS_MAX));
    let name = name?;
    Some(ProviderModel {
        upstream: upstream.unwrap_or_else(|| name.clone()),
        name,
        price: Price { input: input?, output: output? },
        context_tokens: context?,
        output_tokens_max,
    })
}

fn rule(section: &Section<'_>) -> Option<Rule> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let keys = section.list("keys", parse::text(|text| text.parse::<Asker>()));
    let tags = section.list("tags", parse::text(|text| text.parse::<Tag>()));
    let classes: Vec<_> = DataClass::ALL.iter().map(|class| (class.as_str(), *class)).collect();
    let classes = section.list("classes", parse::word(&classes));
    let actions: Vec<_> = Action::ALL.iter().map(|action| (action.as_str(), *action)).collect();
    let action = section.required("action", parse::word(&actions));
    section.or("description", String::new(), parse::string);
    Some(Rule { name: name?, keys, tags, classes, action: action? })
}

fn budget(section: &Section<'_>) -> Option<Budget> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let keys = section.list("keys", parse::text(|text| text.parse::<Asker>()));
    let day = section.optional("day", money);
    let month = section.optional("month", money);
    Some(Budget { name: name?, keys, day, month })
}

/// Text, since a binary fraction is no amount of money.
fn money(value: &Value<'_>) -> Result<Money, Allowed> {
    let text = value.as_str().map(str::to_owned);
    let text = text.or_else(|| value.as_integer().map(|whole| whole.to_string()));
    let text = text.ok_or_else(|| Allowed::new("an amount in quotes, such as \"2.50\""))?;
    text.parse()
        .map_err(|error: homelab_domain::gold::InvalidMoney| Allowed::new(error.to_string()))
}

fn url(value: &Value<'_>) -> Result<ProviderUrl, Allowed> {
    // Some write the key into it.
    parse::text(|text| text.parse::<ProviderUrl>())(value).map_err(Allowed::hiding_what_was_seen)
}

fn word(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.chars().count() >= 2 && text.len() <= WORD_BYTES_MAX {
        Ok(text.to_owned())
    } else {
        Err("a word or phrase of 2 to 100 characters")
    }
}

fn currency(text: &str) -> Result<String, &'static str> {
    if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err("three capital letters, such as \"USD\" or \"EUR\"")
    }
}

#[cfg(test)]
mod tests {
    use homelab_domain::site::Tier;
    use jiff::Timestamp;

    use super::*;
    use crate::site::SiteFile;

    const EXAMPLE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/examples/homelab.toml"));

    fn parsed(text: &str) -> Result<SiteFile, String> {
        SiteFile::parse("homelab.toml", text, Timestamp::UNIX_EPOCH)
            .map_err(|report| report.to_string())
    }

    #[test]
    fn the_gold_part_of_the_example_is_valid_once_it_is_switched_on() {
        let text = EXAMPLE.replace("#:", "");
        let file = parsed(&text).unwrap_or_else(|report| panic!("{report}"));
        let gold = file.site.gold();
        let model = ModelName::try_new("far-small").expect("a name");
        let (provider, offer) = gold.offer(&model).expect("offered");
        assert_eq!((provider.url.host(), provider.url.port()), ("openrouter.ai", 443));
        assert_eq!(offer.upstream.as_str(), "openai/gpt-4o-mini");
        assert_eq!(offer.price.output.to_string(), "0.60");
        assert_eq!(gold.rules.len(), 3);
        assert!(file.site.tier(Tier::Gold).is_some());
        assert!(parsed(EXAMPLE).expect("valid").site.gold().providers.is_empty());
    }

    #[test]
    fn every_problem_of_single_values_is_reported_with_its_line() {
        let text = "\
[site]
name = \"home\"
[ai]
words = [\"x\"]
[[ai.provider]]
name = \"far\"
url = \"http://far.example\"
key = \"sk-12345\"
[[ai.provider.model]]
name = \"a\"
input-price = 0.15
output-price = \"0.6\"
context = 0
[[ai.rule]]
name = \"r\"
keys = [\"ann\"]
classes = [\"host-nam\"]
action = \"alow\"
[[ai.budget]]
name = \"b\"
day = \"1,00\"
";
        let report = parsed(text).expect_err("has problems");
        for part in [
            "homelab.toml: 9 problems",
            "   7 | ai.provider[0].url",
            "  11 | ai.provider[0].model[0].input-price = 0.15",
            "did you mean `host-name`?",
            "did you mean `allow`?",
            "key/open-webui",
        ] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
        assert!(!report.contains("12345"), "a key in the file is not repeated: {report}");
    }

    #[test]
    fn contradictions_are_reported_at_the_line_of_the_key() {
        let text = "\
[site]
name = \"home\"
[[host]]
name = \"far\"
address = \"192.0.2.1\"
[[ai.tier]]
tier = \"gold\"
hosts = [\"far\"]
models = [\"b\"]
[[ai.provider]]
name = \"far\"
url = \"https://far.example\"
key = \"/etc/homelab/far.key\"
[[ai.provider.model]]
name = \"a\"
input-price = 1
output-price = 1
context = 100
[[ai.rule]]
name = \"r\"
classes = [\"secret\"]
action = \"allow\"
";
        let report = parsed(text).expect_err("has problems");
        for part in [
            "   9 | ai.tier[0].models",
            "gold leaves the house: it has providers and no hosts",
            "  11 | ai.provider[0].name",
            "nothing bounds what is spent",
            "ai.provider[0].model[0].output-tokens-max",
            "  22 | ai.rule[0].action",
            "a secret never leaves as it is",
        ] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
    }
}
