//! What the protocol promises to its callers: comments everywhere, standard names, and that a
//! change never breaks a peer.

#![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

use std::{collections::BTreeMap, env, fs, path::Path};

use homelab_proto::{access, descriptors};
use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

/// The protocol as it was last agreed upon. `UPDATE=1 cargo nextest run -p homelab-proto` rewrites it
/// after a change that is meant.
const AGREED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/homelab.binpb");

fn pool() -> DescriptorPool {
    DescriptorPool::decode(descriptors::ALL).expect("the built-in descriptor set decodes")
}

fn ours(name: &str) -> bool {
    name.starts_with("homelab.")
}

fn messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    pool.all_messages()
        .filter(|message| ours(message.full_name()) && !message.is_map_entry())
        .collect()
}

fn enums(pool: &DescriptorPool) -> Vec<EnumDescriptor> {
    pool.all_enums().filter(|found| ours(found.full_name())).collect()
}

fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    pool.services()
        .filter(|service| ours(service.full_name()))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect()
}

/// The comment that stands before the thing at `path` in its file.
fn comment(pool: &DescriptorPool, file: &str, path: &[i32]) -> String {
    let file = pool.get_file_by_name(file).expect("the file is in the set");
    file.file_descriptor_proto()
        .source_code_info
        .as_ref()
        .and_then(|info| info.location.iter().find(|place| place.path == path))
        .map(|place| place.leading_comments().trim().replace("\n ", " "))
        .unwrap_or_default()
}

fn method_comment(pool: &DescriptorPool, method: &MethodDescriptor) -> String {
    comment(pool, method.parent_file().name(), method.path())
}

#[test]
fn every_rpc_message_field_and_value_has_a_comment() {
    let pool = pool();
    let mut silent = Vec::new();
    let mut look = |name: &str, file: &str, path: &[i32]| {
        if comment(&pool, file, path).is_empty() {
            silent.push(name.to_owned());
        }
    };
    for message in messages(&pool) {
        look(message.full_name(), message.parent_file().name(), message.path());
        for field in message.fields() {
            look(field.full_name(), message.parent_file().name(), field.path());
        }
    }
    for found in enums(&pool) {
        look(found.full_name(), found.parent_file().name(), found.path());
        for value in found.values() {
            look(value.full_name(), found.parent_file().name(), value.path());
        }
    }
    for method in methods(&pool) {
        look(method.full_name(), method.parent_file().name(), method.path());
    }
    assert!(silent.is_empty(), "without a comment: {silent:#?}");
}

