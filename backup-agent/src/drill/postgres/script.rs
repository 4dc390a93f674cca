//! Cutting a plain dump into pieces that several sessions can restore at once.
//!
//! `pg_dump` announces each entry by a comment such as `-- Name: page; Type: TABLE;
//! Schema: app; Owner: wiki`, in the order of their dependencies: definitions, rows,
//! then indexes and all that needs the rows (postgresql.org/docs/current/app-pgdump.html,
//! `--section`). Only two kinds of entry are taken out of this order: rows of
//! different tables, and indexes with the constraints that are made of them. All
//! else stays a single stream.
//!
//! Every byte is handed on as it is, and a comment counts only outside of quotes. So
//! the worst that a dump of an unknown form can do is to be restored by one session.

use std::{
    collections::HashSet,
    io::{self, Write},
};

use memchr::memmem;

/// An index of more text than this is restored as if it were something else.
const UNIT_MAX: usize = 1 << 20;

/// How an entry may be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Settings at the very beginning: by every session.
    Prologue,
    /// After all before it and before all after it.
    InOrder,
    /// Beside the rows of tables, and in order among its like.
    BesideRows,
    /// Rows of one table: beside those of others.
    Rows,
    /// Beside other indexes.
    Index,
}

impl Kind {
    fn of(entry: &str) -> Self {
        match entry {
            "TABLE DATA" => Self::Rows,
            "INDEX" | "CONSTRAINT" => Self::Index,
            "SEQUENCE SET" | "BLOB" | "BLOBS" | "BLOB METADATA" | "LARGE OBJECT"
            | "LARGE OBJECTS" => Self::BesideRows,
            _ => Self::InOrder,
        }
    }
}

/// The beginning of a table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// `COPY app.page (id, title) FROM stdin;`, with comments before it. The line break
    /// after it comes with the rows.
    pub(super) statement: Vec<u8>,
    /// The table as the statement writes it, when this dump made it and gives all of
    /// its rows here: nobody else can have put rows into it.
    pub(super) made_here: Option<String>,
}

/// Takes the pieces, in the order of the dump.
pub(super) trait Stage {
    /// What follows belongs to an entry of this kind.
    fn enter(&mut self, kind: Kind) -> io::Result<()>;

    /// Statements of the current entry; an [`Kind::Index`] comes whole.
    fn text(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// A setting that all later entries rely on, whoever restores them.
    fn setting(&mut self, line: &[u8]) -> io::Result<()>;

    /// Rows follow.
    fn copy(&mut self, copy: Copy) -> io::Result<()>;

    /// Rows, in pieces of any length.
    fn rows(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// That was the last row.
    fn end_of_rows(&mut self) -> io::Result<()>;
}

/// Reads a dump and hands its pieces to a stage; [`Script::end`] must follow.
pub(super) struct Script<S> {
    stage: S,
    quotes: Quotes,
    /// The line that is being read, in what is no row.
    line: Vec<u8>,
    /// Lines of an entry that is handed on as a whole.
    unit: Vec<u8>,
    kind: Kind,
    /// Two lines ago was no comment, the last one was `--`.
    after_rule: bool,
    /// What the entry is called, of those whose rows come.
    entry: String,
    made: HashSet<String>,
    /// Quotes mean what they seem to.
    is_readable: bool,
    reading: Reading,
}

enum Reading {
    Statements,
    /// Bytes held back because they may be part of the end of the rows.
    Rows {
        held: Vec<u8>,
    },
}

/// What ends the rows, at the beginning of a line.
const END_OF_ROWS: &[u8] = b"\n\\.\n";

impl<S: Stage> Script<S> {
    pub(super) fn new(stage: S) -> Self {
        Self {
            stage,
            quotes: Quotes::Outside,
            line: Vec::new(),
            unit: Vec::new(),
            kind: Kind::Prologue,
            after_rule: false,
            entry: String::new(),
            made: HashSet::new(),
            is_readable: true,
            reading: Reading::Statements,
        }
    }

    /// After the last byte: hands on what was held back.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.reading, Reading::Statements) {
            // As psql has it: the end of the input ends the rows. What is missing is
            // found when they are compared.
            Reading::Rows { held } => {
                self.stage.rows(&held)?;
                if held != b"\n" {
                    self.stage.rows(b"\n")?;
                }
                self.stage.end_of_rows()
            }
            Reading::Statements => {
                let line = std::mem::take(&mut self.line);
                self.pass(&line)?;
                self.pass_on()
            }
        }
    }

