//! Is what was restored what was dumped?

use std::{collections::BTreeMap, fmt};

use super::{DatabaseContents, Object, Sequence, Table, TableKind};

/// One thing that is not as the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// For people.
    pub text: String,
    /// Whether it may come from another server version printing the same thing in
    /// another way; then it proves nothing.
    pub may_be_version: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Everything in which `found` differs from `expected`.
#[must_use]
pub fn compare(expected: &DatabaseContents, found: &DatabaseContents) -> Vec<Difference> {
    let other_major = expected.database.major() != found.database.major();
    let mut list = List { differences: Vec::new(), other_major };
    list.tables(&expected.tables, &found.tables);
    list.sequences(&expected.sequences, &found.sequences);
    list.large_objects(expected, found);
    list.extensions(expected, found);
    list.objects(&expected.objects, &found.objects);
    list.differences
}

struct List {
    differences: Vec<Difference>,
    other_major: bool,
}

impl List {
    fn differs(&mut self, text: String) {
        self.differences.push(Difference { text, may_be_version: false });
    }

    /// Text forms and definitions are only equal within one major version.
    fn differs_in_form(&mut self, text: String) {
        self.differences.push(Difference { text, may_be_version: self.other_major });
    }

    fn tables(&mut self, expected: &[Table], found: &[Table]) {
        let (missing, both, extra) = pair(expected, found, |table| &table.name);
        for table in missing {
            self.differs(format!("table {} with {} rows is missing", table.name, table.rows));
        }
        for table in extra {
            self.differs(format!("table {} was not in the source", table.name));
        }
        for (expected, found) in both {
            // Refreshed by the restore, where the source's may have been stale.
            if expected.kind == TableKind::MaterializedView {
                continue;
            }
            let name = &expected.name;
            if expected.rows != found.rows {
                self.differs(format!("table {name} has {} of {} rows", found.rows, expected.rows));
            } else if expected.hash != found.hash {
                self.differs_in_form(format!(
                    "table {name} has the right {} rows with other content",
                    expected.rows
                ));
            }
        }
    }

    fn sequences(&mut self, expected: &[Sequence], found: &[Sequence]) {
        let (missing, both, _extra) = pair(expected, found, |sequence| &sequence.name);
        for sequence in missing {
            self.differs(format!("sequence {} is missing", sequence.name));
        }
        for (expected, found) in both {
            let bounds = [expected.before, expected.after];
            let (low, high) = (bounds.iter().min(), bounds.iter().max());
            if Some(&found.before) < low || Some(&found.before) > high {
                let shown = |value: Option<i64>| {
                    value.map_or_else(|| "unused".to_owned(), |value| value.to_string())
                };
                self.differs(format!(
                    "sequence {} stands at {} instead of {}",
                    expected.name,
                    shown(found.before),
                    shown(expected.before)
                ));
            }
        }
    }

    fn large_objects(&mut self, expected: &DatabaseContents, found: &DatabaseContents) {
        let (expected, found) = (&expected.large_objects, &found.large_objects);
        if expected.count != found.count {
            self.differs(format!("{} of {} large objects are there", found.count, expected.count));
        } else if expected.hash != found.hash {
            self.differs(format!("the {} large objects have other content", expected.count));
        }
    }

    fn extensions(&mut self, expected: &DatabaseContents, found: &DatabaseContents) {
        let (missing, both, _extra) =
            pair(&expected.extensions, &found.extensions, |extension| &extension.name);
        for extension in missing {
            self.differs(format!("extension {} is missing", extension.name));
        }
        for (expected, found) in both {
            if expected.version != found.version {
                self.differences.push(Difference {
                    text: format!(
                        "extension {} is {} here, {} in the source",
                        expected.name, found.version, expected.version
                    ),
                    may_be_version: true,
                });
            }
        }
    }

    fn objects(&mut self, expected: &[Object], found: &[Object]) {
        let key = |object: &Object| format!("{} {}", object.kind, object.name);
        let (missing, both, extra) = pair_by(expected, found, key);
        for object in missing {
            self.differs_in_form(format!("{} {} is missing", object.kind, object.name));
        }
        for object in extra {
            self.differs_in_form(format!("{} {} was not in the source", object.kind, object.name));
        }
        for (expected, found) in both {
            let (kind, name) = (&expected.kind, &expected.name);
            if expected.owner != found.owner {
                self.differs(format!(
                    "{kind} {name} is owned by {} instead of {}",
                    found.owner, expected.owner
                ));
            }
            if expected.definition != found.definition {
                self.differs_in_form(format!("{kind} {name} has other definition or rights"));
            }
        }
    }
}

