//! What the controller has in its protocol and not in its code yet: the guard answers from this list,
//! `GetNode` shows it, and the test below reads it.

use homelab_rpc::not_built::NotBuilt;

macro_rules! not_built {
    ($($service:literal { $($method:literal: $instead:literal,)+ })+) => {
        /// Every method that is not built yet, with what to do meanwhile.
        pub const NOT_BUILT: &[NotBuilt] = &[$($(
            NotBuilt::new(concat!("/homelab.controller.v1.", $service, "/", $method), $instead),
        )+)+];
    };
}

not_built! {
    "PhaseService" {
        "ListPhases": "read the plan in the Git repository",
        "GetPhase": "read the plan in the Git repository",
        "CheckPhase": "run single checks with FleetService.RunHostChecks",
        "OpenGate": "keep the gate in the plan in the Git repository",
        "CloseGate": "keep the gate in the plan in the Git repository",
        "WaiveRequirement": "keep the waiver in the plan in the Git repository",
        "ListEvidence": "run single checks with FleetService.RunHostChecks",
    }
    "OperationService" {
        "ListOperations": "follow the runbook in the Git repository",
        "PlanOperation": "follow the runbook in the Git repository",
        "ApplyOperation": "follow the runbook in the Git repository",
        "GetOperation": "follow the runbook in the Git repository",
        "WatchOperation": "follow the runbook in the Git repository",
        "ConfirmStep": "follow the runbook in the Git repository",
        "ApproveStep": "follow the runbook in the Git repository",
        "AbortOperation": "follow the runbook in the Git repository",
    }
    "SiteService" {
        "DiffSite": "check the file with SiteService.CheckSite and compare it with `git diff`",
        "ApplySite": "put the file in its place on the controller and send SIGHUP",
        "RenderDocument": "write the document by hand",
    }
}

#[cfg(test)]
mod tests {
    use homelab_rpc::not_built::strangers;

    use super::*;

    #[test]
    fn every_row_names_a_method_of_the_protocol_once() {
        assert_eq!(strangers(NOT_BUILT), Vec::<&str>::new());
        let mut names: Vec<_> = NOT_BUILT.iter().map(|row| row.method).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NOT_BUILT.len());
    }
}