    /// Who took the pieces.
    pub(super) fn into_stage(self) -> S {
        self.stage
    }

    /// Takes bytes of statements up to the end of a line; says how many.
    fn take_line(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        self.line.extend_from_slice(&bytes[..=end]);
        let line = std::mem::take(&mut self.line);
        self.take_whole_line(&line)?;
        // Its memory serves the next one.
        self.line = line;
        self.line.clear();
        Ok(end + 1)
    }

    fn take_whole_line(&mut self, line: &[u8]) -> io::Result<()> {
        let outside = matches!(self.quotes, Quotes::Outside);
        let announced = self.after_rule && outside;
        self.after_rule = outside && line == b"--\n";
        if announced
            && self.is_readable
            && let Some(header) = Header::read(line)
        {
            return self.enter(&header, line);
        }
        if outside && is_setting(line) {
            self.pass_on()?;
            return self.stage.setting(line);
        }
        if self.kind == Kind::Prologue && !is_of_prologue(line) {
            self.kind = Kind::InOrder;
            self.stage.enter(Kind::InOrder)?;
        }
        // Then a backslash means what no `E` before the quote tells.
        self.is_readable &= line != b"SET standard_conforming_strings = off;\n";
        self.quotes = self.quotes.after(line);
        self.pass(line)?;
        if self.kind == Kind::Rows && matches!(self.quotes, Quotes::Outside) {
            self.begin_rows(line)?;
        }
        Ok(())
    }

    fn enter(&mut self, header: &Header<'_>, line: &[u8]) -> io::Result<()> {
        self.pass_on()?;
        self.kind = Kind::of(header.kind);
        self.entry = format!("{}.{}", header.schema, header.name);
        if header.kind == "TABLE" {
            self.made.insert(self.entry.clone());
        }
        self.stage.enter(self.kind)?;
        self.pass(line)
    }

    fn pass(&mut self, line: &[u8]) -> io::Result<()> {
        if matches!(self.kind, Kind::Index | Kind::Rows) && self.unit.len() < UNIT_MAX {
            self.unit.extend_from_slice(line);
            return Ok(());
        }
        if self.kind == Kind::Index {
            self.kind = Kind::InOrder;
            self.stage.enter(Kind::InOrder)?;
        }
        self.pass_on()?;
        self.stage.text(line)
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let unit = std::mem::take(&mut self.unit);
        if unit.is_empty() { Ok(()) } else { self.stage.text(&unit) }
    }

    fn begin_rows(&mut self, line: &[u8]) -> io::Result<()> {
        if !line.ends_with(b" FROM stdin;\n") {
            return Ok(());
        }
        let mut statement = std::mem::take(&mut self.unit);
        statement.truncate(statement.trim_ascii_end().len());
        // Partitions may be loaded through their parent: then the names differ.
        let made_here = copied_table(&statement)
            .filter(|table| table.replace('"', "") == self.entry && self.made.contains(&self.entry))
            .map(str::to_owned);
        self.stage.copy(Copy { statement, made_here })?;
        // A table without rows ends at once.
        self.reading = Reading::Rows { held: b"\n".to_vec() };
        Ok(())
    }
}

/// `COPY app.page (id, title) FROM stdin;` is about `app.page`. A name with such a text
/// in it makes a table that nobody calls its own.
fn copied_table(statement: &[u8]) -> Option<&str> {
    let statement = std::str::from_utf8(statement).ok()?;
    let rest = statement.lines().find_map(|line| line.strip_prefix("COPY "))?;
    rest.find(" (").or_else(|| rest.find(" FROM ")).and_then(|end| rest.get(..end))
}

