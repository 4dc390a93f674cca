//! The control plane: fleet, schedules, jobs, gateway, dashboard, CA and audit.
