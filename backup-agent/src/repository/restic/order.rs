//! Whether a retention order may be carried out, and what is left to do of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    ids::{RunId, SnapshotId},
    repository::{RetentionOrder, Snapshot},
};

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) hide: Vec<SnapshotId>,
    pub(super) show: Vec<SnapshotId>,
    pub(super) delete: Vec<SnapshotId>,
}

/// A snapshot, and what it builds on.
#[derive(Debug)]
pub(super) struct Chained {
    pub(super) id: SnapshotId,
    run: RunId,
    needs: Vec<RunId>,
}

impl From<Snapshot> for Chained {
    fn from(Snapshot { id, run, summary, .. }: Snapshot) -> Self {
        Self { id, run, needs: summary.needs }
    }
}

impl Task {
    /// Takes out what others build on that stay, such as the full stream of a dataset:
    /// without it they could not be restored. It goes when they do. Says what was spared.
    pub(super) fn spare_needed(
        &mut self,
        ours: &[Chained],
        marks: &BTreeMap<String, Timestamp>,
    ) -> Vec<SnapshotId> {
        let is_seen = |it: &Chained| {
            let is_hidden = marks.contains_key(it.id.as_str()) && !self.show.contains(&it.id);
            !is_hidden && !self.hide.contains(&it.id)
        };
        // Each names its whole chain, so that one look is enough.
        let needed_by = |stays: &dyn Fn(&Chained) -> bool| -> BTreeSet<&str> {
            let needs: BTreeSet<RunId> =
                ours.iter().filter(|it| stays(it)).flat_map(|it| it.needs.clone()).collect();
            let needed = ours.iter().filter(|it| needs.contains(&it.run));
            needed.map(|it| it.id.as_str()).collect()
        };
        let seen = needed_by(&is_seen);
        let kept = needed_by(&|it| !self.delete.contains(&it.id));
        let mut spared = Vec::new();
        for (ids, needed) in [(&mut self.hide, &seen), (&mut self.delete, &kept)] {
            spared.extend(ids.extract_if(.., |id| needed.contains(id.as_str())));
        }
        spared
    }
}

/// Why nothing is done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Made for other snapshots.
    Stale(String),
    /// Never done, whoever asks.
    Refused(String),
}