impl<S: Stage> Write for Script<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.reading {
                Reading::Statements => self.take_line(rest)?,
                Reading::Rows { held } => {
                    let held = std::mem::take(held);
                    self.take_rows(held, rest)?
                }
            };
            rest = &rest[taken..];
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Stage> Script<S> {
    /// Takes rows, `held` before them; says how many bytes of `bytes` were rows or
    /// their end.
    fn take_rows(&mut self, held: Vec<u8>, bytes: &[u8]) -> io::Result<usize> {
        // The seam first: what is held back and as much as could complete an end.
        let reach = bytes.len().min(END_OF_ROWS.len() - 1);
        let mut seam = held;
        let before = seam.len();
        seam.extend_from_slice(&bytes[..reach]);
        if let Some(at) = memmem::find(&seam, END_OF_ROWS) {
            self.end_rows(&seam[..=at])?;
            return Ok(at + END_OF_ROWS.len() - before);
        }
        if let Some(at) = memmem::find(bytes, END_OF_ROWS) {
            self.give_rows(&seam[..before])?;
            self.end_rows(&bytes[..=at])?;
            return Ok(at + END_OF_ROWS.len());
        }
        let all: &[u8] = if bytes.len() > reach { bytes } else { &seam };
        if bytes.len() > reach {
            self.give_rows(&seam[..before])?;
        }
        let keep = (1..END_OF_ROWS.len())
            .rev()
            .find(|length| all.ends_with(&END_OF_ROWS[..*length]))
            .unwrap_or(0);
        let (give, keep) = all.split_at(all.len() - keep);
        self.give_rows(give)?;
        self.reading = Reading::Rows { held: keep.to_vec() };
        Ok(bytes.len())
    }

    fn give_rows(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.stage.rows(bytes) }
    }

    fn end_rows(&mut self, last: &[u8]) -> io::Result<()> {
        self.give_rows(last)?;
        self.reading = Reading::Statements;
        self.stage.end_of_rows()
    }
}

/// What every session has to be told at the beginning.
fn is_of_prologue(line: &[u8]) -> bool {
    let known: [&[u8]; 5] =
        [b"\n", b"--", b"SET ", b"SELECT pg_catalog.set_config(", b"\\restrict "];
    known.iter().any(|known| line.starts_with(known))
}

/// Settings that `pg_dump` changes between entries, each on a line of its own before
/// the comment of the entry that needs it.
fn is_setting(line: &[u8]) -> bool {
    let changes: [&[u8]; 2] = [b"SET default_tablespace = ", b"SET default_table_access_method = "];
    changes.iter().any(|change| line.starts_with(change)) && line.ends_with(b";\n")
}

/// `-- Name: page; Type: TABLE; Schema: app; Owner: wiki`, or `-- Data for Name: …`.
struct Header<'l> {
    name: &'l str,
    kind: &'l str,
    schema: &'l str,
}

impl<'l> Header<'l> {
    fn read(line: &'l [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim_end();
        if line == "-- PostgreSQL database dump complete" {
            return Some(Self { name: "", kind: "", schema: "" });
        }
        let rest = line.strip_prefix("-- ")?;
        let rest = rest.strip_prefix("Data for ").unwrap_or(rest).strip_prefix("Name: ")?;
        // From the right: a name may hold anything.
        let (rest, _owner) = rest.rsplit_once("; Owner:")?;
        let (rest, schema) = rest.rsplit_once("; Schema: ")?;
        let (name, kind) = rest.rsplit_once("; Type: ")?;
        Some(Self { name, kind, schema })
    }
}

/// Where a statement stands: inside of a quote nothing has a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Quotes {
    Outside,
    /// `'…'`; with backslashes after an `E`.
    Text {
        escapes: bool,
    },
    /// `"…"`.
    Name,
    /// `$tag$…$tag$`.
    Dollar(Vec<u8>),
    /// `/* … */`, so deep.
    Comment(u32),
}

impl Quotes {
    /// Where it stands after this line, which ends with a line break.
    fn after(&self, line: &[u8]) -> Self {
        let mut state = self.clone();
        let mut at = 0;
        while at < line.len() {
            at += state.step(line, at);
        }
        state
    }

