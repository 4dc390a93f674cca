//! The recovery kit as text that can be printed. It holds no secret; there is room to write them.

use homelab_proto::{
    backup::v1::SourceKind,
    controller::v1::{
        ColdStart, GetRecoveryKitResponse, KitBackup, KitHost, KitProof, KitRepository, KitSecret,
    },
};

use crate::output::{Rows, date, indented, short, word};

/// A line to write on.
const LINE: &str = "______________________________________________________________";

/// The whole kit.
pub(super) fn text(kit: &GetRecoveryKitResponse) -> String {
    let parts = [
        head(kit),
        section("Secrets: write each on its line; none is printed", &secrets(&kit.secrets)),
        section("Hosts", &hosts(&kit.hosts)),
        section("Repositories", &repositories(&kit.repositories)),
        section("Backups, and how each comes back without homelab", &backups(&kit.backups)),
        section("The order of a cold start", &cold_start(kit.cold_start.as_ref())),
        section("Certificate of the CA's root", &kit.ca_root_pem),
        section("Public key that evidence is signed with", &kit.evidence_public_key_pem),
    ];
    parts.concat()
}

fn section(title: &str, text: &str) -> String {
    let text =
        if text.trim().is_empty() { "  nothing declared\n".to_owned() } else { text.to_owned() };
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    format!("\n{title}\n{}\n{text}{newline}", "-".repeat(title.chars().count()))
}

fn head(kit: &GetRecoveryKitResponse) -> String {
    let title = format!("RECOVERY KIT of {}", kit.site);
    format!(
        "{title}\n{}\nmade {} UTC\nfingerprint {}\n{}next proof due {} UTC\n",
        "=".repeat(title.chars().count()),
        date(kit.generated_at, "UTC"),
        kit.fingerprint,
        proof(kit.last_proof.as_ref(), &kit.fingerprint),
        date(kit.next_proof_due_at, "UTC"),
    )
}

fn proof(proof: Option<&KitProof>, fingerprint: &str) -> String {
    let Some(proof) = proof else { return "never proved to open everything\n".to_owned() };
    let outcome = if proof.passed { "everything opened" } else { "NOT EVERYTHING OPENED" };
    let other = if proof.fingerprint == fingerprint { "" } else { ", of an older kit" };
    format!("last proved {} UTC by {}: {outcome}{other}\n", date(proof.at, "UTC"), proof.by)
}

fn secrets(secrets: &[KitSecret]) -> String {
    let mut text = String::new();
    for secret in secrets {
        text.push_str(&format!("  {}: {}\n", secret.name, secret.opens));
        if !secret.kept_in.is_empty() {
            text.push_str(&format!("      kept in {}\n", secret.kept_in.join(", ")));
        }
        if !secret.reachable {
            text.push_str(&format!("      OUT OF REACH: {}\n", secret.why_not));
        }
        text.push_str(&format!("      {LINE}\n"));
    }
    text
}

fn hosts(hosts: &[KitHost]) -> String {
    let mut rows = Rows::new(&["host", "address", "wakes by", "what it is"], "nothing declared");
    for host in hosts {
        let mac = if host.mac.is_empty() { "-".to_owned() } else { host.mac.clone() };
        let cells = [host.name.clone(), host.address.clone(), mac, host.description.clone()];
        rows.push(&host.name, cells);
    }
    indented(&rows.text(), 2)
}

fn repositories(repositories: &[KitRepository]) -> String {
    let mut text = String::new();
    for one in repositories {
        text.push_str(&format!("  {}: {}\n", one.name, or(&one.location, "no description")));
        text.push_str(&format!(
            "      identity {}, medium {}, place {}\n",
            or(&one.identity, "not seen yet"),
            or(&one.medium, "not said"),
            or(&one.place, "not said"),
        ));
        text.push_str(&format!("      opened by the secret {}\n", or(&one.secret, "not declared")));
        text.extend(one.paths.iter().map(|path| format!("      at {path}\n")));
        text.push_str(&commands(&one.commands));
    }
    text
}