type Paired<'a, T> = (Vec<&'a T>, Vec<(&'a T, &'a T)>, Vec<&'a T>);

fn pair<'a, T>(expected: &'a [T], found: &'a [T], name: fn(&T) -> &String) -> Paired<'a, T> {
    pair_by(expected, found, |item| name(item).clone())
}

/// Those only in `expected`, those in both, those only in `found`.
fn pair_by<'a, T>(expected: &'a [T], found: &'a [T], key: impl Fn(&T) -> String) -> Paired<'a, T> {
    let mut rest: BTreeMap<String, &T> = found.iter().map(|item| (key(item), item)).collect();
    let mut missing = Vec::new();
    let mut both = Vec::new();
    for item in expected {
        match rest.remove(&key(item)) {
            Some(partner) => both.push((item, partner)),
            None => missing.push(item),
        }
    }
    (missing, both, rest.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::manifest::{Database, Extension, LargeObjects, RowHash};

    fn contents() -> DatabaseContents {
        let text = String::from;
        DatabaseContents {
            database: Database {
                name: text("wiki"),
                owner: text("wiki"),
                server_version: text("15.13"),
                server_version_num: 150_013,
                system_identifier: text("1"),
                encoding: text("UTF8"),
                collate: text("C"),
                ctype: text("C"),
                icu_locale: None,
                settings: Vec::new(),
            },
            row_hash: RowHash::Values,
            tables: vec![Table {
                name: text("public.page"),
                kind: TableKind::Table,
                owner: text("wiki"),
                rows: 3,
                hash: text("77"),
            }],
            sequences: vec![Sequence {
                name: text("public.page_id_seq"),
                before: Some(3),
                after: Some(5),
            }],
            large_objects: LargeObjects { count: 1, hash: text("9") },
            extensions: vec![Extension { name: text("citext"), version: text("1.6") }],
            roles: vec![text("wiki")],
            objects: vec![Object {
                kind: text("table"),
                name: text("public.page"),
                owner: text("wiki"),
                definition: text("abc"),
            }],
        }
    }

    fn texts(change: impl FnOnce(&mut DatabaseContents)) -> Vec<String> {
        let mut found = contents();
        change(&mut found);
        compare(&contents(), &found).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_contents_do_not_differ() {
        assert!(texts(|_| ()).is_empty());
    }

    #[test]
    fn each_kind_of_loss_is_named() {
        type Change = fn(&mut DatabaseContents);
        let cases: [(Change, &str); 8] = [
            (|c| c.tables.clear(), "table public.page with 3 rows is missing"),
            (|c| c.tables[0].rows = 2, "table public.page has 2 of 3 rows"),
            (
                |c| c.tables[0].hash = "78".into(),
                "table public.page has the right 3 rows with other content",
            ),
            (|c| c.sequences.clear(), "sequence public.page_id_seq is missing"),
            (|c| c.large_objects.count = 0, "0 of 1 large objects are there"),
            (|c| c.large_objects.hash = "8".into(), "the 1 large objects have other content"),
            (|c| c.extensions.clear(), "extension citext is missing"),
            (
                |c| c.objects[0].owner = "postgres".into(),
                "table public.page is owned by postgres instead of wiki",
            ),
        ];
        for (change, text) in cases {
            assert_eq!(texts(change), [text]);
        }
    }

    #[test]
    fn a_sequence_may_stand_anywhere_between_before_and_after() {
        for value in [3, 4, 5] {
            assert!(texts(|c| c.sequences[0].before = Some(value)).is_empty());
        }
        for value in [Some(2), Some(6), None] {
            assert_eq!(texts(|c| c.sequences[0].before = value).len(), 1, "{value:?}");
        }
    }

    #[test]
    fn another_major_version_excuses_forms_but_not_counts() {
        let mut found = contents();
        found.database.server_version_num = 160_001;
        found.tables[0].hash = "78".into();
        found.large_objects.count = 0;
        let excused: Vec<bool> =
            compare(&contents(), &found).iter().map(|d| d.may_be_version).collect();
        assert_eq!(excused, [true, false]);
    }

    #[test]
    fn a_materialised_view_is_not_compared_by_rows() {
        let mut expected = contents();
        expected.tables[0].kind = TableKind::MaterializedView;
        let mut found = expected.clone();
        found.tables[0].rows = 9;
        assert!(compare(&expected, &found).is_empty());
    }
}
