//! Putting a restored database back into service, by hand.

use std::path::Path;

use super::{
    GLOBALS_FILE,
    manifest::{Database, PostgresContents, StoredDatabase},
};
use crate::shell::{comment, quoted};

/// Commands for a person with PostgreSQL's own programs and nothing of ours.
pub(crate) fn next_steps(folder: &Path, contents: &PostgresContents) -> Vec<String> {
    let file = |name: &str| quoted(&folder.join(name).display().to_string());
    let mut steps = vec![format!(
        "psql -X -d postgres -f {}   # roles; those that exist say so",
        file(GLOBALS_FILE)
    )];
    if !contents.tablespaces.is_empty() {
        let text = format!(
            "make the folders of these tablespaces first, or take their lines out of {GLOBALS_FILE} \
             and `SET default_tablespace` out of the dumps: {}",
            contents.tablespaces.join(", ")
        );
        steps.insert(0, comment(&text));
    }
    for StoredDatabase { file: name, contents } in &contents.databases {
        steps.extend(of_database(&file(name), &contents.database));
    }
    steps
}

fn of_database(file: &str, database: &Database) -> Vec<String> {
    let mut steps = vec![
        format!(
            "createdb -T template0 -E {} --lc-collate={} --lc-ctype={} -O {} -- {}",
            quoted(&database.encoding),
            quoted(&database.collate),
            quoted(&database.ctype),
            quoted(&database.owner),
            quoted(&database.name)
        ),
        format!("psql -X -v ON_ERROR_STOP=1 -d {} -f {file}", quoted(&connection(&database.name))),
    ];
    for setting in &database.settings {
        let Some((role, setting)) = setting.split_once('/') else { continue };
        let of_role = if role.is_empty() { String::new() } else { format!("role {role} in ") };
        let text = format!("then set again for {of_role}database {}: {setting}", database.name);
        steps.push(comment(&text));
    }
    steps
}

/// psql takes a name with `=` in it for a whole connection string; so it gets one
/// (postgresql.org/docs/current/libpq-connect.html).
fn connection(database: &str) -> String {
    let plain = database.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    if plain {
        return database.to_owned();
    }
    let escaped = database.replace('\\', r"\\").replace('\'', r"\'");
    format!("dbname='{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_a_connection_string() {
        assert_eq!(connection("wiki_2"), "wiki_2");
        assert_eq!(connection("host=evil"), "dbname='host=evil'");
        assert_eq!(connection(r"it's\"), r"dbname='it\'s\\'");
    }
}