fn backups(backups: &[KitBackup]) -> String {
    let mut text = String::new();
    for one in backups {
        text.push_str(&format!(
            "  {} ({} of {}) in {}\n",
            one.name,
            word(kind_of(one).as_str_name(), "SOURCE_KIND"),
            one.host,
            one.repositories.join(", ")
        ));
        match one.newest_snapshot_id.as_str() {
            "" => text.push_str("      NO VERIFIED SNAPSHOT\n"),
            id => text.push_str(&format!(
                "      newest verified snapshot {} of {} UTC\n",
                short(id),
                date(one.newest_at, "UTC")
            )),
        }
        text.push_str(&commands(&one.commands));
    }
    text
}

fn kind_of(backup: &KitBackup) -> SourceKind {
    backup.source_kind()
}

fn cold_start(start: Option<&ColdStart>) -> String {
    let mut text = String::new();
    let mut stage = 0;
    for step in start.iter().flat_map(|start| &start.steps) {
        if step.stage != stage {
            stage = step.stage;
            text.push_str(&format!("  Stage {stage}\n"));
        }
        text.push_str(&format!("    {:>2}. {} [{}]\n", step.number, step.title, step.subject));
        if !step.needs.is_empty() {
            text.push_str(&format!("        needs {}\n", step.needs.join(", ")));
        }
        text.push_str(&indented(&commands(&step.commands), 2));
    }
    for found in start.iter().flat_map(|start| &start.loops) {
        text.push_str(&format!("  LOOP, never comes back: {found}\n"));
    }
    text
}

fn commands(commands: &[String]) -> String {
    commands.iter().map(|command| format!("      $ {command}\n")).collect()
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::ColdStartStep;

    use super::*;

    #[test]
    fn the_paper_has_a_line_for_each_secret_and_the_commands() {
        let kit = GetRecoveryKitResponse {
            site: "home".to_owned(),
            fingerprint: "5c1f".to_owned(),
            secrets: vec![
                KitSecret {
                    name: "nas-key".to_owned(),
                    opens: "repository/nas".to_owned(),
                    kept_in: vec!["kit".to_owned()],
                    reachable: true,
                    why_not: String::new(),
                },
                KitSecret {
                    name: "vault".to_owned(),
                    why_not: "it is only inside of what it opens".to_owned(),
                    ..KitSecret::default()
                },
            ],
            repositories: vec![KitRepository {
                name: "nas".to_owned(),
                secret: "nas-key".to_owned(),
                paths: vec!["hx310-db:/mnt/nas".to_owned()],
                commands: vec!["restic -r /mnt/nas snapshots".to_owned()],
                ..KitRepository::default()
            }],
            backups: vec![KitBackup { name: "wiki".to_owned(), ..KitBackup::default() }],
            cold_start: Some(ColdStart {
                steps: vec![ColdStartStep {
                    number: 1,
                    stage: 1,
                    subject: "host/hx310-db".to_owned(),
                    title: "install hx310-db".to_owned(),
                    needs: vec!["kit".to_owned()],
                    commands: vec!["labctl host enroll hx310-db".to_owned()],
                    measured: None,
                }],
                loops: vec!["vault needs vault".to_owned()],
            }),
            ..GetRecoveryKitResponse::default()
        };
        let text = text(&kit);
        assert_eq!(text.matches(LINE).count(), 2);
        for part in [
            "RECOVERY KIT of home\n====================\n",
            "never proved to open everything",
            "OUT OF REACH: it is only inside of what it opens",
            "      opened by the secret nas-key\n      at hx310-db:/mnt/nas\n      $ restic -r /mnt/nas snapshots\n",
            "NO VERIFIED SNAPSHOT",
            "  Stage 1\n     1. install hx310-db [host/hx310-db]\n        needs kit\n        $ labctl host enroll",
            "LOOP, never comes back: vault needs vault",
        ] {
            assert!(text.contains(part), "{part}\n---\n{text}");
        }
    }

    #[test]
    fn a_proof_of_an_older_kit_is_called_so() {
        let of = |fingerprint: &str| KitProof {
            by: "ada".to_owned(),
            fingerprint: fingerprint.to_owned(),
            passed: true,
            ..KitProof::default()
        };
        assert!(proof(Some(&of("old")), "new").contains("of an older kit"));
        assert!(!proof(Some(&of("new")), "new").contains("older"));
    }
}