/// Compares an order with the verified snapshots of its backup and with the dates of
/// those that are hidden. What was done already is left out, so that an order that was
/// cut off can be given again.
pub(super) fn check(
    order: &RetentionOrder,
    ours: &[SnapshotId],
    marks: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Result<Task, Fault> {
    let there: BTreeSet<&str> = ours.iter().map(SnapshotId::as_str).collect();
    let expected: BTreeSet<&str> = order.expected.iter().map(SnapshotId::as_str).collect();
    let named = |ids: &'_ [SnapshotId]| -> BTreeSet<String> {
        ids.iter().map(ToString::to_string).collect()
    };
    let doomed = named(&order.delete);
    if let Some(new) = there.difference(&expected).next() {
        return Err(Fault::Stale(format!("snapshot {new} is not in it")));
    }
    if let Some(gone) = expected.difference(&there).find(|id| !doomed.contains(**id)) {
        return Err(Fault::Stale(format!("snapshot {gone} is gone")));
    }
    for ids in [&order.quarantine, &order.rescue, &order.delete] {
        if let Some(id) = ids.iter().find(|id| !expected.contains(id.as_str())) {
            return Err(Fault::Refused(format!("snapshot {id} is none of {}", order.backup)));
        }
    }
    let (hidden, shown) = (named(&order.quarantine), named(&order.rescue));
    let twice = hidden.intersection(&shown).chain(hidden.intersection(&doomed)).next();
    if let Some(id) = twice.or_else(|| shown.intersection(&doomed).next()) {
        return Err(Fault::Refused(format!("snapshot {id} stands in the plan twice")));
    }
    let is_hidden = |id: &SnapshotId| marks.contains_key(id.as_str());
    let pending = |ids: &[SnapshotId], wanted: bool| -> Vec<SnapshotId> {
        ids.iter().filter(|id| is_hidden(id) == wanted).cloned().collect()
    };
    let task = Task {
        hide: pending(&order.quarantine, false),
        show: pending(&order.rescue, true),
        delete: order.delete.iter().filter(|id| there.contains(id.as_str())).cloned().collect(),
    };
    for id in &task.delete {
        let Some(since) = marks.get(id.as_str()) else {
            return Err(Fault::Refused(format!("snapshot {id} is not in quarantine")));
        };
        let age = Duration::try_from(now.duration_since(*since)).unwrap_or_default();
        if age < order.quarantine_min {
            return Err(Fault::Refused(format!(
                "snapshot {id} is in quarantine since {since}, which is not long enough"
            )));
        }
    }
    let floor = order.floor.max(1);
    let left = ours
        .iter()
        .filter(|id| !is_hidden(id) || task.show.contains(id))
        .filter(|id| !task.hide.contains(id))
        .count();
    if left < floor && !(task.hide.is_empty() && task.delete.is_empty()) {
        return Err(Fault::Refused(format!(
            "{left} snapshots of {} would be left, at least {floor} must be",
            order.backup
        )));
    }
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::OrderMode;

    fn id(number: u8) -> SnapshotId {
        format!("{number:02x}").repeat(32).parse().expect("an id")
    }

    fn ids(numbers: &[u8]) -> Vec<SnapshotId> {
        numbers.iter().copied().map(id).collect()
    }

    fn at(day: u32) -> Timestamp {
        format!("2026-11-{day:02}T03:00:00Z").parse().expect("a time")
    }

    /// Five snapshots of which 1 is hidden since the 1st and 2 since the 9th.
    fn checked(change: impl FnOnce(&mut RetentionOrder)) -> Result<Task, Fault> {
        let mut order = RetentionOrder {
            backup: "wiki".parse().expect("a name"),
            expected: ids(&[1, 2, 3, 4, 5]),
            quarantine: Vec::new(),
            rescue: Vec::new(),
            delete: Vec::new(),
            quarantine_min: Duration::from_secs(7 * 24 * 3600),
            floor: 2,
            mode: OrderMode::Apply,
        };
        change(&mut order);
        let marks = [(id(1), at(1)), (id(2), at(9))].map(|(id, at)| (id.to_string(), at));
        check(&order, &ids(&[1, 2, 3, 4, 5]), &marks.into(), at(10))
    }

    fn refusal(change: impl FnOnce(&mut RetentionOrder)) -> String {
        match checked(change) {
            Err(Fault::Refused(why)) => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn what_others_build_on_stays_as_long_as_they_do() {
        let run = |number: u8| RunId::from(uuid::Uuid::from_u128(number.into()));
        let chained = |number: u8, needs: &[u8]| Chained {
            id: id(number),
            run: run(number),
            needs: needs.iter().copied().map(run).collect(),
        };
        let ours = [chained(1, &[]), chained(2, &[1]), chained(3, &[1, 2]), chained(4, &[])];
        let task = |hide: &[u8], delete: &[u8]| Task {
            hide: ids(hide),
            show: Vec::new(),
            delete: ids(delete),
        };
        let mut whole = task(&[1, 2, 3], &[]);
        assert_eq!(whole.spare_needed(&ours, &BTreeMap::new()), []);
        assert_eq!(whole.hide, ids(&[1, 2, 3]));
        let mut half = task(&[1, 2], &[]);
        assert_eq!(half.spare_needed(&ours, &BTreeMap::new()), ids(&[1, 2]));
        assert_eq!(half.hide, []);
        // Hidden is not gone: what it needs is not deleted either.
        let marks = [1, 2, 3].map(|number| (id(number).to_string(), at(1))).into();
        let mut doomed = task(&[], &[1, 2]);
        assert_eq!(doomed.spare_needed(&ours, &marks), ids(&[1, 2]));
        let mut all = task(&[], &[1, 2, 3]);
        assert_eq!(all.spare_needed(&ours, &marks), []);
        assert_eq!(all.delete, ids(&[1, 2, 3]));
    }

    #[test]
    fn an_order_within_its_bounds_is_carried_out() {
        let task = checked(|order| {
            order.quarantine = ids(&[3]);
            order.rescue = ids(&[2]);
            order.delete = ids(&[1]);
        });
        let (hide, show, delete) = (ids(&[3]), ids(&[2]), ids(&[1]));
        assert_eq!(task, Ok(Task { hide, show, delete }));
    }

    #[test]
    fn an_order_given_again_has_only_left_what_was_not_done() {
        let task = checked(|order| {
            order.expected.push(id(9));
            order.delete = ids(&[9]);
            order.quarantine = ids(&[1]);
            order.rescue = ids(&[4]);
        });
        assert_eq!(task, Ok(Task::default()));
    }

    #[test]
    fn pitfall_21_an_order_for_other_snapshots_is_stale() {
        let missing = checked(|order| drop(order.expected.pop()));
        assert!(matches!(missing, Err(Fault::Stale(_))), "{missing:?}");
        let gone = checked(|order| order.expected.push(id(9)));
        assert!(matches!(gone, Err(Fault::Stale(_))), "{gone:?}");
    }

    #[test]
    fn pitfall_21_nothing_goes_below_the_floor_whatever_is_asked() {
        let why = refusal(|order| order.quarantine = ids(&[3, 4]));
        assert!(why.contains("1 snapshots of wiki would be left, at least 2"), "{why}");
        let all = refusal(|order| {
            order.quarantine = ids(&[3, 4, 5]);
            order.floor = 0;
        });
        assert!(all.contains("at least 1 must be"), "{all}");
        assert!(checked(|order| order.quarantine = ids(&[3])).is_ok());
    }

    #[test]
    fn pitfall_21_only_what_was_long_enough_in_quarantine_is_deleted() {
        assert!(refusal(|order| order.delete = ids(&[2])).contains("not long enough"));
        assert!(refusal(|order| order.delete = ids(&[3])).contains("not in quarantine"));
        assert!(refusal(|order| order.delete = ids(&[9])).contains("is none of wiki"));
        let twice = refusal(|order| (order.delete, order.rescue) = (ids(&[1]), ids(&[1])));
        assert!(twice.contains("twice"), "{twice}");
    }
}