    /// Reads one token at `at`; says how long it is.
    fn step(&mut self, line: &[u8], at: usize) -> usize {
        let rest = &line[at..];
        match self {
            Self::Outside => return self.step_outside(line, at),
            Self::Text { escapes: true } if rest.starts_with(b"\\") => return 2,
            // A doubled quote ends one text and begins the next: the same in effect.
            Self::Text { .. } if rest[0] == b'\'' => *self = Self::Outside,
            Self::Name if rest[0] == b'"' => *self = Self::Outside,
            Self::Dollar(tag) if rest.starts_with(tag) => {
                let length = tag.len();
                *self = Self::Outside;
                return length;
            }
            Self::Comment(depth) if rest.starts_with(b"*/") => {
                *self = if *depth <= 1 { Self::Outside } else { Self::Comment(*depth - 1) };
                return 2;
            }
            Self::Comment(depth) if rest.starts_with(b"/*") => {
                *depth += 1;
                return 2;
            }
            _ => {}
        }
        1
    }

    fn step_outside(&mut self, line: &[u8], at: usize) -> usize {
        let rest = &line[at..];
        match rest[0] {
            b'-' if rest.starts_with(b"--") => return rest.len(),
            b'/' if rest.starts_with(b"/*") => {
                *self = Self::Comment(1);
                return 2;
            }
            b'\'' => {
                let before = at.checked_sub(1).map(|before| line[before]);
                let is_word = at.checked_sub(2).is_some_and(|place| is_of_word(line[place]));
                let escapes = matches!(before, Some(b'E' | b'e')) && !is_word;
                *self = Self::Text { escapes };
            }
            b'"' => *self = Self::Name,
            b'$' => {
                let is_word = at.checked_sub(1).is_some_and(|place| is_of_word(line[place]));
                let end = rest[1..].iter().position(|byte| !is_of_word(*byte) || *byte == b'$');
                if let Some(end) = end.filter(|end| !is_word && rest[1 + end] == b'$') {
                    let tag = rest[..end + 2].to_vec();
                    let length = tag.len();
                    *self = Self::Dollar(tag);
                    return length;
                }
            }
            _ => {}
        }
        1
    }
}

const fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Taken(Vec<String>);

    impl Taken {
        fn say(&mut self, what: &str, bytes: &[u8]) -> io::Result<()> {
            let text = String::from_utf8_lossy(bytes);
            // Pieces of any length: only their sum counts.
            match self.0.last_mut() {
                Some(last) if last.starts_with(what) => last.push_str(&text),
                _ => self.0.push(format!("{what}{text}")),
            }
            Ok(())
        }
    }

    impl Stage for Taken {
        fn enter(&mut self, kind: Kind) -> io::Result<()> {
            self.0.push(format!("{kind:?}"));
            Ok(())
        }
        fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.say("text:", bytes)
        }
        fn setting(&mut self, line: &[u8]) -> io::Result<()> {
            self.0.push(format!("setting:{}", String::from_utf8_lossy(line)));
            Ok(())
        }
        fn copy(&mut self, copy: Copy) -> io::Result<()> {
            let statement = String::from_utf8_lossy(&copy.statement);
            self.0.push(format!("copy:{:?}:{statement}", copy.made_here));
            Ok(())
        }
        fn rows(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.say("rows:", bytes)
        }
        fn end_of_rows(&mut self) -> io::Result<()> {
            self.0.push("end".to_owned());
            Ok(())
        }
    }

    fn entry(name: &str, kind: &str, body: &str) -> String {
        let data = if kind == "TABLE DATA" { "Data for " } else { "" };
        format!("--\n-- {data}Name: {name}; Type: {kind}; Schema: app; Owner: wiki\n--\n\n{body}\n")
    }

    fn pieces(dump: &str, step: usize) -> Vec<String> {
        let mut script = Script::new(Taken::default());
        for chunk in dump.as_bytes().chunks(step) {
            script.write_all(chunk).expect("taken");
        }
        script.end().expect("taken");
        script.into_stage().0
    }

    fn dump() -> String {
        [
            "\\restrict k\nSET client_encoding = 'UTF8';\n\n".to_owned(),
            entry("page", "TABLE", "CREATE TABLE app.page (id int);\n"),
            entry("page", "TABLE DATA", "COPY app.page (id) FROM stdin;\n1\n\\.x\n2\n\\.\n\n"),
            entry("none", "TABLE DATA", "COPY app.none (id) FROM stdin;\n\\.\n\n"),
            "SET default_tablespace = fast;\n\n".to_owned(),
            entry("page_id", "INDEX", "CREATE INDEX page_id ON app.page (id);\n"),
            entry("x", "TRIGGER", "CREATE TRIGGER x …;\n"),
            "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict k\n\n".to_owned(),
        ]
        .concat()
    }

    #[test]
    fn a_dump_is_cut_at_its_entries_wherever_it_is_read() {
        let whole = pieces(&dump(), usize::MAX);
        let kinds: Vec<&str> =
            whole.iter().map(String::as_str).filter(|piece| !piece.starts_with("text:")).collect();
        assert_eq!(kinds[0], "InOrder");
        assert_eq!(kinds[1], "Rows");
        assert!(kinds[2].starts_with("copy:Some(\"app.page\"):"), "{kinds:?}");
        assert_eq!(kinds[3..5], ["rows:\n1\n\\.x\n2\n", "end"]);
        assert_eq!(kinds[5], "Rows");
        assert!(kinds[6].starts_with("copy:None:"), "{kinds:?}");
        assert_eq!(
            kinds[7..],
            [
                "rows:\n",
                "end",
                "setting:SET default_tablespace = fast;\n",
                "Index",
                "InOrder",
                "InOrder"
            ]
        );
        for step in [1, 2, 3, 5, 7, 64] {
            assert_eq!(pieces(&dump(), step), whole, "in steps of {step}");
        }
    }

    #[test]
    fn an_announcement_inside_of_a_quote_is_text() {
        let hidden = entry("page", "TABLE DATA", "COPY app.page (id) FROM stdin;\n");
        for (open, close) in
            [("$f$", "$f$"), ("'", "'"), ("E'\\'", "'"), ("\"", "\""), ("/* /* */", "*/")]
        {
            let body = format!("CREATE FUNCTION f() AS {open}\n{hidden}\n{close};\n");
            let dump = entry("f()", "FUNCTION", &body) + &entry("i", "INDEX", "CREATE INDEX i;\n");
            let found = pieces(&dump, usize::MAX);
            let kinds: Vec<_> = found.iter().filter(|piece| !piece.contains(':')).collect();
            assert_eq!(kinds, ["InOrder", "Index"], "{open}");
        }
    }

    #[test]
    fn a_dump_of_an_unknown_form_is_restored_in_order() {
        let unknown = "SET a = 1;\nCREATE TABLE t (i int);\nCOPY t FROM stdin;\n1\n\\.\n";
        let found = pieces(unknown, usize::MAX);
        assert_eq!(found[..2], ["text:SET a = 1;\n", "InOrder"]);
        let old =
            dump().replace("SET client", "SET standard_conforming_strings = off;\nSET client");
        let kinds: Vec<_> =
            pieces(&old, usize::MAX).into_iter().filter(|piece| !piece.contains(':')).collect();
        assert_eq!(kinds, ["InOrder"]);
    }

    #[test]
    fn rows_that_end_with_the_dump_are_ended() {
        let cut = entry("page", "TABLE DATA", "COPY app.page (id) FROM stdin;\n1\n2");
        let found = pieces(cut.trim_end(), usize::MAX);
        assert_eq!(found[found.len() - 2..], ["rows:\n1\n2\n", "end"]);
    }

    #[test]
    fn a_quote_never_stays_open_by_what_only_looks_like_one() {
        for line in
            ["a 'it''s' b\n", "x$1$ y\n", "$1 + $2\n", "-- it's\n", "E'a\\'b' c\n", "\"a'b\"\n"]
        {
            assert_eq!(Quotes::Outside.after(line.as_bytes()), Quotes::Outside, "{line}");
        }
    }

    #[test]
    fn rows_loaded_through_another_table_are_nobodys_own() {
        let dump = entry("part", "TABLE", "CREATE TABLE app.part ();\n")
            + &entry("part", "TABLE DATA", "COPY app.whole (id) FROM stdin;\n1\n\\.\n\n");
        let found = pieces(&dump, usize::MAX);
        assert!(found.iter().any(|piece| piece.starts_with("copy:None:")), "{found:?}");
    }
}