#[test]
fn the_comment_of_every_rpc_says_deadline_repeatability_and_role() {
    let pool = pool();
    let mut faults = Vec::new();
    for method in methods(&pool) {
        let text = method_comment(&pool, &method).to_lowercase();
        for word in ["deadline", "idempotent", "role:"] {
            if !text.contains(word) {
                faults.push(format!("{}: says nothing of `{word}`", method.full_name()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_comment_of_every_rpc_names_the_role_that_the_table_asks_for() {
    let pool = pool();
    for method in methods(&pool) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let access = access::method(&path).and_then(|row| row.access).expect("is in the table");
        let word = access.role.map_or_else(
            || "none".to_owned(),
            |role| role.as_str_name().trim_start_matches("ROLE_").to_lowercase(),
        );
        let text = method_comment(&pool, &method);
        assert!(
            text.contains(&format!("Role: {word}")),
            "{path}: the comment should say `Role: {word}`"
        );
    }
}

#[test]
fn requests_and_responses_are_named_after_their_rpc_and_used_once() {
    let pool = pool();
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for method in methods(&pool) {
        assert_eq!(method.input().name(), format!("{}Request", method.name()));
        assert_eq!(method.output().name(), format!("{}Response", method.name()));
        for message in [method.input(), method.output()] {
            users
                .entry(message.full_name().to_owned())
                .or_default()
                .push(method.full_name().to_owned());
        }
    }
    users.retain(|_, methods| methods.len() > 1);
    assert!(users.is_empty(), "shared between methods: {users:#?}");
}

#[test]
fn enum_values_carry_their_enum_and_begin_with_unspecified() {
    for found in enums(&pool()) {
        let prefix = upper_snake(found.name());
        let zero = found.get_value(0).expect("has a zero");
        assert_eq!(zero.name(), format!("{prefix}_UNSPECIFIED"));
        for value in found.values() {
            assert!(value.name().starts_with(&prefix), "{} lacks `{prefix}_`", value.full_name());
        }
    }
}

#[test]
fn services_fields_and_packages_follow_the_standard_names() {
    let pool = pool();
    for service in pool.services().filter(|service| ours(service.full_name())) {
        assert!(service.name().ends_with("Service"), "{}", service.full_name());
    }
    for message in messages(&pool) {
        let package = message.parent_file().package_name().to_owned();
        assert!(package.ends_with(".v1"), "{package}");
        let folder = package.replace('.', "/");
        assert!(
            message.parent_file().name().starts_with(&folder),
            "{}",
            message.parent_file().name()
        );
        for field in message.fields() {
            let name = field.name();
            assert_eq!(name, name.to_lowercase(), "{}", field.full_name());
        }
    }
}

#[test]
fn lists_are_paged() {
    let pool = pool();
    // Lists that are small by nature: bounded by the site file or by what one host has.
    let small = [
        "ListBackupCopies",
        "ListBackupRepositories",
        "ListBackups",
        "ListContextSources",
        "ListCopies",
        "ListDevices",
        "ListMaintenanceWindows",
        "ListModels",
        "ListPhases",
        "ListSchedules",
        "ListTierModels",
        "ListWorkers",
        "ListPower",
        "ListTasks",
    ];
    for method in methods(&pool).iter().filter(|method| method.name().starts_with("List")) {
        if small.contains(&method.name()) {
            continue;
        }
        for (message, field) in [
            (method.input(), "page_size"),
            (method.input(), "page_token"),
            (method.output(), "next_page_token"),
        ] {
            assert!(
                message.get_field_by_name(field).is_some(),
                "{} lacks {field}",
                message.full_name()
            );
        }
    }
}

#[test]
fn nothing_that_peers_rely_on_has_been_taken_away_or_changed() {
    let now = pool();
    if env::var_os("UPDATE").is_some() {
        fs::write(AGREED, descriptors::ALL).expect("the agreed protocol can be written");
    }
    assert!(Path::new(AGREED).exists(), "{AGREED} is missing: run with UPDATE=1 and commit it");
    let agreed = fs::read(AGREED).expect("the agreed protocol can be read");
    let agreed = DescriptorPool::decode(agreed.as_slice()).expect("the agreed protocol decodes");
    let broken = breaks(&agreed, &now);
    assert!(broken.is_empty(), "this change breaks peers: {broken:#?}");
    assert_eq!(
        (messages(&agreed).len(), methods(&agreed).len()),
        (messages(&now).len(), methods(&now).len()),
        "the protocol has grown: run with UPDATE=1 and commit proto/homelab.binpb"
    );
}

#[test]
fn a_breaking_change_is_recognised() {
    let now = pool();
    let mut set =
        prost_types::FileDescriptorSet { file: now.file_descriptor_protos().cloned().collect() };
    for file in &mut set.file {
        for message in &mut file.message_type {
            if message.name() == "Health" {
                message.field.retain(|field| field.name() != "uptime");
            }
        }
    }
    let without = DescriptorPool::from_file_descriptor_set(set).expect("still a protocol");
    assert_eq!(breaks(&now, &without), ["homelab.agent.v1.Health.uptime is gone"]);
}

/// What callers of `before` would miss in `after`: rules of the wire and of its JSON form, because
/// people see names.
fn breaks(before: &DescriptorPool, after: &DescriptorPool) -> Vec<String> {
    let mut broken = Vec::new();
    for old in methods(before) {
        let service = after.get_service_by_name(old.parent_service().full_name());
        match service.and_then(|service| service.methods().find(|new| new.name() == old.name())) {
            None => broken.push(format!("{} is gone", old.full_name())),
            Some(new) => {
                if new.is_server_streaming() != old.is_server_streaming()
                    || new.input().full_name() != old.input().full_name()
                    || new.output().full_name() != old.output().full_name()
                {
                    broken.push(format!("{} has another shape", old.full_name()));
                }
            }
        }
    }
    for old in messages(before) {
        match after.get_message_by_name(old.full_name()) {
            None => broken.push(format!("{} is gone", old.full_name())),
            Some(new) => old.fields().for_each(|field| broken.extend(field_break(&field, &new))),
        }
    }
    for old in enums(before) {
        match after.get_enum_by_name(old.full_name()) {
            None => broken.push(format!("{} is gone", old.full_name())),
            Some(new) => {
                for value in old.values() {
                    if new
                        .get_value(value.number())
                        .is_none_or(|found| found.name() != value.name())
                    {
                        broken.push(format!("{} is gone or renamed", value.full_name()));
                    }
                }
            }
        }
    }
    broken
}

fn field_break(old: &FieldDescriptor, message: &MessageDescriptor) -> Option<String> {
    let Some(new) = message.get_field(old.number()) else {
        return Some(format!("{} is gone", old.full_name()));
    };
    if new.name() != old.name() {
        return Some(format!("{} is now called {}", old.full_name(), new.name()));
    }
    let same = kind_name(&new.kind()) == kind_name(&old.kind())
        && (new.cardinality() == Cardinality::Repeated)
            == (old.cardinality() == Cardinality::Repeated);
    (!same).then(|| format!("{} has another type", old.full_name()))
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(found) => found.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    }
}

fn upper_snake(camel: &str) -> String {
    let mut text = String::new();
    for (index, letter) in camel.char_indices() {
        if letter.is_uppercase() && index > 0 {
            text.push('_');
        }
        text.extend(letter.to_uppercase());
    }
    text
}
