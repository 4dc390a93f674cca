//! The methods that labctl calls, by their paths on the wire.

macro_rules! paths {
    ($($service:literal { $($name:ident = $method:literal),* $(,)? })*) => {
        $($(
            #[doc = concat!("`", $service, "/", $method, "`.")]
            pub const $name: &str = concat!("/homelab.controller.v1.", $service, "/", $method);
        )*)*

        #[cfg(test)]
        const ALL: &[&str] = &[$($($name),*),*];
    };
}

paths! {
    "EnrolmentService" {
        CREATE_TOKEN = "CreateToken",
        RENEW_CERTIFICATE = "RenewCertificate",
        ISSUE_USER_CERTIFICATE = "IssueUserCertificate",
        LIST_CERTIFICATES = "ListCertificates",
        REVOKE_CERTIFICATE = "RevokeCertificate",
        CREATE_LOGIN_LINK = "CreateLoginLink",
    }
    "FleetService" {
        GET_STATUS = "GetStatus",
        LIST_HOSTS = "ListHosts",
        GET_HOST = "GetHost",
        DRAIN_HOST = "DrainHost",
    }
    "BackupScheduleService" {
        LIST_SCHEDULES = "ListSchedules",
        PAUSE_SCHEDULE = "PauseSchedule",
        RESUME_SCHEDULE = "ResumeSchedule",
        START_BACKUP = "StartBackup",
        START_DRILL = "StartDrill",
        LIST_RUNS = "ListRuns",
        WATCH_RUN = "WatchRun",
        GET_RISK = "GetRisk",
        LIST_BACKUP_SNAPSHOTS = "ListBackupSnapshots",
        VERIFY_BACKUP = "VerifyBackup",
        RESTORE_BACKUP = "RestoreBackup",
        COPY_BACKUP = "CopyBackup",
        PRUNE_BACKUP = "PruneBackup",
        LIST_BACKUP_REPOSITORIES = "ListBackupRepositories",
        CANCEL_RUN = "CancelRun",
        LIST_MAINTENANCE_WINDOWS = "ListMaintenanceWindows",
        PLAN_BACKUP_RETENTION = "PlanBackupRetention",
        APPLY_BACKUP_RETENTION = "ApplyBackupRetention",
        ACKNOWLEDGE_BRAKE = "AcknowledgeBrake",
        LIST_BACKUP_COPIES = "ListBackupCopies",
        LIST_DRILL_EVIDENCE = "ListDrillEvidence",
        VERIFY_DRILL_EVIDENCE = "VerifyDrillEvidence",
        EXPLAIN_ACCESS = "ExplainAccess",
        PUSH_BACK_GIT = "PushBackGit",
        GET_RECOVERY_KIT = "GetRecoveryKit",
        RECORD_KIT_PROOF = "RecordKitProof",
        GET_STRATEGY = "GetStrategy",
    }
    "JobService" {
        SUBMIT_JOB = "SubmitJob",
        GET_JOB = "GetJob",
        LIST_JOBS = "ListJobs",
        WATCH_JOB = "WatchJob",
        CANCEL_JOB = "CancelJob",
        RETRY_JOB = "RetryJob",
        EXPLAIN_JOB = "ExplainJob",
        PLAN_JOBS = "PlanJobs",
        LIST_TIER_MODELS = "ListTierModels",
    }
    "PowerService" {
        LIST_POWER = "ListPower",
        WAKE_HOST = "WakeHost",
        SLEEP_HOST = "SleepHost",
        HOLD_POWER = "HoldPower",
        GET_POWER_REPORT = "GetPowerReport",
    }
    "GoldService" {
        GET_BUDGETS = "GetBudgets",
        CHECK_TEXT = "CheckText",
    }
    "ContextService" {
        LIST_CONTEXT_SOURCES = "ListContextSources",
        SEARCH_CONTEXT = "SearchContext",
        REFRESH_CONTEXT = "RefreshContext",
    }
    "RunbookService" {
        PROPOSE_RUNBOOK = "ProposeRunbook",
        LIST_RUNBOOKS = "ListRunbooks",
        GET_RUNBOOK = "GetRunbook",
        DECIDE_RUNBOOK = "DecideRunbook",
    }
    "AuditService" {
        LIST_AUDIT_ENTRIES = "ListAuditEntries",
        VERIFY_AUDIT = "VerifyAudit",
    }
    "SiteService" {
        LIST_TASKS = "ListTasks",
    }
}

#[cfg(test)]
mod tests {
    use homelab_proto::access::{METHODS, method};

    use super::*;

    #[test]
    fn every_path_is_in_the_protocol() {
        for path in ALL {
            assert!(method(path).is_some(), "{path}");
        }
    }

    #[test]
    fn every_method_on_backups_is_within_reach_of_a_verb() {
        let service = "/homelab.controller.v1.BackupScheduleService/";
        for method in METHODS.iter().filter(|method| method.path.starts_with(service)) {
            assert!(ALL.contains(&method.path), "no verb calls {}", method.path);
        }
    }
}
