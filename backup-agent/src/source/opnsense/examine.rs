//! A restored configuration, looked at and put back into service.

use std::{fs, path::Path, time::Duration};

use homelab_common::error_chain::Chain;

use super::{
    CONFIG_FILE,
    manifest::{Facts, OpnsenseContents, compare},
    read,
};
use crate::{
    drill::{Compared, DrillError, Shown, Verdict, folder::Examination},
    shell::{comment, quoted},
};

/// Reads the restored file as the firewall would and compares what it holds.
///
/// # Errors
///
/// The target's trouble.
pub fn examine(
    folder: &Path,
    contents: &OpnsenseContents,
    examination: &Examination<'_>,
) -> Result<Shown, DrillError> {
    let path = folder.join(CONFIG_FILE);
    let bytes = fs::read(&path).map_err(|source| examination.refused(&path, source))?;
    let (differences, compared) = match read(&bytes) {
        Ok((_, found)) => {
            let mut differences = compare(&contents.facts, &found);
            differences.extend(contents.expected.differences(&found));
            (differences, counted(&found))
        }
        Err(error) => (vec![Chain(&error).to_string()], Vec::new()),
    };
    let verdict = Verdict::of(differences);
    Ok(Shown { verdict, restore_elapsed: Duration::ZERO, compared })
}

fn counted(facts: &Facts) -> Vec<Compared> {
    let count =
        |what: &'static str| facts.counts.get(what).map(|count| Compared { what, count: *count });
    ["interfaces", "vlans", "rules", "nat-rules", "leases", "users", "gateways", "aliases"]
        .into_iter()
        .filter_map(count)
        .collect()
}

/// What a person does with the file.
#[must_use]
pub fn next_steps(folder: &Path, contents: &OpnsenseContents) -> Vec<String> {
    let file = quoted(&folder.join(CONFIG_FILE).display().to_string());
    let facts = &contents.facts;
    let interfaces: Vec<String> = facts
        .interfaces
        .iter()
        .map(|it| format!("{}={}", it.name, it.device.as_deref().unwrap_or("?")))
        .collect();
    vec![
        comment(&format!("this is the whole configuration of {}, secrets included", facts.host)),
        comment("in the web interface: System > Configuration > Backups > Restore, then choose"),
        format!("ls -l {file}"),
        comment("on new hardware the devices have other names; assign them when it asks:"),
        comment(&interfaces.join(" ")),
        comment("or without a web interface: a FAT or UFS stick with the file as conf/config.xml,"),
        comment("given to the installer as `Import Config`:"),
        format!("install -D -m 600 {file} /media/usb/conf/config.xml"),
    ]
}
